"""The interval of a proportion of subjects."""

import math

from scipy import stats

from hemaseg.statistics.closed_forms import Interval, require_fraction


def wilson_interval(num: float, total: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion; it stays in [0, 1], and has a width at 0 and at all.

    Args:
        num: Subjects with the property, 0 to `total`. A subject observed several times may count in
            part, by its share; shares vary less than yes and no do, so that the interval is then
            rather too wide than too narrow.
        total: All subjects.
        confidence: Of the interval.

    Returns:
        NaN without subjects.

    Example: none of 10 can still be 28 %.
        >>> interval = wilson_interval(0, 10)
        >>> round(interval.low, 3), round(interval.high, 3)
        (0.0, 0.278)

    *Source:* Wilson, J Am Stat Assoc 22 (1927) 209.
    """
    if not 0 <= num <= total:
        raise ValueError(f"0 to {total} subjects needed, got {num}")
    if not total:
        return Interval(math.nan, math.nan)
    share = num / total
    squared = float(stats.norm.ppf((1 + require_fraction(confidence)) / 2)) ** 2 / total
    middle = share + squared / 2
    half = math.sqrt(squared * (share * (1 - share) + squared / 4))
    return Interval(
        max(middle - half, 0.0) / (1 + squared), min((middle + half) / (1 + squared), 1)
    )
