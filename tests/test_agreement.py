"""Against Bland and Altman's peak flows, integrals, simulation and statsmodels; invariances."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from statsmodels.api import OLS, add_constant

from hemaseg.statistics.agreement import (
    Concordance,
    Limits,
    concordance,
    limits_of_agreement,
    proportional_bias,
)
from hemaseg.statistics.closed_forms import Interval

NAN = math.nan
UNDEFINED = Interval(NAN, NAN)

# First readings of 17 subjects by two peak flow meters, L/min (Bland and Altman 1986, table 1).
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]

volumes = st.lists(
    st.tuples(st.integers(0, 900), st.integers(0, 900)), min_size=4, max_size=20
).filter(lambda pairs: min(len({pair[side] for pair in pairs}) for side in (0, 1)) > 1)


def test_limits_of_the_peak_flows_are_those_of_bland_and_altman() -> None:
    """They print -2.1 L/min, SD 38.8, limits with 2 SD, and -22.0 to 17.8 for the bias."""
    found = limits_of_agreement(np.subtract(WRIGHT, MINI))
    assert (round(found.bias, 1), round(found.sd, 1)) == (-2.1, 38.8)
    assert round(found.bias_interval.low, 1) == -22.0
    assert round(found.bias_interval.high, 1) == 17.8
    assert found.low == pytest.approx(-2.1176 - 1.959964 * 38.7651, abs=1e-3)
    assert found.high == pytest.approx(-2.1176 + 1.959964 * 38.7651, abs=1e-3)
    # Their interval, limit -+ t sqrt(3 / n) SD, is the exact one for large n and short outside.
    half = stats.t.ppf(0.975, 16) * math.sqrt(3 / 17) * 38.7651
    assert found.high_interval.low == pytest.approx(found.high - half, abs=10)
    assert found.high_interval.high > found.high + half


@pytest.mark.parametrize("num", [3, 17, 400])
def test_interval_of_a_limit_covers_as_an_integral_says(num: int) -> None:
    """The chance, over the distribution of the SD, that the interval's ends enclose 1.96 sigma."""
    differences = stats.norm.ppf((np.arange(num) + 0.5) / num)
    found = limits_of_agreement(differences, confidence=0.9)
    ends = [found.high_interval.low, found.high_interval.high]
    df, target = num - 1, stats.norm.ppf(0.975)
    for end, expected in zip(ends, (0.95, 0.05), strict=True):
        steps = (end - found.bias) / found.sd

        def below(sd: float, steps: float = steps) -> float:
            """P(mean + steps * sd < target) times the density of the SD, sigma 1."""
            return float(
                stats.norm.cdf((target - steps * sd) * math.sqrt(num))
                * stats.chi2.pdf(df * sd**2, df)
                * 2
                * df
                * sd
            )

        chance = integrate.quad(below, 0, 8, points=[1], limit=400)[0]
        assert chance == pytest.approx(expected, abs=1e-6)


def test_exact_interval_nears_the_usual_one_for_many_subjects() -> None:
    differences = np.random.default_rng(1).normal(2, 3, 5000)
    found = limits_of_agreement(differences)
    half = 1.96 * math.sqrt(1 / 5000 + 1.96**2 / (2 * 4999)) * found.sd
    assert found.low_interval.low == pytest.approx(found.low - half, abs=0.01)
    assert found.low_interval.high == pytest.approx(found.low + half, abs=0.01)


@given(st.lists(st.integers(-50, 50), min_size=3, max_size=20).filter(lambda v: len(set(v)) > 1))
def test_limits_move_scale_and_turn_with_the_differences(values: list[int]) -> None:
    found = limits_of_agreement(values)
    other = limits_of_agreement([5 - 2 * value for value in values])
    assert other.bias == pytest.approx(5 - 2 * found.bias)
    assert other.sd == pytest.approx(2 * found.sd)
    assert other.low == pytest.approx(5 - 2 * found.high)
    assert other.low_interval.low == pytest.approx(5 - 2 * found.high_interval.high)
    assert other.low_interval.high == pytest.approx(5 - 2 * found.high_interval.low)


def test_limits_without_spread_or_with_too_few_subjects_are_undefined() -> None:
    nothing = Limits(NAN, UNDEFINED, NAN, NAN, UNDEFINED, NAN, UNDEFINED)
    for values in ([], [1.0], [1.0, 2.0], [1.0, 2.0, math.inf]):
        np.testing.assert_equal(astuple(limits_of_agreement(values)), astuple(nothing))
    constant = limits_of_agreement([0.5, 0.5, 0.5])
    assert (constant.bias, constant.sd) == (0.5, 0.0)
    assert math.isnan(constant.low)
    assert math.isnan(constant.high_interval.high)
    with pytest.raises(ValueError, match="1 of 3 are NaN"):
        limits_of_agreement([1.0, NAN, 2.0])


def test_concordance_by_hand() -> None:
    # Means 2 and 3, both variances 2/3, covariance 1/3: (2 / 3) / (4 / 3 + 1).
    assert concordance([1, 2, 3], [2, 4, 3]).coefficient == pytest.approx(2 / 7)
    assert round(concordance(WRIGHT, MINI).coefficient, 3) == 0.943


def test_variance_of_concordance_is_that_of_simulated_normal_pairs() -> None:
    """Shift, scale and correlation all differ from agreement, so that each term counts."""
    rng = np.random.default_rng(7)
    num, shift, scale, correlation = 400, 1.5, 1.5, 0.8
    references = rng.normal(size=(2000, num))
    noise = rng.normal(size=(2000, num)) * math.sqrt(1 - correlation**2)
    predictions = scale * (correlation * references + noise) + shift
    found = [concordance(x, y) for x, y in zip(predictions, references, strict=True)]
    z = [math.atanh(one.coefficient) for one in found]
    ends = np.arctanh([[one.interval.low, one.interval.high] for one in found])
    half = float(np.diff(ends).mean()) / 2
    assert half / 1.959964 == pytest.approx(float(np.std(z)), rel=0.06)
    # The population's own coefficient.
    expected = 2 * scale * correlation / (scale**2 + 1 + shift**2)
    assert float(np.mean(np.tanh(z))) == pytest.approx(expected, abs=0.002)


@given(volumes)
def test_concordance_is_symmetric_and_at_most_the_correlation(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, dtype=float).T
    found = concordance(x, y)
    assert found.coefficient == pytest.approx(concordance(y, x).coefficient, abs=1e-12)
    assert found.coefficient == pytest.approx(
        concordance(3 * x + 7, 3 * y + 7).coefficient, abs=1e-9
    )
    correlation = float(np.corrcoef(x, y)[0, 1])
    assert abs(found.coefficient) <= abs(correlation) + 1e-9
    if not math.isnan(found.interval.low):
        assert -1 <= found.interval.low <= found.coefficient + 1e-12
        assert found.coefficient <= found.interval.high + 1e-12 <= 1 + 2e-12


def test_concordance_without_spread_is_undefined_and_equal_pairs_have_no_interval() -> None:
    nothing = Concordance(NAN, UNDEFINED)
    pairs: list[tuple[list[float], list[float]]] = [
        ([], []),
        ([1, 2], [1, 3]),
        ([0, 0, 0], [1, 2, 3]),
        ([1, 2, 3], [4, 4, 4]),
        ([1, 2, math.inf], [1, 2, 3]),
    ]
    for predictions, references in pairs:
        np.testing.assert_equal(astuple(concordance(predictions, references)), astuple(nothing))
    equal = concordance([1, 2, 4], [1, 2, 4])
    assert equal.coefficient == pytest.approx(1.0)
    with pytest.raises(ValueError, match="got 3 and 2"):
        concordance([1, 2, 3], [1, 2])


@given(volumes)
def test_proportional_bias_agrees_with_statsmodels(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, dtype=float).T
    found = proportional_bias(x, y)
    if math.isnan(found.slope):
        assert len(set((x - y).tolist())) == 1 or len(set((x + y).tolist())) == 1
        return
    fit = OLS(x - y, add_constant((x + y) / 2)).fit()
    assert found.slope == pytest.approx(fit.params[1], rel=1e-8, abs=1e-10)
    if fit.ssr > 1e-6:  # otherwise rounding decides about p
        assert found.p == pytest.approx(fit.pvalues[1], rel=1e-6, abs=1e-10)


def test_bias_in_proportion_is_its_slope_and_a_constant_one_has_none() -> None:
    found = proportional_bias([0.8, 1.6, 2.4, 4.0], [1.0, 2.0, 3.0, 5.0])
    assert found.slope == pytest.approx(-0.2 / 0.9)
    assert found.p < 1e-6
    for predictions, references in (
        ([2, 3, 4], [1, 2, 3]),
        ([1, 2], [2, 2]),
        ([1, 2, 3], [3, 2, 1]),
    ):
        np.testing.assert_equal(astuple(proportional_bias(predictions, references)), (NAN, NAN))
