"""Several models decode the same batches in turn, so that a drifting machine drifts for all.

Every round goes through all batches; for each batch the models take turns in an order that is
drawn anew. A ratio of two models is made of their times on the same batches, and its interval
comes from drawing batches anew (bootstrap).
"""

from __future__ import annotations

import gc
import itertools
import logging
import random
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence

from fairseq_ffn.latency import statistics
from fairseq_ffn.latency.clock import Clock
from fairseq_ffn.latency.measurement import (
    PROGRESS_SECONDS,
    Decoded,
    Timed,
    time_decode,
    time_left,
)
from fairseq_ffn.latency.protocol import spread_over

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """One model to compare.

    Args:
        name: for the tables.
        decode: decodes one batch.
    """

    name: str
    decode: Callable[[Any], Decoded]


@dataclass(frozen=True)
class Ratio:
    """Tokens per second of ``name`` divided by those of ``baseline``.

    Args:
        name: the model.
        baseline: what it is compared with.
        ratio: above 1 means faster.
        low: lower end of the 95% interval, or None if there are too few batches to tell.
        high: upper end.
    """

    name: str
    baseline: str
    ratio: float
    low: Optional[float]
    high: Optional[float]

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.ratio:.3f} [too few batches]"
        return f"{self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Interleaved:
    """Times of several models on the same batches.

    Args:
        candidates: the models.
        batches: what they decode.
        rounds: how often each decodes each batch.
        seed: of the order.
    """

    def __init__(
        self, candidates: Sequence[Candidate], batches: Sequence[Any], rounds: int, seed: int = 1
    ):
        self.candidates, self.batches, self.rounds = list(candidates), list(batches), rounds
        self.seed = seed
        #: ``(models, rounds, batches)``
        self.timed: List[List[List[Timed]]] = [[] for _ in self.candidates]

    def run(
        self,
        clock: Clock,
        warmup: int = 1,
        progress: Optional[Callable[[str], None]] = None,
        label: str = "",
        between: Optional[Callable[[], None]] = None,
    ) -> None:
        """Decode everything.

        Args:
            clock: wall time.
            warmup: batches that each model decodes before, not counted, spread over the batches.
            progress: called with a line from time to time (default: the log).
            label: what is measured, for that line.
            between: called between two rounds, outside the timer.
        """
        order = random.Random(self.seed)
        progress = progress or logger.info
        for number in spread_over(len(self.batches), warmup):
            for candidate in self.candidates:
                candidate.decode(self.batches[number])
        gc.collect()
        started = shown = time.monotonic()
        total = self.rounds * len(self.batches)
        for done, (round_, number) in enumerate(
            itertools.product(range(self.rounds), range(len(self.batches))), start=1
        ):
            if number == 0:
                if round_ > 0 and between is not None:
                    between()
                for timed in self.timed:
                    timed.append([])
            turns = list(range(len(self.candidates)))
            order.shuffle(turns)
            try:
                for turn in turns:
                    decode = partial(self.candidates[turn].decode, self.batches[number])
                    self.timed[turn][-1].append(time_decode(clock, decode)[0])
            except (KeyboardInterrupt, SystemExit):
                progress(
                    f"latency: {label}interrupted in round {round_ + 1} of {self.rounds}, batch "
                    f"{number + 1} of {len(self.batches)}"
                )
                raise
            now = time.monotonic()
            if now - shown >= PROGRESS_SECONDS:
                shown = now
                left = time_left(now - started, done / total)
                progress(f"latency: {label}batch {done} of {total}, {left}")

    def tokens_per_second(self, model: int) -> Dict[str, object]:
        """Mean and spread over the rounds."""
        return statistics.over_runs(
            [
                sum(timed.tokens for timed in one) / sum(timed.seconds for timed in one)
                for one in self.timed[model]
            ]
        )

    def encoder_share(self, model: int) -> Optional[float]:
        """Part of the time that the encoder takes, if it can be told apart."""
        pooled = [timed for one in self.timed[model] for timed in one]
        if any(timed.encoder_seconds is None for timed in pooled):
            return None
        encoder = sum(timed.encoder_seconds for timed in pooled)
        return encoder / sum(timed.seconds for timed in pooled)

    def ratio(self, model: int, baseline: int) -> Ratio:
        """Speed of one model against another's, with the bootstrap's 95% interval."""
        pair = (model, baseline)
        tokens = [self._per_batch(index, "tokens") for index in pair]
        seconds = [self._per_batch(index, "seconds") for index in pair]
        ratio, low, high = statistics.ratio_interval(tokens, seconds, seed=self.seed)
        names = [self.candidates[index].name for index in pair]
        return Ratio(names[0], names[1], ratio, low, high)

    def ratios(self) -> List[Ratio]:
        """Every model against every one before it."""
        return [
            self.ratio(model, baseline)
            for model in range(len(self.candidates))
            for baseline in range(model)
        ]

    def _per_batch(self, model: int, name: str) -> List[float]:
        """Sums over the rounds."""
        return [
            sum(getattr(one[batch], name) for one in self.timed[model])
            for batch in range(len(self.batches))
        ]
