"""Figures from raw values: mean, spread, percentiles, paired ratios. Arrays in, numbers out."""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple

import numpy

#: two-sided 95% quantiles of Student's t for 1, 2, ... degrees of freedom
_T95 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)
#: batches that an interval of a ratio takes at least: the spread of two says next to nothing
LEAST_BATCHES = 3
#: resamples at a time, so that memory doesn't grow with their number
_BLOCK = 500


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
) -> Tuple[float, Optional[float], Optional[float]]:
    """Ratio of tokens per second of two models on the same batches, with a bootstrap interval.

    Batches are drawn with replacement, both models' values of a batch together, so that what
    makes a batch slow for both (its length, a busy moment of the machine) falls out.

    The bootstrap is the symmetric studentised one (Hall, The Bootstrap and Edgeworth Expansion,
    3.6): of each drawing, how far its log ratio lies from that of all batches, in its own standard
    errors. The percentiles of the drawn ratios themselves would be too narrow with few batches
    (they hold the truth 75 times in 100 with three batches, 85 with five). A drawing of one batch
    only has no standard error and doesn't count; as such drawings are the far ones and not rare
    below five batches, the interval is never narrower than Student's. Nor is it more than twice as
    wide: where one batch is far off all others, a drawing without it has next to no standard error.

    Args:
        tokens: ``(2, batches)``, of the model and of the one it is compared with.
        seconds: ``(2, batches)``.
        resamples: how often to draw.
        seed: of the drawing.

    Returns:
        ratio, and the ends of its 95% interval; None and None with fewer than
        :data:`LEAST_BATCHES` batches.
    """
    values = numpy.stack([numpy.asarray(tokens, float), numpy.asarray(seconds, float)])
    batches = values.shape[-1]
    log_ratio, error = _log_ratio(values)
    ratio = float(numpy.exp(log_ratio))
    if batches < LEAST_BATCHES:
        return ratio, None, None
    generator = numpy.random.default_rng(seed)
    distances: List[numpy.ndarray] = [numpy.empty(0)]
    for start in range(0, resamples, _BLOCK):
        shape = (min(_BLOCK, resamples - start), batches)
        drawn, errors = _log_ratio(values[:, :, generator.integers(0, batches, shape)])
        some = errors > 1e-12
        distances.append(numpy.abs(drawn[some] - log_ratio) / errors[some])
    far = numpy.concatenate(distances)
    student = t95(batches - 1)
    quantile = student
    if far.size:
        quantile = min(max(student, float(numpy.percentile(far, 95))), 2 * student)
    low, high = numpy.exp([log_ratio - quantile * error, log_ratio + quantile * error])
    return ratio, float(low), float(high)


def _log_ratio(values: numpy.ndarray) -> Tuple[numpy.ndarray, numpy.ndarray]:
    """Logarithm of the ratio of two speeds, and its standard error by linearisation.

    To first order, a batch moves the logarithm of a sum by its part of the sum; the four sums'
    parts, each with its sign, add up to the batch's influence.

    Args:
        values: ``(2, 2, ..., batches)``: tokens and seconds, model and the one compared with.

    Returns:
        ``(...)`` each.
    """
    batches = values.shape[-1]
    totals = values.sum(-1, keepdims=True)
    logarithms = numpy.log(totals[..., 0])
    parts = batches * values / totals
    log_ratio = (logarithms[0, 0] - logarithms[1, 0]) - (logarithms[0, 1] - logarithms[1, 1])
    influence = (parts[0, 0] - parts[1, 0]) - (parts[0, 1] - parts[1, 1])
    squares = (influence**2).sum(-1)
    return log_ratio, numpy.sqrt(squares / (batches * max(batches - 1, 1)))
