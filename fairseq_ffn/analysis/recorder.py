"""The recorder: forward hooks that catch what goes into and comes out of every sub-block.

The model isn't changed, and the hooks are gone when the ``with`` block ends, whatever ended it. A
layer's activations are handed on as soon as the layer has run and kept no longer, so that memory
is that of one layer and what the receiver keeps.

An FFN that several layers share is one ``nn.Linear``: a hook on it can't tell who called. So the
hooks on layers say which layer is running, and the hooks on modules ask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fairseq_ffn.analysis.layer_steps import (
    CROSS,
    FFN,
    LETTERS,
    SELF,
    LayerAddress,
    Step,
    layers_of,
    steps_of,
)
from fairseq_ffn.errors import UserError

#: names of the states between the steps of a layer; the last is always y
_STATES = "hg"


@dataclass(frozen=True)
class StepRecord:
    """One step of one forward pass; all tensors ``(T, B, C)``.

    Args:
        step: what was computed.
        x: the stream that it reads and adds to.
        inputs: what each branch reads: x, or x normalised.
        branches: what each branch gives, as it is added to x (scaled).
        total: x + sum of the branches.
        output: the total, normalised if the step is post-norm.
    """

    step: Step
    x: Tensor
    inputs: Dict[str, Tensor]
    branches: Dict[str, Tensor]
    total: Tensor
    output: Tensor


@dataclass(frozen=True)
class LayerRecord:
    """One layer of one forward pass.

    Args:
        address: where the layer is.
        layer: the layer.
        steps: what it computed.
        memory: the encoder's output ``(S, B, C)`` that a decoder layer attended to, or None.
    """

    address: LayerAddress
    layer: Any
    steps: Tuple[StepRecord, ...]
    memory: Optional[Tensor]

    @property
    def output(self) -> Tensor:
        return self.steps[-1].output

    def branch(self, kind: str) -> Optional[Tensor]:
        """What a branch adds to the stream, or None where there is none."""
        for step in self.steps:
            if kind in step.branches:
                return step.branches[kind]
        return None


@dataclass(frozen=True)
class Point:
    """One state of the stream within a layer.

    Args:
        name: such as ``h`` or ``x+a``; a, c, f are the branches of self-attention,
            cross-attention and FFN.
        formula: how it comes about.
        value: ``(T, B, C)``.
    """

    name: str
    formula: str
    value: Tensor


def points_of(record: LayerRecord) -> List[Point]:
    """The states of the stream: before, within and after each step.

    Post-norm series: x, x+a, h = LN(x+a), h+f, y = LN(h+f). Pre-norm: x, h = x+a, y = h+f. A
    parallel step also gives the sums with one branch, and with all but the FFN.
    """
    name = "x"
    points = [Point(name, name, record.steps[0].x)]
    for number, step in enumerate(record.steps):
        kinds = step.step.kinds
        following = "y" if number == len(record.steps) - 1 else _STATES[number]
        if len(kinds) > 1:
            for kind in kinds:
                one = f"{name}+{LETTERS[kind]}"
                points.append(Point(one, one, step.x + step.branches[kind]))
            if FFN in kinds and len(kinds) > 2:
                rest = "+".join([name, *(LETTERS[kind] for kind in kinds if kind != FFN)])
                points.append(Point(rest, rest, step.total - step.branches[FFN]))
        total = "+".join([name, *(LETTERS[kind] for kind in kinds)])
        if step.step.norm is None:
            points.append(Point(following, f"{following} = {total}", step.total))
        else:
            points.append(Point(total, total, step.total))
            points.append(Point(following, f"{following} = LN({total})", step.output))
        name = following
    return points


def around_ffn(record: LayerRecord) -> Optional[Tuple[str, str]]:
    """Names of the points without and with the FFN's vector, or None if the layer has no FFN.

    In a series layer: the state before the FFN, and its sum with the FFN's vector. In a parallel
    step: the sum of all other branches, and of all.
    """
    name = "x"
    for number, step in enumerate(record.steps):
        kinds = step.step.kinds
        following = "y" if number == len(record.steps) - 1 else _STATES[number]
        total = "+".join([name, *(LETTERS[kind] for kind in kinds)])
        if FFN in kinds:
            before = "+".join([name, *(LETTERS[kind] for kind in kinds if kind != FFN)])
            return before, following if step.step.norm is None else total
        name = following
    return None


class Recorder:
    """Hands on a :class:`LayerRecord` for every layer that runs inside its ``with`` block.

    Args:
        model: encoder-decoder Transformer of this plugin or of fairseq, in evaluation mode.
        receive: called with each record, right after the layer has run.

    Raises:
        UserError: (at exit from a layer) its output isn't the result of its sub-blocks, so that
            nothing that is recorded could be trusted.
    """

    def __init__(self, model: nn.Module, receive: Callable[[LayerRecord], None]):
        self._layers = layers_of(model)
        self._steps = {address: steps_of(layer) for address, layer in self._layers.items()}
        self._receive = receive
        self._handles: List[RemovableHandle] = []
        #: the layer that is running, and what has been caught of it
        self._running: Optional[LayerAddress] = None
        self._caught: Dict[str, Tensor] = {}

    def __enter__(self) -> Recorder:
        linears: Dict[int, nn.Module] = {}
        for address, layer in self._layers.items():
            self._handles += [
                layer.register_forward_pre_hook(self._before_layer(address), with_kwargs=True),
                layer.register_forward_hook(self._after_layer(address), with_kwargs=True),
                self._on_attention(layer.self_attn, SELF),
            ]
            if getattr(layer, "encoder_attn", None) is not None:
                self._handles.append(self._on_attention(layer.encoder_attn, CROSS))
            if layer.fc1 is not None:
                linears.setdefault(id(layer.fc1), layer.fc1)
                linears.setdefault(id(layer.fc2), layer.fc2)
        firsts = {id(layer.fc1) for layer in self._layers.values()}
        for key, linear in linears.items():
            hook = self._before_ffn if key in firsts else self._after_ffn
            self._handles.append(linear.register_forward_hook(hook))
        return self

    def __exit__(self, *unused: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._running, self._caught = None, {}

    def _before_layer(self, address: LayerAddress):
        def hook(layer, args, kwargs) -> None:
            self._running = address
            self._caught = {"x": args[0] if args else kwargs["x"]}

        return hook

    def _on_attention(self, attention: nn.Module, kind: str) -> RemovableHandle:
        # in fairseq, and so here, each layer has an attention object of its own
        def hook(module, args, kwargs, output) -> None:
            self._caught[f"{kind} input"] = args[0] if args else kwargs["query"]
            self._caught[kind] = output[0]
            if kind == CROSS:
                self._caught["memory"] = args[1] if len(args) > 1 else kwargs["key"]

        return attention.register_forward_hook(hook, with_kwargs=True)

    def _before_ffn(self, module, args, output) -> None:
        self._caught[f"{FFN} input"] = args[0]

    def _after_ffn(self, module, args, output) -> None:
        self._caught[FFN] = output

    def _after_layer(self, address: LayerAddress):
        def hook(layer, args, kwargs, output) -> None:
            caught, self._caught, self._running = self._caught, {}, None
            x, records = caught["x"], []
            for step in self._steps[address]:
                kinds = [kind for kind in step.kinds if kind in caught]
                branches = {
                    kind: caught[kind] if step.scale == 1.0 else caught[kind] * step.scale
                    for kind in kinds
                }
                total = x + sum(branches.values())
                result = total if step.norm is None else normalise(step.norm, total)
                inputs = {kind: caught[f"{kind} input"] for kind in kinds}
                records.append(StepRecord(step, x, inputs, branches, total, result))
                x = result
            _check(address, x, output[0] if isinstance(output, tuple) else output)
            self._receive(LayerRecord(address, layer, tuple(records), caught.get("memory")))

        return hook


def normalise(norm: Any, x: Tensor) -> Tensor:
    """The layer norm's result without calling it, in the type of x."""
    weight, bias = (
        None if parameter is None else parameter.to(x.dtype)
        for parameter in (norm.weight, norm.bias)
    )
    return nn.functional.layer_norm(x, tuple(norm.normalized_shape), weight, bias, norm.eps)


def feed_forward(layer: Any, x: Tensor) -> Tensor:
    """The layer's FFN of another input, without its hooks and dropout. ``(..., C) -> (..., C)``."""
    hidden = layer.activation_fn(nn.functional.linear(x, layer.fc1.weight, layer.fc1.bias))
    return nn.functional.linear(hidden, layer.fc2.weight, layer.fc2.bias)


def _check(address: LayerAddress, ours: Tensor, output: Tensor) -> None:
    tolerance = 1e-9 if output.dtype == torch.float64 else 1e-3
    # a pad's row may be anything, but is the same anything
    size = 1 + output.detach().abs().nan_to_num(0.0).max()
    if not torch.allclose(ours / size, output / size, rtol=0, atol=tolerance, equal_nan=True):
        raise UserError(
            f"{address}: its output isn't the sum of its recorded sub-blocks; analysis covers "
            "fairseq's Transformer layers and this plugin's"
        )
