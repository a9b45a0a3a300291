"""Matrix products in the type of autocast inside our autograd functions.

PyTorch's autocast decides for each operation by itself, and only in the forward pass. A function
that computes its own gradients needs the same decision in both passes: products of what is cast to
autocast's type, everything else as written.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor


@dataclass(frozen=True)
class Precision:
    """In which type matrix products are taken.

    Args:
        device: type of the device, such as ``cpu``.
        dtype: autocast's type, or None: that of the operands.
    """

    device: str
    dtype: Optional[torch.dtype]

    @staticmethod
    def in_force(x: Tensor) -> Precision:
        """What autocast says for the device of ``x``."""
        device = x.device.type
        on = torch.is_autocast_enabled(device)
        return Precision(device, torch.get_autocast_dtype(device) if on else None)

    def cast(self, x: Tensor) -> Tensor:
        """An operand of a matrix product."""
        return x if self.dtype is None else x.to(self.dtype)

    def as_written(self) -> contextlib.AbstractContextManager:
        """Within it, nothing is cast but by :meth:`cast`."""
        return torch.autocast(self.device, enabled=False)


def sum_type(dtype: torch.dtype) -> torch.dtype:
    """Type for sums of products: float32 at least, as within a matrix product."""
    return torch.promote_types(dtype, torch.float32)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """``total += a @ b``, in one go where the types are the same."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
