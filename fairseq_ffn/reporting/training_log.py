"""Training curves from the logs that fairseq-train writes (``--log-format json`` or ``simple``)."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Tuple

_LINE = re.compile(r"\| (train_inner|valid) \| (.*)$")
_PAIR = re.compile(r"(\w+)=([-+.\deE]+)")


@dataclass
class Curves:
    """Losses over updates; loss in bits per token (fairseq's base 2).

    Args:
        train: ``(update, loss)`` of the criterion, with its label smoothing.
        valid: ``(update, nll_loss)`` on the validation set.
    """

    train: List[Tuple[int, float]] = field(default_factory=list)
    valid: List[Tuple[int, float]] = field(default_factory=list)


def read_curves(path: Path) -> Curves:
    """Curves of a log; lines that aren't statistics, or are damaged, are passed over.

    After a resumed training the later line of an update counts.
    """
    train: Dict[int, float] = {}
    valid: Dict[int, float] = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            match = _LINE.search(line)
            if match is None:
                continue
            prefix = "valid_" if match.group(1) == "valid" else ""
            values = _values(match.group(2))
            loss = values.get(f"{prefix}nll_loss" if prefix else "loss", values.get("nll_loss"))
            update = values.get(f"{prefix}num_updates", values.get("num_updates"))
            if loss is not None and update is not None:
                (valid if prefix else train)[int(update)] = loss
    return Curves(sorted(train.items()), sorted(valid.items()))


def _values(text: str) -> Dict[str, float]:
    pairs = {}
    if text.startswith("{"):
        try:
            pairs = json.loads(text)
        except (ValueError, RecursionError):
            return {}
    else:
        pairs = dict(_PAIR.findall(text.replace(",", " ")))
        # simple format: "valid on 'valid' subset | loss 5.1 | nll_loss 4.2 | num_updates 100"
        pairs.update(re.findall(r"(\w+) ([-+.\deE]+)(?= \||$)", text))
    values = {}
    for name, value in pairs.items():
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            continue
        if math.isfinite(number):  # a loss can be nan
            values[name] = number
    return values
