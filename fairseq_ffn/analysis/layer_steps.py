"""A layer as a sequence of steps ``y = LN(x + s * sum of branches)``: one shape for all layouts.

A series layer has one step per sub-block, a parallel layer one step in all, ``parallel-cross-ffn``
two. The norm comes before the branches (pre-norm) or after the sum (post-norm). Works on the layers
of this plugin (``fairseq_ffn/modules``) and on stock fairseq's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from torch import nn

from fairseq_ffn.errors import UserError

STACKS = ("encoder", "decoder")
SELF, CROSS, FFN = "self-attention", "cross-attention", "FFN"
#: in formulas of sums
LETTERS = {SELF: "a", CROSS: "c", FFN: "f"}

#: options of fairseq's decoder layers that put something into a branch that no step has
_FOREIGN = {
    "attn_ln": "--scale-attn",
    "c_attn": "--scale-heads",
    "ffn_layernorm": "--scale-fc",
    "w_resid": "--scale-resids",
}


@dataclass(frozen=True)
class Branch:
    """One branch of a step.

    Args:
        kind: ``self-attention``, ``cross-attention`` or ``FFN``.
        norm: the layer norm that its input goes through (pre-norm), or None (post-norm).
    """

    kind: str
    norm: Optional[nn.Module] = None


@dataclass(frozen=True)
class Step:
    """One residual sum.

    Args:
        branches: what is added to the stream.
        scale: s, by which the sum of the branches is multiplied.
        norm: the layer norm of the result (post-norm), or None (pre-norm).
    """

    branches: Tuple[Branch, ...]
    scale: float = 1.0
    norm: Optional[nn.Module] = None

    @property
    def kinds(self) -> Tuple[str, ...]:
        return tuple(branch.kind for branch in self.branches)


@dataclass(frozen=True)
class LayerAddress:
    """Where a layer is.

    Args:
        stack: ``encoder`` or ``decoder``.
        index: from 0.
    """

    stack: str
    index: int

    def __str__(self) -> str:
        return f"{self.stack} layer {self.index}"


def layers_of(model: Any) -> Dict[LayerAddress, nn.Module]:
    """All layers of an encoder-decoder model, encoder first.

    Raises:
        UserError: it has no two stacks, or a layer that isn't one of a Transformer.
    """
    found: Dict[LayerAddress, nn.Module] = {}
    for stack in STACKS:
        layers = getattr(getattr(model, stack, None), "layers", None)
        if layers is None:
            raise UserError(
                f"{type(model).__name__} has no {stack} layers; analysis needs both stacks"
            )
        for index, layer in enumerate(layers):
            address = LayerAddress(stack, index)
            if not hasattr(layer, "self_attn") or not hasattr(layer, "fc1"):
                raise UserError(f"{address} is a {type(layer).__name__}, not a Transformer's layer")
            for attribute, flag in _FOREIGN.items():
                if getattr(layer, attribute, None) is not None:
                    raise UserError(f"{address}: analysis doesn't cover fairseq's {flag}")
            if getattr(layer, "cross_self_attention", False):
                raise UserError(f"{address}: analysis doesn't cover --cross-self-attention")
            found[address] = layer
    return found


def steps_of(layer: Any) -> Tuple[Step, ...]:
    """The steps of a layer, in the order in which they run."""
    plan = getattr(layer, "plan", None)
    block = "series" if plan is None else plan.block
    pre = layer.normalize_before
    kinds = [SELF]
    norms = {SELF: layer.self_attn_layer_norm, FFN: layer.final_layer_norm}
    if getattr(layer, "encoder_attn", None) is not None:
        kinds.append(CROSS)
        norms[CROSS] = layer.encoder_attn_layer_norm
    if layer.fc1 is not None:
        kinds.append(FFN)
    if block == "series":
        groups = [[kind] for kind in kinds]
    elif block == "parallel":
        groups = [kinds]
    else:
        groups = [kinds[:1], kinds[1:]]

    steps: List[Step] = []
    for group in groups:
        shared = norms[group[0]]  # serves the branches that have no norm of their own
        scale = len(group) ** -0.5 if plan is not None and plan.parallel_scale == "sqrt" else 1.0
        branches = tuple(
            Branch(kind, (norms[kind] if norms[kind] is not None else shared) if pre else None)
            for kind in group
        )
        steps.append(Step(branches, scale, None if pre else shared))
    return tuple(steps)
