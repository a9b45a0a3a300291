"""Attention shared by several layers (One Wide FFN, appendix B, Table 8).

What a group shares are the four projections, not fairseq's ``MultiheadAttention`` object: that
object is also the key under which a layer's keys and values are cached while decoding, so layers
that shared it would overwrite each other's cache. Each layer keeps an object of its own, which
holds no parameters but the group's.
"""

from __future__ import annotations

from fairseq.modules import MultiheadAttention

from fairseq_ffn.modules.layer_plan import ModulePool

PROJECTIONS = ("k_proj", "v_proj", "q_proj", "out_proj")


def share_projections(
    attention: MultiheadAttention, kind: str, group: str, pool: ModulePool
) -> MultiheadAttention:
    """Give ``attention`` the projections of its group, or found the group with its own.

    Args:
        attention: the layer's attention, just built.
        kind: ``self_attn`` or ``encoder_attn``.
        group: name of the group in the layout.
        pool: modules of the stack so far.
    """
    use_projections_of(attention, pool.get((kind, group), lambda: attention))
    return attention


def use_projections_of(attention: MultiheadAttention, owner: MultiheadAttention) -> None:
    """Make ``attention`` use the projections of ``owner``, which may be of the other stack."""
    for name in PROJECTIONS:
        setattr(attention, name, getattr(owner, name))
