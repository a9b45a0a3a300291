"""The maps of one layer at every scope, and what changes from one scope to the next.

A *scope* is how much of the layer a map takes in. Names of 2024 (Kobayashi et al.), ATB = attention
block; where our layers have no counterpart there, the cut is ours:

================  =================================================================================
``ATTN-W``        attention weights, mean over heads; in a decoder [self | cross]
``ATTN-N``        norms of the attention vectors, values and output projection included (2020)
``ATTNRES-N``     + residual, before the post-norm (2021)
``SATB``          decoder: after the self-attention sub-block (ours)
``ATB``           after all attention, residual (and post-norm) included
``ATBFF`` ...     post-norm: through the FFN; ``ATBFFRES``: + residual; ``ATBFFRESLN``: + norm
``ATBLN`` ...     pre-norm: through the FFN's norm; ``ATBLNFF``, ``ATBLNFFRES`` (ours)
``FF`` ...        parallel: ``ATB`` is x + attention without norm, ``FF`` the FFN's vector alone,
                  ``ATBFFRES`` their sum; post-norm ``ATBFFRESLN`` (ours)
================  =================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from fairseq_ffn.analysis.layer_steps import CROSS, FFN, SELF, LayerAddress
from fairseq_ffn.analysis.players import (
    CHUNK,
    Players,
    attention_split,
    feed_forward_split,
    layer_norm_split,
)
from fairseq_ffn.analysis.recorder import LayerRecord, normalise

WEIGHTS, VECTORS, ATTENTION_BLOCK = "ATTN-W", "ATTN-N", "ATB"
#: components whose change is measured, in the order in which they are reported
COMPONENTS = ("attention", "FF", "RES", "LN", "FF block")


@dataclass(frozen=True)
class Scope:
    """One map.

    Args:
        cells: ``(T, P)``: lengths of the players' vectors (weights for ``ATTN-W``).
        own: length of each position's own vector, ``(T,)``.
        targets: length of the sum of the stack's other positions' vectors.
        sources: length of the sum of the source positions' vectors; 0 in an encoder.
        others: length of the sum of both.
    """

    cells: np.ndarray
    own: np.ndarray
    targets: np.ndarray
    sources: np.ndarray
    others: np.ndarray


@dataclass(frozen=True)
class LayerMaps:
    """All maps of one layer and sentence.

    Args:
        address: where the layer is.
        scopes: name -> map, in the order of the layer.
        visible: ``(T, P)``: False in the future.
        has_ffn: the layer has an FFN.
        parallel: the FFN stands beside attention.
        error: largest difference between a sum of players and the activation computed as usual, in
            the same precision, over all scopes.
        difference_to_model: the same against what the model itself computed, relative to the
            largest activation.
    """

    address: LayerAddress
    scopes: Dict[str, Scope]
    visible: np.ndarray
    has_ffn: bool
    parallel: bool
    error: float
    difference_to_model: float

    def changes(self) -> Dict[str, Optional[Tuple[str, str]]]:
        """Component -> scopes before and after it; None where the layer doesn't have it."""
        names = list(self.scopes)
        found: Dict[str, Optional[Tuple[str, str]]] = dict.fromkeys(COMPONENTS)
        found["attention"] = (WEIGHTS, ATTENTION_BLOCK)
        if not self.has_ffn:
            return found
        found["FF block"] = (ATTENTION_BLOCK, names[-1])
        if self.parallel:
            # the FFN's vector and the residual are one sum
            found["FF"] = (ATTENTION_BLOCK, "ATBFFRES")
            if "ATBFFRESLN" in names:
                found["LN"] = ("ATBFFRES", "ATBFFRESLN")
        elif "ATBLN" in names:
            found["LN"] = (ATTENTION_BLOCK, "ATBLN")
            found["FF"] = ("ATBLN", "ATBLNFF")
            found["RES"] = ("ATBLNFF", "ATBLNFFRES")
        else:
            found["FF"] = (ATTENTION_BLOCK, "ATBFF")
            found["RES"] = ("ATBFF", "ATBFFRES")
            found["LN"] = ("ATBFFRES", "ATBFFRESLN")
        return found


@torch.no_grad()
def layer_maps(
    record: LayerRecord,
    dtype: torch.dtype = torch.float64,
    fixed_bias: bool = False,
    chunk: int = CHUNK,
) -> LayerMaps:
    """Decompose one layer.

    Args:
        record: of a batch of one sentence without pads.
        dtype: everything is computed anew in it from the layer's input, with the model's weights.
        fixed_bias: see ``feed_forward_split``.
        chunk: neurons of the FFN at a time.

    Raises:
        ValueError: the batch has more than one sentence.
    """
    if record.steps[0].x.shape[1] != 1:
        raise ValueError("maps are of one sentence at a time")
    return _Decomposition(record, dtype, fixed_bias, chunk).run()


class _Decomposition:
    """One walk through a layer; scopes are measured on the way and their vectors dropped."""

    def __init__(self, record: LayerRecord, dtype: torch.dtype, fixed_bias: bool, chunk: int):
        self.record, self.dtype = record, dtype
        self.fixed_bias, self.chunk = fixed_bias, chunk
        self.causal = record.address.stack == "decoder"
        self.total = record.steps[0].x[:, 0].to(dtype)
        self.length = len(self.total)
        self.memory = None if record.memory is None else record.memory[:, 0].to(dtype)
        sources = 0 if self.memory is None else len(self.memory)
        self.players = Players.of_input(self.total, sources)
        self.scopes: Dict[str, Scope] = {}
        #: attention sub-blocks' own vectors and weights, joined at the end
        self.alone: Dict[str, List[Scope]] = {WEIGHTS: [], VECTORS: []}
        self.error = self.difference = 0.0

    def run(self) -> LayerMaps:
        attention_steps = [
            number
            for number, step in enumerate(self.record.steps)
            if {SELF, CROSS} & set(step.step.kinds)
        ]
        has_ffn = parallel = False
        for number, step in enumerate(self.record.steps):
            kinds = step.step.kinds
            if kinds == (FFN,):
                has_ffn = True
                self._ffn_step(step)
            elif FFN in kinds:
                has_ffn = parallel = True
                self._parallel_step(step)
            else:
                self._attention_step(step, first_of_two=number != attention_steps[-1])
        joined = {name: _beside(parts) for name, parts in self.alone.items()}
        return LayerMaps(
            self.record.address,
            {**joined, **self.scopes},
            self._visible(),
            has_ffn,
            parallel,
            self.error,
            self.difference,
        )

    def _visible(self) -> np.ndarray:
        seen = np.ones(self.players.live.shape, dtype=bool)
        if self.causal:
            seen[:, : self.length] = np.tril(seen[:, : self.length])
        return seen

    def _attention_step(self, step, first_of_two: bool) -> None:
        prefix = "S" if first_of_two else ""
        self._add_attention(step)
        if step.step.norm is not None:
            self._keep(f"{prefix}ATTNRES-N", self.players, self.total, step.total)
            self._normalise(step.step.norm)
        self._keep(f"{prefix}{ATTENTION_BLOCK}", self.players, self.total, step.output)

    def _ffn_step(self, step) -> None:
        (branch,) = step.step.branches
        if branch.norm is None:
            players, output = self._feed_forward(self.players, self.total)
            name = ATTENTION_BLOCK
        else:
            inside = layer_norm_split(self.players, self.total, branch.norm)
            total = normalise(branch.norm, self.total)
            name = f"{ATTENTION_BLOCK}LN"
            self._keep(name, inside, total, step.inputs[FFN])
            players, output = self._feed_forward(inside, total)
            del inside
        name += "FF"
        self._keep(name, players, output, step.branches[FFN])
        self._add(players, output)
        name += "RES"
        self._keep(name, self.players, self.total, step.total)
        if step.step.norm is not None:
            self._normalise(step.step.norm)
            self._keep(f"{name}LN", self.players, self.total, step.output)

    def _parallel_step(self, step) -> None:
        # the FFN reads the step's input, before attention is added to it
        norm = next(branch.norm for branch in step.step.branches if branch.kind == FFN)
        inside, total = self.players, self.total
        if norm is not None:
            inside = layer_norm_split(inside, total, norm)
            total = normalise(norm, total)
        players, output = self._feed_forward(inside, total)
        scale = step.step.scale
        for part in (players.tokens, players.bias, output):
            part.mul_(scale)
        self._add_attention(step)
        recorded = step.total - step.branches[FFN]
        self._keep(ATTENTION_BLOCK, self.players, self.total, recorded)
        self._keep("FF", players, output, step.branches[FFN])
        self._add(players, output)
        self._keep("ATBFFRES", self.players, self.total, step.total)
        if step.step.norm is not None:
            self._normalise(step.step.norm)
            self._keep("ATBFFRESLN", self.players, self.total, step.output)

    def _add_attention(self, step) -> None:
        """Add the attention branches of a step; all of them read its input."""
        before = self.total.clone()
        for branch in step.step.branches:
            if branch.kind == FFN:
                continue
            module = (
                self.record.layer.self_attn
                if branch.kind == SELF
                else self.record.layer.encoder_attn
            )
            query = before if branch.norm is None else normalise(branch.norm, before)
            keys = query if branch.kind == SELF else self.memory
            weights, vectors, output = attention_split(
                module, query, keys, self.causal and branch.kind == SELF
            )
            bias = module.out_proj.bias
            bias = torch.zeros_like(output[0]) if bias is None else bias.to(self.dtype)
            self._compare(vectors.sum(dim=1) + bias, output)
            scale = step.step.scale
            self._compare_to_model(output * scale, step.branches[branch.kind])
            own = branch.kind == SELF
            mean = weights.mean(dim=0)
            self.alone[WEIGHTS].append(_scope(mean.unsqueeze(-1), self.length if own else 0))
            self.alone[VECTORS].append(_scope(vectors, self.length if own else 0))
            columns = slice(0, self.length) if own else slice(self.length, None)
            self.players.tokens[:, columns].add_(vectors, alpha=scale)
            self.players.live[:, columns] = mean > 0
            if own:
                self.players.live.fill_diagonal_(True)
            self.players.bias.add_(bias, alpha=scale)
            self.total = self.total + scale * output

    def _add(self, players: Players, output: Tensor) -> None:
        self.players.add(players)
        self.total = self.total + output

    def _feed_forward(self, players: Players, total: Tensor) -> Tuple[Players, Tensor]:
        return feed_forward_split(players, total, self.record.layer, self.fixed_bias, self.chunk)

    def _normalise(self, norm) -> None:
        self.players = layer_norm_split(self.players, self.total, norm)
        self.total = normalise(norm, self.total)

    def _keep(self, name: str, players: Players, total: Tensor, recorded: Tensor) -> None:
        self._compare(players.total, total)
        self._compare_to_model(total, recorded)
        self.scopes[name] = _scope(players.tokens, self.length)

    def _compare(self, players: Tensor, total: Tensor) -> None:
        self.error = max(self.error, float((players - total).abs().max()))

    def _compare_to_model(self, total: Tensor, recorded: Tensor) -> None:
        model = recorded[:, 0].to(self.dtype)
        distance = (total - model).abs().max() / model.abs().max().clamp(min=1)
        self.difference = max(self.difference, float(distance))


def _scope(vectors: Tensor, own: int) -> Scope:
    """Measure vectors ``(T, P, C)``, of which the first ``own`` columns are the stack's own."""
    diagonal = torch.arange(own)
    mine = vectors[diagonal, diagonal] if own else torch.zeros_like(vectors[:, 0])
    targets = vectors[:, :own].sum(dim=1) - mine
    sources = vectors[:, own:].sum(dim=1)

    def length(x: Tensor) -> np.ndarray:
        return x.norm(dim=-1).cpu().numpy()

    return Scope(
        length(vectors), length(mine), length(targets), length(sources), length(targets + sources)
    )


def _beside(parts: List[Scope]) -> Scope:
    """Self-attention's map and cross-attention's, side by side."""
    own = parts[0]
    if len(parts) == 1:
        return own
    cross = parts[1]
    others = own.targets + cross.sources  # different vectors: their lengths, not that of their sum
    return Scope(
        np.concatenate([own.cells, cross.cells], axis=1),
        own.own,
        own.targets,
        cross.sources,
        others,
    )
