"""Figures of a report, drawn by matplotlib: quality against cost, batch sizes, training curves."""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple
from xml.etree import ElementTree

from fairseq_ffn.errors import UserError
from fairseq_ffn.latency.comparison_record import model_names, ratio_of
from fairseq_ffn.reporting.results import Result
from fairseq_ffn.reporting.speeds import comparable, conditions

#: told apart by people with any colour vision, on light and on dark (Okabe and Ito)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A00")
MARKERS = "osD^vPX*"
DASHES = ("-", "--", ":", "-.")
#: stands for the colour of the text, which the page decides
_INK = "#010203"
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class _Point:
    """A run in a plot of quality against something.

    Args:
        place: of the run among all, which gives its colour and marker in every figure.
        name: of the run.
        value: what the quality costs, or the speed.
        quality: BLEU.
    """

    place: int
    name: str
    value: float
    quality: float


@dataclass(frozen=True)
class Figure:
    """One figure.

    Args:
        key: name of its files.
        title: heading on the page.
        caption: what it shows, for those who can't see it as well.
        draw: draws onto matplotlib axes; onto a list of axes, row by row, if there are panels.
        size: width and height in inches.
        panels: rows and columns of axes, or None for one that isn't in a list.
        grid: lines behind the data.
        heading: title and caption stand in the figure itself, for one that no page shows.
    """

    key: str
    title: str
    caption: str
    draw: Callable[[Any], None]
    size: Tuple[float, float] = (5.2, 3.5)
    panels: Optional[Tuple[int, int]] = None
    grid: bool = True
    heading: bool = False


def figures(results: Sequence[Result], sweep: Optional[Dict[str, Any]] = None) -> List[Figure]:
    """The figures for which the runs have values.

    Args:
        results: the runs; the first is the baseline.
        sweep: record of ``fairseq-ffn compare-latency --batch-sizes ... --output``.
    """
    axes = [
        ("speed", "tokens/s", lambda result: result.tokens_per_second, True),
        (
            "parameters",
            "parameters (millions)",
            lambda result: _millions(result.parameters["total"]),
            False,
        ),
        (
            "multiply_adds",
            "multiply-adds per source and target token (millions)",
            lambda result: _millions(result.multiply_adds),
            False,
        ),
    ]
    found = []
    for key, label, value, more in axes:
        if key == "speed" and not comparable([result.speed for result in results]):
            continue
        points = [
            _Point(place, result.name, value(result), result.scores["bleu"]["score"])
            for place, result in enumerate(results)
            if value(result) is not None
        ]
        if len(points) > 1:
            found.append(
                Figure(
                    f"bleu_{key}",
                    f"BLEU against {label}",
                    "No run lies both above and "
                    + ("right" if more else "left")
                    + " of the runs on the line (Pareto front).",
                    _pareto(points, label, more),
                )
            )
    if sweep is not None and len(model_names(sweep)) > 1:
        found.append(
            Figure(
                "batch_sizes",
                "Speed by batch size",
                "Tokens/s relative to the first model, with 95% intervals; above 1 is faster. "
                "Colours are models"
                + (", dashes source lengths" if len(_source_lengths(sweep)) > 1 else "")
                + f". Measured with {conditions(sweep)}.",
                _batch_sizes(sweep, [result.name for result in results]),
            )
        )
    for key, title in (("train", "Training loss"), ("valid", "Validation loss")):
        lines = [
            (place, result.name, getattr(result.curves, key))
            for place, result in enumerate(results)
            if result.curves is not None and len(getattr(result.curves, key)) > 1
        ]
        if lines:
            found.append(
                Figure(
                    f"loss_{key}",
                    f"{title} (bits per token)",
                    "From fairseq's logs"
                    + (", with label smoothing." if key == "train" else ", without smoothing."),
                    _lines(lines),
                )
            )
    return found


def save(figure: Figure, folder: Path) -> List[Path]:
    """Write PNG and SVG; returns their paths."""
    paths = []
    for suffix in ("png", "svg"):
        path = folder / f"{figure.key}.{suffix}"
        data = _render(figure, suffix, ink="#202020", background="white")
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(data)
        temporary.replace(path)
        paths.append(path)
    return paths


def inline_svg(figure: Figure) -> str:
    """SVG for inside a page: in the page's colour of text, without background and size.

    Its ids begin with the figure's key, since those of matplotlib are the same in every figure.
    """
    root = ElementTree.fromstring(_render(figure, "svg", ink=_INK, background="none"))
    for unwanted in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(unwanted)
    for size in ("width", "height"):  # come from the page
        del root.attrib[size]
    root.set("role", "img")
    root.set("aria-label", figure.title)
    for element in root.iter():
        for name, value in element.attrib.items():
            if name == "id":
                value = f"{figure.key}-{value}"
            elif name == f"{{{_XLINK}}}href":
                value = value.replace("#", f"#{figure.key}-", 1)
            value = value.replace("url(#", f"url(#{figure.key}-").replace(_INK, "currentColor")
            element.set(name, value)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _render(figure: Figure, suffix: str, ink: str, background: str) -> bytes:
    matplotlib = _matplotlib()
    settings = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": figure.key,  # the same input gives the same file; ids differ in a page
        "text.parse_math": False,  # a '$' in the name of a run is one
        "font.size": 11,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(settings):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Canvas

        canvas = Canvas(figsize=figure.size, layout="constrained")
        FigureCanvasAgg(canvas)
        canvas.patch.set_facecolor(background)
        rows, columns = figure.panels or (1, 1)
        panels = list(canvas.subplots(rows, columns, squeeze=False).flat)
        for axes in panels:
            axes.set_facecolor("none")
            if figure.grid:
                axes.grid(alpha=0.25, color=ink)
        figure.draw(panels[0] if figure.panels is None else panels)
        if figure.heading:
            canvas.suptitle(_heading(figure), fontsize=9)
        output = io.BytesIO()
        metadata = {"Date": None} if suffix == "svg" else {}
        canvas.savefig(output, format=suffix, dpi=150, metadata=metadata)
    return output.getvalue()


def _heading(figure: Figure) -> str:
    """Title and caption, in lines that fit the figure's width."""
    letters = int(13.5 * figure.size[0])
    return "\n".join(
        line for text in (figure.title, figure.caption) for line in textwrap.wrap(text, letters)
    )


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise UserError(
            "plots need matplotlib: pip install 'fairseq-ffn[report]', or use --no-plots"
        ) from error
    return matplotlib


def _millions(count: Optional[int]) -> Optional[float]:
    return None if count is None else count / 1e6


def pareto_front(points: Sequence[Tuple[float, float]], more_is_better: bool) -> List[int]:
    """Indices of the points that no other point beats in both, from the cheapest on.

    Args:
        points: ``(cost or speed, quality)``.
        more_is_better: of the first value.
    """
    sign = 1 if more_is_better else -1
    order = sorted(range(len(points)), key=lambda i: (-sign * points[i][0], -points[i][1]))
    front: List[int] = []
    best = float("-inf")
    for index in order:
        if points[index][1] > best:
            best = points[index][1]
            front.append(index)
    return front


def _pareto(points: Sequence[_Point], label: str, more: bool) -> Callable[[Any], None]:
    def draw(axes: Any) -> None:
        front = pareto_front([(point.value, point.quality) for point in points], more)
        axes.plot(
            [points[index].value for index in front],
            [points[index].quality for index in front],
            color="#888888",
            linewidth=1,
            zorder=1,
        )
        drawn = [
            axes.scatter([point.value], [point.quality], s=60, zorder=2, **_style(point.place))
            for point in points
        ]
        axes.margins(0.12)
        axes.set_xlabel(label)
        axes.set_ylabel("BLEU")
        _legend(axes, drawn, [point.name for point in points])

    return draw


def _batch_sizes(sweep: Dict[str, Any], runs: Sequence[str]) -> Callable[[Any], None]:
    """One line per model and source length; a model that is one of the runs has its colour."""

    def draw(axes: Any) -> None:
        names = model_names(sweep)
        lengths = _source_lengths(sweep)
        order = list(dict.fromkeys([*runs, *names]))
        axes.axhline(1.0, color="#888888", linewidth=1)
        drawn, labels = [], []
        for name in names[1:]:
            style = _style(order.index(name))
            for number, length in enumerate(lengths):
                tables = [table for table in sweep["results"] if table["source_length"] == length]
                tables.sort(key=lambda table: table["batch_size"])
                ratios = [ratio_of(table, name, names[0]) for table in tables]
                if len(lengths) > 1:
                    style["marker"] = MARKERS[number % len(MARKERS)]
                line = axes.errorbar(
                    [table["batch_size"] for table in tables],
                    [ratio.ratio for ratio in ratios],
                    yerr=[
                        [_above_0(ratio.ratio, ratio.low) for ratio in ratios],
                        [_above_0(ratio.high, ratio.ratio) for ratio in ratios],
                    ],
                    capsize=3,
                    linestyle=DASHES[number % len(DASHES)],
                    **style,
                )
                drawn.append(line)
                labels.append(name if len(lengths) == 1 else f"{name}, {length} source tokens")
        sizes = sorted({table["batch_size"] for table in sweep["results"]})
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("sentences a batch")
        axes.set_ylabel(f"tokens/s relative to {names[0]}")
        _legend(axes, drawn, labels)

    return draw


def _above_0(more: Optional[float], less: Optional[float]) -> float:
    # no bar without an interval; rounding mustn't turn one round
    return 0.0 if more is None or less is None else max(0.0, more - less)


def _source_lengths(sweep: Dict[str, Any]) -> List[Optional[int]]:
    """In the order of the record; ``[None]`` for real text."""
    return list(dict.fromkeys(table["source_length"] for table in sweep["results"]))


def _lines(
    lines: Sequence[Tuple[int, str, Sequence[Tuple[int, float]]]],
) -> Callable[[Any], None]:
    """One line per run: its place among all, name, and losses by update."""

    def draw(axes: Any) -> None:
        drawn = []
        for number, (place, _, line) in enumerate(lines):
            updates = [update for update, _ in line]
            losses = smooth([loss for _, loss in line], max(1, len(line) // 50))
            # a few markers, side by side where lines lie on each other
            step = max(1, len(line) // 8)
            first = number * step // len(lines)
            drawn += axes.plot(
                updates, losses, markersize=5, markevery=(first, step), **_style(place)
            )
        axes.set_xlabel("updates")
        _legend(axes, drawn, [name for _, name, _ in lines])

    return draw


def _legend(axes: Any, drawn: Sequence[Any], names: Sequence[str]) -> None:
    # matplotlib leaves names out that begin with '_', unless they come afterwards
    legend = axes.legend(drawn, [str(number) for number in range(len(drawn))], frameon=False)
    for text, name in zip(legend.get_texts(), names):
        text.set(text=name, fontsize=9)


def smooth(values: Sequence[float], width: int) -> List[float]:
    """Mean over the last ``width`` values."""
    means = []
    for index in range(len(values)):
        window = values[max(0, index + 1 - width) : index + 1]
        means.append(sum(window) / len(window))
    return means


def _style(index: int) -> Dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
    }
