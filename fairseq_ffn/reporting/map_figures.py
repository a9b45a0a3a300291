"""Figures of ``fairseq-ffn analyze attention-maps``, from its record."""

from __future__ import annotations

import math
from typing import Any, Dict, List, Tuple

from fairseq_ffn.reporting.panels import (
    COLOUR_MAP,
    defined,
    file_name,
    layer_axis,
    one_legend,
    one_scale,
    panel_size,
)
from fairseq_ffn.reporting.plots import COLOURS, MARKERS, Figure

#: lines of the figures of changes
COMPONENTS = ("attention", "FF", "RES", "LN", "FF block")
#: scopes left out of a sentence's figure: other maps say the same or prepare them
_NOT_DRAWN = ("ATTNRES-N", "SATTNRES-N")
#: Kobayashi et al. cut post-norm encoders
OURS = "Decoders, pre-norm and parallel layers: where a layer is cut is our definition."
#: a longer sentence's symbols couldn't be read
LONGEST = 40


def figures(record: Dict[str, Any], map_figures: int = 1) -> List[Figure]:
    """Changes, mixing, shares, amplified pairs; maps of the first ``map_figures`` sentences."""
    models = record["attention_maps"]
    found: List[Figure] = []
    for stack in ("encoder", "decoder"):
        for key, title in (("all", ""), ("without_diagonal", ", without the diagonal")):
            found.append(_changes(models, stack, key, title))
        found.append(_mixing(models, stack))
    found.append(_source_shares(models))
    if any(_pair_kinds(models, stack) for stack in ("encoder", "decoder")):
        found.append(_amplified(models))
    for name, model in models.items():
        for entry in model["maps"][:map_figures]:
            for stack in ("encoder", "decoder"):
                for index in range(len(entry[stack])):
                    found.append(_sentence(name, entry, stack, index))
    return found


def _changes(models: Dict[str, Any], stack: str, key: str, title: str) -> Figure:
    def draw(panels: List[Any]) -> None:
        for axes, (name, model) in zip(panels, models.items()):
            layers = model["layers"][stack]
            for number, component in enumerate(COMPONENTS):
                values = [defined(layer["change"][component][key]["mean"]) for layer in layers]
                if all(math.isnan(value) for value in values):
                    continue
                axes.plot(
                    range(len(values)),
                    values,
                    color=COLOURS[number],
                    marker=MARKERS[number],
                    linestyle="--" if component == "FF block" else "-",
                    label="FF, RES and LN together" if component == "FF block" else component,
                )
            layer_axis(axes, name, len(layers))
        one_scale(panels, bottom=0)
        panels[0].set_ylabel("1 - ρ")
        one_legend(panels)

    return Figure(
        f"change_{stack}" + ("" if key == "all" else "_without_diagonal"),
        f"{stack}: which component changes the map{title}?",
        "1 - Spearman's correlation of the maps before and after a component, mean over sentences. "
        f"0: no change. {OURS}",
        draw,
        size=panel_size(len(models)),
        panels=(1, len(models)),
    )


def _mixing(models: Dict[str, Any], stack: str) -> Figure:
    def draw(panels: List[Any]) -> None:
        for axes, (name, model) in zip(panels, models.items()):
            layers = model["layers"][stack]
            for number, (label, scope) in enumerate(
                (
                    ("attention alone (ATTN-N)", lambda names: "ATTN-N"),
                    ("with residual (ATB)", lambda names: "ATB"),
                    ("whole layer", lambda names: names[-1]),
                )
            ):
                axes.plot(
                    range(len(layers)),
                    [
                        100
                        * defined(layer["mixing_ratio"][scope(list(layer["mixing_ratio"]))]["mean"])
                        for layer in layers
                    ],
                    color=COLOURS[number],
                    marker=MARKERS[number],
                    label=label,
                )
            layer_axis(axes, name, len(layers))
            axes.set_ylim(0, 102)
        panels[0].set_ylabel("mixing ratio (%)")
        one_legend(panels)

    return Figure(
        f"mixing_{stack}",
        f"{stack}: how much of a token comes from others?",
        "Length of the sum of all other tokens' vectors, relative to that plus the token's own. "
        f"{OURS}",
        draw,
        size=panel_size(len(models)),
        panels=(1, len(models)),
    )


def _source_shares(models: Dict[str, Any]) -> Figure:
    parts = (("own", "the token itself"), ("targets", "other targets"), ("sources", "source"))

    def draw(panels: List[Any]) -> None:
        for axes, (name, model) in zip(panels, models.items()):
            layers = model["layers"]["decoder"]
            for number, (key, label) in enumerate(parts):
                axes.plot(
                    range(len(layers)),
                    [100 * defined(list(layer["shares"].values())[-1][key]) for layer in layers],
                    color=COLOURS[number],
                    marker=MARKERS[number],
                    label=label,
                )
            layer_axis(axes, name, len(layers))
            axes.set_ylim(0, 102)
        panels[0].set_ylabel("share of a layer's output (%)")
        one_legend(panels)

    return Figure(
        "shares_decoder",
        "decoder: what is a layer's output made of?",
        "Lengths of the three sums of vectors, relative to their sum (our definition).",
        draw,
        size=panel_size(len(models)),
        panels=(1, len(models)),
    )


def _pair_kinds(models: Dict[str, Any], stack: str) -> Dict[str, List[Tuple[int, float, float]]]:
    """Model -> (layer, share of amplified pairs within a word, share of all pairs)."""
    found = {}
    for name, model in models.items():
        rows = []
        for index, layer in enumerate(model["layers"][stack]):
            kind = layer["ff_amp"]["kinds"].get("same word")
            if kind is not None and kind["top"] is not None:
                rows.append((index, kind["top"], kind["all"]))
        if rows:
            found[name] = rows
    return found


def _amplified(models: Dict[str, Any]) -> Figure:
    stacks = ("encoder", "decoder")

    def draw(panels: List[Any]) -> None:
        for axes, stack in zip(panels, stacks):
            kinds = _pair_kinds(models, stack)
            base = None
            for name, rows in kinds.items():
                index = list(models).index(name)
                axes.plot(
                    [row[0] for row in rows],
                    [100 * row[1] for row in rows],
                    color=COLOURS[index % len(COLOURS)],
                    marker=MARKERS[index % len(MARKERS)],
                    label=name,
                )
                base = rows[0][2]
            if base is not None:
                axes.axhline(100 * base, color="#777777", linestyle=":", label="all pairs")
            most = max(len(model["layers"][stack]) for model in models.values())
            layer_axis(axes, stack, most)
        one_scale(panels, bottom=0)
        panels[0].set_ylabel("pieces of one word (%)")
        one_legend(panels)

    return Figure(
        "amplified_pairs",
        "Does the FFN bind the pieces of a word?",
        "Share of pairs of pieces of one word among the five pairs of a sentence that the FFN "
        "amplifies most (rows normalised first: our definition); dotted: among all pairs.",
        draw,
        size=(7.6, 3.6),
        panels=(1, 2),
    )


def _sentence(name: str, entry: Dict[str, Any], stack: str, index: int) -> Figure:
    scopes = {key: cells for key, cells in entry[stack][index].items() if key not in _NOT_DRAWN}
    rows = entry["source"] if stack == "encoder" else entry["target"]
    columns = rows if stack == "encoder" else [*entry["target"], *entry["source"]]

    def draw(panels: List[Any]) -> None:
        readable = len(columns) <= LONGEST
        for number, (axes, (scope, cells)) in enumerate(zip(panels, scopes.items())):
            axes.imshow(cells, cmap=COLOUR_MAP, vmin=0, aspect="equal")
            axes.set_title(scope, fontsize=9)
            if readable:
                axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
            else:
                axes.set_xticks([])
            if number % across == 0 and len(rows) <= LONGEST:
                axes.set_yticks(range(len(rows)), rows, fontsize=7)
            else:
                axes.set_yticks([])
            if stack == "decoder":
                axes.axvline(len(rows) - 0.5, color="white", linewidth=1)
        for axes in panels[len(scopes) :]:
            axes.set_axis_off()

    across = min(4 if stack == "encoder" else 3, len(scopes))
    down = math.ceil(len(scopes) / across)
    cell = 0.17
    width = max(1.2, cell * len(columns)) + 0.25
    # room for symbols below and a title above each map
    height = max(1.0, cell * len(rows)) + 0.5 + 0.07 * max(map(len, columns))
    return Figure(
        f"map_{file_name(name)}_{entry['sentence']}_{stack}_{index}",
        f"{name}, sentence {entry['sentence']}, {stack} layer {index}",
        "Rows: output positions; columns: what they are made of"
        + (", targets left of the line, sources right of it" if stack == "decoder" else "")
        + f". Each row adds up to 1; bright is much. {OURS}",
        draw,
        size=(min(24.0, across * width + 1.0), min(24.0, down * height + 0.6)),
        panels=(down, across),
        grid=False,
    )
