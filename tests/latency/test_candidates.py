from __future__ import annotations

import pytest
import torch
from fairseq.models import ARCH_MODEL_REGISTRY
from helpers import PRE_NORM, SMALL, built_at_random

from fairseq_ffn.decoding.candidates import (
    LoadedModel,
    Search,
    build_untrained,
    random_batches,
    task_of_size,
)
from fairseq_ffn.errors import UserError
from fairseq_ffn.latency.clock import Clock

CPU = torch.device("cpu")


def places(model):
    """Where each parameter lies, by all of its names, also once it is prepared for inference."""
    return {
        name.replace(".plain.", "."): parameter.data_ptr()
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }


def sharing(model):
    """Which names mean one parameter."""
    names = {}
    for name, place in places(model).items():
        names.setdefault(place, []).append(name)
    return sorted(names.values())


@pytest.fixture()
def one_wide():
    task = task_of_size(31)
    model = built_at_random(
        "transformer_ffn_tiny_one_wide",
        dtype=torch.float32,
        **{**SMALL, **PRE_NORM, "share_all_embeddings": True},
    )
    return LoadedModel("model", task, model)


def outputs(loaded):
    """What it decodes, with all scores."""
    candidate = loaded.candidate(Search(beam=2, force_length=5), Clock(CPU))
    batches = random_batches(loaded.task.source_dictionary, [4, 7], 2, 2, CPU)
    return [
        (best["tokens"].tolist(), best["score"].item())
        for batch in batches
        for sentence in candidate.decode(batch).output
        for best in sentence
    ]


def test_refreshed_weights_lie_elsewhere_and_share_what_they_shared(one_wide):
    model = one_wide.model
    shared, size = sharing(model), one_wide.facts()["parameters"]
    tied = [name for names in shared if len(names) > 1 for name in names]
    assert "decoder.output_projection.weight" in tied and any("fc1" in name for name in tied)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    expected = outputs(one_wide)
    before = places(model)
    one_wide.refresh()
    after = places(model)
    # products that are fused anew may by chance take a place that has just become free
    moved = [name for name, place in before.items() if after[name] != place]
    assert len(moved) > 0.8 * len(before)
    assert sharing(model) == shared and one_wide.facts()["parameters"] == size
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert outputs(one_wide) == expected


def test_views_of_one_storage_stay_views_of_one(one_wide):
    module = torch.nn.Module()
    storage = torch.arange(12.0)
    module.first = torch.nn.Parameter(storage[:6].view(2, 3))
    module.second = torch.nn.Parameter(storage.view(3, 4).t())
    module.register_buffer("counter", torch.tensor(3))
    old = storage.untyped_storage().data_ptr()
    LoadedModel("model", one_wide.task, module).refresh()
    assert module.first.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert module.second.shape == (4, 3) and module.second[1].tolist() == [1, 5, 9]
    assert module.counter.item() == 3 and module.counter.dtype == torch.int64
    new = module.first.untyped_storage().data_ptr()
    assert new == module.second.untyped_storage().data_ptr() != old
    module.first.data[0, 1] = 7
    assert module.second[1, 0].item() == 7 and storage[1].item() == 1


@pytest.mark.parametrize("arch", ["lstm", "fconv", "lightconv", "transformer_wmt_en_de_big"])
def test_untrained_models_of_fairseqs_own_architectures(arch):
    (loaded,) = build_untrained([arch], task_of_size(20))
    loaded.to_device(CPU, half=False)
    candidate = loaded.candidate(Search(beam=2, force_length=3), Clock(CPU))
    batch = random_batches(loaded.task.source_dictionary, [4], 1, 1, CPU)[0]
    decoded = candidate.decode(batch)
    assert (decoded.tokens, decoded.steps) == (4, 4)
    assert loaded.facts()["arch"] == arch


def test_a_joined_dictionary_ties_embeddings_and_the_seed_makes_the_weights():
    task = task_of_size(20)
    first, again = build_untrained(["transformer_ffn_tiny"] * 2, task, seed=3)
    assert first.model.encoder.embed_tokens is first.model.decoder.embed_tokens
    weight = first.model.encoder.embed_tokens.weight
    assert torch.equal(weight, again.model.encoder.embed_tokens.weight)
    (other,) = build_untrained(["transformer_ffn_tiny"], task, seed=4)
    assert not torch.equal(weight, other.model.encoder.embed_tokens.weight)


@pytest.mark.parametrize(
    "arch",
    [
        *("transformer_lm", "transformer_lm_gpt", "nonautoregressive_transformer"),
        *("multilingual_transformer", "roberta_base", "wav2vec2", "levenshtein_transformer"),
    ],
)
def test_a_model_that_beam_search_can_not_use_is_one_line(arch):
    with pytest.raises(UserError) as refused:
        build_untrained([arch], task_of_size(20))
    text = str(refused.value)
    assert text.startswith(f"--arch {arch}: no model that beam search translates with (")
    assert "\n" not in text


def test_a_model_that_needs_flags_of_its_own_is_one_line(monkeypatch, capsys):
    class Needy:
        @classmethod
        def add_args(cls, parser):
            parser.add_argument("--segment-size", type=int, required=True)

    monkeypatch.setitem(ARCH_MODEL_REGISTRY, "needy", Needy)
    with pytest.raises(UserError, match=r"--arch needy: .*required: --segment-size\)$"):
        build_untrained(["needy"], task_of_size(20))
    assert capsys.readouterr().err == ""
