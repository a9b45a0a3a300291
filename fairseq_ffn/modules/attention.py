"""Attention shared by several layers (One Wide FFN, appendix B, Table 8).

What a group shares are the four projections, not fairseq's ``MultiheadAttention`` object: that
object is also the key under which a layer's keys and values are cached while decoding, so layers
that shared it would overwrite each other's cache. Each layer keeps an object of its own, which
holds no parameters but the group's.
"""

from __future__ import annotations

from typing import Callable

import torch
from fairseq.modules import MultiheadAttention

from fairseq_ffn.modules.layer_plan import ModulePool

PROJECTIONS = ("k_proj", "v_proj", "q_proj", "out_proj")


def build_attention(
    build: Callable[[], MultiheadAttention],
    kind: str,
    group: str,
    pool: ModulePool,
    comes_later: bool = False,
) -> MultiheadAttention:
    """A layer's attention with the projections of its group, which are built once.

    Args:
        build: fairseq's way to build it.
        kind: ``self_attn`` or ``encoder_attn``.
        group: name of the group in the layout.
        pool: modules of the stack so far; the group's first layer founds it.
        comes_later: the projections are the other stack's, and the model hands them over.
    """
    key = (kind, group)
    if not comes_later and key not in pool:
        return pool.get(key, build)
    # what it would hold is replaced: no memory, no random numbers are spent on it
    with torch.device("meta"):
        attention = build()
    if not comes_later:
        use_projections_of(attention, pool.get(key, build))
    return attention


def use_projections_of(attention: MultiheadAttention, owner: MultiheadAttention) -> None:
    """Make ``attention`` use the projections of ``owner``, which may be of the other stack."""
    for name in PROJECTIONS:
        setattr(attention, name, getattr(owner, name))
