import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemaseg.studies.running import run_one
from hemaseg.studies.state import as_array, run_states
from hemaseg.studies.study import Study, open_study
from hemaseg.training.claim import claim
from small_runs import write_cohort_of_heads, write_study


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of four runs, the third of which is complete."""
    folder = tmp_path_factory.mktemp("original")
    write_cohort_of_heads(folder)
    run_one(open_study(write_study(folder), folder / "out"), 3)
    return folder


@pytest.fixture
def study(original: Path, tmp_path: Path) -> Study:
    """A copy of it."""
    shutil.copytree(original, tmp_path / "copy")
    return open_study(tmp_path / "copy" / "study.toml", tmp_path / "copy" / "out")


def statuses(study: Study) -> list[str]:
    return [state.status for state in run_states(study)]


def test_what_never_began_is_missing(study: Study) -> None:
    states = run_states(study)
    assert [state.status for state in states] == ["missing", "missing", "complete", "missing"]
    assert [state.is_to_do for state in states] == [True, True, False, True]
    assert [state.run for state in states] == list(study.runs)
    assert not study.runs[0].folder.exists()  # asking leaves no trace


def test_a_run_is_running_while_its_folder_is_held(study: Study) -> None:
    with claim(study.runs[0].folder):
        state = run_states(study)[0]
        assert (state.status, state.is_to_do) == ("running", False)
        assert state.message.startswith("process ")
    assert statuses(study)[0] == "missing"


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"status": "failed", "message": "loss is nan"}, "failed", "loss is nan"),
        ({"status": "interrupted", "message": "by the user"}, "interrupted", "by the user"),
        ({"status": "running"}, "interrupted", "its process ended without a word"),
    ],
)
def test_a_run_that_ended_early_says_why(
    study: Study, changes: dict[str, str], status: str, message: str
) -> None:
    path = study.runs[2].folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    state = run_states(study)[2]
    assert (state.status, state.message, state.is_to_do) == (status, message, True)


def test_a_run_without_scores_is_not_complete(study: Study) -> None:
    study.runs[2].score_files[2].unlink()
    state = run_states(study)[2]
    assert (state.status, state.is_to_do) == ("interrupted", True)
    assert state.message == "trained, not yet predicted and scored"


@given(st.sets(st.integers(1, 50)))
def test_array_names_exactly_these_numbers(numbers: set[int]) -> None:
    text = as_array(sorted(numbers))
    named: list[int] = []
    for part in text.split(",") if text else []:
        first, _, last = part.partition("-")
        named += range(int(first), int(last or first) + 1)
    assert named == sorted(numbers)
    assert "," not in as_array(range(3, 30))
