"""How large is what a branch adds to the stream, and does it matter to the FFN that it reads it?

PAF's second assumption is that attention's residual is small against the layer's input; what we
could read of the paper has no formula. The ratio, and the defect, are **our definition**.
"""

from __future__ import annotations

import math
from typing import Dict

import numpy as np
from torch import Tensor


def length_ratio(branch: Tensor, stream: Tensor) -> Tensor:
    """``|b_t| / |x_t|`` of every token. ``(..., C) -> (...)`` in float64; NaN where x is 0."""
    below = stream.double().norm(dim=-1)
    return branch.double().norm(dim=-1) / below.where(below > 0, below.new_tensor(math.nan))


def cosine(branch: Tensor, stream: Tensor) -> Tensor:
    """Cosine of ``b_t`` and ``x_t`` of every token. ``(..., C) -> (...)`` in float64."""
    branch, stream = branch.double(), stream.double()
    below = branch.norm(dim=-1) * stream.norm(dim=-1)
    return (branch * stream).sum(dim=-1) / below.where(below > 0, below.new_tensor(math.nan))


def defect(series: Tensor, parallel: Tensor) -> Tensor:
    """Defect of running in parallel, ``|FFN(x+a) - FFN(x)| / |FFN(x+a)|`` of every token.

    Args:
        series: the FFN of the stream after attention, ``(..., C)``.
        parallel: the FFN of the stream before attention.
    """
    return length_ratio(parallel.double() - series.double(), series)


def summary(values: np.ndarray) -> Dict[str, float]:
    """Mean, median and 90th percentile, undefined values left out."""
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return {"mean": math.nan, "median": math.nan, "p90": math.nan}
    median, p90 = np.percentile(values, [50, 90])
    return {"mean": float(values.mean()), "median": float(median), "p90": float(p90)}
