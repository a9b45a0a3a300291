r"""What a layer computes while translating, with fused and packed products.

A layer is a row of *sub-blocks*, each ``x + s * (sum of branches)`` with a norm before or after, as
in ``modules/``. Branches that read the same input share one product in front (q, k, v; in a
parallel block also the cross-attention's q and the FFN's first matrix) and one behind (W_O; in a
parallel block ``[W_O, W_O', W_2]``):

::

    x --+--> norm --> read --+--> self-attention ----+--> write --> + --> y       (pre-norm)
        |                    +--> cross-attention ---+              ^
        |                    +--> activation --------+              |
        \-----------------------------------------------------------/

Weights that other layers share stay apart, so that they are packed once. x is always float32;
branches compute in the type of the products. Dropout is left out: it does nothing when translating.
"""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Sequence, Tuple

import torch
from fairseq import utils
from torch import Tensor, nn

from fairseq_ffn.decoding import products
from fairseq_ffn.decoding.beam_cache import BeamCache
from fairseq_ffn.decoding.products import ProductPool

_attend = torch.nn.functional.scaled_dot_product_attention


class Pass:
    """What the branches need to know of the batch, besides their input.

    Args:
        sentences: B.
        mask: ``(B, 1, 1, S)``, added to the scores of attention to the source, or None.
        cache: of self-attention, when decoding.
        memory: keys and values of the source, ``(B, H, S, D)`` each, by layer, when decoding.
    """

    def __init__(
        self,
        sentences: int,
        mask: Optional[Tensor],
        cache: Optional[BeamCache] = None,
        memory: Sequence[Tuple[Tensor, Tensor]] = (),
    ):
        self.sentences, self.mask, self.cache, self.memory = sentences, mask, cache, list(memory)


class Attention:
    """What lies between the products of an attention, and which linears these are.

    Args:
        attention: fairseq's module; H ``heads`` of size D, ``width``.
        layer: number of its layer, for what is kept by layer.
    """

    def __init__(self, attention: nn.Module, layer: int):
        self.layer, self.heads, self.width = layer, attention.num_heads, attention.head_dim
        self.reads = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.write = attention.out_proj


class EncoderAttention(Attention):
    """Self-attention over a whole source: ``(B x S, 3C) -> (B x S, C)``."""

    def __call__(self, h: Tensor, now: Pass) -> Tensor:
        q, k, v = h.view(now.sentences, -1, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
        return _attend(q, k, v, now.mask).transpose(1, 2).reshape(len(h), -1)


class DecoderSelfAttention(Attention):
    """Self-attention of one new position per beam: ``(B x K, 3C) -> (B x K, C)``."""

    def __call__(self, h: Tensor, now: Pass) -> Tensor:
        cache = now.cache
        parts = h.view(now.sentences, cache.beams, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
        cache.places[self.layer].copy_(parts[1:])
        y = _attend(parts[0], cache.keys[self.layer], cache.values[self.layer], cache.mask)
        return y.transpose(1, 2).reshape(len(h), -1)


class DecoderCrossAttention(Attention):
    """Attention to the source, whose keys and values are there: ``(B x K, C) -> (B x K, C)``."""

    def __init__(self, attention: nn.Module, layer: int, pool: ProductPool):
        super().__init__(attention, layer)
        self.reads = [attention.q_proj]
        self.keys_and_values = pool.rows_of([attention.k_proj, attention.v_proj])

    def __call__(self, h: Tensor, now: Pass) -> Tensor:
        q = h.view(now.sentences, -1, self.heads, self.width).transpose(1, 2)
        keys, values = now.memory[self.layer]
        return _attend(q, keys, values, now.mask).transpose(1, 2).reshape(len(h), -1)

    def remember(self, source: Tensor) -> Tuple[Tensor, Tensor]:
        """Keys and values ``(B, H, S, D)`` of the encoder's output ``(B, S, C)``."""
        sentences, length, _ = source.shape
        both = self.keys_and_values(source.reshape(sentences * length, -1))
        both = both.view(sentences, length, 2, self.heads, self.width).permute(2, 0, 3, 1, 4)
        keys, values = both.contiguous()
        return keys, values


class FeedForward:
    """What the FFN does between its matrices: ``(rows, d_ff) -> (rows, d_ff)``."""

    def __init__(self, layer: nn.Module):
        self.activation = layer.activation_fn
        self.is_relu = self.activation is utils.get_activation_fn("relu")
        self.reads = [layer.fc1]
        self.write = layer.fc2

    def __call__(self, h: Tensor, now: Pass) -> Tensor:
        return self.activation(h)


class Strand:
    """Branches with one product in front and one behind.

    Args:
        branches: read the same input.
        norm: the strand's own, read instead of the sub-block's, or None.
        pool: of products.
    """

    def __init__(self, branches: Sequence[Any], norm: Optional[nn.Module], pool: ProductPool):
        self.branches, self.norm = list(branches), plain_norm(norm)
        reads = [linear for branch in branches for linear in branch.reads]
        # an FFN alone has its ReLU in the product
        fused = len(branches) == 1 and getattr(branches[0], "is_relu", False)
        self.only = branches[0] if len(branches) == 1 and not fused else None
        self.sizes = [sum(len(one.weight) for one in branch.reads) for branch in branches]
        self.read = pool.rows_of(reads, relu=fused)
        if fused and branches[0].write.weight.numel() >= products.WIDE:
            self.write = pool.active_columns_of(branches[0].write)
        else:
            self.write = pool.columns_of([branch.write for branch in branches])

    def __call__(self, u: Tensor, now: Pass) -> Tensor:
        h = self.read(u)
        if self.only is not None:
            h = self.only(h, now)
        elif len(self.branches) > 1:
            parts = h.split(self.sizes, dim=-1)
            h = torch.cat([one(part, now) for one, part in zip(self.branches, parts)], dim=-1)
        return self.write(h)


class SubBlock:
    """``x + s * sum of strands`` with its norm; ``(rows, C) -> (rows, C)``.

    Args:
        strands: one, or several that can't share products.
        norm: before (pre-norm) or after (post-norm); None if all strands have their own.
        pre_norm: which.
        scale: s.
        dtype: of the products.
    """

    def __init__(
        self,
        strands: Sequence[Strand],
        norm: Optional[nn.Module],
        pre_norm: bool,
        scale: float,
        dtype: torch.dtype,
    ):
        self.strands, self.scale, self.dtype = list(strands), scale, dtype
        self.before = plain_norm(norm) if pre_norm else None
        self.after = None if pre_norm else plain_norm(norm)

    def __call__(self, x: Tensor, now: Pass) -> Tensor:
        u = x if self.before is None else self.before(x)
        total: Optional[Tensor] = None
        for strand in self.strands:
            own = u if strand.norm is None else strand.norm(x)
            y = strand(own.to(self.dtype), now)
            total = y if total is None else total.add_(y)
        y = torch.add(x, total, alpha=self.scale)
        return y if self.after is None else self.after(y)


def plain_norm(norm: Optional[nn.Module]) -> Optional[Callable[[Tensor], Tensor]]:
    """Without the detour over ``nn.Module``."""
    if norm is None:
        return None
    shape, weight, bias, eps = norm.normalized_shape, norm.weight, norm.bias, norm.eps
    return lambda x: torch.layer_norm(x, shape, weight, bias, eps)


def encoder_sub_blocks(layer: nn.Module, pool: ProductPool, dtype: torch.dtype) -> List[SubBlock]:
    """An encoder layer of ``modules/`` as sub-blocks."""
    attention = EncoderAttention(layer.self_attn, layer.plan.index)
    return _sub_blocks(layer, [(attention, layer.self_attn_layer_norm)], pool, dtype)


def decoder_sub_blocks(
    layer: nn.Module, index: int, pool: ProductPool, dtype: torch.dtype
) -> List[SubBlock]:
    """A decoder layer of ``modules/`` as sub-blocks."""
    attentions = [
        (DecoderSelfAttention(layer.self_attn, index), layer.self_attn_layer_norm),
        (DecoderCrossAttention(layer.encoder_attn, index, pool), layer.encoder_attn_layer_norm),
    ]
    return _sub_blocks(layer, attentions, pool, dtype)


def _sub_blocks(
    layer: nn.Module,
    branches: List[Tuple[Any, Optional[nn.Module]]],
    pool: ProductPool,
    dtype: torch.dtype,
) -> List[SubBlock]:
    """Branches with the norms that the layer has for them, put together as its block says."""
    if layer.plan.ffn is not None:
        branches = [*branches, (FeedForward(layer), layer.final_layer_norm)]
    if layer.plan.block == "parallel":
        groups = [branches]
    elif layer.plan.block == "parallel-cross-ffn":
        groups = [branches[:1], branches[1:]]
    else:
        groups = [[branch] for branch in branches]
    return [_sub_block(layer, group, pool, dtype) for group in groups if group]


def _sub_block(
    layer: nn.Module,
    group: List[Tuple[Any, Optional[nn.Module]]],
    pool: ProductPool,
    dtype: torch.dtype,
) -> SubBlock:
    norm = group[0][1]
    scale = len(group) ** -0.5 if layer.plan.parallel_scale == "sqrt" else 1.0
    own_norms = any(own is not None for _, own in group[1:])
    # each strand is packed by itself if its weights serve other layers in other company
    apart = len(group) > 1 and (own_norms or any(_is_shared(branch, pool) for branch, _ in group))
    if apart:
        strands = [
            Strand([branch], own if number else None, pool)
            for number, (branch, own) in enumerate(group)
        ]
    else:
        strands = [Strand([branch for branch, _ in group], None, pool)]
    return SubBlock(strands, norm, layer.normalize_before, scale, dtype)


def _is_shared(branch: Any, pool: ProductPool) -> bool:
    return any(pool.is_shared(linear) for linear in [*branch.reads, branch.write])
