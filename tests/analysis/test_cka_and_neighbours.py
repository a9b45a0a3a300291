"""CKA and LNS against literal formulas, known biases and known answers."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_ffn.analysis import cka, neighbourhoods
from fairseq_ffn.analysis.bootstrap import interval, resample_counts
from fairseq_ffn.analysis.similarity import resampled_cka


def gaussian(n, d, seed):
    return np.random.default_rng(seed).standard_normal((n, d))


def literal_cka(x, y, debiased):
    """From centred Gram matrices; debiased as HSIC_1 is printed (Nguyen et al. 2021, Eq. 3)."""
    n = len(x)
    x, y = x - x.mean(0), y - y.mean(0)

    def hsic(one, other):
        k, m = one @ one.T, other @ other.T
        if not debiased:
            return np.trace(k @ m)
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        ones = np.ones(n)
        inner = np.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return (inner - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize(("n", "d", "e"), [(30, 7, 5), (12, 40, 33), (20, 40, 6)])
def test_fast_cka_is_the_literal_formula(n, d, e, debiased):
    x = gaussian(n, d, 1)
    y = gaussian(n, e, 2) + x[:, :1]
    assert cka.linear_cka(x, y, debiased) == pytest.approx(literal_cka(x, y, debiased), abs=1e-12)


@pytest.mark.parametrize("debiased", [True, False])
def test_cka_of_a_rotated_scaled_shifted_copy_is_1(debiased):
    x = gaussian(40, 6, 1)
    rotation = np.linalg.qr(gaussian(6, 6, 2))[0]
    assert cka.linear_cka(x, x, debiased) == pytest.approx(1, abs=1e-12)
    assert cka.linear_cka(x, 3 * x @ rotation + 5, debiased) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("n", "biased"), [(64, 0.887), (256, 0.668), (1024, 0.333)])
def test_independent_gaussians_have_the_known_bias_and_none_when_debiased(n, biased):
    x, y = gaussian(n, 512, 1), gaussian(n, 512, 2)
    assert cka.linear_cka(x, y, debiased=False) == pytest.approx(biased, abs=0.01)
    assert cka.linear_cka(x, y, debiased=True) == pytest.approx(0, abs=0.02)


def test_cka_of_too_few_or_constant_examples():
    with pytest.raises(ValueError, match="at least 4"):
        cka.linear_cka(gaussian(3, 2, 1), gaussian(3, 2, 2))
    with pytest.raises(ValueError, match="5 and 6 examples"):
        cka.linear_cka(gaussian(5, 2, 1), gaussian(6, 2, 2))
    assert np.isnan(cka.linear_cka(np.ones((9, 2)), gaussian(9, 2, 2)))


def literal_weighted_hsic(kernel_x, kernel_y, weights):
    """The U-statistic over all quadruples of different examples, each counted by its weights."""
    sums = {"pairs": [0.0, 0.0], "triples": [0.0, 0.0], "quadruples": [0.0, 0.0]}
    for i, j in permutations(range(len(weights)), 2):
        w = weights[i] * weights[j]
        sums["pairs"][0] += w * kernel_x[i, j] * kernel_y[i, j]
        sums["pairs"][1] += w
    for i, j, q in permutations(range(len(weights)), 3):
        w = weights[i] * weights[j] * weights[q]
        sums["triples"][0] += w * kernel_x[i, j] * kernel_y[i, q]
        sums["triples"][1] += w
    for i, j, q, r in permutations(range(len(weights)), 4):
        w = weights[i] * weights[j] * weights[q] * weights[r]
        sums["quadruples"][0] += w * kernel_x[i, j] * kernel_y[q, r]
        sums["quadruples"][1] += w
    parts = {name: value / weight for name, (value, weight) in sums.items()}
    return parts["pairs"] + parts["quadruples"] - 2 * parts["triples"]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=7, max_size=7).filter(lambda w: sum(map(bool, w)) > 3))
def test_hsic_of_a_resample_pairs_no_example_with_its_copy(weights):
    x, y = gaussian(7, 3, 1), gaussian(7, 2, 2)
    kernels = x @ x.T, y @ y.T
    fast = cka.hsic(*kernels, np.array([weights]), debiased=True)[0]
    assert fast == pytest.approx(literal_weighted_hsic(*kernels, weights), rel=1e-9, abs=1e-12)


def test_biased_hsic_of_a_resample_is_that_of_the_copies():
    x, y = gaussian(9, 3, 1), gaussian(9, 2, 2)
    counts = resample_counts(9, 4, 1)
    fast = resampled_cka(x, y, counts, debiased=False)
    for value, count in zip(fast, counts):
        copies = np.repeat(np.arange(9), count)
        assert value == pytest.approx(literal_cka(x[copies], y[copies], debiased=False), abs=1e-12)


def test_resamples_lie_around_the_value():
    x = gaussian(300, 20, 1)
    y = x + gaussian(300, 20, 2)
    value = cka.linear_cka(x, y)
    bounds = interval(resampled_cka(x, y, resample_counts(300, 200, 1), debiased=True))
    assert bounds["low"] < value < bounds["high"] and bounds["high"] - bounds["low"] < 0.1
    whole = resampled_cka(x, y, np.ones((1, 300)), debiased=True)
    assert whole[0] == pytest.approx(value, abs=1e-12)


def test_an_interval_is_the_middle_95_percent_of_what_is_defined():
    assert interval([np.nan, *range(101), np.inf]) == {"low": 2.5, "high": 97.5}
    assert np.isnan(interval([np.nan])["low"])


def literal_lns(x, y, k):
    def neighbours(rows, i):
        cosine = [rows[i] @ row / np.linalg.norm(rows[i]) / np.linalg.norm(row) for row in rows]
        order = sorted((j for j in range(len(rows)) if j != i), key=lambda j: -cosine[j])
        return set(order[:k])

    shares = []
    for i in range(len(x)):
        one, other = neighbours(x, i), neighbours(y, i)
        shares.append(len(one & other) / len(one | other))
    return shares


def test_fast_lns_is_the_literal_formula():
    x = gaussian(60, 5, 1)
    y = x + 0.3 * gaussian(60, 5, 2)
    near = [neighbourhoods.nearest(rows, 4, rows=7) for rows in (x, y)]
    assert neighbourhoods.overlap(*near) == pytest.approx(literal_lns(x, y, 4))
    assert (near[0].sum(axis=1) == 4).all() and not near[0].diagonal().any()


def test_lns_of_the_same_space_is_1_and_of_unrelated_ones_chance():
    x = gaussian(1000, 20, 1)
    k = neighbourhoods.number_of_neighbours(1000)
    assert k == 50
    near = neighbourhoods.nearest(x, k)
    assert neighbourhoods.overlap(near, neighbourhoods.nearest(7 * x, k)).mean() == 1
    other = neighbourhoods.nearest(gaussian(1000, 20, 2), k)
    chance = neighbourhoods.chance(k, 1000)
    assert chance == pytest.approx(50 / 1950)
    assert neighbourhoods.overlap(near, other).mean() == pytest.approx(chance, rel=0.03)


def test_impossible_numbers_of_neighbours():
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"{k} neighbours of 5"):
            neighbourhoods.nearest(gaussian(5, 2, 1), k)
