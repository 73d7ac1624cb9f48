"""Against full enumeration, R, scipy, and the equivalence of test and interval."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from hemaseg.statistics import resampling
from hemaseg.statistics.closed_forms import t_interval
from hemaseg.statistics.resampling import cluster_bootstrap_interval, sign_flip

R = Path(__file__).parent / "fixtures" / "r"
SKEWED = np.array([0.0, 0.1, 0.2, 0.5, 2.0])

numbers = st.floats(-1, 1).map(lambda value: round(value, 6))
samples = st.lists(numbers, min_size=6, max_size=10).filter(lambda values: len(set(values)) > 1)


def test_sign_flips_of_ten_subjects_agree_with_r() -> None:
    scores = pd.read_csv(R / "scores.csv")
    expected = pd.read_csv(R / "expected.csv").set_index("name")["value"]["sign_flip10.p"]
    assert sign_flip((scores["a"] - scores["b"])[:10]).p == expected


@given(samples)
@settings(max_examples=30)
def test_all_sign_patterns_agree_with_scipy(values: list[float]) -> None:
    result = stats.permutation_test(
        (values, [0.0] * len(values)),
        lambda a, b: abs(float(np.mean(a - b))),
        permutation_type="samples",
        alternative="greater",
        vectorized=False,
        n_resamples=10_000,
    )
    assert sign_flip(values).p == pytest.approx(result.pvalue, rel=1e-12)


@given(samples, st.floats(0.5, 0.95))
@settings(max_examples=50)
def test_interval_holds_exactly_the_shifts_that_the_test_does_not_reject(
    values: list[float], confidence: float
) -> None:
    interval = sign_flip(values, confidence=confidence).interval
    assume(interval.high - interval.low > 1e-3 and confidence < 1 - 2.0 ** (1 - len(values)))
    assume(abs((1 - confidence) * 2 ** len(values) % 1 - 0.5) < 0.49)
    shifted = np.array(values)
    inside, outside = 1e-6, -1e-6
    for limit, sign in ((interval.low, 1), (interval.high, -1)):
        assert sign_flip(shifted - (limit + sign * inside)).p > 1 - confidence
        assert sign_flip(shifted - (limit + sign * outside)).p <= 1 - confidence


def test_random_flips_come_close_to_t_for_normal_differences() -> None:
    values = np.random.default_rng(1).normal(0.2, 1, size=60)
    result, limits = sign_flip(values), t_interval(values)
    assert result.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.015)
    assert result.interval.low == pytest.approx(limits.low, abs=0.02)
    assert result.interval.high == pytest.approx(limits.high, abs=0.02)


@given(st.floats(-10, 10), st.floats(0.1, 10))
@settings(max_examples=20)
def test_intervals_move_and_scale_with_the_values(shift: float, scale: float) -> None:
    values = np.random.default_rng(2).beta(8, 2, size=25)
    subjects = np.arange(25)
    for moved, plain in (
        (sign_flip(scale * values + shift).interval, sign_flip(values).interval),
        (
            cluster_bootstrap_interval(scale * values + shift, subjects),
            cluster_bootstrap_interval(values, subjects),
        ),
    ):
        assert moved.low == pytest.approx(scale * plain.low + shift, abs=1e-9)
        assert moved.high == pytest.approx(scale * plain.high + shift, abs=1e-9)


def test_bootstrap_agrees_with_the_enumeration_of_all_resamples() -> None:
    resamples = np.array(list(product(SKEWED, repeat=5)))
    means, sds = resamples.mean(axis=1), resamples.std(axis=1, ddof=1)
    spread = sds > 1e-12
    studentized = np.where(spread, 0, np.copysign(np.inf, means - SKEWED.mean()))
    studentized[spread] = (means[spread] - SKEWED.mean()) / (sds[spread] / math.sqrt(5))
    # The random quantile must lie between the enumerated ones a Monte-Carlo error away.
    error = 4 * math.sqrt(0.1 * 0.9 / 99_999)
    standard_error = SKEWED.std(ddof=1) / math.sqrt(5)
    found = cluster_bootstrap_interval(
        SKEWED, list("abcde"), confidence=0.8, num_bootstrap=99_999, seed=5
    )
    for limit, tail in ((found.low, 0.9), (found.high, 0.1)):
        quantile = (SKEWED.mean() - limit) / standard_error
        below, above = np.quantile(studentized, [tail - error, tail + error], method="lower")
        assert below - 1e-9 <= quantile <= above + 1e-9


def test_bootstrap_reaches_farther_on_the_side_of_the_tail() -> None:
    values = np.random.default_rng(3).exponential(size=40)
    interval, limits = cluster_bootstrap_interval(values, np.arange(40)), t_interval(values)
    assert interval.high - values.mean() > 1.2 * (values.mean() - interval.low)
    assert interval.high > limits.high
    assert interval.low > limits.low


def test_rows_of_a_subject_are_drawn_together_and_count_once() -> None:
    generator = np.random.default_rng(4)
    subjects = np.repeat(np.arange(20), generator.integers(1, 6, size=20))
    rows = generator.normal(size=len(subjects)) + subjects / 10
    means = [rows[subjects == subject].mean() for subject in range(20)]
    shuffled = generator.permutation(len(rows))
    of_rows = cluster_bootstrap_interval(rows, subjects)
    assert of_rows == cluster_bootstrap_interval(means, np.arange(20))
    of_shuffled = cluster_bootstrap_interval(rows[shuffled], subjects[shuffled])
    assert of_shuffled.low == pytest.approx(of_rows.low, rel=1e-12)
    # Copying every row changes nothing: copies are no new subjects.
    assert cluster_bootstrap_interval(np.tile(means, 3), np.tile(np.arange(20), 3)) == of_rows


def test_seed_fixes_the_result_and_changes_it_little() -> None:
    values = np.random.default_rng(6).normal(size=30)
    assert sign_flip(values, seed=7) == sign_flip(values, seed=7)
    assert sign_flip(values, seed=7) != sign_flip(values, seed=8)
    one, other = (cluster_bootstrap_interval(values, np.arange(30), seed=seed) for seed in (7, 8))
    assert one != other
    assert one.low == pytest.approx(other.low, abs=0.03)


def test_resamples_are_drawn_in_pieces_that_fit_into_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resampling, "_MAX_RESAMPLED_VALUES", 1000)
    values = np.random.default_rng(9).normal(0.3, 1, size=30)
    whole = t_interval(values)
    bootstrap = cluster_bootstrap_interval(values, np.arange(30))
    assert bootstrap.low == pytest.approx(whole.low, abs=0.06)
    assert bootstrap.high == pytest.approx(whole.high, abs=0.06)
    assert sign_flip(values).interval.low == pytest.approx(whole.low, abs=0.03)


@pytest.mark.parametrize("values", [[], [0.3], [0.0] * 8, [0.8 - 0.7] * 8, [1.0, math.inf]])
def test_without_spread_nothing_is_resampled(values: list[float]) -> None:
    flips = sign_flip(values)
    interval = cluster_bootstrap_interval(values, list(range(len(values))))
    assert np.isnan([flips.p, flips.interval.low, flips.interval.high]).all()
    assert np.isnan([interval.low, interval.high]).all()


def test_too_few_subjects_have_a_p_but_no_interval() -> None:
    result = sign_flip([1.0, 2.0, 3.0, 4.0, 5.0])
    assert result.p == 2 / 32
    assert math.isnan(result.interval.low)
    assert not math.isnan(sign_flip([1.0, 2.0, 3.0, 4.0, 5.0], confidence=0.9).interval.low)
    assert math.isnan(cluster_bootstrap_interval([1.0, 2.0, 4.0], [1, 2, 3]).low)


def test_bootstrap_of_nearly_all_ties_is_undefined() -> None:
    # A resample misses the one other value with probability 0.95 ** 20 = 0.36.
    values = [0.0] * 19 + [1.0]
    assert math.isnan(cluster_bootstrap_interval(values, np.arange(20)).high)


def test_wrong_calls_are_refused_with_the_value() -> None:
    with pytest.raises(ValueError, match="for each of 2 values needed, got 3"):
        cluster_bootstrap_interval([1.0, 2.0], ["a", "b", "c"])
    with pytest.raises(ValueError, match="at least 99, got 50"):
        cluster_bootstrap_interval([1.0, 2.0], ["a", "b"], num_bootstrap=50)
    with pytest.raises(ValueError, match="at least 99, got 98"):
        sign_flip([1.0, 2.0], num_bootstrap=98)
    with pytest.raises(ValueError, match="between 0 and 1 needed, got 0"):
        sign_flip([1.0, 2.0], confidence=0)
    with pytest.raises(ValueError, match="1 of 2 are NaN"):
        sign_flip([1.0, math.nan])
