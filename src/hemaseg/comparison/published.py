"""Published tables of means and SDs: their analysis of variance replayed, and what it leaves open.

Only means, SDs and group sizes are needed, so a table can be checked without its data. Such an
analysis treats every observation as independent and every group as separate; what the paper's own
table says is worked out in ``docs/statistics.md``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from hemaseg.errors import ComparisonError
from hemaseg.statistics.closed_forms import Anova, Interval, anova_from_moments, require_fraction

MAX_PER_GROUP = 10_000
"""Group sizes are searched up to this number."""

MAX_GROUPS = 10
"""For which sizes are searched."""


def replay_anova(means: Sequence[float], sds: Sequence[float], n: int | Sequence[int]) -> Anova:
    """One-way ANOVA of independent groups from their printed means, SDs and sizes.

    Args:
        means: One per group.
        sds: Sample SDs (n - 1), one per group, at least one above 0.
        n: Observations per group: one number for all groups, or one per group.

    Raises:
        ComparisonError: The lengths differ, or a number is impossible.

    Example:
        The paper's Table I with 64 batches per model gives the p that it prints:

        >>> result = replay_anova([0.8361, 0.8281, 0.8359], [0.156, 0.1727, 0.131], 64)
        >>> round(result.p, 4), result.df_between, result.df_within
        (0.9455, 2, 189)
    """
    sizes = [n] * len(means) if isinstance(n, int) else list(n)
    if not (len(means) == len(sds) == len(sizes) >= 2):
        raise ComparisonError(
            f"published table: found {len(means)} means, {len(sds)} SDs and {len(sizes)} group "
            "sizes, expected as many of each, two or more. Give one of each per group."
        )
    numbers = [*means, *sds]
    if not all(map(math.isfinite, numbers)) or min(sds) < 0 or max(sds) == 0 or min(sizes) < 2:
        raise ComparisonError(
            f"published table: found means {list(means)}, SDs {list(sds)}, group sizes {sizes}, "
            "expected finite means, SDs of 0 or more and not all 0, group sizes of 2 or more. "
            "Check the numbers."
        )
    return anova_from_moments(means, sds, sizes)


def difference_interval(
    means: tuple[float, float],
    sds: tuple[float, float],
    n: int | tuple[int, int],
    *,
    confidence: float = 0.95,
) -> Interval:
    """Welch's t interval of the difference of two independent means, first minus second.

    "Not significant" says only that this interval holds 0; how far it reaches is what one may
    still have to believe.

    Args:
        means: Of the two groups.
        sds: Sample SDs of the two groups.
        n: Observations per group.
        confidence: In (0, 1).

    Raises:
        ComparisonError: As for `replay_anova`.

    Example:
        The paper's DR minus Dense U-Net, 0.008 with 64 batches each:

        >>> interval = difference_interval((0.8361, 0.8281), (0.156, 0.1727), 64)
        >>> round(interval.low, 3), round(interval.high, 3)
        (-0.05, 0.066)
    """
    sizes = (n, n) if isinstance(n, int) else n
    replay_anova(means, sds, sizes)  # makes the same demands on the numbers
    parts = [sd**2 / size for sd, size in zip(sds, sizes, strict=True)]
    variance = sum(parts)
    df = variance**2 / sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
    half = float(stats.t.ppf((1 + require_fraction(confidence)) / 2, df)) * math.sqrt(variance)
    return Interval(means[0] - means[1] - half, means[0] - means[1] + half)


@dataclass(frozen=True)
class PairDifference:
    """What a table of means leaves open of two of its groups, which are numbered from 1."""

    first: int
    second: int
    difference: float
    interval: Interval


def differences_of_pairs(
    means: Sequence[float], sds: Sequence[float], n: Sequence[int]
) -> list[PairDifference]:
    """Difference and its 95 % interval of each two groups, but for two without any spread.

    Args:
        means: One per group.
        sds: Sample SDs.
        n: Observations per group.

    Raises:
        ComparisonError: As for `replay_anova`.
    """
    return [
        PairDifference(
            *(a + 1, b + 1, means[a] - means[b]),
            difference_interval((means[a], means[b]), (sds[a], sds[b]), (n[a], n[b])),
        )
        for a, b in combinations(range(len(means)), 2)
        if sds[a] or sds[b]
    ]


def num_decimals(numbers: Sequence[float]) -> int:
    """To how many decimals a table was rounded: the most that one of its numbers has.

    >>> num_decimals([0.1727, 0.156, 2.0])
    4
    """
    exponents = (Decimal(repr(number)).normalize().as_tuple().exponent for number in numbers)
    return max([0, *(-exponent for exponent in exponents if isinstance(exponent, int))])


def num_consistent_with(
    p: float, means: Sequence[float], sds: Sequence[float], *, decimals: int
) -> list[int]:
    """Sizes of equal groups for which the ANOVA can print this p, given that all is rounded.

    The printed means, SDs and p stand for every number that rounds to them, so each size gives a
    range of p: from the F of the most distant means and smallest SDs to that of the closest means
    and largest SDs.

    Args:
        p: As printed, in [0, 1].
        means: As printed, one per group, at most `MAX_GROUPS`.
        sds: As printed, one per group.
        decimals: To which all of them are rounded.

    Returns:
        All sizes from 2 to `MAX_PER_GROUP` that are possible, ascending; empty if none is.

    Raises:
        ComparisonError: As for `replay_anova`, or p is not in [0, 1].

    Example:
        >>> means, sds = [0.8361, 0.8281, 0.8359], [0.156, 0.1727, 0.131]
        >>> num_consistent_with(0.9455, means, sds, decimals=4)
        [63, 64, 65]
    """
    replay_anova(means, sds, 2)
    if not 0 <= p <= 1 or len(means) > MAX_GROUPS:
        raise ComparisonError(
            f"published table: found p = {p} and {len(means)} groups, expected p from 0 to 1 and "
            f"at most {MAX_GROUPS} groups. Check the numbers."
        )
    rounding = 0.5 * 10.0**-decimals
    mean, sd = np.asarray(means, dtype=float), np.asarray(sds, dtype=float)
    closest, farthest = _variance_range(mean, rounding)
    sizes = np.arange(2, MAX_PER_GROUP + 1)
    within_low = float((np.maximum(sd - rounding, 0) ** 2).mean())
    within_high = float(((sd + rounding) ** 2).mean())
    df = len(means) - 1, len(means) * (sizes - 1)
    p_high = stats.f.sf(sizes * closest / within_high, *df)
    p_low = stats.f.sf(sizes * farthest / within_low, *df) if within_low > 0 else 0 * sizes
    possible = (p_low <= p + rounding) & (p_high >= p - rounding)
    return [int(size) for size in sizes[possible]]


def _variance_range(mean: NDArray[np.float64], rounding: float) -> tuple[float, float]:
    """Smallest and largest variance of means that each lie within rounding of the given one."""
    # The variance is convex: largest at a corner of the box, smallest with all pulled to a centre.
    corners = mean + rounding * np.array(list(product((-1, 1), repeat=len(mean))))
    pulled = optimize.minimize_scalar(
        lambda centre: float((np.maximum(np.abs(mean - centre) - rounding, 0) ** 2).sum()),
        bounds=(mean.min(), mean.max()),
        method="bounded",
        options={"xatol": 1e-12},
    )
    return float(pulled.fun) / (len(mean) - 1), float(corners.var(axis=1, ddof=1).max())
