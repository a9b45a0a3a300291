"""Which step the quick start is at, how long it has run and about how long it still takes."""

from __future__ import annotations

import logging
import time
from typing import Dict, Optional

logger = logging.getLogger("quickstart")

NAMES = ("data", "plan", "train", "generate", "measure", "report")


class Steps:
    """The clock of one call; every progress line is made by :meth:`line`.

    Data and plan take their time from the training, so until it has ended one date is enough: when
    it will end. What comes after has its seconds in reserve.

    Args:
        started: ``time.monotonic()`` at the start of the call.
        after: seconds that each step after the training is expected to take.
    """

    def __init__(self, started: float, after: Dict[str, float]):
        self.started, self.after = started, dict(after)
        self.current, self.begun = NAMES[0], started
        self._training_ends: Optional[float] = None

    def expect_training(self, seconds: float) -> None:
        """Training ends in so many seconds from now."""
        self._training_ends = time.monotonic() + seconds

    def begin(self, name: str) -> None:
        """Go on to a step, and say so."""
        self.current, self.begun = name, time.monotonic()
        logger.info(self.line())

    def left(self) -> Optional[float]:
        """Seconds to the end of the last step; None while nobody knows."""
        now, at = time.monotonic(), NAMES.index(self.current)
        seconds = 0.0
        if at <= NAMES.index("train"):
            if self._training_ends is None:
                return None
            seconds = max(0.0, self._training_ends - now)
        for name in NAMES[NAMES.index("train") + 1 :]:
            expected = self.after.get(name, 0.0)
            if name == self.current:
                seconds += max(0.0, expected - (now - self.begun))
            elif NAMES.index(name) > at:
                seconds += expected
        return seconds

    def line(self, text: str = "") -> str:
        """``step 3/6 train: 2:05 passed, about 17:40 left | text``."""
        left = self.left()
        rest = "time left not known yet" if left is None else f"about {minutes(left)} left"
        number = NAMES.index(self.current) + 1
        passed = minutes(time.monotonic() - self.started)
        words = f"step {number}/{len(NAMES)} {self.current}: {passed} passed, {rest}"
        return f"{words} | {text}" if text else words


def minutes(seconds: float) -> str:
    """``4:07``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
