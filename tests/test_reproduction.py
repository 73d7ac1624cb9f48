"""The committed results and docs/reproduction.md agree with each other and with today's code."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from hemaseg.comparison.learning import time_to_dice
from hemaseg.comparison.paired import compare
from hemaseg.config import StudyConfig, read_config

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = sorted(path.parent for path in REPOSITORY.glob("results/*/scores.csv"))
NUMBERS = ["mean_difference", "ci_low", "ci_high", "p_holm", "tost_p_holm"]


def test_the_document_shows_the_committed_tables() -> None:
    script = REPOSITORY / "scripts" / "reproduction_tables.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("folder", RESULTS, ids=lambda path: path.name)
def test_committed_scores_give_the_committed_verdicts(folder: Path) -> None:
    settings = read_config(folder / "study.toml", StudyConfig).comparison
    scores = pd.read_csv(folder / "scores.csv", dtype={"subject": str})
    found = compare(
        scores,
        metric=settings.metric,
        margin=settings.margin,
        pairs=settings.pairs,
        alpha=settings.alpha,
        num_bootstrap=settings.num_bootstrap,
    )
    committed = pd.read_csv(folder / "pairs.csv")
    pd.testing.assert_frame_equal(found.pairs[NUMBERS], committed[NUMBERS], rtol=1e-9)
    assert list(found.pairs["verdict"]) == list(committed["verdict"])
    assert found.verdict == json.loads((folder / "comparison.json").read_text())["verdict"]


@pytest.mark.parametrize("folder", RESULTS, ids=lambda path: path.name)
def test_committed_curves_give_the_committed_times_to_dice(folder: Path) -> None:
    found = time_to_dice(pd.read_csv(folder / "training.csv"))
    pd.testing.assert_frame_equal(found, pd.read_csv(folder / "time_to_dice.csv"))


@pytest.mark.parametrize("folder", RESULTS, ids=lambda path: path.name)
def test_every_subject_is_tested_once_by_every_arm(folder: Path) -> None:
    scores = pd.read_csv(folder / "scores.csv", dtype={"subject": str})
    split = json.loads((folder / "split.json").read_text())
    tested = [subject for fold in split["folds"] for subject in fold["test"]]
    assert len(set(tested)) == len(tested)
    for _, own in scores.groupby("arm"):
        assert sorted(own["subject"]) == sorted(tested)
