"""The script that asks whether confidence tells good masks from bad ones."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hemaseg.errors import EvaluationError
from script_files import SCRIPTS, load_script

DOUBT = load_script("measure_doubt")


def pairs(confidence: list[float], dice: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"confidence": confidence, "dice": dice})


def test_by_hand() -> None:
    # Ranks 1 2 3 4 5 and 2 1 4 3 5: 1 - 6 * 4 / (5 * 24).
    found = DOUBT.agreement(pairs([0.1, 0.2, 0.3, 0.4, 0.5], [0.3, 0.2, 0.8, 0.7, 0.9]))
    assert found.correlation == pytest.approx(0.8)
    assert found.interval[0] < 0.8 <= found.interval[1] <= 1
    assert found.less_trusted == pytest.approx(0.25)
    assert found.more_trusted == pytest.approx(0.8)


def test_undefined_subjects_are_counted_and_left_out() -> None:
    table = pairs([0.1, 0.2, 0.3, 0.4, 0.5, math.nan, 0.9], [0.1, 0.2, 0.3, 0.4, 0.5, 0, math.nan])
    found = DOUBT.agreement(table)
    assert (found.num_subjects, found.num_undefined) == (5, 2)
    assert found.correlation == pytest.approx(1)


def test_without_differences_it_is_undefined() -> None:
    assert math.isnan(DOUBT.rank_correlation(np.array([[0.5, 0.1], [0.5, 0.2]])))


def test_too_few_subjects_are_refused() -> None:
    with pytest.raises(EvaluationError, match="2 subjects with confidence and Dice, expected at"):
        DOUBT.agreement(pairs([0.1, 0.2], [0.1, 0.2]))


def write(folder: Path, *, key: str = "subject") -> tuple[Path, Path]:
    """Tables of seven subjects, whose numbers could be taken for numbers; two slices of each."""
    subjects = [f"00{number}" for number in range(7)]
    values = np.linspace(0.3, 0.9, 7)
    predicted = pd.DataFrame({key: subjects, "confidence": values})
    if key == "subject":
        predicted = pd.concat([predicted, predicted])
    predicted.to_csv(folder / "predictions.csv", index=False)
    pd.DataFrame({"subject": subjects[::-1], "dice": values}).to_csv(
        folder / "metrics.csv", index=False
    )
    return folder / "predictions.csv", folder / "metrics.csv"


@pytest.mark.parametrize("key", ["subject", "name"])
def test_tables_are_joined(tmp_path: Path, key: str) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPTS / "measure_doubt.py", *write(tmp_path, key=key)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "7 subjects; 0 without" in done.stdout
    assert "confidence and Dice: -1.00 (95 % interval -1.00 to -1.00)" in done.stdout
    assert "trusted less: 0.800" in done.stdout


def test_wrong_tables_are_refused(tmp_path: Path) -> None:
    predictions, metrics = write(tmp_path)
    with pytest.raises(EvaluationError, match=r"metrics\.csv: no column confidence, expected"):
        DOUBT.read_pairs(metrics, metrics)
    with pytest.raises(EvaluationError, match=r"predictions\.csv: no column dice, expected"):
        DOUBT.read_pairs(predictions, predictions)
    pd.DataFrame({"subject": ["x"], "dice": [0.5]}).to_csv(metrics, index=False)
    with pytest.raises(EvaluationError, match="0 rows for 0 subjects in both, expected one each"):
        DOUBT.read_pairs(predictions, metrics)
