"""Text files and records: read with errors that say where, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import List, Sequence

from fairseq_ffn.errors import UserError


def read_lines(path: Path) -> List[str]:
    """Lines of a text; only a line feed ends one.

    Raises:
        UserError: it is empty or isn't UTF-8.
    """
    data = path.read_bytes()
    if not data:
        raise UserError(f"{path}: is empty")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8") from error
    return text[:-1].split("\n") if text.endswith("\n") else text.split("\n")


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write lines, whole or not at all."""
    write_text(path, "".join(f"{line}\n" for line in lines))


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name, then rename."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, record: object) -> None:
    """Write a record, whole or not at all."""
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
