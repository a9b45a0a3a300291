"""SIGTERM ends a measurement as Ctrl-C does: not at once, so that it can say how far it came."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Callable, Optional


def unwind_on_sigterm() -> Callable[[], None]:
    """From now on SIGTERM raises SystemExit, with the status that shells give (143).

    A handler that somebody else has set stays, and only the main thread can set one.

    Returns:
        what undoes it.
    """
    unset = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not unset or threading.current_thread() is not threading.main_thread():
        return lambda: None
    signal.signal(signal.SIGTERM, _unwind)
    return _undo


def _undo() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _unwind(number: int, frame: Optional[FrameType]) -> None:
    raise SystemExit(128 + number)
