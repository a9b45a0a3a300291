"""Figures of ``fairseq-ffn analyze geometry``, from its record."""

from __future__ import annotations

from typing import Any, Dict, List

from fairseq_ffn.reporting.panels import defined, layer_axis, one_legend, one_scale, panel_size
from fairseq_ffn.reporting.plots import COLOURS, MARKERS, Figure

BRANCHES = ("self-attention", "cross-attention", "FFN")


def figures(record: Dict[str, Any]) -> List[Figure]:
    """Cosine around the FFN, lengths of branches, isotropy along the layers, parallel defect."""
    models = record["geometry"]
    found: List[Figure] = []
    for stack in ("encoder", "decoder"):
        found.append(_around_ffn(models, stack))
        found.append(_ratios(models, stack))
        found.append(_outputs(models, stack))
    found.append(_defects(models))
    return found


def _around_ffn(models: Dict[str, Any], stack: str) -> Figure:
    def draw(panels: List[Any]) -> None:
        for axes, (name, model) in zip(panels, models.items()):
            for index, layer in enumerate(model["layers"][stack]):
                cosines = {
                    point["point"]: point["within_cosine"]["all"] for point in layer["points"]
                }
                around = layer["around_ffn"]
                if around is None:
                    axes.plot(
                        [index],
                        [defined(cosines["y"])],
                        marker="x",
                        linestyle="none",
                        color="#777777",
                        label="output of a layer without FFN",
                    )
                    continue
                without, with_ffn = (defined(cosines[around[key]]) for key in ("without", "with"))
                axes.annotate(
                    "",
                    (index, with_ffn),
                    (index, without),
                    arrowprops={"arrowstyle": "->", "color": "#777777"},
                )
                for value, colour, marker, label in (
                    (without, COLOURS[1], "o", "without the FFN's vector"),
                    (with_ffn, COLOURS[0], "s", "with it"),
                ):
                    axes.plot(
                        [index],
                        [value],
                        marker=marker,
                        linestyle="none",
                        color=colour,
                        label=label,
                    )
            layer_axis(axes, name, len(model["layers"][stack]))
        one_scale(panels)
        panels[0].set_ylabel("cosine within sentences")
        one_legend(panels)

    return Figure(
        f"around_ffn_{stack}",
        f"{stack}: does the FFN make tokens less alike?",
        "Mean cosine of two tokens of a sentence before and after the FFN's vector is added (our "
        "definition). Down is more isotropic, as PAF assumes.",
        draw,
        size=panel_size(len(models)),
        panels=(1, len(models)),
    )


def _ratios(models: Dict[str, Any], stack: str) -> Figure:
    def draw(panels: List[Any]) -> None:
        for axes, (name, model) in zip(panels, models.items()):
            layers = model["layers"][stack]
            for number, kind in enumerate(BRANCHES):
                present = [index for index, layer in enumerate(layers) if kind in layer["branches"]]
                ratios = [layers[index]["branches"][kind]["ratio"] for index in present]
                if not present:
                    continue
                axes.errorbar(
                    [index + 0.06 * (number - 1) for index in present],
                    [defined(ratio["median"]) for ratio in ratios],
                    yerr=[
                        [0] * len(ratios),
                        [defined(ratio["p90"]) - defined(ratio["median"]) for ratio in ratios],
                    ],
                    capsize=2,
                    color=COLOURS[number],
                    marker=MARKERS[number],
                    label=kind,
                )
            axes.axhline(1, color="#777777", linewidth=1)
            layer_axis(axes, name, len(layers))
        one_scale(panels, bottom=0)
        panels[0].set_ylabel("|branch| / |stream|")
        one_legend(panels)

    return Figure(
        f"branch_ratios_{stack}",
        f"{stack}: how much does each branch add to the stream?",
        "Median over tokens, bars up to the 90th percentile (our definition). PAF assumes that "
        "self-attention lies well below 1 (line).",
        draw,
        size=panel_size(len(models)),
        panels=(1, len(models)),
    )


def _outputs(models: Dict[str, Any], stack: str) -> Figure:
    measures = (
        ("cosine within sentences", lambda point: point["within_cosine"]["all"]),
        ("cosine across sentences", lambda point: point["across_cosine"]["all"]),
        ("IsoScore", lambda point: point["iso_score"]),
    )

    def draw(panels: List[Any]) -> None:
        for axes, (title, measure) in zip(panels, measures):
            for index, (name, model) in enumerate(models.items()):
                layers = model["layers"][stack]
                values = [measure(layers[0]["points"][0])]
                values += [measure(layer["points"][-1]) for layer in layers]
                axes.plot(
                    range(len(values)),
                    [defined(value) for value in values],
                    color=COLOURS[index % len(COLOURS)],
                    marker=MARKERS[index % len(MARKERS)],
                    label=name,
                )
            axes.set_title(title, fontsize=10)
            axes.set_xticks(range(len(values)), ["in", *map(str, range(len(values) - 1))])
            axes.set_xlabel("output of layer")
        one_legend(panels)

    return Figure(
        f"isotropy_{stack}",
        f"{stack}: isotropy along the layers",
        "Cosines: low is isotropic (within sentences: our definition); IsoScore: high is. 'in': "
        "what the first layer reads.",
        draw,
        size=(9.0, 3.4),
        panels=(1, 3),
    )


def _defects(models: Dict[str, Any]) -> Figure:
    stacks = ("encoder", "decoder")

    def draw(panels: List[Any]) -> None:
        for axes, stack in zip(panels, stacks):
            most = 0
            for index, (name, model) in enumerate(models.items()):
                layers = model["layers"][stack]
                present = [
                    number
                    for number, layer in enumerate(layers)
                    if layer["parallel_defect"] is not None
                ]
                most = max(most, len(layers))
                if not present:
                    continue
                axes.plot(
                    present,
                    [defined(layers[number]["parallel_defect"]["median"]) for number in present],
                    color=COLOURS[index % len(COLOURS)],
                    marker=MARKERS[index % len(MARKERS)],
                    label=name,
                )
            axes.axhline(1, color="#777777", linewidth=1)
            layer_axis(axes, stack, most)
        one_scale(panels, bottom=0)
        panels[0].set_ylabel("|FFN(x+a) - FFN(x)| / |FFN(x+a)|")
        one_legend(panels)

    return Figure(
        "parallel_defect",
        "Does the FFN need to see attention's result first?",
        "Median over tokens (our definition): 0, attention makes no difference to the FFN; 1 "
        "(line), the difference is as large as the FFN's output.",
        draw,
        size=(7.6, 3.6),
        panels=(1, 2),
    )
