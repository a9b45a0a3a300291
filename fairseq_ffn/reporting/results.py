"""What a report knows of each run: texts, scores, speed, size, cost, training curve."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence

from fairseq_ffn.errors import UserError
from fairseq_ffn.latency.record import read_record
from fairseq_ffn.reporting.model_costs import ModelCosts, costs_of_checkpoint
from fairseq_ffn.reporting.run_directory import RunDirectory, Texts
from fairseq_ffn.reporting.score_runs import (
    Extras,
    are_scores_of,
    check_references,
    is_test_against,
    score_runs,
)
from fairseq_ffn.reporting.speeds import Speed, speeds
from fairseq_ffn.reporting.training_log import Curves, read_curves

logger = logging.getLogger(__name__)

#: below this p-value a difference is marked (One Wide FFN, section 3)
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Result:
    """One run; what isn't there is None.

    Args:
        name: of the run directory.
        texts: hypotheses, references, sources.
        scores: ``scores.json``.
        latency: ``latency.json``.
        speed: from a comparison of all runs, or from ``latency``.
        costs: size and cost of the model.
        curves: of the training.
    """

    name: str
    texts: Texts
    scores: Dict[str, Any]
    latency: Optional[Dict[str, Any]]
    speed: Optional[Speed]
    costs: Optional[ModelCosts]
    curves: Optional[Curves]

    @property
    def tokens_per_second(self) -> Optional[float]:
        """Mean over the runs of the measurement."""
        return None if self.speed is None else self.speed.mean

    @property
    def parameters(self) -> Dict[str, Optional[int]]:
        """``total`` and ``body``, None if unknown."""
        if self.costs is not None:
            return {"total": self.costs.total, "body": self.costs.body}
        held = {} if self.latency is None else self.latency["parameters"]
        return {part: held.get(part) for part in ("total", "body")}

    @property
    def multiply_adds(self) -> Optional[int]:
        """Per source and target token together."""
        if self.costs is None:
            return None
        return self.costs.source_token + self.costs.target_token

    def differs(self, metric: str) -> bool:
        """Significantly, from the baseline, by ``bleu`` or ``chrf``."""
        found = self.scores.get("significance")
        return found is not None and found[f"{metric}_p"] < SIGNIFICANT


def collect(
    runs: Sequence[RunDirectory],
    test: str = "paired-bs",
    comparison: Optional[Dict[str, Any]] = None,
) -> List[Result]:
    """Read all that the runs hold; the first is the baseline.

    Scores or significance that are missing or damaged, of other texts, another baseline or another
    test, or of too few or not equally many samples, are computed and written.

    Args:
        runs: the run directories.
        test: a key of ``significance.TESTS``.
        comparison: of the speed of all runs, see ``speeds.find_comparison``.

    Raises:
        UserError: texts are missing or don't fit, or a file is damaged.
    """
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise UserError(
            f"two run directories are called {double}; a report needs names that differ"
        )
    texts = [run.texts() for run in runs]
    check_references(runs, texts, 0)
    records = [run.read_json(run.scores) for run in runs]
    if (
        not all(are_scores_of(record, text) for record, text in zip(records, texts))
        or not all(is_test_against(record, runs[0], texts[0], test) for record in records[1:])
        or len({record["significance"]["samples"] for record in records[1:]}) > 1
    ):
        extras = Extras.of([record for record in records if record is not None])
        baseline = runs[0] if len(runs) > 1 else None
        records = score_runs(runs, baseline, test, extras=extras, again=True)
    records[0].pop("significance", None)  # against the baseline of another report
    latencies = [read_record(run.latency) if run.latency.is_file() else None for run in runs]
    results = []
    for run, text, record, latency, speed in zip(
        runs, texts, records, latencies, speeds(names, latencies, comparison)
    ):
        checkpoint = run.checkpoint
        results.append(
            Result(
                run.name,
                text,
                record,
                latency,
                speed,
                None if checkpoint is None else costs_of_checkpoint(checkpoint),
                read_curves(run.train_log) if run.train_log.is_file() else None,
            )
        )
    return results
