"""Layers of the decoder-only stack, which reads a source first and then continues it.

The same layer serves source and target. For the source it attends to all of it, and gives away the
keys and values that its self-attention has computed: the *prefix*. For the target its
self-attention sees the prefix as if these were positions before the first one. fairseq's attention
does that already with the positions that it has cached while it decodes, so the prefix is given to
it as a cache, in training too.
"""

from __future__ import annotations

from typing import Optional, Tuple

from fairseq.models.transformer import TransformerConfig
from torch import Tensor

from fairseq_ffn.modules.decoder_layer import (
    ChunkedDecoderLayer,
    DecoderLayer,
    DecoderLayerWithoutFeedForward,
    IncrementalState,
    ParallelDecoderLayer,
)
from fairseq_ffn.modules.layer_plan import LayerPlan, ModulePool


def build_prefix_layer(
    cfg: TransformerConfig, plan: LayerPlan, pool: ModulePool, no_encoder_attn: bool = True
) -> PrefixMixin:
    """The layer that ``plan`` asks for."""
    if plan.block == "parallel":
        return ParallelPrefixLayer(cfg, plan, pool, no_encoder_attn)
    if plan.ffn is None:
        return PrefixLayerWithoutFeedForward(cfg, plan, pool, no_encoder_attn)
    if plan.ffn_chunk:
        return ChunkedPrefixLayer(cfg, plan, pool, no_encoder_attn)
    return PrefixLayer(cfg, plan, pool, no_encoder_attn)


class PrefixMixin:
    r"""Makes a decoder layer without cross-attention read sources, and targets after a prefix.

    ::

        source   x --+--> q ------> attention over k, v ----------> ... --> y
                     \--> k, v -----^
                           \--(prefix)--\
        target   x --+--> q ------> attention over k' k, v' v ----> ... --> y
                     \--> k, v -----^

    The rest of the layer is that of the series or parallel decoder layer
    (``modules/decoder_layer.py``), without cross-attention.
    """

    def forward(
        self,
        x: Tensor,
        prefix_keys: Optional[Tensor] = None,
        prefix_values: Optional[Tensor] = None,
        prefix_padding_mask: Optional[Tensor] = None,
        incremental_state: IncrementalState = None,
        attn_mask: Optional[Tensor] = None,
        padding_mask: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Optional[Tensor], Optional[Tensor]]:
        """One layer.

        Tensors come and go as arguments and results of their own, since activation checkpointing
        loses the gradient of any other.

        Args:
            x: source ``(S, B, C)``, or target ``(T, B, C)``; T is 1 when decoding step by step.
            prefix_keys: of the source ``(B, H, S, C/H)``; None while the source is read, and
                after the first step of decoding, since ``incremental_state`` holds them then.
            prefix_values: the same.
            prefix_padding_mask: ``(B, S)``, True at pads, or None without pads.
            incremental_state: of fairseq's step-by-step decoding.
            attn_mask: ``(T, S + T)``, added to scores; None if all positions may be attended to.
            padding_mask: of x, ``(B, T)``, True at pads, or None without pads.

        Returns:
            output of the shape of x; of a source also its keys and values ``(B, H, S, C/H)``.
        """
        state = {} if incremental_state is None else incremental_state
        if prefix_keys is not None:
            self.self_attn._set_input_buffer(
                state,
                {
                    "prev_key": prefix_keys,
                    "prev_value": prefix_values,
                    "prev_key_padding_mask": prefix_padding_mask,
                },
            )
        x, _, _ = super().forward(  # type: ignore[misc]
            x,
            incremental_state=state,
            self_attn_mask=attn_mask,
            self_attn_padding_mask=padding_mask,
        )
        if prefix_keys is not None or incremental_state is not None:
            return x, None, None
        cached = self.self_attn._get_input_buffer(state)
        return x, cached["prev_key"], cached["prev_value"]

    def holds_prefix(self, incremental_state: IncrementalState) -> bool:
        """Whether a step of decoding has put the prefix into ``incremental_state``."""
        return bool(self.self_attn._get_input_buffer(incremental_state))

    def keys_and_values(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        """All that the stack's last layer has to compute for a source.

        Args:
            x: input of the layer, ``(S, B, C)``.

        Returns:
            what :meth:`forward` gives as keys and values, ``(B, H, S, C/H)``.
        """
        if self.normalize_before:
            x = self.self_attn_layer_norm(x)
        attention = self.self_attn

        def heads(projected: Tensor) -> Tensor:
            parts = projected.unflatten(-1, (attention.num_heads, attention.head_dim))
            return parts.permute(1, 2, 0, 3)

        return heads(attention.k_proj(x)), heads(attention.v_proj(x))


class PrefixLayer(PrefixMixin, DecoderLayer):
    """Self-attention, then FFN, in series."""


class ChunkedPrefixLayer(PrefixMixin, ChunkedDecoderLayer):
    """The same, whose FFN takes little memory in training."""


class PrefixLayerWithoutFeedForward(PrefixMixin, DecoderLayerWithoutFeedForward):
    """Self-attention alone."""


class ParallelPrefixLayer(PrefixMixin, ParallelDecoderLayer):
    """Self-attention and FFN side by side."""
