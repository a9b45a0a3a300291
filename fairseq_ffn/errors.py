"""Errors that are the user's to mend, and how a command line reports them.

fairseq's commands let exceptions fall through as a traceback. For the errors that this plugin
knows how to explain (a layout that can't be honoured, a checkpoint that can't be read, data that
isn't there) the person wants one line. Python's own hook for uncaught exceptions does that, at the
end of the process, and only in fairseq's and our own command lines; as a library nothing changes.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Callable, Optional

from fairseq_ffn import checkpoint_errors

#: Set to 1 to get the whole traceback as well.
TRACEBACK_VARIABLE = "FAIRSEQ_FFN_TRACEBACK"

_NOT_ALLOWED = "permission denied; use another path, or get the right to read and write this one"
_FULL = "no space left; make room, then run the same command again"
#: number of an operating system's error -> what is wrong and what to do
_SYSTEM_ERRORS = {
    errno.ENOENT: "no such file or directory; check the path",
    errno.EISDIR: "is a directory; name a file",
    errno.ENOTDIR: "a part of this path is a file, not a directory; check the path",
    errno.EEXIST: "exists already; use another name",
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.EROFS: "the disk is read-only; use another path",
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
}


class UserError(ValueError):
    """Something the user can mend; its text is one line that says what, where and how."""


class WeightsDiffer(UserError):
    """Weights that a layout shares have different values in a checkpoint."""


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
            print(f"{command}: error: {printable(line)}", file=sys.stderr)

    report._fairseq_ffn = True  # type: ignore[attr-defined]
    sys.excepthook = report


def run_script(main: Callable[[], object]) -> None:
    """Run a program of ``scripts/``; its known errors are one line, exit status 1."""
    try:
        main()
    except Exception as error:
        line = one_line(error, error.__traceback__)
        if line is None or os.environ.get(TRACEBACK_VARIABLE) == "1":
            raise
        sys.exit(f"{Path(sys.argv[0]).stem}: error: {printable(line)}")


def one_line(error: BaseException, trace: Optional[TracebackType] = None) -> Optional[str]:
    """The one line for a known error, or None for one that deserves its traceback."""
    if not isinstance(error, Exception) or isinstance(error, MemoryError):
        return None
    trace = trace if trace is not None else error.__traceback__
    cause: Optional[BaseException] = error
    while cause is not None:
        if isinstance(cause, WeightsDiffer):
            return checkpoint_errors.explain_misfit(str(cause), trace)
        if isinstance(cause, UserError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return checkpoint_errors.explain(error, trace) or _explain_input(error, trace)


def explain_os_error(error: OSError) -> str:
    """One line on an error of the operating system: which file, what is wrong, what to do."""
    names = [
        os.fsdecode(name) if isinstance(name, bytes) else str(name)
        for name in (error.filename, error.filename2)
        if name is not None
    ]
    words = _SYSTEM_ERRORS.get(error.errno or 0) or error.strerror or str(error)
    return ": ".join([*([" -> ".join(names)] if names else []), words])


def printable(text: str) -> str:
    """One line without control characters, which names in a hostile file may hold."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _explain_input(error: BaseException, trace: Optional[TracebackType]) -> Optional[str]:
    """One line for data that isn't there or is damaged, and for flags that fairseq parses late."""
    if isinstance(error, OSError):
        # a full disk shows while writing, when nothing says any more to which file
        if error.filename is not None or _SYSTEM_ERRORS.get(error.errno or 0) is _FULL:
            return explain_os_error(error)
        # without a file name it's from fairseq, in words
        return str(error) if isinstance(error, FileNotFoundError) else None
    frames = [frame for frame, _ in traceback.walk_tb(trace)]
    if not frames:
        return None
    caller = ""
    for frame in frames:
        where = (frame.f_globals.get("__name__"), frame.f_code.co_name)
        local = frame.f_locals
        if where == ("ast", "literal_eval") and caller.startswith("fairseq"):
            flag = "optimizer" if caller == "fairseq.checkpoint_utils" else "model"
            return f"--{flag}-overrides: not a dictionary, such as \"{{'name': 0.1}}\""
        if where == ("fairseq.data.dictionary", "add_from_file"):
            return f"{local.get('f')}: {checkpoint_errors.first_line(error)}"
        if where[0] == "fairseq.data.indexed_dataset":
            path = local.get("path") or getattr(local.get("self"), "_path", None)
            if path is not None:
                return f"{path}: damaged or truncated; run fairseq-preprocess again"
        caller = str(where[0])
    if "infer language pair" in str(error):
        paths = frames[-1].f_locals.get("paths") or ["data"]
        return f"{paths[0]}: no data of fairseq-preprocess there ({error})"
    raised_by = str(frames[-1].f_globals.get("__name__"))
    # fairseq explains itself in words by a plain Exception, its Transformer by a ValueError
    in_words = Exception if not raised_by.endswith(".transformer_legacy") else ValueError
    if raised_by.startswith("fairseq.") and type(error) is in_words and error.__context__ is None:
        return checkpoint_errors.first_line(error)
    return None
