"""Similarity studies: identical models, absent FFNs, seeds, sentence means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.cases import model_of, sentences
from fairseq_ffn.analysis.bootstrap import resample_counts
from fairseq_ffn.analysis.layer_steps import CROSS, FFN, SELF, LayerAddress
from fairseq_ffn.analysis.similarity import (
    Component,
    SameModule,
    SentenceMeans,
    Settings,
    check_layers,
    compare_at,
    neighbour_distance,
    normalised,
    sentence_means,
    study,
)
from fairseq_ffn.errors import UserError

SENTENCES = 40


@pytest.fixture(scope="module")
def batches():
    number = np.random.default_rng(1)
    found = []
    for start in range(0, SENTENCES, 10):
        one = sentences(
            number.integers(3, 9, 10).tolist(), number.integers(3, 9, 10).tolist(), seed=start
        )
        one.sentences[:] = range(start, start + 10)
        found.append(one)
    return found


def means(name, batches, model=None, **flags):
    return SentenceMeans(name, model or model_of(name, **flags), batches)


def test_means_leave_pads_out_and_come_in_the_order_of_the_set(batches):
    model = model_of("baseline pre-norm")
    forward = means("a", batches, model)
    backward = means("a", batches[::-1], model)
    component = Component(LayerAddress("decoder", 1), CROSS)
    assert np.array_equal(forward[component], backward[component])
    value, valid = torch.rand(4, 2, 3), torch.tensor([[1, 1], [1, 1], [1, 0], [0, 0]]).bool()
    expected = torch.stack([value[:3, 0].double().mean(0), value[:2, 1].double().mean(0)])
    assert torch.allclose(sentence_means(value, valid), expected)


def test_components_are_the_sub_blocks_in_forward_order(batches):
    found = means("baseline pre-norm", batches)
    kinds = [component.kind for component in found.components("decoder", layers=False)]
    assert kinds == [SELF, CROSS, FFN] * 3
    absent = means("no_dec pre-norm", batches)
    kinds = [component.kind for component in absent.components("decoder", layers=False)]
    assert kinds == [SELF, CROSS] * 3
    assert len(absent.components("decoder", layers=True)) == 3


@pytest.mark.parametrize("name", ["baseline post-norm", "one_wide_parallel pre-norm"])
@pytest.mark.parametrize("debiased", [True, False])
def test_identical_models_have_similarity_1(name, debiased, batches):
    one, other = means("one", batches, model_of(name)), means("other", batches, model_of(name))
    counts = resample_counts(SENTENCES, 20, 1)
    for stack in ("encoder", "decoder"):
        assert not compare_at(one, other, stack)
        same = SameModule(one, other, stack, False, debiased, counts)
        assert same.values["cka"] == pytest.approx(1, abs=1e-9)
        assert (same.values["lns"] == 1).all()
        assert same.resampled["cka"] == pytest.approx(1, abs=1e-9)
        permuted = SameModule(one, other, stack, False, True, counts, np.roll(np.arange(40), 7))
        assert abs(permuted.values["cka"].mean()) < 0.15 and permuted.values["lns"].mean() < 0.15


def test_normalised_is_the_ratio_of_means(batches):
    models = [
        means(str(seed), batches, model_of("baseline pre-norm", seed=seed)) for seed in (1, 2, 3)
    ]
    counts = resample_counts(SENTENCES, 10, 1)
    one, two = (
        SameModule(models[0], other, "encoder", False, True, counts) for other in models[1:]
    )
    found = normalised(one, [one, two])
    for name in ("cka", "lns"):
        below = (one.values[name].mean() + two.values[name].mean()) / 2
        assert found[name]["value"] == pytest.approx(one.values[name].mean() / below)
    only = normalised(one, [one])["lns"]
    assert only == {"value": 1, "low": 1, "high": 1}


@pytest.mark.parametrize("debiased", [True, False])
def test_both_forms_of_cka_are_stated(debiased, batches):
    one = means("one", batches, model_of("baseline pre-norm"))
    other = means("other", batches, model_of("baseline pre-norm", seed=2))
    counts = resample_counts(SENTENCES, 2, 1)
    forms = {form: SameModule(one, other, "encoder", False, form, counts) for form in (True, False)}
    stated = forms[debiased].record()["cka_other_form"]["mean"]["value"]
    assert stated == forms[not debiased].values["cka"].mean()
    assert stated != forms[debiased].values["cka"].mean()


def test_study_compares_whole_layers_where_the_modules_differ(batches):
    baseline = means("baseline pre-norm", batches)
    no_dec = means("no_dec pre-norm", batches)
    seed = means("seed", batches, model_of("baseline pre-norm", seed=5))
    untrained = means("untrained", batches, model_of("baseline pre-norm", seed=9))
    found = study([baseline, no_dec], [seed], untrained, Settings(resamples=5))
    entry, seed_entry = found["between"]
    assert entry["encoder"]["compared"] == "sub-blocks"
    assert entry["decoder"]["compared"] == "whole layers"
    assert len(entry["decoder"]["same_module"]["components"]) == 3
    assert seed_entry["is_seed"] and "normalised" not in seed_entry["encoder"]
    assert set(entry["decoder"]["normalised"]) == {"cka", "lns"}
    assert found["cka"] == "debiased" and found["cka_other_form"] == "biased"
    assert found["sentences"] == SENTENCES and found["neighbours"] == 2
    within = found["within"]["no_dec pre-norm"]["decoder"]
    assert np.diagonal(within["cka"]) == pytest.approx(1) and len(within["rows"]) == 6
    assert np.array(within["cka"]) == pytest.approx(np.array(within["cka"]).T)


def test_other_numbers_of_layers_are_refused():
    one, no_dec = model_of("baseline pre-norm"), model_of("no_dec pre-norm")
    check_layers({"one": one, "no_dec": no_dec})
    deep = model_of("baseline pre-norm", encoder_layers=4)
    with pytest.raises(UserError, match="deep has 4 encoder layers, but one 3"):
        check_layers({"one": one, "no_dec": no_dec, "deep": deep})


def test_checkerboard():
    odd_even = [[1 if (i + j) % 2 == 0 else 0.5 for j in range(6)] for i in range(6)]
    assert neighbour_distance(odd_even) == {
        "immediate": 0.5,
        "second": 1,
        "share_second_higher": 1,
    }
    band = [[1 - abs(i - j) / 10 for j in range(6)] for i in range(6)]
    found = neighbour_distance(band)
    assert found["immediate"] == pytest.approx(0.9) and found["share_second_higher"] == 0
