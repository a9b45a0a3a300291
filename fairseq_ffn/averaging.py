"""The mean of several checkpoints, as a checkpoint for decoding."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from fairseq_ffn.checkpoints import PathLike, load_checkpoint, save_checkpoint
from fairseq_ffn.errors import UserError

logger = logging.getLogger(__name__)

#: kind of checkpoint: (its file names in words, as a pattern with the number to sort by)
KINDS: Dict[str, Tuple[str, re.Pattern[str]]] = {
    "epoch": ("checkpoint<epoch>.pt", re.compile(r"checkpoint(\d+)\.pt")),
    "update": ("checkpoint_<epoch>_<update>.pt", re.compile(r"checkpoint_\d+_(\d+)\.pt")),
}
#: belongs to one moment of one training, and is larger than the model
_LEFT_OUT = ("last_optimizer_state",)
_LEFT_OUT_OF_EXTRA_STATE = ("ema", "ema_fp32_params")


def average_files(inputs: Sequence[PathLike], output: PathLike) -> None:
    """Average ``inputs`` and write the result to ``output``.

    Raises:
        UserError: a file that can't be used, models that don't match, or no room for the result.
    """
    for path in inputs:
        if os.path.exists(output) and os.path.exists(path) and os.path.samefile(path, output):
            raise UserError(f"output {output} is one of the inputs; give it another name")
    if os.path.isdir(output):
        raise UserError(f"output {output}: is a directory; add a file name")
    if not os.path.isdir(os.path.dirname(os.path.abspath(output))):
        raise UserError(f"output {output}: its directory doesn't exist")
    state = average(inputs)
    save_checkpoint(state, output)
    logger.info("%s: mean of %d checkpoints", output, len(inputs))


def average(inputs: Sequence[PathLike]) -> Dict[str, Any]:
    """The mean of the models in ``inputs``; all else is from the first.

    Sums are float64. Integer entries get the mean rounded down and half precision becomes float32,
    both as in fairseq's own script; other types stay. Optimiser state and EMA are left out.

    Raises:
        UserError: a file that can't be used, or models whose entries differ.
    """
    if not inputs:
        raise UserError("no checkpoints to average")
    first: Dict[str, Any] = {}
    sums: Dict[str, Tensor] = {}
    for number, path in enumerate(inputs, 1):
        logger.info("reading %s (%d of %d)", path, number, len(inputs))
        state = load_checkpoint(path)
        model = state["model"]
        if not first:
            first = without_training_state(state)
            sums = {key: _wide(value) for key, value in model.items()}
            continue
        _refuse_other_entries(model, first["model"], path, inputs[0])
        for key, value in model.items():
            sums[key] += value
    first["model"] = _share_equal(
        {key: _mean(total, len(inputs), first["model"][key].dtype) for key, total in sums.items()}
    )
    return first


def without_training_state(state: Dict[str, Any]) -> Dict[str, Any]:
    """A checkpoint without optimiser state and EMA: for decoding, and to start from."""
    result = {key: value for key, value in state.items() if key not in _LEFT_OUT}
    extra = result.get("extra_state")
    if isinstance(extra, dict):
        result["extra_state"] = {
            key: value for key, value in extra.items() if key not in _LEFT_OUT_OF_EXTRA_STATE
        }
    return result


def last_checkpoints(
    directory: PathLike, kind: str, number: int, upper_bound: Optional[int] = None
) -> List[Path]:
    """The last ``number`` checkpoints of fairseq-train in ``directory``, the newest first.

    Args:
        directory: what was ``--save-dir``.
        kind: ``epoch`` or ``update``.
        number: how many.
        upper_bound: the last epoch or update to use.

    Raises:
        UserError: there aren't as many.
    """
    name, pattern = KINDS[kind]
    if not os.path.isdir(directory):
        raise UserError(f"{directory}: no such directory (--num-{kind}-checkpoints needs one)")
    found = []
    for path in Path(directory).iterdir():
        match = pattern.fullmatch(path.name)
        if match and (upper_bound is None or int(match.group(1)) <= upper_bound):
            found.append((int(match.group(1)), path))
    if len(found) < number:
        bound = "" if upper_bound is None else f" up to {kind} {upper_bound}"
        raise UserError(
            f"{directory}: {len(found) or 'no'} file{'s' * (len(found) != 1)} {name}{bound}, but "
            f"--num-{kind}-checkpoints asks for {number}"
        )
    return [path for _, path in sorted(found, reverse=True)[:number]]


def _wide(value: Tensor) -> Tensor:
    return value.to(torch.float64 if value.is_floating_point() else torch.int64, copy=True)


def _mean(total: Tensor, number: int, dtype: torch.dtype) -> Tensor:
    if not total.is_floating_point():
        return total.floor_divide_(number).to(dtype)
    half = dtype in (torch.float16, torch.bfloat16)
    return total.div_(number).to(torch.float32 if half else dtype)


def _share_equal(model: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Give equal entries one storage, which a file holds once.

    Tied embeddings, and shared modules that a half-precision run has written out for every layer,
    are equal before and after averaging.
    """
    known: Dict[tuple, Tensor] = {}
    return {key: known.setdefault(_fingerprint(value), value) for key, value in model.items()}


def _fingerprint(value: Tensor) -> tuple:
    content = value.contiguous().reshape(-1).view(torch.uint8).numpy()
    return value.dtype, value.shape, hashlib.blake2b(content).digest()


def _refuse_other_entries(
    model: Dict[str, Tensor], expected: Dict[str, Tensor], path: PathLike, first: PathLike
) -> None:
    for key in expected:
        if key not in model:
            raise UserError(f"checkpoint {path}: has no {key}, which {first} has")
        if model[key].is_floating_point() != expected[key].is_floating_point():
            raise UserError(
                f"checkpoint {path}: {key} is {model[key].dtype}, but {expected[key].dtype} in "
                f"{first}"
            )
        if model[key].shape != expected[key].shape:
            raise UserError(
                f"checkpoint {path}: {key} is {_size(model[key])}, but {_size(expected[key])} in "
                f"{first}"
            )
    for key in model:
        if key not in expected:
            raise UserError(f"checkpoint {path}: has {key}, which {first} hasn't")


def _size(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a single number"
