"""The measuring loop: warm-up, a first run that comes batch by batch, and its repeats.

The first run is driven from outside, since fairseq-generate brings the batches one by one and
prints their translations between them; the clock runs only inside :meth:`Measurement.first`.
The other runs decode the same batches again, in the same order.
"""

from __future__ import annotations

import gc
import logging
import time
from dataclasses import asdict, dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from fairseq_ffn.latency.clock import Clock, PeakMemory

logger = logging.getLogger(__name__)

#: seconds between progress lines
PROGRESS_SECONDS = 15.0


@dataclass(frozen=True)
class Decoded:
    """What one decode of a batch gave.

    Args:
        output: whatever the decode returns.
        sentences: in the batch.
        tokens: generated target symbols of the best hypotheses, end of sentence counted.
        encoder_seconds: time of the encoder, or None if it can't be told apart.
        steps: decoder steps, or None.
    """

    output: Any
    sentences: int
    tokens: int
    encoder_seconds: Optional[float] = None
    steps: Optional[int] = None


@dataclass(frozen=True)
class Timed:
    """One batch in one run."""

    seconds: float
    encoder_seconds: Optional[float]
    steps: Optional[int]
    tokens: int
    sentences: int

    def as_record(self) -> Dict[str, object]:
        """For the raw values in the record."""
        return asdict(self)


def time_decode(clock: Clock, decode: Callable[[], Decoded]) -> Tuple[Timed, Decoded]:
    """Decode once under the clock."""
    begin = clock.now()
    decoded = decode()
    seconds = clock.now() - begin
    timed = Timed(
        seconds, decoded.encoder_seconds, decoded.steps, decoded.tokens, decoded.sentences
    )
    return timed, decoded


def time_left(elapsed: float, share: float) -> str:
    """How long it still takes if ``share`` of it took ``elapsed`` seconds, for a person."""
    seconds = int(elapsed * (1 - share) / share)
    return f"about {seconds // 60}:{seconds % 60:02d} left"


class Measurement:
    """Times a decode of the same batches several times.

    Args:
        runs: passes over the batches.
        batches: how many batches a run has.
        clock: wall time.
        memory: peak memory.
        progress: called with a line of progress from time to time (default: the log).
    """

    def __init__(
        self,
        runs: int,
        batches: int,
        clock: Clock,
        memory: PeakMemory,
        progress: Optional[Callable[[str], None]] = None,
    ):
        self.runs, self.batches = runs, batches
        self.clock, self.memory = clock, memory
        self.progress = progress or logger.info
        #: per run the timed batches
        self.timed: List[List[Timed]] = []
        #: per run the peak memory, in megabytes
        self.peak_megabytes: List[float] = []
        self._decodes: List[Callable[[], Decoded]] = []
        self._started = self._shown = time.monotonic()

    @property
    def complete(self) -> bool:
        """All batches of all runs have been timed."""
        return len(self.peak_megabytes) == self.runs

    def warm_up(self, decodes: Sequence[Callable[[], Decoded]]) -> None:
        """Decode batches that aren't counted, so that caches and allocator are in their stride.

        The first run begins with this, so that what it takes to begin is in nobody's timer.
        """
        for number, decode in enumerate(decodes):
            decode()
            self._show(f"warm-up, batch {number + 1} of {len(decodes)}", 0.0)
        self._begin_run()

    def first(self, decode: Callable[[], Decoded]) -> Any:
        """Time the next batch of the first run; returns the decode's output."""
        if not self.timed:  # without warm-up
            self._begin_run()
        self._decodes.append(decode)
        decoded = self._time(decode)
        if len(self._decodes) == self.batches:
            self.peak_megabytes.append(self.memory.megabytes())
        return decoded.output

    def repeat(self) -> None:
        """Time the remaining runs over the batches of the first."""
        while not self.complete:
            self._begin_run()
            for decode in self._decodes:
                self._time(decode)
            self.peak_megabytes.append(self.memory.megabytes())

    def how_far(self) -> str:
        """Where the measurement stands, for a person."""
        if not self._decodes:
            return "no batch was timed"
        return (
            f"run {len(self.timed)} of {self.runs}, batch {len(self.timed[-1])} of {self.batches}"
        )

    def _begin_run(self) -> None:
        gc.collect()  # so that no run pays for the garbage of another
        self.memory.reset()
        if not self.timed:
            self._started = time.monotonic()
        self.timed.append([])

    def _time(self, decode: Callable[[], Decoded]) -> Decoded:
        timed, decoded = time_decode(self.clock, decode)
        self.timed[-1].append(timed)
        done = (len(self.timed) - 1) * self.batches + len(self.timed[-1])
        self._show(self.how_far(), done / (self.runs * self.batches))
        return decoded

    def _show(self, text: str, share: float) -> None:
        now = time.monotonic()
        if now - self._shown < PROGRESS_SECONDS:
            return
        self._shown = now
        left = f", {time_left(now - self._started, share)}" if share > 0 else ""
        self.progress(f"latency: {text}{left}")
