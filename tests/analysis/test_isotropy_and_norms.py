"""Isotropy and branch norms: literal formulas, an independent library, hand-worked cases."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from IsoScore.IsoScore import IsoScore as reference

from analysis.cases import model_of, records_of, sentences
from fairseq_ffn.analysis import branch_norms, isotropy
from fairseq_ffn.analysis.geometry import answers, ffn_defect, mean_within, measure_model
from fairseq_ffn.analysis.layer_steps import CROSS, FFN, SELF
from fairseq_ffn.analysis.recorder import feed_forward, normalise


def gaussian(n, d, seed=1):
    return np.random.default_rng(seed).standard_normal((n, d))


def cos(x, y):
    return x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def test_within_cosine_is_the_mean_over_pairs():
    states = gaussian(9, 4) + 0.5
    pairs = [cos(x, y) for x, y in permutations(states, 2)]
    assert isotropy.within_cosine(states) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_within_cosine_of_known_sets():
    assert isotropy.within_cosine(np.array([[1.0, 2.0]] * 3)) == pytest.approx(1)
    assert isotropy.within_cosine(np.array([[1.0, 0.0], [0.0, 3.0]])) == pytest.approx(0)
    assert isotropy.within_cosine(np.array([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(-1)
    assert math.isnan(isotropy.within_cosine(np.array([[1.0, 0.0]])))


def test_sentences_of_one_token_are_left_out():
    states = np.array([[1.0, 0], [1, 0], [5, 5], [0, 1], [1, 0]])
    assert mean_within(states, np.array([4, 4, 7, 9, 9])) == pytest.approx((1 + 0) / 2)


def test_across_cosine_pairs_come_from_different_sentences():
    numbers = np.repeat(np.arange(6), [1, 5, 2, 9, 1, 3])
    one, other = isotropy.random_pairs(numbers, 1000, seed=3)
    assert len(one) == len(other) == 1000 and (numbers[one] != numbers[other]).all()
    states = gaussian(21, 4)
    literal = np.mean([cos(states[i], states[j]) for i, j in zip(one, other)])
    assert isotropy.across_cosine(states, (one, other)) == pytest.approx(literal, abs=1e-12)
    with pytest.raises(ValueError, match="two sentences"):
        isotropy.random_pairs(np.zeros(5), 10, seed=1)


def test_a_rogue_dimension_is_found_and_leaving_it_out_helps():
    states = gaussian(400, 30)
    states[:, 17] += 20
    numbers = np.repeat(np.arange(40), 10)
    pairs = isotropy.random_pairs(numbers, 1000, seed=1)
    dominant, share = isotropy.dominant_dimensions(states, pairs, 1)
    assert dominant.tolist() == [17] and share > 0.95
    assert isotropy.across_cosine(states, pairs) > 0.9
    rest = np.delete(states, dominant, axis=1)
    assert abs(isotropy.across_cosine(rest, pairs)) < 0.05


def test_partition_isotropy_by_hand():
    # +-e1, +-e2: every Z(c) is e + 1/e + 2
    square = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert isotropy.partition_isotropy(square) == pytest.approx(1)
    # two vectors e1: W'W has eigenvectors e1 and e2; Z is 2e, 2/e, 2 and 2
    line = np.array([[1.0, 0], [1, 0]])
    assert isotropy.partition_isotropy(line) == pytest.approx(math.exp(-2))
    # 3 e1 and e1 have mean length 2, so they count as 1.5 and 0.5
    longer = np.array([[3.0, 0], [1, 0]])
    z = [math.exp(s * 1.5) + math.exp(s * 0.5) for s in (1, -1)] + [2]
    assert isotropy.partition_isotropy(longer) == pytest.approx(min(z) / max(z))


def test_partition_isotropy_is_the_literal_formula_and_scale_free():
    states = gaussian(50, 6) + np.arange(6) / 5
    scaled = states / np.mean([np.linalg.norm(row) for row in states])
    vectors = np.linalg.svd(scaled)[2]
    z = [sum(math.exp(s * c @ row) for row in scaled) for c in vectors for s in (1, -1)]
    assert isotropy.partition_isotropy(states) == pytest.approx(min(z) / max(z), abs=1e-12)
    assert isotropy.partition_isotropy(100 * states) == pytest.approx(min(z) / max(z), abs=1e-12)


@pytest.mark.parametrize(("n", "d", "seed"), [(200, 10, 1), (500, 40, 2), (30, 50, 3)])
def test_iso_score_equals_its_own_library(n, d, seed):
    states = gaussian(n, d, seed) * np.linspace(0.1, 2, d) + 3
    assert isotropy.iso_score(states) == pytest.approx(float(reference(states)), abs=1e-6)


def test_iso_score_of_known_sets():
    line = np.outer(np.arange(50.0), np.arange(1, 9.0))
    assert isotropy.iso_score(line) == pytest.approx(0, abs=1e-9)
    ball = np.concatenate([np.eye(8), -np.eye(8)])
    assert isotropy.iso_score(ball) == pytest.approx(1)
    assert math.isnan(isotropy.iso_score(np.ones((9, 3))))


def test_ratio_cosine_and_summary():
    stream = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])
    branch = torch.tensor([[6.0, 8.0], [0.0, 2.0], [1.0, 1.0]])
    assert branch_norms.length_ratio(branch, stream)[:2].tolist() == [2, 2]
    assert branch_norms.cosine(branch, stream)[:2].tolist() == pytest.approx([1, 0])
    values = branch_norms.length_ratio(branch, stream).numpy()
    assert branch_norms.summary(values) == {"mean": 2, "median": 2, "p90": 2}
    assert branch_norms.summary(np.arange(101)) == {"mean": 50, "median": 50, "p90": 90}


@pytest.mark.parametrize("name", ["baseline pre-norm", "baseline post-norm"])
def test_defect_of_a_series_layer(name):
    record = records_of(model_of(name), sentences())[4]
    layer, x = record.layer, record.steps[0].x
    read = normalise(layer.final_layer_norm, x) if layer.normalize_before else x
    actual = record.branch(FFN)
    literal = (actual - feed_forward(layer, read)).norm(dim=-1) / actual.norm(dim=-1)
    assert torch.allclose(ffn_defect(record), literal)


@pytest.mark.parametrize("name", ["own norms", "parallel post-norm"])
def test_defect_of_a_parallel_layer(name):
    record = records_of(model_of(name), sentences())[0]
    layer, (step,) = record.layer, record.steps
    norm = layer.final_layer_norm if layer.normalize_before else layer.self_attn_layer_norm
    series = feed_forward(layer, normalise(norm, step.x + step.branches[SELF]))
    parallel = step.branches[FFN] / step.step.scale
    literal = (series - parallel).norm(dim=-1) / series.norm(dim=-1)
    assert torch.allclose(ffn_defect(record), literal)


def test_a_layers_record():
    """The change is after minus before; a branch is compared with the stream it is added to."""
    model, given = model_of("baseline pre-norm"), sentences((6, 4, 7), (5, 7, 3))
    found = measure_model(model, [given])["layers"]["decoder"][1]
    cosines = {point["point"]: point["within_cosine"]["all"] for point in found["points"]}
    change = found["around_ffn"]["within_cosine_change"]
    assert change == pytest.approx(cosines["y"] - cosines["g"]) and change != 0
    step = records_of(model, given)[4].steps[1]
    ratios = step.branches[CROSS].norm(dim=-1) / step.x.norm(dim=-1)
    median = np.median(ratios[given.valid("decoder")].numpy())
    assert found["branches"][CROSS]["ratio"]["median"] == pytest.approx(median, rel=1e-5)


def test_no_ffn_no_defect():
    assert ffn_defect(records_of(model_of("no_enc pre-norm"), sentences())[0]) is None


@pytest.mark.parametrize("name", ["one_wide pre-norm", "parallel post-norm"])
def test_a_model_is_measured_in_any_number_of_passes_and_batches(name):
    model = model_of(name)
    several = [sentences((6, 4, 7), (5, 7, 3))]
    whole = measure_model(model, several)
    assert len(whole["layers"]["encoder"]) == len(whole["layers"]["decoder"]) == 3
    assert whole["tokens"] == {"encoder": 17, "decoder": 15}
    # a budget of no bytes takes a pass for every layer
    assert measure_model(model, several, memory=0) == whole
    ffn = {"one_wide pre-norm": (True, False), "parallel post-norm": (True, True)}[name]
    for stack, there in zip(("encoder", "decoder"), ffn):
        for layer in whole["layers"][stack]:
            assert (FFN in layer["branches"]) == there == (layer["around_ffn"] is not None)


def test_pads_and_batch_mates_change_nothing():
    model = model_of("parallel pre-norm")
    together = sentences((6, 4, 7), (5, 7, 3))
    alone = []
    for index, (source, target) in enumerate(((6, 5), (4, 7), (7, 3))):
        one = sentences((source,), (target,))
        one.sentences[:] = [index]
        one.source[:] = together.source[index : index + 1, -source:]
        one.target_input[:] = together.target_input[index : index + 1, :target]
        alone.append(one)
    expected, found = measure_model(model, [together]), measure_model(model, alone)
    for stack in ("encoder", "decoder"):
        for one, other in zip(expected["layers"][stack], found["layers"][stack]):
            for point, same in zip(one["points"], other["points"]):
                for key in ("partition_isotropy", "iso_score"):
                    assert point[key] == pytest.approx(same[key], abs=1e-5)
                assert point["within_cosine"]["all"] == pytest.approx(
                    same["within_cosine"]["all"], abs=1e-6
                )
            assert one["branches"][SELF]["ratio"] == pytest.approx(other["branches"][SELF]["ratio"])


def layer_with(change, ratio):
    return {
        "around_ffn": None if change is None else {"within_cosine_change": change},
        "branches": {SELF: {"ratio": {"median": ratio}}},
    }


@pytest.mark.parametrize(
    ("changes", "ratios", "verdicts"),
    [
        ((-0.1, -0.2), (0.1, 0.2), ("yes", "yes")),
        ((-0.1, 0.2), (0.1, 0.9), ("in some layers", "in some layers")),
        ((0.1, 0.2), (0.8, 0.9), ("no", "no")),
        ((None, None), (0.8, 0.1), ("no FFN", "in some layers")),
    ],
)
def test_answers(changes, ratios, verdicts):
    found = answers([layer_with(*pair) for pair in zip(changes, ratios)])
    assert found["isotropy_rises_over_ffn"]["verdict"] == verdicts[0]
    assert found["attention_residual_is_small"]["verdict"] == verdicts[1]
