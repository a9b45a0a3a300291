"""Decoder layers: series (fairseq's own), series without FFN, parallel, and half parallel."""

from __future__ import annotations

from functools import partial
from typing import Dict, List, Optional, Tuple

from fairseq.models.transformer import TransformerConfig
from fairseq.modules import MultiheadAttention
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import Tensor

from fairseq_ffn.errors import UserError
from fairseq_ffn.modules.attention import build_attention
from fairseq_ffn.modules.feed_forward import FeedForwardMixin
from fairseq_ffn.modules.layer_plan import LayerPlan, ModulePool

IncrementalState = Optional[Dict[str, Dict[str, Optional[Tensor]]]]


def build_decoder_layer(
    cfg: TransformerConfig, plan: LayerPlan, pool: ModulePool, no_encoder_attn: bool = False
) -> DecoderLayer:
    """The decoder layer that ``plan`` asks for."""
    if plan.block == "parallel":
        return ParallelDecoderLayer(cfg, plan, pool, no_encoder_attn)
    if plan.block == "parallel-cross-ffn":
        return ParallelCrossFeedForwardDecoderLayer(cfg, plan, pool, no_encoder_attn)
    if plan.ffn is None:
        return DecoderLayerWithoutFeedForward(cfg, plan, pool, no_encoder_attn)
    if plan.ffn_chunk:
        return ChunkedDecoderLayer(cfg, plan, pool, no_encoder_attn)
    return DecoderLayer(cfg, plan, pool, no_encoder_attn)


class DecoderLayer(FeedForwardMixin, TransformerDecoderLayerBase):
    r"""Self-attention, cross-attention, FFN: the forward pass is fairseq's, untouched.

    ::

        post-norm                              pre-norm
        x --+--> SA --> + --> LN1 --> h        x --+--> LN1 --> SA --> + --> h
            \-----------^                          \-------------------^
        h --+--> CA --> + --> LN2 --> g        h --+--> LN2 --> CA --> + --> g
            \-----------^                          \-------------------^
        g --+--> FFN -> + --> LN3 --> y        g --+--> LN3 --> FFN -> + --> y
            \-----------^                          \-------------------^

    Post-norm: ``h = LN1(x + SA(x)); g = LN2(h + CA(h, e)); y = LN3(g + FFN(g))``.
    Pre-norm: ``h = x + SA(LN1(x)); g = h + CA(LN2(h), e); y = g + FFN(LN3(g))``.

    e is the encoder's output. LN1 is ``self_attn_layer_norm``, LN2 is
    ``encoder_attn_layer_norm``, LN3 is ``final_layer_norm``.

    Args:
        cfg: fairseq's Transformer configuration.
        plan: which group's modules this layer uses.
        pool: modules of this stack so far.
        no_encoder_attn: leave cross-attention out (``--no-cross-attention``).
    """

    def __init__(
        self,
        cfg: TransformerConfig,
        plan: LayerPlan,
        pool: ModulePool,
        no_encoder_attn: bool = False,
    ):
        self.plan = plan
        self._pool = pool
        super().__init__(cfg, no_encoder_attn)
        self._settle_ffn_norm()
        self._name_dropouts()
        del self._pool

    def build_self_attention(
        self,
        embed_dim: int,
        cfg: TransformerConfig,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
    ) -> MultiheadAttention:
        build = partial(super().build_self_attention, embed_dim, cfg, add_bias_kv, add_zero_attn)
        later = self.plan.self_attn_comes_later
        return build_attention(build, "self_attn", self.plan.self_attn, self._pool, later)

    def build_encoder_attention(self, embed_dim: int, cfg: TransformerConfig) -> MultiheadAttention:
        build = partial(super().build_encoder_attention, embed_dim, cfg)
        return build_attention(build, "encoder_attn", self.plan.cross_attn, self._pool)

    def _name_dropouts(self) -> None:
        # --retain-dropout-modules selects by the name of fairseq's class
        for dropout in (self.dropout_module, self.activation_dropout_module):
            dropout.module_name = TransformerDecoderLayerBase.__name__


class _BranchedDecoderLayer(DecoderLayer):
    """Base of the layers whose forward pass is ours: the branches, and what they can't do."""

    def prepare_for_onnx_export_(self) -> None:
        if self.plan.ffn_chunk and self.plan.block == "series":
            raise UserError(
                f"ONNX tracing of decoder layer {self.plan.index}, whose FFN is taken in chunks, "
                "isn't offered; load the model with --ffn-chunk-width 0"
            )
        raise UserError(
            f"ONNX tracing of decoder layer {self.plan.index} (block {self.plan.block}, FFN "
            f"{self.plan.ffn}) isn't offered; only series layers with an FFN can be traced"
        )

    def self_attention(
        self,
        x: Tensor,
        incremental_state: IncrementalState,
        attn_mask: Optional[Tensor],
        padding_mask: Optional[Tensor],
    ) -> Tensor:
        """Self-attention branch with dropout, before residual and norm. ``(T, B, C)``."""
        x, _ = self.self_attn(
            query=x,
            key=x,
            value=x,
            key_padding_mask=padding_mask,
            incremental_state=incremental_state,
            need_weights=False,
            attn_mask=attn_mask,
        )
        return self.dropout_module(x)

    def cross_attention(
        self,
        x: Tensor,
        encoder_out: Tensor,
        encoder_padding_mask: Optional[Tensor],
        incremental_state: IncrementalState,
        need_attn: bool,
        need_head_weights: bool,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """Cross-attention branch with dropout ``(T, B, C)``, and weights where asked for."""
        x, attn = self.encoder_attn(
            query=x,
            key=encoder_out,
            value=encoder_out,
            key_padding_mask=encoder_padding_mask,
            incremental_state=incremental_state,
            static_kv=True,
            need_weights=need_attn or (not self.training and self.need_attn),
            need_head_weights=need_head_weights,
        )
        return self.dropout_module(x), attn

    def forward(
        self,
        x: Tensor,
        encoder_out: Optional[Tensor] = None,
        encoder_padding_mask: Optional[Tensor] = None,
        incremental_state: IncrementalState = None,
        prev_self_attn_state: Optional[List[Tensor]] = None,
        prev_attn_state: Optional[List[Tensor]] = None,
        self_attn_mask: Optional[Tensor] = None,
        self_attn_padding_mask: Optional[Tensor] = None,
        need_attn: bool = False,
        need_head_weights: bool = False,
    ) -> Tuple[Tensor, Optional[Tensor], None]:
        """One layer, arguments as fairseq's ``TransformerDecoderLayerBase.forward``.

        Args:
            x: ``(T, B, C)``; T is 1 when decoding step by step.
            encoder_out: ``(S, B, C)``.
            encoder_padding_mask: ``(B, S)``, True at pads.

        Returns:
            the output ``(T, B, C)``, cross-attention weights or None, and None.
        """
        if prev_self_attn_state is not None or prev_attn_state is not None:
            raise UserError(
                "prev_self_attn_state and prev_attn_state serve ONNX tracing, which decoder layer "
                f"{self.plan.index} doesn't offer"
            )

        def self_attention(query: Tensor) -> Tensor:
            return self.self_attention(
                query, incremental_state, self_attn_mask, self_attn_padding_mask
            )

        cross_attention = None
        if self.encoder_attn is not None and encoder_out is not None:

            def cross_attention(query: Tensor) -> Tuple[Tensor, Optional[Tensor]]:
                return self.cross_attention(
                    query,
                    encoder_out,
                    encoder_padding_mask,
                    incremental_state,
                    need_attn or need_head_weights,
                    need_head_weights,
                )

        x, attn = self.flow(x, self_attention, cross_attention)
        return x, attn, None

    def self_attention_sub_block(self, x: Tensor, self_attention) -> Tensor:
        """Self-attention with its residual and norm. ``(T, B, C) -> (T, B, C)``."""
        residual = x
        if self.normalize_before:
            x = self.self_attn_layer_norm(x)
        x = self.residual_connection(self_attention(x), residual)
        return x if self.normalize_before else self.self_attn_layer_norm(x)

    def parallel_sub_block(self, x: Tensor, norm, branches) -> Tensor:
        """``x + s * sum of branches``, with ``norm`` before (pre) or after (post).

        Args:
            x: ``(T, B, C)``.
            norm: the layer norm that the branches share.
            branches: functions of (x, normalised x), each giving ``(T, B, C)``.
        """
        u = norm(x) if self.normalize_before else x
        total = branches[0](x, u)
        for branch in branches[1:]:
            total = total + branch(x, u)
        if self.plan.parallel_scale == "sqrt" and len(branches) > 1:
            total = total * len(branches) ** -0.5
        x = self.residual_connection(total, x)
        return x if self.normalize_before else norm(x)

    def feed_forward_branch(self, x: Tensor, u: Tensor) -> Tensor:
        """FFN of the shared norm's output u, or of its own norm of the stream x."""
        return self.feed_forward(u if self.final_layer_norm is None else self.final_layer_norm(x))

    @property
    def has_own_norms(self) -> bool:
        return self.normalize_before and self.plan.parallel_norm == "own"


class DecoderLayerWithoutFeedForward(_BranchedDecoderLayer):
    r"""Self-attention, cross-attention: an absent FFN takes residual and layer norm with it.

    ::

        post-norm                              pre-norm
        x --+--> SA --> + --> LN1 --> h        x --+--> LN1 --> SA --> + --> h
            \-----------^                          \-------------------^
        h --+--> CA --> + --> LN2 --> y        h --+--> LN2 --> CA --> + --> y
            \-----------^                          \-------------------^

    Post-norm: ``h = LN1(x + SA(x)); y = LN2(h + CA(h, e))``.
    Pre-norm: ``h = x + SA(LN1(x)); y = h + CA(LN2(h), e)``.

    (One Wide FFN, section 2 and note 2: NoDec.)
    """

    def flow(self, x, self_attention, cross_attention):
        x = self.self_attention_sub_block(x, self_attention)
        if cross_attention is None:
            return x, None
        residual = x
        if self.normalize_before:
            x = self.encoder_attn_layer_norm(x)
        x, attn = cross_attention(x)
        x = self.residual_connection(x, residual)
        if not self.normalize_before:
            x = self.encoder_attn_layer_norm(x)
        return x, attn


class ChunkedDecoderLayer(DecoderLayerWithoutFeedForward):
    """The series layer whose FFN training takes a chunk of hidden units at a time.

    Formulas, parameters and, in evaluation, all arithmetic are those of :class:`DecoderLayer`.
    """

    def flow(self, x, self_attention, cross_attention):
        x, attn = super().flow(x, self_attention, cross_attention)
        return self.feed_forward_sub_block(x), attn


class ParallelDecoderLayer(_BranchedDecoderLayer):
    r"""Self-attention, cross-attention and FFN side by side, all reading the layer's input.

    ::

        post-norm (PAF, Prime-simple)          pre-norm
            /--> SA ---\                                /--> SA ---\
        x --+--> CA ---+                       x --LN---+--> CA ---+
            +--> FFN --> + --> LN --> y         \       \--> FFN --> + --> y
            \-----------^                        \------------------^

    Post-norm: ``y = LN(x + s (SA(x) + CA(x, e) + FFN(x)))`` (PAF; MUSE's "Prime-simple").
    In the first layer x is the raw embedding sum: train with ``--layernorm-embedding``.
    Pre-norm, shared norm: ``u = LN(x); y = x + s (SA(u) + CA(u, e) + FFN(u))``.
    Pre-norm, own norms: ``y = x + s (SA(LN1(x)) + CA(LN2(x), e) + FFN(LN3(x)))``.

    ``s = 1``, or ``k^-1/2`` for the k branches that are present (``--parallel-scale sqrt``;
    flaxformer). Without FFN, or without cross-attention, the term is left out of the sum.
    LN and LN1 are ``self_attn_layer_norm``, LN2 and LN3 as in the series layer.
    """

    def __init__(self, cfg, plan: LayerPlan, pool: ModulePool, no_encoder_attn: bool = False):
        super().__init__(cfg, plan, pool, no_encoder_attn)
        if not self.has_own_norms:
            self.encoder_attn_layer_norm = None
            self.final_layer_norm = None

    def flow(self, x, self_attention, cross_attention):
        attn: Optional[Tensor] = None
        branches = [lambda x, u: self_attention(u)]
        if cross_attention is not None:

            def cross_branch(x: Tensor, u: Tensor) -> Tensor:
                nonlocal attn
                own = self.encoder_attn_layer_norm
                y, attn = cross_attention(u if own is None else own(x))
                return y

            branches.append(cross_branch)
        if self.plan.ffn is not None:
            branches.append(self.feed_forward_branch)
        x = self.parallel_sub_block(x, self.self_attn_layer_norm, branches)
        return x, attn


class ParallelCrossFeedForwardDecoderLayer(_BranchedDecoderLayer):
    r"""Self-attention first; then cross-attention and FFN side by side.

    ::

        post-norm                              pre-norm
        x --+--> SA --> + --> LN1 --> h        x --+--> LN1 --> SA --> + --> h
            \-----------^                          \-------------------^
            /--> CA ---\                                /--> CA ---\
        h --+--> FFN --> + --> LN2 --> y       h --LN2--+--> FFN --> + --> y
            \-----------^                       \-------------------^

    Post-norm: ``h = LN1(x + SA(x)); y = LN2(h + s (CA(h, e) + FFN(h)))``.
    Pre-norm, shared norm: ``h = x + SA(LN1(x)); u = LN2(h); y = h + s (CA(u, e) + FFN(u))``.
    Pre-norm, own norms: ``y = h + s (CA(LN2(h), e) + FFN(LN3(h)))``.

    The partial form that the literature leaves untried (docs/parallel.md). Here the FFN reads a
    normalised input in the first layer too. ``s`` as in the parallel layer, k counting CA and FFN.
    """

    def __init__(self, cfg, plan: LayerPlan, pool: ModulePool, no_encoder_attn: bool = False):
        super().__init__(cfg, plan, pool, no_encoder_attn)
        if not self.has_own_norms:
            self.final_layer_norm = None

    def flow(self, x, self_attention, cross_attention):
        x = self.self_attention_sub_block(x, self_attention)
        attn: Optional[Tensor] = None
        branches = []
        if cross_attention is not None:

            def cross_branch(x: Tensor, u: Tensor) -> Tensor:
                nonlocal attn
                y, attn = cross_attention(u)
                return y

            branches.append(cross_branch)
        if self.plan.ffn is not None:
            branches.append(self.feed_forward_branch)
        if branches:
            x = self.parallel_sub_block(x, self.encoder_attn_layer_norm, branches)
        return x, attn
