import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit

from hemaseg.metrics.calibration import (
    CONTESTED_PROBABILITY,
    NUM_BINS,
    TEMPERATURE_RANGE,
    LogitCounts,
    calibrate,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
)

Pixels = tuple[NDArray[np.float64], NDArray[np.bool_]]


def drawn(temperature: float, num: int = 200_000, seed: int = 0) -> Pixels:
    """Logits that are too large by the factor `temperature`, and references drawn from them."""
    random = np.random.default_rng(seed)
    logits = random.normal(-2, 2, num)
    return logits * temperature, random.random(num) < expit(logits)


def counted(*parts: Pixels) -> LogitCounts:
    counts = LogitCounts()
    for logits, references in parts:
        counts.add(logits, references)
    return counts


def test_likelihood_by_hand() -> None:
    logits, references = np.array([math.log(3), -math.log(4)]), np.array([1, 0])
    expected = -(math.log(0.75) + math.log(0.8)) / 2
    assert negative_log_likelihood(logits, references) == pytest.approx(expected)
    weighted = negative_log_likelihood(logits, references, np.array([3, 1]))
    assert weighted == pytest.approx(-(3 * math.log(0.75) + math.log(0.8)) / 4)
    halved = negative_log_likelihood(2 * logits, references, temperature=2.0)
    assert halved == pytest.approx(expected)
    assert negative_log_likelihood(np.array([1e4, -1e4]), np.array([1, 0])) == 0
    assert math.isnan(negative_log_likelihood(np.array([]), np.array([])))


def test_calibration_error_by_hand() -> None:
    # Two bins: 4 pixels at 0.1 of which one is lesion, 6 at 0.9 of which all are.
    probabilities = np.repeat([0.1, 0.9], [4, 6])
    references = np.array([1, 0, 0, 0] + [1] * 6)
    expected = 0.4 * 0.15 + 0.6 * 0.1
    assert expected_calibration_error(probabilities, references) == pytest.approx(expected)
    grouped = expected_calibration_error(
        np.array([0.1, 0.1, 0.9]), np.array([1, 0, 1]), np.array([1, 3, 6])
    )
    assert grouped == pytest.approx(expected)


@pytest.mark.parametrize(
    ("probabilities", "references", "expected"),
    [
        ([0.0, 1.0], [0, 1], 0.0),
        ([0.0, 1.0], [1, 0], 1.0),
        # In one bin, opposite errors cancel; in two bins they do not.
        ([0.5, 0.5], [0, 1], 0.0),
        ([0.4, 0.6], [0, 1], 0.4),
        ([], [], math.nan),
    ],
)
def test_calibration_error_of_edges(
    probabilities: list[float], references: list[int], expected: float
) -> None:
    found = expected_calibration_error(np.array(probabilities), np.array(references))
    assert found == pytest.approx(expected, nan_ok=True)


def test_bins_have_their_lower_edge() -> None:
    edge = 3 / NUM_BINS
    # Errors of +edge and of edge - 1: apart if the second is in the next bin, else they cancel.
    found = expected_calibration_error(np.array([np.nextafter(edge, 0), edge]), np.array([0, 1]))
    assert found == pytest.approx((edge + 1 - edge) / 2)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_spoiled_the_logits_is_found(temperature: float) -> None:
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.02)


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.5, 6))
def test_one_level_of_logits_has_a_closed_form(right: int, wrong: int, logit: float) -> None:
    """With as many right as the temperature makes expected: z / T = log(right / wrong)."""
    low, high = TEMPERATURE_RANGE
    found = fit_temperature(np.array([logit, logit]), np.array([1, 0]), np.array([right, wrong]))
    if right <= wrong:
        assert found == pytest.approx(high, rel=1e-3)
    else:
        expected = min(high, max(low, logit / math.log(right / wrong)))
        assert found == pytest.approx(expected, rel=1e-3)


def test_ends_of_the_range() -> None:
    low, high = TEMPERATURE_RANGE
    assert fit_temperature(np.array([1.0, -1.0]), np.array([1, 0])) == pytest.approx(low, rel=1e-3)
    assert fit_temperature(np.array([1.0, -1.0]), np.array([0, 1])) == pytest.approx(high, rel=1e-3)
    assert fit_temperature(np.zeros(2), np.array([0, 1])) == 1.0


def test_counts_stand_for_the_pixels_themselves() -> None:
    logits, references = drawn(2.0, 50_000)
    parts = [
        (logits[part].reshape(2, -1), references[part].reshape(2, -1))
        for part in (slice(0, 20_000), slice(20_000, None))
    ]
    grouped, classes, weights = counted(*parts).groups()
    assert weights.sum() == len(logits)
    assert weights[classes == 1].sum() == references.sum()
    assert (grouped * weights).sum() == pytest.approx(logits.sum())
    exact = negative_log_likelihood(logits, references)
    assert negative_log_likelihood(grouped, classes, weights) == pytest.approx(exact, abs=2e-5)
    assert fit_temperature(grouped, classes, weights) == pytest.approx(
        fit_temperature(logits, references), rel=1e-3
    )


def test_extreme_logits_count_as_the_limit() -> None:
    counts = counted((np.array([np.inf, -np.inf, 1e9]), np.array([True, False, True])))
    logits, references, weights = counts.groups()
    assert sorted(logits.tolist()) == [-64, 64]
    assert dict(zip(references.tolist(), weights.tolist(), strict=True)) == {0: 1, 1: 2}


def test_calibrating_makes_both_errors_smaller() -> None:
    logits, references = drawn(4.0)
    # Many pixels far from any lesion, where 0 is said and is right.
    far = np.full(2_000_000, -60.0)
    found = calibrate(counted((logits, references), (far, np.zeros(far.shape, bool))))
    assert found.temperature == pytest.approx(4, rel=0.05)
    assert found.num_pixels == 2_200_000
    contested = expit(logits / found.temperature) >= CONTESTED_PROBABILITY
    assert found.num_contested_pixels == pytest.approx(contested.sum(), rel=0.01)
    assert found.calibrated_nll < found.nll
    assert found.contested_ece is not None
    assert found.calibrated_contested_ece is not None
    assert found.calibrated_contested_ece < 0.3 * found.contested_ece
    # The same network looks ten times better once background is added to the mean.
    assert found.ece < 0.15 * found.contested_ece
    assert found.calibrated_ece < found.ece
    exact = expected_calibration_error(expit(logits[contested]), references[contested])
    assert found.contested_ece == pytest.approx(exact, abs=2e-3)


def test_without_contested_pixels_their_error_is_undefined() -> None:
    found = calibrate(counted((np.full(9, -9.0), np.zeros(9, bool))))
    assert (found.num_contested_pixels, found.contested_ece) == (0, None)
    assert found.calibrated_contested_ece is None


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ValueError, match=r"logits have shape \(2,\), references \(3,\)"):
        counted((np.zeros(2), np.zeros(3, bool)))
    with pytest.raises(ValueError, match="a logit is NaN"):
        counted((np.array([np.nan]), np.zeros(1, bool)))
    with pytest.raises(ValueError, match="no pixel was counted"):
        calibrate(LogitCounts())
