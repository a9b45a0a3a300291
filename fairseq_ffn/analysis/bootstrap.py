"""Bootstrap over sentences: how far a figure depends on which sentences were drawn."""

from __future__ import annotations

from typing import Dict, Sequence

import numpy as np


def resample_counts(examples: int, resamples: int, seed: int) -> np.ndarray:
    """How often each example is drawn in each resample. ``(resamples, examples)``."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(examples, np.full(examples, 1 / examples), size=resamples)


def interval(values: Sequence[float]) -> Dict[str, float]:
    """The middle 95% of resampled values, undefined ones left out."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if len(known) == 0:
        return {"low": float("nan"), "high": float("nan")}
    low, high = np.percentile(known, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}
