"""How many subjects a paired comparison needs; formulas and caveats in ``docs/statistics.md``."""

import math
from collections.abc import Callable

import numpy as np
from scipy import special, stats

MAX_SUBJECTS = 1_000_000
"""Sample sizes are searched up to this number."""


def num_subjects_for_difference(
    *, sd: float, difference: float, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest number of subjects with which a two-sided paired t test has the given power.

    power(n) = P(T^2 > t(1 - alpha/2, n - 1)^2), T^2 noncentral F with 1 and n - 1 degrees of
    freedom and noncentrality n (difference / sd)^2, that is, T noncentral t.

    Args:
        sd: SD of the differences, above 0.
        difference: The true mean difference that is assumed.
        alpha: Level of the test.
        power: Above alpha, below 1.

    Returns:
        A whole number, at least 2; ``inf`` where no number up to `MAX_SUBJECTS` is enough.

    Example:
        >>> num_subjects_for_difference(sd=1.0, difference=0.5)
        34.0
    """
    _require_sizes(alpha, power, sd=sd)
    if difference == 0:
        return math.inf

    def power_of(num: int) -> float:
        critical = stats.t.ppf(1 - alpha / 2, num - 1)
        noncentrality = num * (difference / sd) ** 2
        return float(stats.ncf.sf(critical**2, 1, num - 1, noncentrality))

    return _smallest_number(power_of, power)


def num_subjects_for_equivalence(
    *, sd: float, difference: float, margin: float, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest number of subjects with which the paired TOST has the given power.

    power(n) = E[max(0, F((margin - difference)/se - t s) - F(t s - (margin + difference)/se))],
    F the normal distribution, se = sd / sqrt(n), t = t(1 - alpha, n - 1), and s^2 = chi^2(n - 1) /
    (n - 1) the variance estimate in units of the true one (Phillips 1990, integrated over s).

    Args:
        sd: SD of the differences, above 0.
        difference: The true mean difference that is assumed; 0 is the most favourable one.
        margin: Of equivalence, above 0.
        alpha: Level of each one-sided test.
        power: Above alpha, below 1.

    Returns:
        A whole number, at least 2; ``inf`` where no number up to `MAX_SUBJECTS` is enough, as
        always where the assumed difference is not inside the margin.

    Example:
        >>> num_subjects_for_equivalence(sd=1.0, difference=0.0, margin=0.5)
        36.0
    """
    _require_sizes(alpha, power, sd=sd, margin=margin)
    midpoints = (np.arange(2000) + 0.5) / 2000

    def power_of(num: int) -> float:
        df, root = num - 1, math.sqrt(num) / sd
        bound = stats.t.ppf(1 - alpha, df) * np.sqrt(stats.chi2.ppf(midpoints, df) / df)
        inside = special.ndtr((margin - difference) * root - bound) - special.ndtr(
            bound - (margin + difference) * root
        )
        return float(np.maximum(inside, 0).mean())

    return _smallest_number(power_of, power)


def min_subjects_for_sign_flips(alpha: float = 0.05) -> int:
    """Smallest number of subjects with which the sign-flip test can reject.

    Its smallest two-sided p is that of the observed signs and their opposite, 2 / 2^n.

    Example:
        >>> min_subjects_for_sign_flips(0.05), min_subjects_for_sign_flips(2 / 2**6)
        (6, 7)
    """
    return math.floor(1 - math.log2(alpha)) + 1


def _require_sizes(alpha: float, power: float, **positive: float) -> None:
    """Refuse what is not a level, a power, or a positive finite number."""
    if not 0 < alpha < power < 1:
        raise ValueError(f"0 < alpha < power < 1 needed, got alpha {alpha} and power {power}")
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0 and finite, got {value}")


def _smallest_number(power_of: Callable[[int], float], power: float) -> float:
    """Smallest n in 2 .. MAX_SUBJECTS with power_of(n) >= power, by doubling and bisection."""
    high = 2
    while power_of(high) < power:
        if high == MAX_SUBJECTS:
            return math.inf
        high = min(2 * high, MAX_SUBJECTS)
    low = max(high // 2, 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle) >= power else (middle, high)
    return float(high)
