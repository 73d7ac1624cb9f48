"""Intervals and a test by resampling subjects: studentized bootstrap and sign flips.

Which of them holds where, by simulation: ``docs/statistics.md``. Values are checked, and spread is
decided, as in `hemaseg.statistics.closed_forms`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hemaseg.statistics.closed_forms import Interval, as_vector, moments, require_fraction

_MAX_RESAMPLED_VALUES = 1_000_000  # held in memory at once


@dataclass(frozen=True)
class SignFlip:
    """Sign-flip test that a mean difference is zero (two-sided), and the interval that it gives."""

    p: float
    interval: Interval


def cluster_bootstrap_interval(
    values: ArrayLike,
    subjects: Sequence[object] | NDArray[np.generic],
    *,
    confidence: float = 0.95,
    num_bootstrap: int = 9999,
    seed: int = 0,
) -> Interval:
    """Studentized (bootstrap-t) interval of the mean over subjects, each subject counted once.

    Subjects are drawn with replacement, each with all its rows; the estimate is the mean of the
    subjects' means, so drawing rows or drawing subject means is the same thing. Each resample
    yields t* = (mean* - mean) / se*, and the interval is mean - q(1 - a/2) se .. mean - q(a/2) se
    with q the quantiles of t* (the order statistics (B + 1) a/2 and (B + 1)(1 - a/2)). The order
    of the rows does not matter. Right for skewed values, such as the scores of one arm; too narrow
    for symmetric values with rare outliers, such as differences between arms: there `sign_flip`.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5.

    Args:
        values: One number per row.
        subjects: The subject of each row.
        confidence: In (0, 1).
        num_bootstrap: At least 99.
        seed: Of the resampling.

    Returns:
        NaN for both ends where the subject means have no spread, and where so many resamples have
        none (t* is then infinite) that a limit would be infinite: up to three subjects, or nearly
        all subjects tied.

    Example:
        >>> subjects = ["a", "a", "b", "c", "d", "e"]
        >>> interval = cluster_bootstrap_interval([1, 3, 2, 5, 9, 9], subjects)
        >>> interval.low < 5.4 < interval.high  # the mean of the subject means 2, 2, 5, 9, 9
        True
    """
    rows = as_vector(values)
    if len(subjects) != len(rows):
        raise ValueError(f"a subject for each of {len(rows)} values needed, got {len(subjects)}")
    tail = (1 - require_fraction(confidence)) / 2
    _require_resamples(num_bootstrap)
    _, index = np.unique(np.asarray(subjects), return_inverse=True)
    means = np.bincount(index, weights=rows) / np.bincount(index)
    mean, _, standard_error = moments(means)
    if math.isnan(standard_error):
        return Interval(math.nan, math.nan)
    studentized = np.sort(_bootstrap_t(means - mean, num_bootstrap, np.random.default_rng(seed)))
    rank = _rank(tail, num_bootstrap)
    low, high = (studentized[rank - 1], studentized[-rank]) if rank else (-np.inf, np.inf)
    if not (np.isfinite(low) and np.isfinite(high)):
        return Interval(math.nan, math.nan)
    return Interval(float(mean - high * standard_error), float(mean - low * standard_error))


def sign_flip(
    differences: ArrayLike, *, confidence: float = 0.95, num_bootstrap: int = 9999, seed: int = 0
) -> SignFlip:
    """Sign-flip (paired permutation) test of the mean difference, and its interval.

    If two arms are alike, it is chance which of a subject's two scores belongs to which arm: each
    difference could as well have the other sign. p is the fraction of sign patterns whose absolute
    mean is at least the observed one, the observed pattern included. Up to log2(B + 1) subjects
    (13 for 9,999) all patterns are used and p is exact, otherwise B random ones. Mean and t
    statistic give the same p. With all of a subject's rows in one difference, this is the wild
    cluster bootstrap-t with Rademacher weights and the null hypothesis imposed.

    The interval holds every shift d for which the differences minus d have p above 1 -
    confidence. A flip keeps p's count at d exactly if d lies between the mean of the flipped and
    the mean of the unflipped differences, so the limits are order statistics of such means
    (Hartigan's typical values). It assumes that the differences are symmetric about their centre.

    Source: Pitman 1937; Hartigan 1969; Cameron, Gelbach and Miller 2008.

    Returns:
        NaN where the differences have no spread; an interval of NaN where the number of subjects
        is too small for the confidence (fewer than 6 for 0.95).

    Example:
        >>> sign_flip([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).p  # 2 of 64 patterns reach a mean of 3.5
        0.03125
    """
    vector = as_vector(differences)
    require_fraction(confidence)
    _require_resamples(num_bootstrap)
    if math.isnan(moments(vector)[2]):
        return SignFlip(math.nan, Interval(math.nan, math.nan))
    if 2 ** len(vector) <= num_bootstrap + 1:
        patterns = iter([_all_flips(len(vector))])
    else:
        patterns = _random_flips(len(vector), num_bootstrap, np.random.default_rng(seed))
    lows, highs = _flip_bounds(vector, patterns)
    slack = 1e-12 * np.abs(vector).max()  # sums that differ by rounding alone are ties
    p = (1 + np.count_nonzero((lows <= slack) & (highs >= -slack))) / (1 + len(lows))
    rank = _rank(1 - confidence, len(lows))
    low, high = (np.sort(lows)[rank - 1], np.sort(highs)[-rank]) if rank else (-np.inf, np.inf)
    if not (np.isfinite(low) and np.isfinite(high)):
        return SignFlip(float(p), Interval(math.nan, math.nan))
    return SignFlip(float(p), Interval(float(low), float(high)))


def _require_resamples(num_bootstrap: int) -> None:
    """Refuse a number of resamples with which no tail quantile can be found."""
    if num_bootstrap < 99:
        raise ValueError(f"num_bootstrap must be at least 99, got {num_bootstrap}")


def _rank(tail: float, num_resamples: int) -> int:
    """Rank of the order statistic that cuts off a tail; 0 if there are too few for it."""
    return math.floor(tail * (num_resamples + 1) + 1e-9)  # (1 - 0.9) * 1000 is below 100


def _chunks(num_bootstrap: int, num_values: int) -> Iterator[int]:
    """Numbers of resamples to hold at once, together num_bootstrap."""
    at_once = max(1, _MAX_RESAMPLED_VALUES // num_values)
    for start in range(0, num_bootstrap, at_once):
        yield min(at_once, num_bootstrap - start)


def _bootstrap_t(
    centred: NDArray[np.float64], num_bootstrap: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """t* of each resample of values whose mean is 0; infinite where a resample has no spread."""
    num = len(centred)
    rounding = 10 * np.finfo(float).eps * np.abs(centred).max()
    parts = []
    for size in _chunks(num_bootstrap, num):
        drawn = centred[generator.integers(num, size=(size, num))]
        means = drawn.mean(axis=1)
        errors = drawn.std(axis=1, ddof=1) / math.sqrt(num)
        flat = errors <= rounding
        parts.append(np.where(flat, np.copysign(np.inf, means), means / np.where(flat, 1, errors)))
    return np.concatenate(parts)


def _all_flips(num: int) -> NDArray[np.bool_]:
    """All patterns of num signs but the one without a flip, (2^num - 1, num)."""
    bits = np.arange(1, 2**num)[:, np.newaxis] >> np.arange(num)
    return np.asarray(bits % 2, dtype=bool)


def _random_flips(
    num: int, num_bootstrap: int, generator: np.random.Generator
) -> Iterator[NDArray[np.bool_]]:
    """Random patterns of num signs, in pieces of (size, num)."""
    for size in _chunks(num_bootstrap, num):
        yield generator.integers(2, size=(size, num), dtype=np.uint8).astype(bool)


def _flip_bounds(
    vector: NDArray[np.float64], patterns: Iterator[NDArray[np.bool_]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ends of the range of shifts for which each pattern counts for p.

    Every range holds the mean. Without a flip, or with all flipped, it is unbounded.
    """
    lows, highs = [], []
    for flipped in patterns:
        num_flipped = flipped.sum(axis=1)
        num_kept = len(vector) - num_flipped
        total = flipped @ vector
        split = (num_flipped > 0) & (num_kept > 0)
        mean_flipped = total / np.maximum(num_flipped, 1)
        mean_kept = (vector.sum() - total) / np.maximum(num_kept, 1)
        lows.append(np.where(split, np.minimum(mean_flipped, mean_kept), -np.inf))
        highs.append(np.where(split, np.maximum(mean_flipped, mean_kept), np.inf))
    return np.concatenate(lows), np.concatenate(highs)
