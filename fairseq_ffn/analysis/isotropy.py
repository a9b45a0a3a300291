"""Isotropy of token states: cosines, I(W), IsoScore.

PAF's first assumption is about isotropy, but what we could read of the paper has no formula; the
cosine measures below are **our definition** of it. All functions take ``(tokens, features)``.
"""

from __future__ import annotations

import math
from typing import Tuple

import numpy as np

#: dimensions left out as dominant; Timkey & van Schijndel 2021 found 1 to 3 of them
DOMINANT = 3


def within_cosine(states: np.ndarray) -> float:
    """Mean cosine over the ordered pairs of different tokens of one sentence. Our definition.

    1: all tokens point the same way (degenerate); 0: isotropic; at least -1/(N - 1). In closed
    form ``(N |mean of unit vectors|^2 - 1) / (N - 1)``. NaN for fewer than two tokens.
    """
    n = len(states)
    if n < 2:
        return math.nan
    mean = unit(states).mean(axis=0)
    return float((n * (mean @ mean) - 1) / (n - 1))


def unit(states: np.ndarray) -> np.ndarray:
    """Rows of length 1, in float64; a zero row stays."""
    states = np.asarray(states, dtype=np.float64)
    lengths = np.linalg.norm(states, axis=-1, keepdims=True)
    return states / np.where(lengths > 0, lengths, 1)


def random_pairs(sentences: np.ndarray, pairs: int, seed: int) -> Tuple[np.ndarray, np.ndarray]:
    """Indices of random tokens of different sentences (Ethayarajh 2019 takes 1,000 pairs).

    Args:
        sentences: number of each token's sentence, ``(tokens,)``; at least two different ones.
        pairs: how many.
        seed: of the draw.
    """
    if len(np.unique(sentences)) < 2:
        raise ValueError("tokens of at least two sentences are needed")
    generator = np.random.default_rng(seed)
    first = np.empty(0, dtype=np.int64)
    second = first.copy()
    while len(first) < pairs:
        one, other = generator.integers(len(sentences), size=(2, pairs))
        different = sentences[one] != sentences[other]
        first = np.concatenate([first, one[different]])
        second = np.concatenate([second, other[different]])
    return first[:pairs], second[:pairs]


def across_cosine(states: np.ndarray, pairs: Tuple[np.ndarray, np.ndarray]) -> float:
    """Mean cosine of pairs of tokens of different sentences (Ethayarajh 2019)."""
    directions = unit(states)
    return float(np.mean(np.sum(directions[pairs[0]] * directions[pairs[1]], axis=1)))


def dominant_dimensions(
    states: np.ndarray, pairs: Tuple[np.ndarray, np.ndarray], number: int = DOMINANT
) -> Tuple[np.ndarray, float]:
    """The dimensions that contribute most to the cosine across sentences, and their share of it.

    After Timkey & van Schijndel 2021: dimension i contributes the mean of ``u_i v_i`` over pairs of
    unit vectors u, v. The share is NaN where the cosine is not above 0.
    """
    directions = unit(states)
    parts = np.mean(directions[pairs[0]] * directions[pairs[1]], axis=0)
    chosen = np.argsort(-parts, kind="stable")[:number]
    total = parts.sum()
    return np.sort(chosen), float(parts[chosen].sum() / total) if total > 0 else math.nan


def partition_isotropy(states: np.ndarray) -> float:
    """I(W) of Mu & Viswanath 2018: ``min_c Z(c) / max_c Z(c)``, ``Z(c) = sum_w exp(c . w)``.

    c runs over the eigenvectors of W'W, of both signs. I(W) depends on the scale of W: here its
    rows are scaled together to mean length 1 (our choice). In (0, 1], 1 is isotropic.
    """
    states = np.asarray(states, dtype=np.float64)
    scale = np.linalg.norm(states, axis=1).mean()
    if scale == 0:
        return math.nan
    states = states / scale
    _, vectors = np.linalg.eigh(states.T @ states)
    along = states @ vectors
    values = np.concatenate([_log_sum_exp(along), _log_sum_exp(-along)])
    return float(np.exp(values.min() - values.max()))


def _log_sum_exp(columns: np.ndarray) -> np.ndarray:
    top = columns.max(axis=0)
    return top + np.log(np.exp(columns - top).sum(axis=0))


def iso_score(states: np.ndarray) -> float:
    """IsoScore of Rudman et al. 2022, from the spectrum of the covariance: 0 (a line) to 1.

    NaN where nothing varies. With fewer tokens than features it is low by construction.
    """
    centred = np.asarray(states, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    n = centred.shape[1]
    spectrum = np.linalg.svd(centred, compute_uv=False) ** 2
    spectrum = np.concatenate([spectrum, np.zeros(n - len(spectrum))])  # fewer tokens than features
    size = np.linalg.norm(spectrum)
    if size == 0 or n < 2:
        return math.nan
    defect = np.linalg.norm(spectrum * math.sqrt(n) / size - 1) / math.sqrt(2 * (n - math.sqrt(n)))
    return float(((n - defect**2 * (n - math.sqrt(n))) ** 2 - n) / (n * (n - 1)))
