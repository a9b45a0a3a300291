"""A model with shared modules is an unshared model into which the same weights were copied."""

from __future__ import annotations

from typing import Dict, List, Set, Tuple

import pytest
import torch
from helpers import assert_gradients_under_ddp, batch, build, built_at_random, gradients, logits
from torch import nn

from models.sharing_cases import CASES, FOUR, at, layer, shared_model, unshared_copy


@pytest.mark.parametrize("name", CASES)
class TestSharing:
    def test_groups_are_those_of_the_layout(self, name):
        case, model = CASES[name], shared_model(CASES[name])
        expected: Set[frozenset] = set()
        for parts, groups in case.groups.items():
            for group in groups:
                expected |= {
                    frozenset(f"{user} {part}" for user in group.split()) for part in parts
                }
        users: Dict[int, Set[str]] = {}
        for user in [f"{stack}{number}" for stack in "ed" for number in range(4)]:
            for path, module in layer(model, user).named_modules():
                if isinstance(module, (nn.Linear, nn.LayerNorm)):
                    users.setdefault(id(module), set()).add(f"{user} {path}")
        assert {frozenset(names) for names in users.values() if len(names) > 1} == expected

    def test_outputs_equal_those_of_the_unshared_copy(self, name):
        shared = shared_model(CASES[name])
        unshared = unshared_copy(shared, CASES[name])
        with torch.no_grad():
            assert torch.equal(logits(shared, batch()), logits(unshared, batch()))

    def test_gradient_is_the_sum_of_the_copies_gradients(self, name):
        shared = shared_model(CASES[name])
        unshared = unshared_copy(shared, CASES[name])
        of_copies = gradients(unshared, batch())
        summed: Dict[int, torch.Tensor] = {}
        for path, gradient in of_copies.items():
            key = id(at(shared, path))
            summed[key] = summed.get(key, 0) + gradient
        of_shared = gradients(shared, batch())
        assert len(of_shared) == len(summed) < len(of_copies)
        for path, gradient in of_shared.items():
            expected = summed[id(at(shared, path))]
            assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-11), path


def test_attention_that_shares_weights_keeps_a_cache_of_its_own():
    model = build("transformer_ffn", **FOUR, decoder_self_attn_layout="shared")
    first, second = (model.decoder.layers[number].self_attn for number in (0, 1))
    assert first is not second
    assert first.q_proj is second.q_proj


@pytest.mark.parametrize(
    "flags, built",
    [
        ({}, 8),
        ({"encoder_ffn_layout": "shared"}, 5),
        ({"encoder_ffn_layout": "tied", "decoder_ffn_layout": "tied"}, 1),
        ({"encoder_ffn_layout": "shared", "decoder_ffn_layout": "none"}, 1),
        ({"encoder_ffn_layout": "none", "decoder_ffn_layout": "none"}, 0),
        ({"encoder_ffn_layout": "cycle:2", "decoder_ffn_layout": "a,-,a,b"}, 4),
        ({"encoder_ffn_layout": "@x,a,a,-", "decoder_ffn_layout": "b,@x,@x,@x"}, 3),
        ({"encoder_block": "parallel", "encoder_ffn_layout": "shared"}, 5),
    ],
)
def test_an_ffn_is_built_once(flags, built, monkeypatch):
    sizes: List[Tuple[int, int]] = []
    construct = nn.Linear.__init__

    def counting(self, inputs, outputs, *args, **kwargs):
        sizes.append((inputs, outputs))
        construct(self, inputs, outputs, *args, **kwargs)

    monkeypatch.setattr(nn.Linear, "__init__", counting)
    build("transformer_ffn", **{**FOUR, **flags})
    assert sizes.count((16, 24)) == sizes.count((24, 16)) == built


@pytest.mark.parametrize(
    "flags, built",
    [
        ({}, 12),
        ({"encoder_self_attn_layout": "shared"}, 9),
        ({"decoder_self_attn_layout": "cycle:2", "decoder_cross_attn_layout": "shared"}, 7),
        ({"encoder_self_attn_layout": "tied", "decoder_self_attn_layout": "tied"}, 5),
        ({"encoder_self_attn_layout": "@x,a,a,a", "decoder_self_attn_layout": "b,@x,@x,b"}, 7),
    ],
)
def test_attention_projections_are_built_once(flags, built, monkeypatch):
    filled = []
    construct = nn.Linear.__init__

    def counting(self, inputs, outputs, *args, **kwargs):
        construct(self, inputs, outputs, *args, **kwargs)
        if inputs == outputs and not self.weight.is_meta:
            filled.append(self)

    monkeypatch.setattr(nn.Linear, "__init__", counting)
    model = build("transformer_ffn", **{**FOUR, **flags})
    assert len(filled) == 4 * built
    assert not any(p.is_meta for p in (*model.parameters(), *model.buffers()))


def test_layerdrop_with_a_shared_ffn_drops_layers_and_not_the_ffn():
    flags = {**FOUR, "encoder_ffn_layout": "shared", "dropout": 0.0}
    dropping = built_at_random("transformer_ffn", **flags, encoder_layerdrop=0.5)
    plain = built_at_random("transformer_ffn", **flags)
    with torch.no_grad():
        expected = logits(plain, batch())
        assert torch.equal(logits(dropping, batch()), expected)
        dropping.train()
        seen = set()
        for seed in range(8):
            torch.manual_seed(seed)
            seen.add(round(logits(dropping, batch()).sum().item(), 6))
    assert len(seen) > 3


@pytest.mark.parametrize("config", ["shared_enc_no_dec", "shared_enc_dec"])
def test_gradients_under_pytorchs_ddp(config):
    """DDP counts each parameter once, however many layers use it."""
    name = f"transformer_ffn_tiny_{config}"
    plain = build(name, share_all_embeddings=True, dtype=torch.float64)
    wrapped = build(name, share_all_embeddings=True, dtype=torch.float64)
    assert_gradients_under_ddp(plain, wrapped)
