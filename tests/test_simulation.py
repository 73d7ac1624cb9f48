"""Intervals cover, and tests err, as often as they say (slow; table in docs/statistics.md)."""

from collections.abc import Callable

import numpy as np
import pytest

from script_files import load_script

NUM_REPLICATIONS = 2000  # 95 % and 5 % then have a Monte-Carlo standard error of 0.5 points
SIMULATION = load_script("simulate_coverage")
# Arms that do not differ. The scenarios beyond these show limits and are in the table only.
SOUND = [
    SIMULATION.normal,
    SIMULATION.dice,
    SIMULATION.dice_with_misses,
    SIMULATION.clustered,
]


@pytest.mark.slow
@pytest.mark.parametrize("num", [20, 40, 64, 100])
@pytest.mark.parametrize("scenario", SOUND, ids=lambda scenario: scenario.__name__)
def test_intervals_cover_and_tests_err_as_they_say(
    scenario: Callable[[np.random.Generator, int], object], num: int
) -> None:
    rates = SIMULATION.rates(scenario, num, NUM_REPLICATIONS)
    assert 0.93 <= rates.flip_coverage <= 0.97
    assert 0.93 <= rates.t_coverage <= 0.98  # rare misses make t cautious
    assert 0.04 <= rates.flip_error <= 0.06
    assert 0.02 <= rates.t_error <= 0.06
    assert 0.035 <= rates.rank_error <= 0.065
    assert max(rates.tost_error_below, rates.tost_error_above) <= 0.06


@pytest.mark.slow
def test_one_arm_s_interval_covers_skewed_scores() -> None:
    rates = SIMULATION.rates(SIMULATION.one_arm, 40, NUM_REPLICATIONS)
    assert 0.93 <= rates.bootstrap_coverage <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("num", [20, 64])
def test_holm_keeps_the_family_wise_error(num: int) -> None:
    assert SIMULATION.family_wise_error(num, NUM_REPLICATIONS) <= 0.06


def test_true_difference_of_every_scenario_is_zero() -> None:
    for scenario in SIMULATION.SCENARIOS:
        difference = SIMULATION.subject_differences(scenario(np.random.default_rng(1), 100_000))
        spread = difference.std() / np.sqrt(len(difference))
        run_sd = 0.01 if scenario is SIMULATION.other_trainings else 0
        assert abs(difference.mean()) < 4 * np.hypot(spread, run_sd)
