from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fairseq_ffn.latency import statistics


def test_mean_spread_and_interval_over_runs():
    record = statistics.over_runs([10.0, 12.0, 11.0, 13.0, 14.0])
    assert record["mean"] == pytest.approx(12.0)
    assert record["std"] == pytest.approx((10 / 4) ** 0.5)
    half = 2.776445 * (10 / 4) ** 0.5 / 5**0.5
    assert record["interval95"] == pytest.approx([12 - half, 12 + half], rel=1e-4)
    assert record["runs"] == [10.0, 12.0, 11.0, 13.0, 14.0]


def test_one_run_has_no_spread():
    assert statistics.over_runs([3.0]) == {
        "mean": 3.0,
        "std": None,
        "interval95": None,
        "runs": [3.0],
    }


@pytest.mark.parametrize("degrees", [1, 2, 4, 9, 30, 31, 50, 200])
def test_quantiles_of_student(degrees):
    assert statistics.t95(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-4)


def test_percentiles_are_values_that_occurred():
    values = list(range(1, 101))
    record = statistics.spread(values)
    assert record == {"mean": 50.5, "p50": 50.0, "p90": 90.0, "p99": 99.0}


def test_weights_repeat_values():
    # one batch of 9 sentences took 1, one of a single sentence took 11
    assert statistics.spread([1.0, 11.0], [9, 1]) == {
        "mean": 2.0,
        "p50": 1.0,
        "p90": 1.0,
        "p99": 11.0,
    }


@given(st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=50))
def test_percentiles_by_their_definition(values):
    record = statistics.spread(values)
    for percent in (50, 90, 99):
        limit = record[f"p{percent}"]
        enough = sum(value <= limit for value in values) / len(values)
        below = sum(value < limit for value in values) / len(values)
        assert limit in values
        assert enough >= percent / 100 - 1e-12 and below < percent / 100


def test_ratio_of_a_model_and_itself_is_one():
    generator = numpy.random.default_rng(0)
    seconds = generator.uniform(0.1, 3.0, 40)
    tokens = generator.integers(5, 50, 40)
    assert statistics.ratio_interval([tokens, tokens], [seconds, seconds]) == (1.0, 1.0, 1.0)


def test_a_constant_factor_is_found_whatever_the_sentences():
    seconds = numpy.random.default_rng(0).uniform(0.1, 3.0, 40)
    tokens = numpy.full(40, 20)
    ratio = statistics.ratio_interval([tokens, tokens], [seconds, 1.03 * seconds])
    assert ratio == pytest.approx((1.03, 1.03, 1.03))


def test_the_interval_covers_the_truth_about_95_times_in_100():
    generator = numpy.random.default_rng(3)
    hits = 0
    for trial in range(100):
        first = generator.gamma(5.0, 1.0, 60)
        second = first * 1.1 * generator.lognormal(0.0, 0.1, 60)
        truth = 1.1 * numpy.exp(0.1**2 / 2)
        tokens = numpy.ones(60)
        _, low, high = statistics.ratio_interval(
            [tokens, tokens], [first, second], resamples=200, seed=trial
        )
        hits += low <= truth <= high
    assert 87 <= hits <= 99


def test_more_tokens_in_the_same_time_are_faster():
    ratio, low, high = statistics.ratio_interval([[20, 20], [10, 10]], [[1, 1], [1, 1]])
    assert (ratio, low, high) == (2.0, 2.0, 2.0)
