"""Parallel layers equal the formulas of their docstrings, and have just the norms named there."""

from __future__ import annotations

from typing import Dict, Set

import pytest
import torch
from helpers import PRE_NORM, SMALL, build, randomise

from fairseq_ffn.errors import UserError
from modules.literal import (
    CLOSE,
    Decoder,
    Encoder,
    attention_with_weights,
    norm,
    one_layer_each,
    padding,
    parameters_of,
    states,
)

PARALLEL = {"encoder_block": "parallel", "decoder_block": "parallel"}
HALF = {"decoder_block": "parallel-cross-ffn"}
OWN = {**PRE_NORM, "parallel_norm": "own"}
NO_FFN = {"encoder_ffn_layout": "none", "decoder_ffn_layout": "none"}
NO_CROSS = {"no_cross_attention": True}
SCALES = pytest.mark.parametrize("scale", ["none", "sqrt"])


def factor(scale: str, branches: int) -> float:
    return {"none": 1.0, "sqrt": branches**-0.5}[scale]


def assert_equal(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, **CLOSE)


@SCALES
class TestEncoder:
    def layer(self, scale: str, **flags: object) -> Encoder:
        return Encoder(one_layer_each(**PARALLEL, parallel_scale=scale, **flags)[0])

    def test_post_norm(self, scale):
        m, s = self.layer(scale), factor(scale, 2)
        assert_equal(m.output(), norm(m.LN1, m.x + s * (m.SA(m.x) + m.FFN(m.x))))

    def test_pre_norm_shared(self, scale):
        m, s = self.layer(scale, **PRE_NORM), factor(scale, 2)
        u = norm(m.LN1, m.x)
        assert_equal(m.output(), m.x + s * (m.SA(u) + m.FFN(u)))

    def test_pre_norm_own(self, scale):
        m, s = self.layer(scale, **OWN), factor(scale, 2)
        expected = m.x + s * (m.SA(norm(m.LN1, m.x)) + m.FFN(norm(m.LN3, m.x)))
        assert_equal(m.output(), expected)

    def test_post_norm_without_ffn(self, scale):
        m = self.layer(scale, **NO_FFN)
        assert_equal(m.output(), norm(m.LN1, m.x + m.SA(m.x)))

    @pytest.mark.parametrize("flags", [PRE_NORM, OWN], ids=["shared", "own"])
    def test_pre_norm_without_ffn(self, scale, flags):
        m = self.layer(scale, **NO_FFN, **flags)
        assert_equal(m.output(), m.x + m.SA(norm(m.LN1, m.x)))


@SCALES
class TestDecoder:
    def layer(self, scale: str, **flags: object) -> Decoder:
        return Decoder(one_layer_each(**PARALLEL, parallel_scale=scale, **flags)[1])

    def test_post_norm(self, scale):
        m, s = self.layer(scale), factor(scale, 3)
        assert_equal(m.output(), norm(m.LN1, m.x + s * (m.SA(m.x) + m.CA(m.x) + m.FFN(m.x))))

    def test_pre_norm_shared(self, scale):
        m, s = self.layer(scale, **PRE_NORM), factor(scale, 3)
        u = norm(m.LN1, m.x)
        assert_equal(m.output(), m.x + s * (m.SA(u) + m.CA(u) + m.FFN(u)))

    def test_pre_norm_own(self, scale):
        m, s = self.layer(scale, **OWN), factor(scale, 3)
        branches = m.SA(norm(m.LN1, m.x)) + m.CA(norm(m.LN2, m.x)) + m.FFN(norm(m.LN3, m.x))
        assert_equal(m.output(), m.x + s * branches)

    def test_post_norm_without_ffn(self, scale):
        m, s = self.layer(scale, **NO_FFN), factor(scale, 2)
        assert_equal(m.output(), norm(m.LN1, m.x + s * (m.SA(m.x) + m.CA(m.x))))

    def test_pre_norm_shared_without_ffn(self, scale):
        m, s = self.layer(scale, **NO_FFN, **PRE_NORM), factor(scale, 2)
        u = norm(m.LN1, m.x)
        assert_equal(m.output(), m.x + s * (m.SA(u) + m.CA(u)))

    def test_pre_norm_own_without_ffn(self, scale):
        m, s = self.layer(scale, **NO_FFN, **OWN), factor(scale, 2)
        expected = m.x + s * (m.SA(norm(m.LN1, m.x)) + m.CA(norm(m.LN2, m.x)))
        assert_equal(m.output(), expected)

    def test_post_norm_without_cross_attention(self, scale):
        m, s = self.layer(scale, **NO_CROSS), factor(scale, 2)
        assert_equal(m.output(), norm(m.LN1, m.x + s * (m.SA(m.x) + m.FFN(m.x))))

    def test_pre_norm_own_without_cross_attention(self, scale):
        m, s = self.layer(scale, **NO_CROSS, **OWN), factor(scale, 2)
        expected = m.x + s * (m.SA(norm(m.LN1, m.x)) + m.FFN(norm(m.LN3, m.x)))
        assert_equal(m.output(), expected)

    def test_self_attention_alone(self, scale):
        m = self.layer(scale, **NO_CROSS, **NO_FFN)
        assert_equal(m.output(), norm(m.LN1, m.x + m.SA(m.x)))


@SCALES
class TestHalfParallelDecoder:
    """Cross-attention and FFN side by side, after self-attention."""

    def layer(self, scale: str, **flags: object) -> Decoder:
        return Decoder(one_layer_each(**HALF, parallel_scale=scale, **flags)[1])

    def test_post_norm(self, scale):
        m, s = self.layer(scale), factor(scale, 2)
        h = norm(m.LN1, m.x + m.SA(m.x))
        assert_equal(m.output(), norm(m.LN2, h + s * (m.CA(h) + m.FFN(h))))

    def test_pre_norm_shared(self, scale):
        m, s = self.layer(scale, **PRE_NORM), factor(scale, 2)
        h = m.x + m.SA(norm(m.LN1, m.x))
        u = norm(m.LN2, h)
        assert_equal(m.output(), h + s * (m.CA(u) + m.FFN(u)))

    def test_pre_norm_own(self, scale):
        m, s = self.layer(scale, **OWN), factor(scale, 2)
        h = m.x + m.SA(norm(m.LN1, m.x))
        expected = h + s * (m.CA(norm(m.LN2, h)) + m.FFN(norm(m.LN3, h)))
        assert_equal(m.output(), expected)

    def test_post_norm_without_ffn(self, scale):
        m = self.layer(scale, **NO_FFN)
        h = norm(m.LN1, m.x + m.SA(m.x))
        assert_equal(m.output(), norm(m.LN2, h + m.CA(h)))

    @pytest.mark.parametrize("flags", [PRE_NORM, OWN], ids=["shared", "own"])
    def test_pre_norm_without_ffn(self, scale, flags):
        m = self.layer(scale, **NO_FFN, **flags)
        h = m.x + m.SA(norm(m.LN1, m.x))
        assert_equal(m.output(), h + m.CA(norm(m.LN2, h)))


NORMS: Dict[str, tuple] = {
    # flags, norms of an encoder layer, norms of a decoder layer
    "series": ({}, {1, 3}, {1, 2, 3}),
    "post-norm": (PARALLEL, {1}, {1}),
    "pre-norm shared": ({**PARALLEL, **PRE_NORM}, {1}, {1}),
    "pre-norm own": ({**PARALLEL, **OWN}, {1, 3}, {1, 2, 3}),
    "post-norm no FFN": ({**PARALLEL, **NO_FFN}, {1}, {1}),
    "pre-norm own no FFN": ({**PARALLEL, **OWN, **NO_FFN}, {1}, {1, 2}),
    "pre-norm own no cross": ({**PARALLEL, **OWN, **NO_CROSS}, {1, 3}, {1, 3}),
    "half post-norm": (HALF, {1, 3}, {1, 2}),
    "half pre-norm shared": ({**HALF, **PRE_NORM}, {1, 3}, {1, 2}),
    "half pre-norm own": ({**HALF, **OWN}, {1, 3}, {1, 2, 3}),
    "half pre-norm own no FFN": ({**HALF, **OWN, **NO_FFN}, {1}, {1, 2}),
}


@pytest.mark.parametrize("case", NORMS)
def test_norms_that_no_formula_uses_do_not_exist(case):
    flags, *expected = NORMS[case]
    numbers = {"self_attn_layer_norm": 1, "encoder_attn_layer_norm": 2, "final_layer_norm": 3}
    found: list[Set[int]] = [
        {numbers[name] for name in parameters_of(layer) if name in numbers}
        for layer in one_layer_each(**flags)
    ]
    assert found == expected


@pytest.mark.parametrize("block", ["parallel", "parallel-cross-ffn"])
@pytest.mark.parametrize("flags", [{}, PRE_NORM, OWN], ids=["post-norm", "shared", "own"])
def test_attention_weights_for_alignment(block, flags):
    m = Decoder(one_layer_each(decoder_block=block, **flags)[1])
    query = m.x
    if block == "parallel-cross-ffn":
        branch = m.SA(norm(m.LN1, m.x)) if flags else m.SA(m.x)
        query = m.x + branch if flags else norm(m.LN1, m.x + branch)
    if flags:
        query = norm(m.LN1 if m.LN2 is None else m.LN2, query)
    _, weights = attention_with_weights(m.layer.encoder_attn, query, m.e, m.pads)
    assert_equal(m.result(need_attn=True)[1].double(), weights.mean(1))
    by_head = m.result(need_head_weights=True)[1]
    assert_equal(by_head.double(), weights.transpose(0, 1))


class TestDropout:
    """A rate of 1 leaves of each branch what its dropout doesn't reach."""

    def outputs(self, **flags: object):
        encoder, decoder = one_layer_each(**flags)
        m, n = Encoder(encoder.train()), Decoder(decoder.train())
        return m, m.output(), n, n.output()

    def test_all_branches(self):
        m, encoded, n, decoded = self.outputs(**PARALLEL, dropout=1.0)
        assert_equal(encoded, norm(m.LN1, m.x))
        assert_equal(decoded, norm(n.LN1, n.x))

    def test_activations(self):
        m, encoded, n, decoded = self.outputs(**PARALLEL, dropout=0.0, activation_dropout=1.0)
        assert_equal(encoded, norm(m.LN1, m.x + m.SA(m.x) + m.layer.fc2.bias))
        expected = norm(n.LN1, n.x + n.SA(n.x) + n.CA(n.x) + n.layer.fc2.bias)
        assert_equal(decoded, expected)

    def test_attention(self):
        m, encoded, n, decoded = self.outputs(**PARALLEL, dropout=0.0, attention_dropout=1.0)
        bias = m.layer.self_attn.out_proj.bias
        assert_equal(encoded, norm(m.LN1, m.x + bias + m.FFN(m.x)))
        bias = n.layer.self_attn.out_proj.bias + n.layer.encoder_attn.out_proj.bias
        assert_equal(decoded, norm(n.LN1, n.x + bias + n.FFN(n.x)))

    def test_half_parallel_and_absent(self):
        _, _, n, decoded = self.outputs(**HALF, **PRE_NORM, dropout=1.0)
        assert_equal(decoded, n.x)
        m, encoded, n, decoded = self.outputs(**NO_FFN, dropout=1.0)
        assert_equal(encoded, norm(m.LN1, m.x))
        assert_equal(decoded, norm(n.LN2, norm(n.LN1, n.x)))

    def test_branches_are_dropped_independently(self):
        encoder, _ = one_layer_each(**PARALLEL, **PRE_NORM, dropout=0.5)
        m = Encoder(encoder.train())
        u = norm(m.LN1, m.x)
        torch.manual_seed(12)
        branches = m.output() - m.x
        kinds = [
            torch.isclose(branches, 2.0 * (a * m.SA(u) + f * m.FFN(u)), **CLOSE)
            for a in (0, 1)
            for f in (0, 1)
        ]
        assert torch.stack(kinds).any(0).all()
        assert all(kind.float().mean() > 0.1 for kind in kinds)


@pytest.mark.parametrize(
    "flags", [PARALLEL, HALF, NO_FFN], ids=["parallel", "half-parallel", "no FFN"]
)
def test_onnx_tracing_is_refused_where_it_is_not_offered(flags):
    layer = one_layer_each(**flags)[1]
    with pytest.raises(UserError, match="layer 1"):
        layer.prepare_for_onnx_export_()
    with pytest.raises(UserError, match="layer 1"):
        layer(states(1), states(6), padding(6), {}, prev_self_attn_state=[])


def test_gelu_is_honoured():
    flags = {**SMALL, **PARALLEL, "activation_fn": "gelu", "encoder_layers": 1}
    layer = randomise(build("transformer_ffn", dtype=torch.float64, **flags)).eval()
    m = Encoder(layer.encoder.layers[0])
    hidden = torch.nn.functional.gelu(m.layer.fc1(m.x))
    assert_equal(m.output(), norm(m.LN1, m.x + m.SA(m.x) + m.layer.fc2(hidden)))
