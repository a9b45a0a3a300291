"""What is exported, run as fairseq's own Transformer, is the same function."""

from __future__ import annotations

import pytest
import torch
from helpers import SMALL, batch, build, built_at_random, logits, task

from export.cases import EXPORTABLE, exportable
from fairseq_ffn.errors import UserError
from fairseq_ffn.export.plain import SMALLEST_WIDTH, layouts_of, plain_transformer
from fairseq_ffn.export.refusals import CTRANSLATE2, FAIRSEQ, FORMATS, check_expressible
from fairseq_ffn.models.flags import DEFAULTS


def stock(model, name: str):
    """fairseq's ``transformer`` with the exported weights."""
    plain = plain_transformer(model, one_width=True)
    given = {**SMALL, **EXPORTABLE[name]}
    ours = dict(DEFAULTS)
    flags = {flag: value for flag, value in given.items() if flag not in ours}
    for stack in ("encoder", "decoder"):
        flags[f"{stack}_ffn_embed_dim"] = plain.widths[stack]
    shared = flags.get("share_all_embeddings")
    there = build("transformer", for_task=task() if shared else task(27, 22), **flags).double()
    there.load_state_dict(plain.state, strict=True)
    return there.eval()


@pytest.mark.parametrize("name", EXPORTABLE)
def test_logits(name):
    model = exportable(name)
    check_expressible(model.args, layouts_of(model), CTRANSLATE2)
    sentences = batch(vocabulary=26)
    expected, found = logits(model, sentences), logits(stock(model, name), sentences)
    if exact(model.args):
        assert torch.equal(found, expected)
    else:
        assert ((found - expected).abs().max() / expected.abs().max()) < 2e-4


def exact(args) -> bool:
    """Only an FFN missing in post-norm brings a second norm, and so its epsilon."""
    layouts = {stack: getattr(args, f"{stack}_ffn_layout") for stack in ("encoder", "decoder")}
    return all(
        getattr(args, f"{stack}_normalize_before") or ("-" not in text and text != "none")
        for stack, text in layouts.items()
    )


def test_a_shared_module_stays_one_tensor():
    state = plain_transformer(exportable("one wide"), one_width=False).state
    for key in ("fc1.weight", "fc2.bias"):
        entries = {state[f"encoder.layers.{layer}.{key}"].data_ptr() for layer in range(3)}
        zeros = {state[f"decoder.layers.{layer}.{key}"].data_ptr() for layer in range(3)}
        assert len(entries) == len(zeros) == 1
    assert state["decoder.layers.1.fc1.weight"].shape == (SMALLEST_WIDTH, 16)


def test_widths_of_stock_fairseq():
    """Its flag is for a whole stack."""
    plain = plain_transformer(exportable("with and without in one stack"), one_width=True)
    assert plain.widths == {"encoder": 24, "decoder": 40}
    assert plain.state["encoder.layers.1.fc1.weight"].shape == (24, 16)
    assert plain.state["decoder.layers.0.fc1.weight"].shape == (40, 16)
    plain = plain_transformer(exportable("no_dec, pre-norm"), one_width=True)
    assert plain.widths == {"encoder": 24, "decoder": SMALLEST_WIDTH}


class TestRefusals:
    @pytest.mark.parametrize("form", FORMATS)
    @pytest.mark.parametrize(
        "flags, part",
        [
            ({"encoder_block": "parallel"}, "--encoder-block parallel: layer 0 of the encoder"),
            (
                {"encoder_block": "parallel", "encoder_ffn_layout": "-,a,a"},
                "--encoder-block parallel: layer 1 of the encoder",
            ),
            (
                {"decoder_block": "parallel", "decoder_ffn_layout": "none"},
                "--decoder-block parallel: layer 0 of the decoder",
            ),
            (
                {"decoder_block": "parallel-cross-ffn", "decoder_ffn_layout": "-,-,a"},
                "--decoder-block parallel-cross-ffn: layer 2 of the decoder",
            ),
        ],
    )
    def test_parallel_layers(self, flags, part, form):
        model = built_at_random(
            "transformer_ffn", **{**SMALL, "layernorm_embedding": True}, **flags
        )
        with pytest.raises(UserError) as error:
            check_expressible(model.args, layouts_of(model), form)
        assert part in str(error.value) and "can't be exported" in str(error.value)

    @pytest.mark.parametrize(
        "flags, part",
        [
            ({"no_cross_attention": True}, "--no-cross-attention: can't be exported to"),
            (
                {"no_cross_attention": True, "cross_self_attention": True},
                "--no-cross-attention: can't",
            ),
            ({"adaptive_softmax_cutoff": "10,20"}, "--adaptive-softmax-cutoff: can't"),
            ({"scale_attn": True}, "--scale-attn: can't"),
            ({"scale_heads": True}, "--scale-heads: can't"),
            ({"scale_fc": True}, "--scale-fc: can't"),
            ({"scale_resids": True}, "--scale-resids: can't"),
            ({"quant_noise_pq": 0.1}, "--quant-noise-pq: can't"),
            ({"quant_noise_scalar": 0.1}, "--quant-noise-scalar: can't"),
            ({"decoder_output_dim": 8}, "--decoder-output-dim 8: can't"),
        ],
    )
    def test_options_that_ctranslate2_hasnt(self, flags, part):
        model = build("transformer_ffn", **SMALL, **flags)
        with pytest.raises(UserError, match=part):
            check_expressible(model.args, layouts_of(model), CTRANSLATE2)
        check_expressible(model.args, layouts_of(model), FAIRSEQ)  # which has them
