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


def decoded(generator, batches, heavy):
    """Tokens and seconds of two models, of which the second is slower by 3%, as on real text."""
    tokens = generator.integers(5, 60, batches).astype(float)
    other = numpy.maximum(tokens + generator.integers(-2, 3, batches), 1)
    busy = generator.lognormal(0, 0.1, batches)  # the machine, for both
    noise = generator.lognormal(0, 0.03, (2, batches))
    if heavy:  # now and then something else runs
        noise *= 1 + (generator.random((2, batches)) < 0.1) * generator.exponential(
            0.2, noise.shape
        )
    return [tokens, other], [tokens * busy * noise[0], 1.03 * other * busy * noise[1]]


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("batches", [3, 5, 10, 20])
def test_the_interval_covers_the_truth_at_least_95_times_in_100(batches, heavy):
    generator = numpy.random.default_rng(batches)
    trials, hits = 500, 0
    for trial in range(trials):
        _, low, high = statistics.ratio_interval(
            *decoded(generator, batches, heavy), resamples=300, seed=trial
        )
        hits += low <= 1.03 <= high
    # three standard errors of 500 trials: 0.03
    assert hits / trials >= 0.92


def test_the_interval_is_not_wider_than_it_has_to_be():
    generator = numpy.random.default_rng(1)
    widths, drawn = [], []
    for _ in range(200):
        ratio, low, high = statistics.ratio_interval(
            *decoded(generator, 60, heavy=False), resamples=300
        )
        widths.append(high - low)
        drawn.append(ratio)
    assert numpy.mean(widths) == pytest.approx(2 * 1.96 * numpy.std(drawn), rel=0.15)


def test_one_batch_that_is_far_off_does_not_blow_the_interval_up():
    generator = numpy.random.default_rng(1)
    seconds = generator.lognormal(0, 0.001, (2, 40))
    seconds[1, 7] *= 1.6  # 1.5% of the sum
    ratio, low, high = statistics.ratio_interval(numpy.ones((2, 40)), seconds)
    assert 0.95 < low < 1 < ratio < high < 1.08


def test_the_interval_depends_on_the_seed_alone():
    values = decoded(numpy.random.default_rng(1), 8, heavy=False)
    assert statistics.ratio_interval(*values, seed=2) == statistics.ratio_interval(*values, seed=2)
    assert statistics.ratio_interval(*values, seed=2) != statistics.ratio_interval(*values, seed=3)


def test_standard_error_of_the_log_ratio_against_a_numerical_derivative():
    values = numpy.stack(decoded(numpy.random.default_rng(1), 6, heavy=False))
    log_ratio, error = statistics._log_ratio(values)
    assert log_ratio == pytest.approx(numpy.log(statistics.ratio_interval(*values)[0]))
    # influence of a batch: how the log ratio moves as the batch counts a little more
    influence = []
    for batch in range(6):
        weights = numpy.ones(6)
        weights[batch] += 1e-6
        (tokens, others), (seconds, slower) = (values * weights).sum(-1)
        influence.append((numpy.log(tokens / seconds / (others / slower)) - log_ratio) / 1e-6)
    expected = numpy.sqrt(numpy.sum(numpy.square(influence)) * 6 / 5)
    assert error == pytest.approx(expected, rel=1e-3)


def test_two_batches_are_too_few_for_an_interval():
    ratio, low, high = statistics.ratio_interval([[20, 20], [10, 10]], [[1, 1], [1, 2]])
    assert (ratio, low, high) == (pytest.approx(3.0), None, None)


def test_more_tokens_in_the_same_time_are_faster():
    ratio, low, high = statistics.ratio_interval([[20] * 3, [10] * 3], [[1] * 3] * 2)
    assert (ratio, low, high) == pytest.approx((2.0, 2.0, 2.0))
