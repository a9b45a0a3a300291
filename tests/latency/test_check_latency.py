"""The script that shows that measuring measures: its verdicts, not the times of this machine."""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

import numpy
import pytest
import torch
from helpers import SMALL, built_at_random

from fairseq_ffn.decoding.candidates import LoadedModel, random_batches, task_of_size
from fairseq_ffn.latency.comparison import Ratio

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import check_latency  # noqa: E402

#: random weights seldom end a sentence
SHORT = {**SMALL, "max_target_positions": 12}


@pytest.mark.parametrize(
    ("low", "high", "copy", "slow"),
    [
        (0.98, 1.01, True, False),
        (0.95, 0.99, False, True),
        (1.01, 1.03, False, False),
        (None, None, False, False),
    ],
)
def test_verdicts_on_copies(low, high, copy, slow):
    ratio = Ratio("a", "b", 1.0, low, high)
    assert check_latency.check_copy(ratio).passed is copy
    assert check_latency.check_slowed(ratio).passed is slow


@pytest.mark.parametrize(
    ("high", "passed"), [(0.009, True), (0.011, False), (-0.01, True), (None, False)]
)
def test_verdict_on_the_cost(high, passed):
    low = None if high is None else -0.02
    assert check_latency.check_cost("x", -0.015, low, high).passed is passed
    assert check_latency.check_cost("x", -0.015, low, high, control=True).passed is None


@pytest.mark.parametrize(
    ("ours", "passed"), [(100.0, True), (102.9, True), (103.1, False), (96.9, False)]
)
def test_verdict_on_the_stopwatch(ours, passed):
    assert check_latency.check_stopwatch(ours, 100.0).passed is passed
    text = "Translated 30 sentences (2,000 tokens) in 3.0s (10.00 sentences/s, 666.67 tokens/s)"
    assert check_latency.tokens_per_second(text) == 666.67


def test_verdict_on_the_bound():
    assert check_latency.check_bound(0.0009, 0.1, 10, 20).passed
    assert not check_latency.check_bound(0.0011, 0.1, 10, 20).passed


def test_one_failure_is_the_exit_status(capsys):
    good, bad, control = (
        check_latency.Check("what", "1", "so", passed) for passed in (True, False, None)
    )
    assert check_latency.verdict([good, control]) == 0
    assert check_latency.verdict([good, bad, good]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{word:6}  what: 1 (so)" for word in ("ok", "-", "ok", "FAILED", "ok")]


def test_a_cost_is_found_in_spite_of_moments_in_which_the_machine_is_busy():
    generator = numpy.random.default_rng(2)
    plain = generator.uniform(0.05, 0.2, 40) * numpy.ones((9, 1))

    def seconds():
        busy = (generator.random((9, 40)) < 0.05) * generator.exponential(0.1, (9, 40))
        return plain * generator.normal(1, 0.003, (9, 40)) + busy

    cost, low, high = check_latency.relative_cost(seconds(), 1.02 * seconds())
    assert cost == pytest.approx(0.02, abs=0.005) and low <= cost <= high
    control, passing, failing = (
        check_latency.costs(numpy.stack([seconds(), seconds(), factor * seconds()]))[index]
        for factor, index in ((1.0, 0), (1.0, 1), (1.02, 1))
    )
    assert control.passed is None
    assert passing.passed is True and failing.passed is False


def test_all_orders_come_equally_often_and_no_rubbish_is_collected_meanwhile():
    order = []
    collecting = []

    def side(name):
        def decode(batch):
            order.append((name, batch))
            collecting.append(gc.isenabled())

        return decode

    assert gc.isenabled()
    seconds = check_latency.in_turn([side("a"), side("b"), side("c")], range(6), 2)
    assert gc.isenabled()
    assert seconds.shape == (3, 2, 6) and (seconds >= 0).all()
    timed = order[9:]
    assert not any(collecting[9:])
    turns = [timed[start : start + 3] for start in range(0, 36, 3)]
    orders = [tuple(name for name, _ in turn) for turn in turns]
    assert [{batch for _, batch in turn} for turn in turns] == [{n % 6} for n in range(12)]
    assert len(set(orders[:6])) == 6 and orders[:6] == orders[6:]


@pytest.fixture()
def loaded():
    model = built_at_random("transformer_ffn", dtype=torch.float32, **SHORT)
    return LoadedModel("model", task_of_size(31), model)


def batches(loaded, count):
    return random_batches(loaded.task.source_dictionary, [3, 5], 1, count, check_latency.CPU)


def test_plain_and_measured_decode_the_same(loaded):
    batch = batches(loaded, 1)[0]
    plain = check_latency.plain(loaded)(batch)
    _, measured = check_latency.as_measured(loaded)(batch)
    assert [best["tokens"].tolist() for best in plain[0]] == [
        best["tokens"].tolist() for best in measured.output[0]
    ]


def test_the_stub_is_called_as_often_as_the_model(loaded, monkeypatch):
    steps, others = check_latency.calls_per_batch(loaded, batches(loaded, 3))
    assert steps >= 1 and others >= steps  # states are reordered at each step at least
    calls = []
    for name in ("forward_encoder", "forward_decoder", "reorder_encoder_out"):
        monkeypatch.setattr(
            check_latency.StubEnsemble, name, lambda *_, name=name: calls.append(name)
        )
    assert isinstance(check_latency.bound_seconds(4, 7, repeats=1), float)
    assert [
        calls.count(name) for name in ("forward_encoder", "forward_decoder", "reorder_encoder_out")
    ] == [
        2,
        2 * 4,
        2 * 7,
    ]


def test_all_checks_of_a_model_and_its_copies(loaded, monkeypatch, capsys):
    few = batches(loaded, 3)
    models = []

    def load(paths, data):
        models.extend(
            LoadedModel(
                "model",
                loaded.task,
                built_at_random("transformer_ffn", dtype=torch.float32, **SHORT),
            )
            for _ in paths
        )
        return models

    monkeypatch.setattr(check_latency, "load_checkpoints", load)
    monkeypatch.setattr(check_latency, "batches_of_set", lambda *_: few)
    args = argparse.Namespace(
        checkpoint="a.pt", data="bin", gen_subset="test", sentences=3, rounds=1, cost_rounds=None
    )
    checks = check_latency.in_process(args)
    assert len(checks) == 5 and len({check.what for check in checks}) == 5
    assert sum(check.passed is None for check in checks) == 1
    assert check_latency.verdict(checks) in (0, 1)
    assert len(capsys.readouterr().out.splitlines()) == 5
