"""The closed-form counts against real models, PyTorch's FLOP counter, and the papers' figures."""

from __future__ import annotations

import argparse
from dataclasses import replace
from math import floor
from typing import Dict, Iterator, Optional, Tuple

import pytest
import torch
from helpers import SMALL, Task, arguments, build, task
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fairseq_ffn.costs import (
    ModelShape,
    StackShape,
    count_multiply_adds,
    count_parameters,
    count_sentence_pair,
    shape_of,
)
from fairseq_ffn.errors import UserError
from fairseq_ffn.layouts import parse_model_layouts
from fairseq_ffn.models.architectures import (
    CONFIGS,
    all_architectures,
    architecture_name,
)

#: rows of the one embedding matrix that the sizes of One Wide FFN imply
PAPER_VOCABULARY = 50368
ONE_MATRIX = {"share_all_embeddings": True}
# a busy machine is no failure; some draws are flags that the plugin refuses
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]


def measured_parameters(model: nn.Module) -> Tuple[int, int]:
    """Total and body of a real model."""
    outside = ("embed_tokens", "embed_positions", "output_projection")
    sizes = [(name, parameter.numel()) for name, parameter in model.named_parameters()]
    body = sum(size for name, size in sizes if not any(part in name for part in outside))
    return sum(size for _, size in sizes), body


def measured_multiply_adds(model: nn.Module, source: int, target: int) -> float:
    """Of one forward pass over one sentence pair; half the FLOPs."""
    tokens = torch.full((1, source), 4), torch.tensor([source]), torch.full((1, target), 5)
    # fused attention is invisible to the counter
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.eval()(*tokens)
    return counter.get_total_flops() / 2


def assert_parameters_match(model: nn.Module, shape: ModelShape) -> None:
    count = count_parameters(shape)
    assert (count.total, count.body) == measured_parameters(model)
    assert count.embedding == count.total - count.body


def paper_shape(size: str, config: str = "baseline", **flags: object) -> ModelShape:
    """An architecture with the paper's vocabulary and one embedding matrix."""
    args = arguments(architecture_name(size, config), **ONE_MATRIX, **flags)
    return shape_of(args, PAPER_VOCABULARY)


def paper_millions(size: str, config: str = "baseline", **flags: object) -> float:
    return count_parameters(paper_shape(size, config, **flags)).total / 1e6


# --- parameters of real models --------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS)
def test_parameters_of_tiny_architectures(config: str) -> None:
    arch = architecture_name("tiny", config)
    one, two = task(50), task(50, 31)
    assert_parameters_match(
        build(arch, for_task=one, **ONE_MATRIX), shape_of(arguments(arch, **ONE_MATRIX), 54)
    )
    assert_parameters_match(build(arch, for_task=two), shape_of(arguments(arch), 54, 35))


@pytest.mark.parametrize(
    ("size", "config"), [pair for pair in all_architectures() if pair[0] != "tiny"]
)
def test_parameters_of_large_architectures(size: str, config: str) -> None:
    arch = architecture_name(size, config)
    with torch.device("meta"):  # shapes without memory
        model = build(arch, for_task=task(50), **ONE_MATRIX)
    assert_parameters_match(model, shape_of(arguments(arch, **ONE_MATRIX), 54))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"share_decoder_input_output_embed": True}, (20, 9)),
        ({"encoder_learned_pos": True, "max_source_positions": 40}, (20, None)),
        ({"decoder_learned_pos": True}, (20, None)),
        ({"encoder_learned_pos": True, "no_token_positional_embeddings": True}, (20, None)),
        ({"decoder_output_dim": 10}, (20, 9)),
        ({"encoder_embed_dim": 12, "encoder_ffn_embed_dim": 50}, (20, 9)),
        ({"no_cross_attention": True, "decoder_block": "parallel"}, (20, None)),
        ({"encoder_normalize_before": True, "no_decoder_final_norm": True}, (20, None)),
        ({"decoder_normalize_before": True, "no_decoder_final_norm": True}, (20, None)),
        ({"encoder_ffn_layout": "@x,a,-", "decoder_ffn_layout": "b,@x,@x"}, (20, None)),
        (
            {
                "encoder_ffn_layout": "@x,a,a",
                "decoder_ffn_layout": "b,@x,@x",
                "share_ffn_norm": True,
            },
            (20, None),
        ),
        ({"encoder_self_attn_layout": "tied", "decoder_self_attn_layout": "@tied,a,a"}, (20, 9)),
        ({"decoder_cross_attn_layout": "cycle:2", "encoder_embed_dim": 8}, (20, 9)),
    ],
)
def test_parameters_with_single_options(flags: Dict[str, object], words: tuple) -> None:
    flags = {**SMALL, **flags}
    with torch.device("meta"):
        model = build("transformer_ffn", for_task=task(*words), **flags)
    shape = shape_of(arguments("transformer_ffn", **flags), *(n + 4 for n in words if n))
    assert_parameters_match(model, shape)


ONE_STACK = "transformer_ffn_decoder_only"


@st.composite
def one_stack_models(draw: st.DrawFn) -> Dict[str, object]:
    """Flags of a small decoder-only model."""
    layers = draw(st.integers(min_value=1, max_value=4))
    flags: Dict[str, object] = {
        "decoder_layers": layers,
        "decoder_embed_dim": draw(st.sampled_from([4, 6, 8])),
        "decoder_ffn_embed_dim": draw(st.sampled_from([3, 10, 17])),
        "decoder_attention_heads": 2,
        "decoder_ffn_layout": draw(layout_strings(layers, False, True)),
        "decoder_self_attn_layout": draw(layout_strings(layers, False, False)),
        "decoder_block": draw(st.sampled_from(["series", "parallel"])),
        "target_positions": draw(st.sampled_from(["continue", "restart"])),
        "max_source_positions": draw(st.sampled_from([8, 11])),
        "max_target_positions": draw(st.sampled_from([8, 13])),
    }
    for name in (
        "decoder_normalize_before",
        "share_ffn_norm",
        "layernorm_embedding",
        "decoder_learned_pos",
        "no_decoder_final_norm",
        "no_token_positional_embeddings",
    ):
        flags[name] = draw(st.booleans())
    if flags["decoder_block"] == "parallel":
        own = draw(st.booleans()) and flags["decoder_normalize_before"]
        flags["parallel_norm"] = "own" if own else "shared"
        flags["share_ffn_norm"] = flags["share_ffn_norm"] and own
    return flags


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(one_stack_models(), st.integers(3, 9), st.integers(1, 8), st.integers(1, 8))
def test_costs_of_random_decoder_only_models(
    flags: Dict[str, object], words: int, source: int, target: int
) -> None:
    model = build(ONE_STACK, for_task=task(words), **flags)
    shape = shape_of(arguments(ONE_STACK, **flags), words + 4)
    assert_parameters_match(model, shape)
    assert count_sentence_pair(shape, source, target) == measured_multiply_adds(
        model, source, target
    )


@pytest.mark.parametrize("share_ffn_norm", [False, True])
@pytest.mark.parametrize("kept", [("0,2", None), (None, "1,3"), ("1", "0,1,2,3")])
def test_parameters_of_pruned_models(
    kept: Tuple[Optional[str], Optional[str]], share_ffn_norm: bool
) -> None:
    flags = {
        **SMALL,
        "encoder_layers": 3,
        "decoder_layers": 4,
        "encoder_ffn_layout": "shared",
        "decoder_ffn_layout": "a,b,-,b",
        "share_ffn_norm": share_ffn_norm,
        "encoder_layers_to_keep": kept[0],
        "decoder_layers_to_keep": kept[1],
    }
    before = shape_of(arguments("transformer_ffn", **flags), 31)
    model = build("transformer_ffn", **flags)
    assert_parameters_match(model, before)
    assert_parameters_match(model, shape_of(model.args, 31))  # flags rewritten by the pruning


def layout_strings(layers: int, common: bool, absent: bool) -> st.SearchStrategy[str]:
    """Layout strings for a stack; with common groups and absent sub-blocks where allowed."""
    names = ["a", "b", *(["-"] if absent else []), *(["@x", "@y"] if common else [])]
    row = st.lists(st.sampled_from(names), min_size=layers, max_size=layers).map(",".join)
    words = ["independent", "shared", *(["none"] if absent else [])]
    modules = st.integers(min_value=1, max_value=layers)
    strategy = st.sampled_from(["sequence", "cycle", "cycle-rev"])
    return st.one_of(
        st.sampled_from(words), row, st.builds(lambda name, m: f"{name}:{m}", strategy, modules)
    )


@st.composite
def models(draw: st.DrawFn) -> Tuple[Dict[str, object], Task]:
    """Flags of a small model, and a task for it; whatever the plugin accepts."""
    depth = st.integers(min_value=1, max_value=4)
    width, ffn_width = st.sampled_from([4, 6, 8]), st.sampled_from([3, 10, 17])
    encoder_layers, decoder_layers = draw(depth), draw(depth)
    one_width = draw(st.booleans())
    flags: Dict[str, object] = {
        "encoder_layers": encoder_layers,
        "decoder_layers": decoder_layers,
        "encoder_embed_dim": draw(width),
        "encoder_ffn_embed_dim": draw(ffn_width),
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "decoder_cross_attn_layout": draw(layout_strings(decoder_layers, False, False)),
        "encoder_block": draw(st.sampled_from(["series", "parallel"])),
        "decoder_block": draw(st.sampled_from(["series", "parallel", "parallel-cross-ffn"])),
        "parallel_norm": draw(st.sampled_from(["shared", "own"])),
        "max_source_positions": draw(st.sampled_from([8, 11])),
        "max_target_positions": draw(st.sampled_from([8, 13])),
    }
    flags["decoder_embed_dim"] = flags["encoder_embed_dim"] if one_width else draw(width)
    flags["decoder_ffn_embed_dim"] = (
        flags["encoder_ffn_embed_dim"] if one_width else draw(ffn_width)
    )
    for kind, absent in (("ffn", True), ("self_attn", False)):
        both = one_width and draw(st.booleans())
        for stack, layers in (("encoder", encoder_layers), ("decoder", decoder_layers)):
            layout = draw(layout_strings(layers, both, absent))
            flags[f"{stack}_{kind}_layout"] = layout
        if both and draw(st.booleans()):
            flags[f"encoder_{kind}_layout"] = flags[f"decoder_{kind}_layout"] = "tied"
    for name in (
        "encoder_normalize_before",
        "decoder_normalize_before",
        "share_ffn_norm",
        "layernorm_embedding",
        "encoder_learned_pos",
        "decoder_learned_pos",
        "no_decoder_final_norm",
    ):
        flags[name] = draw(st.booleans())
    flags["no_cross_attention"] = draw(st.sampled_from([False, False, False, True]))
    flags["no_token_positional_embeddings"] = draw(st.sampled_from([False, False, True]))
    _make_likely(flags)
    source_words, target_words = draw(st.sampled_from([(3, 3), (5, 9), (4, None)]))
    embeddings = draw(st.sampled_from(["three", "output", "all"]))
    one_matrix = flags["encoder_embed_dim"] == flags["decoder_embed_dim"] and target_words is None
    flags["share_all_embeddings"] = embeddings == "all" and one_matrix
    flags["share_decoder_input_output_embed"] = embeddings == "output"
    if embeddings == "three":
        flags["decoder_output_dim"] = draw(st.sampled_from([flags["decoder_embed_dim"], 5]))
    return flags, task(source_words, target_words)


def _make_likely(flags: Dict[str, object]) -> None:
    """Mend what the plugin would refuse in most draws."""
    if flags["no_cross_attention"]:
        flags["decoder_cross_attn_layout"] = "independent"
        if flags["decoder_block"] == "parallel-cross-ffn":
            flags["decoder_block"] = "parallel"
    parallel = [s for s in ("encoder", "decoder") if flags[f"{s}_block"] != "series"]
    if not parallel:
        flags["parallel_norm"] = "shared"
    elif flags["parallel_norm"] == "own":
        flags.update({f"{stack}_normalize_before": True for stack in parallel})
    else:
        flags["share_ffn_norm"] = False


def shape_or_reject(flags: Dict[str, object], for_task: Task) -> ModelShape:
    """The shape of drawn flags; another draw if the plugin refuses them."""
    try:
        args = arguments("transformer_ffn", **flags)
        return shape_of(args, len(for_task.source_dictionary), len(for_task.target_dictionary))
    except UserError:
        assume(False)
        raise


@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
@given(models())
def test_parameters_of_random_models(drawn: Tuple[Dict[str, object], Task]) -> None:
    flags, for_task = drawn
    shape = shape_or_reject(flags, for_task)
    with torch.device("meta"):
        model = build("transformer_ffn", for_task=for_task, **flags)
    assert_parameters_match(model, shape)


# --- multiply-adds of real models -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "config"), [pair for pair in all_architectures() if "tiny" in pair[0]]
)
def test_multiply_adds_of_tiny_architectures(size: str, config: str) -> None:
    arch = architecture_name(size, config)
    shape = shape_of(arguments(arch, **ONE_MATRIX), 31)
    model = build(arch, **ONE_MATRIX)
    for source, target in ((5, 7), (9, 2)):
        expected = measured_multiply_adds(model, source, target)
        assert count_sentence_pair(shape, source, target) == expected


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW)
@given(models(), st.integers(min_value=1, max_value=8), st.integers(min_value=1, max_value=8))
def test_multiply_adds_of_random_models(
    drawn: Tuple[Dict[str, object], Task], source: int, target: int
) -> None:
    flags, for_task = drawn
    shape = shape_or_reject(flags, for_task)
    model = build("transformer_ffn", for_task=for_task, **flags)
    assert count_sentence_pair(shape, source, target) == measured_multiply_adds(
        model, source, target
    )


def test_multiply_adds_without_lengths_leave_scores_out() -> None:
    shape = paper_shape("big")
    plain, long = count_multiply_adds(shape), count_multiply_adds(shape, 30, 40)
    width = 1024
    assert long.source_token - plain.source_token == 6 * 2 * 30 * width
    assert long.target_token - plain.target_token == 6 * 2 * (40 + 30) * width
    assert long.output_projection == plain.output_projection == PAPER_VOCABULARY * width
    # scores are all that isn't linear in the lengths
    scores = 6 * 2 * width * (30 * 30 + 40 * 40 + 30 * 40)
    linear = 30 * plain.source_token + 40 * (plain.target_token + plain.output_projection)
    assert count_sentence_pair(shape, 30, 40) == linear + scores


def test_sharing_saves_parameters_and_no_multiply_adds() -> None:
    independent, shared = paper_shape("big"), paper_shape("big", "shared_enc_dec")
    assert count_parameters(shared).body < count_parameters(independent).body / 2
    assert count_multiply_adds(shared, 20, 20) == count_multiply_adds(independent, 20, 20)


# --- One Wide FFN: formulas -----------------------------------------------------------------------


def one_layer(**changes: object) -> ModelShape:
    """One encoder and one decoder layer of Transformer Big without vocabulary."""
    stack = StackShape(embed_dim=1024, ffn_embed_dim=4096)
    shape = ModelShape(stack, stack, parse_model_layouts(1, 1), 0, 0, share_all_embeddings=True)
    return replace(shape, **changes)  # type: ignore[arg-type]


def test_formulas_of_ffn_attention_and_norm() -> None:
    """FFN = 2 d f + f + d, attention = 4 (d^2 + d), layer norm = 2 d."""
    d, f = 1024, 4096
    ffn, attention, norm = 2 * d * f + f + d, 4 * (d * d + d), 2 * d
    assert ffn / 1e6 == pytest.approx(8.394, abs=5e-4)
    assert attention / 1e6 == pytest.approx(4.198, abs=5e-4)
    body = count_parameters(one_layer()).body
    assert body == 2 * ffn + 3 * attention + 5 * norm
    without = one_layer(layouts=parse_model_layouts(1, 1, "none", "none"))
    assert body - count_parameters(without).body == 2 * (ffn + norm)
    no_cross = one_layer(cross_attention=False)
    assert body - count_parameters(no_cross).body == attention + norm
    assert count_parameters(one_layer(layernorm_embedding=True)).body == body + 2 * norm


@pytest.mark.parametrize(
    ("size", "millions"),
    [("big", 176.36), ("base", 44.14), ("deep", 184.75), ("decoder_only_big", 151.15)],
)
def test_bodies(size: str, millions: float) -> None:
    assert count_parameters(paper_shape(size)).body / 1e6 == pytest.approx(millions, abs=0.01)


def test_savings_of_section_3() -> None:
    """Sharing saves (N - 1) FFNs, dropping N FFNs and norms; one width more costs 2 d + 1."""
    d, f = 1024, 4096
    ffn, norm = 2 * d * f + f + d, 2 * d
    total = {config: count_parameters(paper_shape("big", config)).total for config in CONFIGS}
    assert total["baseline"] - total["shared_enc"] == 5 * ffn
    assert total["baseline"] - total["shared_enc_dec"] == 11 * ffn
    assert total["baseline"] - total["no_dec"] == 6 * (ffn + norm)
    assert total["baseline"] - total["shared_enc_no_dec"] == 11 * ffn + 6 * norm
    assert total["one_wide"] - total["shared_enc_no_dec"] == (12 * f - f) * (2 * d + 1)
    shared_norm = paper_millions("big", "shared_enc", share_ffn_norm=True)
    assert total["shared_enc"] - round(1e6 * shared_norm) == 5 * norm  # footnote 3 to the letter


# --- One Wide FFN: printed sizes ------------------------------------------------------------------

WIDE = {"encoder_ffn_embed_dim": 24576}
WIDEST = {"encoder_ffn_embed_dim": 98304}

#: size, config, flags, millions as printed, exact millions where the print is truncated
PRINTED = [
    # Table 2
    ("big", "baseline", {}, 228, None),
    ("big", "shared_enc", {}, 186, None),
    ("big", "shared_dec", {}, 186, None),
    ("big", "shared_enc_shared_dec", {}, 144, None),
    ("big", "shared_enc_dec", {}, 136, None),
    # Table 3
    ("big", "no_enc", {}, 178, None),
    ("big", "no_dec", {}, 178, None),
    ("big", "no_enc_no_dec", {}, 127, None),
    ("big", "shared_enc_no_dec", {}, 136, None),
    ("big", "no_enc_shared_dec", {}, 136, None),
    # Table 4: all but the baseline and One Wide are truncated
    ("big", "shared_enc_no_dec", {}, 135, 135.6),
    ("big", "shared_enc_no_dec", WIDE, 177, 177.6),
    ("big", "one_wide", {}, 228, None),
    ("big", "shared_enc_no_dec", WIDEST, 328, 328.7),
    # Table 6
    ("base", "baseline", {}, 70, None),
    ("base", "shared_enc_no_dec", {}, 47, None),
    ("base", "one_wide", {}, 70, None),
    ("deep", "baseline", {}, 236, None),
    ("deep", "shared_enc_no_dec", {}, 127, None),
    ("deep", "one_wide", {}, 236, None),
    ("decoder_only_big", "shared_dec", {}, 110, None),
    # Table 7
    *(
        ("big", "baseline", {"encoder_ffn_layout": f"{strategy}:{modules}"}, printed, exact)
        for strategy in ("sequence", "cycle", "cycle-rev")
        for modules, printed, exact in ((2, 194, None), (3, 202, 202.8))
    ),
    # Table 8: encoder self-attention, decoder self-attention, cross-attention
    *(
        (
            "big",
            "baseline",
            {
                "encoder_self_attn_layout": encoder,
                "decoder_self_attn_layout": decoder,
                "decoder_cross_attn_layout": cross,
            },
            printed,
            None,
        )
        for encoder, decoder, cross, printed in (
            ("independent", "independent", "independent", 228),
            ("shared", "shared", "shared", 165),
            ("shared", "shared", "independent", 186),
            ("shared", "independent", "independent", 207),
            ("independent", "shared", "independent", 207),
            ("independent", "shared", "shared", 186),
            ("independent", "independent", "shared", 207),
        )
    ),
]


@pytest.mark.parametrize(("size", "config", "flags", "printed", "truncated"), PRINTED)
def test_sizes_of_one_wide_ffn(
    size: str, config: str, flags: Dict[str, object], printed: int, truncated: Optional[float]
) -> None:
    millions = paper_millions(size, config, **flags)
    if truncated is None:
        assert abs(millions - printed) < 0.5
    else:
        assert floor(millions) == printed
        assert millions == pytest.approx(truncated, abs=0.1)


@pytest.mark.parametrize(
    ("flags", "printed"), [({"encoder_ffn_layout": "cycle:2"}, 194.4), (WIDE, 177.6)]
)
def test_sizes_to_a_tenth(flags: Dict[str, object], printed: float) -> None:
    config = "shared_enc_no_dec" if flags is WIDE else "baseline"
    assert paper_millions("big", config, **flags) == pytest.approx(printed, abs=0.1)


@pytest.mark.parametrize(
    ("size", "rows", "baseline", "shared", "wide"),
    [("base", 38_800, 64, 41, 64), ("big", 240_000, 422, 330, 422)],
    ids=["EN-RO", "multilingual"],
)
def test_sizes_with_other_vocabularies(
    size: str, rows: int, baseline: int, shared: int, wide: int
) -> None:
    """Table 6; the rows are those that the sizes imply (stated: 40K merges, 250K symbols)."""
    for config, printed in (
        ("baseline", baseline),
        ("shared_enc_no_dec", shared),
        ("one_wide", wide),
    ):
        args = arguments(architecture_name(size, config), **ONE_MATRIX)
        assert abs(count_parameters(shape_of(args, rows)).total / 1e6 - printed) < 0.5


@pytest.mark.parametrize(
    ("config", "printed"), [("baseline", 202), ("shared_dec", 110), ("shared_dec_wide", 202)]
)
def test_decoder_only_sizes(config: str, printed: int) -> None:
    """Table 6; 202M implies about 49.7k rows, a few hundred fewer than 228M."""
    args = arguments(architecture_name("decoder_only_big", config))
    assert abs(count_parameters(shape_of(args, 49_700)).total / 1e6 - printed) < 0.5


def test_the_stated_32k_symbols_give_another_size() -> None:
    args = arguments("transformer_ffn_big", **ONE_MATRIX)
    assert count_parameters(shape_of(args, 32_000)).total / 1e6 == pytest.approx(209, abs=0.5)


# --- One Wide FFN: multiply-adds ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "config", "flags", "millions"),
    [
        ("big", "baseline", {}, 176),
        ("big", "shared_enc_no_dec", {}, 126),
        ("big", "shared_enc_no_dec", WIDE, 378),
        ("big", "one_wide", {}, 680),
        ("big", "shared_enc_no_dec", WIDEST, 1284),
        ("base", "baseline", {}, 44),
        ("base", "one_wide", {}, 170),
        ("deep", "baseline", {}, 185),
        ("deep", "one_wide", {}, 1476),
    ],
)
def test_multiply_adds_of_a_token_pair(
    size: str, config: str, flags: Dict[str, object], millions: int
) -> None:
    """One source token and one target token, without scores and output projection.

    The figures counted an addition of a bias as one more; here matrix products are all.
    """
    shape = paper_shape(size, config, **flags)
    costs = count_multiply_adds(shape)
    assert abs(costs.token_pair / 1e6 - millions) < 0.6
    d, f = shape.encoder.embed_dim, shape.encoder.ffn_embed_dim
    decoder_ffn = 0 if "no_dec" in config or "wide" in config else shape.decoder.ffn_embed_dim
    assert costs.source_token == shape.encoder_layers * (4 * d**2 + 2 * d * f) + (
        shape.decoder_layers * 2 * d**2
    )
    assert costs.target_token == shape.decoder_layers * (6 * d**2 + 2 * d * decoder_ffn)


def test_multiply_adds_of_the_decoder_only_model() -> None:
    """A token that passes through all of the stack: 151M, and 8.3 times as much when wide."""
    d, f = 1024, 4096
    usual, wide = (
        count_multiply_adds(paper_shape("decoder_only_big", config))
        for config in ("baseline", "shared_dec_wide")
    )
    assert usual.target_token == 12 * (4 * d**2 + 2 * d * f)
    assert wide.target_token == 12 * (4 * d**2 + 2 * d * 12 * f)
    assert usual.target_token / 1e6 == pytest.approx(151, abs=0.6)
    assert wide.target_token / usual.target_token == pytest.approx(8.3, abs=0.05)
    # of the last layer a source token takes keys and values
    assert usual.target_token - usual.source_token == 2 * d**2 + 2 * d * f
    assert wide.target_token - wide.source_token == 2 * d**2 + 2 * d * 12 * f


def test_one_wide_costs_four_baselines() -> None:
    wide, usual = (count_multiply_adds(paper_shape("big", c)) for c in ("one_wide", "baseline"))
    assert wide.token_pair / usual.token_pair == pytest.approx(3.9, abs=0.05)
    with_softmax = [costs.token_pair + costs.output_projection for costs in (wide, usual)]
    assert with_softmax[0] / with_softmax[1] == pytest.approx(3.2, abs=0.05)
    # the decoder, which runs once per generated token, is the cheaper one
    assert wide.target_token < usual.target_token / 2


# --- what has no closed form ----------------------------------------------------------------------


def uncounted() -> Iterator[Tuple[str, object]]:
    yield "adaptive_softmax_cutoff", "1000,2000"
    yield "base_layers", 1
    yield "cross_self_attention", True
    yield "quant_noise_pq", 0.1
    for name in ("scale_attn", "scale_fc", "scale_heads", "scale_resids"):
        yield name, True


@pytest.mark.parametrize(("name", "value"), uncounted())
def test_options_that_are_not_counted_are_refused(name: str, value: object) -> None:
    args = argparse.Namespace(**vars(arguments("transformer_ffn_tiny")))
    setattr(args, name, value)
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} {value}: .*closed form"):
        shape_of(args, 31)


@pytest.mark.parametrize("flag", ["share_all_embeddings", "merge_src_tgt_embed"])
def test_one_matrix_needs_one_vocabulary(flag: str) -> None:
    args = arguments("transformer_ffn_tiny", **{flag: True})
    with pytest.raises(UserError, match="31 and 30 symbols"):
        shape_of(args, 31, 30)
    assert shape_of(args, 31) == shape_of(args, 31, 31)


def test_merged_embeddings_count_once() -> None:
    words = task(20, 20)  # the same words, in two dictionaries
    for_task = argparse.Namespace(**vars(words))  # fairseq replaces its dictionaries
    model = build("transformer_ffn_tiny", for_task=for_task, merge_src_tgt_embed=True)
    args = arguments("transformer_ffn_tiny", merge_src_tgt_embed=True)
    assert_parameters_match(model, shape_of(args, 24))


def test_a_bad_layout_is_one_line() -> None:
    args = arguments("transformer_ffn_tiny")
    args.encoder_ffn_layout = "cycle:9"
    with pytest.raises(UserError, match="--encoder-ffn-layout 'cycle:9': 9 modules for 3 layers"):
        shape_of(args, 31)
