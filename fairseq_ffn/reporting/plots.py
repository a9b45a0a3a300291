"""Figures of a report, drawn by matplotlib: quality against cost, batch sizes, training curves."""

from __future__ import annotations

import io
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from fairseq_ffn.errors import UserError
from fairseq_ffn.latency.comparison_record import model_names, ratio_of
from fairseq_ffn.reporting.results import Result

#: told apart by people with any colour vision, on light and on dark (Okabe and Ito)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A00")
MARKERS = "osD^vPX*"
DASHES = ("-", "--", ":", "-.")
#: stands for the colour of the text, which the page decides
_INK = "#010203"


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
    size: Tuple[float, float] = (6.4, 4.0)
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
            lambda result: result.parameters and result.parameters["total"] / 1e6,
            False,
        ),
        (
            "multiply_adds",
            "multiply-adds per source and target token (millions)",
            lambda result: result.multiply_adds and result.multiply_adds / 1e6,
            False,
        ),
    ]
    found = []
    for key, label, value, more in axes:
        points = [(result.name, value(result), _bleu(result)) for result in results]
        points = [point for point in points if point[1] is not None]
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
                + (", dashes source lengths." if len(_source_lengths(sweep)) > 1 else "."),
                _batch_sizes(sweep),
            )
        )
    curves = [(result.name, result.curves) for result in results if result.curves is not None]
    for key, title in (("train", "Training loss"), ("valid", "Validation loss")):
        lines = [(name, getattr(curve, key)) for name, curve in curves]
        lines = [(name, line) for name, line in lines if len(line) > 1]
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
    """SVG for inside a page, in the page's colour of text and without a background."""
    text = _render(figure, "svg", ink=_INK, background="none").decode("utf-8")
    text = text[text.index("<svg") :]
    text = text.replace(_INK, "currentColor")
    # sizes come from the page
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1).replace(
        ' height="', ' data-height="', 1
    )


def _render(figure: Figure, suffix: str, ink: str, background: str) -> bytes:
    matplotlib = _matplotlib()
    settings = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": figure.key,  # the same input gives the same file; ids differ in a page
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


def _bleu(result: Result) -> float:
    return result.scores["bleu"]["score"]


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


def _pareto(
    points: Sequence[Tuple[str, float, float]], label: str, more: bool
) -> Callable[[Any], None]:
    def draw(axes: Any) -> None:
        places = [(value, quality) for _, value, quality in points]
        front = pareto_front(places, more)
        axes.plot(
            [places[index][0] for index in front],
            [places[index][1] for index in front],
            color="#888888",
            linewidth=1,
            zorder=1,
        )
        for index, (name, value, quality) in enumerate(points):
            axes.scatter([value], [quality], s=60, zorder=2, label=name, **_style(index))
        axes.margins(0.12)
        axes.set_xlabel(label)
        axes.set_ylabel("BLEU")
        axes.legend(frameon=False, fontsize=9)

    return draw


def _batch_sizes(sweep: Dict[str, Any]) -> Callable[[Any], None]:
    """One line per model and source length."""

    def draw(axes: Any) -> None:
        names = model_names(sweep)
        lengths = _source_lengths(sweep)
        axes.axhline(1.0, color="#888888", linewidth=1)
        for model, name in enumerate(names[1:], start=1):
            for number, length in enumerate(lengths):
                tables = [table for table in sweep["results"] if table["source_length"] == length]
                tables.sort(key=lambda table: table["batch_size"])
                ratios = [ratio_of(table, name, names[0]) for table in tables]
                axes.errorbar(
                    [table["batch_size"] for table in tables],
                    [ratio.ratio for ratio in ratios],
                    yerr=[
                        [ratio.ratio - ratio.low for ratio in ratios],
                        [ratio.high - ratio.ratio for ratio in ratios],
                    ],
                    capsize=3,
                    label=name if len(lengths) == 1 else f"{name}, {length} source tokens",
                    color=COLOURS[model % len(COLOURS)],
                    marker=MARKERS[number % len(MARKERS)],
                    linestyle=DASHES[number % len(DASHES)],
                )
        sizes = sorted({table["batch_size"] for table in sweep["results"]})
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_xlabel("sentences a batch")
        axes.set_ylabel(f"tokens/s relative to {names[0]}")
        axes.legend(frameon=False, fontsize=9)

    return draw


def _source_lengths(sweep: Dict[str, Any]) -> List[Optional[int]]:
    """In the order of the record; ``[None]`` for real text."""
    return list(dict.fromkeys(table["source_length"] for table in sweep["results"]))


def _lines(
    lines: Sequence[Tuple[str, Sequence[Tuple[int, float]]]],
) -> Callable[[Any], None]:
    def draw(axes: Any) -> None:
        for index, (name, line) in enumerate(lines):
            updates = [update for update, _ in line]
            losses = smooth([loss for _, loss in line], max(1, len(line) // 50))
            axes.plot(updates, losses, color=COLOURS[index % len(COLOURS)], label=name)
        axes.set_xlabel("updates")
        axes.legend(frameon=False, fontsize=9)

    return draw


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
