"""From which batch size on another model is the faster one, as far as the intervals can tell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, Sequence, Tuple

from fairseq_ffn.latency.comparison import Ratio


@dataclass(frozen=True)
class Crossing:
    """One change of the faster model as the batch grows.

    Args:
        batch_size: where the ratio crosses 1, on a straight line between the measured batch sizes
            (in the logarithms of both).
        between: the last batch size at which one model is surely faster, and the first at which
            the other is.
        faster_below: the model is the faster one *below*, not above.
    """

    batch_size: float
    between: Tuple[int, int]
    faster_below: bool


@dataclass(frozen=True)
class BreakEven:
    """A model against another over batch sizes; sure is what the 95% interval leaves no doubt of.

    Args:
        name: the model.
        baseline: what it is compared with.
        faster: batch sizes at which the model is surely faster.
        slower: batch sizes at which it is surely slower.
        not_told_apart: batch sizes at which the interval holds 1, or there is none.
        crossings: in the order of batch sizes.
    """

    name: str
    baseline: str
    faster: List[int]
    slower: List[int]
    not_told_apart: List[int]
    crossings: List[Crossing]

    def __str__(self) -> str:
        parts = [
            f"{what} at {', '.join(map(str, sizes))}"
            for what, sizes in (
                ("faster", self.faster),
                ("slower", self.slower),
                ("not told apart", self.not_told_apart),
            )
            if sizes
        ]
        for crossing in self.crossings:
            low, high = crossing.between
            side = "below" if crossing.faster_below else "above"
            parts.append(
                f"faster {side} {crossing.batch_size:.1f} (surely between {low} and {high})"
            )
        return f"{self.name} against {self.baseline}: {'; '.join(parts)}"


def break_even(batch_sizes: Sequence[int], ratios: Sequence[Ratio]) -> BreakEven:
    """Where the faster one of two models changes.

    A change counts only between two batch sizes at which the intervals leave no doubt; what the
    ratio does in between is noise, of which the last crossing is taken.

    Args:
        batch_sizes: in growing order.
        ratios: of the same two models, one per batch size.
    """
    told = [_told(ratio) for ratio in ratios]
    sure = [index for index, which in enumerate(told) if which]
    crossings = []
    for before, after in zip(sure, sure[1:]):
        if told[before] != told[after]:
            crossings.append(
                Crossing(
                    _last_crossing(batch_sizes[before : after + 1], ratios[before : after + 1]),
                    (batch_sizes[before], batch_sizes[after]),
                    told[before] > 0,
                )
            )
    faster, slower, untold = (
        [size for size, which in zip(batch_sizes, told) if which == wanted] for wanted in (1, -1, 0)
    )
    return BreakEven(ratios[0].name, ratios[0].baseline, faster, slower, untold, crossings)


def _told(ratio: Ratio) -> int:
    """1: surely faster, -1: surely slower, 0: not told apart."""
    if ratio.low is None or ratio.high is None:
        return 0
    return int(ratio.low > 1) - int(ratio.high < 1)


def _last_crossing(batch_sizes: Sequence[int], ratios: Sequence[Ratio]) -> float:
    """Batch size of the last crossing; the first and the last ratio lie on both sides of 1."""
    logarithms = [math.log(ratio.ratio) for ratio in ratios]
    for index in range(len(logarithms) - 1, 0, -1):
        before, after = logarithms[index - 1], logarithms[index]
        if (before > 0) != (after > 0):
            break
    share = before / (before - after)
    return batch_sizes[index - 1] * (batch_sizes[index] / batch_sizes[index - 1]) ** share
