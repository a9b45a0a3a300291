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


@pytest.mark.parametrize(
    ("default", "other", "expected"), [(1.0, 0.5, "onednn"), (1.0, 0.95, "default")]
)
def test_another_kernel_is_chosen_where_it_is_clearly_faster(monkeypatch, default, other, expected):
    switched = []

    def seconds(*_, **__):
        switched.append(torch.backends.mkldnn.matmul.fp32_precision)
        return default if len(switched) == 1 else other

    monkeypatch.setattr(cpu_speed, "_seconds", seconds)
    assert cpu_speed.faster_cpu_matmul(**SHAPE) == expected
    assert switched == ["none", "bf16"]
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"


def test_measuring_draws_no_random_numbers():
    before = torch.get_rng_state()
    cpu_speed.faster_cpu_matmul(**SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
