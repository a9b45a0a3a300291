"""Flags of ``transformer_ffn_decoder_only``: one stack, shaped by the flags of the decoder."""

from __future__ import annotations

import argparse
from typing import Any, Iterator, Mapping, Tuple

from fairseq_ffn.errors import UserError
from fairseq_ffn.models import flags

MODEL = "transformer_ffn_decoder_only"
TARGET_POSITIONS = ("continue", "restart")

#: the stack serves as the encoder, so fairseq finds its shape under the encoder's names too
_MIRRORED_SWITCHES = ("normalize_before", "learned_pos")
_MIRRORED = (
    *("embed_path", "embed_dim", "ffn_embed_dim", "attention_heads"),
    *_MIRRORED_SWITCHES,
)
#: what says that there is no stack of the encoder's own
_ABSENT: Mapping[str, Any] = {
    "layers": 0,
    "layerdrop": 0,
    "layers_to_keep": None,
    "xformers_att_config": None,
    "ffn_layout": "independent",
    "self_attn_layout": "independent",
    "block": "series",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flag that ``transformer_ffn`` hasn't."""
    flags.add_choice(
        parser,
        "target_positions",
        TARGET_POSITIONS,
        help="the target's positions continue those of the source, as in one sequence, or restart "
        "from the beginning (default: continue)",
    )


def position_rows(max_source_positions: int, max_target_positions: int, positions: str) -> int:
    """Positions that a learned table needs."""
    if positions == "continue":
        return max_source_positions + max_target_positions
    return max(max_source_positions, max_target_positions)


def settle(args: argparse.Namespace) -> None:
    """Refuse what one stack can't honour, and give fairseq the values that it needs besides.

    Args:
        args: flags that shape the decoder, all set; settled before or not.

    Raises:
        UserError: naming flag, value and cure.
    """
    if getattr(args, "target_positions", None) is None:
        args.target_positions = "continue"
    for rule in (_encoder_flags, _cross_attention, _common_modules, _options):
        for line in rule(args):
            raise UserError(line)
    for name in _MIRRORED_SWITCHES:  # fairseq sets those that aren't given only later
        setattr(args, f"decoder_{name}", bool(getattr(args, f"decoder_{name}", False)))
    for name in _MIRRORED:
        setattr(args, f"encoder_{name}", getattr(args, f"decoder_{name}", None))
    for name, value in _ABSENT.items():
        setattr(args, f"encoder_{name}", value)
    args.decoder_cross_attn_layout = "independent"
    args.no_cross_attention = True
    args.share_all_embeddings = args.share_decoder_input_output_embed = True
    #: for who has the flags only, such as fairseq_ffn.costs
    args.decoder_only = True


def _encoder_flags(args: argparse.Namespace) -> Iterator[str]:
    settled = {name: getattr(args, f"decoder_{name}", None) for name in _MIRRORED}
    for name, value in {**settled, **_ABSENT}.items():
        given = getattr(args, f"encoder_{name}", None)
        # fairseq's structure gives None, False or 0 for what it isn't told
        if given and given != value:
            flag = name.replace("_", "-")
            shown = "" if given is True else f" {given}"
            yield (
                f"--encoder-{flag}{shown}: {MODEL} has one stack, which reads source and target; "
                f"use --decoder-{flag}"
            )


def _cross_attention(args: argparse.Namespace) -> Iterator[str]:
    layout = getattr(args, "decoder_cross_attn_layout", None)
    # pruning writes "independent" out for the layers that are left, such as 1,3
    names = str(layout).split(",")
    written_out = all(name.isdecimal() for name in names) and len(set(names)) == len(names)
    if layout not in (None, "independent") and not written_out:
        yield f"--decoder-cross-attn-layout '{layout}': {MODEL} has no cross-attention to lay out"
    if getattr(args, "decoder_block", None) == "parallel-cross-ffn":
        yield (
            f"--decoder-block parallel-cross-ffn: {MODEL} has no cross-attention; use series or "
            "parallel"
        )


def _common_modules(args: argparse.Namespace) -> Iterator[str]:
    for kind in ("ffn", "self_attn"):
        layout = getattr(args, f"decoder_{kind}_layout", None)
        if isinstance(layout, str) and (layout.strip() == "tied" or "@" in layout):
            yield (
                f"--decoder-{kind.replace('_', '-')}-layout '{layout}': {MODEL} has one stack, so "
                "no module is common to two; use shared, or names without '@'"
            )


def _options(args: argparse.Namespace) -> Iterator[str]:
    positions = {"target_positions": args.target_positions}
    yield from flags.refused_choices(positions, {"target_positions": TARGET_POSITIONS})
    output_dim = getattr(args, "decoder_output_dim", None)
    if output_dim and output_dim != args.decoder_embed_dim:
        yield (
            f"--decoder-output-dim {output_dim}: {MODEL} projects with its embedding, whose width "
            f"is --decoder-embed-dim {args.decoder_embed_dim}"
        )
    ddp = getattr(args, "ddp_backend", None)
    recomputes = any(
        getattr(args, name, False) for name in ("checkpoint_activations", "offload_activations")
    )
    if recomputes and ddp in ("c10d", "pytorch_ddp") and flags.processes(args) > 1:
        yield (
            f"--checkpoint-activations with --ddp-backend {ddp} can't be honoured by {MODEL}: DDP "
            "sees a layer's gradient once for the source and once for the target; use "
            "--ddp-backend legacy_ddp"
        )
    if ddp == "fully_sharded":
        yield (
            f"--ddp-backend fully_sharded can't be honoured by {MODEL}: a layer gives parts of "
            "itself away for the source, outside of FSDP's sight"
        )
    for name, why in _NOT_HERE:
        if getattr(args, name, None):
            yield f"{flags.flag_of(name)} can't be honoured by {MODEL}: {why}"


#: option of fairseq, why not
_NOT_HERE: Tuple[Tuple[str, str], ...] = (
    ("decoder_layerdrop", "source and target would lose different layers"),
    ("merge_src_tgt_embed", "one embedding needs one dictionary; use a joined one"),
    ("adaptive_softmax_cutoff", "its embedding is the output projection, one matrix"),
    ("cross_self_attention", "its self-attention reads the source already"),
    ("base_layers", "BASE layers have no keys and values of the source"),
    ("quant_noise_pq", "quantisation noise hasn't been defined for a stack that runs twice"),
    ("quant_noise_scalar", "quantisation noise hasn't been defined for a stack that runs twice"),
    ("decoder_xformers_att_config", "xFormers' attention can't be given a prefix"),
    ("pipeline_model_parallel", "source and target pass through the same layers"),
)
