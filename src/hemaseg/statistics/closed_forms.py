"""Intervals, tests and effect sizes for one number per subject.

Arrays in, small frozen results out; nothing here knows of arms, files or metrics. Every function
takes *defined* values: NaN is refused, because whoever drops a subject must count it. Whatever
needs a spread is NaN where there is none: fewer than two values, an infinite value, or values that
are constant up to rounding (the rule of R's ``t.test``: standard error at most 10 machine epsilons
of the mean). Formulas, assumptions and simulated error rates: ``docs/statistics.md``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

_MAX_EXACT_RANKS = 49  # R's limit for the exact signed-rank distribution
_ROUNDING = 10 * np.finfo(float).eps  # standard error of values that are constant, over their mean
_NUM_DECIMALS = 12  # scores have fewer digits; what differs by less is noise


@dataclass(frozen=True)
class Interval:
    """A confidence interval; both ends are NaN where it is undefined."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedT:
    """Student's t test that a mean difference is zero (two-sided, ``num_subjects - 1`` df)."""

    num_subjects: int
    mean: float
    sd: float
    t: float
    p: float


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's signed-rank test that differences are symmetric about zero (two-sided).

    ``statistic`` is the sum of the ranks of the positive differences. ``rank_biserial`` is the
    matched-pairs rank-biserial correlation: (positive - negative rank sum) / (all ranks), from -1
    (every difference is negative) to 1.
    """

    num_nonzero: int
    statistic: float
    p: float
    rank_biserial: float


@dataclass(frozen=True)
class Tost:
    """Two one-sided t tests that a mean difference lies within (-margin, margin)."""

    p_lower: float
    """Against the hypothesis that the mean difference is -margin or less."""
    p_upper: float
    """Against the hypothesis that the mean difference is margin or more."""
    p: float
    """The larger of the two: equivalence is shown where it is below alpha."""


@dataclass(frozen=True)
class Friedman:
    """Friedman's rank test that all arms are alike, each subject a block."""

    num_subjects: int
    statistic: float
    p: float


@dataclass(frozen=True)
class Anova:
    """One-way analysis of variance of independent groups."""

    f: float
    p: float
    df_between: int
    df_within: int


def as_vector(values: ArrayLike) -> NDArray[np.float64]:
    """One row of numbers, without NaN."""
    vector = np.asarray(values, dtype=float)
    if vector.ndim != 1:
        raise ValueError(f"one row of values needed, got shape {vector.shape}")
    if np.isnan(vector).any():
        raise ValueError(
            f"{np.isnan(vector).sum()} of {len(vector)} are NaN; leave them out and count them"
        )
    return vector


def without_noise(values: ArrayLike) -> NDArray[np.float64]:
    """The values rounded to 12 decimals, so that what only binary arithmetic made differ is equal.

    Example:
        >>> 0.8 - 0.7 == 0.7 - 0.6, len(set(without_noise([0.8 - 0.7, 0.7 - 0.6]).tolist()))
        (False, 1)
    """
    return np.round(np.asarray(values, dtype=float), _NUM_DECIMALS)


def require_fraction(value: float) -> float:
    """The value, if it lies in (0, 1)."""
    if not 0 < value < 1:
        raise ValueError(f"a number between 0 and 1 needed, got {value}")
    return value


def moments(vector: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean, SD (n - 1) and standard error; the last is NaN where the values have no spread."""
    if not len(vector) or not np.isfinite(vector).all():
        return math.nan, math.nan, math.nan
    mean = float(vector.mean())
    if len(vector) < 2:
        return mean, math.nan, math.nan
    sd = float(vector.std(ddof=1))
    standard_error = sd / math.sqrt(len(vector))
    constant = standard_error <= _ROUNDING * abs(mean)
    return mean, sd, math.nan if constant else standard_error


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjusted p-values, in the order given.

    The i-th smallest of m is multiplied by m - i + 1, made monotone, and cut at 1. A NaN stays NaN
    and counts in m: that a test could not be made must not make the others easier (as R's
    ``p.adjust`` does if ``n`` is the planned number).

    Args:
        p_values: Any number of p-values in [0, 1] or NaN.

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    if p.ndim != 1 or ((p < 0) | (p > 1)).any():
        raise ValueError(f"p_values must be one row of numbers in [0, 1] or NaN, got {p_values!r}")
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN sorts last
    factors = len(p) - np.arange(len(order))
    adjusted = np.full_like(p, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def t_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean.

    Example:
        >>> interval = t_interval([1.0, 2.0, 3.0])  # 2 -+ 4.303 * 1 / sqrt(3)
        >>> round(interval.low, 3), round(interval.high, 3)
        (-0.484, 4.484)
    """
    vector = as_vector(values)
    mean, _, standard_error = moments(vector)
    half = (
        stats.t.ppf((1 + require_fraction(confidence)) / 2, max(len(vector) - 1, 1))
        * standard_error
    )
    return Interval(float(mean - half), float(mean + half))


def paired_t(differences: ArrayLike) -> PairedT:
    """Paired t test, from the differences.

    Example:
        >>> result = paired_t([1.0, 2.0, 3.0])
        >>> round(result.t, 4), round(result.p, 4)  # t = 2 * sqrt(3)
        (3.4641, 0.0742)
    """
    vector = as_vector(differences)
    mean, sd, standard_error = moments(vector)
    t = mean / standard_error
    p = 2 * stats.t.sf(abs(t), max(len(vector) - 1, 1))
    return PairedT(len(vector), mean, sd, float(t), float(p))


def tost(differences: ArrayLike, *, margin: float) -> Tost:
    """Two one-sided paired t tests of equivalence (Schuirmann 1987).

    Equivalence at level alpha is the same as the 1 - 2 alpha t interval lying inside the margin.

    Args:
        differences: One per subject.
        margin: The largest difference that does not matter, above 0, in the unit of the
            differences.

    Example:
        >>> round(tost([-0.01, 0.0, 0.01], margin=0.05).p, 4)  # t = 5 * sqrt(3), 2 df
        0.0065
    """
    vector = as_vector(differences)
    if not 0 < margin < math.inf:
        raise ValueError(f"margin must be above 0 and finite, got {margin}")
    mean, _, standard_error = moments(vector)
    df = max(len(vector) - 1, 1)
    p_lower = float(stats.t.sf((mean + margin) / standard_error, df))
    p_upper = float(stats.t.cdf((mean - margin) / standard_error, df))
    return Tost(p_lower, p_upper, max(p_lower, p_upper))


def signed_rank(differences: ArrayLike) -> SignedRank:
    """Wilcoxon's signed-rank test, from the differences.

    Zero differences are dropped (as Wilcoxon did, and R does). Up to 49 differences without a zero
    or a tie the distribution is exact, otherwise normal with tie and continuity correction, as in
    R. Infinite differences are allowed and take the highest ranks, tied with each other. Give the
    differences `without_noise`: 0.8 - 0.7 and 0.7 - 0.6 are no tie in binary arithmetic.

    Returns:
        NaN (and 0 ``num_nonzero``) where no difference is other than zero.

    Example:
        >>> signed_rank([1.0, 2.0, 3.0, -4.0])  # ranks 1 + 2 + 3 against 4
        SignedRank(num_nonzero=4, statistic=6.0, p=0.875, rank_biserial=0.2)
    """
    vector = as_vector(differences)
    nonzero = vector[vector != 0]
    if not len(nonzero):
        return SignedRank(0, math.nan, math.nan, math.nan)
    signed = np.sign(nonzero) * stats.rankdata(np.abs(nonzero))
    positive = float(signed[signed > 0].sum())
    untied = len(np.unique(np.abs(signed))) == len(vector)
    exact = untied and len(vector) <= _MAX_EXACT_RANKS
    p = stats.wilcoxon(signed, correction=True, method="exact" if exact else "approx").pvalue
    biserial = float(signed.sum() / np.abs(signed).sum())
    return SignedRank(len(nonzero), positive, float(p), biserial)


def friedman(scores: ArrayLike) -> Friedman:
    """Friedman's test over subjects (rows) and three or more arms (columns), corrected for ties.

    Give the scores `without_noise`, so that ties are ties.

    Returns:
        NaN for fewer than three arms (use a paired test), no subject, or where every subject has
        the same score in all arms.

    Example:
        >>> result = friedman([[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3]])
        >>> result.statistic, round(result.p, 4)  # all ranks agree: n (k - 1)
        (8.0, 0.0183)
    """
    table = np.asarray(scores, dtype=float)
    if table.ndim != 2 or np.isnan(table).any():
        raise ValueError(f"scores must be subjects x arms without NaN, got shape {table.shape}")
    num_subjects, num_arms = table.shape
    if num_arms < 3 or (table == table[:, :1]).all():
        return Friedman(num_subjects, math.nan, math.nan)
    result = stats.friedmanchisquare(*table.T)
    return Friedman(num_subjects, float(result.statistic), float(result.pvalue))


def anova(groups: Sequence[ArrayLike]) -> Anova:
    """One-way ANOVA of two or more independent groups of values.

    Example:
        >>> result = anova([[1, 2, 3], [2, 3, 4]])  # MS between 1.5, within 1
        >>> result.f, result.df_between, result.df_within
        (1.5, 1, 4)
    """
    vectors = [as_vector(group) for group in groups]
    if any(len(vector) < 2 for vector in vectors):
        raise ValueError(f"each group needs 2 values, got {[len(vector) for vector in vectors]}")
    means = [float(vector.mean()) for vector in vectors]
    sds = [float(vector.std(ddof=1)) for vector in vectors]
    return anova_from_moments(means, sds, [len(vector) for vector in vectors])


def anova_from_moments(means: Sequence[float], sds: Sequence[float], nums: Sequence[int]) -> Anova:
    """One-way ANOVA of two or more groups of which mean, SD (n - 1) and size are known.

    An SD that has a standard error of at most 10 machine epsilons of its mean is taken as zero.

    Returns:
        NaN for f and p where all SDs are zero.

    Example:
        >>> result = anova_from_moments([2, 3], [1, 1], [3, 3])
        >>> result.f, round(result.p, 4)
        (1.5, 0.2879)
    """
    mean, sd, num = (np.asarray(column, dtype=float) for column in (means, sds, nums))
    if not (mean.ndim == 1 and mean.shape == sd.shape == num.shape and len(mean) >= 2):
        raise ValueError(
            f"as many means as SDs and sizes needed, at least 2 each, got {len(means)}, "
            f"{len(sds)} and {len(nums)}"
        )
    if not (np.isfinite([mean, sd]).all() and (sd >= 0).all() and (num >= 2).all()):
        raise ValueError(
            f"finite means, SDs of 0 or more and sizes of 2 or more needed, got {list(means)}, "
            f"{list(sds)} and {list(nums)}"
        )
    df_between, df_within = len(mean) - 1, int(num.sum()) - len(mean)
    between = float(num @ (mean - num @ mean / num.sum()) ** 2) / df_between
    is_zero = sd / np.sqrt(num) <= _ROUNDING * np.abs(mean)
    within = float((num - 1) @ np.where(is_zero, 0, sd) ** 2) / df_within
    f = between / within if within > 0 else math.nan
    return Anova(f, float(stats.f.sf(f, df_between, df_within)), df_between, df_within)


def cohen_dz(differences: ArrayLike) -> float:
    """Mean difference in units of the SD of the differences (not of the scores).

    Example:
        >>> cohen_dz([1.0, 2.0, 3.0])
        2.0
    """
    mean, sd, standard_error = moments(as_vector(differences))
    return math.nan if math.isnan(standard_error) else mean / sd


def hedges_gz(differences: ArrayLike) -> float:
    """Cohen's dz times Hedges' exact small-sample factor J.

    J = Gamma(m/2) / (sqrt(m/2) Gamma((m - 1)/2)) with m = n - 1 (Hedges 1981); NaN for fewer than
    three subjects, where J is not defined.

    Example:
        >>> round(hedges_gz([1.0, 2.0, 3.0]) / 2.0, 4)  # J for 2 df is 1 / sqrt(pi)
        0.5642
    """
    vector = as_vector(differences)
    df = len(vector) - 1
    if df < 2:
        return math.nan
    log_factor = special.gammaln(df / 2) - special.gammaln((df - 1) / 2) - math.log(df / 2) / 2
    return cohen_dz(vector) * math.exp(log_factor)
