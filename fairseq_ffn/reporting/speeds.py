"""Speed of each run: from one comparison of all of them in turn, else from their ``latency.json``.

Both figures of a run, tokens/s and the ratio to the baseline, are of one measurement.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from fairseq_ffn.errors import UserError
from fairseq_ffn.latency.comparison_record import (
    model_names,
    ratio_of,
    read_comparison,
    text_table,
)
from fairseq_ffn.reporting.run_directory import RunDirectory

logger = logging.getLogger(__name__)

#: a comparison of this name beside the run directories is theirs
BESIDE = "latency_comparison.json"


@dataclass(frozen=True)
class Speed:
    """Speed of one run.

    Args:
        mean: tokens per second.
        std: over the runs or rounds, or None.
        ratio: to the baseline; None if that isn't measured.
        interval: 95% interval of a paired ratio, else None.
        protocol: how it was measured, for a note.
    """

    mean: float
    std: Optional[float]
    ratio: Optional[float]
    interval: Optional[Tuple[float, float]]
    protocol: str


def find_comparison(
    runs: Sequence[RunDirectory], path: Optional[Path] = None
) -> Optional[Dict[str, Any]]:
    """The comparison of these runs: the one that is named, or one beside them.

    Args:
        runs: the run directories; models are known by their names.
        path: a record of compare-latency, or None to look for ``latency_comparison.json`` in the
            directory that holds all the runs.

    Raises:
        UserError: a file is damaged, or the one that is named lacks a run.
    """
    named = path is not None
    if path is None:
        parents = {run.path.resolve().parent for run in runs}
        path = parents.pop() / BESIDE
        if parents or not path.is_file():
            return None
    record = read_comparison(path)
    missing = [run.name for run in runs if run.name not in model_names(record)]
    if not missing:
        return record
    why = f"it has no model {missing[0]}, only {', '.join(model_names(record))}"
    if named:
        raise UserError(f"--latency-comparison {path}: {why}")
    logger.info(f"{path} isn't used: {why}")
    return None


def speeds(
    names: Sequence[str],
    records: Sequence[Optional[Dict[str, Any]]],
    comparison: Optional[Dict[str, Any]],
) -> List[Optional[Speed]]:
    """Speed of each run; the first is the baseline.

    Args:
        names: of the runs.
        records: their ``latency.json``, used if there is no comparison.
        comparison: of all the runs.
    """
    if comparison is None:
        means = [record and record["tokens_per_second"]["mean"] for record in records]
        return [
            None
            if record is None
            else Speed(
                mean,
                record["tokens_per_second"]["std"],
                None if means[0] is None else mean / means[0],
                None,
                _single(record),
            )
            for record, mean in zip(records, means)
        ]
    table = text_table(comparison)
    found: List[Optional[Speed]] = []
    for name in names:
        figures = next(model for model in table["models"] if model["name"] == name)
        ratio = ratio_of(table, name, names[0])
        known = name != names[0] and ratio.low is not None
        interval = (ratio.low, ratio.high) if known else None
        speed = figures["tokens_per_second"]
        found.append(
            Speed(speed["mean"], speed["std"], ratio.ratio, interval, _paired(comparison, table))
        )
    return found


def notes(measured: Sequence[Optional[Speed]]) -> List[str]:
    """How the speeds of a table came about."""
    known = [speed for speed in measured if speed is not None]
    protocols = sorted({speed.protocol for speed in known})
    lines = [f"tokens/s: {protocol}." for protocol in protocols]
    if any(speed.interval is not None for speed in known):
        lines.append(
            "speed: ratio to the first run in the same measurement, all models in turn in one "
            "process (fairseq-ffn compare-latency), with 95% interval."
        )
    elif len(known) > 1:
        lines.append(
            "speed: ratio of those means; they are from measurements one after the other, and "
            "machines drift. fairseq-ffn compare-latency measures the models in turn."
        )
    if len(protocols) > 1:
        lines.append("The speeds were measured in different ways and can't be compared.")
    return lines


def _single(record: Dict[str, Any]) -> str:
    protocol = record["protocol"]
    batch = (
        f"batch {protocol['batch_size']}"
        if protocol["batch_size"]
        else f"batches of {protocol['max_tokens']} tokens"
    )
    return (
        f"{batch}, {_machine(protocol)}, mean and standard deviation of {protocol['runs']} runs "
        f"over {record['sentences']} sentences"
    )


def _paired(comparison: Dict[str, Any], table: Dict[str, Any]) -> str:
    protocol = comparison["protocol"]
    lengths = ""
    if table["source_length"] is not None:
        lengths += f", {table['source_length']} random source tokens"
    if protocol["force_length"] is not None:
        lengths += f", target forced to {protocol['force_length']} tokens"
    return (
        f"batch {table['batch_size']}, {_machine(protocol)}{lengths}, mean and standard deviation "
        f"of {protocol['rounds']} rounds over {table['batches']} batches"
    )


def _machine(protocol: Dict[str, Any]) -> str:
    threads = protocol["threads"]
    return (
        f"beam {protocol['beam']}, {protocol['device']}, {threads} "
        f"thread{'s' if threads > 1 else ''}, {protocol['dtype']}"
    )
