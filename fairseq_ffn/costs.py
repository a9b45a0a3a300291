"""What a model of this plugin costs, in closed form: parameters and multiply-adds.

Nothing is built: the counts follow from the shape alone, so those of Transformer Big take
microseconds. They are exact, not estimates; the tests compare them with real models.

With d the width of a stack (``--*-embed-dim``) and f that of its FFN (``--*-ffn-embed-dim``):

===============  ===============  ===================================================
module           parameters       multiply-adds per token that passes through it
===============  ===============  ===================================================
FFN              2 d f + f + d    2 d f
attention        4 (d^2 + d)      4 d^2, and 2 n d for scores and sums over n positions
layer norm       2 d              0 (only matrix products are counted)
===============  ===============  ===================================================

A module that several layers share is stored once but computed in each of them: that is why models
of equal size can differ in cost (One Wide FFN has the baseline's parameters and about four times
its multiply-adds per source token and target token together).

In the decoder-only model every token passes through the one stack, but of the last layer a source
token takes keys and values only (``models/decoder_only.py``).

This file is pure: it needs no torch and no fairseq.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import Optional

from fairseq_ffn.errors import UserError
from fairseq_ffn.layouts import Layout, ModelLayouts, parse_model_layouts

#: fairseq's default of ``--max-source-positions`` and ``--max-target-positions``
MAX_POSITIONS = 1024
#: rows of a learned position table before its first position: fairseq's pad has index 1
POSITION_OFFSET = 2

#: options of fairseq that change what a layer holds or computes, and that aren't counted here
UNCOUNTED_OPTIONS = (
    "adaptive_softmax_cutoff",
    "base_layers",
    "cross_self_attention",
    "quant_noise_pq",
    "scale_attn",
    "scale_fc",
    "scale_heads",
    "scale_resids",
)


@dataclass(frozen=True)
class StackShape:
    """Encoder or decoder.

    Args:
        embed_dim: width d of the stack.
        ffn_embed_dim: width f of its FFNs.
        normalize_before: pre-norm, with one more layer norm after the last layer.
        block: ``series``, ``parallel`` or (decoder) ``parallel-cross-ffn``.
        learned_positions: longest sentence of a learned position table; 0 for sinusoids or none.
    """

    embed_dim: int
    ffn_embed_dim: int
    normalize_before: bool = False
    block: str = "series"
    learned_positions: int = 0


@dataclass(frozen=True)
class ModelShape:
    """All that the counts depend on; ``shape_of`` makes it from a model's flags.

    Args:
        encoder: shape of the encoder; of no meaning in a decoder-only model.
        decoder: shape of the decoder, or of the one stack.
        layouts: which module each layer uses; they also give the numbers of layers.
        source_vocabulary: symbols of the source dictionary, fairseq's special ones included.
        target_vocabulary: the same of the target dictionary.
        parallel_norm: pre-norm parallel blocks: one ``shared`` norm, or an ``own`` one per branch.
        share_ffn_norm: layers that share an FFN share its layer norm too.
        layernorm_embedding: a layer norm after the embeddings of each stack.
        cross_attention: False for ``--no-cross-attention``.
        share_all_embeddings: one matrix embeds source and target and projects to the output.
        share_decoder_input_output_embed: one matrix embeds the target and projects to the output.
        decoder_output_dim: width of what is projected to the output; None for the decoder's.
        decoder_final_norm: False for ``--no-decoder-final-norm``.
        decoder_only: one stack reads source and target; there are no encoder layers and no
            cross-attention, and one matrix for all embeddings.
    """

    encoder: StackShape
    decoder: StackShape
    layouts: ModelLayouts
    source_vocabulary: int
    target_vocabulary: int
    parallel_norm: str = "shared"
    share_ffn_norm: bool = False
    layernorm_embedding: bool = False
    cross_attention: bool = True
    share_all_embeddings: bool = False
    share_decoder_input_output_embed: bool = False
    decoder_output_dim: Optional[int] = None
    decoder_final_norm: bool = True
    decoder_only: bool = False

    @property
    def encoder_layers(self) -> int:
        """Number of encoder layers."""
        return len(self.layouts.encoder_ffn.modules)

    @property
    def decoder_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layouts.decoder_ffn.modules)

    @property
    def output_dim(self) -> int:
        """Width of the features that the output projection reads."""
        return self.decoder_output_dim or self.decoder.embed_dim


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a model; a shared one counts once.

    Args:
        embedding: token embeddings, learned positions and output projection.
        body: all the others, with the layer norms after the embeddings.
    """

    embedding: int
    body: int

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embedding + self.body


@dataclass(frozen=True)
class MultiplyAdds:
    """Multiply-adds of the matrix products of one sentence, per token; FLOPs are twice as many.

    Args:
        source_token: encoder layers, and the keys and values that the decoder's cross-attention
            takes from the encoder's output: they are computed once per source token. Decoder-only:
            the stack, but of its last layer keys and values alone.
        target_token: decoder layers.
        output_projection: per target token, features to vocabulary (softmax layer).
    """

    source_token: int
    target_token: int
    output_projection: int

    @property
    def token_pair(self) -> int:
        """One source token and one target token, without output projection."""
        return self.source_token + self.target_token


def shape_of(
    args: argparse.Namespace, source_vocabulary: int, target_vocabulary: Optional[int] = None
) -> ModelShape:
    """The shape of a model from its flags.

    Args:
        args: flags with all defaults set, as an architecture function leaves them.
        source_vocabulary: symbols of the source dictionary, fairseq's special ones included; of
            the merged dictionary with ``--merge-src-tgt-embed``.
        target_vocabulary: the same for the target; None for a joined dictionary.

    Raises:
        UserError: an option without closed form here, or different vocabularies where the
            embeddings are one matrix.
    """
    for name in UNCOUNTED_OPTIONS:
        if getattr(args, name, None):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} {getattr(args, name)}: its cost has no closed form here")
    if target_vocabulary is None:
        target_vocabulary = source_vocabulary
    one_matrix = bool(args.share_all_embeddings or getattr(args, "merge_src_tgt_embed", False))
    if one_matrix and source_vocabulary != target_vocabulary:
        raise UserError(
            f"one matrix embeds source and target, but the vocabularies have {source_vocabulary} "
            f"and {target_vocabulary} symbols"
        )
    decoder_only = bool(getattr(args, "decoder_only", False))
    encoder, decoder = _stack_of(args, "encoder", "source"), _stack_of(args, "decoder", "target")
    if decoder_only:
        # the flags of the encoder mirror those of the stack
        encoder = replace(encoder, normalize_before=False, learned_positions=0)
        if decoder.learned_positions:
            limits = (_longest(args, "source"), _longest(args, "target"))
            rows = sum(limits) if args.target_positions == "continue" else max(limits)
            decoder = replace(decoder, learned_positions=rows)
    return ModelShape(
        encoder=encoder,
        decoder=decoder,
        layouts=_layouts_of(args),
        source_vocabulary=source_vocabulary,
        target_vocabulary=target_vocabulary,
        parallel_norm=args.parallel_norm,
        share_ffn_norm=args.share_ffn_norm,
        layernorm_embedding=args.layernorm_embedding,
        cross_attention=not args.no_cross_attention,
        share_all_embeddings=one_matrix,
        share_decoder_input_output_embed=args.share_decoder_input_output_embed,
        decoder_output_dim=args.decoder_output_dim,
        decoder_final_norm=not getattr(args, "no_decoder_final_norm", False),
        decoder_only=decoder_only,
    )


def count_parameters(shape: ModelShape) -> ParameterCount:
    """Parameters of a model of this shape, exactly as ``model.parameters()`` gives them."""
    return ParameterCount(
        embedding=_embedding_parameters(shape),
        body=(
            _ffn_parameters(shape)
            + _attention_parameters(shape)
            + _norm_parameters(shape)
            + _output_factor(shape)
        ),
    )


def count_multiply_adds(
    shape: ModelShape, source_length: Optional[int] = None, target_length: Optional[int] = None
) -> MultiplyAdds:
    """Multiply-adds per token.

    Args:
        shape: the model's shape.
        source_length: tokens of the source sentence, EOS included. Without it, the products of
            attention scores and of weighted sums, which grow with the sentence, are left out.
        target_length: the same of the target sentence. All target positions are taken to be
            computed at once, as in training and forced decoding: masked scores count too.
    """
    source_positions, target_positions = source_length or 0, target_length or 0
    if shape.decoder_only:
        return _multiply_adds_of_one_stack(shape, source_positions, target_positions)
    encoder_dim, decoder_dim = shape.encoder.embed_dim, shape.decoder.embed_dim
    source = _layers_with_ffn(shape.layouts.encoder_ffn) * 2 * _ffn_weights(shape.encoder)
    source += shape.encoder_layers * (4 * encoder_dim**2 + 2 * source_positions * encoder_dim)
    target = _layers_with_ffn(shape.layouts.decoder_ffn) * 2 * _ffn_weights(shape.decoder)
    target += shape.decoder_layers * (4 * decoder_dim**2 + 2 * target_positions * decoder_dim)
    if shape.cross_attention:
        source += shape.decoder_layers * 2 * encoder_dim * decoder_dim
        target += shape.decoder_layers * (2 * decoder_dim**2 + 2 * source_positions * decoder_dim)
    return MultiplyAdds(
        source_token=source,
        target_token=target + _output_factor(shape),
        output_projection=shape.target_vocabulary * shape.output_dim,
    )


def _multiply_adds_of_one_stack(
    shape: ModelShape, source_positions: int, target_positions: int
) -> MultiplyAdds:
    layout, d = shape.layouts.decoder_ffn, shape.decoder.embed_dim
    in_last = 0 if layout.modules[-1] is None else 1
    ffns, ffn = _layers_with_ffn(layout), 2 * _ffn_weights(shape.decoder)
    source = (ffns - in_last) * ffn + 2 * d**2
    source += (shape.decoder_layers - 1) * (4 * d**2 + 2 * source_positions * d)
    target = ffns * ffn
    target += shape.decoder_layers * (4 * d**2 + 2 * (source_positions + target_positions) * d)
    return MultiplyAdds(source, target, shape.target_vocabulary * shape.output_dim)


def count_sentence_pair(shape: ModelShape, source_length: int, target_length: int) -> int:
    """Multiply-adds of one forward pass over a sentence pair, with scores and output projection.

    Args:
        shape: the model's shape.
        source_length: tokens of the source sentence, EOS included.
        target_length: tokens of the target sentence, EOS included.
    """
    costs = count_multiply_adds(shape, source_length, target_length)
    return source_length * costs.source_token + target_length * (
        costs.target_token + costs.output_projection
    )


def _longest(args: argparse.Namespace, side: str) -> int:
    return getattr(args, f"max_{side}_positions", None) or MAX_POSITIONS


def _stack_of(args: argparse.Namespace, stack: str, side: str) -> StackShape:
    learned = getattr(args, f"{stack}_learned_pos") and not args.no_token_positional_embeddings
    return StackShape(
        embed_dim=getattr(args, f"{stack}_embed_dim"),
        ffn_embed_dim=getattr(args, f"{stack}_ffn_embed_dim"),
        normalize_before=getattr(args, f"{stack}_normalize_before"),
        block=getattr(args, f"{stack}_block"),
        learned_positions=_longest(args, side) if learned else 0,
    )


def _layouts_of(args: argparse.Namespace) -> ModelLayouts:
    """The layouts, for the layers that ``--*-layers-to-keep`` keeps."""
    kinds = ("encoder_ffn", "decoder_ffn", "encoder_self_attn", "decoder_self_attn")
    layouts = parse_model_layouts(
        args.encoder_layers,
        args.decoder_layers,
        **{kind: getattr(args, f"{kind}_layout") for kind in (*kinds, "decoder_cross_attn")},
    )

    def kept(kind: str) -> Layout:
        layout = getattr(layouts, kind)
        layers = getattr(args, f"{kind.split('_')[0]}_layers_to_keep", None)
        indices = [int(layer) for layer in layers.split(",")] if layers else []
        # as many to keep as there are: the flags are those of a model that is pruned already
        return layout.keep(indices) if 0 < len(indices) < len(layout.modules) else layout

    return ModelLayouts(**{kind: kept(kind) for kind in (*kinds, "decoder_cross_attn")})


def _layers_with_ffn(layout: Layout) -> int:
    return len(layout.modules) - len(layout.absent)


def _own_groups(layout: Layout) -> int:
    """Modules that belong to this stack alone."""
    return len(layout.groups) - len(layout.common)


def _ffn_weights(stack: StackShape) -> int:
    """Entries of one of the FFN's two matrices."""
    return stack.embed_dim * stack.ffn_embed_dim


def _ffn_parameters(shape: ModelShape) -> int:
    def one(stack: StackShape) -> int:
        return 2 * _ffn_weights(stack) + stack.ffn_embed_dim + stack.embed_dim

    # modules common to both stacks are counted with the encoder
    in_encoder = len(shape.layouts.encoder_ffn.groups) * one(shape.encoder)
    return in_encoder + _own_groups(shape.layouts.decoder_ffn) * one(shape.decoder)


def _attention_parameters(shape: ModelShape) -> int:
    encoder_dim, decoder_dim = shape.encoder.embed_dim, shape.decoder.embed_dim
    total = len(shape.layouts.encoder_self_attn.groups) * 4 * (encoder_dim**2 + encoder_dim)
    total += _own_groups(shape.layouts.decoder_self_attn) * 4 * (decoder_dim**2 + decoder_dim)
    if shape.cross_attention:
        # keys and values read the encoder's width, queries and output the decoder's
        one = 2 * (encoder_dim + 1) * decoder_dim + 2 * (decoder_dim**2 + decoder_dim)
        total += len(shape.layouts.decoder_cross_attn.groups) * one
    return total


def _norm_parameters(shape: ModelShape) -> int:
    encoder, decoder, layouts = shape.encoder, shape.decoder, shape.layouts

    def branches_have_own(stack: StackShape) -> bool:
        return stack.normalize_before and shape.parallel_norm == "own"

    def ffn_norms(stack: StackShape, layout: Layout, groups: int) -> int:
        if stack.block != "series" and not branches_have_own(stack):
            return 0
        return groups if shape.share_ffn_norm else _layers_with_ffn(layout)

    in_encoder = shape.encoder_layers  # those of self-attention
    in_encoder += ffn_norms(encoder, layouts.encoder_ffn, len(layouts.encoder_ffn.groups))
    in_encoder += encoder.normalize_before
    in_encoder += shape.layernorm_embedding and not shape.decoder_only

    in_decoder = shape.decoder_layers
    if shape.cross_attention and (decoder.block != "parallel" or branches_have_own(decoder)):
        in_decoder += shape.decoder_layers
    in_decoder += ffn_norms(decoder, layouts.decoder_ffn, _own_groups(layouts.decoder_ffn))
    in_decoder += decoder.normalize_before and shape.decoder_final_norm
    in_decoder += shape.layernorm_embedding
    return 2 * (in_encoder * encoder.embed_dim + in_decoder * decoder.embed_dim)


def _output_factor(shape: ModelShape) -> int:
    """The matrix between decoder and output projection (``--decoder-output-dim``)."""
    if shape.output_dim == shape.decoder.embed_dim:
        return 0
    return shape.decoder.embed_dim * shape.output_dim


def _embedding_parameters(shape: ModelShape) -> int:
    def positions(stack: StackShape) -> int:
        rows = stack.learned_positions + POSITION_OFFSET if stack.learned_positions else 0
        return rows * stack.embed_dim

    total = positions(shape.encoder) + positions(shape.decoder)
    total += shape.source_vocabulary * shape.encoder.embed_dim
    if shape.share_all_embeddings:
        return total
    total += shape.target_vocabulary * shape.decoder.embed_dim
    if not shape.share_decoder_input_output_embed:
        total += shape.target_vocabulary * shape.output_dim
    return total
