"""JSON records that were written by others: errors say which file, which entry, what to do."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Dict, List, Optional

from fairseq_ffn.errors import UserError, explain_os_error

#: letters of a wrong value that an error shows
_SHOWN = 40


def read_json(path: Path) -> Dict[str, Any]:
    """The object in a file.

    Raises:
        UserError: it can't be read, or is no object of JSON.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(explain_os_error(error)) from error
    except ValueError as error:
        raise UserError(f"{path}: damaged JSON ({error})") from error
    except RecursionError as error:
        raise UserError(f"{path}: damaged JSON (nested too deeply)") from error
    if not isinstance(record, dict):
        raise UserError(f"{path}: not a record")
    return record


class Entry:
    """A value of a record that knows where it stands.

    Args:
        path: the file.
        value: what was read.
        remedy: what to do if it is wrong.
        name: keys that lead to it, with dots between.
    """

    def __init__(self, path: Path, value: Any, remedy: str, name: str = ""):
        self.path = path
        self.value = value
        self.remedy = remedy
        self.name = name

    def __getitem__(self, key: str) -> Entry:
        """The value of a key, which has to be there."""
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        name = f"{self.name}.{key}" if self.name else key
        if key not in self.value:
            raise UserError(f"{self.path}: {name} is missing; {self.remedy}")
        return Entry(self.path, self.value[key], self.remedy, name)

    def optional(self, key: str) -> Optional[Entry]:
        """The value of a key, or None if it is null."""
        entry = self[key]
        return None if entry.value is None else entry

    def items(self) -> List[Entry]:
        """The values of a list, which mustn't be empty."""
        if not isinstance(self.value, list) or not self.value:
            raise self.wrong("a list of at least one")
        return [
            Entry(self.path, value, self.remedy, f"{self.name}[{index}]")
            for index, value in enumerate(self.value)
        ]

    def number(self) -> float:
        """A finite number."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong("a number")
        try:
            finite = math.isfinite(value)
        except OverflowError:  # a whole number of hundreds of digits
            finite = False
        if not finite:
            raise self.wrong("a finite number")
        return float(value)

    def positive(self) -> float:
        """A number above 0."""
        if self.number() <= 0:
            raise self.wrong("above 0")
        return float(self.value)

    def not_negative(self) -> float:
        """A number from 0 on."""
        if self.number() < 0:
            raise self.wrong("0 or above")
        return float(self.value)

    def count(self) -> int:
        """A whole number above 0."""
        self.positive()
        if not isinstance(self.value, int):
            raise self.wrong("a whole number")
        return self.value

    def text(self) -> str:
        """A text."""
        if not isinstance(self.value, str):
            raise self.wrong("a text")
        return self.value

    def wrong(self, expected: str) -> UserError:
        """An error that shows the value."""
        try:
            shown = json.dumps(self.value, ensure_ascii=False)
        except RecursionError:
            shown = "..."
        if len(shown) > _SHOWN:
            shown = f"{shown[:_SHOWN]}..."
        where = self.name or "it"
        return UserError(f"{self.path}: {where} is {shown}, not {expected}; {self.remedy}")


def read_record(path: Path, schema: str, what: str, remedy: str) -> Entry:
    """A record of one schema.

    Raises:
        UserError: it isn't one.
    """
    record = read_json(path)
    found = record.get("schema")
    if found != schema:
        raise UserError(f"{path}: not {what} (schema {str(found)[:_SHOWN]!r}, expected {schema!r})")
    return Entry(path, record, remedy)
