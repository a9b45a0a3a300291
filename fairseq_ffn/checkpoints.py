"""Loading fairseq checkpoints without running code from the file.

torch.load has unpickled tensors and plain containers only since 2.6 (``weights_only=True``). A
fairseq checkpoint also holds the flags of its training as an ``argparse.Namespace`` and, among its
statistics, a few numpy numbers. Both are plain data, so they are named as safe; nothing else is.
"""

from __future__ import annotations

import argparse
from typing import List

import numpy
import torch

try:  # moved in numpy 2
    from numpy._core.multiarray import scalar as _numpy_scalar
except ImportError:  # numpy 1
    from numpy.core.multiarray import scalar as _numpy_scalar


def safe_classes() -> List[object]:
    """What a fairseq checkpoint may hold besides tensors and plain containers."""
    numbers = [numpy.dtype, *(type(numpy.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?"))]
    return [argparse.Namespace, _numpy_scalar, *numbers]


def allow_fairseq_checkpoints() -> None:
    """Let ``torch.load`` accept them, with its protection on."""
    torch.serialization.add_safe_globals(safe_classes())
