"""Scores of several run directories, and significance against one of them, as ``scores.json``."""

from __future__ import annotations

import logging
from typing import Any, Dict, List, Optional, Sequence

from fairseq_ffn.errors import UserError
from fairseq_ffn.files import write_json
from fairseq_ffn.reporting.run_directory import RunDirectory, Texts
from fairseq_ffn.reporting.scores import comet, score
from fairseq_ffn.reporting.significance import TESTS, compare

logger = logging.getLogger(__name__)


def score_runs(
    runs: Sequence[RunDirectory],
    baseline: Optional[RunDirectory] = None,
    test: str = "paired-bs",
    samples: int = 0,
    ter: bool = False,
    spbleu: Optional[str] = None,
    comet_model: Optional[str] = None,
) -> List[Dict[str, Any]]:
    """Score every run, test all others against the baseline, and write the records.

    Args:
        runs: what to score; the baseline is one of them.
        baseline: what to test against, or None for no test.
        test: a key of ``significance.TESTS``.
        samples: resamples or trials; 0 means sacreBLEU's default.
        ter: see ``scores.score``.
        spbleu: see ``scores.score``.
        comet_model: see ``scores.comet``.

    Raises:
        UserError: a file is missing or damaged, or runs with different references are compared.
            Nothing is written then.
    """
    texts = [run.texts() for run in runs]
    first = None if baseline is None else _position(baseline, runs)
    if first is not None:
        _check_references(runs, texts, first)
    records = []
    for run, text in zip(runs, texts):
        logger.info(f"scoring {run.path}")
        record = score(text.hypotheses, text.references, ter, spbleu)
        if comet_model is not None:
            record["comet"] = comet(text.sources, text.hypotheses, text.references, comet_model)
        records.append(record)
    if first is not None:
        others = [number for number in range(len(runs)) if number != first]
        logger.info(f"testing {len(others)} against {runs[first].path}: {TESTS[test][1]}")
        results = compare(
            (runs[first].name, texts[first].hypotheses),
            [(str(runs[number].path), texts[number].hypotheses) for number in others],
            texts[first].references,
            test,
            samples,
        )
        for number, result in zip(others, results):
            records[number]["significance"] = result
    for run, record in zip(runs, records):
        write_json(run.scores, record)
    return records


def _position(run: RunDirectory, runs: Sequence[RunDirectory]) -> int:
    for number, other in enumerate(runs):
        if other.path.resolve() == run.path.resolve():
            return number
    raise ValueError(f"{run.path} is not among the runs")


def _check_references(runs: Sequence[RunDirectory], texts: Sequence[Texts], first: int) -> None:
    for run, text in zip(runs, texts):
        if text.references != texts[first].references:
            raise UserError(
                f"{run.path}: its references differ from those of {runs[first].path}, so the two "
                "can't be compared"
            )
