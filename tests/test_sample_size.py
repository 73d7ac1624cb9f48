"""Against R's power.t.test and integrate (tests/fixtures/r), statsmodels, and simulation."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower

from hemaseg.statistics.sample_size import (
    MAX_SUBJECTS,
    num_subjects_for_difference,
    num_subjects_for_equivalence,
)

POWER = pd.read_csv(Path(__file__).parent / "fixtures" / "r" / "power.csv")


@pytest.mark.parametrize("row", list(POWER[POWER["test"] == "difference"].itertuples()))
def test_difference_agrees_with_r(row: "pd.Series[float]") -> None:
    found = num_subjects_for_difference(sd=row.sd, difference=row.difference, alpha=row.alpha)
    assert found == row.n


@pytest.mark.parametrize("row", list(POWER[POWER["test"] == "equivalence"].itertuples()))
def test_equivalence_agrees_with_r(row: "pd.Series[float]") -> None:
    found = num_subjects_for_equivalence(
        sd=row.sd, difference=row.difference, margin=row.margin, alpha=row.alpha
    )
    assert found == row.n


@given(st.floats(0.05, 1), st.sampled_from([0.05 / 3, 0.05]), st.sampled_from([0.5, 0.9]))
@settings(max_examples=40)
def test_difference_agrees_with_statsmodels(effect: float, alpha: float, power: float) -> None:
    num = int(num_subjects_for_difference(sd=1, difference=effect, alpha=alpha, power=power))
    known = TTestPower()
    assert known.power(effect, num, alpha) >= power - 1e-9
    assert num == 2 or known.power(effect, num - 1, alpha) < power + 1e-9


def test_equivalence_has_the_promised_power_in_a_simulation() -> None:
    num = int(num_subjects_for_equivalence(sd=0.1, difference=0.01, margin=0.04, alpha=0.05))
    generator = np.random.default_rng(0)
    samples = generator.normal(0.01, 0.1, size=(40_000, num))
    half = stats.t.ppf(0.95, num - 1) * samples.std(axis=1, ddof=1) / math.sqrt(num)
    means = samples.mean(axis=1)
    power = ((means - half > -0.04) & (means + half < 0.04)).mean()
    assert power == pytest.approx(0.8, abs=0.012)


@given(st.floats(-0.09, 0.09), st.floats(0.05, 0.3))
@settings(max_examples=25)
def test_equivalence_needs_more_subjects_off_centre_and_ignores_the_sign(
    difference: float, sd: float
) -> None:
    at_zero, off, mirrored = (
        num_subjects_for_equivalence(sd=sd, difference=true, margin=0.1)
        for true in (0.0, difference, -difference)
    )
    assert off >= at_zero
    assert off == mirrored


def test_impossible_sizes_are_infinite_and_easy_ones_two() -> None:
    assert num_subjects_for_difference(sd=1, difference=0) == math.inf
    assert num_subjects_for_difference(sd=1, difference=1e-5) == math.inf
    assert num_subjects_for_difference(sd=1e-9, difference=1) == 2
    assert num_subjects_for_equivalence(sd=1, difference=0.5, margin=0.5) == math.inf
    assert num_subjects_for_equivalence(sd=1, difference=0.6, margin=0.5) == math.inf
    assert num_subjects_for_equivalence(sd=1e-9, difference=0, margin=0.5) == 2
    # 8 / 0.00285^2 is just below a million.
    assert 900_000 < num_subjects_for_difference(sd=1, difference=0.0029) < MAX_SUBJECTS


def test_wrong_calls_are_refused_with_the_value() -> None:
    with pytest.raises(ValueError, match="sd must be above 0 and finite, got 0"):
        num_subjects_for_difference(sd=0, difference=1)
    with pytest.raises(ValueError, match="margin must be above 0 and finite, got nan"):
        num_subjects_for_equivalence(sd=1, difference=0, margin=math.nan)
    with pytest.raises(ValueError, match=r"got alpha 0\.9 and power 0\.8"):
        num_subjects_for_difference(sd=1, difference=1, alpha=0.9)
