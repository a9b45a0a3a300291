"""A wide FFN in little memory: hidden units in chunks, computed again in the backward pass.

A plain FFN keeps its hidden units of every token and layer for the backward pass: 49,152 numbers
in a One Wide FFN of size Big, twelve times those of the baseline. FFN(x) is a sum over hidden
units, so it can be taken a chunk of them at a time, and a chunk's units are one matrix product away
from the input. Only the input is kept; the price is one product more on top of six.

The arithmetic is that of the plain form but for the order of sums. Activation dropout draws the
same mask again from the recorded state of the random numbers.
"""

from __future__ import annotations

import contextlib
from typing import Callable, Iterator, Optional, Tuple, Union

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fairseq_ffn.modules.precision import Precision, add_product, sum_type

#: hidden units from which on ``auto`` takes an FFN in chunks; no usual FFN is that wide
WIDE = 16_384
#: hidden units of a chunk that ``auto`` makes
CHUNK = 4_096


def chunk_width(setting: Union[int, str], hidden_units: int) -> int:
    """Hidden units of a chunk, or 0 for the plain form.

    Args:
        setting: of ``--ffn-chunk-width``: ``auto``, 0, or a width.
        hidden_units: of the FFN.
    """
    width = (CHUNK if hidden_units >= WIDE else 0) if setting == "auto" else int(setting)
    return width if width < hidden_units else 0


def chunked_feed_forward(
    x: Tensor,
    fc1: nn.Linear,
    fc2: nn.Linear,
    activation: Callable[[Tensor], Tensor],
    dropout: float,
    width: int,
) -> Tensor:
    """``fc2(dropout(activation(fc1(x))))``, differentiable once. ``(..., C) -> (..., C)``.

    Args:
        x: input ``(..., C)``.
        fc1: first linear, C -> d_ff.
        fc2: second linear, d_ff -> C.
        activation: elementwise.
        dropout: probability that a hidden unit is dropped; 0 when it isn't training.
        width: hidden units of a chunk; the last one may be smaller.
    """
    y = _ChunkedFeedForward.apply(
        x.flatten(0, -2),
        fc1.weight,
        fc1.bias,
        fc2.weight,
        fc2.bias,
        activation,
        dropout,
        width,
    )
    return y.view(*x.shape[:-1], -1)


class _ChunkedFeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        w1: Tensor,
        b1: Optional[Tensor],
        w2: Tensor,
        b2: Optional[Tensor],
        activation: Callable[[Tensor], Tensor],
        dropout: float,
        width: int,
    ) -> Tensor:
        ctx.save_for_backward(x, w1, b1, w2)
        ctx.activation, ctx.dropout, ctx.width = activation, dropout, width
        ctx.precision = Precision.in_force(x)
        ctx.random_state = _random_state(x.device) if dropout > 0 else None
        cast = ctx.precision.cast
        with ctx.precision.as_written():
            x = cast(x)
            y = x.new_zeros(len(x), len(w2), dtype=sum_type(x.dtype))
            if b2 is not None:
                y += b2
            for part in _parts(len(w1), width):
                hidden = activation(_first(cast, x, w1, b1, part))
                hidden = nn.functional.dropout(hidden, dropout)
                add_product(y, hidden, cast(w2[:, part]).t())
            return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gy: Tensor):
        x, w1, b1, w2 = ctx.saved_tensors
        cast, wants = ctx.precision.cast, ctx.needs_input_grad
        gw1 = torch.empty_like(w1) if wants[1] else None
        gb1 = torch.empty_like(b1) if wants[2] else None
        gw2 = torch.empty_like(w2) if wants[3] else None
        with ctx.precision.as_written(), _replayed(ctx.random_state, x.device):
            gb2 = gy.sum(0, dtype=sum_type(gy.dtype)).to(w2.dtype) if wants[4] else None
            x_type, x = x.dtype, cast(x)
            gx = torch.zeros_like(x, dtype=sum_type(x.dtype)) if wants[0] else None
            for part in _parts(len(w1), ctx.width):
                before = _first(cast, x, w1, b1, part).requires_grad_()
                with torch.enable_grad():
                    hidden = nn.functional.dropout(ctx.activation(before), ctx.dropout)
                if gw2 is not None:
                    gw2[:, part] = gy.t() @ hidden.detach()
                (g,) = torch.autograd.grad(hidden, before, gy @ cast(w2[:, part]))
                del hidden, before
                if gw1 is not None:
                    gw1[part] = g.t() @ x
                if gb1 is not None:
                    gb1[part] = g.sum(0, dtype=sum_type(g.dtype))
                if gx is not None:
                    add_product(gx, g, cast(w1[part]))
            gx = None if gx is None else gx.to(x_type)
        return gx, gw1, gb1, gw2, gb2, None, None, None


def _parts(units: int, width: int) -> Iterator[slice]:
    for start in range(0, units, width):
        yield slice(start, min(start + width, units))


def _first(
    cast: Callable[[Tensor], Tensor], x: Tensor, w1: Tensor, b1: Optional[Tensor], part: slice
) -> Tensor:
    """The first linear for a part of the hidden units."""
    return nn.functional.linear(x, cast(w1[part]), None if b1 is None else cast(b1[part]))


def _random_state(device: torch.device) -> Tuple[Tensor, Optional[Tensor]]:
    """State of the random numbers on the CPU and, if it is another device, there."""
    if device.type == "cpu":
        return torch.get_rng_state(), None
    return torch.get_rng_state(), torch.get_device_module(device).get_rng_state(device)


@contextlib.contextmanager
def _replayed(
    state: Optional[Tuple[Tensor, Optional[Tensor]]], device: torch.device
) -> Iterator[None]:
    """Random numbers as after ``state``, and afterwards as if none had been drawn."""
    if state is None:
        yield
        return
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        torch.set_rng_state(state[0])
        if devices:
            torch.get_device_module(device).set_rng_state(state[1], device)
        yield
