"""What is wrong with a checkpoint, in one line: from the error that reading it gave.

Pure text work on exceptions, their tracebacks and the file's first bytes; nothing is unpickled.
No line ever advises to load a file unsafely, as PyTorch's own messages do.
"""

from __future__ import annotations

import errno
import os
import pickle
import re
import traceback
import zipfile
from types import FrameType, TracebackType
from typing import Any, List, Optional, Tuple

#: functions of fairseq that read a checkpoint, and their variable with its path
_READERS = {
    ("fairseq.checkpoint_utils", "load_checkpoint_to_cpu"): "path",
    ("fairseq.checkpoint_utils", "load_ema_from_checkpoint"): "fpath",
    ("fairseq.checkpoint_utils", "load_model_ensemble_and_task"): "filename",
    ("fairseq.trainer", "load_checkpoint"): "filename",
}
#: readers that do nothing else, so that any error in them is the file's
_PURE_READERS = ("load_checkpoint_to_cpu", "load_ema_from_checkpoint")
_WRITERS = {("fairseq.checkpoint_utils", "torch_persistent_save"): "filename"}

_REFUSED = re.compile(
    r"GLOBAL (\S+) (?:was not an allowed|whose module)"
    r"|unrecognized function (.+?)(?: which belongs|\n|$)"
    r"|allowlisted via `add_safe_globals`,? but got (.+?)(?:\n|$)"
)
_MISSING_KEYS = re.compile(r"Missing key\(s\) in state_dict: (.+?)\.\s*(?:\n|$)")
_UNEXPECTED_KEYS = re.compile(r"Unexpected key\(s\) in state_dict: (.+?)\.\s*(?:\n|$)")
_SIZE_MISMATCH = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\(\[(.*?)\]\) from "
    r"checkpoint, the shape in current model is torch\.Size\(\[(.*?)\]\)"
)
#: settings on which the names and sizes of a model's weights depend
_SHAPES = re.compile(r"_(layout|block|layers|embed_dim|heads)$|^parallel_norm$|^share_ffn_norm$")
_WRONG_DICTIONARY = "the data's dictionary"
_VOCABULARY = re.compile(r"(embed_tokens|output_projection)\.weight$")


def describe_checkpoint_error(path: str, error: BaseException) -> str:
    """One line on why ``path`` can't be read as a checkpoint."""
    return f"checkpoint {path}: {_reason(path, error)}"


def what_is_missing(state: Any) -> str:
    """What ``state`` lacks to be a fairseq checkpoint, or '' if it has all that decoding needs."""
    if not isinstance(state, dict):
        return f"it holds a {type(state).__name__}, not a dictionary"
    if not isinstance(state.get("model"), dict):
        return "it has no entry 'model'"
    if not state.get("cfg") and not state.get("args"):
        return "it has neither 'cfg' nor 'args', the settings of its training"
    cfg = state.get("cfg")
    if cfg and (not hasattr(cfg, "get") or "model" not in cfg):
        return "its 'cfg' has no settings of a model"
    for key, former in (("optimizer_history", "optimizer"), ("extra_state", "epoch")):
        if key not in state and former not in state:
            return f"it has no entry '{key}'"
    return ""


def explain(error: BaseException, trace: Optional[TracebackType]) -> Optional[str]:
    """One line if ``error`` rose while fairseq read or wrote a checkpoint, and is understood."""
    writer = _innermost(trace, _WRITERS)
    if writer is not None and isinstance(error, (OSError, RuntimeError)):
        return f"checkpoint {writer[1]}: can't be written ({system_reason(error)})"
    reader = _innermost(trace, _READERS)
    if reader is None:
        return None
    frame, path = reader
    overrides = frame.f_locals.get("arg_overrides")
    if overrides is not None and not isinstance(overrides, dict):
        return f"--model-overrides {overrides!r}: not a dictionary, such as \"{{'dropout': 0.1}}\""
    root = error
    if type(error) is Exception and error.__context__ is not None:  # fairseq.trainer wraps
        root = error.__context__
    state = frame.f_locals.get("state")
    if "loading state_dict" in str(root):
        return explain_misfit(_misfit(str(root)), trace)
    if frame.f_code.co_name in _PURE_READERS:
        if state is None:
            return describe_checkpoint_error(path, root)
        why = what_is_missing(state) or f"{type(root).__name__}: {first_line(root)}"
        return f"checkpoint {path}: not a fairseq checkpoint ({why})"
    if isinstance(root, OSError) and not os.path.exists(path):
        return describe_checkpoint_error(path, root)
    if isinstance(root, AssertionError) and _is_innermost(trace, frame):
        return f"checkpoint {path}: {first_line(root)}"
    unknown = _unregistered_architecture(state)
    if unknown is not None:
        return (
            f"checkpoint {path}: trained with --arch {unknown}, which isn't registered here; give "
            "the --user-dir that it was trained with"
        )
    if isinstance(root, AssertionError) and str(root):  # from a model's sizes that don't fit
        return f"checkpoint {path}: its settings make no model: {first_line(root)}"
    missing = what_is_missing(state) if state is not None else ""
    # trainer deletes the model once loaded, so only its own KeyError counts there
    if missing and (not isinstance(state, dict) or "model" in state or isinstance(root, KeyError)):
        return f"checkpoint {path}: not a fairseq checkpoint ({missing})"
    return None


def explain_misfit(difference: str, trace: Optional[TracebackType]) -> str:
    """One line on a checkpoint whose weights aren't those of the model that is to load them.

    Args:
        difference: what is other in the file.
        trace: of the error; the innermost of fairseq's readers knows file and settings.
    """
    reader = _innermost(trace, _READERS)
    if reader is None:
        return f"the checkpoint doesn't fit the model: {difference}"
    frame, path = reader
    fits_not = f"checkpoint {path} doesn't fit the model: "
    if _WRONG_DICTIONARY in difference:
        return fits_not + difference
    cfg = getattr(frame.f_locals.get("self"), "cfg", None)  # of a training
    if cfg is None:
        return f"{fits_not}{difference}; use the layouts and sizes it was trained with"
    others = _other_settings(frame.f_locals.get("state"), cfg.model)
    if others:
        difference = f"it was trained with {', '.join(others)}"
    cure = (
        "use the layouts and sizes it was trained with, or start from it with fairseq-ffn convert"
    )
    if os.path.dirname(path) == cfg.checkpoint.save_dir:
        cure = "a training goes on from what is in its --save-dir, so use another one"
    return f"{fits_not}{difference}; {cure}"


def _other_settings(state: Any, model: Any) -> List[str]:
    """Layouts, blocks and sizes in which a checkpoint differs from a model's settings."""
    cfg = state.get("cfg") if isinstance(state, dict) else None
    there = cfg.get("model") if hasattr(cfg, "get") else None
    found = []
    for name in vars(model) if hasattr(model, "__dict__") else ():
        if not _SHAPES.search(name):
            continue
        here, other = getattr(model, name), getattr(there, name, None)
        if other is not None and other != here:
            found.append(f"--{name.replace('_', '-')} {other}, not {here}")
    return found


def _reason(path: str, error: BaseException) -> str:
    if isinstance(error, FileNotFoundError) or not os.path.exists(path):
        return "no such file"
    if os.path.isdir(path):
        return "is a directory; name the .pt file in it"
    # others come from PyTorch, which seeks before the start of a truncated file
    if isinstance(error, OSError) and (error.filename is not None or error.errno == errno.EIO):
        return f"can't be read ({error.strerror})"
    if os.path.getsize(path) == 0:
        return "the file is empty; copy or save it again"
    refused = _REFUSED.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if refused:
        name = next(group for group in refused.groups() if group)
        return (
            f"refused, since it asks for '{name}', which no translation checkpoint of fairseq "
            "needs; nothing in it was run, and it shouldn't be trusted"
        )
    with open(path, "rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if not is_zip:
        return "not a PyTorch checkpoint, or a damaged one; copy it again or name another"
    if not zipfile.is_zipfile(path):
        return "truncated; copy it again or name another checkpoint"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program, not a checkpoint"
    if not any(name.endswith("/data.pkl") for name in names):
        return "a zip archive, but not a PyTorch checkpoint"
    # PyTorch's text on unpickling is advice to load the file unsafely
    detail = "" if isinstance(error, pickle.UnpicklingError) else f" ({first_line(error)})"
    return f"damaged{detail}; copy it again or name another checkpoint"


def _unregistered_architecture(state: Any) -> Optional[str]:
    """The architecture of a checkpoint that fairseq can't build, if that is what is wrong."""
    cfg = state.get("cfg") if isinstance(state, dict) else None
    model = cfg.get("model") if hasattr(cfg, "get") else None
    if model is None:
        return None
    from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY

    # as fairseq.models.build_model looks it up
    name = getattr(model, "_name", None) or getattr(model, "arch", None)
    if name is None or name in MODEL_REGISTRY or name in ARCH_MODEL_REGISTRY:
        return None
    return str(name)


def _misfit(message: str) -> str:
    """The first differences that ``load_state_dict`` lists."""
    found: List[str] = []
    sizes = _SIZE_MISMATCH.findall(message)
    for key, in_file, in_model in sizes:
        here, there = in_file.split(", ")[0], in_model.split(", ")[0]
        if _VOCABULARY.search(key) and here != there:
            return (
                f"its vocabulary has {here} entries, {_WRONG_DICTIONARY} {there}; use the "
                "dict.*.txt that it was trained with"
            )
    for what, keys in (
        ("it has no", _keys(_MISSING_KEYS, message)),
        ("the model has no", _keys(_UNEXPECTED_KEYS, message)),
        (
            "sizes differ (file, model):",
            [f"{k} {a.replace(', ', 'x')}, {b.replace(', ', 'x')}" for k, a, b in sizes],
        ),
    ):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            found.append(f"{what} {keys[0]}{more}")
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return "; ".join(found) or lines[min(1, len(lines) - 1)][:160].rstrip(".")


def _keys(pattern: re.Pattern[str], message: str) -> List[str]:
    match = pattern.search(message)
    return [key.strip(' "') for key in match.group(1).split(",")] if match else []


def _innermost(trace: Optional[TracebackType], functions: dict) -> Optional[Tuple[FrameType, str]]:
    """The innermost frame of ``functions`` that has its path, and the path."""
    found = None
    for frame, _ in traceback.walk_tb(trace):
        where = (frame.f_globals.get("__name__"), frame.f_code.co_name)
        if where in functions and functions[where] in frame.f_locals:
            found = (frame, str(frame.f_locals[functions[where]]))
    return found


def _is_innermost(trace: Optional[TracebackType], frame: FrameType) -> bool:
    return [other for other, _ in traceback.walk_tb(trace)][-1] is frame


def system_reason(error: BaseException) -> str:
    """The operating system's reason somewhere in a chain of errors (a full disk, mostly)."""
    cause: Optional[BaseException] = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return first_line(error)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 160 characters."""
    text = str(error).strip().splitlines()
    return text[0][:160] if text else type(error).__name__
