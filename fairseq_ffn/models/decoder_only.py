"""The model ``transformer_ffn_decoder_only``: one stack reads the source and continues it.

A prefix language model for translation (One Wide FFN, section 4, "decoder-only"): source positions
see the whole source, target positions see the source and what is before them. fairseq's tasks and
its beam search talk to an encoder and a decoder, so the model has both faces, with one stack of
layers behind them::

    source ----> SourceReader --(keys and values of each layer)--\
                     | runs                                       v
                     +---> layers of PrefixDecoder <---runs--- PrefixDecoder <---- target so far
                                                                  |
                                                                  v
                                                            next target word

All parameters are the decoder's; the reader holds none. The source is read once, in training and in
decoding; the result is that of one pass over source and target in a row, under a mask.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any, Dict, Iterable, List, Optional, Tuple

import torch
from fairseq.models import FairseqEncoder, register_model
from fairseq.models.transformer import TransformerConfig
from torch import Tensor, nn

from fairseq_ffn.errors import UserError
from fairseq_ffn.models import decoder_only_flags
from fairseq_ffn.models.transformer_ffn import (
    TransformerFfnDecoder,
    TransformerFfnModel,
    layer_plans,
)
from fairseq_ffn.modules import LayerPlan
from fairseq_ffn.modules.decoder_layer import IncrementalState
from fairseq_ffn.modules.prefix_layer import build_prefix_layer

#: what the reader gives the decoder: lists, as fairseq wants them
Prefix = Dict[str, List[Tensor]]


@register_model("transformer_ffn_decoder_only")
class TransformerFfnDecoderOnlyModel(TransformerFfnModel):
    """Prefix language model whose FFNs can be shared, absent, widened or parallel.

    Flags are those of the decoder of ``transformer_ffn``; source embedding, target embedding and
    output projection are one matrix.
    """

    def __init__(self, args: argparse.Namespace, encoder: SourceReader, decoder: PrefixDecoder):
        super().__init__(args, encoder, decoder)
        encoder.read_with(decoder)

    @classmethod
    def add_args(cls, parser: argparse.ArgumentParser) -> None:
        """Add the flags of ``transformer_ffn`` and ours."""
        super().add_args(parser)
        decoder_only_flags.add_arguments(parser)

    @classmethod
    def build_model(cls, args: argparse.Namespace, task) -> TransformerFfnDecoderOnlyModel:
        """Check the flags, then build as fairseq does.

        Raises:
            UserError: a layout or option that can't be honoured, or two dictionaries.
        """
        decoder_only_flags.settle(args)
        if task.source_dictionary != task.target_dictionary:
            raise UserError(
                f"{decoder_only_flags.MODEL}: one embedding serves source and target, but the "
                "data have two dictionaries; use fairseq-preprocess --joined-dictionary"
            )
        return super().build_model(args, task)

    @classmethod
    def build_encoder(cls, args, src_dict, embed_tokens) -> SourceReader:
        return SourceReader(src_dict, args.max_source_positions)

    @classmethod
    def build_decoder(cls, args, tgt_dict, embed_tokens) -> PrefixDecoder:
        cfg = TransformerConfig.from_namespace(args)
        return PrefixDecoder(cfg, tgt_dict, embed_tokens, layer_plans(args, "decoder"))

    def prepare_for_inference_(self, cfg: Any) -> None:
        """As in fairseq.

        Raises:
            UserError: what is asked for needs the weights of cross-attention.
        """
        for name in ("print_alignment", "replace_unk"):
            value = getattr(cfg.generation, name, None)
            if value not in (None, False):
                raise UserError(
                    f"--{name.replace('_', '-')}: needs the weights of cross-attention, which "
                    f"{decoder_only_flags.MODEL} hasn't"
                )
        super().prepare_for_inference_(cfg)


class SourceReader(FairseqEncoder):
    """The encoder's face of the stack: sources in, each layer's keys and values out.

    Args:
        dictionary: of source and target.
        max_source_positions: longest source.
    """

    def __init__(self, dictionary, max_source_positions: int):
        super().__init__(dictionary)
        self.max_source_positions = max_source_positions

    def read_with(self, stack: PrefixDecoder) -> None:
        """Use this stack. It stays the decoder's: registered here too, it would be saved twice."""
        self._stack = (stack,)

    @property
    def stack(self) -> PrefixDecoder:
        """The decoder."""
        return self._stack[0]

    @property
    def embed_tokens(self) -> nn.Embedding:
        """The decoder's."""
        return self.stack.embed_tokens

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor] = None,
        return_all_hiddens: bool = False,
    ) -> Prefix:
        """Read sources.

        Args:
            src_tokens: ``(B, S)``, padded on either side.
            src_lengths: fairseq's; pads tell as much.
            return_all_hiddens: fairseq's; nobody asks for the states of the source.

        Returns:
            ``prefix_keys``, ``prefix_values``: one ``(B, H, S, C/H)`` a layer;
            ``encoder_padding_mask``: ``(B, S)``, True at pads, none without pads;
            ``src_tokens``: as given; ``rows``: none, see :meth:`reorder_encoder_out`.
        """
        return self.stack.read(src_tokens)

    def reorder_encoder_out(self, encoder_out: Prefix, new_order: Tensor) -> Prefix:
        """Sentences in another order, with repetitions, as beam search wants them.

        The search asks for this at every step, but keys and values are used in the first one only:
        they stay where they are, and ``rows`` says which sentence's each row is.

        Args:
            encoder_out: of :meth:`forward`, or reordered before.
            new_order: ``(B',)``, rows of ``encoder_out``.
        """
        rows = encoder_out["rows"]
        return {
            **encoder_out,
            "encoder_padding_mask": [
                mask.index_select(0, new_order) for mask in encoder_out["encoder_padding_mask"]
            ],
            "src_tokens": [encoder_out["src_tokens"][0].index_select(0, new_order)],
            "rows": [rows[0].index_select(0, new_order) if rows else new_order],
        }

    def max_positions(self) -> int:
        """Longest source."""
        return self.max_source_positions


class PrefixDecoder(TransformerFfnDecoder):
    """The stack, and the decoder's face of it.

    Args:
        cfg: fairseq's configuration; the decoder's part shapes the stack.
        dictionary: of source and target.
        embed_tokens: embedding of both.
        plans: one per layer.
    """

    layer_builder = staticmethod(build_prefix_layer)

    def __init__(
        self, cfg: TransformerConfig, dictionary, embed_tokens, plans: Iterable[LayerPlan]
    ):
        #: the target's positions count on from the source's
        self.continues = cfg.target_positions == "continue"
        wider = copy.copy(cfg)
        wider.max_target_positions = decoder_only_flags.position_rows(
            cfg.max_source_positions, cfg.max_target_positions, cfg.target_positions
        )
        super().__init__(wider, dictionary, embed_tokens, plans, no_encoder_attn=True)
        self.cfg, self.max_target_positions = cfg, cfg.max_target_positions

    def read(self, src_tokens: Tensor) -> Prefix:
        """What :meth:`SourceReader.forward` gives."""
        pads = src_tokens.eq(self.padding_idx)
        padding_mask = pads if pads.any() else None
        x = self.embed(src_tokens, self._positions(src_tokens))
        keys: List[Tensor] = []
        values: List[Tensor] = []
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            if index == last:
                key, value = layer.keys_and_values(x)
            else:
                x, key, value = layer(x, padding_mask=padding_mask)
            keys.append(key)
            values.append(value)
        return {
            "prefix_keys": keys,
            "prefix_values": values,
            "encoder_padding_mask": [] if padding_mask is None else [padding_mask],
            "src_tokens": [src_tokens],
            "rows": [],
        }

    def embed(self, tokens: Tensor, positions: Optional[Tensor]) -> Tensor:
        """The stack's input.

        Args:
            tokens: ``(B, T)``.
            positions: their vectors ``(B, T, C)``, or None.

        Returns:
            ``(T, B, C)``.
        """
        x = self.embed_scale * self.embed_tokens(tokens)
        if positions is not None:
            x = x + positions
        if self.layernorm_embedding is not None:
            x = self.layernorm_embedding(x)
        return self.dropout_module(x).transpose(0, 1)

    def extract_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Optional[Prefix],
        incremental_state: IncrementalState = None,
        full_context_alignment: bool = False,
        alignment_layer: Optional[int] = None,
        alignment_heads: Optional[int] = None,
    ) -> Tuple[Tensor, Dict[str, List[Optional[Tensor]]]]:
        """Features of targets, as in fairseq's decoder.

        Args:
            prev_output_tokens: ``(B, T)``, end of sentence first.
            encoder_out: of ``SourceReader``, for the same B sentences.
            incremental_state: of step-by-step decoding; then the last position alone is computed.
            full_context_alignment: can't be had.
            alignment_layer: of no use, since there is no cross-attention.
            alignment_heads: of no use either.

        Returns:
            features ``(B, T, C)``; ``attn``: [None], ``inner_states``: the stack's input and each
            layer's output, ``(T, B, C)``.

        Raises:
            UserError: ``full_context_alignment``.
        """
        if full_context_alignment:
            raise UserError(
                "full_context_alignment: an alignment needs cross-attention, which "
                f"{decoder_only_flags.MODEL} hasn't"
            )
        if encoder_out is None:
            raise ValueError("a prefix language model needs a source: encoder_out is None")
        src_tokens = encoder_out["src_tokens"][0]
        positions = self._positions(prev_output_tokens, src_tokens if self.continues else None)
        attn_mask = None
        if incremental_state is not None:
            prev_output_tokens = prev_output_tokens[:, -1:]
            positions = None if positions is None else positions[:, -1:]
        x = self.embed(prev_output_tokens, positions)
        if incremental_state is None:
            source = x.new_zeros(len(x), src_tokens.size(1))
            attn_mask = torch.cat((source, self.buffered_future_mask(x)), dim=1)
        pads = prev_output_tokens.eq(self.padding_idx)

        inner_states: List[Optional[Tensor]] = [x]
        for index, layer in enumerate(self.layers):
            prefix = () if layer.holds_prefix(incremental_state) else _of_layer(encoder_out, index)
            x, _, _ = layer(
                x,
                *prefix,
                incremental_state=incremental_state,
                attn_mask=attn_mask,
                padding_mask=pads if pads.any() else None,
            )
            inner_states.append(x)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return x.transpose(0, 1), {"attn": [None], "inner_states": inner_states}

    def _positions(self, tokens: Tensor, after: Optional[Tensor] = None) -> Optional[Tensor]:
        """Position vectors of ``tokens (B, T)``, counted on from those of ``after (B, S)``.

        Pads don't count: a position is the number of words before, whatever the batch.
        """
        if self.embed_positions is None:
            return None
        if after is None:
            return self.embed_positions(tokens)
        return self.embed_positions(torch.cat((after, tokens), dim=1))[:, after.size(1) :]


def _of_layer(encoder_out: Prefix, index: int) -> Tuple[Tensor, Tensor, Optional[Tensor]]:
    """A layer's keys, values ``(B, H, S, C/H)`` and padding mask ``(B, S)``."""
    keys, values = (encoder_out[f"prefix_{kind}"][index] for kind in ("keys", "values"))
    for rows in encoder_out["rows"]:
        keys, values = keys.index_select(0, rows), values.index_select(0, rows)
    masks = encoder_out["encoder_padding_mask"]
    return keys, values, masks[0] if masks else None
