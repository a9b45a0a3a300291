"""Errors that are the user's to mend, and how a command line reports them.

fairseq's commands let exceptions fall through as a traceback. For the errors that this plugin
knows how to explain (a layout that can't be honoured, a checkpoint that can't be read) the person
wants one line. Python's own hook for uncaught exceptions does that, at the end of the process, and
only in fairseq's and our own command lines; as a library nothing changes.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import traceback
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Optional

logger = logging.getLogger(__name__)

#: Set to 1 to get the whole traceback as well.
TRACEBACK_VARIABLE = "FAIRSEQ_FFN_TRACEBACK"


class UserError(ValueError):
    """Something the user can mend; its text is one line that says what, where and how."""


def install_one_line_errors() -> None:
    """Report known errors of a fairseq or fairseq-ffn command as one line, exit status 1."""
    command = Path(sys.argv[0] if sys.argv else "").name
    if not command.startswith("fairseq") or getattr(sys.excepthook, "_fairseq_ffn", False):
        return
    previous = sys.excepthook

    def report(kind: type, error: BaseException, trace: Optional[TracebackType]) -> None:
        line = one_line(error, trace)
        if line is None or os.environ.get(TRACEBACK_VARIABLE) == "1":
            previous(kind, error, trace)
        if line is not None:
            print(f"{command}: error: {line}", file=sys.stderr)

    report._fairseq_ffn = True  # type: ignore[attr-defined]
    sys.excepthook = report


def one_line(error: BaseException, trace: Optional[TracebackType] = None) -> Optional[str]:
    """The one line for a known error, or None for one that deserves its traceback."""
    cause: Optional[BaseException] = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    path = _checkpoint_being_loaded(trace if trace is not None else error.__traceback__)
    if path is not None:
        return describe_checkpoint_error(path, error)
    return None


def describe_checkpoint_error(path: str, error: BaseException) -> str:
    """One line on why ``path`` is no usable checkpoint; never advice to load it unsafely."""
    if isinstance(error, FileNotFoundError) or not os.path.exists(path):
        return f"checkpoint {path}: no such file"
    if os.path.isdir(path):
        return f"checkpoint {path}: is a directory; name the .pt file in it"
    if os.path.getsize(path) == 0:
        return f"checkpoint {path}: the file is empty; copy or save it again"
    if isinstance(error, pickle.UnpicklingError) and "Unsupported" in str(error):
        refused = _refused_global(str(error))
        return (
            f"checkpoint {path}: refused, since it asks to run {refused}, which no checkpoint "
            "of this plugin contains; do not trust the file"
        )
    if isinstance(error, pickle.UnpicklingError) or isinstance(error, EOFError):
        return f"checkpoint {path}: not a PyTorch checkpoint, or a damaged one; copy it again"
    if isinstance(error, (zipfile.BadZipFile, RuntimeError, OSError)):
        return f"checkpoint {path}: truncated or damaged ({_first_line(error)}); copy it again"
    return f"checkpoint {path}: not a fairseq checkpoint ({type(error).__name__}: {_first_line(error)})"


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:160] if text else type(error).__name__


def _refused_global(message: str) -> str:
    for marker in ("GLOBAL ", "Unsupported global: GLOBAL ", "Unsupported class ", "operand "):
        if marker in message:
            name = message.split(marker, 1)[1].split()[0].strip(".,'\"")
            return f"'{name}'"
    return "code"


def _checkpoint_being_loaded(trace: Optional[TracebackType]) -> Optional[str]:
    """The path argument of fairseq's checkpoint loader, if the error rose inside it."""
    for frame, _ in traceback.walk_tb(trace):
        if frame.f_code.co_name == "load_checkpoint_to_cpu" and "path" in frame.f_locals:
            return str(frame.f_locals["path"])
    return None
