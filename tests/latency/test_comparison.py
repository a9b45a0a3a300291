from __future__ import annotations

import pytest

from fairseq_ffn.latency.comparison import Candidate, Interleaved, Ratio
from fairseq_ffn.latency.comparison_record import ratio_of
from latency.fakes import FakeClock, FakeModel


def interleaved(factors, batches=8, rounds=5, drift=0.0, seed=1):
    """Models of which each is slower by its factor, on a machine that slows down steadily."""
    clock = FakeClock()
    order = []

    def candidate(number, factor):
        model = FakeModel(clock, [1.0 + batch for batch in range(batches)], factor)

        def decode(batch):
            order.append((number, batch))
            before = clock.time
            decoded = model.decode(batch)
            clock.time = before + (clock.time - before) * (1 + drift * len(order))
            return decoded

        return Candidate(f"model {number}", decode)

    compared = Interleaved(
        [candidate(number, factor) for number, factor in enumerate(factors)],
        range(batches),
        rounds,
        seed,
    )
    compared.run(clock, warmup=2)
    return compared, order


def test_every_model_decodes_every_batch_in_every_round_next_to_the_others():
    compared, order = interleaved([1.0, 1.0, 1.0], batches=4, rounds=3)
    order = order[2 * 3 :]  # warm-up
    assert len(order) == 3 * 4 * 3
    turns = [order[start : start + 3] for start in range(0, len(order), 3)]
    for number, turn in enumerate(turns):
        assert {batch for _, batch in turn} == {number % 4}
        assert {model for model, _ in turn} == {0, 1, 2}
    assert len({tuple(model for model, _ in turn) for turn in turns}) > 1, "order isn't shuffled"
    assert all(len(one) == 4 for model in compared.timed for one in model)


def test_the_order_depends_on_the_seed_alone():
    assert interleaved([1.0, 1.0], seed=3)[1] == interleaved([1.0, 2.0], seed=3)[1]
    assert interleaved([1.0, 1.0], seed=3)[1] != interleaved([1.0, 1.0], seed=4)[1]


def test_a_copy_has_ratio_one():
    ratio = interleaved([1.0, 1.0])[0].ratio(1, 0)
    assert (ratio.ratio, ratio.low, ratio.high) == (1.0, 1.0, 1.0)
    assert (ratio.name, ratio.baseline) == ("model 1", "model 0")


def test_a_slow_down_of_three_percent_is_found_on_a_drifting_machine():
    # the machine becomes 9 times slower meanwhile
    compared, _ = interleaved([1.0, 1.03], batches=40, rounds=10, drift=0.01)
    slower = compared.ratio(1, 0)
    assert slower.low < 1 / 1.03 < slower.high < 1
    copy = interleaved([1.0, 1.0], batches=40, rounds=10, drift=0.01)[0].ratio(1, 0)
    assert copy.low <= 1 <= copy.high


def test_ratios_of_all_pairs():
    compared, _ = interleaved([1.0, 2.0, 4.0])
    found = {(ratio.name, ratio.baseline): ratio.ratio for ratio in compared.ratios()}
    assert found == pytest.approx(
        {
            ("model 1", "model 0"): 0.5,
            ("model 2", "model 0"): 0.25,
            ("model 2", "model 1"): 0.5,
        }
    )


def test_speed_and_encoder_share():
    compared, _ = interleaved([1.0, 2.0], batches=2, rounds=3)
    speed = compared.tokens_per_second(0)
    assert speed["runs"] == [10.0] * 3
    assert compared.tokens_per_second(1)["mean"] == 5.0
    assert compared.encoder_share(0) == pytest.approx(0.5 / 3)
    assert compared.encoder_share(1) == pytest.approx(0.5 / 6)


def test_between_two_rounds_something_can_be_done_outside_the_timer():
    clock = FakeClock()
    events = []
    model = FakeModel(clock, [1.0, 2.0])

    def decode(batch):
        events.append(batch)
        return model.decode(batch)

    def between():
        events.append("between")
        clock.time += 100.0

    compared = Interleaved([Candidate("model", decode)], range(2), 3)
    compared.run(clock, warmup=1, between=between)
    assert events == [1, 0, 1, "between", 0, 1, "between", 0, 1]
    assert [[timed.seconds for timed in one] for one in compared.timed[0]] == [[1.0, 2.0]] * 3


def test_too_few_batches_for_an_interval_are_said():
    ratio = interleaved([1.0, 2.0], batches=2)[0].ratio(1, 0)
    assert (ratio.low, ratio.high) == (None, None)
    assert str(ratio) == "0.500 [too few batches]"
    assert str(interleaved([1.0, 2.0], batches=3)[0].ratio(1, 0)) == "0.500 [0.500, 0.500]"


def test_a_ratio_without_an_interval_is_read_from_a_record():
    table = {"ratios": [{"name": "b", "baseline": "a", "ratio": 2.0, "low": None, "high": None}]}
    assert ratio_of(table, "b", "a") == Ratio("b", "a", 2.0, None, None)
    assert ratio_of(table, "a", "b") == Ratio("a", "b", 0.5, None, None)
    table["ratios"][0].update(low=1.0, high=4.0)
    assert ratio_of(table, "a", "b") == Ratio("a", "b", 0.5, 0.25, 1.0)
