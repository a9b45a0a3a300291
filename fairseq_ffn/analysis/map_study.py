"""Attention maps of a model over many sentences: measures by layer, and a few maps to look at."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import torch
from torch import nn

from fairseq_ffn.analysis import map_measures
from fairseq_ffn.analysis.layer_maps import COMPONENTS, LayerMaps, layer_maps
from fairseq_ffn.analysis.layer_steps import STACKS
from fairseq_ffn.analysis.players import CHUNK
from fairseq_ffn.analysis.recorder import LayerRecord, Recorder
from fairseq_ffn.analysis.text import Batch, force_decode, words_of

#: most amplified pairs taken of each sentence and layer, for their statistics
PAIRS_OF_SENTENCE = 5


@dataclass(frozen=True)
class Sentence:
    """One sentence as batch of its own, and as symbols.

    Args:
        number: in the set.
        batch: for the model.
        source: symbols that the encoder reads.
        target: symbols that the decoder reads.
    """

    number: int
    batch: Batch
    source: List[str]
    target: List[str]

    def axes(self, stack: str) -> Dict[str, List[str]]:
        """Symbols of the rows and columns of a map of this stack."""
        if stack == "encoder":
            return {"rows": self.source, "columns": self.source}
        return {"rows": self.target, "columns": [*self.target, *self.source]}


@dataclass(frozen=True)
class Settings:
    """Of the decomposition.

    Args:
        dtype: precision.
        fixed_bias: see ``players.feed_forward_split``.
        chunk: neurons at a time.
        pairs: amplified pairs to list for each layer.
    """

    dtype: torch.dtype = torch.float64
    fixed_bias: bool = False
    chunk: int = CHUNK
    pairs: int = 10


class LayerTally:
    """Measures of one layer, one value a sentence each."""

    def __init__(self) -> None:
        self.changes: Dict[str, Dict[str, List[float]]] = {}
        self.mixing: Dict[str, List[float]] = {}
        self.shares: Dict[str, List[np.ndarray]] = {}
        self.pairs: List[Dict[str, Any]] = []
        self.kinds: List[Dict[str, float]] = []
        self.names: Dict[str, Optional[Sequence[str]]] = {}
        self.error = self.difference = 0.0

    def add(self, maps: LayerMaps, sentence: Sentence) -> None:
        """Measure one sentence."""
        self.error = max(self.error, maps.error)
        self.difference = max(self.difference, maps.difference_to_model)
        self.names = maps.changes()
        for component, pair in self.names.items():
            values = self.changes.setdefault(component, {"all": [], "without_diagonal": []})
            for key, diagonal in (("all", True), ("without_diagonal", False)):
                values[key].append(_change(maps, component, pair, diagonal))
        for name, scope in maps.scopes.items():
            self.mixing.setdefault(name, []).append(
                _mean(map_measures.mixing_ratio(scope.own, scope.others))
            )
            if maps.address.stack == "decoder":
                parts = map_measures.shares(scope.own, scope.targets, scope.sources)
                self.shares.setdefault(name, []).append(np.nanmean(parts, axis=1))
        if maps.has_ffn and not maps.parallel:
            # a parallel FFN sees its own token only, so it can't amplify a pair
            self._add_pairs(maps, sentence)

    def _add_pairs(self, maps: LayerMaps, sentence: Sentence) -> None:
        before, after = (maps.scopes[name].cells for name in self.names["FF"])
        amplified = map_measures.amplification(before, after)
        found = map_measures.top_pairs(amplified, maps.visible, PAIRS_OF_SENTENCE)
        axes = sentence.axes(maps.address.stack)
        self.pairs += [
            {
                "sentence": sentence.number,
                "row": axes["rows"][row],
                "column": axes["columns"][column],
                "row_position": row,
                "column_position": column,
                "amplification": value,
            }
            for row, column, value in found
        ]
        kinds = _pair_kinds(axes["rows"], len(axes["columns"]))
        cells = maps.visible.copy()
        np.fill_diagonal(cells[:, : len(cells)], False)
        for name, kind in kinds.items():
            top = [kind[row, column] for row, column, _ in found]
            if found and cells.any():
                self.kinds.append(
                    {"kind": name, "top": float(np.mean(top)), "all": float(kind[cells].mean())}
                )

    def record(self, pairs: int) -> Dict[str, Any]:
        """Means over the sentences."""
        strongest = sorted(self.pairs, key=lambda pair: -pair["amplification"])[:pairs]
        names = dict.fromkeys(entry["kind"] for entry in self.kinds)
        return {
            "change": {
                component: {
                    "scopes": self.names[component],
                    **{key: _summary(values) for key, values in self.changes[component].items()},
                }
                for component in COMPONENTS
            },
            "mixing_ratio": {name: _summary(values) for name, values in self.mixing.items()},
            "shares": {
                name: dict(zip(("own", "targets", "sources"), np.nanmean(values, axis=0).tolist()))
                for name, values in self.shares.items()
            },
            "ff_amp": {
                "top_pairs": strongest,
                "kinds": {
                    name: {
                        key: _mean([entry[key] for entry in self.kinds if entry["kind"] == name])
                        for key in ("top", "all")
                    }
                    for name in names
                },
            },
            "reconstruction_error": self.error,
            "difference_to_model": self.difference,
        }


def _change(maps: LayerMaps, component: str, pair, diagonal: bool) -> float:
    if pair is None:
        # without an FFN the map goes on unchanged; a parallel step has no residual of its own
        return 0.0 if not maps.has_ffn else math.nan
    before, after = (maps.scopes[name].cells for name in pair)
    return map_measures.contextualization_change(before, after, maps.visible, diagonal)


def _pair_kinds(rows: Sequence[str], columns: int) -> Dict[str, np.ndarray]:
    """Which cells are pairs of one word, and of neighbouring positions. ``(T, P)``."""
    length = len(rows)
    words = np.asarray(words_of(rows))
    place = np.arange(length)
    kinds = {
        "same word": words[:, None] == words[None, :],
        "adjacent": np.abs(place[:, None] - place[None, :]) == 1,
    }
    found = {}
    for name, cells in kinds.items():
        found[name] = np.zeros((length, columns), dtype=bool)
        found[name][:, :length] = cells
    if columns > length:
        found["source"] = np.zeros((length, columns), dtype=bool)
        found["source"][:, length:] = True
    return found


def _mean(values: Sequence[float]) -> float:
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else math.nan


def _summary(values: Sequence[float]) -> Dict[str, float]:
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return {
        "mean": float(known.mean()) if len(known) else math.nan,
        "std": float(known.std(ddof=1)) if len(known) > 1 else math.nan,
        "sentences": len(known),
    }


def study(
    model: nn.Module,
    sentences: Sequence[Sentence],
    shown: int,
    settings: Settings,
    progress: Callable[[int], None] = lambda done: None,
) -> Dict[str, Any]:
    """Measures of every layer over all sentences, and the maps of the first ``shown`` of them.

    Returns:
        ``layers`` (stack -> list of records); ``maps`` (one entry a shown sentence: its symbols,
        and stack -> list of scope -> rows of cells, each normalised to 1);
        ``seconds_per_sentence``.
    """
    tallies: Dict[str, List[LayerTally]] = {stack: [] for stack in STACKS}
    maps: List[Dict[str, Any]] = []
    start = time.perf_counter()
    for number, sentence in enumerate(sentences):
        cells: Dict[str, List[Dict[str, Any]]] = {stack: [] for stack in STACKS}

        def receive(
            record: LayerRecord,
            sentence: Sentence = sentence,
            show: bool = number < shown,
            cells: Dict[str, List[Dict[str, Any]]] = cells,
        ) -> None:
            found = layer_maps(record, settings.dtype, settings.fixed_bias, settings.chunk)
            stack, index = record.address.stack, record.address.index
            if index == len(tallies[stack]):
                tallies[stack].append(LayerTally())
            tallies[stack][index].add(found, sentence)
            if show:
                cells[stack].append(
                    {
                        name: np.round(map_measures.rows_to_one(scope.cells), 4).tolist()
                        for name, scope in found.scopes.items()
                    }
                )

        with Recorder(model, receive):
            force_decode(model, sentence.batch)
        if number < shown:
            maps.append(
                {
                    "sentence": sentence.number,
                    "source": sentence.source,
                    "target": sentence.target,
                    **cells,
                }
            )
        progress(number + 1)
    seconds = (time.perf_counter() - start) / max(1, len(sentences))
    return {
        "layers": {
            stack: [tally.record(settings.pairs) for tally in tallies[stack]] for stack in STACKS
        },
        "maps": maps,
        "seconds_per_sentence": seconds,
    }
