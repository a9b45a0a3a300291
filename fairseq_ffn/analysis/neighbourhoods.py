"""LNS: do the nearest neighbours of an example stay the same from one space to another?

Boggust et al. 2022; One Wide FFN, section 3: Jaccard overlap of the k nearest neighbours by cosine,
mean over the examples, k = 5% of them.
"""

from __future__ import annotations

import numpy as np

SHARE = 0.05


def number_of_neighbours(examples: int) -> int:
    """k = 5% of the examples, rounded."""
    return round(SHARE * examples)


def nearest(x: np.ndarray, k: int, rows: int = 512) -> np.ndarray:
    """Which examples are among the k nearest of each, by cosine, itself left out.

    Args:
        x: ``(n, d)``.
        k: from 1 to n - 1.
        rows: examples compared with all at a time; bounds memory.

    Returns:
        ``(n, n)`` of truth values, k true ones a row.
    """
    x = np.asarray(x, dtype=np.float64)
    n = len(x)
    if not 1 <= k <= n - 1:
        raise ValueError(f"{k} neighbours of {n} examples")
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    unit = x / np.where(lengths > 0, lengths, 1)
    chosen = np.zeros((n, n), dtype=bool)
    for start in range(0, n, rows):
        cosine = unit[start : start + rows] @ unit.T
        here = np.arange(len(cosine))
        cosine[here, start + here] = -np.inf
        best = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        chosen[start + here[:, None], best] = True
    return chosen


def overlap(neighbours: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Jaccard overlap of each example's two sets of neighbours. ``(n, n), (n, n) -> (n,)``."""
    common = np.sum(neighbours & others, axis=1)
    return common / np.sum(neighbours | others, axis=1)


def chance(k: int, examples: int) -> float:
    """About what unrelated spaces give: k/(2n - k) for k of n examples (facts in the docs)."""
    return k / (2 * examples - k)
