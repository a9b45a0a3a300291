"""What a format can't express, said before anything is built or written."""

from __future__ import annotations

import argparse
from typing import Callable, Iterator, Tuple

from fairseq_ffn.errors import UserError
from fairseq_ffn.layouts import Layout, ModelLayouts

CTRANSLATE2, FAIRSEQ = "ctranslate2", "fairseq"
FORMATS = (CTRANSLATE2, FAIRSEQ)

#: flag: fairseq's value for "not used", why CTranslate2 can't have it
_NOT_IN_CTRANSLATE2 = {
    "no_cross_attention": "its decoder then is a language model that doesn't see the source",
    "cross_self_attention": "CTranslate2 attends to source and target separately",
    "adaptive_softmax_cutoff": "CTranslate2's output projection is one matrix",
    "scale_attn": "CTranslate2 has no norm after attention",
    "scale_heads": "CTranslate2 doesn't scale attention heads",
    "scale_fc": "CTranslate2 has no norm within the FFN",
    "scale_resids": "CTranslate2 doesn't scale residuals",
    "base_layers": "CTranslate2 has no BASE layers",
    "quant_noise_pq": "fairseq then puts a further matrix after the embeddings",
    "quant_noise_scalar": "fairseq then rounds weights and activations while it decodes",
}


def check_expressible(args: argparse.Namespace, layouts: ModelLayouts, form: str) -> None:
    """Refuse what isn't a plain Transformer, or more than ``form`` can hold.

    Args:
        args: the model's flags, all set.
        layouts: parsed from them.
        form: one of :data:`FORMATS`.

    Raises:
        UserError: naming flag, layer and reason.
    """
    for line in _parallel_blocks(args, layouts):
        raise UserError(line)
    if form == CTRANSLATE2:
        for line in _options(args):
            raise UserError(line)


def _parallel_blocks(args: argparse.Namespace, layouts: ModelLayouts) -> Iterator[str]:
    """Parallel layers with at least two branches.

    They can't be rewritten: in series the second branch reads what the first has added to, in
    parallel the layer's input, which a plain Transformer of the same width keeps nowhere (see
    docs/export.md). A layer that is left with one branch is a series layer without FFN: an encoder
    layer without FFN, and a ``parallel-cross-ffn`` decoder layer without FFN.
    """
    for stack, layout in (("encoder", layouts.encoder_ffn), ("decoder", layouts.decoder_ffn)):
        block = getattr(args, f"{stack}_block")
        if block == "series":
            continue
        layer = _first_with_branches(stack, block, layout)
        if layer is not None:
            yield (
                f"--{stack}-block {block}: layer {layer} of the {stack} computes its branches side "
                "by side from the layer's input; a plain Transformer of this width computes one "
                "after the other, which is another function, so it can't be exported"
            )


def _first_with_branches(stack: str, block: str, layout: Layout):
    if stack == "decoder" and block == "parallel":
        return 0  # self-attention and cross-attention, FFN or not
    return next((layer for layer, name in enumerate(layout.modules) if name is not None), None)


def _options(args: argparse.Namespace) -> Iterator[str]:
    for name, why in _NOT_IN_CTRANSLATE2.items():
        if getattr(args, name, None):
            yield f"--{name.replace('_', '-')}: can't be exported to CTranslate2: {why}"
    rules: Tuple[Tuple[Callable[[], bool], str, str], ...] = (
        (
            lambda: args.decoder_output_dim != args.decoder_embed_dim,
            f"--decoder-output-dim {args.decoder_output_dim}",
            f"it differs from --decoder-embed-dim {args.decoder_embed_dim}, and CTranslate2 has no "
            "projection there",
        ),
    )
    for applies, flag, why in rules:
        if applies():
            yield f"{flag}: can't be exported to CTranslate2: {why}"
