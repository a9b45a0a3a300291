"""A model with laid-out sub-blocks as a plain Transformer, which every engine knows.

Shared modules are written out for every layer; they stay one tensor in memory, so that a format can
store them once. Layers without FFN get one that gives 0 (``models/absent_ffn``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict

from fairseq.models.transformer import TransformerModel
from torch import Tensor

from fairseq_ffn.layouts import ModelLayouts
from fairseq_ffn.models import flags
from fairseq_ffn.models.absent_ffn import insert_ffn, silent_ffn
from fairseq_ffn.models.shared_state import SharedState

#: Width of an FFN that stands for an absent one. CTranslate2 takes 1 on a CPU; on NVIDIA's GPUs
#: multiplication of 8-bit integers wants sizes that 4 divides, that of 16-bit floats is fast for
#: multiples of 8. It is stored once.
SMALLEST_WIDTH = 8


@dataclass(frozen=True)
class PlainTransformer:
    """Args:
    state: what ``state_dict()`` of fairseq's ``transformer`` would be.
    widths: d_ff by stack, as its flags would say; an FFN that stands for none may be narrower.
    """

    state: Dict[str, Tensor]
    widths: Dict[str, int]


def plain_transformer(model: TransformerModel, one_width: bool) -> PlainTransformer:
    """Write a series model out.

    Args:
        model: of this plugin, or fairseq's own.
        one_width: all FFNs of a stack must have the width that its flag says, as in stock fairseq.
    """
    args = model.args
    layouts = layouts_of(model)
    state = dict(model.state_dict())
    SharedState(layouts, share_ffn_norm=args.share_ffn_norm).expand(state)
    widths = {}
    for stack in ("encoder", "decoder"):
        layout = getattr(layouts, f"{stack}_ffn")
        widths[stack] = getattr(args, f"{stack}_ffn_embed_dim") if layout.groups else SMALLEST_WIDTH
        width = widths[stack] if one_width else SMALLEST_WIDTH
        silent = silent_ffn(getattr(args, f"{stack}_embed_dim"), width)
        for layer in layout.absent:
            pre_norm = getattr(args, f"{stack}_normalize_before")
            insert_ffn(state, f"{stack}.layers.{layer}.", silent, pre_norm)
    return PlainTransformer(state, widths)


def layouts_of(model: TransformerModel) -> ModelLayouts:
    """The layouts of a model; fairseq's own has each module once per layer."""
    flags.set_defaults(model.args)
    return flags.layouts_of(model.args)
