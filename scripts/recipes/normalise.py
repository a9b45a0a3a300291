"""Text as the models see it: composed characters, no control characters, single spaces.

Romanian: s and t with cedilla become s and t with comma below. Both are in use for the same
letters, since the early encodings had only the cedilla; WMT16's scripts map them in the same way.
The diacritics stay, as in the paper (p. 4), where other work removes them.
"""

from __future__ import annotations

import unicodedata
from typing import Dict, Optional

_ROMANIAN = {0x15E: 0x218, 0x15F: 0x219, 0x162: 0x21A, 0x163: 0x21B}


def _invisible() -> Dict[int, Optional[str]]:
    """Control characters, and what shows nothing but makes words differ."""
    table: Dict[int, Optional[str]] = {}
    for code in (*range(0x20), *range(0x7F, 0xA0)):
        # line breaks of all kinds separate words
        table[code] = " " if chr(code).isspace() else None
    for code in (0xAD, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF, 0xFFFD):
        table[code] = None
    return table


_TABLE = _invisible()
_TABLES = {"ro": {**_TABLE, **_ROMANIAN}}


def normalise(text: str, language: str) -> str:
    """One line of text of a language (``ro``, ``de``, ...)."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.translate(_TABLES.get(language, _TABLE)).split())
