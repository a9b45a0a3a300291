"""Loading fairseq checkpoints without running code from the file, and saving them whole.

torch.load has unpickled tensors and plain containers only since 2.6 (``weights_only=True``).
A fairseq checkpoint holds more, and what it holds was found by training with every optimiser,
schedule and validation that runs on a CPU: the flags as an ``argparse.Namespace`` (always), and
numpy arrays and numbers among the statistics (``--eval-bleu`` counts n-grams in arrays). These, and
nothing else, are named as safe. For numpy that doesn't let the file call numpy: its names lead to
the few lines below, which accept plain numbers only and work for files of numpy 1 and 2 alike.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple, Union

import numpy
import torch

from fairseq_ffn.checkpoint_errors import describe_checkpoint_error, system_reason, what_is_missing
from fairseq_ffn.errors import UserError

PathLike = Union[str, "os.PathLike[str]"]


class _NumberType:
    """Stands for ``numpy.dtype`` in a checkpoint: a type of plain numbers."""

    CODES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")

    def __init__(self, code: str, *unused: object):
        if code not in self.CODES:
            raise ValueError(f"numpy type {code!r} in a checkpoint")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.order = state[1]

    @property
    def dtype(self) -> numpy.dtype:
        return numpy.dtype(self.order + self.code)


class NumberArray(numpy.ndarray):
    """Stands for ``numpy.ndarray`` in a checkpoint: an array of plain numbers."""

    def __new__(cls) -> NumberArray:
        return super().__new__(cls, (0,), numpy.float64)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, column_major, data = state
        dtype = kind.dtype
        if len(data) != math.prod(shape) * dtype.itemsize or min(shape, default=0) < 0:
            raise ValueError("size of a numpy array in a checkpoint")
        super().__setstate__((1, shape, dtype, bool(column_major), data))

    def __reduce__(self) -> tuple:
        # saved again, it's a plain array: others must be able to load it
        return self.view(numpy.ndarray).__reduce__()


def _new_array(kind: type, *unused: object) -> NumberArray:
    return NumberArray()


def _number(kind: _NumberType, data: bytes) -> Any:
    return numpy.frombuffer(data, dtype=kind.dtype, count=1)[0]


def safe_globals() -> List[Tuple[Callable, str]]:
    """What a fairseq checkpoint may name besides tensors and plain containers."""
    allowed: List[Tuple[Callable, str]] = [
        (argparse.Namespace, "argparse.Namespace"),
        (_NumberType, "numpy.dtype"),
        (NumberArray, "numpy.ndarray"),
    ]
    for package in ("numpy.core", "numpy._core"):  # numpy 1 and 2
        allowed.append((_new_array, f"{package}.multiarray._reconstruct"))
        allowed.append((_number, f"{package}.multiarray.scalar"))
    return allowed


def allow_fairseq_checkpoints() -> None:
    """Let ``torch.load`` accept them, with its protection on."""
    torch.serialization.add_safe_globals(safe_globals())


def load_checkpoint(path: PathLike, mmap: bool = False) -> Dict[str, Any]:
    """Everything in a fairseq checkpoint, on the CPU.

    Args:
        path: the file.
        mmap: leave the tensors in the file, for who only looks at names and shapes.

    Raises:
        UserError: one line on why the file is no usable checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except MemoryError:
        raise
    except Exception as error:  # a broken file can provoke any
        raise UserError(describe_checkpoint_error(str(path), error)) from error
    missing = what_is_missing(state)
    for key, value in {} if missing else state["model"].items():
        if not isinstance(value, torch.Tensor):
            missing = f"its {key} is no tensor"
    if missing:
        raise UserError(f"checkpoint {path}: not a fairseq checkpoint ({missing})")
    return state


def save_checkpoint(state: Dict[str, Any], path: PathLike) -> None:
    """Write ``state`` to ``path``, which is either the whole new file or stays as it was.

    Raises:
        UserError: one line on why it can't be written.
    """
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        # torch.save may report a full disk as a RuntimeError of its own
        if isinstance(error, (OSError, RuntimeError)):
            raise UserError(
                f"checkpoint {path}: can't be written ({system_reason(error)})"
            ) from error
        raise


def check_files_to_restore(args: argparse.Namespace) -> None:
    """Refuse a training whose checkpoint to start from doesn't exist.

    fairseq says nothing and trains from scratch if ``--restore-file`` is missing. That is right for
    the job's own ``checkpoint_last.pt`` in ``--save-dir``, which its first run hasn't written yet;
    any other is an error. It takes a directory as missing, too. ``--finetune-from-model`` counts
    only while there is no last checkpoint.

    Args:
        args: all flags of fairseq-train; those of other commands have none of these and pass.

    Raises:
        UserError: naming flag and file.
    """
    if not hasattr(args, "restore_file") or getattr(args, "use_sharded_state", False):
        return  # a sharded training adds each process's own suffix
    suffix = f"{args.checkpoint_suffix}.pt"
    restored = args.restore_file.replace(".pt", suffix)
    own = os.path.join(args.save_dir, f"checkpoint_last{suffix}")
    # fairseq looks for this very name in --save-dir
    is_own = restored == f"checkpoint_last{suffix}" or os.path.abspath(restored) == os.path.abspath(
        own
    )
    _check_file("--restore-file", restored, may_be_missing=is_own)
    if args.finetune_from_model and not os.path.exists(own):
        _check_file("--finetune-from-model", args.finetune_from_model)


def _check_file(flag: str, path: str, may_be_missing: bool = False) -> None:
    if os.path.isdir(path):
        raise UserError(f"{flag} {path}: is a directory; name the .pt file in it")
    if path and "://" not in path and not may_be_missing and not os.path.exists(path):
        raise UserError(f"{flag} {path}: no such file")
