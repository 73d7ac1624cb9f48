"""The paper's Table I replayed, and against scipy on data with exactly the printed moments."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from hemaseg.comparison.published import (
    difference_interval,
    differences_of_pairs,
    num_consistent_with,
    num_decimals,
    replay_anova,
)
from hemaseg.errors import ComparisonError

MEANS = [0.8361, 0.8281, 0.8359]
SDS = [0.156, 0.1727, 0.131]


def group(mean: float, sd: float, num: int) -> NDArray[np.float64]:
    """Values with exactly this mean and SD."""
    values = np.random.default_rng(num).normal(size=num)
    return np.asarray(mean + sd * (values - values.mean()) / values.std(ddof=1))


def test_the_paper_has_its_p_with_64_batches_and_not_with_its_slices() -> None:
    assert round(replay_anova(MEANS, SDS, 64).p, 4) == 0.9455
    assert round(replay_anova(MEANS, SDS, 497).p, 3) == 0.647


def test_only_about_63_batches_per_model_give_the_printed_p() -> None:
    assert math.ceil(497 / 8) == 63
    assert num_consistent_with(0.9455, MEANS, SDS, decimals=4) == [63, 64, 65]
    assert 497 in num_consistent_with(0.647, MEANS, SDS, decimals=3)


def test_not_significant_leaves_room_for_six_points_of_dice() -> None:
    interval = difference_interval((MEANS[0], MEANS[1]), (SDS[0], SDS[1]), 64)
    assert (interval.high + interval.low) / 2 == pytest.approx(0.008)
    assert (interval.high - interval.low) / 2 == pytest.approx(0.0576, abs=5e-5)


def test_replay_agrees_with_the_analysis_of_data_with_these_moments() -> None:
    sizes = [10, 20, 31]
    groups = [group(*moments) for moments in zip(MEANS, SDS, sizes, strict=True)]
    result, expected = replay_anova(MEANS, SDS, sizes), stats.f_oneway(*groups)
    assert result.f == pytest.approx(expected.statistic, rel=1e-8)
    assert result.p == pytest.approx(expected.pvalue, rel=1e-8)
    assert (result.df_between, result.df_within) == (2, 58)


def test_interval_agrees_with_welch_in_scipy() -> None:
    interval = difference_interval((0.8, 0.7), (0.1, 0.3), (12, 30), confidence=0.9)
    test = stats.ttest_ind(group(0.8, 0.1, 12), group(0.7, 0.3, 30), equal_var=False)
    expected = test.confidence_interval(0.9)
    assert interval.low == pytest.approx(expected.low, rel=1e-8)
    assert interval.high == pytest.approx(expected.high, rel=1e-8)


def test_each_pair_has_its_interval_but_two_groups_without_spread() -> None:
    one, two = differences_of_pairs([0.9, 0.8, 0.7], [0.1, 0.0, 0.0], [10, 20, 30])
    assert (one.first, one.second, two.first, two.second) == (1, 2, 1, 3)
    assert one.difference == pytest.approx(0.1)
    assert two.interval == difference_interval((0.9, 0.7), (0.1, 0.0), (10, 30))


def test_decimals_of_a_table_are_those_of_its_longest_number() -> None:
    assert [num_decimals(numbers) for numbers in ([0.5, 0.25], [3.0], [1e-05], [20.0, 1.5])] == [
        *(2, 0, 5, 1)
    ]


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=4),
    st.floats(0.05, 0.3),
    st.integers(2, 300),
    st.integers(2, 5),
)
@settings(max_examples=60)
def test_the_true_size_is_always_consistent(
    means: list[float], sd: float, num: int, decimals: int
) -> None:
    sds = [sd * (1 + 0.1 * order) for order in range(len(means))]
    p = replay_anova(means, sds, num).p
    printed_means = [round(mean, decimals) for mean in means]
    printed_sds = [round(value, decimals) for value in sds]
    assume(max(printed_sds) > 0)
    found = num_consistent_with(round(p, decimals), printed_means, printed_sds, decimals=decimals)
    assert num in found
    assert found == list(range(found[0], found[-1] + 1))


def test_a_wrong_p_is_consistent_with_no_size() -> None:
    assert num_consistent_with(0.9999, [0.1, 0.9], [0.01, 0.01], decimals=4) == []
    # All values equal within rounding: any size can print 1.
    assert len(num_consistent_with(1.0, [0.5, 0.5], [0.0, 0.1], decimals=1)) == 9999
    # SDs that may all be 0 in truth: F has no upper limit.
    assert 2 in num_consistent_with(0.0, [0.1, 0.9], [0.0, 0.04], decimals=1)


@pytest.mark.parametrize(
    ("means", "sds", "n", "message"),
    [
        ([0.8, 0.7], [0.1], 5, "found 2 means, 1 SDs and 2 group sizes"),
        ([0.8, 0.7], [0.1, 0.1], [5], "found 2 means, 2 SDs and 1 group sizes"),
        ([0.8], [0.1], 5, "found 1 means, 1 SDs and 1 group sizes"),
        ([0.8, math.nan], [0.1, 0.1], 5, r"means \[0\.8, nan\]"),
        ([0.8, 0.7], [0.1, -0.1], 5, r"SDs \[0\.1, -0\.1\]"),
        ([0.8, 0.7], [0.0, 0.0], 5, r"SDs \[0\.0, 0\.0\]"),
        ([0.8, 0.7], [0.1, 0.1], 1, r"group sizes \[1, 1\]"),
    ],
)
def test_impossible_tables_are_refused(
    means: list[float], sds: list[float], n: int | list[int], message: str
) -> None:
    with pytest.raises(ComparisonError, match=message):
        replay_anova(means, sds, n)


def test_impossible_searches_are_refused() -> None:
    with pytest.raises(ComparisonError, match=r"found p = 1\.5 and 3 groups"):
        num_consistent_with(1.5, MEANS, SDS, decimals=4)
    with pytest.raises(ComparisonError, match=r"found p = 0\.5 and 11 groups"):
        num_consistent_with(0.5, [0.5] * 11, [0.1] * 11, decimals=4)
