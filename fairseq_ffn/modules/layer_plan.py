"""What one layer is told at birth: which group's modules it uses, and how its block flows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, Hashable, Optional, TypeVar

Module = TypeVar("Module")


@dataclass(frozen=True)
class LayerPlan:
    """One layer of a stack.

    Args:
        index: position in the stack, from 0.
        ffn: group whose FFN the layer uses, or None for a layer without FFN.
        self_attn: group whose self-attention projections it uses.
        cross_attn: group whose cross-attention projections it uses; None in an encoder.
        block: ``series``, ``parallel`` or (decoder) ``parallel-cross-ffn``.
        parallel_norm: pre-norm parallel block: one ``shared`` norm, or an ``own`` one per branch.
        parallel_scale: ``sqrt`` multiplies the sum of k parallel branches by k^-1/2.
        share_ffn_norm: the group shares the FFN's layer norm too, not only its two linears.
        ffn_is_shared: the FFN serves other layers too.
        ffn_comes_later: the FFN belongs to both stacks and is handed over by the model.
        ffn_chunk: hidden units that training computes at a time; 0: all, as fairseq does.
        self_attn_comes_later: so do the self-attention projections.
    """

    index: int
    ffn: Optional[str]
    self_attn: str
    cross_attn: Optional[str] = None
    block: str = "series"
    parallel_norm: str = "shared"
    parallel_scale: str = "none"
    share_ffn_norm: bool = False
    ffn_is_shared: bool = False
    ffn_comes_later: bool = False
    ffn_chunk: int = 0
    self_attn_comes_later: bool = False


class ModulePool:
    """Modules of one stack by group: the first layer of a group builds, the others are given it.

    It lives only while the stack is built, and is no ``nn.Module``: each module is registered in
    the layers that use it, under fairseq's own names.
    """

    def __init__(self) -> None:
        self._modules: Dict[Hashable, object] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._modules

    def get(self, key: Hashable, build: Callable[[], Module]) -> Module:
        """The module of ``key``, built on first use."""
        if key not in self._modules:
            self._modules[key] = build()
        return self._modules[key]  # type: ignore[return-value]
