"""A set without sentences: fairseq-preprocess writes it, and fairseq can't open it."""

from __future__ import annotations

from pathlib import Path

from fairseq import utils
from fairseq.tasks.translation import TranslationTask

from fairseq_ffn.errors import UserError


def refuse_empty_set(task: TranslationTask, subset: str, flag: str = "--gen-subset") -> None:
    """Say so before fairseq calls the file damaged.

    Raises:
        UserError: a file of the set is empty.
    """
    source, target = task.cfg.source_lang, task.cfg.target_lang
    for folder in utils.split_paths(task.cfg.data):
        for pair in (f"{source}-{target}", f"{target}-{source}"):
            for language in (source, target):
                path = Path(folder) / f"{subset}.{pair}.{language}.bin"
                if path.is_file() and path.stat().st_size == 0:
                    raise UserError(f"{flag} {subset}: {path} is empty, there is no sentence")
