"""``fairseq-ffn report``: run directories compared, as text, tables, figures and one page."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import List, Sequence

from fairseq_ffn.cli.run_arguments import add_run_arguments
from fairseq_ffn.files import write_text
from fairseq_ffn.latency.comparison_record import read_comparison
from fairseq_ffn.reporting import plots, tables
from fairseq_ffn.reporting.page import page
from fairseq_ffn.reporting.results import collect
from fairseq_ffn.reporting.run_directory import RunDirectory
from fairseq_ffn.reporting.samples import MARKED, Sample, choose, runs_of_words
from fairseq_ffn.reporting.speeds import BESIDE, find_comparison

logger = logging.getLogger(__name__)

DESCRIPTION = """compare runs: quality, significance, speed, size, cost, translations

Reads run directories: hypothesis.txt, reference.txt, source.txt; speed from
latency_comparison.json of compare-latency beside them, or latency.json of --task
translation_latency in each; checkpoints/ for size and cost; train.log for the curves. What isn't
there is left out; scores that are missing or of other texts are computed and written. Speeds that
were measured in different ways or on different machines are given without ratio. The first
directory is the baseline. Writes report.md, report.csv, report.tex, report.html and plots/.

    fairseq-ffn report runs/big runs/big_one_wide --output report"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_run_arguments(parser, "what to compare, the baseline first")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="where the report goes"
    )
    parser.add_argument("--title", default="Comparison of runs", help="heading of the page")
    parser.add_argument(
        "--latency-comparison",
        type=Path,
        metavar="FILE",
        help="record of compare-latency --output FILE on these runs: speeds and their ratios come "
        f"from it (default: {BESIDE} beside the run directories, if it names them all; else each "
        "run's latency.json)",
    )
    parser.add_argument(
        "--latency-sweep",
        type=Path,
        metavar="FILE",
        help="record of compare-latency --batch-sizes ... --output FILE, for a figure (default: "
        "that of --latency-comparison, if it has several batch sizes)",
    )
    parser.add_argument(
        "--samples", type=int, default=8, metavar="N", help="translations to show (default: 8)"
    )
    parser.add_argument(
        "--no-plots", action="store_true", help="leave figures out (they need matplotlib)"
    )


def run(args: argparse.Namespace) -> None:
    """Collect, write, say where."""
    runs = [RunDirectory(path) for path in args.runs]
    comparison = find_comparison(runs, args.latency_comparison)
    sweep = None
    if args.latency_sweep is not None:
        sweep = read_comparison(args.latency_sweep)
    elif comparison is not None and len(comparison["results"]) > 1:
        sweep = comparison
    results = collect(runs, args.test, comparison)
    figures = [] if args.no_plots else plots.figures(results, sweep)
    samples = choose(results, args.samples) if args.samples > 0 else []
    folder = args.output
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for figure in figures:
        plots.save(figure, folder / "plots")
    table = tables.markdown(results)
    text = [f"# {args.title}", "", table]
    for figure in figures:
        text += [
            f"![{figure.title}](plots/{figure.key}.svg)",
            "",
            tables.escaped(figure.caption),
            "",
        ]
    text += _samples(samples)
    write_text(folder / "report.md", "\n".join(text))
    write_text(folder / "report.csv", tables.to_csv(results))
    write_text(folder / "report.tex", tables.latex(results))
    write_text(folder / "report.html", page(args.title, results, figures, samples))
    print(table)
    print(f"Report: {folder / 'report.html'} (also .md, .csv, .tex and plots/)")


def _samples(samples: Sequence[Sample]) -> List[str]:
    lines = ["## Translations", "", f"Bold: {MARKED}.", ""] if samples else []
    for sample in samples:
        lines += [f"### Sentence {sample.number + 1}", ""]
        if sample.source:
            lines.append(f"- source: {tables.escaped(sample.source)}")
        lines.append(f"- reference: {tables.escaped(sample.reference)}")
        for name, words in sample.hypotheses.items():
            parts = [
                tables.escaped(part) if same else f"**{tables.escaped(part)}**"
                for part, same in runs_of_words(words)
            ]
            lines.append(f"- {tables.escaped(name)}: {' '.join(parts)}")
        lines.append("")
    return lines
