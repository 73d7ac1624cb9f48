"""How well two measurements of the same subjects agree: bias, limits, concordance.

Arrays in, small frozen results out, one number per subject; NaN is refused, as in `closed_forms`.
Everything is NaN for fewer than three subjects and for an infinite value. Why these formulas and
not others: ``docs/statistics.md``.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hemaseg.statistics.closed_forms import (
    Interval,
    as_vector,
    moments,
    require_fraction,
    t_interval,
)

_NUM_SDS = float(stats.norm.ppf(0.975))  # from the bias to a limit of agreement
_MIN_SUBJECTS = 3


@dataclass(frozen=True)
class Limits:
    """Bias and 95 % limits of agreement, each with its confidence interval, in the unit given."""

    bias: float
    """Mean of the differences."""
    bias_interval: Interval
    sd: float
    """SD (n - 1) of the differences."""
    low: float
    low_interval: Interval
    high: float
    high_interval: Interval


@dataclass(frozen=True)
class Concordance:
    """Lin's concordance correlation coefficient, -1 to 1."""

    coefficient: float
    interval: Interval


@dataclass(frozen=True)
class Slope:
    """Least-squares slope of the differences on the means, and the p that it is 0 (two-sided)."""

    slope: float
    p: float


def limits_of_agreement(differences: ArrayLike, *, confidence: float = 0.95) -> Limits:
    """Bland and Altman's limits, bias -+ 1.96 SD: about 95 % of new differences lie between them.

    The interval of the bias is Student's, that of a limit the exact one for normal differences: its
    distance from the bias in standard errors follows the noncentral t distribution with n - 1
    degrees of freedom and noncentrality 1.96 sqrt(n). It is longer to the outside.

    Args:
        differences: One per subject.
        confidence: Of the three intervals; the limits themselves are always those of 95 %.

    Returns:
        NaN as the module says; differences that are all the same have a bias and an SD alone.

    Example:
        >>> found = limits_of_agreement([-1.0, 0.0, 1.0, 2.0])
        >>> round(found.low, 2), round(found.high, 2)  # 0.5 -+ 1.96 * 1.291
        (-2.03, 3.03)
        >>> round(found.high_interval.low, 2), round(found.high_interval.high, 2)
        (1.58, 10.45)

    *Source:* Bland and Altman, Lancet 1986; the exact interval: Carkeet, Optom Vis Sci 2015.
    """
    vector = _enough(as_vector(differences))
    mean, sd, standard_error = moments(vector)
    half = math.nan if math.isnan(standard_error) else _NUM_SDS * sd
    tail = (1 - require_fraction(confidence)) / 2
    num = max(len(vector), 2)
    near, far = (
        float(stats.nct.ppf(quantile, num - 1, _NUM_SDS * math.sqrt(num))) * standard_error
        for quantile in (tail, 1 - tail)
    )
    return Limits(
        bias=mean,
        bias_interval=t_interval(vector, confidence=confidence),
        sd=sd,
        low=mean - half,
        low_interval=Interval(mean - far, mean - near),
        high=mean + half,
        high_interval=Interval(mean + near, mean + far),
    )


def concordance(
    predictions: ArrayLike, references: ArrayLike, *, confidence: float = 0.95
) -> Concordance:
    """How close pairs lie to the line of equality, relative to how far they spread along it.

        2 cov / (variance of predictions + variance of references + (difference of means)^2)

    with moments over n. The interval is normal on Fisher's z scale, with Lin's variance as
    corrected in 2000.

    Args:
        predictions: One per subject.
        references: As many, of the same subjects.
        confidence: Of the interval.

    Returns:
        NaN as the module says, and where either side is constant; no interval for pairs that are
        all equal, where z is infinite.

    Example: the correlation is 1, but every prediction is 1 too high.
        >>> concordance([2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0]).coefficient  # 2.5 / 3.5
        0.7142857142857143

    *Source:* Lin, Biometrics 45 (1989) 255, and its correction, Biometrics 56 (2000) 324.
    """
    x, y = _pairs(predictions, references)
    undefined = Concordance(math.nan, Interval(math.nan, math.nan))
    if _is_constant(x) or _is_constant(y):
        return undefined
    product = float(x.std() * y.std())
    shift = float(x.mean() - y.mean())
    correlation = float((x - x.mean()) @ (y - y.mean())) / len(x) / product
    accuracy = 2 * product / (float(x.var() + y.var()) + shift**2)
    coefficient = accuracy * correlation
    if abs(coefficient) >= 1:
        return Concordance(coefficient, undefined.interval)
    location = shift**2 / product
    variance = accuracy**2 * (1 - correlation**2) * (1 - coefficient**2)
    variance += 2 * accuracy * coefficient**2 * (1 - coefficient) * location
    variance -= (accuracy * coefficient * location) ** 2 / 2
    # Lin divides by the correlation, which cancels against the coefficient's own: 0 is no harm.
    error = math.sqrt(max(variance, 0.0) / (len(x) - 2)) / (1 - coefficient**2)
    half = float(stats.norm.ppf((1 + require_fraction(confidence)) / 2)) * error
    z = math.atanh(coefficient)
    return Concordance(coefficient, Interval(math.tanh(z - half), math.tanh(z + half)))


def proportional_bias(predictions: ArrayLike, references: ArrayLike) -> Slope:
    """Whether predictions minus references grow with what is measured, the mean of the two.

    Not with the reference: a difference correlates with either of its terms by itself (Bland and
    Altman, Lancet 1995). The p is that of Student's t test of the slope.

    Args:
        predictions: One per subject.
        references: As many, of the same subjects.

    Returns:
        NaN as the module says, and where the means or the differences are constant.

    Example: a fifth too much of everything, 0.2 / 1.1.
        >>> round(proportional_bias([1.2, 2.4, 3.6], [1.0, 2.0, 3.0]).slope, 3)
        0.182
    """
    x, y = _pairs(predictions, references)
    means, differences = (x + y) / 2, x - y
    if _is_constant(means) or _is_constant(differences):
        return Slope(math.nan, math.nan)
    fit = stats.linregress(means, differences)
    return Slope(float(fit.slope), float(fit.pvalue))


def _pairs(
    predictions: ArrayLike, references: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both sides of the same subjects; nothing if they are too few."""
    x, y = as_vector(predictions), as_vector(references)
    if len(x) != len(y):
        raise ValueError(f"as many predictions as references needed, got {len(x)} and {len(y)}")
    return _enough(x), _enough(y)


def _enough(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector if len(vector) >= _MIN_SUBJECTS else vector[:0]


def _is_constant(vector: NDArray[np.float64]) -> bool:
    """No spread that can be told from rounding; also without values."""
    return math.isnan(moments(vector)[2])
