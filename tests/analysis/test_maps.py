"""Players: exact at every scope of every layer; the activation split; measures on maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from fairseq import utils
from scipy.stats import spearmanr
from torch import nn
from torch.nn.functional import gelu, silu
from torch.utils._python_dispatch import TorchDispatchMode

from analysis.cases import MODELS, model_of, random_normal, records_of, sentences
from fairseq_ffn.analysis import map_measures
from fairseq_ffn.analysis.layer_maps import layer_maps
from fairseq_ffn.analysis.layer_steps import SELF, STACKS
from fairseq_ffn.analysis.map_study import Sentence, Settings, study
from fairseq_ffn.analysis.players import (
    Players,
    attention_split,
    feed_forward_split,
    layer_norm_split,
    secant,
)


def sigmoid(x):
    """An activation with g(0) other than 0."""
    return torch.sigmoid(x)


def maps_of(name: str, given=None, **how):
    model = model_of(name)
    return [layer_maps(record, **how) for record in records_of(model, given or sentences())]


@pytest.mark.parametrize("fixed_bias", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_players_add_up_at_every_scope_and_the_model_agrees(name, fixed_bias):
    for maps in maps_of(name, fixed_bias=fixed_bias, chunk=7):
        assert maps.error < 1e-10
        # against what the model, in float64 too, computed itself
        assert maps.difference_to_model < 1e-10
        assert all(np.isfinite(scope.cells).all() for scope in maps.scopes.values())


@pytest.mark.parametrize("activation", ["gelu_accurate", "tanh"])
def test_players_add_up_for_smooth_activations(activation):
    model = model_of("baseline post-norm", activation_fn=activation)
    for record in records_of(model, sentences()):
        maps = layer_maps(record)
        assert maps.error < 1e-10 and maps.difference_to_model < 1e-10


def test_single_precision_is_close():
    for maps in maps_of("baseline pre-norm", dtype=torch.float32):
        assert maps.error < 1e-4


SERIES = {
    "baseline post-norm": (
        "ATTN-W ATTN-N ATTNRES-N ATB ATBFF ATBFFRES ATBFFRESLN",
        "ATTN-W ATTN-N SATTNRES-N SATB ATTNRES-N ATB ATBFF ATBFFRES ATBFFRESLN",
    ),
    "baseline pre-norm": (
        "ATTN-W ATTN-N ATB ATBLN ATBLNFF ATBLNFFRES",
        "ATTN-W ATTN-N SATB ATB ATBLN ATBLNFF ATBLNFFRES",
    ),
    "parallel post-norm": ("ATTN-W ATTN-N ATB FF ATBFFRES ATBFFRESLN",) * 2,
    "parallel-cross-ffn pre-norm": (
        "ATTN-W ATTN-N ATB ATBLN ATBLNFF ATBLNFFRES",
        "ATTN-W ATTN-N SATB ATB FF ATBFFRES",
    ),
    "no_enc_no_dec post-norm": ("ATTN-W ATTN-N ATTNRES-N ATB",) * 1
    + ("ATTN-W ATTN-N SATTNRES-N SATB ATTNRES-N ATB",),
    "one_wide_parallel pre-norm": ("ATTN-W ATTN-N ATB FF ATBFFRES", "ATTN-W ATTN-N ATB"),
}


@pytest.mark.parametrize("name", SERIES)
def test_scopes(name):
    found = maps_of(name)
    for maps, expected in ((found[0], SERIES[name][0]), (found[3], SERIES[name][1])):
        assert " ".join(maps.scopes) == expected
        length = 6 if maps.address.stack == "encoder" else 5
        players = 6 if maps.address.stack == "encoder" else 5 + 6
        for scope in maps.scopes.values():
            assert scope.cells.shape == maps.visible.shape == (length, players)
            assert (scope.cells[~maps.visible] == 0).all()


def test_attention_vectors_are_the_literal_sum_over_heads():
    model = model_of("baseline pre-norm")
    attention = model.decoder.layers[0].self_attn
    x = random_normal(5, 16)
    weights, vectors, output = attention_split(attention, x, x, causal=True)
    for i in range(5):
        scores = []
        for head in range(2):
            part = slice(8 * head, 8 * head + 8)
            q = (x[i] @ attention.q_proj.weight.t() + attention.q_proj.bias)[part] / 8**0.5
            keys = (x[: i + 1] @ attention.k_proj.weight.t() + attention.k_proj.bias)[:, part]
            scores.append((keys @ q).softmax(0))
            assert torch.allclose(weights[head, i, : i + 1], scores[-1])
        for j in range(i + 1):
            literal = sum(
                scores[head][j]
                * (
                    (x[j] @ attention.v_proj.weight.t() + attention.v_proj.bias)[
                        8 * head : 8 * head + 8
                    ]
                    @ attention.out_proj.weight.t()[8 * head : 8 * head + 8]
                )
                for head in range(2)
            )
            assert torch.allclose(vectors[i, j], literal, rtol=0, atol=1e-12)
        assert (vectors[i, i + 1 :] == 0).all()
    with torch.no_grad():
        future = torch.full((5, 5), float("-inf"), dtype=torch.float64).triu(1)
        expected = attention(*[x.unsqueeze(1)] * 3, attn_mask=future)[0]
    assert torch.allclose(output, expected[:, 0], rtol=0, atol=1e-12)


def random_players(rows=3, parts=4, width=6) -> Players:
    tokens = random_normal(rows, parts, width)
    live = torch.ones(rows, parts, dtype=torch.bool)
    return Players(tokens, random_normal(rows, width, seed=2), live)


def test_norm_split_is_the_literal_formula():
    players = random_players()
    norm = nn.LayerNorm(6).double()
    norm.weight.data, norm.bias.data = random_normal(6, seed=3), random_normal(6, seed=4)
    total = players.total
    split = layer_norm_split(players, total, norm)
    for i in range(3):
        y = total[i]
        s = (((y - y.mean()) ** 2).mean() + norm.eps).sqrt()
        for j in range(4):
            c = players.tokens[i, j]
            assert torch.allclose(split.tokens[i, j], (c - c.mean()) / s * norm.weight)
        assert torch.allclose(
            split.bias[i],
            (players.bias[i] - players.bias[i].mean()) / s * norm.weight + norm.bias,
        )
    assert torch.allclose(split.total, norm(total), rtol=0, atol=1e-12)


class FeedForward(nn.Module):
    """As much of a layer as the split needs."""

    def __init__(self, activation, width=6, hidden=11):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden).double(), nn.Linear(hidden, width).double()
        self.activation_fn = activation
        self.requires_grad_(False)


def test_gelu_has_the_precision_of_the_maps():
    """fairseq's computes in float32 whatever it is given."""
    torch.manual_seed(1)
    layer, players = FeedForward(utils.get_activation_fn("gelu")), random_players()
    _, output = feed_forward_split(players, players.total, layer)
    literal = layer.fc2(gelu(layer.fc1(players.total)))
    assert torch.allclose(output, literal, rtol=0, atol=1e-12)


def test_secant_of_points_too_close_for_a_quotient_is_the_slope():
    anchor = torch.tensor([0.7], dtype=torch.float64)
    found = secant(torch.tanh, anchor + 3e-15, anchor)
    assert found.item() == pytest.approx(1 - math.tanh(0.7) ** 2, abs=1e-9)


@pytest.mark.parametrize("fixed_bias", [False, True])
@pytest.mark.parametrize("activation", [torch.relu, gelu, silu, torch.tanh, sigmoid])
def test_ffn_players_add_up_in_chunks_of_any_size(activation, fixed_bias):
    torch.manual_seed(1)
    layer, players = FeedForward(activation), random_players()
    total = players.total
    expected = layer.fc2(activation(layer.fc1(total)))
    whole, output = feed_forward_split(players, total, layer, fixed_bias)
    assert torch.allclose(output, expected, rtol=0, atol=1e-12)
    assert torch.allclose(whole.total, expected, rtol=0, atol=1e-12)
    for chunk in (1, 4, 11):
        parts, _ = feed_forward_split(players, total, layer, fixed_bias, chunk)
        assert torch.allclose(parts.tokens, whole.tokens, rtol=0, atol=1e-12)
        assert torch.allclose(parts.bias, whole.bias, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fixed_bias", [False, True])
@pytest.mark.parametrize("activation", [torch.relu, gelu, silu])
def test_closed_form_is_what_integrated_gradients_tend_to(activation, fixed_bias):
    """Midpoint rule of captum: its error against the closed form falls as the steps grow."""
    torch.manual_seed(1)
    layer, players = FeedForward(activation), random_players(rows=1, parts=3)
    closed, _ = feed_forward_split(players, players.total, layer, fixed_bias)
    w1, w2, b1 = layer.fc1.weight, layer.fc2.weight, layer.fc1.bias
    parts = torch.cat([players.tokens[0], players.bias]) @ w1.t()  # 4 players, 11 neurons
    fixed = b1 if fixed_bias else torch.zeros_like(b1)
    parts[-1] += b1 - fixed
    errors = []
    for steps in (5, 50, 500):
        found = torch.zeros(4, 6, dtype=torch.float64)
        for neuron in range(11):
            gradients = IntegratedGradients(
                lambda p, n=neuron: activation(p.sum(dim=1) + fixed[n])  # noqa: B023
            )
            one = gradients.attribute(
                parts[:, neuron].unsqueeze(0), n_steps=steps, method="riemann_middle"
            )
            found += one[0].unsqueeze(1) * w2[:, neuron]
        errors.append(float((found[:3] - closed.tokens[0]).abs().max()))
    if activation is torch.relu and not fixed_bias:
        assert max(errors) < 1e-6  # no kink on the path: exact but for captum's float32 steps
    else:
        assert errors[2] < 1e-2 * errors[0] + 1e-12 or errors[2] < 2e-3
        assert errors[2] < 5e-3 and errors[2] <= errors[1] <= errors[0]


def test_secant_at_its_limits():
    zero = torch.zeros(1, dtype=torch.float64)
    assert secant(gelu, zero, zero).item() == pytest.approx(0.5)
    assert secant(silu, zero, zero).item() == pytest.approx(0.5)
    assert secant(torch.relu, zero, zero).item() == 0
    bias = torch.tensor([0.7], dtype=torch.float64)
    slope = secant(gelu, bias + 1e-13, bias).item()
    assert slope == pytest.approx(secant(gelu, bias + 1e-5, bias).item(), abs=1e-4)


@pytest.mark.parametrize("name", ["parallel pre-norm", "parallel post-norm", "own norms"])
def test_ffn_of_a_parallel_layer_is_exactly_diagonal(name):
    for maps in maps_of(name):
        own = maps.visible.shape[0]
        cells = maps.scopes["FF"].cells.copy()
        assert (np.diagonal(cells[:, :own]) > 0).all()
        np.fill_diagonal(cells[:, :own], 0)
        assert (cells == 0).all()
        before, after = (maps.scopes[name].cells for name in maps.changes()["FF"])
        change = map_measures.contextualization_change(before, after, maps.visible, diagonal=False)
        assert change == 0


def test_ffn_of_a_series_layer_isnt():
    for maps in maps_of("baseline pre-norm"):
        cells = maps.scopes["ATBLNFF"].cells
        assert (cells[maps.visible] > 0).all()
        assert maps.scopes["ATBLN"].others.min() >= 0


def sentence_of(given) -> Sentence:
    return Sentence(
        0,
        given,
        [f"▁s{i}" for i in range(given.source.shape[1])],
        [f"▁t{i}" for i in range(given.target_input.shape[1])],
    )


def test_absent_ffn_changes_nothing():
    found = study(model_of("no_enc_no_dec pre-norm"), [sentence_of(sentences())], 0, Settings())
    for stack in STACKS:
        for layer in found["layers"][stack]:
            for component in ("FF", "RES", "LN", "FF block"):
                assert layer["change"][component]["all"]["mean"] == 0
                assert layer["change"][component]["without_diagonal"]["mean"] == 0
            assert layer["change"]["attention"]["all"]["mean"] > 0
            assert layer["ff_amp"]["top_pairs"] == []


def test_a_parallel_ffn_amplifies_no_pairs():
    found = study(model_of("parallel pre-norm"), [sentence_of(sentences())], 0, Settings())
    for stack in STACKS:
        for layer in found["layers"][stack]:
            assert layer["ff_amp"] == {"top_pairs": [], "kinds": {}}


def test_kinds_of_pairs():
    """Six source tokens, the first two of them pieces of one word; five targets."""
    sentence = sentence_of(sentences())
    sentence.source[1] = "piece"
    found = study(model_of("baseline pre-norm"), [sentence], 0, Settings())["layers"]
    encoder, decoder = (found[stack][0]["ff_amp"]["kinds"] for stack in STACKS)
    assert encoder["same word"]["all"] == pytest.approx(2 / 30)
    assert encoder["adjacent"]["all"] == pytest.approx(10 / 30)
    # a target sees those before it, and all of the source
    assert decoder["adjacent"]["all"] == pytest.approx(4 / (10 + 30))
    assert decoder["source"]["all"] == pytest.approx(30 / (10 + 30))


def test_study_is_the_mean_over_sentences():
    model = model_of("baseline post-norm")
    given = [sentence_of(sentences((n,), (m,), seed=n)) for n, m in ((6, 5), (4, 7), (8, 3))]
    found = study(model, given, 2, Settings())
    assert len(found["maps"]) == 2
    literal = []
    for one in given:
        maps = layer_maps(records_of(model, one.batch)[4])
        before, after = maps.scopes["ATB"].cells, maps.scopes["ATBFF"].cells
        literal.append(1 - spearmanr(before[maps.visible], after[maps.visible]).statistic)
    entry = found["layers"]["decoder"][1]["change"]["FF"]
    assert entry["all"]["mean"] == pytest.approx(np.mean(literal))
    assert entry["all"]["sentences"] == 3 and entry["scopes"] == ("ATB", "ATBFF")
    rows = np.array(found["maps"][0]["decoder"][1]["ATBFF"])
    assert rows.sum(axis=1) == pytest.approx(1, abs=2e-3)


def test_change_leaves_out_what_cant_be_seen():
    before = np.array([[5.0, 0, 0], [1, 4, 0], [3, 2, 6]])
    after = np.array([[2.0, 0, 0], [3, 1, 0], [5, 4, 6]])
    visible = np.tril(np.ones((3, 3), dtype=bool))
    rho = spearmanr([5, 1, 4, 3, 2, 6], [2, 3, 1, 5, 4, 6]).statistic
    change = map_measures.contextualization_change
    assert change(before, after, visible) == pytest.approx(1 - rho)
    rho = spearmanr([1, 3, 2], [3, 5, 4]).statistic
    assert change(before, after, visible, diagonal=False) == pytest.approx(1 - rho)
    assert change(before, 7 * before, visible) == 0
    assert math.isnan(change(before[:1, :1], after[:1, :1], visible[:1, :1]))
    assert math.isnan(change(np.ones((3, 3)), after, visible))


def test_mixing_is_of_the_vectors_sum_not_of_their_lengths():
    # two others that cancel out mix nothing in
    assert map_measures.mixing_ratio(np.array([2.0]), np.array([0.0])).tolist() == [0]
    assert map_measures.mixing_ratio(np.array([1.0]), np.array([3.0])).tolist() == [0.75]
    assert np.isnan(map_measures.mixing_ratio(np.zeros(1), np.zeros(1))).all()
    maps = maps_of("baseline pre-norm")[0]
    record = records_of(model_of("baseline pre-norm"), sentences())[0]
    layer = record.layer
    u = record.steps[0].inputs[SELF][:, 0]
    _, vectors, _ = attention_split(layer.self_attn, u, u, causal=False)
    others = vectors.sum(dim=1) - vectors[range(6), range(6)]
    assert maps.scopes["ATTN-N"].others == pytest.approx(others.norm(dim=-1).numpy())
    own = vectors[range(6), range(6)] + record.steps[0].x[:, 0]
    assert maps.scopes["ATB"].own == pytest.approx(own.norm(dim=-1).numpy())


def test_a_decoder_mixes_targets_and_sources():
    """Attention alone has two vectors, of two sub-blocks; after them there is one stream."""
    scopes = maps_of("baseline pre-norm")[3].scopes
    alone, stream = scopes["ATTN-N"], scopes["ATB"]
    assert alone.sources.min() > 0
    assert alone.others == pytest.approx(alone.targets + alone.sources)
    # the first target has no other one before it
    assert stream.others[0] == pytest.approx(stream.sources[0])
    assert (stream.others[1:] < stream.targets[1:] + stream.sources[1:] - 1e-3).all()


def test_shares_add_up():
    found = map_measures.shares(np.array([1.0, 0]), np.array([2.0, 0]), np.array([5.0, 3]))
    assert found[:, 0].tolist() == [0.125, 0.25, 0.625] and found[:, 1].tolist() == [0, 0, 1]


def test_amplified_pairs_are_what_grew_off_the_diagonal():
    before = np.array([[1.0, 1, 0], [1, 1, 2], [2, 1, 1]])
    after = np.array([[9.0, 1, 0], [1, 1, 8], [2, 2, 4]])
    visible = np.ones((3, 3), dtype=bool)
    amplified = map_measures.amplification(before, after)
    assert amplified.sum(axis=1) == pytest.approx(0)
    found = map_measures.top_pairs(amplified, visible, 5)
    assert found == [(1, 2, pytest.approx(0.3))]
    # twice the whole map amplifies nothing
    assert map_measures.top_pairs(map_measures.amplification(before, 2 * before), visible, 5) == []


def test_sources_only_reach_the_decoder_through_cross_attention():
    maps = maps_of("no cross-attention pre-norm")[3]
    assert maps.visible.shape == (5, 5)
    assert all((scope.sources == 0).all() for scope in maps.scopes.values())
    maps = maps_of("baseline pre-norm")[3]
    assert (maps.scopes["SATB"].sources == 0).all() and (maps.scopes["ATB"].sources > 0).all()


def test_one_sentence_at_a_time():
    with pytest.raises(ValueError, match="one sentence"):
        maps_of("baseline pre-norm", sentences((6, 4), (5, 3)))


class Largest(TorchDispatchMode):
    """Size of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, torch.Tensor) and one._base is None:  # views hold nothing
                self.numel = max(self.numel, one.numel())
        return result


def test_memory_doesnt_grow_with_the_hidden_width():
    players = random_players(rows=8, parts=9)
    largest = []
    for hidden in (1_000, 10_000):
        layer = FeedForward(torch.relu, hidden=hidden)
        with Largest() as seen:
            feed_forward_split(players, players.total, layer, chunk=20)
        largest.append(seen.numel)
    # a chunk of all players' neurons
    assert largest == [8 * 9 * 20] * 2
