"""The fused Adam is fairseq's: same updates, same state, and each goes on where the other was."""

from __future__ import annotations

import copy

import pytest
import torch
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from omegaconf import OmegaConf

from fairseq_ffn.errors import UserError
from fairseq_ffn.optim import adam_fused

SHAPES = [(7, 5), (40,), (1,), (3, 4, 2)]


def settings(**more):
    config = {"lr": [0.01], "adam_betas": "(0.9, 0.98)", "weight_decay": 0.0, "tpu": False, **more}
    return OmegaConf.structured(FairseqAdamConfig(**config))


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for shape in SHAPES
    ]


def train(optimizer, parameters, steps, start=0):
    """Updates by random gradients of very different sizes; some parameters have none at times."""
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(100 + step)
        optimizer.set_lr(0.01 / (1 + step))
        for number, parameter in enumerate(parameters):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            skipped = number == 2 and step % 3 == 1
            parameter.grad = None if skipped else (noise * 10.0 ** (-3 * number)).to(parameter)
        optimizer.step()


@pytest.mark.parametrize("eps", [1e-8, 1e-2])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_updates_are_those_of_fairseqs_adam(dtype, tolerance, decay, eps):
    found = []
    for kind in (FairseqAdam, adam_fused.FairseqAdam):
        values = parameters(dtype)
        optimizer = kind(settings(weight_decay=decay, adam_eps=eps), values)
        train(optimizer, values, steps=7)
        found.append((values, optimizer.optimizer.state_dict()["state"]))
    (stock, stock_state), (ours, our_state) = found
    for one, other, start in zip(ours, stock, parameters(dtype)):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
        # a great eps holds small gradients back
        assert not torch.equal(one, start) or eps > 1e-3
    for number, state in stock_state.items():
        assert our_state[number].keys() == state.keys()
        assert our_state[number]["step"] == state["step"] == (5 if number == 2 else 7)
        for name in ("exp_avg", "exp_avg_sq"):
            near = {"rtol": tolerance, "atol": tolerance * state[name].abs().max().item()}
            torch.testing.assert_close(our_state[number][name], state[name], **near)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_training_changes_from_one_to_the_other(order):
    kinds = (FairseqAdam, adam_fused.FairseqAdam)
    straight = parameters()
    train(FairseqAdam(settings(), straight), straight, steps=6)
    values = parameters()
    first = kinds[order[0]](settings(), values)
    train(first, values, steps=3)
    second = kinds[order[1]](settings(), values)
    # what fairseq's trainer compares before it goes on from a checkpoint
    assert type(first).__name__ == type(second).__name__
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(second, values, steps=3, start=3)
    for one, other in zip(values, straight):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_the_fused_kernel_is_what_runs(monkeypatch):
    called = []
    kernel = adam_fused.adamw

    def watch(*args, **kwargs):
        called.append(kwargs["fused"])
        return kernel(*args, **kwargs)

    monkeypatch.setattr(adam_fused, "adamw", watch)
    values = parameters()
    train(adam_fused.FairseqAdam(settings(), values), values, steps=1)
    assert called == [True]


def test_half_precision_takes_fairseqs_way():
    found = []
    for kind in (FairseqAdam, adam_fused.FairseqAdam):
        values = parameters(torch.bfloat16)
        train(kind(settings(), values), values, steps=2)
        found.append(values)
    for one, other in zip(*found):
        assert torch.equal(one, other)


def test_statistics_in_half_precision_are_refused():
    with pytest.raises(UserError, match="--fp16-adam-stats .* --optimizer adam_fused"):
        adam_fused.FairseqAdam(settings(fp16_adam_stats=True), parameters())
