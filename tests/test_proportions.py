"""Against statsmodels, and at the ends."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from hemaseg.statistics.proportions import wilson_interval


@given(st.integers(1, 60), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95]))
def test_interval_agrees_with_statsmodels_also_for_shares(
    total: int, share: float, confidence: float
) -> None:
    found = wilson_interval(share * total, total, confidence=confidence)
    expected = proportion_confint(share * total, total, alpha=1 - confidence, method="wilson")
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)


def test_none_and_all_have_an_interval_that_ends_there() -> None:
    none, everyone = wilson_interval(0, 20), wilson_interval(20, 20)
    # Closed form: z^2 / (n + z^2).
    assert none.high == pytest.approx(1.959964**2 / (20 + 1.959964**2), abs=1e-6)
    assert none.low == pytest.approx(0.0, abs=1e-12)
    assert (1 - everyone.high, 1 - everyone.low) == pytest.approx((none.low, none.high))


def test_without_subjects_it_is_undefined_and_too_many_are_refused() -> None:
    assert math.isnan(wilson_interval(0, 0).low)
    with pytest.raises(ValueError, match="0 to 3 subjects needed, got 4"):
        wilson_interval(4, 3)
    with pytest.raises(ValueError, match="between 0 and 1 needed, got 95"):
        wilson_interval(1, 3, confidence=95)
