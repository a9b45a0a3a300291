"""Encoder layers: series (fairseq's own), series without FFN, and parallel."""

from __future__ import annotations

from functools import partial
from typing import Optional

import torch
from fairseq.models.transformer import TransformerConfig
from fairseq.modules import MultiheadAttention
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor

from fairseq_ffn.modules.attention import build_attention
from fairseq_ffn.modules.feed_forward import FeedForwardMixin
from fairseq_ffn.modules.layer_plan import LayerPlan, ModulePool


def build_encoder_layer(cfg: TransformerConfig, plan: LayerPlan, pool: ModulePool) -> EncoderLayer:
    """The encoder layer that ``plan`` asks for."""
    if plan.block == "parallel":
        return ParallelEncoderLayer(cfg, plan, pool)
    if plan.ffn is None:
        return EncoderLayerWithoutFeedForward(cfg, plan, pool)
    if plan.ffn_chunk:
        return ChunkedEncoderLayer(cfg, plan, pool)
    return EncoderLayer(cfg, plan, pool)


class EncoderLayer(FeedForwardMixin, TransformerEncoderLayerBase):
    r"""Self-attention, then FFN: the forward pass is fairseq's, untouched.

    ::

        post-norm                              pre-norm
        x --+--> SA --> + --> LN1 --> h        x --+--> LN1 --> SA --> + --> h
            \-----------^                          \-------------------^
        h --+--> FFN -> + --> LN2 --> y        h --+--> LN2 --> FFN -> + --> y
            \-----------^                          \-------------------^

    Post-norm: ``h = LN1(x + SA(x)); y = LN2(h + FFN(h))``.
    Pre-norm: ``h = x + SA(LN1(x)); y = h + FFN(LN2(h))``.
    LN1 is ``self_attn_layer_norm``, LN2 is ``final_layer_norm``.

    Args:
        cfg: fairseq's Transformer configuration.
        plan: which group's modules this layer uses.
        pool: modules of this stack so far.
    """

    def __init__(self, cfg: TransformerConfig, plan: LayerPlan, pool: ModulePool):
        self.plan = plan
        self._pool = pool
        super().__init__(cfg)
        self._settle_ffn_norm()
        self._name_dropouts()
        del self._pool

    def build_self_attention(self, embed_dim: int, cfg: TransformerConfig) -> MultiheadAttention:
        build = partial(super().build_self_attention, embed_dim, cfg)
        return build_attention(build, "self_attn", self.plan.self_attn, self._pool)

    def _name_dropouts(self) -> None:
        # --retain-dropout-modules selects by the name of fairseq's class
        for dropout in (self.dropout_module, self.activation_dropout_module):
            dropout.module_name = TransformerEncoderLayerBase.__name__

    def self_attention(
        self, x: Tensor, padding_mask: Optional[Tensor], attn_mask: Optional[Tensor]
    ) -> Tensor:
        """Self-attention branch with dropout, before residual and norm. ``(S, B, C)``."""
        if attn_mask is not None:
            # as in fairseq: a large negative number, since -inf can give NaN in padded rows
            attn_mask = attn_mask.masked_fill(
                attn_mask.to(torch.bool), -1e8 if x.dtype == torch.float32 else -1e4
            )
        x, _ = self.self_attn(
            query=x,
            key=x,
            value=x,
            key_padding_mask=padding_mask,
            need_weights=False,
            attn_mask=attn_mask,
        )
        return self.dropout_module(x)


class EncoderLayerWithoutFeedForward(EncoderLayer):
    r"""Self-attention alone: an absent FFN takes its residual and its layer norm with it.

    ::

        post-norm                              pre-norm
        x --+--> SA --> + --> LN1 --> y        x --+--> LN1 --> SA --> + --> y
            \-----------^                          \-------------------^

    Post-norm: ``y = LN1(x + SA(x))``. Pre-norm: ``y = x + SA(LN1(x))``.
    (One Wide FFN, section 2 and note 2: NoEnc.)
    """

    def forward(
        self,
        x: Tensor,
        encoder_padding_mask: Optional[Tensor],
        attn_mask: Optional[Tensor] = None,
    ) -> Tensor:
        """``(S, B, C) -> (S, B, C)``; ``encoder_padding_mask (B, S)`` is True at pads."""
        residual = x
        if self.normalize_before:
            x = self.self_attn_layer_norm(x)
        x = self.residual_connection(
            self.self_attention(x, encoder_padding_mask, attn_mask), residual
        )
        return x if self.normalize_before else self.self_attn_layer_norm(x)


class ChunkedEncoderLayer(EncoderLayerWithoutFeedForward):
    """The series layer whose FFN training takes a chunk of hidden units at a time.

    Formulas, parameters and, in evaluation, all arithmetic are those of :class:`EncoderLayer`.
    """

    def forward(
        self,
        x: Tensor,
        encoder_padding_mask: Optional[Tensor],
        attn_mask: Optional[Tensor] = None,
    ) -> Tensor:
        """``(S, B, C) -> (S, B, C)``; ``encoder_padding_mask (B, S)`` is True at pads."""
        return self.feed_forward_sub_block(super().forward(x, encoder_padding_mask, attn_mask))


class ParallelEncoderLayer(EncoderLayer):
    r"""Self-attention and FFN side by side, both reading the layer's input.

    ::

        post-norm (PAF)                        pre-norm
            /--> SA ---\                                /--> SA ---\
        x --+--> FFN --> + --> LN --> y        x --LN---+--> FFN --> + --> y
            \-----------^                       \-------------------^

    Post-norm: ``y = LN(x + s (SA(x) + FFN(x)))`` (PAF, Sonkar & Baraniuk; "Prime-simple" of
    MUSE). One norm per layer. In the *first* layer x is the raw embedding sum, which nothing has
    normalised: train with ``--layernorm-embedding``, as the parallel architectures do.

    Pre-norm, ``--parallel-norm shared``: ``u = LN(x); y = x + s (SA(u) + FFN(u))`` (GPT-J, PaLM).
    Pre-norm, ``--parallel-norm own``: ``y = x + s (SA(LN1(x)) + FFN(LN3(x)))`` (GPT-NeoX).

    ``s = 1``, or ``k^-1/2`` for k branches with ``--parallel-scale sqrt``. Without FFN (k = 1):
    the same formulas without the term, so it equals the series layer without FFN.
    LN and LN1 are ``self_attn_layer_norm``, LN3 is ``final_layer_norm``.
    """

    def __init__(self, cfg: TransformerConfig, plan: LayerPlan, pool: ModulePool):
        super().__init__(cfg, plan, pool)
        if not (self.normalize_before and plan.parallel_norm == "own"):
            self.final_layer_norm = None
        branches = 1 if plan.ffn is None else 2
        self.branch_scale = branches**-0.5 if plan.parallel_scale == "sqrt" else 1.0

    def forward(
        self,
        x: Tensor,
        encoder_padding_mask: Optional[Tensor],
        attn_mask: Optional[Tensor] = None,
    ) -> Tensor:
        """``(S, B, C) -> (S, B, C)``; ``encoder_padding_mask (B, S)`` is True at pads."""
        residual = x
        u = self.self_attn_layer_norm(x) if self.normalize_before else x
        branches = self.self_attention(u, encoder_padding_mask, attn_mask)
        if self.plan.ffn is not None:
            v = u if self.final_layer_norm is None else self.final_layer_norm(x)
            branches = branches + self.feed_forward(v)
        if self.branch_scale != 1.0:
            branches = branches * self.branch_scale
        x = self.residual_connection(branches, residual)
        return x if self.normalize_before else self.self_attn_layer_norm(x)
