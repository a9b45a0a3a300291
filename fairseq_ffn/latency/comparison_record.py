"""The record that ``fairseq-ffn compare-latency --output FILE`` writes, as others read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

from fairseq_ffn.errors import UserError
from fairseq_ffn.latency.comparison import Ratio

SCHEMA = "fairseq_ffn.compare_latency/1"


def read_comparison(path: Path) -> Dict[str, Any]:
    """Read a record of a comparison.

    Raises:
        UserError: it isn't one, or parts of it are missing.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: can't be read as JSON ({error})") from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != SCHEMA:
        raise UserError(
            f"{path}: not a record of compare-latency (schema {schema!r}, expected {SCHEMA!r})"
        )
    try:
        names = model_names(record)
        for table in record["results"]:
            float(table["batch_size"])
            _ = table["source_length"]
            for name in names:
                ratio_of(table, name, names[0])
        complete = bool(names and record["results"])
    except (LookupError, TypeError, ValueError):
        complete = False
    if not complete:
        raise UserError(f"{path}: parts of the record are missing; make it again")
    return record


def model_names(record: Dict[str, Any]) -> List[str]:
    """Names of the models, in the order of the command line."""
    return [str(model["name"]) for model in record["models"]]


def ratio_of(table: Dict[str, Any], name: str, baseline: str) -> Ratio:
    """Speed of one model against another's, in one table of the record.

    The record has each pair once; turned round, ratio and interval are the reciprocals.

    Raises:
        KeyError: it doesn't have the pair.
    """
    if name == baseline:
        return Ratio(name, baseline, 1.0, 1.0, 1.0)
    for found in table["ratios"]:
        ratio = float(found["ratio"])
        # without an interval if there were too few batches
        low, high = (None if found[key] is None else float(found[key]) for key in ("low", "high"))
        if (found["name"], found["baseline"]) == (name, baseline):
            return Ratio(name, baseline, ratio, low, high)
        if (found["name"], found["baseline"]) == (baseline, name):
            ends = (None if end is None else 1 / end for end in (high, low))
            return Ratio(name, baseline, 1 / ratio, *ends)
    raise KeyError(f"{name} against {baseline}")


def text_table(record: Dict[str, Any]) -> Dict[str, Any]:
    """The table that stands for the comparison: real text before random symbols, smallest batch."""
    return min(
        record["results"],
        key=lambda table: (table["source_length"] is not None, table["batch_size"]),
    )
