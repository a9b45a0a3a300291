"""Geometry of the stream in every layer: isotropy at every point, branch norms, parallel defect.

Answers PAF's two assumptions with numbers: does isotropy rise over the FFN, and is what attention
adds small?
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from torch import Tensor, nn

from fairseq_ffn.analysis import branch_norms, isotropy
from fairseq_ffn.analysis.layer_steps import CROSS, FFN, SELF, STACKS, LayerAddress, layers_of
from fairseq_ffn.analysis.recorder import (
    LayerRecord,
    Recorder,
    around_ffn,
    feed_forward,
    normalise,
    points_of,
)
from fairseq_ffn.analysis.text import Batch, force_decode

#: a median ratio below this counts as small (our threshold)
SMALL = 0.5
#: bytes of states kept at a time; more layers than fit mean more forward passes
MEMORY = 512 * 2**20


@dataclass
class LayerStates:
    """What is kept of one layer.

    Args:
        points: name -> rows of all tokens, one array a batch, ``(tokens, C)`` each.
        formulas: name -> formula, in the order of the layer.
        sentences: number of the sentence of each row, one array a batch.
        ratios: branch -> values of ``branch_norms.length_ratio``.
        cosines: branch -> values of ``branch_norms.cosine``.
        defects: values of ``branch_norms.defect``.
        around: names of the points without and with the FFN's vector.
    """

    points: Dict[str, List[np.ndarray]] = field(default_factory=dict)
    formulas: Dict[str, str] = field(default_factory=dict)
    sentences: List[np.ndarray] = field(default_factory=list)
    ratios: Dict[str, List[np.ndarray]] = field(default_factory=dict)
    cosines: Dict[str, List[np.ndarray]] = field(default_factory=dict)
    defects: List[np.ndarray] = field(default_factory=list)
    around: Optional[Tuple[str, str]] = None

    def add(self, record: LayerRecord, batch: Batch) -> None:
        """Take over one batch."""
        valid = batch.valid(record.address.stack).t()

        def rows(value: Tensor) -> np.ndarray:
            # (T, B, ...) -> rows sentence by sentence
            return value.transpose(0, 1)[valid].float().cpu().numpy()

        for point in points_of(record):
            self.points.setdefault(point.name, []).append(rows(point.value))
            self.formulas[point.name] = point.formula
        numbers = np.repeat(np.asarray(batch.sentences), valid.sum(dim=1).cpu().numpy())
        self.sentences.append(numbers)
        for step in record.steps:
            for kind, branch in step.branches.items():
                ratio = branch_norms.length_ratio(branch, step.x)
                self.ratios.setdefault(kind, []).append(rows(ratio))
                self.cosines.setdefault(kind, []).append(rows(branch_norms.cosine(branch, step.x)))
        defect = ffn_defect(record)
        if defect is not None:
            self.defects.append(rows(defect))
        self.around = around_ffn(record)

    def measure(self, seed: int, pairs: int) -> Dict[str, Any]:
        """The record of the layer."""
        sentences = np.concatenate(self.sentences)
        chosen = isotropy.random_pairs(sentences, pairs, seed)
        points = []
        for name, parts in self.points.items():
            states = np.concatenate(parts)
            points.append(
                {
                    "point": name,
                    "formula": self.formulas[name],
                    **measure_states(states, sentences, chosen),
                }
            )
        cosines = {point["point"]: point["within_cosine"]["all"] for point in points}
        around = None
        if self.around is not None:
            without, with_ffn = self.around
            around = {
                "without": without,
                "with": with_ffn,
                "within_cosine_change": cosines[with_ffn] - cosines[without],
            }
        return {
            "points": points,
            "around_ffn": around,
            "branches": {
                kind: {
                    "ratio": branch_norms.summary(np.concatenate(self.ratios[kind])),
                    "cosine_with_stream": float(np.nanmean(np.concatenate(self.cosines[kind]))),
                }
                for kind in self.ratios
            },
            "parallel_defect": branch_norms.summary(np.concatenate(self.defects))
            if self.defects
            else None,
        }


def measure_states(
    states: np.ndarray, sentences: np.ndarray, pairs: Tuple[np.ndarray, np.ndarray]
) -> Dict[str, Any]:
    """All isotropy measures of one point.

    Args:
        states: ``(tokens, C)``.
        sentences: number of each token's sentence, ``(tokens,)``.
        pairs: of :func:`isotropy.random_pairs`.
    """
    dominant, share = isotropy.dominant_dimensions(states, pairs)
    rest = np.delete(states, dominant, axis=1)
    return {
        "within_cosine": {
            "all": mean_within(states, sentences),
            "without_dominant": mean_within(rest, sentences),
        },
        "across_cosine": {
            "all": isotropy.across_cosine(states, pairs),
            "without_dominant": isotropy.across_cosine(rest, pairs),
        },
        "dominant_dimensions": dominant.tolist(),
        "dominant_share_of_cosine": share,
        "partition_isotropy": isotropy.partition_isotropy(states),
        "iso_score": isotropy.iso_score(states),
    }


def mean_within(states: np.ndarray, sentences: np.ndarray) -> float:
    """Mean of ``isotropy.within_cosine`` over the sentences of two tokens or more."""
    bounds = np.flatnonzero(np.diff(sentences)) + 1
    values = [isotropy.within_cosine(part) for part in np.split(states, bounds)]
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def ffn_defect(record: LayerRecord) -> Optional[Tensor]:
    """Of every token ``(T, B)``, or None for a layer without FFN or without attention before it.

    Series layer: its FFN as it is, against the FFN of the layer's input x (through the FFN's own
    norm if pre-norm), as the parallel layer would have it. Parallel step: the FFN of the stream
    with the attention branches' sum added (through the layer's norm, as a series layer would have
    it), against its FFN as it is.
    """
    for number, step in enumerate(record.steps):
        kinds = step.step.kinds
        if FFN not in kinds:
            continue
        norm = next(branch.norm for branch in step.step.branches if branch.kind == FFN)
        actual = step.branches[FFN] / step.step.scale
        if len(kinds) == 1:
            if number == 0:
                return None
            x = record.steps[0].x
            other = feed_forward(record.layer, x if norm is None else normalise(norm, x))
            return branch_norms.defect(series=actual, parallel=other)
        added = step.total - step.branches[FFN]
        inside = norm if norm is not None else step.step.norm
        other = feed_forward(record.layer, normalise(inside, added))
        return branch_norms.defect(series=other, parallel=actual)
    return None


def measure_model(
    model: nn.Module,
    batches: Sequence[Batch],
    seed: int = 1,
    pairs: int = 1000,
    memory: int = MEMORY,
    progress: Callable[[str], None] = lambda line: None,
) -> Dict[str, Any]:
    """The geometry of one model: record of every layer of both stacks, and the answers.

    The states of all tokens are needed at once for the spectra; they are kept for as many layers
    as fit into ``memory`` bytes, and the sentences run once for each such group of layers.
    """
    layers: Dict[str, List[Dict[str, Any]]] = {stack: [] for stack in STACKS}
    for group in _groups(model, batches, memory):
        states = {address: LayerStates() for address in group}
        for batch in batches:

            def receive(record: LayerRecord, states=states, batch: Batch = batch) -> None:
                if record.address in states:
                    states[record.address].add(record, batch)

            with Recorder(model, receive):
                force_decode(model, batch)
        for address in group:
            progress(str(address))
            layers[address.stack].append(states.pop(address).measure(seed, pairs))
    tokens = {stack: int(sum(batch.valid(stack).sum() for batch in batches)) for stack in STACKS}
    return {
        "layers": layers,
        "tokens": tokens,
        "answers": {stack: answers(layers[stack]) for stack in STACKS},
    }


def _groups(
    model: nn.Module, batches: Sequence[Batch], memory: int
) -> Iterator[Sequence[LayerAddress]]:
    addresses = list(layers_of(model))
    tokens = max(sum(int(batch.valid(stack).sum()) for batch in batches) for stack in STACKS)
    width = max(module.out_proj.out_features for module in _attentions(model))
    most_points = 8  # of a parallel decoder layer
    number = max(1, memory // (tokens * width * 4 * most_points))
    for start in range(0, len(addresses), number):
        yield addresses[start : start + number]


def _attentions(model: nn.Module) -> List[Any]:
    return [layer.self_attn for layer in layers_of(model).values()]


def answers(layers: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    """PAF's two assumptions for one stack, as numbers and words. Both criteria are ours.

    A1 holds if the cosine within sentences falls when the FFN's vector is added, in every layer
    that has an FFN. A2 holds if the median of ``|a|/|x|`` of self-attention is below 0.5 in every
    layer.
    """
    changes = [
        layer["around_ffn"]["within_cosine_change"]
        for layer in layers
        if layer["around_ffn"] is not None
    ]
    changes = [change for change in changes if not math.isnan(change)]
    falls = sum(change < 0 for change in changes)
    if not changes:
        isotropy_rises = {"verdict": "no FFN", "words": "no layer of this stack has an FFN."}
    else:
        mean = float(np.mean(changes))
        isotropy_rises = {
            "verdict": _verdict(falls, len(changes)),
            "layers": len(changes),
            "layers_where_cosine_falls": falls,
            "mean_change": mean,
            "words": f"the cosine within sentences falls over the FFN, so isotropy rises, in "
            f"{falls} of {len(changes)} layers with an FFN (mean change {mean:+.3f}).",
        }
    medians = {
        kind: [
            layer["branches"][kind]["ratio"]["median"]
            for layer in layers
            if kind in layer["branches"]
        ]
        for kind in (SELF, CROSS, FFN)
    }
    small = sum(value < SMALL for value in medians[SELF])
    listed = ", ".join(
        f"{kind} {min(values):.2f} to {max(values):.2f}"
        for kind, values in medians.items()
        if values
    )
    return {
        "isotropy_rises_over_ffn": isotropy_rises,
        "attention_residual_is_small": {
            "verdict": _verdict(small, len(medians[SELF])),
            "layers": len(medians[SELF]),
            "layers_below_half": small,
            "median_ratios": {kind: values for kind, values in medians.items() if values},
            "words": f"self-attention adds less than half the stream's length in {small} of "
            f"{len(medians[SELF])} layers (medians of |branch| / |stream| by layer: {listed}).",
        },
    }


def _verdict(holds: int, layers: int) -> str:
    return "yes" if holds == layers else "no" if holds == 0 else "in some layers"
