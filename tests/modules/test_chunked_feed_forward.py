"""A FFN in chunks computes what the plain one does, with the same dropout, and keeps less."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import PRE_NORM, SMALL, batch, build, gradients, logits, randomise
from torch import nn

from fairseq_ffn.errors import UserError
from fairseq_ffn.modules.chunked_feed_forward import (
    CHUNK,
    WIDE,
    chunk_width,
    chunked_feed_forward,
)

#: a chunk width that doesn't divide the 24 hidden units of SMALL
WIDTH = 7


def linears(dtype=torch.float64, bias=True):
    torch.manual_seed(1)
    return nn.Linear(5, 24, bias=bias, dtype=dtype), nn.Linear(24, 3, bias=bias, dtype=dtype)


def literal(x, fc1, fc2, activation, mask=None):
    """The formula, one hidden unit after the other."""
    total = torch.zeros(*x.shape[:-1], fc2.out_features, dtype=x.dtype)
    for unit in range(fc1.out_features):
        hidden = (x * fc1.weight[unit]).sum(-1)
        hidden = activation(hidden if fc1.bias is None else hidden + fc1.bias[unit])
        if mask is not None:
            hidden = hidden * mask[..., unit]
        total = total + hidden.unsqueeze(-1) * fc2.weight[:, unit]
    return total if fc2.bias is None else total + fc2.bias


def results(function, x, fc1, fc2):
    """Output and gradients of a random weighting of it."""
    x = x.clone().requires_grad_()
    parameters = [x, *fc1.parameters(), *fc2.parameters()]
    y = function(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return [y.detach(), *torch.autograd.grad((y * weights.to(y.dtype)).sum(), parameters)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [torch.relu, nn.functional.gelu, torch.tanh])
@pytest.mark.parametrize("width", [1, WIDTH, 12, 24])
def test_value_and_gradients(width, activation, bias):
    fc1, fc2 = linears(bias=bias)
    x = torch.randn(4, 2, 5, dtype=torch.float64)
    found = results(
        lambda x: chunked_feed_forward(x, fc1, fc2, activation, 0.0, width), x, fc1, fc2
    )
    expected = results(lambda x: literal(x, fc1, fc2, activation), x, fc1, fc2)
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_float32_is_as_near_to_the_truth_as_the_plain_form():
    torch.manual_seed(3)
    fc1, fc2 = nn.Linear(64, 2048), nn.Linear(2048, 64)
    x = torch.randn(50, 64)
    truth = [copy.deepcopy(fc).double() for fc in (fc1, fc2)]

    def plain(x, one=fc1, two=fc2):
        return two(torch.relu(one(x)))

    exact = results(lambda x: plain(x, *truth), x.double(), *truth)
    chunked = results(
        lambda x: chunked_feed_forward(x, fc1, fc2, torch.relu, 0.0, 512), x, fc1, fc2
    )
    for found, stock, true in zip(chunked, results(plain, x, fc1, fc2), exact):
        scale = true.abs().max()
        assert (found - true).abs().max() / scale < 1e-5
        assert (stock - true).abs().max() / scale < 1e-5


def test_dropout_has_one_mask_in_both_passes():
    """With the mask read off the forward pass, the gradients are those of the literal formula."""
    fc1, fc2 = linears()
    x = torch.randn(4, 2, 5, dtype=torch.float64)
    # an identity as second linear shows the hidden units themselves
    shown = nn.Linear(24, 24, bias=False, dtype=torch.float64)
    nn.init.eye_(shown.weight)
    torch.manual_seed(4)
    hidden = chunked_feed_forward(x, fc1, shown, torch.tanh, 0.4, WIDTH)
    mask = (hidden / torch.tanh(fc1(x))).detach()
    assert sorted({round(value, 6) for value in mask.flatten().tolist()}) == [0, round(1 / 0.6, 6)]

    def chunked(x):
        torch.manual_seed(4)
        y = chunked_feed_forward(x, fc1, fc2, torch.tanh, 0.4, WIDTH)
        torch.manual_seed(99)  # what the loss draws must not matter
        return y

    found = results(chunked, x, fc1, fc2)
    after = torch.rand(3)
    expected = results(lambda x: literal(x, fc1, fc2, torch.tanh, mask), x, fc1, fc2)
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    torch.manual_seed(99)
    assert torch.equal(after, torch.rand(3))  # the backward pass left no trace


def test_frozen_parameters_get_no_gradient():
    fc1, fc2 = linears()
    fc1.weight.requires_grad_(False)
    fc2.requires_grad_(False)
    x = torch.randn(4, 5, dtype=torch.float64)
    chunked_feed_forward(x, fc1, fc2, torch.relu, 0.0, WIDTH).sum().backward()
    assert fc1.weight.grad is None and fc2.weight.grad is None and fc2.bias.grad is None
    expected = torch.autograd.grad(fc2(torch.relu(fc1(x))).sum(), fc1.bias)[0]
    torch.testing.assert_close(fc1.bias.grad, expected, rtol=1e-12, atol=1e-12)


def test_hidden_units_are_not_kept():
    fc1, fc2 = nn.Linear(8, 4096), nn.Linear(4096, 8)
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        chunked_feed_forward(torch.randn(100, 8), fc1, fc2, torch.relu, 0.0, 512)
    assert kept and max(kept) <= fc1.weight.numel()


def test_autocast_is_that_of_the_plain_form():
    torch.manual_seed(5)
    fc1, fc2 = nn.Linear(64, 512), nn.Linear(512, 64)
    x = torch.randn(50, 64)

    def under_autocast(function):
        def run(x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return function(x)

        return run

    chunked = results(
        under_autocast(lambda x: chunked_feed_forward(x, fc1, fc2, torch.relu, 0.0, 128)),
        x,
        fc1,
        fc2,
    )
    plain = results(under_autocast(lambda x: fc2(torch.relu(fc1(x)))), x, fc1, fc2)
    exact = results(lambda x: fc2(torch.relu(fc1(x))), x, fc1, fc2)
    for found, stock, true in zip(chunked, plain, exact):
        assert found.dtype == stock.dtype
        error, usual = ((y.float() - true).norm() / true.norm() for y in (found, stock))
        assert 1e-4 < error < 1.2 * usual  # bfloat16 was used, and no worse


LAYOUTS = {
    "series": {},
    "pre-norm": PRE_NORM,
    "shared": {"encoder_ffn_layout": "shared", "decoder_ffn_layout": "cycle:2"},
    "tied": {"encoder_ffn_layout": "tied", "decoder_ffn_layout": "tied"},
    "absent": {"encoder_ffn_layout": "a,-,a", "decoder_ffn_layout": "none"},
    "parallel": {
        "encoder_block": "parallel",
        "decoder_block": "parallel",
        "layernorm_embedding": True,
    },
    "parallel cross": {"decoder_block": "parallel-cross-ffn", **PRE_NORM},
    "shared norm": {"encoder_ffn_layout": "shared", "share_ffn_norm": True},
    "checkpointing": {"checkpoint_activations": True},
    "layerdrop": {"encoder_layerdrop": 0.4, "decoder_layerdrop": 0.4},
}


def pair(flags, **more):
    """A plain model and one with chunks, of the same weights."""
    models = [
        randomise(
            build(
                "transformer_ffn",
                dtype=torch.float64,
                ffn_chunk_width=width,
                **{**SMALL, **flags, **more},
            )
        )
        for width in (0, WIDTH)
    ]
    assert list(models[0].state_dict()) == list(models[1].state_dict())
    return models


@pytest.mark.parametrize("name", LAYOUTS)
def test_models_train_as_the_plain_ones(name):
    found = []
    for model in pair(LAYOUTS[name]):
        torch.manual_seed(6)  # layerdrop draws from it
        found.append(gradients(model.train(), batch()))
    assert found[0].keys() == found[1].keys()
    for name, plain in found[0].items():
        if plain is not None:
            torch.testing.assert_close(found[1][name], plain, rtol=1e-9, atol=1e-9)
    assert sum(g.abs().sum() for g in found[1].values() if g is not None) > 0


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "checkpointing"])
def test_models_keep_no_hidden_units(name):
    """Of three dimensions, since the weights have as many columns."""
    for model, expected in zip(pair(LAYOUTS[name]), (True, False)):
        shapes = []

        def pack(tensor, shapes=shapes):
            shapes.append(tensor.shape)
            return tensor

        torch.manual_seed(6)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits(model.train(), batch())
        widths = {shape[-1] for shape in shapes if len(shape) == 3}
        assert (SMALL["encoder_ffn_embed_dim"] in widths) is expected


@pytest.mark.parametrize("name", LAYOUTS)
def test_evaluation_is_the_plain_one_to_the_bit(name):
    plain, chunked = (model.eval() for model in pair(LAYOUTS[name]))
    assert torch.equal(logits(chunked, batch()), logits(plain, batch()))


@pytest.mark.parametrize("flags", [{}, {"checkpoint_activations": True}])
def test_a_step_with_all_dropouts_can_be_repeated(flags):
    dropouts = {"dropout": 0.2, "activation_dropout": 0.3, "attention_dropout": 0.1}
    model = pair(flags, **dropouts)[1].train()
    found = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        found.append(gradients(model, batch())["encoder.layers.0.fc1.weight"].clone())
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


def test_finite_differences_through_dropout():
    """The gradient is that of the very function that the forward pass computed."""
    fc1, fc2 = linears()
    parameters = [*fc1.parameters(), *fc2.parameters()]

    def function(x, *_):
        torch.manual_seed(9)
        return chunked_feed_forward(x, fc1, fc2, torch.tanh, 0.5, WIDTH)

    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (x, *parameters))


def test_automatic_width():
    assert chunk_width("auto", WIDE - 1) == 0 and chunk_width("auto", WIDE) == CHUNK
    assert chunk_width(0, WIDE) == 0
    assert chunk_width(24, 24) == 0 and chunk_width(23, 24) == 23


def test_one_wide_is_taken_in_chunks_by_itself_and_the_baseline_never():
    def chunks(config, **flags):
        with torch.device("meta"):
            model = build(f"transformer_ffn_{config}", **flags)
        layers = [*model.encoder.layers, *model.decoder.layers]
        return {layer.plan.ffn_chunk for layer in layers if layer.plan.ffn}

    narrow = {"encoder_embed_dim": 16, "decoder_embed_dim": 16}
    assert chunks("big_one_wide", **narrow) == {CHUNK}
    assert chunks("base_one_wide", **narrow) == {CHUNK}
    assert chunks("base_one_wide", ffn_chunk_width=0, **narrow) == {0}
    for config in ("tiny_baseline", "big_baseline", "deep_shared_enc_no_dec", "tiny_one_wide"):
        assert chunks(config, **narrow) == {0}


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"quant_noise_pq": 0.1}, "--quant-noise-pq"),
        ({"scale_fc": True}, "--scale-fc"),
        ({"no_cross_attention": True, "cross_self_attention": True}, "--cross-self-attention"),
    ],
)
def test_what_fairseqs_layer_alone_can_do_is_refused_by_name(flags, named):
    with pytest.raises(UserError, match=rf"--ffn-chunk-width 7 can't be honoured with {named}"):
        build("transformer_ffn", ffn_chunk_width=7, **{**SMALL, **flags})


def test_automatic_gives_way_to_what_fairseqs_layer_alone_can_do():
    shape = {**SMALL, "decoder_ffn_embed_dim": WIDE, "encoder_ffn_embed_dim": WIDE}
    model = build("transformer_ffn", scale_fc=True, **shape)
    assert model.encoder.layers[0].plan.ffn_chunk == CHUNK
    assert model.decoder.layers[0].plan.ffn_chunk == 0


@pytest.mark.parametrize("value", [-1, "wide", 2.5])
def test_values_that_are_no_width_are_refused(value):
    with pytest.raises(UserError, match="--ffn-chunk-width"):
        build("transformer_ffn", ffn_chunk_width=value, **SMALL)
