"""``fairseq-ffn report``: run directories compared, as text, tables, figures and one page."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any, Dict, List, Sequence

from fairseq_ffn.errors import UserError
from fairseq_ffn.files import write_text
from fairseq_ffn.reporting import plots, tables
from fairseq_ffn.reporting.page import page
from fairseq_ffn.reporting.results import collect
from fairseq_ffn.reporting.run_directory import RunDirectory
from fairseq_ffn.reporting.samples import Sample, choose
from fairseq_ffn.reporting.significance import TESTS

logger = logging.getLogger(__name__)

DESCRIPTION = """compare runs: quality, significance, speed, size, cost, translations

Reads run directories: hypothesis.txt, reference.txt, source.txt; latency.json of --task
translation_latency; checkpoints/ for size and cost; train.log for the curves. What isn't there is
left out; scores that are missing or old are computed and written. The first directory is the
baseline. Writes report.md, report.csv, report.tex, report.html and plots/.

    fairseq-ffn report runs/big runs/big_one_wide --output report"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN_DIR", help="what to compare, the baseline first"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="where the report goes"
    )
    parser.add_argument("--title", default="Comparison of runs", help="heading of the page")
    parser.add_argument(
        "--test",
        choices=tuple(TESTS),
        default="paired-bs",
        help="significance test, where it has to be made (default: %(default)s)",
    )
    parser.add_argument(
        "--latency-sweep",
        type=Path,
        metavar="FILE",
        help="record of compare-latency --batch-sizes ... --output FILE, for a figure",
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
    sweep = None if args.latency_sweep is None else _read_sweep(args.latency_sweep)
    results = collect(runs, args.test)
    figures = [] if args.no_plots else plots.figures(results, sweep)
    samples = choose(results, args.samples) if args.samples > 0 else []
    folder = args.output
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for figure in figures:
        plots.save(figure, folder / "plots")
    table = tables.markdown(results)
    text = [f"# {args.title}", "", table]
    for figure in figures:
        text += [f"![{figure.title}](plots/{figure.key}.svg)", "", figure.caption, ""]
    text += _samples(samples)
    write_text(folder / "report.md", "\n".join(text))
    write_text(folder / "report.csv", tables.to_csv(results))
    write_text(folder / "report.tex", tables.latex(results))
    write_text(folder / "report.html", page(args.title, results, figures, samples))
    print(table)
    print(f"Report: {folder / 'report.html'} (also .md, .csv, .tex and plots/)")


def _read_sweep(path: Path) -> Dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"--latency-sweep {path}: damaged JSON ({error})") from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != "fairseq_ffn.compare_latency/1":
        raise UserError(f"--latency-sweep {path}: not a record of fairseq-ffn compare-latency")
    return record


def _samples(samples: Sequence[Sample]) -> List[str]:
    lines = ["## Translations", ""] if samples else []
    for sample in samples:
        width = max(len(name) for name in (*sample.hypotheses, "reference"))
        lines.append("```")
        if sample.source:
            lines.append(f"{'source':{width}}  {sample.source}")
        lines.append(f"{'reference':{width}}  {sample.reference}")
        for name, words in sample.hypotheses.items():
            lines.append(f"{name:{width}}  {' '.join(word for word, _ in words)}")
        lines += ["```", ""]
    return lines
