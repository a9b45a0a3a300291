"""Speed of each run: from one comparison of all of them in turn, else from their ``latency.json``.

Both figures of a run, tokens/s and the ratio to the baseline, are of one measurement.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from fairseq_ffn.errors import UserError
from fairseq_ffn.latency.comparison_record import (
    model_names,
    ratio_of,
    read_comparison,
    text_table,
)
from fairseq_ffn.latency.protocol import Protocol
from fairseq_ffn.reporting.run_directory import RunDirectory

logger = logging.getLogger(__name__)

#: settings that a note names only if they aren't the default
_RARE = ("max_len_a", "max_len_b", "min_len", "prefix_size")
#: a comparison of this name beside the run directories is theirs
BESIDE = "latency_comparison.json"


@dataclass(frozen=True)
class Speed:
    """Speed of one run.

    Args:
        mean: tokens per second.
        std: over the runs or rounds, or None.
        ratio: to the baseline; None if that isn't measured, or by another protocol.
        interval: 95% interval of a paired ratio; None if there were too few batches.
        protocol: how and on what machine it was measured, for a note; speeds of different
            protocols can't be compared.
        paired: whether it is from a comparison of all runs in turn.
    """

    mean: float
    std: Optional[float]
    ratio: Optional[float]
    interval: Optional[Tuple[float, float]]
    protocol: str
    paired: bool = False


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
        protocols = [None if record is None else _single(record) for record in records]
        means = [record and record["tokens_per_second"]["mean"] for record in records]
        # a ratio to itself says nothing
        alone = protocols[0] is None or protocols.count(protocols[0]) < 2
        return [
            None
            if record is None
            else Speed(
                mean,
                record["tokens_per_second"]["std"],
                None if alone or protocol != protocols[0] else mean / means[0],
                None,
                protocol,
            )
            for record, mean, protocol in zip(records, means, protocols)
        ]
    table = text_table(comparison)
    found: List[Optional[Speed]] = []
    for name in names:
        figures = next(model for model in table["models"] if model["name"] == name)
        ratio = ratio_of(table, name, names[0])
        interval = None
        if name != names[0] and ratio.low is not None and ratio.high is not None:
            interval = (ratio.low, ratio.high)
        speed = figures["tokens_per_second"]
        found.append(
            Speed(
                speed["mean"],
                speed["std"],
                ratio.ratio,
                interval,
                _paired(comparison, table),
                paired=True,
            )
        )
    return found


def comparable(measured: Sequence[Optional[Speed]]) -> bool:
    """Whether all speeds that are known were measured in the same way, on the same machine."""
    return len({speed.protocol for speed in measured if speed is not None}) <= 1


def notes(names: Sequence[str], measured: Sequence[Optional[Speed]]) -> List[str]:
    """How the speeds of a table came about.

    Args:
        names: of the runs.
        measured: their speeds.
    """
    known = [speed for speed in measured if speed is not None]
    of_protocol: Dict[str, List[str]] = {}
    for name, speed in zip(names, measured):
        if speed is not None:
            of_protocol.setdefault(speed.protocol, []).append(name)
    lines = [
        f"tokens/s{'' if len(of_protocol) == 1 else ' of ' + ', '.join(whose)}: {protocol}."
        for protocol, whose in of_protocol.items()
    ]
    if any(speed.paired for speed in known):
        sure = len(known) < 2 or any(speed.interval is not None for speed in known)
        lines.append(
            "speed: ratio to the first run in the same measurement, all models in turn in one "
            "process (fairseq-ffn compare-latency), "
            + ("with 95% interval." if sure else "of too few batches for an interval.")
        )
    elif any(speed.ratio is not None for speed in known):
        lines.append(
            "speed: ratio of those means; they are from measurements one after the other, and "
            "machines drift. fairseq-ffn compare-latency measures the models in turn."
        )
    if len(of_protocol) > 1:
        lines.append(
            "These speeds were measured in different ways or on different machines and can't be "
            "compared."
        )
    return lines


def conditions(record: Dict[str, Any]) -> str:
    """What a figure's speed depends on besides the batch size.

    Args:
        record: of one measurement or of a comparison.
    """
    protocol, threads = record["protocol"], record["protocol"]["threads"]
    device = protocol["device"]
    if device == "cpu" and record["machine"]["cpu"]:  # for a GPU it's the name
        device = f"cpu ({record['machine']['cpu']})"
    parts = [
        f"beam {protocol['beam']}",
        device,
        f"{threads} thread{'s' if threads > 1 else ''}",
        protocol["dtype"],
    ]
    default = asdict(Protocol())
    parts += [
        f"{name} {protocol[name]}"
        for name in _RARE
        if protocol.get(name, default[name]) != default[name]
    ]
    if protocol.get("force_length") is not None:
        parts.append(f"target forced to {protocol['force_length']} tokens")
    return ", ".join(parts)


def _single(record: Dict[str, Any]) -> str:
    protocol = record["protocol"]
    batch = (
        f"batch {protocol['batch_size']}"
        if protocol["batch_size"]
        else f"batches of {protocol['max_tokens']} tokens"
    )
    return (
        f"{batch}, {conditions(record)}, mean and standard deviation of {protocol['runs']} runs "
        f"over {record['sentences']} sentences"
    )


def _paired(comparison: Dict[str, Any], table: Dict[str, Any]) -> str:
    protocol = comparison["protocol"]
    length = table["source_length"]
    source = "" if length is None else f", {length} random source tokens"
    return (
        f"batch {table['batch_size']}, {conditions(comparison)}{source}, mean and standard "
        f"deviation of {protocol['rounds']} rounds over {table['batches']} batches"
    )
