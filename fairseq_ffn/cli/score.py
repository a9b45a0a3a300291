"""``fairseq-ffn score``: scores of run directories, and significance against a baseline."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Dict, List

from fairseq_ffn.cli.arguments import positive
from fairseq_ffn.cli.run_arguments import add_run_arguments
from fairseq_ffn.errors import UserError
from fairseq_ffn.reporting.run_directory import RunDirectory
from fairseq_ffn.reporting.score_runs import Extras, score_runs
from fairseq_ffn.reporting.scores import signature_of

#: as sacreBLEU names them
SPBLEU_TOKENIZERS = ("flores101", "flores200")

DESCRIPTION = """score translations: BLEU and chrF, with significance against a baseline

A run directory holds hypothesis.txt and reference.txt (or reference.*.txt for several),
detokenised, one sentence a line. If hypothesis.txt isn't there or is of an older translation, it is
made from fairseq-generate's output, put into corpus order (generate-*.txt of --results-path, or
generate.log). The scores are
sacreBLEU's with its defaults; they go to scores.json in each run directory, unrounded.

    fairseq-ffn score runs/big runs/big_one_wide --baseline runs/big"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_run_arguments(parser, "what to score")
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="RUN_DIR",
        help="test the others against this one",
    )
    parser.add_argument(
        "--samples",
        type=positive,
        default=0,
        metavar="N",
        help="resamples or trials (default: sacreBLEU's, 1000 or 10000)",
    )
    parser.add_argument("--ter", action="store_true", help="translation edit rate as well")
    # no optional argument: it would take the run directory that comes next
    parser.add_argument(
        "--spbleu",
        action="store_true",
        help="BLEU over sentencepiece tokens as well; sacreBLEU downloads their model once",
    )
    parser.add_argument(
        "--spbleu-tokenizer",
        choices=SPBLEU_TOKENIZERS,
        help=f"the same with another model (default: {SPBLEU_TOKENIZERS[0]}, the paper's)",
    )
    parser.add_argument(
        "--comet",
        metavar="MODEL",
        help="COMET as well: a model's name (wmt20-comet-da is the paper's) or a .ckpt file; needs "
        "unbabel-comet and source.txt",
    )


def run(args: argparse.Namespace) -> None:
    """Score, test, write, print."""
    runs = [RunDirectory(path) for path in args.runs]
    baseline = None
    if args.baseline is not None:
        baseline = RunDirectory(args.baseline)
        if baseline.path.resolve() not in {run.path.resolve() for run in runs}:
            runs.insert(0, baseline)
        if len(runs) < 2:
            raise UserError("--baseline: name at least one other run directory to test against it")
    tokenizer = args.spbleu_tokenizer or (SPBLEU_TOKENIZERS[0] if args.spbleu else None)
    extras = Extras(args.ter, tokenizer, args.comet)
    records = score_runs(runs, baseline, args.test, args.samples, extras)
    print("\n".join(_table(runs, records)))


def _table(runs: List[RunDirectory], records: List[Dict[str, Any]]) -> List[str]:
    names = [
        name
        for name in ("bleu", "chrf", "spbleu", "ter", "comet")
        if any(name in record for record in records)
    ]
    tested = any("significance" in record for record in records)
    titles = {"bleu": "BLEU", "chrf": "chrF", "spbleu": "spBLEU", "ter": "TER", "comet": "COMET"}
    rows = [["run", *(titles[name] for name in names)]]
    if tested:
        rows[0] += ["p (BLEU)", "p (chrF)"]
    for run, record in zip(runs, records):
        row = [run.name]
        row += [f"{record[name]['score']:.2f}" if name in record else "-" for name in names]
        if tested:
            result = record.get("significance")
            row += [f"{result[key]:.4f}" for key in ("bleu_p", "chrf_p")] if result else ["", ""]
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
    signatures = [f"{titles[name]}: {signature_of(records, name)}" for name in names]
    return [*(line.rstrip() for line in lines), "", *signatures]
