"""Measures on maps: change of contextualization, mixing ratio, shares, amplified pairs.

A map is ``(T, P)``: how much each output position (row) has from each player (column), the first T
columns being the stack's own positions.
"""

from __future__ import annotations

import math
from typing import List, Tuple

import numpy as np
from scipy.stats import rankdata

#: a rank correlation of fewer cells says nothing
FEWEST_CELLS = 3


def contextualization_change(
    before: np.ndarray, after: np.ndarray, visible: np.ndarray, diagonal: bool = True
) -> float:
    """1 - rho: Spearman's correlation of the two maps' cells (Kobayashi et al. 2024).

    Per sentence, to be averaged; cells that can't be other than zero are left out, since thousands
    of ties would raise rho (our choice). NaN where a map is constant or has fewer than 3 cells.

    Args:
        before: ``(T, P)``.
        after: ``(T, P)``.
        visible: ``(T, P)``, False in the future.
        diagonal: count each token's own cell.
    """
    chosen = visible.copy()
    if not diagonal:
        np.fill_diagonal(chosen[:, : len(chosen)], False)
    one, other = rankdata(before[chosen]), rankdata(after[chosen])
    if len(one) < FEWEST_CELLS or np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    if np.array_equal(one, other):
        return 0.0
    return 1 - float(np.corrcoef(one, other)[0, 1])


def mixing_ratio(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """``|mix| / (|mix| + |preserve|)`` of every position (Kobayashi et al. 2021).

    Args:
        own: length of the vector of the token itself, ``(T,)``.
        others: length of the *sum* of all other players' vectors, biases left out.
    """
    below = own + others
    return np.divide(others, below, out=np.full_like(below, np.nan), where=below > 0)


def shares(own: np.ndarray, targets: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Shares of the token itself, the other targets and the source. Our definition.

    The length of each of the three sums of vectors, divided by the sum of the three lengths.
    ``(T,), (T,), (T,) -> (3, T)``.
    """
    parts = np.stack([own, targets, sources])
    below = np.broadcast_to(parts.sum(axis=0), parts.shape)
    return np.divide(parts, below, out=np.full_like(parts, np.nan), where=below > 0)


def amplification(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """FF-amp: the map after minus the map before, rows normalised to 1 first (our choice).

    Without normalising the FFN's gain would outweigh everything. ``(T, P) -> (T, P)``.
    """
    return rows_to_one(after) - rows_to_one(before)


def rows_to_one(cells: np.ndarray) -> np.ndarray:
    """Rows divided by their sums; an empty row stays 0."""
    below = cells.sum(axis=1, keepdims=True)
    return np.divide(cells, below, out=np.zeros_like(cells), where=below > 0)


def top_pairs(
    amplified: np.ndarray, visible: np.ndarray, number: int
) -> List[Tuple[int, int, float]]:
    """The most amplified (row, column, value) off the diagonal; only what grew."""
    values = np.where(visible, amplified, -np.inf)
    np.fill_diagonal(values[:, : len(values)], -np.inf)
    found = []
    for cell in np.argsort(-values, axis=None, kind="stable")[:number]:
        row, column = np.unravel_index(cell, values.shape)
        if values[row, column] > 0:
            found.append((int(row), int(column), float(values[row, column])))
    return found
