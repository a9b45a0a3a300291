"""Misspelt names on fairseq's command line: of architectures, tasks, losses, optimisers.

argparse answers them with fairseq's whole usage, hundreds of lines, and all names that there are.
``--user-dir`` makes fairseq import this package before it parses anything else, so the names can be
looked up then. As a library nothing happens.
"""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path
from typing import Container, Dict, Iterable, Sequence

from fairseq_ffn.errors import UserError


def refuse_misspelt_names(argv: Sequence[str]) -> None:
    """Look the names up, if this is a command of fairseq with this package as ``--user-dir``.

    Args:
        argv: the command's path and its words.

    Raises:
        UserError: nothing of that name is registered.
    """
    if not argv or not Path(argv[0]).name.startswith("fairseq-"):
        return
    names = _registered()
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--user-dir")
    parser.add_argument("--arch", "-a")
    for name in names:
        if name != "arch":
            parser.add_argument(f"--{name.replace('_', '-')}", dest=name)
    try:
        given, _ = parser.parse_known_args(argv[1:])
    except argparse.ArgumentError:
        return  # fairseq's own parser says it
    # another plugin that imports this one registers its names after that
    here = Path(__file__).resolve().parent
    if given.user_dir is None or Path(given.user_dir).resolve() != here:
        return
    for name, known in names.items():
        value = getattr(given, name)
        if value is not None and value not in known:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} '{value}': no such name; {_advice(value, known, name)}")


def _registered() -> Dict[str, Container[str]]:
    """What can be given by name -> the names."""
    from fairseq.models import ARCH_MODEL_REGISTRY
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_REGISTRY

    found: Dict[str, Container[str]] = {"arch": ARCH_MODEL_REGISTRY, "task": TASK_REGISTRY}
    return {**found, **{name: one["registry"] for name, one in REGISTRIES.items()}}


def _advice(value: str, known: Iterable[str], name: str) -> str:
    near = difflib.get_close_matches(value, known, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return "fairseq-ffn archs lists ours" if name == "arch" else f"it isn't registered as {name}"
