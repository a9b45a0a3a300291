"""Flags that can't be honoured are refused in one line; CPU autocast; the command line."""

from __future__ import annotations

import argparse
from typing import Dict, Tuple

import pytest
import torch
from fairseq import options
from helpers import (
    PRE_NORM,
    SMALL,
    arguments,
    batch,
    build,
    built_at_random,
    logits,
    loss,
    net_input,
    task,
)

from fairseq_ffn.errors import UserError
from fairseq_ffn.models import flags as flags_module
from fairseq_ffn.models.decoder_only import TransformerFfnDecoderOnlyModel
from fairseq_ffn.models.decoder_only_flags import TARGET_POSITIONS
from fairseq_ffn.models.transformer_ffn import TransformerFfnModel

TIED = {"encoder_ffn_layout": "tied", "decoder_ffn_layout": "tied"}
TIED_ATTENTION = {"encoder_self_attn_layout": "tied", "decoder_self_attn_layout": "tied"}
SHARED = {"encoder_ffn_layout": "shared"}
NO_DECODER = {"decoder_ffn_layout": "none"}
PARALLEL = {"encoder_block": "parallel", "decoder_block": "parallel"}
HALF = {"decoder_block": "parallel-cross-ffn"}
OWN = {"parallel_norm": "own"}

#: flags, and what the line has to name
REFUSED: Dict[str, Tuple[Dict[str, object], Tuple[str, ...]]] = {
    # layouts that don't fit
    "no layout": ({"encoder_ffn_layout": "some"}, ("--encoder-ffn-layout 'some'",)),
    "names too few layers": ({"decoder_ffn_layout": "a,a"}, ("--decoder-ffn-layout 'a,a'", "3")),
    "too many modules": (
        {"decoder_ffn_layout": "cycle:4"},
        ("--decoder-ffn-layout 'cycle:4'", "3"),
    ),
    "attention absent": (
        {"encoder_self_attn_layout": "a,-,a"},
        ("--encoder-self-attn-layout 'a,-,a'", "layer 1"),
    ),
    "cross-attention absent": (
        {"decoder_cross_attn_layout": "none"},
        ("--decoder-cross-attn-layout", "layer 0"),
    ),
    "cross-attention common": (
        {"decoder_cross_attn_layout": "tied"},
        ("--decoder-cross-attn-layout", "@tied"),
    ),
    "tied in one stack": (
        {"decoder_ffn_layout": "a,@x,a"},
        ("--decoder-ffn-layout 'a,@x,a'", "layer 1", "'@x'", "--encoder-ffn-layout"),
    ),
    # each error shows the layout as it was typed
    "tied, other stack by default": (
        {"encoder_ffn_layout": "tied"},
        ("--encoder-ffn-layout 'tied'", "--decoder-ffn-layout 'independent' doesn't use it"),
    ),
    # what fairseq's parser makes of --encoder-layers-to-keep 0,2
    "pruning while training": (
        {"encoder_layers_to_keep": [0, 2]},
        (
            "--encoder-layers-to-keep 0,2",
            "--model-overrides \"{'encoder_layers_to_keep': '0,2'}\"",
        ),
    ),
    # widths
    "FFN width": (
        {**TIED, "encoder_ffn_embed_dim": 40},
        ("--encoder-ffn-layout 'tied'", "layer 0", "--encoder-ffn-embed-dim is 40", "is 24"),
    ),
    "FFN input width": (
        {
            "encoder_ffn_layout": "a,@x,a",
            "decoder_ffn_layout": "@x,a,a",
            "encoder_embed_dim": 32,
        },
        ("--encoder-ffn-layout 'a,@x,a'", "layer 1", "--encoder-embed-dim is 32", "is 16"),
    ),
    "attention width": (
        {**TIED_ATTENTION, "decoder_embed_dim": 8},
        ("--encoder-self-attn-layout 'tied'", "--encoder-embed-dim is 16", "is 8"),
    ),
    "attention heads": (
        {**TIED_ATTENTION, "decoder_attention_heads": 4},
        ("--encoder-self-attn-layout 'tied'", "--decoder-attention-heads is 4"),
    ),
    # norms
    "common norm, one stack pre-norm": (
        {**TIED, "share_ffn_norm": True, "encoder_normalize_before": True},
        ("--share-ffn-norm", "--encoder-normalize-before"),
    ),
    "own norms, post-norm encoder": (
        {"encoder_block": "parallel", **OWN},
        ("--parallel-norm own", "encoder", "--encoder-normalize-before"),
    ),
    "own norms, post-norm decoder": (
        {**HALF, **OWN, "encoder_normalize_before": True},
        ("--parallel-norm own", "--decoder-block parallel-cross-ffn", "--decoder-normalize-before"),
    ),
    "own norms, series": ({**OWN, **PRE_NORM}, ("--parallel-norm own", "no stack is parallel")),
    "FFN norm shared, but there is none": (
        {**PARALLEL, **PRE_NORM, **SHARED, "share_ffn_norm": True},
        ("--share-ffn-norm", "--encoder-block parallel", "--parallel-norm shared"),
    ),
    # blocks
    "unknown encoder block": (
        {"encoder_block": "parallel-cross-ffn"},
        ("--encoder-block 'parallel-cross-ffn'", "series, parallel"),
    ),
    "unknown decoder block": (
        {"decoder_block": "sideways"},
        ("--decoder-block 'sideways'", "parallel-cross-ffn"),
    ),
    "scale, series": ({"parallel_scale": "sqrt"}, ("--parallel-scale sqrt",)),
    "half parallel without cross-attention": (
        {**HALF, "no_cross_attention": True},
        ("--decoder-block parallel-cross-ffn", "--no-cross-attention"),
    ),
    "layout of absent cross-attention": (
        {"decoder_cross_attn_layout": "shared", "no_cross_attention": True},
        ("--decoder-cross-attn-layout 'shared'", "--no-cross-attention"),
    ),
    # fairseq's options
    "FSDP": ({"ddp_backend": "fully_sharded", **SHARED}, ("--ddp-backend fully_sharded",)),
    "pipeline": ({"pipeline_model_parallel": True, **SHARED}, ("--pipeline-model-parallel",)),
    "quantisation noise, shared": ({"quant_noise_pq": 0.1, **SHARED}, ("--quant-noise-pq",)),
    "quantisation noise, absent": (
        {"quant_noise_pq": 0.1, **NO_DECODER},
        ("--quant-noise-pq", "--decoder-ffn-layout 'none'"),
    ),
    "quantisation noise, parallel": (
        {"quant_noise_pq": 0.1, "encoder_block": "parallel"},
        ("--quant-noise-pq", "--encoder-block 'parallel'"),
    ),
    "scalar quantisation": ({"quant_noise_scalar": 0.1, **SHARED}, ("--quant-noise-scalar",)),
    "BASE layers": ({"base_layers": 1, **NO_DECODER}, ("--base-layers", "--decoder-ffn-layout")),
    "cross- in self-attention": (
        {"cross_self_attention": True, "no_cross_attention": True, **NO_DECODER},
        ("--cross-self-attention", "--decoder-ffn-layout 'none'"),
    ),
    "cross- in self-attention, parallel": (
        {"cross_self_attention": True, "decoder_block": "parallel"},
        ("--cross-self-attention", "--decoder-block 'parallel'"),
    ),
    **{
        f"NormFormer {name}": ({name: True, **NO_DECODER}, (f"--{name.replace('_', '-')}",))
        for name in ("scale_attn", "scale_heads", "scale_fc", "scale_resids")
    },
    **{
        f"checkpointing, {backend}": (
            {
                name: True,
                "ddp_backend": backend,
                "distributed_world_size": 2,
                **SHARED,
            },
            ("--checkpoint-activations", f"--ddp-backend {backend}", "--encoder-ffn-layout"),
        )
        for backend, name in (
            ("c10d", "checkpoint_activations"),
            ("pytorch_ddp", "offload_activations"),
        )
    },
}
OPTIONS = {
    "FSDP": {"ddp_backend": "fully_sharded"},
    "pipeline": {"pipeline_model_parallel": True},
    "quantisation noise": {"quant_noise_pq": 0.1},
    "scalar quantisation": {"quant_noise_scalar": 0.1},
    "BASE layers": {"base_layers": 1},
    "cross- in self-attention": {"cross_self_attention": True},
    "NormFormer": {"scale_attn": True, "scale_heads": True, "scale_fc": True, "scale_resids": True},
    "checkpointing": {
        "checkpoint_activations": True,
        "ddp_backend": "pytorch_ddp",
        "distributed_world_size": 2,
    },
    "no cross-attention": {"no_cross_attention": True},
    "widths": {"encoder_ffn_embed_dim": 40, "encoder_embed_dim": 32, "encoder_attention_heads": 4},
    "mixed norms": {"encoder_normalize_before": True},
}
#: what comes near to a rule, and is fine
ALLOWED: Dict[str, Dict[str, object]] = {
    "FSDP with nothing shared": {"ddp_backend": "fully_sharded", **PARALLEL, **NO_DECODER},
    "FSDP only named": {"ddp_backend": "legacy_ddp", **SHARED},
    "pipeline with nothing shared": {"pipeline_model_parallel": True, **NO_DECODER},
    "BASE layers beside an encoder layout": {"base_layers": 1, **SHARED},
    "NormFormer beside an encoder layout": {"scale_fc": True, **SHARED},
    "cross- in self-attention beside an encoder layout": {"cross_self_attention": True, **SHARED},
    "checkpointing in one process": {
        "checkpoint_activations": True,
        "ddp_backend": "pytorch_ddp",
        "distributed_world_size": 1,
        **SHARED,
    },
    "checkpointing, legacy DDP": {
        "checkpoint_activations": True,
        "ddp_backend": "legacy_ddp",
        "distributed_world_size": 2,
        **SHARED,
    },
    "pytorch DDP": {"ddp_backend": "pytorch_ddp", "distributed_world_size": 2, **SHARED},
    "different widths, shared in each stack": {
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 40,
        **SHARED,
        "decoder_ffn_layout": "shared",
        "encoder_self_attn_layout": "shared",
    },
    "common FFN, different heads": {**TIED, "decoder_attention_heads": 4},
    "common attention, different FFN widths": {**TIED_ATTENTION, "encoder_ffn_embed_dim": 40},
    "common FFN, own norms, mixed": {**TIED, "encoder_normalize_before": True},
    "own norms in one parallel stack": {
        "encoder_block": "parallel",
        **OWN,
        "encoder_normalize_before": True,
    },
    "FFN norm shared, own norms": {
        **PARALLEL,
        **OWN,
        **PRE_NORM,
        **SHARED,
        "share_ffn_norm": True,
    },
    "parallel without cross-attention": {**PARALLEL, "no_cross_attention": True},
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_that_names_flag_and_value(case):
    given, words = REFUSED[case]
    with pytest.raises(UserError) as raised:
        arguments("transformer_ffn", **{**SMALL, **given})
    message = str(raised.value)
    assert [word for word in words if word not in message] == []
    assert "\n" not in message


@pytest.mark.parametrize("case", OPTIONS)
def test_no_option_is_refused_for_the_baseline(case):
    args = arguments("transformer_ffn", **{**SMALL, **OPTIONS[case]})
    assert all(layout.is_independent for layout in flags_module.check(args).all.values())


@pytest.mark.parametrize("case", ALLOWED)
def test_not_refused(case):
    arguments("transformer_ffn", **{**SMALL, **ALLOWED[case]})


def test_refused_when_a_model_is_built_from_changed_flags():
    """As with --model-overrides, where no architecture function runs."""
    args = arguments("transformer_ffn", **SMALL)
    args.encoder_ffn_layout = "tied"
    args.decoder_ffn_layout = "tied"
    args.encoder_ffn_embed_dim = 40
    with pytest.raises(UserError, match="--encoder-ffn-embed-dim is 40"):
        TransformerFfnModel.build_model(args, task())


@pytest.mark.parametrize("name", list(flags_module.CHOICES))
def test_values_that_argparse_has_not_seen_are_refused(name):
    args = arguments("transformer_ffn", **SMALL)
    setattr(args, name, "sideways")
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} 'sideways'"):
        TransformerFfnModel.build_model(args, task())


def test_torchruns_processes_count_for_the_ddp_refusal(monkeypatch):
    given = {"ddp_backend": "pytorch_ddp", "checkpoint_activations": True, **SHARED}
    arguments("transformer_ffn", **{**SMALL, **given})
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--ddp-backend legacy_ddp"):
        arguments("transformer_ffn", **{**SMALL, **given})


@pytest.mark.parametrize("arch", ["tiny", "base_no_dec", "big_one_wide", "deep_parallel"])
def test_named_architectures_refuse_too(arch):
    with pytest.raises(UserError, match="--encoder-block 'sideways'"):
        arguments(f"transformer_ffn_{arch}", encoder_block="sideways")


class TestCommandLine:
    def parse(self, *flags: str):
        parser = options.get_training_parser()
        return options.parse_args_and_arch(
            parser, ["data", "--arch", "transformer_ffn", "--encoder-layers", "3", *flags]
        )

    def test_all_flags(self):
        args = self.parse(
            *("--encoder-ffn-layout=-,a,a", "--decoder-ffn-layout", "cycle:2"),
            *("--encoder-self-attn-layout", "shared", "--decoder-self-attn-layout", "sequence:2"),
            *("--decoder-cross-attn-layout", "cycle-rev:3", "--encoder-block", "parallel"),
            *("--decoder-block", "parallel-cross-ffn", "--parallel-norm", "own"),
            *("--parallel-scale", "sqrt", "--share-ffn-norm", "--cpu-autocast", "bfloat16"),
            *("--ffn-chunk-width", "512", "--cpu-matmul", "auto"),
            *("--inference", "int8"),
            *("--encoder-normalize-before", "--decoder-normalize-before"),
        )
        assert {name: getattr(args, name) for name, _ in flags_module.DEFAULTS} == {
            "encoder_ffn_layout": "-,a,a",
            "decoder_ffn_layout": "cycle:2",
            "encoder_self_attn_layout": "shared",
            "decoder_self_attn_layout": "sequence:2",
            "decoder_cross_attn_layout": "cycle-rev:3",
            "encoder_block": "parallel",
            "decoder_block": "parallel-cross-ffn",
            "parallel_norm": "own",
            "parallel_scale": "sqrt",
            "share_ffn_norm": True,
            "ffn_chunk_width": 512,
            "cpu_autocast": "bfloat16",
            "cpu_matmul": "auto",
            "inference": "int8",
        }

    def test_defaults(self):
        args = self.parse()
        assert {name: getattr(args, name) for name, _ in flags_module.DEFAULTS} == dict(
            flags_module.DEFAULTS
        )

    def test_architectures_own_layouts(self):
        arch = ("--arch", "transformer_ffn_tiny_one_wide")
        args = self.parse(*arch)
        assert (args.encoder_ffn_layout, args.decoder_ffn_layout) == ("shared", "none")
        args = self.parse(*arch, "--decoder-ffn-layout", "shared")
        assert (args.encoder_ffn_layout, args.decoder_ffn_layout) == ("shared", "shared")

    @pytest.mark.parametrize(
        "flag, value, expected",
        [
            ("--encoder-block", "paralel", "use one of series, parallel; did you mean parallel?"),
            ("--decoder-block", "both", "use one of series, parallel, parallel-cross-ffn"),
            ("--parallel-norm", "Shared", "use one of shared, own; did you mean shared?"),
            ("--parallel-scale", "", "use one of none, sqrt"),
            ("--cpu-autocast", "float16", "use one of none, bfloat16; did you mean bfloat16?"),
            ("--cpu-matmul", "blis", "use one of default, onednn, auto"),
            ("--inference", "int", "use one of float32, bfloat16, int8, plain; did you mean int8?"),
            ("--ffn-chunk-width", "-4", "use auto, 0 or a number of hidden units"),
            ("--ffn-chunk-width", "wide", "use auto, 0 or a number of hidden units"),
        ],
    )
    def test_misspelt_values_are_one_line_without_fairseqs_usage(
        self, flag, value, expected, capsys
    ):
        with pytest.raises(UserError) as raised:
            self.parse(flag, value)
        assert str(raised.value) == f"{flag} '{value}': {expected}"
        assert capsys.readouterr().err == ""

    def test_of_the_decoder_only_model_too(self):
        one_stack = ("--arch", "transformer_ffn_decoder_only", "--encoder-layers", "0")
        for flag, value, allowed in (
            ("--target-positions", "restarts", "continue, restart; did you mean restart?"),
            ("--decoder-block", "paralell", "series, parallel, parallel-cross-ffn; did you mean"),
        ):
            with pytest.raises(UserError) as raised:
                self.parse(*one_stack, flag, value)
            assert str(raised.value).startswith(f"{flag} '{value}': use one of {allowed}")

    def test_help_shows_what_a_flag_can_be(self):
        parser = argparse.ArgumentParser()
        TransformerFfnDecoderOnlyModel.add_args(parser)
        text = " ".join(parser.format_help().split())
        choices = {**flags_module.CHOICES, "target_positions": TARGET_POSITIONS}
        for name, values in choices.items():
            assert f"--{name.replace('_', '-')} {{{','.join(values)}}}" in text

    @pytest.mark.parametrize("value", ["some", "a,b", "wheel:2", "a,b c,d,e,f,g"])
    def test_values_that_do_not_fit_are_refused_before_data_is_loaded(self, value):
        with pytest.raises(UserError, match=f"--encoder-ffn-layout '{value}'"):
            self.parse("--encoder-ffn-layout", value)


AUTOCAST = pytest.mark.parametrize(
    "flags",
    [
        {},
        PRE_NORM,
        {**TIED, "share_decoder_input_output_embed": True},
        {**SHARED, **NO_DECODER, **PRE_NORM},
        {**PARALLEL, "layernorm_embedding": True},
        {"checkpoint_activations": True, "dropout": 0.2},
    ],
    ids=["post-norm", "pre-norm", "tied", "shared and none", "parallel", "checkpointing"],
)


@AUTOCAST
class TestCpuAutocast:
    def models(self, flags: Dict[str, object]):
        flags = {**SMALL, "dropout": 0.0, **flags}
        return tuple(
            built_at_random("transformer_ffn", torch.float32, **flags, cpu_autocast=dtype)
            for dtype in ("none", "bfloat16")
        )

    def test_training(self, flags):
        found = []
        for model in self.models(flags):
            model.train()
            torch.manual_seed(40)
            value = loss(model, batch())
            value.backward()
            assert value.dtype == torch.float32
            assert {p.dtype for p in model.parameters()} == {torch.float32}
            assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
            gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
            found.append((value.item(), gradient))
        (exact, direction), (rounded, other) = found
        assert exact != rounded  # or nothing was rounded
        assert rounded == pytest.approx(exact, rel=0.02)
        assert torch.cosine_similarity(direction, other, dim=0) > 0.98

    def test_forward_pass_computes_in_bfloat16(self, flags):
        exact, rounded = self.models(flags)
        assert logits(exact, batch()).dtype == torch.float32
        assert logits(rounded, batch()).dtype == torch.bfloat16
        assert not torch.is_autocast_enabled("cpu")

    def test_decoding_stays_in_float32(self, flags):
        found = []
        for model in self.models(flags):
            inputs = net_input(batch())
            with torch.no_grad():
                encoded = model.encoder(inputs["src_tokens"], inputs["src_lengths"])
                state: Dict[str, Dict[str, torch.Tensor]] = {}
                tokens = inputs["prev_output_tokens"]
                found.append(model.decoder(tokens[:, :1], encoded, incremental_state=state)[0])
        assert torch.equal(*found) and found[0].dtype == torch.float32


def test_autocast_is_for_the_cpu_only():
    model = build("transformer_ffn", **SMALL, cpu_autocast="bfloat16")
    model.forward = lambda src_tokens: torch.is_autocast_enabled("cpu")
    tokens = torch.zeros(1, 2)
    assert model(tokens)
    assert not model.to("meta")(tokens)


@pytest.mark.parametrize(
    "given, named",
    [
        ({"adaptive_softmax_cutoff": "10,20"}, "--adaptive-softmax-cutoff"),
        ({"ddp_backend": "fully_sharded"}, "--ddp-backend fully_sharded"),
        (
            {"find_unused_parameters": True, "distributed_world_size": 2},
            "--find-unused-parameters",
        ),
    ],
)
def test_what_the_fused_loss_cannot_honour_is_refused_by_name(given, named):
    fused = "label_smoothed_cross_entropy_fused"
    with pytest.raises(UserError, match=rf"{named} can't be honoured with --criterion {fused}"):
        arguments("transformer_ffn", criterion=fused, **SMALL, **given)
    arguments("transformer_ffn", criterion="label_smoothed_cross_entropy", **SMALL, **given)
