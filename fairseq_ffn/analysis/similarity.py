"""Similarity within and between models: from sentence means of sub-block outputs to a record.

One Wide FFN, section 3: the modules are attention and FFN, each sentence is the mean of its tokens'
outputs; where a model has no FFN the outputs of whole layers are compared, since the modules
differ. Encoder and decoder are compared apart.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from torch import Tensor, nn

from fairseq_ffn.analysis import cka, neighbourhoods
from fairseq_ffn.analysis.bootstrap import interval, resample_counts
from fairseq_ffn.analysis.layer_steps import STACKS, LayerAddress, layers_of
from fairseq_ffn.analysis.recorder import LayerRecord, Recorder
from fairseq_ffn.analysis.text import Batch, force_decode
from fairseq_ffn.errors import UserError

MEASURES = ("cka", "lns")
#: CKA biased where debiased is asked for, and the other way round
OTHER_FORM = "cka_other_form"
LAYER = "layer"


@dataclass(frozen=True)
class Component:
    """What is compared: the output of a layer's sub-block, or of the whole layer.

    Args:
        address: the layer.
        kind: ``self-attention``, ``cross-attention``, ``FFN`` or ``layer``.
    """

    address: LayerAddress
    kind: str

    def __str__(self) -> str:
        return f"{self.address.index} {self.kind}"


class SentenceMeans:
    """Sentence means of every component of one model, in the order of the sentences given.

    Args:
        name: of the model.
        model: in evaluation mode.
        batches: the sentences.
        progress: called with the number of sentences done.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        batches: Sequence[Batch],
        progress: Callable[[int], None] = lambda done: None,
    ):
        self.name = name
        rows: Dict[Component, List[np.ndarray]] = {}
        order: List[int] = []
        for batch in batches:

            def receive(record: LayerRecord, batch: Batch = batch) -> None:
                valid = batch.valid(record.address.stack)
                values = {LAYER: record.output}
                for step in record.steps:
                    values.update(step.branches)
                for kind, value in values.items():
                    means = sentence_means(value, valid).float().cpu().numpy()
                    rows.setdefault(Component(record.address, kind), []).append(means)

            with Recorder(model, receive):
                force_decode(model, batch)
            order += batch.sentences
            progress(len(order))
        back = np.argsort(order)
        self._means = {key: np.concatenate(parts)[back] for key, parts in rows.items()}

    def components(self, stack: str, layers: bool) -> List[Component]:
        """The sub-blocks of a stack in forward order, or its whole layers."""
        return [
            component
            for component in self._ordered()
            if component.address.stack == stack and (component.kind == LAYER) == layers
        ]

    def _ordered(self) -> List[Component]:
        # a record lists the whole layer first
        return sorted(self._means, key=lambda one: (one.address.stack, one.address.index))

    def __getitem__(self, component: Component) -> np.ndarray:
        return self._means[component]


def sentence_means(value: Tensor, valid: Tensor) -> Tensor:
    """Mean over the tokens of each sentence, pads left out, in float64.

    Args:
        value: ``(T, B, C)``.
        valid: ``(T, B)``, False at pads.

    Returns:
        ``(B, C)``.
    """
    mask = valid.unsqueeze(-1)
    total = value.double().masked_fill(~mask, 0).sum(dim=0)
    return total / mask.sum(dim=0)


def check_layers(models: Mapping[str, nn.Module]) -> None:
    """Refuse models that can't be compared module by module, before anything is recorded.

    Args:
        models: by name, the baseline first.

    Raises:
        UserError: one has another number of layers than the baseline.
    """
    counts = {
        name: Counter(address.stack for address in layers_of(model))
        for name, model in models.items()
    }
    baseline, expected = next(iter(counts.items()))
    for name, found in counts.items():
        for stack in STACKS:
            if found[stack] != expected[stack]:
                raise UserError(
                    f"{name} has {found[stack]} {stack} layers, but {baseline} {expected[stack]}; "
                    "only models with the same numbers of layers are compared module by module"
                )


def compare_at(first: SentenceMeans, second: SentenceMeans, stack: str) -> bool:
    """Whether whole layers must be compared in this stack, since the modules differ."""
    return first.components(stack, layers=False) != second.components(stack, layers=False)


def all_pairs(
    first: SentenceMeans,
    second: SentenceMeans,
    stack: str,
    layers: bool,
    debiased: bool,
) -> Dict[str, Any]:
    """CKA and LNS of every component of one model with every one of another (or the same).

    Returns:
        ``rows`` and ``columns`` (names), ``cka`` and ``lns`` as lists of lists.
    """
    rows, columns = first.components(stack, layers), second.components(stack, layers)
    same = first is second
    k = neighbourhoods.number_of_neighbours(len(first[rows[0]]))
    values = np.full((2, len(rows), len(columns)), np.nan)
    near = [neighbourhoods.nearest(second[component], k) for component in columns]
    for i, row in enumerate(rows):
        mine = near[i] if same else neighbourhoods.nearest(first[row], k)
        for j, column in enumerate(columns):
            if same and j < i:
                values[:, i, j] = values[:, j, i]
                continue
            values[0, i, j] = cka.linear_cka(first[row], second[column], debiased)
            values[1, i, j] = neighbourhoods.overlap(mine, near[j]).mean()
    return {
        "rows": [str(row) for row in rows],
        "columns": [str(column) for column in columns],
        "cka": values[0].tolist(),
        "lns": values[1].tolist(),
    }


def neighbour_distance(matrix: Sequence[Sequence[float]]) -> Dict[str, float]:
    """Is a module more like the next one or like the one after (the checkerboard)?

    Args:
        matrix: self-similarity of a stack's modules in forward order.

    Returns:
        ``immediate``, ``second`` (means), and ``share_second_higher`` over the modules that have
        both. A layer of one sub-block has no checkerboard; it is reported all the same.
    """
    values = np.asarray(matrix, dtype=np.float64)
    one, two = np.diagonal(values, 1), np.diagonal(values, 2)
    higher = two > one[: len(two)]
    return {
        "immediate": float(one.mean()) if len(one) else math.nan,
        "second": float(two.mean()) if len(two) else math.nan,
        "share_second_higher": float(higher.mean()) if len(two) else math.nan,
    }


class SameModule:
    """The diagonal: similarity of the same component in two models, with its resamples.

    Args:
        first: a model.
        second: another one with the same components.
        stack: ``encoder`` or ``decoder``.
        layers: compare whole layers.
        debiased: form of CKA.
        counts: ``(resamples, sentences)``, see :func:`resample_counts`.
        permutation: order in which the second model's sentences come; None leaves them alone.
    """

    def __init__(
        self,
        first: SentenceMeans,
        second: SentenceMeans,
        stack: str,
        layers: bool,
        debiased: bool,
        counts: np.ndarray,
        permutation: Optional[np.ndarray] = None,
    ):
        self.components = first.components(stack, layers)
        values: Dict[str, List[float]] = {name: [] for name in (*MEASURES, OTHER_FORM)}
        resampled: Dict[str, List[np.ndarray]] = {name: [] for name in MEASURES}
        for component in self.components:
            x, y = first[component], second[component]
            if permutation is not None:
                y = y[permutation]
            values["cka"].append(cka.linear_cka(x, y, debiased))
            values[OTHER_FORM].append(cka.linear_cka(x, y, not debiased))
            resampled["cka"].append(resampled_cka(x, y, counts, debiased))
            k = neighbourhoods.number_of_neighbours(len(x))
            shares = neighbourhoods.overlap(
                neighbourhoods.nearest(x, k), neighbourhoods.nearest(y, k)
            )
            values["lns"].append(float(shares.mean()))
            resampled["lns"].append(counts @ shares / counts.sum(axis=1))
        #: measure -> (components,) and (components, resamples)
        self.values = {name: np.asarray(values[name]) for name in values}
        self.resampled = {name: np.asarray(resampled[name]) for name in MEASURES}

    def record(self) -> Dict[str, Any]:
        """Values and intervals by component, and the mean over them.

        CKA in the form that wasn't asked for is stated as well: its mean only.
        """
        found: Dict[str, Any] = {"components": [str(one) for one in self.components]}
        found[OTHER_FORM] = {"mean": {"value": float(self.values[OTHER_FORM].mean())}}
        for name in MEASURES:
            found[name] = {
                "mean": {
                    "value": float(self.values[name].mean()),
                    **interval(self.resampled[name].mean(axis=0)),
                },
                "by_component": [
                    {"value": float(value), **interval(resamples)}
                    for value, resamples in zip(self.values[name], self.resampled[name])
                ],
            }
        return found


def resampled_cka(x: np.ndarray, y: np.ndarray, counts: np.ndarray, debiased: bool) -> np.ndarray:
    """CKA of every resample. ``(n, d), (n, e), (resamples, n) -> (resamples,)``."""
    x, y = cka.centred(x), cka.centred(y)
    kernel_x, kernel_y = x @ x.T, y @ y.T
    return cka.ratio(
        cka.hsic(kernel_x, kernel_y, counts, debiased),
        cka.hsic(kernel_x, kernel_x, counts, debiased),
        cka.hsic(kernel_y, kernel_y, counts, debiased),
    )


def normalised(compared: SameModule, benchmarks: Sequence[SameModule]) -> Dict[str, Any]:
    """Mean similarity over mean similarity of models that differ in their seed only, as a ratio.

    A ratio of means over modules, as in One Wide FFN, Table 5; the interval resamples the
    sentences of numerator and denominator together.
    """
    found = {}
    for name in MEASURES:
        below = np.mean([one.values[name].mean() for one in benchmarks])
        resampled_below = np.mean([one.resampled[name].mean(axis=0) for one in benchmarks], axis=0)
        found[name] = {
            "value": float(compared.values[name].mean() / below),
            **interval(compared.resampled[name].mean(axis=0) / resampled_below),
        }
    return found


@dataclass(frozen=True)
class Settings:
    """Of the comparison.

    Args:
        debiased: form of CKA.
        resamples: of the bootstrap.
        seed: of resamples and permutation.
    """

    debiased: bool = True
    resamples: int = 200
    seed: int = 1


def study(
    models: Sequence[SentenceMeans],
    seeds: Sequence[SentenceMeans],
    untrained: SentenceMeans,
    settings: Settings,
    progress: Callable[[str], None] = lambda line: None,
) -> Dict[str, Any]:
    """Everything that ``fairseq-ffn analyze similarity`` reports.

    Args:
        models: the first is the baseline that the others are compared with.
        seeds: the baseline trained with other seeds; the benchmark is their mean.
        untrained: the baseline's architecture with random weights.
        settings: see :class:`Settings`.
        progress: called with a line for each part.
    """
    baseline = models[0]
    sentences = len(baseline[baseline.components("encoder", layers=True)[0]])
    counts = resample_counts(sentences, settings.resamples, settings.seed)
    permutation = np.random.default_rng(settings.seed).permutation(sentences)
    within: Dict[str, Any] = {}
    between: List[Dict[str, Any]] = []
    for model in models:
        progress(f"within {model.name}")
        within[model.name] = {}
        for stack in STACKS:
            pairs = all_pairs(model, model, stack, False, settings.debiased)
            pairs["neighbours"] = neighbour_distance(pairs["cka"])
            within[model.name][stack] = pairs
    known: Dict[Tuple[str, str, bool], SameModule] = {}

    def same(other: SentenceMeans, stack: str, layers: bool, order=None) -> SameModule:
        key = (f"{id(other)} {order is not None}", stack, layers)
        if key not in known:
            known[key] = SameModule(
                baseline, other, stack, layers, settings.debiased, counts, order
            )
        return known[key]

    for other in (*models[1:], *seeds):
        progress(f"{other.name} against {baseline.name}")
        entry: Dict[str, Any] = {
            "model": other.name,
            "baseline": baseline.name,
            "is_seed": any(other is seed for seed in seeds),
        }
        for stack in STACKS:
            layers = compare_at(baseline, other, stack)
            pairs = all_pairs(baseline, other, stack, layers, settings.debiased)
            compared = same(other, stack, layers)
            entry[stack] = {
                "compared": "whole layers" if layers else "sub-blocks",
                "all_pairs": pairs,
                "same_module": compared.record(),
                "untrained": same(untrained, stack, layers).record(),
                "permuted_sentences": same(other, stack, layers, permutation).record(),
            }
            if seeds and not entry["is_seed"]:
                benchmarks = [same(seed, stack, layers) for seed in seeds]
                entry[stack]["normalised"] = normalised(compared, benchmarks)
        between.append(entry)
    k = neighbourhoods.number_of_neighbours(sentences)
    return {
        "sentences": sentences,
        "cka": "debiased" if settings.debiased else "biased",
        OTHER_FORM: "biased" if settings.debiased else "debiased",
        "neighbours": k,
        "lns_chance": neighbourhoods.chance(k, sentences),
        "bootstrap_resamples": settings.resamples,
        "within": within,
        "between": between,
    }
