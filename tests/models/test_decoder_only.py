"""The decoder-only model against one sequence under a prefix mask, written out from formulas."""

from __future__ import annotations

import copy
import io
import math
from functools import cache
from typing import Dict, List, Tuple

import pytest
import torch
from fairseq.dataclass.configs import EMAConfig, FairseqConfig
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.models.ema.ema import EMA
from helpers import (
    arguments,
    assert_gradients_under_ddp,
    batch,
    build,
    built_at_random,
    cloned,
    gradients,
    logits,
    net_input,
    randomise,
    task,
)
from modules.literal import CLOSE, ffn, linear, norm
from omegaconf import OmegaConf
from torch import Tensor, nn

from fairseq_ffn.errors import UserError
from fairseq_ffn.modules.prefix_layer import ChunkedPrefixLayer

ARCH = "transformer_ffn_decoder_only"
WIDTH, HEADS = 16, 2
SHAPE: Dict[str, object] = {
    "decoder_embed_dim": WIDTH,
    "decoder_ffn_embed_dim": 24,
    "decoder_attention_heads": HEADS,
    "decoder_layers": 3,
    "dropout": 0.0,
}
PRE = {"decoder_normalize_before": True}
OWN = {**PRE, "decoder_block": "parallel", "parallel_norm": "own"}

#: flags on top of SHAPE
CASES: Dict[str, Dict[str, object]] = {
    "post-norm": {},
    "pre-norm": PRE,
    "pre-norm, no final norm": {**PRE, "no_decoder_final_norm": True},
    "parallel, post-norm": {"decoder_block": "parallel", "layernorm_embedding": True},
    "parallel, pre-norm": {**PRE, "decoder_block": "parallel"},
    "parallel, own norms": OWN,
    "parallel, scaled": {**OWN, "parallel_scale": "sqrt"},
    "parallel, FFN norm shared": {**OWN, "decoder_ffn_layout": "shared", "share_ffn_norm": True},
    "parallel without FFN": {**PRE, "decoder_block": "parallel", "decoder_ffn_layout": "none"},
    "shared": {"decoder_ffn_layout": "shared"},
    "shared, pre-norm, with its norm": {
        **PRE,
        "decoder_ffn_layout": "shared",
        "share_ffn_norm": True,
    },
    "no FFN": {"decoder_ffn_layout": "none"},
    "no FFN, pre-norm": {**PRE, "decoder_ffn_layout": "none"},
    "FFN here and there": {"decoder_ffn_layout": "a,-,a"},
    "no FFN in the last layer": {**PRE, "decoder_ffn_layout": "a,b,-"},
    "attention shared": {"decoder_self_attn_layout": "a,b,a"},
    "all shared": {**PRE, "decoder_self_attn_layout": "shared", "decoder_ffn_layout": "shared"},
    "one layer": {"decoder_layers": 1, **PRE},
    "positions restart": {"target_positions": "restart"},
    "positions learned": {"decoder_learned_pos": True, **PRE},
    "positions learned, restart": {"decoder_learned_pos": True, "target_positions": "restart"},
    "no positions": {"no_token_positional_embeddings": True},
    "no scale": {"no_scale_embedding": True},
}
every_case = pytest.mark.parametrize("name", CASES)


def flags_of(name: str, **more: object) -> Dict[str, object]:
    return {**SHAPE, **CASES[name], **more}


@cache
def model(name: str) -> nn.Module:
    """One float64 model each, not to be changed."""
    return built_at_random(ARCH, **flags_of(name))


# --- one sequence under a mask, from the formulas -------------------------------------------------


def position_vector(stack: nn.Module, number: int) -> Tensor:
    """Of the word ``number``, from 0; fairseq's tables start at row 2."""
    if stack.cfg.decoder.learned_pos:
        return stack.embed_positions.weight[2 + number]
    half = WIDTH // 2
    angles = [(2 + number) * 10000 ** (-k / (half - 1)) for k in range(half)]
    waves = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    return torch.tensor(waves, dtype=torch.float64)


def attention(module: nn.Module, x: Tensor, allowed: Tensor) -> Tensor:
    """Multi-head attention of ``x (N, C)`` to itself where ``allowed (N, N)`` says so."""
    heads = []
    for head in range(HEADS):
        part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
        q, k, v = (
            linear(projection, x)[:, part]
            for projection in (module.q_proj, module.k_proj, module.v_proj)
        )
        scores = q @ k.T / math.sqrt(WIDTH // HEADS)
        heads.append(scores.masked_fill(~allowed, -math.inf).softmax(-1) @ v)
    return linear(module.out_proj, torch.cat(heads, dim=-1))


def layer_output(layer: nn.Module, flags: Dict[str, object], x: Tensor, allowed: Tensor) -> Tensor:
    """The formulas of ``modules/decoder_layer.py`` without cross-attention."""
    first, last, has_ffn = layer.self_attn_layer_norm, layer.final_layer_norm, layer.fc1 is not None
    pre = flags.get("decoder_normalize_before", False)
    if flags.get("decoder_block") == "parallel":
        own = flags.get("parallel_norm") == "own"
        u = norm(first, x) if pre else x
        total = attention(layer.self_attn, u, allowed)
        if has_ffn:
            total = total + ffn(layer, norm(last, x) if own else u)
            if flags.get("parallel_scale") == "sqrt":
                total = total / math.sqrt(2)
        return x + total if pre else norm(first, x + total)
    if pre:
        h = x + attention(layer.self_attn, norm(first, x), allowed)
        return h + ffn(layer, norm(last, h)) if has_ffn else h
    h = norm(first, x + attention(layer.self_attn, x, allowed))
    return norm(last, h + ffn(layer, h)) if has_ffn else h


def literal_logits(
    one_stack: nn.Module, flags: Dict[str, object], source: Tensor, target: Tensor
) -> Tensor:
    """``(T, V)``: source and target ``(S,), (T,)`` in a row, one pass of full attention."""
    stack, s, n = one_stack.decoder, len(source), len(source) + len(target)
    words = torch.cat((source, target))
    rows: List[Tensor] = []
    for at, word in enumerate(words):
        row = stack.embed_tokens.weight[word]
        if not flags.get("no_scale_embedding"):
            row = row * math.sqrt(WIDTH)
        if not flags.get("no_token_positional_embeddings"):
            restarts = flags.get("target_positions") == "restart" and at >= s
            row = row + position_vector(stack, at - s if restarts else at)
        rows.append(row)
    x = torch.stack(rows)
    if flags.get("layernorm_embedding"):
        x = norm(stack.layernorm_embedding, x)
    # all see the source; target positions also see what is before them, and themselves
    allowed = torch.tensor([[j < s or (i >= s and j <= i) for j in range(n)] for i in range(n)])
    for layer in stack.layers:
        x = layer_output(layer, flags, x, allowed)
    if flags.get("decoder_normalize_before") and not flags.get("no_decoder_final_norm"):
        x = norm(stack.layer_norm, x)
    return x[s:] @ stack.embed_tokens.weight.T


def literal_batch(
    one_stack: nn.Module, flags: Dict[str, object], sentences: Dict[str, Tensor]
) -> Tensor:
    """Logits of all sentences, one by one and without pads: ``(all target words, V)``."""
    pairs = zip(sentences["src_tokens"], sentences["prev_output_tokens"])
    return torch.cat([literal_logits(one_stack, flags, a[a.ne(1)], b[b.ne(1)]) for a, b in pairs])


def real(scores: Tensor, sentences: Dict[str, Tensor]) -> Tensor:
    """Those at words: ``(all target words, V)``."""
    return scores[sentences["prev_output_tokens"].ne(1)]


@every_case
def test_equals_one_sequence_under_a_prefix_mask(name):
    """Whether sources are padded left, right or not at all, and targets too."""
    with torch.no_grad():
        for sentences in (batch(), pads_on_the_other_side(batch()), batch((5, 5), (4, 4))):
            expected = literal_batch(model(name), flags_of(name), sentences)
            actual = real(logits(model(name), sentences), sentences)
            torch.testing.assert_close(actual, expected, **CLOSE)


def pads_on_the_other_side(sentences: Dict[str, Tensor]) -> Dict[str, Tensor]:
    def turned(tokens: Tensor) -> Tensor:
        rows = []
        for row in tokens:
            words, pads = row[row.ne(1)], row[row.eq(1)]
            rows.append(torch.cat((words, pads) if row[0] == 1 else (pads, words)))
        return torch.stack(rows)

    return {name: turned(value) if value.dim() == 2 else value for name, value in sentences.items()}


@every_case
def test_gradients_are_those_of_one_sequence_under_a_prefix_mask(name):
    """The source learns through its keys and values alone."""
    one_stack, sentences = model(name), batch()
    actual = {}
    for of_literal in (False, True):
        one_stack.zero_grad()
        if of_literal:
            scores = literal_batch(one_stack, flags_of(name), sentences)
        else:
            scores = real(logits(one_stack, sentences), sentences)
        (scores * torch.linspace(-1, 1, scores.numel()).view_as(scores)).sum().backward()
        actual[of_literal] = {at: p.grad.clone() for at, p in one_stack.named_parameters()}
    one_stack.zero_grad()
    for at, expected in actual[True].items():
        # the pad's row is no weight
        found = actual[False][at]
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4), at
    assert actual[True]["decoder.layers.0.self_attn.v_proj.weight"].abs().max() > 0.1


def test_positions_that_continue_differ_from_those_that_restart():
    """With the same weights, from the first target word on."""
    with torch.no_grad():
        one, other = (logits(model(n), batch()) for n in ("post-norm", "positions restart"))
    assert ((one - other).abs().amax(-1) > 1e-3)[real_words()].all()


def real_words() -> Tensor:
    return batch()["prev_output_tokens"].ne(1)


@pytest.mark.parametrize("positions, rows", [("continue", 5 + 7), ("restart", 7)])
def test_a_learned_table_holds_the_longest_source_and_target(positions, rows):
    limits = {"max_source_positions": 5, "max_target_positions": 7}
    one_stack = built_at_random(
        ARCH, **SHAPE, **limits, decoder_learned_pos=True, target_positions=positions
    )
    assert one_stack.max_positions() == (5, 7)
    assert one_stack.decoder.embed_positions.weight.shape == (rows + 2, WIDTH)
    assert logits(one_stack, batch((5,), (7,))).isfinite().all()


def test_without_limits_of_length_sinusoids_go_on():
    one_stack = built_at_random(ARCH, **SHAPE, max_source_positions=4, max_target_positions=4)
    sentences = batch((40,), (30,))
    with torch.no_grad():
        expected = literal_batch(one_stack, SHAPE, sentences)
        torch.testing.assert_close(logits(one_stack, sentences)[0], expected, **CLOSE)


# --- the two faces of the stack -------------------------------------------------------------------


@every_case
def test_one_set_of_parameters_serves_both_faces(name):
    one_stack = model(name)
    assert list(one_stack.encoder.parameters()) == []
    assert one_stack.encoder.embed_tokens is one_stack.decoder.embed_tokens
    assert one_stack.decoder.output_projection.weight is one_stack.decoder.embed_tokens.weight
    assert all(layer.encoder_attn is None for layer in one_stack.decoder.layers)
    assert all(key.startswith("decoder.") for key in one_stack.state_dict())


def test_what_was_reordered_can_be_read_again():
    """Rows repeat, change places and leave, more than once; full decoding agrees each time."""
    one_stack, sentences = model("pre-norm"), batch((6, 4, 7))
    with torch.no_grad():
        prefix = one_stack.encoder(sentences["src_tokens"])
        order = torch.arange(3)
        targets = batch((3,) * 4, (5,) * 4)["prev_output_tokens"]
        for step in ([2, 0, 0, 1], [3, 1, 0, 0], [1, 2], [1, 0, 1, 1]):
            order = order[torch.tensor(step)]
            prefix = one_stack.encoder.reorder_encoder_out(prefix, torch.tensor(step))
            actual = one_stack.decoder(targets[: len(order)], encoder_out=prefix)[0]
            anew = one_stack.encoder(sentences["src_tokens"][order])
            expected = one_stack.decoder(targets[: len(order)], encoder_out=anew)[0]
            torch.testing.assert_close(actual, expected, **CLOSE)


def test_one_prefix_serves_several_searches():
    """Two searches from one prefix don't see each other, and leave it as it was."""
    one_stack, sentences = model("post-norm"), batch((6, 4))
    tokens = batch((3, 3), (4, 4))["prev_output_tokens"]
    with torch.no_grad():
        prefix = one_stack.encoder(sentences["src_tokens"])
        expected = one_stack.decoder(tokens, encoder_out=prefix)[0]
        states: Tuple[Dict, Dict] = ({}, {})
        for step in range(1, 5):
            for number, state in enumerate(states):
                shown = tokens.flip(0)[:, :step] if number else tokens[:, :step]
                there = one_stack.decoder(shown, encoder_out=prefix, incremental_state=state)[0]
                if number == 0:
                    torch.testing.assert_close(there, expected[:, step - 1 : step], **CLOSE)
        again = one_stack.decoder(tokens, encoder_out=prefix)[0]
    assert torch.equal(again, expected)


def test_inner_states_are_the_layers_outputs():
    with torch.no_grad():
        extra = model("no FFN")(**net_input(batch()))[1]
    assert [state.shape for state in extra["inner_states"]] == 4 * [(7, 3, WIDTH)]
    assert extra["attn"] == [None]


def test_of_the_last_layer_a_source_needs_keys_and_values_alone():
    """Nothing reads its output: neither queries nor FFN are computed for it."""
    one_stack, sentences = model("post-norm"), batch((6, 6))
    called: List[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in one_stack.decoder.layers.named_modules()
        if name.endswith(("q_proj", "k_proj", "v_proj", "fc1"))
    ]
    try:
        with torch.no_grad():
            one_stack.encoder(sentences["src_tokens"])
    finally:
        for hook in hooks:
            hook.remove()
    whole = [f"self_attn.{kind}_proj" for kind in "kqv"] + ["fc1"]
    assert sorted(called) == sorted(
        [f"{layer}.{name}" for layer in (0, 1) for name in whole]
        + ["2.self_attn.k_proj", "2.self_attn.v_proj"]
    )


def test_embeddings_of_source_and_target_are_dropped_in_training():
    """As in fairseq's encoder and decoder; here the layers' own dropout is off."""
    one_stack = built_at_random(ARCH, **{**SHAPE, "dropout": 0.3}).train()
    for layer in one_stack.decoder.layers:
        layer.dropout_module.p = 0.0
    sentences = batch()
    with torch.no_grad():
        first, again = (one_stack.encoder(sentences["src_tokens"]) for _ in range(2))
        assert not torch.equal(first["prefix_keys"][0], again["prefix_keys"][0])
        inputs = [
            one_stack.decoder(sentences["prev_output_tokens"], encoder_out=first)[1]["inner_states"]
            for _ in range(2)
        ]
    words = real_words().T
    dropped = [(states[0][words] == 0).double().mean().item() for states in inputs]
    assert dropped == pytest.approx([0.3, 0.3], abs=0.1)
    assert not torch.equal(inputs[0][0], inputs[1][0])


def test_a_target_without_a_source_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="needs a source"):
        model("post-norm").decoder(batch()["prev_output_tokens"], encoder_out=None)


# --- sharing and checkpoints ----------------------------------------------------------------------

#: layouts, and what an unshared model of the same function has
SHARING = {
    "FFN": ({"decoder_ffn_layout": "shared"}, {"decoder_ffn_layout": "0,1,2"}),
    "FFN and norm": (
        {"decoder_ffn_layout": "shared", "share_ffn_norm": True, **PRE},
        {"decoder_ffn_layout": "0,1,2", **PRE},
    ),
    "here and there": ({"decoder_ffn_layout": "a,-,a"}, {"decoder_ffn_layout": "0,-,2"}),
    "attention and FFN, parallel": (
        {
            "decoder_self_attn_layout": "a,b,a",
            "decoder_ffn_layout": "cycle:2",
            "decoder_block": "parallel",
            **PRE,
        },
        {"decoder_block": "parallel", **PRE},
    ),
}


def at(of: nn.Module, path: str):
    for name in path.split("."):
        of = getattr(of, name)
    return of


def shared_and_copy(name: str) -> Tuple[nn.Module, nn.Module]:
    shared_flags, unshared_flags = SHARING[name]
    shared = built_at_random(ARCH, **SHAPE, **shared_flags)
    unshared = built_at_random(ARCH, **SHAPE, **unshared_flags)
    for path, parameter in unshared.named_parameters():
        parameter.data.copy_(at(shared, path).data)
    return shared, unshared


@pytest.mark.parametrize("name", SHARING)
def test_shared_is_copied_and_its_gradient_is_the_copies_sum(name):
    shared, unshared = shared_and_copy(name)
    with torch.no_grad():
        assert torch.equal(logits(shared, batch()), logits(unshared, batch()))
    summed: Dict[int, Tensor] = {}
    for path, gradient in gradients(unshared, batch()).items():
        key = id(at(shared, path))
        summed[key] = summed.get(key, 0) + gradient
    of_shared = gradients(shared, batch())
    assert len(of_shared) == len(summed) < len(list(unshared.parameters()))
    for path, gradient in of_shared.items():
        expected = summed[id(at(shared, path))]
        assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-11), path


@pytest.mark.parametrize("name", SHARING)
def test_a_checkpoint_names_each_module_once_and_loads(name):
    shared, unshared = shared_and_copy(name)
    state = shared.state_dict()
    tensors = {value.data_ptr() for value in state.values()}
    # fairseq itself names the embedding once more, as output projection
    assert len(tensors) == len(state) - 1 < len(unshared.state_dict()) - 1
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    taker = randomise(build(ARCH, seed=9, dtype=torch.float64, **SHAPE, **SHARING[name][0])).eval()
    taker.load_state_dict(torch.load(file, weights_only=True), strict=True)
    with torch.no_grad():
        assert torch.equal(logits(taker, batch()), logits(shared, batch()))
    taker.load_state_dict(cloned(unshared.state_dict()), strict=True)
    differing = cloned(unshared.state_dict())
    differing["decoder.layers.2.fc2.bias"][0] += 1e-6
    with pytest.raises(UserError, match="decoder.layers.2.fc2.bias differ.*--decoder-ffn-layout"):
        taker.load_state_dict(differing)


def test_layers_are_pruned_while_loading():
    flags = {**SHAPE, "decoder_layers": 4, "decoder_ffn_layout": "a,b,a,b"}
    whole = built_at_random(ARCH, **flags)
    args = arguments(ARCH, **flags)
    args.decoder_layers_to_keep = "1,3"
    kind = ARCH_MODEL_REGISTRY[ARCH]
    pruned = kind.build_model(args, task()).double().eval()
    pruned.load_state_dict(cloned(whole.state_dict()), strict=True, model_cfg=args)
    whole.decoder.layers = nn.ModuleList(whole.decoder.layers[layer] for layer in (1, 3))
    with torch.no_grad():
        assert torch.equal(logits(pruned, batch()), logits(whole, batch()))
    again = kind.build_model(args, task()).double().eval()  # from flags that pruning rewrote
    again.load_state_dict(cloned(pruned.state_dict()), strict=True, model_cfg=args)
    assert len(again.decoder.layers) == 2 and again.decoder.layers[0].fc1 is (
        again.decoder.layers[1].fc1
    )


def test_copies_are_whole():
    """deepcopy, and fairseq's EMA: the copy's reader reads with the copy's stack."""
    one_stack = built_at_random(ARCH, **SHAPE)
    for copied in (copy.deepcopy(one_stack), EMA(one_stack, EMAConfig(store_ema=True)).get_model()):
        assert copied.encoder.stack is copied.decoder is not one_stack.decoder
        for parameter in copied.parameters():
            parameter.data.zero_()
    assert one_stack.encoder.stack is one_stack.decoder
    assert one_stack.decoder.layers[0].fc1.weight.abs().max() > 0


def test_gradients_under_pytorchs_ddp():
    """Each layer runs twice a pass, and is counted once."""
    flags = {**SHAPE, "decoder_ffn_layout": "shared"}
    plain, wrapped = (build(ARCH, dtype=torch.float64, **flags) for _ in range(2))
    assert_gradients_under_ddp(plain, wrapped)


def test_bfloat16_on_the_cpu():
    """Under autocast the prefix is cached in bfloat16 and the results stay near."""
    flags = {**SHAPE, **PRE}
    plain = built_at_random(ARCH, torch.float32, **flags)
    cast = built_at_random(ARCH, torch.float32, **flags, cpu_autocast="bfloat16")
    with torch.no_grad():
        expected, actual = logits(plain, batch()), logits(cast, batch())
    assert actual.dtype == torch.bfloat16
    error = (actual.float() - expected)[real_words()].abs().max()
    assert 0 < error < 0.05 * expected.abs().max()


# --- flags ----------------------------------------------------------------------------------------

#: flags, what the one line says
REFUSED: Dict[str, Tuple[Dict[str, object], List[str]]] = {
    "layers of an encoder": (
        {"encoder_layers": 6},
        ["--encoder-layers 6", "one stack", "use --decoder-layers"],
    ),
    "width of an encoder": (
        {"encoder_ffn_embed_dim": 99},
        ["--encoder-ffn-embed-dim 99", "use --decoder-ffn-embed-dim"],
    ),
    "norm of an encoder": (
        {"encoder_normalize_before": True},
        ["--encoder-normalize-before:", "use --decoder-normalize-before"],
    ),
    "FFN layout of an encoder": (
        {"encoder_ffn_layout": "shared"},
        ["--encoder-ffn-layout shared", "use --decoder-ffn-layout"],
    ),
    "block of an encoder": (
        {"encoder_block": "parallel"},
        ["--encoder-block parallel", "use --decoder-block"],
    ),
    "layerdrop of an encoder": ({"encoder_layerdrop": 0.1}, ["--encoder-layerdrop 0.1"]),
    "pruning of an encoder": ({"encoder_layers_to_keep": "0"}, ["--encoder-layers-to-keep 0"]),
    "cross-attention": (
        {"decoder_cross_attn_layout": "shared"},
        ["--decoder-cross-attn-layout 'shared'", "no cross-attention"],
    ),
    "half parallel": (
        {"decoder_block": "parallel-cross-ffn"},
        ["--decoder-block parallel-cross-ffn", "no cross-attention", "series or parallel"],
    ),
    "tied": ({"decoder_ffn_layout": "tied"}, ["--decoder-ffn-layout 'tied'", "use shared"]),
    "common group": (
        {"decoder_self_attn_layout": "@x,a,a"},
        ["--decoder-self-attn-layout '@x,a,a'", "without '@'"],
    ),
    "layerdrop": ({"decoder_layerdrop": 0.2}, ["--decoder-layerdrop", "different layers"]),
    "merged dictionaries": ({"merge_src_tgt_embed": True}, ["--merge-src-tgt-embed", "joined"]),
    "output width": ({"decoder_output_dim": 8}, ["--decoder-output-dim 8", "is"]),
    "adaptive softmax": ({"adaptive_softmax_cutoff": "10,20"}, ["--adaptive-softmax-cutoff"]),
    "cross+self": ({"cross_self_attention": True}, ["--cross-self-attention"]),
    "BASE": ({"base_layers": 1}, ["--base-layers"]),
    "quantisation": ({"quant_noise_pq": 0.1}, ["--quant-noise-pq"]),
    "scalar quantisation": ({"quant_noise_scalar": 0.1}, ["--quant-noise-scalar"]),
    "xFormers": ({"decoder_xformers_att_config": "{}"}, ["--decoder-xformers-att-config"]),
    "pipeline": ({"pipeline_model_parallel": True}, ["--pipeline-model-parallel"]),
    "FSDP": ({"ddp_backend": "fully_sharded"}, ["--ddp-backend fully_sharded"]),
    "checkpointing under DDP": (
        {
            "checkpoint_activations": True,
            "ddp_backend": "pytorch_ddp",
            "distributed_world_size": 2,
        },
        ["--checkpoint-activations with --ddp-backend pytorch_ddp", "legacy_ddp"],
    ),
    "unknown positions": (
        {"target_positions": "random"},
        ["--target-positions 'random'", "continue, restart"],
    ),
    "a layout that doesn't fit": (
        {"decoder_ffn_layout": "cycle:9"},
        ["--decoder-ffn-layout 'cycle:9'", "9 modules for 3 layers"],
    ),
    "own norms of a post-norm stack": (
        {"decoder_block": "parallel", "parallel_norm": "own"},
        ["--parallel-norm own", "decoder"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_in_one_line(name):
    given, words = REFUSED[name]
    with pytest.raises(UserError) as raised:
        arguments(ARCH, **{**SHAPE, **given})
    message = str(raised.value)
    assert "\n" not in message and all(word in message for word in words), message


@pytest.mark.parametrize("name", ["layers of an encoder", "half parallel", "layerdrop"])
def test_what_model_overrides_change_is_refused_too(name):
    args = arguments(ARCH, **SHAPE)
    for flag, value in REFUSED[name][0].items():
        setattr(args, flag, value)
    with pytest.raises(UserError) as raised:
        ARCH_MODEL_REGISTRY[ARCH].build_model(args, task())
    assert all(word in str(raised.value) for word in REFUSED[name][1])


@pytest.mark.parametrize(
    "given",
    [
        {"encoder_embed_dim": WIDTH},  # the same as the stack's
        {"share_all_embeddings": True},
        {"no_cross_attention": True},
        {"encoder_layers": None, "encoder_learned_pos": False, "encoder_layerdrop": 0},
        {"checkpoint_activations": True, "ddp_backend": "legacy_ddp", "distributed_world_size": 2},
        {"checkpoint_activations": True, "ddp_backend": "pytorch_ddp"},
        {**PRE, "scale_attn": True},
    ],
)
def test_what_changes_nothing_or_can_be_honoured_is_taken(given):
    args = arguments(ARCH, **{**SHAPE, **given})
    again = copy.deepcopy(args)
    one_stack = ARCH_MODEL_REGISTRY[ARCH].build_model(args, task())
    assert logits(one_stack, batch()).shape == (3, 7, 31)
    # a checkpoint's flags are settled already, and give the same model
    settled = {name: value for name, value in vars(again).items() if name != "arch"}
    assert vars(arguments(ARCH, **settled)) == vars(again)


def test_a_wide_ffn_in_chunks_has_the_gradients_of_a_whole_one():
    """``--ffn-chunk-width``: layers of another class, and the same function."""
    found = []
    for chunk in (0, 7):
        flags = {**SHAPE, **PRE, "decoder_ffn_layout": "shared", "ffn_chunk_width": chunk}
        training = randomise(build(ARCH, dtype=torch.float64, **flags)).train()
        assert all(
            isinstance(one, ChunkedPrefixLayer) == bool(chunk) for one in training.decoder.layers
        )
        found.append(gradients(training, batch()))
    for at_name, expected in found[0].items():
        assert torch.allclose(found[1][at_name], expected, rtol=1e-6, atol=1e-6), at_name


@pytest.mark.parametrize("option", ["print_alignment", "replace_unk"])
def test_decoding_options_that_need_cross_attention_are_refused(option):
    cfg = OmegaConf.structured(FairseqConfig())
    built_at_random(ARCH, **SHAPE).prepare_for_inference_(cfg)
    setattr(cfg.generation, option, "hard" if option == "print_alignment" else "align.txt")
    with pytest.raises(
        UserError, match=f"--{option.replace('_', '-')}: needs the weights of cross"
    ):
        built_at_random(ARCH, **SHAPE).prepare_for_inference_(cfg)


def test_two_dictionaries_are_refused():
    with pytest.raises(UserError, match="two dictionaries; use fairseq-preprocess --joined-dict"):
        build(ARCH, for_task=task(20, 9), **SHAPE)


def test_alignment_is_refused():
    with pytest.raises(UserError, match="full_context_alignment"):
        one_stack = model("post-norm")
        prefix = one_stack.encoder(batch()["src_tokens"])
        one_stack.decoder(
            batch()["prev_output_tokens"], encoder_out=prefix, full_context_alignment=True
        )
