"""Against R (tests/fixtures/r), statsmodels and scipy to 1e-8, closed forms, and properties."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.oneway import anova_oneway
from statsmodels.stats.weightstats import ttost_paired

from hemaseg.statistics.closed_forms import (
    anova,
    anova_from_moments,
    as_vector,
    cohen_dz,
    friedman,
    hedges_gz,
    holm,
    moments,
    paired_t,
    signed_rank,
    t_interval,
    tost,
    without_noise,
)

R = Path(__file__).parent / "fixtures" / "r"
SCORES = pd.read_csv(R / "scores.csv")
EXPECTED = pd.read_csv(R / "expected.csv").set_index("name")["value"]
PAIRS = [("ab", "a", "b", 0.05), ("ac", "a", "c", 0.05), ("bc", "b", "c", 0.02)]

numbers = st.floats(-1, 1).map(lambda value: round(value, 6))
samples = st.lists(numbers, min_size=2, max_size=30).filter(lambda values: len(set(values)) > 1)


def close(value: Any) -> Any:
    """Equal to 8 digits."""
    return pytest.approx(value, rel=1e-8, abs=1e-12)


def untied(num: int) -> list[float]:
    """The values that make_fixtures.R calls untied."""
    return [math.sin(order * 1.7) + 0.25 + order / 1000 for order in range(1, num + 1)]


@pytest.mark.parametrize(("name", "a", "b", "margin"), PAIRS)
def test_paired_tests_agree_with_r(name: str, a: str, b: str, margin: float) -> None:
    difference = (SCORES[a] - SCORES[b]).to_numpy()
    result = paired_t(difference)
    interval = t_interval(difference)
    equivalence = tost(difference, margin=margin)
    ranks = signed_rank(without_noise(difference))
    found = {
        "mean": result.mean,
        "sd": result.sd,
        "t": result.t,
        "t_p": result.p,
        "t_low": interval.low,
        "t_high": interval.high,
        "t_low_90": t_interval(difference, confidence=0.9).low,
        "tost_lower": equivalence.p_lower,
        "tost_upper": equivalence.p_upper,
        "tost": equivalence.p,
        "wilcoxon_v": ranks.statistic,
        "wilcoxon_p": ranks.p,
    }
    for key, value in found.items():
        assert value == close(EXPECTED[f"{name}.{key}"]), key
    assert result.num_subjects == 24


@pytest.mark.parametrize("num", [12, 49, 50])
def test_signed_rank_is_exact_where_r_is(num: int) -> None:
    result = signed_rank(untied(num))
    assert result.statistic == EXPECTED[f"untied{num}.wilcoxon_v"]
    assert result.p == close(EXPECTED[f"untied{num}.wilcoxon_p"])


def test_anova_agrees_with_r() -> None:
    result = anova([SCORES["a"], SCORES["b"], SCORES["c"][:20]])
    assert result.f == close(EXPECTED["aov.f"])
    assert result.p == close(EXPECTED["aov.p"])
    assert (result.df_between, result.df_within) == (2, 65)


def test_friedman_agrees_with_r() -> None:
    result = friedman(SCORES[["a", "b", "c"]])
    assert result.statistic == close(EXPECTED["friedman.statistic"])
    assert result.p == close(EXPECTED["friedman.p"])
    assert result.num_subjects == 24


def test_holm_agrees_with_r() -> None:
    adjusted = holm([0.01, 0.04, 0.03, 0.005, 0.03, 0.8])
    expected = EXPECTED[[f"holm.{i}" for i in (1, 2, 4, 5, 6, 7)]].to_numpy()
    np.testing.assert_allclose(adjusted, expected, rtol=1e-12)


def test_a_test_that_could_not_be_made_stays_in_the_family_of_holm() -> None:
    # R: p.adjust(c(0.01, 0.04), "holm", n = 4) is 0.04, 0.12.
    adjusted = holm([math.nan, 0.01, 0.04, math.nan])
    np.testing.assert_allclose(adjusted, [math.nan, 0.04, 0.12, math.nan])


@settings(max_examples=30)
@given(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.02, 0.3, 1.0]), min_size=1, max_size=8))
def test_holm_agrees_with_statsmodels_with_ties(p_values: list[float]) -> None:
    expected = multipletests(p_values, method="holm")[1]
    np.testing.assert_allclose(holm(p_values), expected, rtol=1e-12)


def test_holm_of_nothing_is_nothing() -> None:
    assert holm([]).tolist() == []
    assert np.isnan(holm([math.nan, math.nan])).all()


@given(samples)
def test_paired_t_agrees_with_scipy(values: list[float]) -> None:
    result, expected = paired_t(values), stats.ttest_1samp(values, 0)
    interval = expected.confidence_interval(0.9)
    assert result.t == close(expected.statistic)
    assert result.p == close(expected.pvalue)
    assert t_interval(values, confidence=0.9).low == close(interval.low)
    assert t_interval(values, confidence=0.9).high == close(interval.high)


@given(samples, st.floats(0.01, 1))
def test_tost_agrees_with_statsmodels_and_with_its_interval(
    values: list[float], margin: float
) -> None:
    result = tost(values, margin=margin)
    p, lower, upper = ttost_paired(np.array(values), np.zeros(len(values)), -margin, margin)
    assert (result.p, result.p_lower, result.p_upper) == (
        close(p),
        close(lower[1]),
        close(upper[1]),
    )
    assume(abs(result.p - 0.05) > 1e-9)
    interval = t_interval(values, confidence=0.9)
    assert (result.p < 0.05) == (-margin < interval.low and interval.high < margin)


@given(st.lists(samples, min_size=2, max_size=4))
def test_anova_agrees_with_statsmodels_and_with_its_moments(groups: list[list[float]]) -> None:
    result = anova(groups)
    expected = anova_oneway(groups, use_var="equal")
    assert result.f == pytest.approx(expected.statistic, rel=1e-8, abs=1e-9)
    assert result.p == pytest.approx(expected.pvalue, rel=1e-8, abs=1e-9)
    means = [float(np.mean(group)) for group in groups]
    sds = [float(np.std(group, ddof=1)) for group in groups]
    assert anova_from_moments(means, sds, [len(group) for group in groups]) == result


def test_anova_of_two_groups_is_the_square_of_t() -> None:
    a, b = SCORES["a"].to_numpy(), SCORES["b"].to_numpy()
    t = stats.ttest_ind(a, b)
    assert anova([a, b]).f == close(t.statistic**2)
    assert anova([a, b]).p == close(t.pvalue)


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=2, max_size=12))
def test_friedman_agrees_with_scipy_with_ties(rows: list[tuple[int, int, int]]) -> None:
    assume(any(len(set(row)) > 1 for row in rows))
    result = friedman(rows)
    expected = stats.friedmanchisquare(*np.array(rows).T)
    assert (result.statistic, result.p) == (close(expected.statistic), close(expected.pvalue))


@given(samples)
def test_swapping_the_arms_changes_signs_only(values: list[float]) -> None:
    swapped = [-value for value in values]
    assert paired_t(swapped).t == close(-paired_t(values).t)
    assert paired_t(swapped).p == close(paired_t(values).p)
    assert tost(swapped, margin=0.1).p == close(tost(values, margin=0.1).p)
    ranks, swapped_ranks = signed_rank(values), signed_rank(swapped)
    assert swapped_ranks.rank_biserial == close(-ranks.rank_biserial)
    assert swapped_ranks.p == close(ranks.p)
    assert cohen_dz(swapped) == close(-cohen_dz(values))


@given(samples)
def test_rank_biserial_is_the_difference_of_favourable_and_unfavourable_ranks(
    values: list[float],
) -> None:
    result = signed_rank(values)
    num = result.num_nonzero
    assert -1 <= result.rank_biserial <= 1
    assert result.rank_biserial == close(4 * result.statistic / (num * (num + 1)) - 1)


def test_signed_rank_takes_infinite_differences_as_the_largest() -> None:
    finite = [1.0, -2.0, 3.0, 4.0, -9.0, 9.0]
    infinite = [1.0, -2.0, 3.0, 4.0, -math.inf, math.inf]
    assert signed_rank(infinite) == signed_rank(finite)


def test_signed_rank_drops_zeros_and_sees_ties_without_noise() -> None:
    assert signed_rank([0.0, 1.0, 2.0, 3.0]).num_nonzero == 3
    # As R: normal once a zero was dropped, with variance n (n + 1) (2 n + 1) / 24 of n = 5.
    p = 2 * stats.norm.sf((10 - 7.5 - 0.5) / math.sqrt(13.75))
    assert signed_rank([0.0, 1.0, 2.0, 3.0, 4.0, -5.0]).p == close(p)
    assert 0.8 - 0.7 != 0.7 - 0.6
    assert signed_rank(without_noise([0.8 - 0.7, 0.6 - 0.7])).rank_biserial == 0.0
    assert without_noise([math.inf, -1e-17, 0.25]).tolist() == [math.inf, 0.0, 0.25]


def test_effect_sizes_in_closed_form() -> None:
    assert cohen_dz([0.0, 2.0]) == close(1 / math.sqrt(2))
    # J = Gamma(m/2) / (sqrt(m/2) Gamma((m-1)/2)) for m = 4: 1 / (sqrt(2) * sqrt(pi) / 2)
    assert hedges_gz([1.0, 2.0, 3.0, 4.0, 5.0]) == close(
        3 / math.sqrt(2.5) / math.sqrt(2) / (math.sqrt(math.pi) / 2)
    )
    many = np.random.default_rng(0).normal(0.1, 1, size=400)
    # The usual approximation of J.
    assert hedges_gz(many) == pytest.approx(cohen_dz(many) * (1 - 3 / (4 * 399 - 1)), rel=1e-5)


CONSTANT = [0.8 - 0.7, 0.8 - 0.7, 0.8 - 0.7]


@pytest.mark.parametrize("values", [[], [0.3], [0.0, 0.0], CONSTANT, [1.0, math.inf]])
def test_without_spread_nothing_is_tested(values: list[float]) -> None:
    interval, result = t_interval(values), paired_t(values)
    undefined = [interval.low, interval.high, result.t, result.p, tost(values, margin=1).p]
    assert np.isnan([*undefined, cohen_dz(values), hedges_gz(values)]).all()


def test_moments_of_few_values() -> None:
    np.testing.assert_equal(moments(np.array([])), (math.nan,) * 3)
    np.testing.assert_equal(moments(np.array([0.3])), (0.3, math.nan, math.nan))
    np.testing.assert_equal(moments(np.array([1.0, 1.0])), (1.0, 0.0, math.nan))
    np.testing.assert_equal(moments(np.array([1.0, math.inf])), (math.nan,) * 3)


def test_rank_tests_without_differences_are_undefined() -> None:
    assert signed_rank([0.0, 0.0]).num_nonzero == 0
    assert math.isnan(signed_rank([0.0, 0.0]).p)
    assert math.isnan(signed_rank([]).rank_biserial)
    assert math.isnan(friedman([[1, 1, 1], [2, 2, 2]]).p)
    assert math.isnan(friedman([[1, 2], [3, 4]]).p)
    assert math.isnan(friedman(np.empty((0, 3))).p)


def test_anova_without_variance_is_undefined() -> None:
    assert math.isnan(anova([[1, 1], [2, 2]]).f)
    assert math.isnan(anova([[1, 1], [2, 2]]).p)
    # The SD of three 0.1 is 1.7e-17 in binary arithmetic.
    assert math.isnan(anova([[0.1] * 3, [0.3] * 3]).f)
    assert anova([[0.1] * 3, [0.3, 0.3, 0.4]]).f == close(49.0)


def test_wrong_calls_are_refused_with_the_value() -> None:
    with pytest.raises(ValueError, match=r"1 of 3 are NaN"):
        as_vector([1.0, math.nan, 2.0])
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
        as_vector([[1.0, 2.0]])
    with pytest.raises(ValueError, match=r"got \[0\.5, 1\.2\]"):
        holm([0.5, 1.2])
    with pytest.raises(ValueError, match=r"between 0 and 1 needed, got 95"):
        t_interval([1.0, 2.0], confidence=95)
    with pytest.raises(ValueError, match=r"margin must be above 0 and finite, got 0"):
        tost([1.0, 2.0], margin=0)
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        friedman([1, 2, 3])
    with pytest.raises(ValueError, match=r"got \[3, 1\]"):
        anova([[1, 2, 3], [4]])
    with pytest.raises(ValueError, match=r"got 2, 1 and 2"):
        anova_from_moments([1, 2], [1], [3, 3])
    with pytest.raises(ValueError, match=r"got \[1, 2\], \[1, -1\] and \[3, 3\]"):
        anova_from_moments([1, 2], [1, -1], [3, 3])
