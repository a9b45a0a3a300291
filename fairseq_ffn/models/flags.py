"""The model's flags: their help, their defaults, and what is refused before any data is loaded."""

from __future__ import annotations

import argparse
import difflib
import os
from typing import Callable, Iterator, List, Mapping, Sequence, Tuple, Union

from fairseq_ffn.errors import UserError
from fairseq_ffn.layouts import (
    ModelLayouts,
    forms_of,
    layout_flag,
    parse_model_layouts,
)
from fairseq_ffn.modules.chunked_feed_forward import CHUNK, WIDE, chunk_width

LAYOUTS = (
    ("encoder", "ffn", "FFN of the encoder"),
    ("decoder", "ffn", "FFN of the decoder"),
    ("encoder", "self_attn", "self-attention of the encoder"),
    ("decoder", "self_attn", "self-attention of the decoder"),
    ("decoder", "cross_attn", "cross-attention of the decoder"),
)
CHOICES = {
    "encoder_block": ("series", "parallel"),
    "decoder_block": ("series", "parallel", "parallel-cross-ffn"),
    "parallel_norm": ("shared", "own"),
    "parallel_scale": ("none", "sqrt"),
    "cpu_autocast": ("none", "bfloat16"),
    "cpu_matmul": ("default", "onednn", "auto"),
    "inference": ("float32", "bfloat16", "int8", "plain"),
}

#: name in the namespace, default
DEFAULTS: Tuple[Tuple[str, object], ...] = (
    *((f"{stack}_{kind}_layout", "independent") for stack, kind, _ in LAYOUTS),
    ("encoder_block", "series"),
    ("decoder_block", "series"),
    ("parallel_norm", "shared"),
    ("parallel_scale", "none"),
    ("share_ffn_norm", False),
    ("ffn_chunk_width", "auto"),
    ("cpu_autocast", "none"),
    ("cpu_matmul", "default"),
    ("inference", "float32"),
)


def add_layout_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the five layouts.

    Args:
        parser: of a command.
        default: what its help says of a flag that isn't given.
    """
    for stack, kind, what in LAYOUTS:
        flag = layout_flag(stack, kind)
        # parsed by check(): an error here would come with fairseq's usage of 200 lines
        parser.add_argument(
            flag,
            type=str.strip,
            metavar="LAYOUT",
            help=f"which module each layer uses for the {what}: {forms_of(flag)} (default: "
            f"{default}). A list that starts with '-' needs the form FLAG=LIST",
        )


def add_choice(
    parser: argparse.ArgumentParser, name: str, choices: Sequence[str], help: str
) -> None:
    """Add a flag with fixed values, ``name`` as in the namespace; see :func:`refused_choices`."""
    # not argparse's choices: an error there would come with fairseq's usage of 200 lines
    parser.add_argument(flag_of(name), metavar=f"{{{','.join(choices)}}}", help=help)


def refused_choices(
    values: Mapping[str, object], choices: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """One line for each of ``values`` that isn't among the choices of its flag."""
    for name, allowed in choices.items():
        value = values.get(name, allowed[0])
        if value not in allowed:
            near = difflib.get_close_matches(str(value), allowed, n=1)
            guess = f"; did you mean {near[0]}?" if near else ""
            yield f"{flag_of(name)} '{value}': use one of {', '.join(allowed)}{guess}"


def flag_of(name: str) -> str:
    """The flag on the command line of a name in the namespace."""
    return f"--{name.replace('_', '-')}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``transformer_ffn`` to those of fairseq's Transformer."""
    add_layout_arguments(parser, "independent")
    add_choice(
        parser,
        "encoder_block",
        CHOICES["encoder_block"],
        help="series: attention, then FFN; parallel: both read the layer's input (default: series)",
    )
    add_choice(
        parser,
        "decoder_block",
        CHOICES["decoder_block"],
        help="series; parallel: self-attention, cross-attention and FFN side by side; "
        "parallel-cross-ffn: self-attention, then the other two side by side (default: series)",
    )
    add_choice(
        parser,
        "parallel_norm",
        CHOICES["parallel_norm"],
        help="pre-norm parallel blocks: one norm for all branches, or one each (default: shared)",
    )
    add_choice(
        parser,
        "parallel_scale",
        CHOICES["parallel_scale"],
        help="sqrt: multiply the sum of k parallel branches by k^-1/2 (default: none)",
    )
    parser.add_argument(
        "--share-ffn-norm",
        action="store_true",
        help="layers that share an FFN share its layer norm too (default: own norm per layer)",
    )
    parser.add_argument(
        "--ffn-chunk-width",
        type=_chunk_width,
        metavar="UNITS",
        help="training takes a FFN so many hidden units at a time and computes them again in the "
        "backward pass, instead of keeping all of them for it; 0: never; auto: "
        f"{CHUNK} where a FFN has {WIDE} or more (default: auto)",
    )
    add_choice(
        parser,
        "cpu_autocast",
        CHOICES["cpu_autocast"],
        help="bfloat16: run the model's forward pass on a CPU under torch.autocast, which is "
        "faster where the CPU has bfloat16 instructions and slower elsewhere; weights, loss and "
        "optimiser stay in float32 (default: none)",
    )
    add_choice(
        parser,
        "cpu_matmul",
        CHOICES["cpu_matmul"],
        help="library for float32 matrix products while training on a CPU: PyTorch's default; "
        "onednn, which some CPUs run faster; auto: measured once on this machine "
        "(default: default)",
    )
    add_choice(
        parser,
        "inference",
        CHOICES["inference"],
        help="arithmetic of the matrix products when translating on a CPU (docs/performance.md); "
        "plain: fairseq's own path. For a trained model: fairseq-generate --model-overrides "
        "\"{'inference': 'int8'}\" (default: float32)",
    )


def _chunk_width(text: str) -> Union[int, str]:
    return int(text) if text.isdecimal() else text  # check() refuses what is neither


def ffn_chunk(args: argparse.Namespace, stack: str) -> int:
    """Hidden units that training computes at a time in the FFNs of ``stack``; 0: all of them."""
    if args.ffn_chunk_width == "auto" and any(_options_of_fairseqs_layer(args, stack)):
        return 0
    return chunk_width(args.ffn_chunk_width, getattr(args, f"{stack}_ffn_embed_dim"))


def _options_of_fairseqs_layer(args: argparse.Namespace, stack: str) -> Iterator[str]:
    """Options that only fairseq's own series layer honours, which computes its FFN in one go."""
    names = ["quant_noise_pq", "quant_noise_scalar"]
    if stack == "decoder":
        names += ["cross_self_attention", "scale_attn", "scale_heads", "scale_fc", "scale_resids"]
    for name in names:
        if getattr(args, name, None):
            yield flag_of(name)


def set_defaults(args: argparse.Namespace) -> None:
    """Fill in the flags that were not given."""
    for name, default in DEFAULTS:
        # fairseq's own structure gives None for what it doesn't know
        if getattr(args, name, None) is None:
            setattr(args, name, default)


def layouts_of(args: argparse.Namespace) -> ModelLayouts:
    """The five layouts of a model, parsed for its numbers of layers.

    Raises:
        LayoutError: a string that is malformed or doesn't fit the stack.
    """
    return parse_model_layouts(
        args.encoder_layers,
        args.decoder_layers,
        **{
            f"{stack}_{kind}": getattr(args, f"{stack}_{kind}_layout") for stack, kind, _ in LAYOUTS
        },
    )


def check(args: argparse.Namespace) -> ModelLayouts:
    """Refuse, in one line each, what the layouts or fairseq's other options can't honour.

    Args:
        args: flags with all defaults set.

    Returns:
        the parsed layouts.

    Raises:
        UserError: naming flag, value and, where there is one, the layer.
    """
    layouts = layouts_of(args)
    for rule in (_refused_values, _refused_widths, _refused_blocks, _refused_options):
        for line in rule(args, layouts):
            raise UserError(line)
    return layouts


def _refused_values(args: argparse.Namespace, layouts: ModelLayouts) -> Iterator[str]:
    """Values that no layout can honour, from the command line or --model-overrides."""
    for stack in ("encoder", "decoder"):
        kept = getattr(args, f"{stack}_layers_to_keep", None)
        if kept and not isinstance(kept, str):
            listed = ",".join(map(str, kept))
            yield (
                f"--{stack}-layers-to-keep {listed}: fairseq prunes layers only while it loads a "
                f"checkpoint; use --model-overrides \"{{'{stack}_layers_to_keep': '{listed}'}}\""
            )
    yield from refused_choices({name: getattr(args, name) for name in CHOICES}, CHOICES)
    width = args.ffn_chunk_width
    if width != "auto" and (type(width) is not int or width < 0):
        yield f"--ffn-chunk-width '{width}': use auto, 0 or a number of hidden units"
        return
    for stack in ("encoder", "decoder"):
        if ffn_chunk(args, stack):
            for option in _options_of_fairseqs_layer(args, stack):
                yield (
                    f"--ffn-chunk-width {width} can't be honoured with {option}: that is part of "
                    f"fairseq's own {stack} layer, which computes its FFN in one go"
                )


def _refused_widths(args: argparse.Namespace, layouts: ModelLayouts) -> Iterator[str]:
    # sizes that a module common to both stacks must have in both
    for kind, sizes in (
        ("ffn", ("ffn_embed_dim", "embed_dim")),
        ("self_attn", ("embed_dim", "attention_heads")),
    ):
        layout = getattr(layouts, f"encoder_{kind}")
        if not layout.common:
            continue
        for size in sizes:
            mine, other = getattr(args, f"encoder_{size}"), getattr(args, f"decoder_{size}")
            if mine != other:
                name = layout.common[0]
                flag = size.replace("_", "-")
                yield (
                    f"{layout_flag('encoder', kind)} '{getattr(args, f'encoder_{kind}_layout')}': "
                    f"layer {layout.groups[name][0]}: '{name}' is common to both stacks, but "
                    f"--encoder-{flag} is {mine} and --decoder-{flag} is {other}"
                )
    one_is_pre_norm = args.encoder_normalize_before != args.decoder_normalize_before
    if args.share_ffn_norm and layouts.encoder_ffn.common and one_is_pre_norm:
        yield (
            "--share-ffn-norm: an FFN common to both stacks can't share its norm when only one "
            "stack has --encoder-normalize-before / --decoder-normalize-before"
        )


def _refused_blocks(args: argparse.Namespace, layouts: ModelLayouts) -> Iterator[str]:
    stacks = (("encoder", args.encoder_block), ("decoder", args.decoder_block))
    for stack, block in stacks:
        if block == "series":
            continue
        pre_norm = getattr(args, f"{stack}_normalize_before")
        if args.parallel_norm == "own" and not pre_norm:
            yield (
                f"--parallel-norm own: the post-norm {stack} (--{stack}-block {block}) has one "
                f"norm after the sum; add --{stack}-normalize-before or use --parallel-norm shared"
            )
        if args.share_ffn_norm and args.parallel_norm != "own":
            yield (
                f"--share-ffn-norm: with --{stack}-block {block} and --parallel-norm shared the "
                "FFN has no norm of its own that could be shared"
            )
    if args.parallel_norm == "own" and all(block == "series" for _, block in stacks):
        yield "--parallel-norm own: no stack is parallel; add --encoder-block or --decoder-block"
    if args.parallel_scale != "none" and all(block == "series" for _, block in stacks):
        yield "--parallel-scale sqrt: no stack is parallel; add --encoder-block or --decoder-block"
    if args.no_cross_attention:
        if args.decoder_block == "parallel-cross-ffn":
            yield "--decoder-block parallel-cross-ffn needs cross-attention (--no-cross-attention)"
        if not layouts.decoder_cross_attn.is_independent:
            yield (
                f"{layout_flag('decoder', 'cross_attn')} '{args.decoder_cross_attn_layout}': there "
                "is no cross-attention to lay out (--no-cross-attention)"
            )


def _refused_options(args: argparse.Namespace, layouts: ModelLayouts) -> Iterator[str]:
    changed = [flag for flag, layout in layouts.all.items() if not layout.is_independent]
    sharing = [flag for flag, layout in layouts.all.items() if layout.has_sharing]
    parallel = [
        f"--{stack}-block"
        for stack in ("encoder", "decoder")
        if getattr(args, f"{stack}_block") != "series"
    ]
    decoder = [flag for flag in changed + parallel if "decoder" in flag]

    def given(name: str) -> bool:
        return bool(getattr(args, name, None))

    # name in the namespace, flags it can't go with, why
    rules: Tuple[Tuple[Callable[[], bool], str, List[str], str], ...] = (
        (
            lambda: getattr(args, "ddp_backend", None) == "fully_sharded",
            "--ddp-backend fully_sharded",
            sharing,
            "FSDP flattens each layer's parameters by itself and can't share them over layers",
        ),
        (
            lambda: given("pipeline_model_parallel"),
            "--pipeline-model-parallel",
            sharing,
            "a shared module can't lie on several devices",
        ),
        (
            lambda: given("quant_noise_pq"),
            "--quant-noise-pq",
            changed + parallel,
            "quantisation noise is defined per layer and hasn't been defined for this layout",
        ),
        (
            lambda: given("quant_noise_scalar"),
            "--quant-noise-scalar",
            changed + parallel,
            "it replaces each layer's modules and so un-shares them",
        ),
        (
            lambda: given("base_layers"),
            "--base-layers",
            decoder,
            "BASE layers are inserted between the decoder's layers and shift its layout",
        ),
        (
            lambda: given("cross_self_attention"),
            "--cross-self-attention",
            decoder,
            "it is part of fairseq's series layer with an FFN only",
        ),
        *(
            (
                (lambda name=name: given(name)),
                flag_of(name),
                decoder,
                "NormFormer's options are part of fairseq's series layer with an FFN only",
            )
            for name in ("scale_attn", "scale_heads", "scale_fc", "scale_resids")
        ),
        (
            lambda: (
                (given("checkpoint_activations") or given("offload_activations"))
                and getattr(args, "ddp_backend", None) in ("c10d", "pytorch_ddp")
            ),
            f"--checkpoint-activations with --ddp-backend {getattr(args, 'ddp_backend', None)}",
            sharing if processes(args) > 1 else [],
            "DDP sees a shared weight's gradient once per layer; use --ddp-backend legacy_ddp",
        ),
    )
    yield from _refused_with_the_fused_loss(args)
    for is_given, option, flags, why in rules:
        if flags and is_given():
            name = flags[0].lstrip("-").replace("-", "_")
            yield f"{option} can't be honoured with {flags[0]} '{getattr(args, name)}': {why}"


def _refused_with_the_fused_loss(args: argparse.Namespace) -> Iterator[str]:
    """The fused loss takes the output projection's weight itself, outside the forward pass."""
    fused = "label_smoothed_cross_entropy_fused"
    if getattr(args, "criterion", None) != fused:
        return
    if getattr(args, "adaptive_softmax_cutoff", None):
        yield (
            f"--adaptive-softmax-cutoff can't be honoured with --criterion {fused}: its output "
            "layer isn't one matrix; use --criterion label_smoothed_cross_entropy"
        )
    if getattr(args, "ddp_backend", None) == "fully_sharded":
        yield (
            f"--ddp-backend fully_sharded can't be honoured with --criterion {fused}: FSDP gathers "
            "the output projection in the forward pass only"
        )
    if getattr(args, "find_unused_parameters", False) and processes(args) > 1:
        yield (
            f"--find-unused-parameters can't be honoured with --criterion {fused}: DDP would take "
            "the output projection for unused"
        )


def processes(args: argparse.Namespace) -> int:
    """Processes of this training; torchrun tells only the environment."""
    launched = os.environ.get("WORLD_SIZE", "1")
    return max(
        getattr(args, "distributed_world_size", 1), int(launched) if launched.isdecimal() else 1
    )


def warn_of_raw_embeddings(args: argparse.Namespace) -> List[str]:
    """Stacks whose first parallel FFN would read embeddings that nothing has normalised."""
    if getattr(args, "layernorm_embedding", False):
        return []
    return [
        stack
        for stack in ("encoder", "decoder")
        if getattr(args, f"{stack}_block") == "parallel"
        and not getattr(args, f"{stack}_normalize_before")
    ]
