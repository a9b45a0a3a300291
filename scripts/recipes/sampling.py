"""How often each direction is seen: temperature sampling as a number of copies of every pair.

A direction with n pairs gets a share proportional to n^(1/T): T = 1 is the text as it is, a large T
makes all directions alike. The text of an epoch stays as long as it is altogether. A direction that
gets 2.3 times its pairs has each of them twice and 30% of them, chosen by their hash, once more.
"""

from __future__ import annotations

from typing import Dict

_ALL = 1 << 64


class Weights:
    """Shares of directions (or of pairs of languages) by temperature.

    Args:
        sizes: number of pairs of each.
        temperature: T.
    """

    def __init__(self, sizes: Dict[str, int], temperature: float):
        self.sizes = sizes
        self._powers = {name: size ** (1 / temperature) for name, size in sizes.items()}

    def share(self, name: str) -> float:
        """Part of the whole, from 0 to 1."""
        return self._powers[name] / sum(self._powers.values())

    def copies(self, name: str) -> float:
        """How often each of its pairs is seen in an epoch, on average."""
        return sum(self.sizes.values()) * self.share(name) / max(1, self.sizes[name])


def chosen(mark: int, rate: float) -> bool:
    """Whether a text with this hash (64 bits) belongs to so large a part of all."""
    return mark < rate * _ALL


def times(mark: int, copies: float) -> int:
    """How often a text with this hash is seen."""
    return int(copies) + chosen(mark, copies - int(copies))
