import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemaseg.comparison.learning import LEVELS, time_to_dice


def training(**runs: list[tuple[float, float]]) -> pd.DataFrame:
    """Dice and cumulative time of each epoch; names of runs are ARM_FOLD."""
    return pd.DataFrame(
        [
            {
                "arm": name.split("_")[0],
                "fold": int(name.split("_")[1]),
                "seed": 0,
                "epoch": epoch,
                "validation_dice": dice,
                "cumulative_s": time_s,
            }
            for name, rows in runs.items()
            for epoch, (dice, time_s) in enumerate(rows, 1)
        ]
    )


def at(table: pd.DataFrame, arm: str, level: float) -> pd.Series:
    found = table[(table["arm"] == arm) & (table["validation_dice"] == level)]
    return found.iloc[0]


def test_by_hand_with_runs_that_never_reach_a_level() -> None:
    table = time_to_dice(
        training(
            a_0=[(0.2, 10), (0.6, 20)],
            a_1=[(0.5, 11), (0.3, 22)],
            a_2=[(np.nan, 12), (0.1, 24)],
            b_0=[(0.9, 100)],
        )
    )
    assert len(table) == 2 * len(LEVELS)
    # Sorted times to 0.2: 10, 11, never. To 0.5: 11, 20, never. To 0.6: 20, never, never.
    for level, reached, median in ((0.2, 2, 11), (0.5, 2, 20), (0.6, 1, np.nan), (0.95, 0, np.nan)):
        row = at(table, "a", level)
        assert (row["num_runs"], row["num_reached"]) == (3, reached)
        assert row["median_s"] == pytest.approx(median, nan_ok=True)
    assert at(table, "b", 0.9)["median_s"] == 100


def test_two_runs_of_which_one_reaches_a_level_have_no_median() -> None:
    table = time_to_dice(training(a_0=[(0.5, 10)], a_1=[(0.1, 10)]))
    assert np.isnan(at(table, "a", 0.5)["median_s"])
    assert at(table, "a", 0.1)["median_s"] == 10


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_times_rise_with_the_level_and_never_precede_the_first_epoch(dice: list[float]) -> None:
    table = time_to_dice(training(a_0=[(d, 7.0 * (i + 1)) for i, d in enumerate(dice)]))
    defined = table["median_s"].dropna()
    assert defined.is_monotonic_increasing
    assert (defined >= 7).all()
    assert (table["num_reached"] == (table["validation_dice"] <= max(dice))).all()
