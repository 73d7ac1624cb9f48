"""Means, spread and quartiles of arms by hand, and where they have to be undefined."""

import math

import numpy as np
import pandas as pd
import pytest

from hemaseg.comparison.description import describe_all, run_means, subject_means, summary
from hemaseg.comparison.score_tables import METRICS, score_cells
from hemaseg.errors import ComparisonError
from hemaseg.statistics.resampling import cluster_bootstrap_interval

NAN, INF = math.nan, math.inf


def table(**columns: list[float]) -> pd.DataFrame:
    """Arms a and b; subjects s0, s1, s2; s0 in two runs. Columns hold the values of a, then b."""
    keys = {
        "arm": ["a"] * 4 + ["b"] * 4,
        "subject": ["s0", "s0", "s1", "s2"] * 2,
        "fold": 0,
        "seed": [0, 1, 0, 0] * 2,
    }
    return pd.DataFrame({**keys, **columns})


def test_subjects_count_once_and_undefined_runs_make_them_undefined() -> None:
    cells = score_cells(table(precision=[0.2, 0.4, 0.5, 0.6, 0.2, NAN, 0.5, 0.6]), "precision")
    subjects = subject_means(cells)
    assert subjects["a"].tolist() == pytest.approx([0.3, 0.5, 0.6])
    np.testing.assert_equal(subjects["b"].to_numpy(), [NAN, 0.5, 0.6])
    # The run of seed 1 has no subject that is defined for b.
    runs = run_means(cells, subjects)
    assert runs["a"].tolist() == pytest.approx([1.3 / 3, 0.4])
    np.testing.assert_allclose(runs["b"].to_numpy(), [0.55, NAN])


def test_summary_by_hand() -> None:
    cells = score_cells(table(dice=[0.2, 0.4, 0.5, 0.7] * 2), "dice")
    subjects = subject_means(cells)
    rows = summary(
        subjects,
        run_means(cells, subjects),
        metric="dice",
        alpha=0.05,
        seed=0,
        num_bootstrap=99,
    )
    assert rows["arm"].tolist() == ["a", "b"]
    row = rows.iloc[0]
    assert (row["metric"], row["num_subjects"], row["num_undefined"]) == ("dice", 3, 0)
    assert row["mean"] == pytest.approx(0.5)  # of 0.3, 0.5, 0.7
    assert row["sd"] == pytest.approx(0.2)
    assert [row["q1"], row["median"], row["q3"]] == pytest.approx([0.4, 0.5, 0.6])
    # Runs: (0.2 + 0.5 + 0.7) / 3 and 0.4.
    assert row["run_sd"] == pytest.approx((1.4 / 3 - 0.4) / math.sqrt(2))


def test_without_the_mean_of_a_run_there_is_no_spread_of_runs() -> None:
    subjects = pd.DataFrame({"b": [0.5, 0.6, 0.7]}, index=["s0", "s1", "s2"])
    runs = pd.DataFrame({"b": [0.55, 0.65, NAN]})
    rows = summary(subjects, runs, metric="dice", alpha=0.05, seed=0, num_bootstrap=99)
    assert rows["run_sd"].isna().all()


def test_interval_of_the_mean_is_the_bootstrap_over_subjects() -> None:
    values = np.random.default_rng(3).beta(16, 4, 25)
    subjects = pd.DataFrame({"a": values}, index=[f"s{number:02d}" for number in range(25)])
    row = summary(subjects, subjects[:2], metric="dice", alpha=0.1, seed=4, num_bootstrap=999).iloc[
        0
    ]
    interval = cluster_bootstrap_interval(
        values, list(subjects.index), confidence=0.9, num_bootstrap=999, seed=4
    )
    assert (row["ci_low"], row["ci_high"]) == (interval.low, interval.high)


def test_interval_of_the_mean_ends_where_the_metric_does() -> None:
    """Dice of 8 subjects, one missed: the bootstrap alone says -1.6 to 0.93."""
    dice = [0.85, 0.86, 0.87, 0.9, 0.91, 0.9, 0.88, 0.0]
    values = pd.DataFrame({"a": dice}, index=list("abcdefgh"))

    def limits(scores: pd.DataFrame, metric: str) -> list[float]:
        rows = summary(scores, scores, metric=metric, alpha=0.05, seed=0, num_bootstrap=999)
        low, high = rows[["ci_low", "ci_high"]].to_numpy()[0].tolist()
        return [low, high]

    alone = cluster_bootstrap_interval(dice, list(values.index), num_bootstrap=999)
    assert alone.low < -1
    assert limits(values, "dice") == [0.0, alone.high]
    assert limits(values, "kappa") == [alone.low, alone.high]
    assert limits(values - 0.8, "assd_mm")[0] == 0
    assert limits(1 - values, "assd_mm")[1] > 1  # mm have no upper end


def test_all_known_metrics_are_described_in_a_fixed_order() -> None:
    values = [0.2, 0.4, 0.5, 0.6] * 2
    scores = table(assd_mm=values, dice=values, iou=values, my_score=values)
    described = describe_all(scores)
    assert list(described) == [
        *("metric", "arm", "num_subjects", "num_undefined", "num_infinite"),
        *("mean", "sd", "median", "q1", "q3"),
    ]
    assert described[["metric", "arm"]].to_numpy().tolist() == [
        [metric, arm] for metric in ("dice", "iou", "assd_mm") for arm in ("a", "b")
    ]
    row = described.iloc[0]
    assert (row["num_subjects"], row["num_undefined"], row["num_infinite"]) == (3, 0, 0)
    assert row["mean"] == pytest.approx(1.4 / 3)  # of 0.3, 0.5, 0.6
    assert row["median"] == 0.5
    assert set(METRICS) >= set(described["metric"])


def test_without_a_known_metric_the_table_is_empty() -> None:
    described = describe_all(table(my_score=[0.2, 0.4, 0.5, 0.6] * 2))
    assert described.empty
    assert "num_infinite" in described


def test_infinite_distances_leave_the_median_and_no_mean() -> None:
    described = describe_all(table(hd95_mm=[1, 1, 2, INF, 1, INF, INF, 4])).set_index("arm")
    assert described["num_infinite"].tolist() == [1, 2]
    assert described[["mean", "sd"]].isna().all(axis=None)
    # a: 1, 2, infinite; b: infinite, infinite, 4
    quartiles = described[["q1", "median", "q3"]].to_numpy().tolist()
    assert quartiles == [[1.5, 2.0, INF], [INF, INF, INF]]


def test_undefined_subjects_are_counted_and_no_subject_leaves_nothing() -> None:
    described = describe_all(table(precision=[0.5, 0.5, NAN, 0.7] + [NAN] * 4)).set_index("arm")
    assert described["num_subjects"].tolist() == [2, 0]
    assert described["num_undefined"].tolist() == [1, 3]
    assert described.loc["a", "mean"] == pytest.approx(0.6)
    assert described.loc["b", ["mean", "sd", "median", "q1", "q3"]].isna().all()


def test_false_alarms_in_subjects_without_lesion_do_not_enter() -> None:
    scores = table(dice=[0.5, 0.5, 0.6, 0.0] * 2, reference_pixels=[9.0, 9.0, 9.0, 0.0] * 2)
    row = describe_all(scores).iloc[0]
    assert (row["num_subjects"], row["num_undefined"]) == (2, 1)
    assert row["mean"] == pytest.approx(0.55)


def test_a_wrong_value_of_any_known_metric_is_refused() -> None:
    with pytest.raises(ComparisonError, match="iou of arm a, subject s1 is 50, expected 0 to 1"):
        describe_all(table(dice=[0.5] * 8, iou=[0.5, 0.5, 50, 0.5] * 2))
