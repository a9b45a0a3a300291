"""Types of flags that several commands have."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """A whole number above 0, for ``type=`` of a flag."""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def seed(text: str) -> int:
    """A seed that PyTorch and NumPy take, for ``type=`` of a flag."""
    if not (text.isascii() and text.isdecimal() and int(text) < 2**32):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 to 2^32 - 1")
    return int(text)
