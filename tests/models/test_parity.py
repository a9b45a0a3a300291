"""With default flags, transformer_ffn is fairseq's transformer: bit for bit, in every mode."""

from __future__ import annotations

from typing import Dict

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from helpers import (
    PRE_NORM,
    SMALL,
    arguments,
    batch,
    build,
    cloned,
    logits,
    loss,
    net_input,
    randomise,
    task,
)

from fairseq_ffn.models import transformer_ffn
from fairseq_ffn.models.architectures import SIZES
from fairseq_ffn.models.flags import DEFAULTS

#: makes the order of random draws matter everywhere
DROPOUTS = {"dropout": 0.2, "attention_dropout": 0.15, "activation_dropout": 0.1}

#: flags of fairseq's own; all on top of SMALL and DROPOUTS
CASES: Dict[str, Dict[str, object]] = {
    "post-norm": {},
    "pre-norm": PRE_NORM,
    "pre-norm encoder alone": {"encoder_normalize_before": True},
    "no dropout": {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0},
    "relu dropout": {"activation_dropout": 0.0, "relu_dropout": 0.1},
    "gelu": {"activation_fn": "gelu"},
    "all embeddings shared": {"share_all_embeddings": True},
    "output embeddings shared": {"share_decoder_input_output_embed": True},
    "learned positions": {"encoder_learned_pos": True, "decoder_learned_pos": True},
    "no positions": {"no_token_positional_embeddings": True},
    "embeddings unscaled": {"no_scale_embedding": True},
    "embeddings normalised": {"layernorm_embedding": True},
    "fewer positions": {"max_source_positions": 12, "max_target_positions": 14},
    "different widths": {
        "encoder_embed_dim": 24,
        "encoder_ffn_embed_dim": 40,
        "encoder_attention_heads": 4,
    },
    "different depths": {"encoder_layers": 4, "decoder_layers": 1},
    "different output width": {"decoder_output_dim": 8},
    "layerdrop": {"encoder_layerdrop": 0.4, "decoder_layerdrop": 0.4},
    "no cross-attention": {"no_cross_attention": True},
    "cross- in self-attention": {"no_cross_attention": True, "cross_self_attention": True},
    "NormFormer": {"scale_attn": True, "scale_heads": True, "scale_fc": True, "scale_resids": True},
    "activation checkpointing": {"checkpoint_activations": True},
    "quantisation noise": {"quant_noise_pq": 0.3, "quant_noise_pq_block_size": 8},
    "no last norm": {**PRE_NORM, "no_decoder_final_norm": True},
}
NAMES = (
    "TransformerEncoder",
    "TransformerDecoder",
    "TransformerEncoderLayerBase",
    "TransformerDecoderLayerBase",
    "MultiheadAttention",
)


def pair(flags: Dict[str, object]):
    """fairseq's model and ours, from one seed."""
    words = task() if flags.get("share_all_embeddings") else task(27, 22)
    flags = {**SMALL, **DROPOUTS, **flags}
    return tuple(
        build(arch, for_task=words, **flags) for arch in ("transformer", "transformer_ffn")
    )


def sentences_for(model) -> Dict[str, torch.Tensor]:
    words = min(len(model.encoder.dictionary), len(model.decoder.dictionary))
    return batch(vocabulary=words)


def assert_equal_tensors(actual: Dict[str, torch.Tensor], expected: Dict[str, torch.Tensor]):
    assert list(actual) == list(expected)
    different = [
        name
        for name in expected
        if (actual[name] is None) != (expected[name] is None)
        or (actual[name] is not None and not torch.equal(actual[name], expected[name]))
    ]
    assert different == []


@pytest.mark.parametrize("case", CASES)
class TestSameAsFairseq:
    def test_initial_weights_and_their_names(self, case):
        stock, ours = pair(CASES[case])
        assert_equal_tensors(ours.state_dict(), stock.state_dict())
        assert [name for name, _ in ours.named_parameters()] == [
            name for name, _ in stock.named_parameters()
        ]

    def test_building_draws_as_many_random_numbers(self, case):
        states = []
        for arch in ("transformer", "transformer_ffn"):
            build(arch, **{**SMALL, **CASES[case]})
            states.append(torch.get_rng_state())
        assert torch.equal(*states)

    def test_training_step(self, case):
        found = []
        for model in pair(CASES[case]):
            model.train()
            randomise(model)
            torch.manual_seed(5)
            value = loss(model, sentences_for(model))
            value.backward()
            gradients = {name: p.grad for name, p in model.named_parameters()}
            found.append({"loss": value.detach(), **gradients})
        assert_equal_tensors(found[1], found[0])
        assert sum(g.abs().sum() for g in found[0].values() if g is not None) > 0

    def test_evaluation(self, case):
        found = []
        for model in pair(CASES[case]):
            randomise(model).eval()
            with torch.no_grad():
                scores, extra = model(**net_input(sentences_for(model)))
            states = dict(enumerate(extra["inner_states"]))
            found.append({"logits": scores, "attention": extra["attn"][0], **states})
        assert_equal_tensors(found[1], found[0])

    def test_beam_search(self, case):
        found = []
        for model in pair(CASES[case]):
            randomise(model)
            words = model.decoder.dictionary
            generator = SequenceGenerator([model], words, beam_size=5, max_len_b=9)
            sentences = {"net_input": net_input(sentences_for(model))}
            hypotheses = generator.generate([model], sentences)
            found.append(
                {
                    (sentence, rank, name): hypothesis[name]
                    for sentence, beam in enumerate(hypotheses)
                    for rank, hypothesis in enumerate(beam)
                    for name in ("tokens", "score", "positional_scores", "attention")
                }
            )
        assert_equal_tensors(found[1], found[0])
        # as many as asked for, and not all alike
        assert len(found[0]) == 3 * 5 * 4
        outputs = {tuple(value.tolist()) for key, value in found[0].items() if "tokens" in key}
        assert len(outputs) >= 5

    def test_checkpoints_load_both_ways(self, case):
        stock, ours = pair(CASES[case])
        for giver, taker, seed in ((stock, ours, 6), (ours, stock, 7)):
            randomise(giver, seed=seed)
            taker.load_state_dict(cloned(giver.state_dict()), strict=True)
            sentences = sentences_for(giver)
            with torch.no_grad():
                given, taken = logits(giver.eval(), sentences), logits(taker.eval(), sentences)
            assert torch.equal(given, taken)


@pytest.mark.parametrize("name", [*NAMES, None])
def test_retained_dropout_goes_by_the_same_names(name):
    found = []
    for model in pair({}):
        randomise(model)
        names = None if name is None else [name]
        model.make_generation_fast_(
            need_attn=False, retain_dropout=True, retain_dropout_modules=names
        )
        kept = [at for at, m in model.named_modules() if getattr(m, "apply_during_inference", 0)]
        torch.manual_seed(8)
        found.append((kept, logits(model, sentences_for(model))))
    assert found[0][0] == found[1][0] != []
    assert torch.equal(found[0][1], found[1][1])


def test_defaults_are_those_of_fairseq():
    for flags in ({}, SMALL, PRE_NORM, {"encoder_layers": 2}):
        stock = vars(arguments("transformer", **flags))
        ours = vars(arguments("transformer_ffn", **flags))
        stock["arch"] = "transformer_ffn"
        assert ours == {**stock, **dict(DEFAULTS)}


@pytest.mark.parametrize("config", ["", "_baseline"])
@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_a_baseline_that_is_fairseqs_transformer(size, config):
    # the shape is shrunk; depth, norms and dropout are the architecture's
    shape = {name: value for name, value in SMALL.items() if "layers" not in name}
    settings = {**SIZES[size].settings, **shape}
    stock = build("transformer", **settings)
    ours = build(f"transformer_ffn_{size}{config}", **shape)
    assert_equal_tensors(ours.state_dict(), stock.state_dict())
    found = []
    for model in (stock, ours):
        torch.manual_seed(10)
        found.append({"logits": logits(model.train(), batch())})
    assert_equal_tensors(found[1], found[0])


@pytest.mark.parametrize("flags, least", [({}, 7), ({"checkpoint_activations": True}, 0)])
def test_fairscale_is_given_every_layer_as_by_fairseq(monkeypatch, flags, least):
    """FSDP wraps layers of so many parameters; stands in for fairscale, which isn't there."""
    given = []
    monkeypatch.setattr(transformer_ffn, "HAS_FAIRSCALE", True)
    monkeypatch.setattr(
        transformer_ffn,
        "fsdp_wrap",
        lambda layer, min_num_params: given.append(min_num_params) or layer,
    )
    build("transformer_ffn", **SMALL, **flags, min_params_to_wrap=7)
    assert given == [least] * 6


@pytest.mark.parametrize("layout", ["independent", "shared"])
def test_torchscript(layout):
    flags = {**SMALL, "encoder_ffn_layout": layout, "encoder_self_attn_layout": layout}
    model = randomise(build("transformer_ffn", **flags)).eval()
    scripted = torch.jit.script(model)
    sentences = batch()
    with torch.no_grad():
        assert torch.allclose(logits(scripted, sentences), logits(model, sentences), atol=1e-5)
