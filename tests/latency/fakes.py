"""A clock that only decodes move, and a memory that grows."""

from __future__ import annotations

from typing import List, Optional

from fairseq_ffn.latency.measurement import Decoded


class FakeClock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.time = 100.0
        self.readings = 0

    def now(self) -> float:
        self.readings += 1
        return self.time


class FakeMemory:
    """The n-th run peaks at n megabytes."""

    kind = "fake"

    def __init__(self) -> None:
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def megabytes(self) -> float:
        return float(self.resets)


class FakeModel:
    """Decodes batch ``i`` in ``seconds[i]``, slower by ``slow`` at each call."""

    def __init__(self, clock: FakeClock, seconds: List[float], factor: float = 1.0):
        self.clock, self.seconds, self.factor = clock, seconds, factor
        self.calls: List[int] = []

    def decode(self, batch: int, encoder: Optional[float] = 0.25) -> Decoded:
        self.calls.append(batch)
        self.clock.time += self.seconds[batch] * self.factor
        return Decoded(
            output=f"translation {batch}",
            sentences=batch + 1,
            tokens=10 * (batch + 1),
            encoder_seconds=encoder,
            steps=5,
        )
