"""The FFN that best stands for several, on inputs that they really had: linear least squares.

Given hidden units (W1, b1), the output weights that are best for inputs x and wanted outputs y,

    ``min over W2, b2 of sum |W2 a(W1 x + b1) + b2 - y|^2 + ridge |W2|^2``,

solve the normal equations; they are accumulated, so that no activations are kept. Which units to
keep, when there are more than the width allows, is decided backwards: the unit goes whose removal,
with all other weights adapted, adds least to the error, ``|w_j|^2 / (H^-1)_jj`` with its output
weights w_j and H the matrix of the normal equations (Optimal Brain Surgeon, Hassibi & Stork 1993);
a tenth of the units goes at a time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Tuple

import torch
from torch import Tensor

from fairseq_ffn.errors import UserError

#: weight of |W2|^2, in mean squares of a unit's activation over the sample
RIDGE = 1e-4
#: share of the units that goes before the weights are adapted again
REMOVED_AT_ONCE = 0.1
#: matrices of the normal equations' size that solving them holds at once
_MATRICES = 4


@dataclass(frozen=True)
class Fit:
    """Args:
    units: which ones are kept, ascending ``(d_ff)``.
    w2: ``(d, d_ff)``.
    b2: ``(d)``.
    explained: share of the outputs' variance that the fit explains on the sample.
    """

    units: Tensor
    w2: Tensor
    b2: Tensor
    explained: float


class NormalEquations:
    """Sums over all pairs of hidden activations and wanted outputs.

    Args:
        units: how many hidden units there are to choose from, M.
        d_model: size of an output.
        what: for the error.

    Raises:
        UserError: the sums wouldn't fit into memory.
    """

    def __init__(self, units: int, d_model: int, what: str):
        needed = _MATRICES * 8 * (units + 1) ** 2
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needed > 0.8 * there:
            raise UserError(
                f"--merge least-squares: {what} has {units:,} hidden units to choose from, which "
                f"takes {needed / 1e9:.0f} GB of memory; use --merge concatenate, mean or first"
            )
        self.gram = torch.zeros((units + 1, units + 1), dtype=torch.float64)
        self.moments = torch.zeros((units + 1, d_model), dtype=torch.float64)
        self.square = torch.zeros(d_model, dtype=torch.float64)

    @property
    def count(self) -> int:
        """Pairs so far."""
        return int(self.gram[-1, -1].item())

    def add(self, hidden: Tensor, output: Tensor) -> None:
        """Count pairs in: ``hidden (n, M)`` and ``output (n, d)``."""
        with_bias = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], dim=1)
        self.gram += (with_bias.t() @ with_bias).double()
        self.moments += (with_bias.t() @ output).double()
        self.square += output.double().square().sum(0)

    def fit(self, width: int) -> Fit:
        """The best output weights for the best ``width`` units.

        Raises:
            UserError: there is nothing to fit to.
        """
        if self.count == 0:
            raise UserError("--merge least-squares: no sentence to fit to; choose another --subset")
        units = torch.arange(len(self.gram) - 1)
        while True:
            weights, inverse = self._solve(units)
            excess = len(units) - width
            if excess <= 0:
                break
            cost = weights[:-1].square().sum(1) / inverse.diagonal()[:-1]
            removed = min(excess, max(1, int(REMOVED_AT_ONCE * len(units))))
            kept = torch.argsort(cost, stable=True)[removed:]
            units = units[kept.sort().values]
        return Fit(units, weights[:-1].t(), weights[-1], self._explained(units, weights))

    def _solve(self, units: Tensor) -> Tuple[Tensor, Tensor]:
        """Weights ``(len(units) + 1, d)``, the bias last, and the inverse of the matrix."""
        chosen = torch.cat([units, torch.tensor([len(self.gram) - 1])])
        matrix = self.gram[chosen][:, chosen]
        ridge = RIDGE * matrix.diagonal()[:-1].mean().clamp(min=1e-12)
        matrix.diagonal()[:-1].add_(ridge)
        root = torch.linalg.cholesky(matrix)
        return torch.cholesky_solve(self.moments[chosen], root), torch.cholesky_inverse(root)

    def _explained(self, units: Tensor, weights: Tensor) -> float:
        chosen = torch.cat([units, torch.tensor([len(self.gram) - 1])])
        moments, gram = self.moments[chosen], self.gram[chosen][:, chosen]
        error = (
            self.square.sum() - 2 * (weights * moments).sum() + (weights * (gram @ weights)).sum()
        )
        variance = (self.square - self.moments[-1].square() / self.count).sum()
        return 1 - float(error / variance) if variance > 0 else 1.0
