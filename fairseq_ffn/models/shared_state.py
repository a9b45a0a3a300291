"""Sharing in checkpoints: every shared module is stored once, and is shared again after loading.

PyTorch lists a module that several layers use once per layer. In a file that costs nothing as long
as the entries are views of one storage, but fairseq copies each entry when it saves from a GPU or
from half precision, and its averaging script does so always: a One Wide model of six encoder layers
would be written six times. So the state dict of a model with shared modules names each of them
once, under the first layer that uses it (the encoder before the decoder). Loading takes this form
as well as the full one, and refuses a full one whose copies differ, since it isn't from a model
that shares them.
"""

from __future__ import annotations

from functools import partial
from typing import Dict, List, Tuple

import torch
from torch import Tensor, nn

from fairseq_ffn.errors import WeightsDiffer
from fairseq_ffn.layouts import Layout, ModelLayouts, layout_flag
from fairseq_ffn.modules.attention import PROJECTIONS

#: name of the sub-block in a layer by stack and kind of layout
SUB_BLOCKS = (
    ("encoder", "ffn", ("fc1", "fc2")),
    ("decoder", "ffn", ("fc1", "fc2")),
    ("encoder", "self_attn", tuple(f"self_attn.{name}" for name in PROJECTIONS)),
    ("decoder", "self_attn", tuple(f"self_attn.{name}" for name in PROJECTIONS)),
    ("decoder", "cross_attn", tuple(f"encoder_attn.{name}" for name in PROJECTIONS)),
)


class SharedState:
    """Which entries of a model's state dict are further names of an earlier entry.

    Args:
        layouts: the model's layouts.
        share_ffn_norm: the FFN's layer norm goes with the FFN.
    """

    def __init__(self, layouts: ModelLayouts, share_ffn_norm: bool = False):
        #: (prefix of the copy, prefix of the owner, flag that shares them)
        self.copies: List[Tuple[str, str, str]] = []
        first_user: Dict[Tuple[str, str], str] = {}
        for stack, kind, parts in SUB_BLOCKS:
            layout: Layout = getattr(layouts, f"{stack}_{kind}")
            if kind == "ffn" and share_ffn_norm:
                parts = parts + ("final_layer_norm",)
            for layer, group in enumerate(layout.modules):
                if group is None:
                    continue
                scope = kind if group.startswith("@") else f"{stack}.{kind}"
                prefix = f"{stack}.layers.{layer}."
                owner = first_user.setdefault((scope, group), prefix)
                if owner != prefix:
                    flag = f"{layout_flag(stack, kind)} '{layout}'"
                    self.copies += [(f"{prefix}{part}.", f"{owner}{part}.", flag) for part in parts]

    def attach(self, model: nn.Module) -> None:
        """Make ``model.state_dict()`` name shared modules once, and loading fill them in."""
        if self.copies:
            model.register_state_dict_post_hook(partial(_after_state_dict, self))
            model.register_load_state_dict_pre_hook(partial(_before_loading, self))

    def compact(self, state_dict: Dict[str, Tensor], prefix: str = "") -> None:
        """Drop the further names of shared modules, in place."""
        for copy, _, _ in self.copies:
            for key in [key for key in state_dict if key.startswith(prefix + copy)]:
                del state_dict[key]

    def expand(self, state_dict: Dict[str, Tensor], prefix: str = "") -> None:
        """Write shared modules out under all their names, in place.

        Raises:
            WeightsDiffer: the names are there already, with different values.
        """
        for copy, owner, flag in self.copies:
            owned = [key for key in state_dict if key.startswith(prefix + owner)]
            for key in owned:
                other = prefix + copy + key[len(prefix + owner) :]
                if other not in state_dict:
                    state_dict[other] = state_dict[key]
                elif not _equal(state_dict[other], state_dict[key]):
                    raise WeightsDiffer(f"{key} and {other} differ, but {flag} shares them")


def _after_state_dict(shared: SharedState, module, state_dict, prefix, local_metadata) -> None:
    shared.compact(state_dict, prefix)


def _before_loading(shared: SharedState, module, state_dict, prefix, *unused) -> None:
    shared.expand(state_dict, prefix)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a, b))
