"""An FFN as four tensors, and how several become one. Pure functions.

``FFN(x) = W2 a(W1 x + b1) + b2`` with W1 ``(d_ff, d)`` and W2 ``(d, d_ff)``, as fairseq stores
them. A hidden unit is a row of W1 with its bias and its column of W2. The order of the units means
nothing, and an FFN that has the units of several side by side is their sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, List, Sequence

import torch
from torch import Tensor

from fairseq_ffn.models.absent_ffn import FFN_ENTRIES


@dataclass(frozen=True)
class FeedForward:
    """Args:
    w1: ``(d_ff, d)``.
    b1: ``(d_ff)``.
    w2: ``(d, d_ff)``.
    b2: ``(d)``.
    """

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor

    @property
    def width(self) -> int:
        """d_ff."""
        return len(self.b1)

    @property
    def d_model(self) -> int:
        """d."""
        return len(self.b2)

    def hidden(self, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """``(n, d) -> (n, d_ff)``."""
        return activation(torch.nn.functional.linear(x, self.w1, self.b1))

    def __call__(self, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """``(n, d) -> (n, d)``, without dropout."""
        return torch.nn.functional.linear(self.hidden(x, activation), self.w2, self.b2)

    def entries(self) -> dict:
        """By name within a layer."""
        return dict(zip(FFN_ENTRIES, (self.w1, self.b1, self.w2, self.b2)))

    @classmethod
    def of_layer(cls, state: dict, layer: str) -> FeedForward:
        """The FFN of a layer in a state dict; ``layer`` as in ``encoder.layers.0.``."""
        return cls(*(state[layer + name] for name in FFN_ENTRIES))


def mean(ffns: Sequence[FeedForward], shares: Sequence[float]) -> FeedForward:
    """The mean of all weights, weighted; the FFNs must have one width.

    Args:
        ffns: at least one.
        shares: weights that add up to 1.
    """
    return FeedForward(
        *(
            sum(share * getattr(ffn, name).double() for ffn, share in zip(ffns, shares)).to(
                getattr(ffns[0], name).dtype
            )
            for name in ("w1", "b1", "w2", "b2")
        )
    )


def concatenate(ffns: Sequence[FeedForward], scales: Sequence[float]) -> FeedForward:
    """All hidden units side by side: computes ``sum_k scale_k FFN_k(x)``.

    A shared FFN is applied in every layer of its group, where one FFN_k alone was. Scales that are
    right in the sense of least squares, ``min sum_l E |FFN_l(x_l) - sum_k scale_k FFN_k(x_l)|^2``,
    are ``1/N`` for the N layers of the group when the outputs of different FFNs are uncorrelated
    and each is as large in any layer as in its own: then ``scale_k`` is ``|FFN_k(x_k)|^2 / sum_l
    |FFN_k(x_l)|^2``. (They also are when all FFNs are equal.) An FFN of a layer outside of the
    group has no output to match, so that its scale is 0: its units come along with trained input
    weights and are silent at first.
    """
    return FeedForward(
        torch.cat([ffn.w1 for ffn in ffns]),
        torch.cat([ffn.b1 for ffn in ffns]),
        torch.cat([scale * ffn.w2 for ffn, scale in zip(ffns, scales)], dim=1),
        sum(scale * ffn.b2 for ffn, scale in zip(ffns, scales)),
    )


def fresh(d_model: int, width: int, generator: torch.Generator, dtype: torch.dtype) -> FeedForward:
    """Units as fairseq initialises them (Xavier, uniform) that are silent: W2 is 0."""
    bound = math.sqrt(6 / (d_model + max(width, 1)))
    w1 = torch.rand((width, d_model), generator=generator) * 2 * bound - bound
    return FeedForward(
        w1.to(dtype),
        torch.zeros(width, dtype=dtype),
        torch.zeros((d_model, width), dtype=dtype),
        torch.zeros(d_model, dtype=dtype),
    )


def widen(ffn: FeedForward, width: int, generator: torch.Generator) -> FeedForward:
    """The same function with silent units added, ``width`` in all."""
    if width == ffn.width:
        return ffn
    more = fresh(ffn.d_model, width - ffn.width, generator, ffn.w1.dtype)
    return concatenate([ffn, more], [1, 1])


def select(ffn: FeedForward, units: Tensor) -> FeedForward:
    """Only some units, in their order."""
    return FeedForward(ffn.w1[units], ffn.b1[units], ffn.w2[:, units], ffn.b2)


def distinct(ffns: Sequence[FeedForward]) -> List[int]:
    """Position of the first FFN that each one equals: ``[0, 0, 2]`` for a, a, b."""
    found: List[int] = []
    for number, ffn in enumerate(ffns):
        equal = (
            other for other in range(number) if found[other] == other and _equal(ffns[other], ffn)
        )
        found.append(next(equal, number))
    return found


def _equal(a: FeedForward, b: FeedForward) -> bool:
    return all(
        one is other or (one.shape == other.shape and torch.equal(one, other))
        for one, other in zip(a.entries().values(), b.entries().values())
    )
