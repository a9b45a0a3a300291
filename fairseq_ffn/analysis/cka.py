"""Linear CKA: similarity of two representations of the same examples.

Kornblith et al. 2019: ``||X'Y||^2 / (||X'X|| ||Y'Y||)`` with centred columns, Frobenius norms, rows
examples. (One Wide FFN, section 3, prints the numerator as ``||A B'||``; with rows as examples that
has another shape than the denominators, so it is taken for a slip.)

That is biased: independent data get about ``(d/n) / (1 + d/n)`` instead of 0, if isotropic. The
debiased form replaces each of the three terms by its unbiased estimate (Song et al.'s HSIC_1), and
can be slightly negative. All functions take ``(examples, features)`` or kernels
``(examples, examples)``.
"""

from __future__ import annotations

from typing import Tuple

import numpy as np

#: the unbiased estimate has n - 3 in its denominator
FEWEST_EXAMPLES = 4


def linear_cka(x: np.ndarray, y: np.ndarray, debiased: bool = True) -> float:
    """Linear CKA of ``x (n, d)`` and ``y (n, e)``; NaN where one of them doesn't vary.

    Raises:
        ValueError: different numbers of examples, or fewer than 4.
    """
    if x.shape[0] != y.shape[0]:
        raise ValueError(f"{x.shape[0]} and {y.shape[0]} examples")
    if x.shape[0] < FEWEST_EXAMPLES:
        raise ValueError(f"CKA needs at least {FEWEST_EXAMPLES} examples, not {x.shape[0]}")
    x, y = centred(x), centred(y)
    if min(x.shape[1], y.shape[1]) < x.shape[0]:
        terms = _feature_terms(x, y, debiased)
    else:
        ones = np.ones((1, x.shape[0]))
        kernel_x, kernel_y = x @ x.T, y @ y.T
        terms = tuple(
            float(hsic(one, other, ones, debiased)[0])
            for one, other in ((kernel_x, kernel_y), (kernel_x, kernel_x), (kernel_y, kernel_y))
        )
    return float(ratio(*(np.float64(term) for term in terms)))


def centred(x: np.ndarray) -> np.ndarray:
    """Columns with mean 0, in float64."""
    x = np.asarray(x, dtype=np.float64)
    return x - x.mean(axis=0)


def _feature_terms(x: np.ndarray, y: np.ndarray, debiased: bool) -> Tuple[float, float, float]:
    """(XY, XX, YY) up to a common factor, from feature by feature products: no n x n matrix."""
    n = x.shape[0]

    def term(one: np.ndarray, other: np.ndarray) -> float:
        value = float(np.sum((one.T @ other) ** 2))
        if debiased:
            squares, others = np.sum(one**2, axis=1), np.sum(other**2, axis=1)
            value -= n / (n - 2) * float(squares @ others)
            value += float(squares.sum() * others.sum()) / ((n - 1) * (n - 2))
        return value

    return term(x, y), term(x, x), term(y, y)


def hsic(kernel_x: np.ndarray, kernel_y: np.ndarray, weights: np.ndarray, debiased: bool):
    """HSIC of weighted examples; with weights that are counts, of a resample (bootstrap).

    Debiased: the U-statistic over four *different* examples. Copies of one example in a resample
    aren't paired with each other, which would put the bias back. With all weights 1 it is HSIC_1.

    Args:
        kernel_x: ``(n, n)``, symmetric.
        kernel_y: ``(n, n)``, symmetric.
        weights: ``(resamples, n)``, not negative.

    Returns:
        ``(resamples,)``.
    """
    w = np.asarray(weights, dtype=np.float64)
    if not debiased:
        p = w / w.sum(axis=1, keepdims=True)
        row_x, row_y = p @ kernel_x, p @ kernel_y
        joint = np.sum((p @ (kernel_x * kernel_y)) * p, axis=1)
        means = np.sum(row_x * p, axis=1) * np.sum(row_y * p, axis=1)
        return joint + means - 2 * np.sum(p * row_x * row_y, axis=1)
    diagonal_x, diagonal_y = np.diagonal(kernel_x), np.diagonal(kernel_y)
    product = kernel_x * kernel_y
    diagonal = diagonal_x * diagonal_y
    row_x, row_y = w @ kernel_x - w * diagonal_x, w @ kernel_y - w * diagonal_y
    squared = w**2
    # sums over pairs, triples and quadruples of different examples
    row = w @ product - w * diagonal
    pairs = np.sum(row * w, axis=1)
    pairs_squared_once = np.sum(row * squared, axis=1)
    pairs_squared_twice = np.sum((squared @ product - squared * diagonal) * squared, axis=1)
    triples = np.sum(w * row_x * row_y, axis=1) - pairs_squared_once
    shared_one = np.sum(squared * row_x * row_y, axis=1) - pairs_squared_twice
    all_pairs = np.sum(row_x * w, axis=1) * np.sum(row_y * w, axis=1)
    quadruples = all_pairs - 2 * pairs_squared_twice - 4 * shared_one
    number = _distinct_weights(w)
    return pairs / number[2] + quadruples / number[4] - 2 * triples / number[3]


def _distinct_weights(w: np.ndarray):
    """Sums of products of 2, 3 and 4 weights of different examples, times their orders."""
    one, two, three, four = (np.sum(w**power, axis=1) for power in (1, 2, 3, 4))
    return {
        2: one**2 - two,
        3: one**3 - 3 * one * two + 2 * three,
        4: one**4 - 6 * one**2 * two + 3 * two**2 + 8 * one * three - 6 * four,
    }


def ratio(cross: np.ndarray, own_x: np.ndarray, own_y: np.ndarray) -> np.ndarray:
    """CKA from three HSIC terms; NaN where an own term isn't above 0."""
    product = np.where((own_x > 0) & (own_y > 0), own_x * own_y, np.nan)
    return cross / np.sqrt(product)
