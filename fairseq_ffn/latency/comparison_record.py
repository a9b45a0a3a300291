"""The record that ``fairseq-ffn compare-latency --output FILE`` writes, as others read it."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any, Dict, List, Sequence

from fairseq_ffn import records
from fairseq_ffn.errors import UserError
from fairseq_ffn.latency.comparison import Ratio

SCHEMA = "fairseq_ffn.compare_latency/1"


def read_comparison(path: Path) -> Dict[str, Any]:
    """Read a record of a comparison; all that reports read of it is checked.

    Raises:
        UserError: it isn't one, or parts of it are missing or damaged.
    """
    record = records.read_record(path, SCHEMA, "a record of compare-latency", "make it again")
    names = [model["name"].text() for model in record["models"].items()]
    if len(set(names)) < len(names):
        raise UserError(f"{path}: models: two have the same name; {record.remedy}")
    protocol = record["protocol"]
    for key in ("threads", "beam", "rounds"):
        protocol[key].count()
    for key in ("device", "dtype"):
        protocol[key].text()
    if (length := protocol.optional("force_length")) is not None:
        length.count()
    record["machine"]["cpu"].text()
    for table in record["results"].items():
        _check_table(table, names)
    return record.value


def _check_table(table: records.Entry, names: Sequence[str]) -> None:
    """Every model has its speed, and every pair its ratio."""
    for key in ("batch_size", "batches"):
        table[key].count()
    if (length := table.optional("source_length")) is not None:
        length.count()
    speeds = set()
    for model in table["models"].items():
        speed = model["tokens_per_second"]
        speed["mean"].positive()
        if (std := speed.optional("std")) is not None:
            std.not_negative()
        speeds.add(model["name"].text())
    pairs = set()
    for ratio in table["ratios"].items() if len(names) > 1 else []:
        ratio["ratio"].positive()
        ends = [ratio.optional(key) for key in ("low", "high")]
        # null if there were too few batches to tell; one that is turned round divides by them
        if ends[0] is not None and ends[1] is not None:
            if ends[0].positive() > ends[1].positive():
                raise ends[0].wrong("below the interval's high end")
        elif ends != [None, None]:
            raise ratio.wrong("an interval of two ends")
        pairs.add(frozenset(ratio[key].text() for key in ("name", "baseline")))
    for name in names:
        if name not in speeds:
            raise UserError(f"{table.path}: {table.name}.models has no {name}; {table.remedy}")
    for pair in combinations(names, 2):
        if frozenset(pair) not in pairs:
            raise UserError(
                f"{table.path}: {table.name}.ratios has no pair of {' and '.join(pair)}; "
                f"{table.remedy}"
            )


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
