"""What a report knows of each run: texts, scores, speed, size, cost, training curve."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence

from fairseq_ffn.errors import UserError
from fairseq_ffn.latency.record import read_record
from fairseq_ffn.reporting.model_costs import ModelCosts, costs_of_checkpoint
from fairseq_ffn.reporting.run_directory import RunDirectory, Texts
from fairseq_ffn.reporting.score_runs import score_runs
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
        costs: size and cost of the model.
        curves: of the training.
    """

    name: str
    texts: Texts
    scores: Dict[str, Any]
    latency: Optional[Dict[str, Any]]
    costs: Optional[ModelCosts]
    curves: Optional[Curves]

    @property
    def tokens_per_second(self) -> Optional[float]:
        """Mean over the runs of the measurement."""
        return None if self.latency is None else self.latency["tokens_per_second"]["mean"]

    @property
    def parameters(self) -> Optional[Dict[str, int]]:
        """``total`` and ``body``."""
        if self.costs is not None:
            return {"total": self.costs.total, "body": self.costs.body}
        return None if self.latency is None else self.latency["parameters"]

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


def collect(runs: Sequence[RunDirectory], test: str = "paired-bs") -> List[Result]:
    """Read all that the runs hold; the first is the baseline.

    Scores or significance that are missing, or older than the texts, are computed and written.

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
    records = [run.read_json(run.scores) for run in runs]
    if not all(_fresh(run, record, runs[0]) for run, record in zip(runs, records)):
        options = [record for record in records if record is not None]
        records = score_runs(
            runs,
            runs[0] if len(runs) > 1 else None,
            test,
            ter=any("ter" in record for record in options),
        )
    results = []
    for run, text, record in zip(runs, texts, records):
        latency = read_record(run.latency) if run.latency.is_file() else None
        checkpoint = run.checkpoint
        results.append(
            Result(
                run.name,
                text,
                record,
                latency,
                None if checkpoint is None else costs_of_checkpoint(checkpoint),
                read_curves(run.train_log) if run.train_log.is_file() else None,
            )
        )
    return results


def _fresh(run: RunDirectory, record: Optional[Dict[str, Any]], baseline: RunDirectory) -> bool:
    if record is None or "bleu" not in record or "chrf" not in record:
        return False
    written = run.scores.stat().st_mtime
    texts = [run.path / "hypothesis.txt", *run.path.glob("reference*.txt")]
    if any(path.is_file() and path.stat().st_mtime > written for path in texts):
        return False
    if run.path.resolve() == baseline.path.resolve():
        return True
    found = record.get("significance")
    other = baseline.path / "hypothesis.txt"
    newer = other.is_file() and other.stat().st_mtime > written
    return found is not None and found["baseline"] == baseline.name and not newer
