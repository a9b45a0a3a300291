"""Holds for each architecture: decoding step by step, padding, causality, gradients, dropout."""

from __future__ import annotations

from functools import cache
from typing import Dict, List

import pytest
import torch
from fairseq.models import ARCH_MODEL_REGISTRY
from helpers import (
    PRE_NORM,
    arguments,
    batch,
    build,
    built_at_random,
    gradients,
    logits,
    loss,
    net_input,
    randomise,
)

from fairseq_ffn.models.architectures import (
    CONFIGS,
    DECODER_ONLY_CONFIGS,
    all_architectures,
    architecture_name,
)

SHARED_ATTENTION = {
    "encoder_self_attn_layout": "shared",
    "decoder_self_attn_layout": "shared",
    "decoder_cross_attn_layout": "shared",
}
POST_NORM = {name: False for name in PRE_NORM}
OWN = {"parallel_norm": "own", "parallel_scale": "sqrt"}
#: further models: arch, flags
OTHERS: Dict[str, tuple] = {
    "decoder self-attention shared": ("baseline", {"decoder_self_attn_layout": "shared"}),
    "cross-attention shared": ("baseline", {"decoder_cross_attn_layout": "shared"}),
    "all attention shared": ("one_wide", SHARED_ATTENTION),
    "self-attention tied": (
        "parallel",
        {"encoder_self_attn_layout": "tied", "decoder_self_attn_layout": "a,@tied,a"},
    ),
    "half parallel": ("shared_dec", {"decoder_block": "parallel-cross-ffn"}),
    "half parallel, own norms": ("no_enc", {"decoder_block": "parallel-cross-ffn", **OWN}),
    "parallel, own norms": ("parallel", OWN),
    "parallel, FFN norm shared": (
        "parallel",
        {**OWN, "encoder_ffn_layout": "tied", "decoder_ffn_layout": "tied", "share_ffn_norm": True},
    ),
    "parallel, post-norm": ("parallel", POST_NORM),
    "FFN here and there": (
        "baseline",
        {"encoder_ffn_layout": "a,-,a", "decoder_ffn_layout": "-,a,-", **POST_NORM},
    ),
}
#: further models of one stack
OTHER_DECODER_ONLY: Dict[str, tuple] = {
    "attention shared": ("shared_dec", {"decoder_self_attn_layout": "cycle:2"}),
    "parallel, own norms": ("parallel", OWN),
    "parallel, post-norm": ("parallel", {"decoder_normalize_before": False}),
    "post-norm": ("baseline", {"decoder_normalize_before": False}),
    "FFN here and there": ("baseline", {"decoder_ffn_layout": "a,-,a,b,a,-"}),
    "positions restart": ("shared_dec", {"target_positions": "restart"}),
    "positions learned": ("baseline", {"decoder_learned_pos": True}),
}
#: name -> size, config, flags
TWO_STACKS = {config: ("tiny", config, {}) for config in CONFIGS}
TWO_STACKS.update({name: ("tiny", *of) for name, of in OTHERS.items()})
DECODER_ONLY = {
    f"decoder-only, {name}": ("decoder_only_tiny", config, flags)
    for name, (config, flags) in {
        **{config: (config, {}) for config in DECODER_ONLY_CONFIGS},
        **OTHER_DECODER_ONLY,
    }.items()
}
MODELS = {**TWO_STACKS, **DECODER_ONLY}
every_model = pytest.mark.parametrize("name", MODELS)

#: float32 softmax inside fairseq's cached attention, logits of size 10
CLOSE = {"rtol": 1e-5, "atol": 2e-5}
WIDTHS = {"encoder_embed_dim": 32, "decoder_embed_dim": 32, "dropout": 0.0}


def flags_of(name: str, **flags: object):
    size, config, own = MODELS[name]
    return {"arch": architecture_name(size, config), **WIDTHS, **own, **flags}


@cache
def model(name: str):
    """One float64 model each, not to be changed."""
    return built_at_random(**flags_of(name))


def full_logits(decoder, tokens, encoder_out):
    return decoder(tokens, encoder_out=encoder_out)[0]


@every_model
def test_decoding_step_by_step_equals_decoding_at_once(name):
    """As beam search does it: beams change places, finished sentences leave the batch."""
    beam, steps = 3, 7
    encoder, decoder = model(name).encoder, model(name).decoder
    generator = torch.Generator().manual_seed(20)

    def draw(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator)

    with torch.no_grad():
        sentences = batch(source_lengths=(4, 7, 6))
        encoder_out = encoder(sentences["src_tokens"], sentences["src_lengths"])
        rows = torch.arange(3).repeat_interleave(beam)
        encoder_out = encoder.reorder_encoder_out(encoder_out, rows)
        tokens = torch.full((3 * beam, 1), 2)
        state: Dict[str, Dict[str, torch.Tensor]] = {}
        for step in range(steps):
            here = decoder(tokens, encoder_out=encoder_out, incremental_state=state)[0]
            expected = full_logits(decoder, tokens, encoder_out)[:, -1:]
            torch.testing.assert_close(here, expected, **CLOSE)
            alive = len(tokens) // beam
            order = draw(0, beam, alive, beam) + beam * torch.arange(alive)[:, None]
            if step == 3:
                order = order[torch.arange(alive) != 1]
            order = order.flatten()
            decoder.reorder_incremental_state_scripting(state, order)
            encoder_out = encoder.reorder_encoder_out(encoder_out, order)
            tokens = torch.cat((tokens[order], draw(4, 31, len(order), 1)), dim=1)
    assert len(tokens) == 2 * beam
    # the comparison would be empty if all positions had the same scores
    assert (expected[0] - expected[1:]).abs().max() > 0.1


@pytest.mark.parametrize("name", TWO_STACKS)
def test_keys_are_computed_once_while_decoding(name):
    """Those of the source in the first step, those of the target one position a step."""
    encoder, decoder = model(name).encoder, model(name).decoder
    lengths: Dict[str, List[int]] = {"self_attn": [], "encoder_attn": []}
    hooks = []
    for kind, seen in lengths.items():
        for projection in {getattr(layer, kind).k_proj for layer in decoder.layers}:
            hooks.append(
                projection.register_forward_hook(
                    lambda _, inputs, __, seen=seen: seen.append(len(inputs[0]))
                )
            )
    try:
        with torch.no_grad():
            sentences = batch(source_lengths=(6, 6))
            encoder_out = encoder(sentences["src_tokens"], sentences["src_lengths"])
            state: Dict[str, Dict[str, torch.Tensor]] = {}
            for step in range(1, 5):
                tokens = sentences["prev_output_tokens"][:2, :step]
                decoder(tokens, encoder_out=encoder_out, incremental_state=state)
    finally:
        for hook in hooks:
            hook.remove()
    assert lengths["encoder_attn"] == 3 * [6]
    assert lengths["self_attn"] == 4 * 3 * [1]


@pytest.mark.parametrize("name", DECODER_ONLY)
def test_one_stack_reads_the_source_once_while_decoding(name):
    """And no layer computes keys of it again, however beams change places."""
    encoder, decoder = model(name).encoder, model(name).decoder
    seen: List[int] = []
    hooks = [
        projection.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
        for projection in {layer.self_attn.k_proj for layer in decoder.layers}
    ]
    try:
        with torch.no_grad():
            sentences = batch(source_lengths=(6, 6))
            encoder_out = encoder(sentences["src_tokens"], sentences["src_lengths"])
            state: Dict[str, Dict[str, torch.Tensor]] = {}
            for step in range(1, 5):
                tokens = sentences["prev_output_tokens"][:2, :step]
                decoder(tokens, encoder_out=encoder_out, incremental_state=state)
                order = torch.tensor([step % 2, 1])
                decoder.reorder_incremental_state_scripting(state, order)
                encoder_out = encoder.reorder_encoder_out(encoder_out, order)
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == 6 * [6] + 4 * 6 * [1]


@every_model
def test_outputs_do_not_depend_on_padding_and_batch_mates(name):
    sources, targets = (6, 3, 9), (4, 8, 5)
    sentences = batch(sources, targets)
    encoder, decoder = model(name).encoder, model(name).decoder
    with torch.no_grad():
        together = encoder(sentences["src_tokens"], sentences["src_lengths"])
        scores = logits(model(name), sentences)
        for index, (source, target) in enumerate(zip(sources, targets)):
            alone = {
                "src_tokens": sentences["src_tokens"][index : index + 1, -source:],
                "src_lengths": sentences["src_lengths"][index : index + 1],
                "prev_output_tokens": sentences["prev_output_tokens"][index : index + 1, :target],
            }
            assert not alone["src_tokens"].eq(1).any()
            encoded = encoder(alone["src_tokens"], alone["src_lengths"])
            if name in TWO_STACKS:
                torch.testing.assert_close(
                    together["encoder_out"][0][-source:, index], encoded["encoder_out"][0][:, 0]
                )
            expected = full_logits(decoder, alone["prev_output_tokens"], encoded)[0]
            torch.testing.assert_close(scores[index, :target], expected, **CLOSE)


@every_model
def test_decoder_is_causal(name):
    sentences = batch((6, 5), (8, 8))
    changed = dict(sentences, prev_output_tokens=sentences["prev_output_tokens"].clone())
    # another word, not a pad
    changed["prev_output_tokens"][:, 4] = (sentences["prev_output_tokens"][:, 4] - 3) % 27 + 4
    with torch.no_grad():
        before, after = logits(model(name), sentences), logits(model(name), changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert ((before[:, 4:] - after[:, 4:]).abs().amax(-1) > 1e-6).all()


@every_model
def test_every_position_sees_the_whole_source(name):
    sentences = batch((6, 6), (5, 5))
    source = sentences["src_tokens"]
    with torch.no_grad():
        before = logits(model(name), sentences)
        for position in range(6):
            changed = source.clone()
            changed[:, position] = (source[:, position] - 3) % 27 + 4
            after = logits(model(name), {**sentences, "src_tokens": changed})
            assert ((before - after).abs().amax(-1) > 1e-6).all()


@every_model
def test_gradient_reaches_every_parameter(name):
    found = gradients(model(name), batch())
    assert [at for at, gradient in found.items() if gradient is None] == []
    # softmax ignores what is added to all keys alike, so the bias of keys gets no gradient
    missed = [
        at
        for at, gradient in found.items()
        if gradient.abs().max() < 1e-9 and not at.endswith("k_proj.bias")
    ]
    assert missed == []


@every_model
def test_activation_checkpointing_changes_no_gradient(name):
    found: List[Dict[str, torch.Tensor]] = []
    for checkpointed in (False, True):
        flags = flags_of(name, checkpoint_activations=checkpointed, dropout=0.2)
        training = randomise(build(dtype=torch.float64, **flags)).train()
        torch.manual_seed(21)
        found.append(gradients(training, batch()))
    for at, expected in found[0].items():
        torch.testing.assert_close(found[1][at], expected, rtol=1e-9, atol=1e-9, msg=at)


@every_model
def test_dropout_acts_in_training_only(name):
    dropping = built_at_random(**flags_of(name, dropout=0.3))
    with torch.no_grad():
        evaluated = [logits(dropping, batch()) for _ in range(2)]
        assert torch.equal(*evaluated)
        assert torch.equal(evaluated[0], logits(model(name), batch()))
        dropping.train()
        trained = []
        for seed in (22, 22, 23):
            torch.manual_seed(seed)
            trained.append(logits(dropping, batch()))
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])
    assert not torch.equal(trained[0], evaluated[0])


@every_model
def test_a_step_of_training_lowers_the_loss(name):
    training = build(**flags_of(name))
    optimiser = torch.optim.SGD(training.parameters(), lr=1e-3)
    before = loss(training, batch())
    before.backward()
    optimiser.step()
    with torch.no_grad():
        assert loss(training, batch()) < before


#: config -> FFN layouts of encoder and decoder, block of both; One Wide FFN, Tables 1, 3 and 4
TABLE = {
    "baseline": ("independent", "independent", "series"),
    "shared_enc": ("shared", "independent", "series"),
    "shared_dec": ("independent", "shared", "series"),
    "shared_enc_shared_dec": ("shared", "shared", "series"),
    "shared_enc_dec": ("tied", "tied", "series"),
    "no_enc": ("none", "independent", "series"),
    "no_dec": ("independent", "none", "series"),
    "no_enc_no_dec": ("none", "none", "series"),
    "shared_enc_no_dec": ("shared", "none", "series"),
    "no_enc_shared_dec": ("none", "shared", "series"),
    "one_wide": ("shared", "none", "series"),
    "parallel": ("independent", "independent", "parallel"),
    "one_wide_parallel": ("shared", "none", "parallel"),
}


@pytest.mark.parametrize(
    "size, d_ff, layers", [("base", 2048, 12), ("big", 4096, 12), ("deep", 4096, 14)]
)
@pytest.mark.parametrize("config", CONFIGS)
def test_named_architectures_are_those_of_the_paper(config, size, d_ff, layers):
    args = arguments(architecture_name(size, config))
    blocks = {args.encoder_block, args.decoder_block}
    assert (args.encoder_ffn_layout, args.decoder_ffn_layout, *blocks) == TABLE[config]
    wide = layers if config.startswith("one_wide") else 1
    assert (args.encoder_ffn_embed_dim, args.decoder_ffn_embed_dim) == (wide * d_ff, d_ff)
    assert args.encoder_layers + args.decoder_layers == layers


#: config -> FFN layout, is wide, block; One Wide FFN, Tables 1 and 6
DECODER_ONLY_TABLE = {
    "baseline": ("independent", False, "series"),
    "shared_dec": ("shared", False, "series"),
    "shared_dec_wide": ("shared", True, "series"),
    "no_dec": ("none", False, "series"),
    "parallel": ("independent", False, "parallel"),
    "shared_dec_wide_parallel": ("shared", True, "parallel"),
}


@pytest.mark.parametrize("config", DECODER_ONLY_TABLE)
@pytest.mark.parametrize(
    "size, d_model, d_ff, heads, layers, wide",
    [
        ("decoder_only_tiny", 128, 256, 4, 6, 1536),
        ("decoder_only_base", 512, 2048, 8, 12, 24_576),
        ("decoder_only_big", 1024, 4096, 16, 12, 49_152),
    ],
)
def test_decoder_only_architectures_are_those_of_the_paper(
    config, size, d_model, d_ff, heads, layers, wide
):
    args = arguments(architecture_name(size, config))
    layout, is_wide, block = DECODER_ONLY_TABLE[config]
    assert (args.decoder_ffn_layout, args.decoder_block) == (layout, block)
    assert args.decoder_ffn_embed_dim == (wide if is_wide else d_ff)
    assert (args.decoder_embed_dim, args.decoder_attention_heads) == (d_model, heads)
    assert (args.encoder_layers, args.decoder_layers) == (0, layers)
    assert args.share_all_embeddings and args.target_positions == "continue"


def test_the_table_is_complete():
    assert list(CONFIGS) == list(TABLE)
    assert list(DECODER_ONLY_CONFIGS) == list(DECODER_ONLY_TABLE)
    for size, config in all_architectures():
        assert architecture_name(size, config) in ARCH_MODEL_REGISTRY


def test_flags_given_win_over_the_architecture():
    args = arguments("transformer_ffn_base_one_wide", encoder_layers=4, decoder_ffn_layout="shared")
    assert (args.encoder_layers, args.decoder_ffn_layout) == (4, "shared")
    # one wide FFN has as many hidden units as all FFNs of the baseline
    assert args.encoder_ffn_embed_dim == (4 + 6) * 2048
    given = arguments("transformer_ffn_base_one_wide", encoder_ffn_embed_dim=512)
    assert given.encoder_ffn_embed_dim == 512
    one_stack = "transformer_ffn_decoder_only_big_shared_dec_wide"
    assert arguments(one_stack, decoder_layers=4).decoder_ffn_embed_dim == 4 * 4096
    assert arguments(one_stack, decoder_ffn_embed_dim=512).decoder_ffn_embed_dim == 512


def test_parallel_architectures_normalise_the_first_layers_input():
    for config in ("parallel", "one_wide_parallel"):
        assert arguments(f"transformer_ffn_base_{config}").layernorm_embedding
        one = arguments(f"transformer_ffn_base_{config}", encoder_normalize_before=True)
        assert one.layernorm_embedding  # for the decoder
        both = arguments(
            f"transformer_ffn_base_{config}",
            encoder_normalize_before=True,
            decoder_normalize_before=True,
        )
        assert not both.layernorm_embedding
    one_stack = "transformer_ffn_decoder_only_base_parallel"
    assert arguments(one_stack).layernorm_embedding
    assert not arguments(one_stack, decoder_normalize_before=True).layernorm_embedding


def test_alignment_comes_from_the_last_layer_in_every_kind_of_block():
    for name in ("baseline", "no_dec", "parallel", "half parallel"):
        with torch.no_grad():
            extra = model(name)(**net_input(batch()))[1]
        weights = extra["attn"][0]
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
        assert (weights[batch()["src_tokens"].eq(1)[:, None].expand_as(weights)] == 0).all()
