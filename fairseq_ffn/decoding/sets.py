"""A set that can't be decoded: of another name, or without sentences, which fairseq can't open."""

from __future__ import annotations

from pathlib import Path

from fairseq import utils
from fairseq.tasks.translation import TranslationTask

from fairseq_ffn.errors import UserError, printable


def check_set(task: TranslationTask, subset: str, flag: str = "--gen-subset") -> None:
    """Say what is wrong with a set, before fairseq calls it not found or damaged.

    Raises:
        UserError: there is no set of that name, but there are others; or a file of it is empty.
    """
    source, target = task.cfg.source_lang, task.cfg.target_lang
    there = set()
    for folder in map(Path, utils.split_paths(task.cfg.data)):
        for pair in (f"{source}-{target}", f"{target}-{source}"):
            for language in (source, target):
                ending = f".{pair}.{language}"
                # one ending for each way in which fairseq stores a set
                files = [path for path in folder.glob(f"*{ending}*") if path.is_file()]
                there |= {path.name.partition(ending)[0] for path in files}
                path = folder / f"{subset}{ending}.bin"
                if path.is_file() and path.stat().st_size == 0:
                    raise UserError(f"{flag} {subset}: {path} is empty, there is no sentence")
    if there and subset not in there:
        names = ", ".join(printable(name) for name in sorted(there))
        raise UserError(f"{flag} {subset}: {task.cfg.data} has no such set; it has {names}")
