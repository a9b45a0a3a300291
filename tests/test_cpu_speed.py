"""bfloat16 autocast is chosen only where it was measured to be clearly faster."""

from __future__ import annotations

import pytest
import torch

from fairseq_ffn import cpu_speed


@pytest.mark.parametrize(
    ("single", "half", "expected"),
    [(1.0, 0.5, "bfloat16"), (1.0, 0.9, "none"), (1.0, 10.0, "none")],
)
def test_choice(monkeypatch, single, half, expected):
    seconds = {torch.float32: single, torch.bfloat16: half}
    monkeypatch.setattr(cpu_speed, "_seconds", lambda dtype, **_: seconds[dtype])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cpu_speed.faster_cpu_autocast() == expected


def test_a_gpu_needs_no_cpu_autocast(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cpu_speed.faster_cpu_autocast() == "none"


def test_a_real_measurement_gives_one_of_the_flags_values():
    assert cpu_speed.faster_cpu_autocast() in ("none", "bfloat16")
