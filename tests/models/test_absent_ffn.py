"""A layer without FFN and one whose FFN gives 0 are one function."""

from __future__ import annotations

import pytest
import torch
from helpers import SMALL, batch, build, built_at_random, cloned, logits

from fairseq_ffn.models.absent_ffn import insert_ffn, remove_ffn, silent_ffn

BOTH = ("encoder", "decoder")


def without_ffn(pre_norm: bool, scale: float = 1.0, **flags):
    norms = {f"{stack}_normalize_before": pre_norm for stack in BOTH}
    layouts = {f"{stack}_ffn_layout": "none" for stack in BOTH}
    return built_at_random("transformer_ffn", **{**SMALL, **norms, **layouts, **flags})


def inserted(model, pre_norm: bool, width: int = 3):
    state = cloned(model.state_dict())
    silent = silent_ffn(16, width, torch.float64)
    for stack in BOTH:
        for layer in range(3):
            insert_ffn(state, f"{stack}.layers.{layer}.", silent, pre_norm)
    return state


@pytest.mark.parametrize("width", [2, 24])
@pytest.mark.parametrize("cross", [True, False])
def test_pre_norm_is_equal_to_the_bit(width, cross):
    model = without_ffn(True, no_cross_attention=not cross)
    flags = {f"{stack}_ffn_embed_dim": width for stack in BOTH}
    norms = {f"{stack}_normalize_before": True for stack in BOTH}
    plain = build(
        "transformer", **{**SMALL, **norms, **flags, "no_cross_attention": not cross}
    ).double()
    plain.load_state_dict(inserted(model, True, width))
    sentences = batch()
    assert torch.equal(logits(plain.eval(), sentences), logits(model, sentences))


@pytest.mark.parametrize("cross", [True, False])
def test_post_norm_differs_by_epsilon_only(cross):
    model = without_ffn(False, no_cross_attention=not cross)
    flags = {f"{stack}_ffn_embed_dim": 3 for stack in BOTH}
    plain = build("transformer", **{**SMALL, **flags, "no_cross_attention": not cross}).double()
    plain.load_state_dict(inserted(model, False))
    sentences, expected = batch(), logits(model, batch())
    differ = (logits(plain.eval(), sentences) - expected).abs().max() / expected.abs().max()
    assert 0 < differ < 1e-4


def test_the_factor_is_what_the_docs_say():
    """1 + eps/2 (1/v - 1) for a vector of variance v."""
    z = torch.randn(64, dtype=torch.float64)
    z = (z - z.mean()) / z.std(unbiased=False)
    for variance in (0.01, 0.5, 1.0, 7.0):
        norm = torch.nn.LayerNorm(64).double()
        once = norm(z * variance**0.5)
        factor = (norm(once) / once).mean().item()
        expected = 1 + 1e-5 / 2 * (1 / variance - 1)
        assert factor == pytest.approx(expected, abs=2e-7 / variance**2)


def test_moving_the_affine_part_is_needed():
    """Left on the first norm, it makes the second one another function."""
    norm = torch.nn.LayerNorm(16).double()
    torch.nn.init.uniform_(norm.weight, 0.5, 2)
    torch.nn.init.uniform_(norm.bias, -1, 1)
    h = torch.randn(9, 16, dtype=torch.float64)
    plain = torch.nn.functional.layer_norm
    assert torch.allclose(norm(plain(h, (16,))), norm(h), atol=1e-4)
    assert not torch.allclose(plain(norm(h), (16,)), norm(h), atol=1e-1)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_removing_undoes_inserting_to_the_bit(pre_norm):
    model = without_ffn(pre_norm)
    state = inserted(model, pre_norm)
    for stack in BOTH:
        for layer in range(3):
            remove_ffn(state, f"{stack}.layers.{layer}.", pre_norm)
    expected = model.state_dict()
    assert set(state) == set(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_two_norms_become_one_that_is_close():
    """Against the plain alternatives: keeping either of the two."""
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.nn.LayerNorm(256).double() for _ in range(2))
    for norm in (first, second):
        norm.weight.data = 1 + 0.2 * torch.randn(256, generator=generator).double()
        norm.bias.data = 0.3 * torch.randn(256, generator=generator).double()
    state = {
        **{f"l.self_attn_layer_norm.{name}": value for name, value in first.state_dict().items()},
        **{f"l.final_layer_norm.{name}": value for name, value in second.state_dict().items()},
    }
    remove_ffn(state, "l.", pre_norm=False)
    h = torch.randn((99, 256), generator=generator, dtype=torch.float64)
    wanted = second(first(h))

    def error(gain, bias) -> float:
        value = torch.nn.functional.layer_norm(h, (256,), gain, bias)
        return ((value - wanted).square().mean() / wanted.square().mean()).item()

    merged = error(state["l.self_attn_layer_norm.weight"], state["l.self_attn_layer_norm.bias"])
    assert (
        merged
        < 0.01
        < 0.02
        < min(error(first.weight, first.bias), error(second.weight, second.bias))
    )
