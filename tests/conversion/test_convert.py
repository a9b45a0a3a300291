"""New layouts from trained weights: what must stay the same function does, the rest comes close."""

from __future__ import annotations

import copy
from typing import Dict

import pytest
import torch
from helpers import (
    PRE_NORM,
    SMALL,
    Task,
    arguments,
    batch,
    build,
    logits,
    net_input,
    randomise,
    task,
)

from fairseq_ffn.conversion.activations import FfnInputs
from fairseq_ffn.conversion.convert import METHODS, Conversion
from fairseq_ffn.conversion.feed_forward import FeedForward
from fairseq_ffn.decoding.sources import Source
from fairseq_ffn.errors import UserError
from fairseq_ffn.models import flags

WORDS: Task = task()


def source(arch: str = "transformer_ffn", seed: int = 2, **more) -> Source:
    """A model in which no two parameters are equal."""
    model = randomise(build(arch, for_task=WORDS, **{**SMALL, **more}), seed).eval()
    args = arguments(arch, **{**SMALL, **more})
    flags.set_defaults(args)
    return Source("x.pt", {"cfg": {"model": args}, "model": {}}, model, WORDS, args)


def source_of(model) -> Source:
    """A converted model to be converted again."""
    args = arguments("transformer_ffn", **SMALL)
    for stack, kind, _ in flags.LAYOUTS:
        name = f"{stack}_{kind}_layout"
        setattr(args, name, getattr(model.args, name))
    return Source("y.pt", {"cfg": {"model": args}, "model": {}}, model, WORDS, args)


def convert(given: Source, method: str = "mean", batches=4, **settings):
    """The converted model, in evaluation mode."""
    conversion = Conversion(given, settings, method)
    if conversion.needs_sample:
        recorder = FfnInputs(given.model)
        conversion.fit(
            recorder.run(given.model, {"net_input": net_input(batch(seed=seed))}, 1)
            for seed in range(batches)
        )
        recorder.close()
    return conversion.model().eval()


def same(model, other, sentences=None) -> bool:
    sentences = sentences or batch()
    return torch.equal(logits(model, sentences), logits(other, sentences))


def error(model, other) -> float:
    expected = logits(other, batch())
    return ((logits(model, batch()) - expected).square().mean() / expected.var()).item()


def layer_ffn(model, stack: str, layer: int) -> FeedForward:
    one = getattr(model, stack).layers[layer]
    return FeedForward(one.fc1.weight, one.fc1.bias, one.fc2.weight, one.fc2.bias)


class TestSameFunction:
    @pytest.mark.parametrize("norms", [{}, PRE_NORM])
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(
        "layouts",
        [
            ("shared", "cycle:2"),
            ("tied", "tied"),
            ("a,-,b", "none"),
            ("none", "a,a,-"),
        ],
    )
    def test_written_out_to_independent(self, layouts, method, norms):
        """Each layer keeps what it had; a layer that had none gets one that is silent."""
        encoder, decoder = layouts
        given = source(encoder_ffn_layout=encoder, decoder_ffn_layout=decoder, **norms)
        there = convert(
            given,
            method,
            encoder_ffn_layout="independent",
            decoder_ffn_layout="independent",
        )
        assert not there.layouts.encoder_ffn.absent and not there.layouts.decoder_ffn.absent
        if norms or ("-" not in encoder + decoder and "none" not in layouts):
            assert same(there, given.model)
        else:
            assert error(there, given.model) < 1e-6

    def test_there_and_back(self):
        """Sharing equal modules again loses nothing, whatever the method."""
        given = source(encoder_ffn_layout="cycle:2", decoder_ffn_layout="none", **PRE_NORM)
        settings = {"encoder_ffn_layout": "independent", "decoder_ffn_layout": "independent"}
        wide = convert(given, **settings)
        between = source_of(wide)
        between.args.encoder_normalize_before = between.args.decoder_normalize_before = True
        for method in METHODS:
            back = convert(between, method, encoder_ffn_layout="cycle:2", decoder_ffn_layout="none")
            expected = given.model.state_dict()
            found = back.state_dict()
            assert list(found) == list(expected), method
            assert all(torch.equal(found[key], expected[key]) for key in found), method

    def test_of_stock_fairseq(self):
        given = source("transformer")
        assert same(convert(given, encoder_ffn_layout="0,1,2"), given.model)

    def test_equal_ffns_concatenated(self):
        """The mean of equal outputs; they are found equal, and nothing is added."""
        given = source(encoder_ffn_layout="shared")
        there = convert(given, "concatenate", encoder_ffn_layout="tied", decoder_ffn_layout="tied")
        assert layer_ffn(there, "encoder", 0).width == 4 * 24  # one of it, three of the decoder's

    def test_width_of_its_own(self):
        given = source(**PRE_NORM)
        there = convert(given, encoder_ffn_embed_dim=40)
        assert layer_ffn(there, "encoder", 1).width == 40
        assert torch.allclose(logits(there, batch()), logits(given.model, batch()), atol=1e-5)

    @pytest.mark.parametrize("block", ["parallel", "parallel-cross-ffn"])
    def test_parallel_blocks(self, block):
        given = source(
            decoder_block=block, parallel_norm="own", decoder_ffn_layout="a,-,a", **PRE_NORM
        )
        assert same(convert(given, decoder_ffn_layout="a,b,c"), given.model)


class TestMerging:
    def test_mean_and_first(self):
        given = source()
        for method in ("mean", "first"):
            there = convert(given, method, encoder_ffn_layout="a,a,b", decoder_ffn_layout="shared")
            layers = given.model.encoder.layers
            weights = [layers[layer].fc1.weight for layer in (0, 1)]
            expected = (weights[0] + weights[1]) / 2 if method == "mean" else weights[0]
            assert torch.allclose(there.encoder.layers[1].fc1.weight, expected)
            assert torch.equal(there.encoder.layers[2].fc1.weight, layers[2].fc1.weight)
            assert there.encoder.layers[0].fc1 is there.encoder.layers[1].fc1
            # each layer keeps its own norm
            for layer in range(3):
                norm = there.decoder.layers[layer].final_layer_norm.weight
                assert torch.equal(norm, given.model.decoder.layers[layer].final_layer_norm.weight)

    def test_mean_counts_layers(self):
        given = source(encoder_ffn_layout="a,b,a")
        there = convert(given, encoder_ffn_layout="shared")
        a, b = (given.model.encoder.layers[layer].fc2.bias for layer in (0, 1))
        assert torch.allclose(there.encoder.layers[0].fc2.bias, (2 * a + b) / 3)

    def test_shared_norms_and_attention(self):
        given = source(share_ffn_norm=True)
        there = convert(
            given,
            encoder_ffn_layout="shared",
            decoder_self_attn_layout="a,a,b",
            decoder_cross_attn_layout="shared",
        )
        norms = [layer.final_layer_norm.weight for layer in given.model.encoder.layers]
        assert torch.allclose(
            there.encoder.layers[2].final_layer_norm.weight, torch.stack(norms).mean(0)
        )
        queries = [layer.self_attn.q_proj.weight for layer in given.model.decoder.layers]
        found = there.decoder.layers[1].self_attn.q_proj.weight
        assert torch.allclose(found, (queries[0] + queries[1]) / 2)
        assert torch.equal(there.decoder.layers[2].self_attn.q_proj.weight, queries[2])

    def test_concatenated_it_is_the_mean_of_outputs(self):
        given = source()
        there = convert(given, "concatenate", encoder_ffn_layout="shared")
        merged = layer_ffn(there, "encoder", 0)
        assert merged.width == 3 * 24 and there.args.encoder_ffn_embed_dim == 72
        x = torch.randn(9, 16)
        outputs = [layer_ffn(given.model, "encoder", layer)(x, torch.relu) for layer in range(3)]
        expected = torch.stack(outputs).mean(0)
        assert torch.allclose(merged(x, torch.relu), expected, atol=1e-5)

    def test_one_wide_takes_all_units_of_the_model(self):
        given = source()
        settings = {"encoder_ffn_layout": "shared", "decoder_ffn_layout": "none"}
        there = convert(given, "concatenate", encoder_ffn_embed_dim=144, **settings)
        merged = layer_ffn(there, "encoder", 2)
        rows = torch.cat(
            [
                getattr(given.model, stack).layers[layer].fc1.weight
                for stack in ("encoder", "decoder")
                for layer in range(3)
            ]
        )
        assert torch.equal(merged.w1, rows)
        assert merged.w2[:, 72:].abs().max() == 0 < merged.w2[:, :72].abs().max()

    def test_dropped_in_post_norm(self):
        """Closer than keeping either norm alone would be."""
        given = source()
        there = convert(given, decoder_ffn_layout="0,1,-")
        layer = there.decoder.layers[2]
        assert layer.fc1 is None and layer.final_layer_norm is None
        old = given.model.decoder.layers[2]
        norm = layer.encoder_attn_layer_norm
        assert not torch.equal(norm.weight, old.encoder_attn_layer_norm.weight)
        assert not torch.equal(norm.weight, old.final_layer_norm.weight)

    def test_a_silent_ffn_dropped_in_post_norm(self):
        """Two norms become one: nearly the same function if the first one's gains are alike."""
        given = source()
        draw = torch.Generator().manual_seed(1)
        for layer in given.model.decoder.layers:
            layer.fc2.weight.data.zero_()
            layer.fc2.bias.data.zero_()
            norm = layer.encoder_attn_layer_norm
            norm.weight.data = 3 + 0.1 * torch.randn(16, generator=draw)
            norm.bias.data = 0.2 * torch.randn(16, generator=draw) + 0.5
        there = convert(given, decoder_ffn_layout="none")
        assert error(there, given.model) < 1e-3

    def test_first_attention(self):
        given = source()
        there = convert(given, "first", decoder_self_attn_layout="a,a,b")
        found = there.decoder.layers[1].self_attn.q_proj.weight
        assert torch.equal(found, given.model.decoder.layers[0].self_attn.q_proj.weight)

    def test_one_width_for_an_ffn_of_both_stacks(self):
        """The wider stack's, where its other groups need more."""
        given = source(encoder_ffn_embed_dim=40)
        layouts = {"encoder_ffn_layout": "@x,a,a", "decoder_ffn_layout": "@x,-,-"}
        there = convert(given, "concatenate", **layouts)
        assert there.args.decoder_ffn_embed_dim == there.args.encoder_ffn_embed_dim == 80
        assert layer_ffn(there, "decoder", 0).width == 80

    @pytest.mark.parametrize("block", [{}, {"decoder_block": "parallel", "parallel_norm": "own"}])
    def test_a_new_ffn_has_a_neutral_norm_of_its_own(self, block):
        given = source(decoder_ffn_layout="none", **block, **PRE_NORM)
        there = convert(given, decoder_ffn_layout="independent", decoder_ffn_embed_dim=24)
        for layer in there.decoder.layers:
            assert (layer.final_layer_norm.weight == 1).all()
            assert (layer.final_layer_norm.bias == 0).all()


class TestLeastSquares:
    def test_it_is_the_best_by_far(self):
        """On the inputs that it was fitted to, against the other methods and other weights."""
        given = source(**PRE_NORM)
        settings = {"encoder_ffn_layout": "shared"}

        def left(there) -> float:
            recorder = FfnInputs(given.model)
            inputs = recorder.run(given.model, {"net_input": net_input(batch(seed=0))}, 1)
            recorder.close()
            wanted = torch.cat(
                [
                    layer_ffn(given.model, "encoder", n)(inputs["encoder", n], torch.relu)
                    for n in range(3)
                ]
            )
            x = torch.cat([inputs["encoder", n] for n in range(3)])
            merged = layer_ffn(there, "encoder", 0)
            return (merged(x, torch.relu) - wanted).square().sum().item()

        errors = {method: left(convert(given, method, batches=1, **settings)) for method in METHODS}
        wide = left(
            convert(given, "least-squares", batches=1, encoder_ffn_embed_dim=72, **settings)
        )
        assert errors["least-squares"] < 0.5 * min(errors["mean"], errors["first"])
        assert wide < 0.1 * errors["concatenate"]

    def test_the_mean_of_a_dropped_ffn_stays(self):
        for norms in ({}, PRE_NORM):
            given = source(**norms)
            dropped = {"decoder_ffn_layout": "0,1,-"}
            kept, gone = (convert(given, method, **dropped) for method in METHODS[2::-2])
            assert error(kept, given.model) < error(gone, given.model)

    @pytest.mark.parametrize(
        "flags", [{"decoder_cross_attn_layout": "shared"}, {"parallel_scale": "sqrt"}]
    )
    def test_the_mean_goes_where_it_fits_only(self, flags):
        """Not into a bias that other layers have too, nor into a branch that is scaled."""
        if "parallel_scale" in flags:
            flags = {**flags, "decoder_block": "parallel"}
        given = source(**flags, **PRE_NORM)
        there = convert(given, "least-squares", decoder_ffn_layout="-,1,2")
        for kind in ("self_attn", "encoder_attn"):
            found, expected = (
                getattr(model.decoder.layers[0], kind).out_proj.bias
                for model in (there, given.model)
            )
            assert torch.equal(found, expected)

    def test_inputs_are_those_of_the_layers(self):
        """A shared FFN's calls are told apart by layer: as in the model written out."""
        given = source(encoder_ffn_layout="tied", decoder_ffn_layout="@tied,-,@tied", **PRE_NORM)
        plain = convert(given, encoder_ffn_layout="independent", decoder_ffn_layout="0,-,2")
        sample = {"net_input": net_input(batch())}
        found = []
        for model in (given.model, plain):
            recorder = FfnInputs(model)
            for _ in range(2):
                inputs = recorder.run(model, sample, 1)
            found.append(copy.copy(inputs))
            recorder.close()
            model(**sample["net_input"])  # the hooks are off
        shared, independent = found
        assert (
            list(shared)
            == list(independent)
            == [
                *(("encoder", layer) for layer in range(3)),
                ("decoder", 0),
                ("decoder", 2),
            ]
        )
        assert all(torch.equal(shared[place], independent[place]) for place in shared)
        assert shared["encoder", 0].shape == (6 + 4 + 7, 16)  # pads are left out
        assert shared["decoder", 2].shape == (5 + 7 + 3, 16)

    def test_inputs_are_norms_of_the_stream(self):
        given = source(encoder_ffn_layout="a,-,-", **PRE_NORM)
        sentences = batch()
        recorder = FfnInputs(given.model)
        inputs = recorder.run(given.model, {"net_input": net_input(sentences)}, 1)
        recorder.close()
        encoder, layer = given.model.encoder, given.model.encoder.layers[0]
        pads = sentences["src_tokens"].eq(1)
        x, _ = encoder.forward_embedding(sentences["src_tokens"])
        x = (x * (~pads).unsqueeze(-1)).transpose(0, 1)
        h = x + layer.self_attention(layer.self_attn_layer_norm(x), pads, None)
        expected = layer.final_layer_norm(h)[~pads.t()]
        assert torch.allclose(inputs["encoder", 0], expected, atol=1e-5)


class TestRefusals:
    @pytest.mark.parametrize(
        "given, method, settings, part",
        [
            (
                {},
                "mean",
                {"encoder_ffn_embed_dim": 12},
                "--encoder-ffn-embed-dim 12: FFN of encoder layers? 0.* had 24 hidden units",
            ),
            (
                {},
                "concatenate",
                {"encoder_ffn_layout": "shared", "encoder_ffn_embed_dim": 48},
                "--encoder-ffn-embed-dim 48: .* had 72 hidden units in all; give 72 or more",
            ),
            (
                {"decoder_ffn_embed_dim": 32},
                "mean",
                {"encoder_ffn_layout": "tied", "decoder_ffn_layout": "tied"},
                "--merge mean: FFN of encoder layers 0, 1, 2 and decoder layers 0, 1, 2 had FFNs "
                "of widths 24 and 32",
            ),
            ({}, "mean", {"encoder_ffn_layout": "tied"}, "both stacks must say so"),
            ({}, "mean", {"decoder_cross_attn_layout": "none"}, "attention can't be absent"),
            ({}, "mean", {"encoder_ffn_layout": "a,b"}, "names 2 layers, but the stack has 3"),
        ],
    )
    def test_one_line(self, given, method, settings, part):
        with pytest.raises(UserError, match=part) as error:
            convert(source(**given), method, **settings)
        assert "\n" not in str(error.value)

    def test_different_widths_concatenated(self):
        given = source(decoder_ffn_embed_dim=32)
        there = convert(given, "concatenate", encoder_ffn_layout="tied", decoder_ffn_layout="tied")
        assert layer_ffn(there, "decoder", 1).width == 3 * 24 + 3 * 32


def test_the_checkpoint_names_shared_modules_once():
    given = source(share_all_embeddings=True)
    conversion = Conversion(given, {"encoder_ffn_layout": "shared"}, "mean")
    model = conversion.model()
    state: Dict[str, torch.Tensor] = conversion.checkpoint(model)["model"]
    assert "encoder.layers.0.fc1.weight" in state and "encoder.layers.1.fc1.weight" not in state
    tied = ("encoder.embed_tokens.weight", "decoder.output_projection.weight")
    assert state[tied[0]].data_ptr() == state[tied[1]].data_ptr()
    args = conversion.checkpoint(model)["cfg"]["model"]
    assert args.encoder_ffn_layout == "shared" and args.arch == "transformer_ffn"
    assert given.args.encoder_ffn_layout == "independent"
