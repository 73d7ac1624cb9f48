import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from hemaseg.errors import CheckpointError, EvaluationError
from hemaseg.studies.gathering import gather
from hemaseg.studies.running import run_study
from hemaseg.studies.study import Study, open_study
from small_runs import write_cohort_of_heads, write_study


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of two runs in `out`."""
    folder = tmp_path_factory.mktemp("original")
    write_cohort_of_heads(folder)
    run_study(open_study(write_study(folder, {"split": {"method": "holdout"}}), folder / "out"))
    return folder


@pytest.fixture
def study(original: Path, tmp_path: Path) -> Study:
    """A copy of it."""
    shutil.copytree(original, tmp_path / "copy")
    return open_study(tmp_path / "copy" / "study.toml", tmp_path / "copy" / "out")


def test_tables_are_in_the_order_of_the_plan_and_warn(study: Study, tmp_path: Path) -> None:
    scores, batches = gather(study.runs[::-1], tmp_path, warning="leaks")
    assert list(dict.fromkeys(scores["arm"])) == ["two", "one"]
    assert set(batches["arm"]) == {"one", "two"}
    costs = pd.read_csv(tmp_path / "costs.csv")
    assert list(costs["arm"]) == ["two", "one"]
    assert set(costs["warning"]) == {"leaks"}
    assert list(costs["ran_alone"]) == [True, True]


@pytest.mark.parametrize("text", ["", "epoch,epoch_s\n1,fast\n", "epoch\n1\n", None])
def test_a_damaged_table_of_a_training_is_refused(study: Study, text: str | None) -> None:
    path = study.runs[0].folder / "training.csv"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(CheckpointError, match=re.escape(f"{path}: not the table of a training")):
        gather(study.runs, study.folder, warning=None)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("\n1,", "\n1,0.5,", "longer than argument 1"),  # pandas shifts all columns by one
        ("\n1,", "\n", "shorter than argument 1"),
        ("\n1,", "\n1.5,", "1 rows, not of the epochs 1 to 1 in this order"),
        ("\n1,", "\nfirst,", "could not convert"),
        ("validation_dice", "dice", "columns epoch, training_loss, validation_loss, dice, "),
    ],
)
def test_a_table_of_a_training_that_was_edited_is_refused(
    study: Study, old: str, new: str, words: str
) -> None:
    path = study.runs[0].folder / "training.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(CheckpointError, match=rf"training\.csv: not the table .*{words}"):
        gather(study.runs, study.folder, warning=None)


def test_scores_that_are_gone_are_named(study: Study) -> None:
    path = study.runs[1].score_files[1]
    path.unlink()
    with pytest.raises(EvaluationError, match=re.escape(str(path))):
        gather(study.runs, study.folder, warning=None)
