"""Figures from raw values: mean, spread, percentiles, paired ratios. Arrays in, numbers out."""

from __future__ import annotations

from typing import Dict, List, Sequence, Tuple

import numpy

#: two-sided 95% quantiles of Student's t for 1, 2, ... degrees of freedom
_T95 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)


def over_runs(values: Sequence[float]) -> Dict[str, object]:
    """Mean, sample standard deviation and 95% interval of the mean (Student's t) over runs.

    With one run there is no spread: ``std`` and ``interval95`` are None.
    """
    count = len(values)
    mean = float(numpy.mean(values))
    record: Dict[str, object] = {"mean": mean, "std": None, "interval95": None}
    if count > 1:
        std = float(numpy.std(values, ddof=1))
        half = t95(count - 1) * std / count**0.5
        record.update(std=std, interval95=[mean - half, mean + half])
    record["runs"] = [float(value) for value in values]
    return record


def t95(degrees: int) -> float:
    """Two-sided 95% quantile of Student's t, within 0.01% beyond 30 degrees of freedom."""
    if degrees <= len(_T95):
        return _T95[degrees - 1]
    z = 1.959964  # the normal distribution's
    # first terms of the expansion in 1/degrees (Abramowitz and Stegun 26.7.5)
    first = (z**3 + z) / (4 * degrees)
    return z + first + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def spread(values: Sequence[float], weights: Sequence[int] = ()) -> Dict[str, float]:
    """Mean and percentiles of single values.

    Args:
        values: one per batch.
        weights: how often each counts (default: once), such as the sentences of a batch.

    Returns:
        ``mean``, ``p50``, ``p90``, ``p99``; a percentile is the smallest value that is not
        exceeded by at least so many percent of all.
    """
    repeated = numpy.repeat(numpy.asarray(values, dtype=float), weights or 1)
    record = {"mean": float(repeated.mean())}
    for percent in (50, 90, 99):
        record[f"p{percent}"] = float(numpy.percentile(repeated, percent, method="inverted_cdf"))
    return record


def ratio_interval(
    tokens: Sequence[Sequence[float]],
    seconds: Sequence[Sequence[float]],
    resamples: int = 2000,
    seed: int = 1,
) -> Tuple[float, float, float]:
    """Ratio of tokens per second of two models on the same sentences, with a bootstrap interval.

    Sentences are drawn with replacement, both models' values of a sentence together, so that what
    makes a sentence slow for both (its length, a busy moment of the machine) falls out.

    Args:
        tokens: ``(2, sentences)``, of the model and of the one it is compared with.
        seconds: ``(2, sentences)``.
        resamples: how often to draw.
        seed: of the drawing.

    Returns:
        ratio, and the ends of its 95% interval (percentiles of the resampled ratios).
    """
    tokens_of, seconds_of = numpy.asarray(tokens, float), numpy.asarray(seconds, float)
    count = tokens_of.shape[1]
    generator = numpy.random.default_rng(seed)

    def ratio(total_tokens: numpy.ndarray, total_seconds: numpy.ndarray) -> numpy.ndarray:
        speed = total_tokens / total_seconds
        return speed[0] / speed[1]

    drawn: List[float] = []
    for _ in range(resamples):
        index = generator.integers(0, count, count)
        drawn.append(float(ratio(tokens_of[:, index].sum(1), seconds_of[:, index].sum(1))))
    low, high = numpy.percentile(drawn, [2.5, 97.5])
    return float(ratio(tokens_of.sum(1), seconds_of.sum(1))), float(low), float(high)
