"""The recorder: all layouts, the model untouched, hooks gone, and one layer kept at a time."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch.nn.functional import layer_norm, linear, relu

from analysis.cases import MODELS, hook_count, model_of, records_of, sentences
from fairseq_ffn.analysis.layer_steps import CROSS, FFN, SELF
from fairseq_ffn.analysis.recorder import Recorder, around_ffn, points_of
from fairseq_ffn.analysis.text import force_decode, words_of
from fairseq_ffn.errors import UserError

PADDED = {"sources": (6, 4, 7), "targets": (5, 7, 3)}


@pytest.mark.parametrize("name", MODELS)
def test_steps_give_the_layers_outputs(name):
    # the recorder itself refuses if a layer's output isn't its steps' (within 1e-9 in float64)
    model = model_of(name)
    states = []
    handles = [
        layer.register_forward_hook(
            lambda layer, args, output: states.append(
                (args[0], output[0] if isinstance(output, tuple) else output)
            )
        )
        for layer in (*model.encoder.layers, *model.decoder.layers)
    ]
    records = records_of(model, sentences(**PADDED))
    for handle in handles:
        handle.remove()
    assert [str(record.address) for record in records] == [
        f"{stack} layer {index}" for stack in ("encoder", "decoder") for index in range(3)
    ]
    for record, (x, y) in zip(records, states):
        assert torch.equal(record.steps[0].x, x)
        assert torch.allclose(record.output, y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_recording_changes_nothing_and_leaves_nothing(name):
    model = model_of(name)
    given = sentences(**PADDED)
    before = hook_count(model)

    def output():
        with torch.no_grad():
            encoded = model.encoder(given.source, src_lengths=given.source_lengths)
            return model.decoder(given.target_input, encoder_out=encoded)[0]

    plain = output()
    with Recorder(model, lambda record: None):
        assert torch.equal(output(), plain)
    assert hook_count(model) == before
    assert torch.equal(output(), plain)


def test_hooks_go_when_the_receiver_fails():
    model = model_of("baseline pre-norm")
    before = hook_count(model)

    def fail(record):
        raise RuntimeError("receiver")

    with pytest.raises(RuntimeError, match="receiver"), Recorder(model, fail):
        force_decode(model, sentences())
    assert hook_count(model) == before


def test_ffn_common_to_all_layers_is_recorded_for_each():
    model = model_of("shared_enc_dec pre-norm")
    assert len({id(layer.fc1) for layer in (*model.encoder.layers, *model.decoder.layers)}) == 1
    records = records_of(model, sentences())
    layer = model.encoder.layers[0]
    for record in records:
        (step,) = (step for step in record.steps if FFN in step.branches)
        expected = linear(
            relu(linear(step.inputs[FFN], layer.fc1.weight, layer.fc1.bias)),
            layer.fc2.weight,
            layer.fc2.bias,
        )
        assert torch.allclose(step.branches[FFN], expected, rtol=0, atol=1e-12)
    inputs = [step.inputs[FFN] for record in records for step in record.steps if FFN in step.inputs]
    assert len(inputs) == 6 and not any(
        one.shape == other.shape and torch.equal(one, other)
        for index, one in enumerate(inputs)
        for other in inputs[:index]
    )


def test_parallel_branches_are_scaled_as_they_are_added():
    model = model_of("own norms")
    record = records_of(model, sentences())[3]
    (step,) = record.steps
    assert step.step.kinds == (SELF, CROSS, FFN)
    layer = record.layer
    u = layer_norm(step.x, (16,), layer.final_layer_norm.weight, layer.final_layer_norm.bias, 1e-5)
    ffn = linear(
        relu(linear(u, layer.fc1.weight, layer.fc1.bias)), layer.fc2.weight, layer.fc2.bias
    )
    assert torch.allclose(step.branches[FFN], ffn / 3**0.5, rtol=0, atol=1e-12)
    assert torch.allclose(step.total, step.x + sum(step.branches[kind] for kind in step.step.kinds))


@pytest.mark.parametrize(
    ("name", "stack", "expected", "around"),
    [
        ("baseline post-norm", 0, "x|x+a|h = LN(x+a)|h+f|y = LN(h+f)", ("h", "h+f")),
        ("baseline pre-norm", 0, "x|h = x+a|y = h+f", ("h", "y")),
        (
            *("baseline post-norm", 1),
            "x|x+a|h = LN(x+a)|h+c|g = LN(h+c)|g+f|y = LN(g+f)",
            ("g", "g+f"),
        ),
        ("parallel post-norm", 0, "x|x+a|x+f|x+a+f|y = LN(x+a+f)", ("x+a", "x+a+f")),
        ("parallel pre-norm", 1, "x|x+a|x+c|x+f|x+a+c|y = x+a+c+f", ("x+a+c", "y")),
        ("parallel-cross-ffn pre-norm", 1, "x|h = x+a|h+c|h+f|y = h+c+f", ("h+c", "y")),
        ("no_dec post-norm", 1, "x|x+a|h = LN(x+a)|h+c|y = LN(h+c)", None),
    ],
)
def test_points_of_a_layer(name, stack, expected, around):
    record = records_of(model_of(name), sentences())[3 * stack]
    points = points_of(record)
    assert "|".join(point.formula for point in points) == expected
    assert around_ffn(record) == around
    assert torch.equal(points[0].value, record.steps[0].x)
    assert torch.equal(points[-1].value, record.output)
    if around is not None:
        values = {point.name: point.value for point in points}
        added = values[around[1]] - values[around[0]]
        assert torch.allclose(added, record.branch(FFN), rtol=0, atol=1e-12)


def test_one_layer_is_kept_at_a_time():
    model = model_of("baseline pre-norm")
    alive = []

    def receive(record):
        gc.collect()
        # its input may live on as the model's own
        assert sum(reference() is not None for reference in alive) == 0
        alive.append(weakref.ref(record.steps[0].branches[SELF]))

    with Recorder(model, receive):
        force_decode(model, sentences())
    assert len(alive) == 6


def test_a_layer_that_does_more_than_its_sub_blocks_is_refused():
    model = model_of("baseline pre-norm")
    layer = model.encoder.layers[1]
    layer.residual_connection = lambda x, residual: residual + 2 * x
    with pytest.raises(UserError, match="encoder layer 1: its output isn't the sum"):
        records_of(model, sentences())


@pytest.mark.parametrize(
    ("flag", "named"), [("scale_attn", "--scale-attn"), ("scale_heads", "--scale-heads")]
)
def test_foreign_options_are_refused_by_name(flag, named):
    model = model_of("stock pre-norm")
    setattr(model.decoder.layers[2], "attn_ln" if flag == "scale_attn" else "c_attn", object())
    with pytest.raises(UserError, match=f"decoder layer 2: .*{named}"):
        Recorder(model, lambda record: None)


@pytest.mark.parametrize(
    ("symbols", "expected"),
    [
        ("</s> ▁He u te ▁ist ▁es . </s>", [0, 1, 1, 1, 2, 3, 3, 4]),
        ("</s> a@@ b c@@ d@@ e f </s>", [0, 1, 1, 2, 2, 2, 3, 4]),
        ("w1 w2 </s>", [0, 1, 2]),
    ],
)
def test_words(symbols, expected):
    assert words_of(symbols.split()) == expected
