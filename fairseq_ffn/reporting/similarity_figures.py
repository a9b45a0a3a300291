"""Figures of ``fairseq-ffn analyze similarity``, from its record."""

from __future__ import annotations

import math
from typing import Any, Dict, List, Sequence

from fairseq_ffn.reporting.panels import COLOUR_MAP, defined, file_name
from fairseq_ffn.reporting.plots import COLOURS, MARKERS, Figure

NAMES = {"cka": "CKA", "lns": "LNS"}
SHORT = {"self-attention": "self", "cross-attention": "cross"}


def figures(record: Dict[str, Any]) -> List[Figure]:
    """Heat maps within and between models; the same module in two models; against seeds."""
    found: List[Figure] = []
    for measure in NAMES:
        for model, stacks in record["within"].items():
            for stack, pairs in stacks.items():
                found.append(_within(record, model, stack, measure, pairs))
        for entry in record["between"]:
            for stack in ("encoder", "decoder"):
                found.append(_between(record, entry, stack, measure))
    if record["between"]:
        for stack in ("encoder", "decoder"):
            for measure in NAMES:
                found.append(_same_module(record, stack, measure))
    if any("normalised" in entry["encoder"] for entry in record["between"]):
        found.append(_normalised(record))
    return found


def _whole(entry: Dict[str, Any], stack: str) -> bool:
    return entry[stack]["compared"] == "whole layers"


def _label(component: str) -> str:
    index, kind = component.split(" ", 1)
    return f"{index} {SHORT.get(kind, kind)}"


def _key(where: str, measure: str, model: str, stack: str) -> str:
    middle = "" if measure == "cka" else f"{measure}_"
    return f"{where}_{middle}{file_name(model)}_{stack}"


def _name(record: Dict[str, Any], measure: str) -> str:
    return f"CKA ({record['cka']})" if measure == "cka" else NAMES[measure]


def _within(
    record: Dict[str, Any], model: str, stack: str, measure: str, pairs: Dict[str, Any]
) -> Figure:
    if measure == "cka":
        near = pairs["neighbours"]
        caption = (
            f"A module's mean CKA with the next is {near['immediate']:.2f}, with the next but one "
            f"{near['second']:.2f}; higher for the latter is a checkerboard (our definition)."
        )
    else:
        caption = (
            f"Overlap of the {record['neighbours']} nearest sentences; unrelated modules have "
            f"{record['lns_chance']:.3f}."
        )
    title = f"{model}, {stack}: {_name(record, measure)} of its modules"
    return _heat_map(_key("within", measure, model, stack), title, caption, pairs, measure, "", "")


def _between(record: Dict[str, Any], entry: Dict[str, Any], stack: str, measure: str) -> Figure:
    model, baseline = entry["model"], entry["baseline"]
    whole = " (whole layers, since the modules differ)" if _whole(entry, stack) else ""
    return _heat_map(
        _key("between", measure, model, stack),
        f"{stack}: {_name(record, measure)} of {model} with {baseline}",
        f"Modules of one model against those of the other{whole}.",
        entry[stack]["all_pairs"],
        measure,
        model,
        baseline,
    )


def _heat_map(
    key: str,
    title: str,
    caption: str,
    pairs: Dict[str, Any],
    measure: str,
    across: str,
    down: str,
) -> Figure:
    rows = [_label(name) for name in pairs["rows"]]
    columns = [_label(name) for name in pairs["columns"]]

    def draw(axes: Any) -> None:
        values = [[math.nan if v is None else v for v in row] for row in pairs[measure]]
        lowest = min((v for row in values for v in row if not math.isnan(v)), default=0)
        image = axes.imshow(
            values, cmap=COLOUR_MAP, vmin=min(0.5, math.floor(lowest * 10) / 10), vmax=1
        )
        axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=9)
        axes.set_yticks(range(len(rows)), rows, fontsize=9)
        axes.set_xlabel(across)
        axes.set_ylabel(down)
        axes.figure.colorbar(image, ax=axes, shrink=0.85)

    side = 3.2 + 0.16 * max(len(rows), len(columns))
    return Figure(key, title, caption, draw, size=(side + 0.9, side), grid=False)


def _same_module(record: Dict[str, Any], stack: str, measure: str) -> Figure:
    """One line a model, with intervals; chance below."""

    def draw(axes: Any) -> None:
        # modules and whole layers share the axis: a layer stands at its last module
        places = _places(record["between"], stack)
        ticks: Dict[float, str] = {}
        for index, entry in enumerate(record["between"]):
            same = entry[stack]["same_module"]
            values = same[measure]["by_component"]
            where = [places[name] for name in same["components"]]
            ticks.update(zip(where, (_label(name) for name in same["components"])))
            shift = 0.08 * (index - (len(record["between"]) - 1) / 2)
            axes.errorbar(
                [place + shift for place in where],
                [defined(one["value"]) for one in values],
                yerr=[
                    [_gap(one["value"], one["low"]) for one in values],
                    [_gap(one["high"], one["value"]) for one in values],
                ],
                capsize=2,
                linewidth=1.2,
                markersize=5,
                label=entry["model"] + (" (whole layers)" if _whole(entry, stack) else ""),
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                linestyle="--" if entry["is_seed"] else "-",
            )
        first = record["between"][0][stack]
        floor = first["untrained"][measure]
        axes.plot(
            [places[name] for name in first["untrained"]["components"]],
            [defined(one["value"]) for one in floor["by_component"]],
            color="#777777",
            linestyle=":",
            label="untrained",
        )
        axes.axhline(
            record["lns_chance"] if measure == "lns" else _unrelated(record, first),
            color="#777777",
            linewidth=1,
            label="chance",
        )
        axes.set_xticks(list(ticks), list(ticks.values()), rotation=90, fontsize=9)
        axes.set_ylabel(NAMES[measure] + (f" ({record['cka']})" if measure == "cka" else ""))
        axes.set_ylim(min(-0.02, axes.get_ylim()[0]), 1.02)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))

    return Figure(
        f"same_module_{measure}_{stack}",
        f"{stack}: {NAMES[measure]} with the same module of the baseline",
        "Bars: 95% intervals over sentences. Dashed: other seeds of the baseline. Dotted: an "
        "untrained model. Grey line: unrelated data.",
        draw,
        size=(7.6, 4.0),
    )


def _unrelated(record: Dict[str, Any], entry: Dict[str, Any]) -> float:
    """CKA of unrelated data: 0; of the biased form, what sentences that are permuted give."""
    if record["cka"] == "debiased":
        return 0.0
    return defined(entry["permuted_sentences"]["cka"]["mean"]["value"])


def _places(between: Sequence[Dict[str, Any]], stack: str) -> Dict[str, float]:
    """Where on the axis each component stands, whole layers at their layer's last module."""
    longest: List[str] = []
    for entry in between:
        names = entry[stack]["same_module"]["components"]
        if not _whole(entry, stack) and len(names) > len(longest):
            longest = names
    if not longest:
        longest = between[0][stack]["same_module"]["components"]
    places = {name: float(index) for index, name in enumerate(longest)}
    for name, place in list(places.items()):
        places[f"{name.split(' ', 1)[0]} layer"] = place
    for entry in between:
        for name in entry[stack]["same_module"]["components"]:
            places.setdefault(name, float(len(places)))
    return places


def _normalised(record: Dict[str, Any]) -> Figure:
    entries = [entry for entry in record["between"] if "normalised" in entry["encoder"]]

    def draw(axes: Any) -> None:
        for index, entry in enumerate(entries):
            for group, (stack, measure) in enumerate(_groups()):
                value = entry[stack]["normalised"][measure]
                axes.errorbar(
                    [group + 0.12 * (index - (len(entries) - 1) / 2)],
                    [100 * defined(value["value"])],
                    yerr=[
                        [100 * _gap(value["value"], value["low"])],
                        [100 * _gap(value["high"], value["value"])],
                    ],
                    capsize=3,
                    color=COLOURS[index % len(COLOURS)],
                    marker=MARKERS[index % len(MARKERS)],
                    linestyle="none",
                    label=entry["model"] if group == 0 else None,
                )
        axes.axhline(100, color="#777777", linewidth=1)
        axes.set_xticks(
            range(len(_groups())), [f"{stack}\n{NAMES[measure]}" for stack, measure in _groups()]
        )
        axes.set_ylabel("% of the similarity of two seeds")
        axes.legend(frameon=False, fontsize=9)

    return Figure(
        "normalised",
        "Similarity to the baseline, relative to other seeds of it",
        "100% (line): as alike as baselines that differ in their seed only. 95% intervals over "
        "sentences.",
        draw,
        size=(6.4, 4.0),
    )


def _groups() -> List[tuple]:
    return [(stack, measure) for stack in ("encoder", "decoder") for measure in NAMES]


def _gap(high: Any, low: Any) -> float:
    # an interval of resamples may leave the value outside by a hair
    return max(0.0, defined(high) - defined(low)) if high is not None and low is not None else 0.0
