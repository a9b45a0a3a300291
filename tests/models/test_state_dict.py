"""Checkpoints of models with shared modules: small, exact, and shared again after loading."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Dict, List

import pytest
import torch
from fairseq.dataclass.configs import EMAConfig
from fairseq.models.ema.ema import EMA
from helpers import arguments, batch, build, cloned, logits, randomise, task
from torch import nn

from fairseq_ffn.errors import UserError
from fairseq_ffn.models.transformer_ffn import TransformerFfnModel
from models.sharing_cases import CASES, FOUR, at, shared_model, unshared_copy

STACKS = {"e": "encoder", "d": "decoder"}


def names_of_copies(case) -> List[str]:
    """Prefixes under which a shared module would be named again."""
    return [
        f"{STACKS[user[0]]}.layers.{user[1]}.{part}."
        for parts, groups in case.groups.items()
        for group in groups
        for user in group.split()[1:]
        for part in parts
    ]


def fresh(case, seed: int = 30) -> nn.Module:
    flags = {**FOUR, **case.flags}
    return randomise(build("transformer_ffn", seed=seed, dtype=torch.float64, **flags), seed).eval()


def assert_same_outputs(a: nn.Module, b: nn.Module) -> None:
    with torch.no_grad():
        assert torch.equal(logits(a, batch()), logits(b, batch()))


def assert_shared_as(actual: nn.Module, expected: nn.Module) -> None:
    """The same names stand for the same module in both."""

    def users(model: nn.Module) -> List[List[str]]:
        found: Dict[int, List[str]] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            if isinstance(module, (nn.Linear, nn.LayerNorm)):
                found.setdefault(id(module), []).append(path)
        return list(found.values())

    assert users(actual) == users(expected)


@pytest.mark.parametrize("name", CASES)
class TestShared:
    def test_each_module_is_named_once(self, name):
        case, shared = CASES[name], shared_model(CASES[name])
        copies = names_of_copies(case)
        everything = list(unshared_copy(shared, case).state_dict())
        expected = [key for key in everything if not key.startswith(tuple(copies))]
        assert list(shared.state_dict()) == expected != everything
        assert len({value.data_ptr() for value in shared.state_dict().values()}) == len(expected)

    def test_a_round_trip_through_a_file_keeps_values_and_sharing(self, name):
        shared, taker = shared_model(CASES[name]), fresh(CASES[name])
        file = io.BytesIO()
        torch.save(shared.state_dict(), file)
        file.seek(0)
        taker.load_state_dict(torch.load(file, weights_only=True), strict=True)
        assert_same_outputs(taker, shared)
        assert_shared_as(taker, shared)
        for path, parameter in shared.named_parameters():
            assert torch.equal(at(taker, path), parameter)

    def test_the_full_form_with_equal_copies_loads(self, name):
        shared, taker = shared_model(CASES[name]), fresh(CASES[name])
        full = cloned(unshared_copy(shared, CASES[name]).state_dict())
        assert len(full) > len(shared.state_dict())
        taker.load_state_dict(full, strict=True)
        assert_same_outputs(taker, shared)
        assert_shared_as(taker, shared)

    def test_the_full_form_with_differing_copies_is_refused(self, name):
        case, shared = CASES[name], shared_model(CASES[name])
        for parts, groups in case.groups.items():
            for group in groups:
                owner, *others = group.split()
                full = cloned(unshared_copy(shared, case).state_dict())
                keys = [
                    f"{STACKS[user[0]]}.layers.{user[1]}.{parts[-1]}.bias"
                    for user in (owner, others[-1])
                ]
                full[keys[1]][0] += 1e-6
                kind = {"fc": "ffn", "fi": "ffn", "se": "self-attn", "en": "cross-attn"}
                flag = f"--{STACKS[others[-1][0]]}-{kind[parts[-1][:2]]}-layout"
                with pytest.raises(UserError) as raised:
                    fresh(case).load_state_dict(full)
                message = str(raised.value)
                assert all(word in message for word in [*keys, flag]) and "\n" not in message

    @pytest.mark.parametrize("full", [False, True], ids=["compact", "full"])
    def test_pruning_layers_while_loading(self, name, full):
        """As fairseq-generate builds and loads such a model. fairseq needs both flags or none."""
        keep = ("1,3", "0,1")
        case, shared = CASES[name], shared_model(CASES[name])
        state = (unshared_copy(shared, case) if full else shared).state_dict()
        args = arguments("transformer_ffn", **{**FOUR, **case.flags})
        args.encoder_layers_to_keep, args.decoder_layers_to_keep = keep
        pruned = TransformerFfnModel.build_model(args, task()).double().eval()
        pruned.load_state_dict(cloned(state), strict=True, model_cfg=args)
        for stack, layers in zip((shared.encoder, shared.decoder), keep):
            stack.layers = nn.ModuleList(stack.layers[int(layer)] for layer in layers.split(","))
            stack.num_layers = len(stack.layers)
        assert_same_outputs(pruned, shared)
        assert_shared_as(pruned, shared)
        # what it saves from now on is compact, and loads
        again = TransformerFfnModel.build_model(args, task()).double().eval()
        again.load_state_dict(cloned(pruned.state_dict()), strict=True, model_cfg=args)
        assert_same_outputs(again, pruned)
        # also into itself
        state = cloned(pruned.state_dict())
        randomise(pruned, seed=33)
        pruned.load_state_dict(state, strict=True, model_cfg=args)
        assert_same_outputs(pruned, again)


#: one of each kind
SOME = (
    "tied",
    "FFN and its norm shared",
    "one wide",
    "self-attention common to both stacks",
    "attention and FFN",
)


@pytest.mark.parametrize("name", SOME)
def test_inside_a_wrapper(name):
    """As distributed training has it."""
    shared, taker = shared_model(CASES[name]), fresh(CASES[name])
    wrapped, other = nn.ModuleDict({"module": shared}), nn.ModuleDict({"module": taker})
    state = wrapped.state_dict()
    assert list(state) == [f"module.{key}" for key in shared.state_dict()]
    other.load_state_dict(cloned(state), strict=True)
    assert_same_outputs(taker, shared)


def pickled(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("copier", [copy.deepcopy, pickled])
def test_copies_of_the_object(name, copier):
    shared = shared_model(CASES[name])
    twin = copier(shared)
    assert_shared_as(twin, shared)
    assert_same_outputs(twin, shared)
    assert list(twin.state_dict()) == list(shared.state_dict())
    # its hooks are its own, and so are its weights
    randomise(twin, seed=31)
    assert not torch.equal(logits(twin, batch()), logits(shared, batch()))
    twin.load_state_dict(cloned(shared.state_dict()), strict=True)
    assert_same_outputs(twin, shared)


# post-norm: fairseq's own moving average loses the last norm of a pre-norm Transformer
@pytest.mark.parametrize("float32", [False, True])
@pytest.mark.parametrize("name", [name for name in SOME if name != "attention and FFN"])
def test_moving_average_counts_a_shared_module_once(name, float32):
    shared = shared_model(CASES[name]).float()
    before = cloned(shared.state_dict())
    average = EMA(shared, EMAConfig(ema_decay=0.75, ema_fp32=float32))
    randomise(shared, seed=32)
    average.step(shared)
    assert_shared_as(average.get_model(), shared)
    for path, parameter in average.get_model().named_parameters():
        expected = 0.75 * before[path] + 0.25 * at(shared, path)
        torch.testing.assert_close(parameter, expected, rtol=1e-6, atol=1e-6)
    shared.load_state_dict(cloned(average.get_model().state_dict()), strict=True)
    scores = logits(average.get_model(), batch())
    torch.testing.assert_close(logits(shared, batch()), scores, rtol=1e-4, atol=1e-4)


def pruned_arguments(**keep: str):
    args = arguments("transformer_ffn", **FOUR, encoder_ffn_layout="shared")
    vars(args).update(keep)
    return args


def test_pruning_to_one_layer():
    shared = shared_model(CASES["encoder FFN shared"])
    args = pruned_arguments(encoder_layers_to_keep="2", decoder_layers_to_keep="0,1,2,3")
    pruned = TransformerFfnModel.build_model(args, task()).double().eval()
    pruned.load_state_dict(cloned(shared.state_dict()), strict=True, model_cfg=args)
    shared.encoder.layers = shared.encoder.layers[2:3]
    assert_same_outputs(pruned, shared)


def test_pruning_to_a_layer_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="--encoder-layers-to-keep '1,4': layer 4"):
        TransformerFfnModel.build_model(pruned_arguments(encoder_layers_to_keep="1,4"), task())


def test_pruning_away_one_stacks_part_of_a_common_group_is_refused():
    flags = {"encoder_ffn_layout": "@x,a,a,a", "decoder_ffn_layout": "@x,@x,@x,@x"}
    args = arguments("transformer_ffn", **FOUR, **flags)
    args.encoder_layers_to_keep = "1,2"
    with pytest.raises(UserError, match="'@x' is common to both stacks"):
        TransformerFfnModel.build_model(args, task())


def test_a_checkpoint_without_the_shared_module_does_not_load():
    shared = shared_model(CASES["tied"])
    state = cloned(shared.state_dict())
    del state["encoder.layers.0.fc1.weight"]
    with pytest.raises(RuntimeError, match="encoder.layers.0.fc1.weight"):
        shared.load_state_dict(state, strict=True)


def test_a_checkpoint_of_an_unshared_model_does_not_load_into_a_shared_one():
    flags = {**FOUR, "encoder_ffn_layout": "shared"}
    stock = build("transformer", **FOUR)
    with pytest.raises(UserError, match="--encoder-ffn-layout"):
        build("transformer_ffn", **flags).load_state_dict(stock.state_dict())


def test_half_precision_keeps_the_file_small():
    sizes = []
    for layout in ("independent", "shared"):
        flags = {**FOUR, "encoder_ffn_layout": layout, "encoder_ffn_embed_dim": 2000}
        # converting makes a tensor of its own from each entry, as fairseq does
        state = {
            key: value.half()
            for key, value in build("transformer_ffn", **flags).state_dict().items()
        }
        file = io.BytesIO()
        torch.save(state, file)
        sizes.append(len(file.getvalue()))
    one_ffn = 2 * (2 * 16 * 2000 + 2000 + 16)
    assert sizes[0] - sizes[1] >= 3 * one_ffn


@pytest.mark.parametrize("full", [False, True], ids=["compact", "full"])
def test_building_a_pruned_model_twice_before_loading(full):
    case = CASES["one wide"]
    shared = shared_model(case)
    state = (unshared_copy(shared, case) if full else shared).state_dict()
    args = arguments("transformer_ffn", **{**FOUR, **case.flags})
    args.encoder_layers_to_keep, args.decoder_layers_to_keep = "1,3", "0,1"
    TransformerFfnModel.build_model(args, task())
    pruned = TransformerFfnModel.build_model(args, task()).double().eval()
    pruned.load_state_dict(cloned(state), strict=True, model_cfg=args)
    assert len(pruned.encoder.layers) == len(pruned.decoder.layers) == 2
