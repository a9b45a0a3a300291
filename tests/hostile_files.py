"""Files that are no usable checkpoints, and what is to be said of each."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import torch
from helpers import SMALL, arguments, build, randomise


def checkpoint_state(arch: str = "transformer_ffn_tiny", seed: int = 1, **flags) -> Dict[str, Any]:
    """What fairseq-train writes, with a small model of random weights."""
    flags = {**SMALL, **flags}
    args = arguments(arch, **flags)
    args._name = arch
    return {
        "args": None,
        "cfg": {"_name": None, "model": args, "task": {"_name": "translation"}},
        "model": randomise(build(arch, **flags), seed).state_dict(),
        "criterion": None,
        "optimizer_history": [
            {
                "criterion_name": "CrossEntropyCriterion",
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {"best": None},
                "num_updates": 7,
            }
        ],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 7}},
        "last_optimizer_state": {"state": {}, "param_groups": []},
    }


class Payload:
    """Unpickled without protection, it makes the file ``mark``."""

    def __init__(self, kind: str, mark: Path):
        self.kind, self.mark = kind, mark

    def __reduce__(self):
        if self.kind == "os.system":
            return os.system, (f"touch '{self.mark}'",)
        if self.kind == "eval":
            return eval, (f"open({str(self.mark)!r}, 'w').close()",)
        return subprocess.check_call, (["touch", str(self.mark)],)


def write_malicious(path: Path, kind: str, form: str, mark: Path) -> None:
    """A checkpoint that runs a command when it's unpickled, as a zip file, in the old form of
    torch.save or as a plain pickle."""
    state = {**checkpoint_state(), "extra_state": Payload(kind, mark)}
    if form == "pickle":
        path.write_bytes(pickle.dumps({"model": {}, "cfg": state["extra_state"]}, protocol=2))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")


def _saved(change: Callable[[Dict[str, Any]], Any], **how) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        torch.save(change(copy.deepcopy(checkpoint_state())), path, **how)

    return write


def _without(*keys: str) -> Callable[[Path], None]:
    return _saved(lambda state: {key: state[key] for key in state if key not in keys})


def _changed_model(**settings: object) -> Callable[[Path], None]:
    def change(state: Dict[str, Any]) -> Dict[str, Any]:
        for name, value in settings.items():
            setattr(state["cfg"]["model"], name, value)
        return state

    return _saved(change)


def _foreign_weight(state: Dict[str, Any]) -> Dict[str, Any]:
    state["model"]["encoder.layers.0.fc1.weight"] = "not a tensor"
    return state


def _cut(keep: Callable[[int], int], zipped: bool = True) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        torch.save(checkpoint_state(), path, _use_new_zipfile_serialization=zipped)
        content = path.read_bytes()
        path.write_bytes(content[: keep(len(content))])

    return write


def _overwritten(path: Path) -> None:
    torch.save(checkpoint_state(), path)
    content = bytearray(path.read_bytes())
    content[300:340] = bytes(range(200, 240))
    path.write_bytes(content)


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thesis/chapter1.txt", "It was a dark and stormy night.")


def _script(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


#: name -> (how it's written, what the line about it says)
UNUSABLE: Dict[str, Tuple[Callable[[Path], object], str]] = {
    "empty": (Path.touch, "the file is empty"),
    "directory": (Path.mkdir, "is a directory"),
    "text": (lambda path: path.write_text("hello\n" * 9), "not a PyTorch checkpoint"),
    "error page": (lambda path: path.write_text("<html>404"), "not a PyTorch checkpoint"),
    "noise": (lambda path: path.write_bytes(bytes(range(256))), "not a PyTorch checkpoint"),
    "another zip": (_zip, "a zip archive, but not a PyTorch checkpoint"),
    "TorchScript": (_script, "a TorchScript program"),
    "cut to 3 bytes": (_cut(lambda size: 3), "not a PyTorch checkpoint, or a damaged one"),
    "cut to 100 bytes": (_cut(lambda size: 100), "truncated"),
    "cut in half": (_cut(lambda size: size // 2), "truncated"),
    "last byte missing": (_cut(lambda size: size - 1), "truncated"),
    "old form, cut in half": (_cut(lambda size: size // 2, False), "or a damaged one"),
    "old form, cut to 20 bytes": (_cut(lambda size: 20, False), "or a damaged one"),
    "overwritten": (_overwritten, "damaged"),
    "tensor": (_saved(lambda state: torch.zeros(3)), "it holds a Tensor, not a dictionary"),
    "list": (_saved(lambda state: [1, 2]), "it holds a list, not a dictionary"),
    "bare weights": (_saved(lambda state: state["model"]), "it has no entry 'model'"),
    "no model": (_without("model"), "it has no entry 'model'"),
    "no settings": (_without("cfg"), "it has neither 'cfg' nor 'args'"),
    "settings of another kind": (
        _saved(lambda state: {**state, "cfg": "one"}),
        "its 'cfg' has no settings of a model",
    ),
    "no history": (_without("optimizer_history"), "it has no entry 'optimizer_history'"),
    "no extra state": (_without("extra_state"), "it has no entry 'extra_state'"),
}

#: the same, where only building the model shows it
NO_MODEL: Dict[str, Tuple[Callable[[Path], object], str]] = {
    "of another plugin": (
        _changed_model(_name="nosuch_big", arch="nosuch_big"),
        "trained with --arch nosuch_big, which isn't registered here; give the --user-dir",
    ),
    "heads that don't divide the width": (
        _changed_model(encoder_attention_heads=7),
        "its settings make no model: embed_dim must be divisible by num_heads",
    ),
    "weight that is no tensor": (_saved(_foreign_weight), "encoder.layers.0.fc1.weight"),
}
