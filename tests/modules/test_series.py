"""Series layers, with and without FFN, equal their formulas; an absent FFN leaves nothing."""

from __future__ import annotations

import pytest
import torch
from helpers import PRE_NORM, SMALL, build, built_at_random

from fairseq_ffn.errors import UserError
from modules.literal import CLOSE, Decoder, Encoder, norm, one_layer_each, parameters_of

NO_FFN = {"encoder_ffn_layout": "none", "decoder_ffn_layout": "none"}


def test_encoder_layer_post_norm():
    m = Encoder(one_layer_each()[0])
    h = norm(m.LN1, m.x + m.SA(m.x))
    torch.testing.assert_close(m.output(), norm(m.LN3, h + m.FFN(h)), **CLOSE)


def test_encoder_layer_pre_norm():
    m = Encoder(one_layer_each(**PRE_NORM)[0])
    h = m.x + m.SA(norm(m.LN1, m.x))
    torch.testing.assert_close(m.output(), h + m.FFN(norm(m.LN3, h)), **CLOSE)


def test_decoder_layer_post_norm():
    m = Decoder(one_layer_each()[1])
    h = norm(m.LN1, m.x + m.SA(m.x))
    g = norm(m.LN2, h + m.CA(h))
    torch.testing.assert_close(m.output(), norm(m.LN3, g + m.FFN(g)), **CLOSE)


def test_decoder_layer_pre_norm():
    m = Decoder(one_layer_each(**PRE_NORM)[1])
    h = m.x + m.SA(norm(m.LN1, m.x))
    g = h + m.CA(norm(m.LN2, h))
    torch.testing.assert_close(m.output(), g + m.FFN(norm(m.LN3, g)), **CLOSE)


class TestWithoutFfn:
    def test_encoder_post_norm(self):
        m = Encoder(one_layer_each(**NO_FFN)[0])
        torch.testing.assert_close(m.output(), norm(m.LN1, m.x + m.SA(m.x)), **CLOSE)

    def test_encoder_pre_norm(self):
        m = Encoder(one_layer_each(**NO_FFN, **PRE_NORM)[0])
        torch.testing.assert_close(m.output(), m.x + m.SA(norm(m.LN1, m.x)), **CLOSE)

    def test_decoder_post_norm(self):
        m = Decoder(one_layer_each(**NO_FFN)[1])
        h = norm(m.LN1, m.x + m.SA(m.x))
        torch.testing.assert_close(m.output(), norm(m.LN2, h + m.CA(h)), **CLOSE)

    def test_decoder_pre_norm(self):
        m = Decoder(one_layer_each(**NO_FFN, **PRE_NORM)[1])
        h = m.x + m.SA(norm(m.LN1, m.x))
        torch.testing.assert_close(m.output(), h + m.CA(norm(m.LN2, h)), **CLOSE)

    def test_decoder_without_cross_attention_post_norm(self):
        m = Decoder(one_layer_each(**NO_FFN, no_cross_attention=True)[1])
        torch.testing.assert_close(m.output(), norm(m.LN1, m.x + m.SA(m.x)), **CLOSE)

    def test_decoder_without_cross_attention_pre_norm(self):
        m = Decoder(one_layer_each(**NO_FFN, **PRE_NORM, no_cross_attention=True)[1])
        torch.testing.assert_close(m.output(), m.x + m.SA(norm(m.LN1, m.x)), **CLOSE)

    @pytest.mark.parametrize("flags", [{}, PRE_NORM], ids=["post-norm", "pre-norm"])
    def test_nothing_of_the_ffn_is_left(self, flags):
        encoder, decoder = one_layer_each(**NO_FFN, **flags)
        attention, layer_norm = 4 * (16 * 16 + 16), 2 * 16
        assert parameters_of(encoder) == {
            "self_attn": attention,
            "self_attn_layer_norm": layer_norm,
        }
        assert parameters_of(decoder) == {
            "self_attn": attention,
            "self_attn_layer_norm": layer_norm,
            "encoder_attn": attention,
            "encoder_attn_layer_norm": layer_norm,
        }

    def test_only_the_named_layers_lose_theirs(self):
        model = build("transformer_ffn", **SMALL, encoder_ffn_layout="a,-,a")
        having = ["final_layer_norm" in parameters_of(layer) for layer in model.encoder.layers]
        assert having == [True, False, True]
        assert ["fc1" in parameters_of(layer) for layer in model.encoder.layers] == having
        keys = [key for key in model.state_dict() if key.startswith("encoder.layers.1.")]
        assert keys and not any(".fc" in key or ".final" in key for key in keys)


class TestPruningOfNeurons:
    """fairseq's hooks for it are refused where they would fail or un-share."""

    @pytest.mark.parametrize(
        "layout, words", [("-,a,b", ("layer 0", "no FFN")), ("a,a,b", ("layer 0", "'a'"))]
    )
    def test_refused(self, layout, words):
        model = build("transformer_ffn", **SMALL, encoder_ffn_layout=layout)
        for call in (
            lambda layer: layer._get_fc_rank(1),
            lambda layer: layer._prune_fc_layer([0]),
        ):
            with pytest.raises(UserError) as raised:
                call(model.encoder.layers[0])
            assert all(word in str(raised.value) for word in words)

    def test_works_for_a_layer_with_an_ffn_of_its_own(self):
        model = built_at_random("transformer_ffn", **SMALL, encoder_ffn_layout="a,a,b")
        layer = model.encoder.layers[2]
        remove = layer._get_fc_rank(5)
        layer._prune_fc_layer(remove)
        assert layer.fc1.out_features == layer.fc2.in_features == 24 - 5
