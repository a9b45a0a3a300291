from __future__ import annotations

import pytest

from fairseq_ffn.latency.break_even import Crossing, break_even
from fairseq_ffn.latency.comparison import Ratio


def found(*ratios, half=0.05):
    """Of batch sizes 1, 2, 4, ...; every interval is the ratio and ``half`` to both sides."""
    sizes = [2**index for index in range(len(ratios))]
    return break_even(sizes, [Ratio("a", "b", one, one - half, one + half) for one in ratios])


@pytest.mark.parametrize(
    ("ratios", "faster", "slower", "untold"),
    [
        ((1.3, 1.2, 1.1), [1, 2, 4], [], []),
        ((0.9, 0.8, 0.7), [], [1, 2, 4], []),
        ((1.01, 0.98, 1.04), [], [], [1, 2, 4]),  # a model against its own copy
        ((1.2, 1.02, 0.97), [1], [], [2, 4]),  # crosses 1, but it may be noise
    ],
)
def test_no_crossing_that_the_intervals_are_not_sure_of(ratios, faster, slower, untold):
    result = found(*ratios)
    assert (result.faster, result.slower, result.not_told_apart) == (faster, slower, untold)
    assert result.crossings == []


def test_without_an_interval_nothing_is_sure():
    ratios = [Ratio("a", "b", 2.0, None, None), Ratio("a", "b", 0.5, 0.4, 0.6)]
    result = break_even([1, 2], ratios)
    assert (result.not_told_apart, result.slower, result.crossings) == ([1], [2], [])


def test_a_crossing_lies_between_the_last_sure_size_and_the_first():
    result = found(1.3, 1.1, 1.0, 0.9, 0.8)
    assert (result.faster, result.not_told_apart, result.slower) == ([1, 2], [4], [8, 16])
    assert result.crossings == [Crossing(pytest.approx(4.0), (2, 8), True)]


def test_a_crossing_is_interpolated_in_logarithms():
    (crossing,) = found(2.0, 0.25).crossings  # log 2 above, two log 2 below
    assert crossing == Crossing(pytest.approx(2 ** (1 / 3)), (1, 2), True)
    (crossing,) = found(0.5, 2.0).crossings
    assert crossing == Crossing(pytest.approx(2**0.5), (1, 2), False)


def test_all_crossings_are_found():
    crossings = found(1.2, 0.8, 0.8, 1.2).crossings
    assert [crossing.between for crossing in crossings] == [(1, 2), (4, 8)]
    assert [crossing.faster_below for crossing in crossings] == [True, False]
    assert 1 < crossings[0].batch_size < 2 and 4 < crossings[1].batch_size < 8


def test_the_text_says_which_model_is_faster_where():
    assert str(found(1.3, 1.1, 1.0, 0.9, 0.8)) == (
        "a against b: faster at 1, 2; slower at 8, 16; not told apart at 4; "
        "faster below 4.0 (surely between 2 and 8)"
    )
    assert str(found(0.8, 1.25)) == (
        "a against b: faster at 2; slower at 1; faster above 1.4 (surely between 1 and 2)"
    )
    assert str(found(1.0, 1.01)) == "a against b: not told apart at 1, 2"
