"""Translations from what fairseq-generate printed, in corpus order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List, Optional

from fairseq_ffn.errors import UserError

#: a detokenised hypothesis: number of the sentence, score, text
_HYPOTHESIS = re.compile(r"D-([0-9]{1,18})\t[^\t]*\t(.*)")
#: how many numbers an error lists
_LISTED = 5


def read_hypotheses(path: Path, sentences: Optional[int] = None) -> List[str]:
    """The best hypotheses (``D-`` lines) that fairseq-generate printed, whatever their order.

    Args:
        path: its output.
        sentences: how many there have to be (default: up to the highest number).

    Raises:
        UserError: sentences are missing, doubled (as with ``--nbest``) or too many.
    """
    found: Dict[int, str] = {}
    doubled: List[int] = []
    with open(path, encoding="utf-8", errors="strict", newline="\n") as file:
        try:
            for line in file:
                match = _HYPOTHESIS.match(line)
                if match is None:
                    continue
                number = int(match.group(1))
                if number in found:
                    doubled.append(number)
                found[number] = match.group(2)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 ({error.reason})") from error
    if doubled:
        raise UserError(
            f"{path}: {len(doubled)} sentences are there twice ({_numbers(doubled)}); translate "
            "with --nbest 1, and into an empty file"
        )
    if not found:
        raise UserError(f"{path}: no line of a hypothesis (D-...) in it")
    expected = sentences if sentences is not None else max(found) + 1
    beyond = [number for number in found if number >= expected]
    if beyond:
        raise UserError(
            f"{path}: has sentence {min(beyond)}, but there are only {expected} references"
        )
    missing = [number for number in range(expected) if number not in found]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {expected} sentences are missing ({_numbers(missing)}); "
            "fairseq-generate translates all with --required-batch-size-multiple 1"
        )
    return [found[number] for number in range(expected)]


def has_hypotheses(path: Path) -> bool:
    """Whether a file has the line of a hypothesis."""
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        return any(_HYPOTHESIS.match(line) for line in file)


def _numbers(numbers: List[int]) -> str:
    text = ", ".join(str(number) for number in numbers[:_LISTED])
    return text + (", ..." if len(numbers) > _LISTED else "")
