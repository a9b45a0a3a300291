"""bfloat16 autocast is chosen only where it was measured to be clearly faster."""

from __future__ import annotations

import pytest
import torch

from fairseq_ffn import cpu_speed

SHAPE = {"d_model": 128, "d_ff": 256, "vocabulary": 400, "tokens": 64, "threads": 1}


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize(
    ("single", "half", "expected"),
    [(1.0, 0.5, "bfloat16"), (1.0, 0.9, "none"), (1.0, 10.0, "none")],
)
def test_choice_is_the_cpus_also_beside_a_gpu(monkeypatch, single, half, expected, gpu):
    monkeypatch.setattr(
        cpu_speed, "_seconds", lambda model, x, bfloat16, **_: half if bfloat16 else single
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert cpu_speed.faster_cpu_autocast(**SHAPE) == expected


def test_the_products_of_training_are_timed_with_its_threads(monkeypatch):
    seen = []

    def watch(model, x, bfloat16, **_):
        widths = [tuple(weight.shape) for weight in model.parameters() if weight.dim() == 2]
        seen.append((tuple(x.shape), widths, torch.get_num_threads()))
        return 1.0

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(cpu_speed, "_seconds", watch)
        cpu_speed.faster_cpu_autocast(**SHAPE)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert len(seen) == 2
    for shape, widths, threads in seen:
        assert shape == (64, 128) and threads == 1
        assert {(256, 128), (128, 256), (400, 128)} <= set(widths)


def test_a_real_measurement_gives_one_of_the_flags_values():
    assert cpu_speed.faster_cpu_autocast(**SHAPE) in ("none", "bfloat16")


class Lab:
    """Fake times instead of ``_seconds_once``: seconds of MKL and oneDNN, one pair a round.

    The first round isn't counted, so its times are absurd.
    """

    def __init__(self, monkeypatch, rounds):
        self.rounds = [(1.0, 1e9), *rounds]
        #: ``(rows, whether oneDNN was on)`` of each pass
        self.passes = []
        monkeypatch.setattr(cpu_speed, "_seconds_once", self.seconds)

    def seconds(self, model, x, bfloat16=False):
        assert not bfloat16 and x.requires_grad  # else the first input gradient is left out
        on = torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        default, other = self.rounds[len(self.passes) // 2]
        self.passes.append((len(x), on))
        return other if on else default


#: rounds that oneDNN wins by 1.6 and loses
WON, LOST = (1.0, 0.625), (1.0, 1.02)


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([WON] * 9, "onednn"),
        ([WON] * 4 + [LOST] + [WON] * 4, "onednn"),
        # faster in the middle, but not in nearly all rounds
        ([WON] * 4 + [LOST] + [WON] * 3 + [LOST], "default"),
        ([(1.0, 0.2), LOST] * 5, "default"),
        # in all rounds, but not by much
        ([(1.0, 0.75)] * 9, "default"),
        # great gains in few rounds don't make up for the others
        ([(1.0, 0.1)] * 4 + [(1.0, 0.95)] * 5, "default"),
        # slower by a little is slower
        ([(1.0, 1.001)] * 9, "default"),
    ],
)
def test_onednn_is_chosen_where_it_is_clearly_faster_in_nearly_all_rounds(
    monkeypatch, rounds, expected
):
    Lab(monkeypatch, rounds)
    assert cpu_speed.faster_cpu_matmul(**SHAPE) == expected
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"


def test_libraries_are_timed_in_turn_on_batches_of_different_length(monkeypatch):
    lab = Lab(monkeypatch, [WON] * 9)
    cpu_speed.faster_cpu_matmul(**SHAPE)
    assert len(lab.passes) == 20
    pairs = list(zip(lab.passes[::2], lab.passes[1::2]))
    assert all(one[0] == other[0] and one[1] != other[1] for one, other in pairs)
    assert len({one[0] for one, _ in pairs}) == 10  # oneDNN has seen none of them before
    assert min(rows for rows, _ in lab.passes) == SHAPE["tokens"]
    assert [first[1] for first, _ in pairs] == [True, False] * 5


def test_the_measurement_ends_when_the_answer_is_known(monkeypatch):
    lab = Lab(monkeypatch, [LOST] * 9)
    assert cpu_speed.faster_cpu_matmul(**SHAPE) == "default"
    assert len(lab.passes) == 2 * (1 + 2)


def test_the_switch_is_off_again_after_an_error(monkeypatch):
    def fail(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr(cpu_speed, "_seconds_once", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        cpu_speed.faster_cpu_matmul(**SHAPE)
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"


def test_measuring_draws_no_random_numbers():
    before = torch.get_rng_state()
    cpu_speed.faster_cpu_matmul(**SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
