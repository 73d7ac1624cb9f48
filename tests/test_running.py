import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from hemaseg.errors import ConfigError, TrainingError
from hemaseg.studies.running import LOG, SLICES, Tracking, run_one, run_study
from hemaseg.studies.state import run_states
from hemaseg.studies.study import open_study
from hemaseg.training import device
from hemaseg.training.claim import claim, holder
from hemaseg.training.memory import require_memory
from small_runs import RECIPE, STUDY, write_cohort_of_heads, write_study

ONE_FOLD = {"split": {"method": "holdout"}, "num_threads": 1}
RESULTS = ("weights.safetensors", "model.json", "metrics.csv", "metrics_slices.csv")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cohort, a study file and, in `out`, the finished study of two runs."""
    folder = tmp_path_factory.mktemp("original")
    write_cohort_of_heads(folder)
    run_study(open_study(write_study(folder, ONE_FOLD), folder / "out"))
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """The same without the finished study."""
    shutil.copytree(original, tmp_path / "copy", ignore=shutil.ignore_patterns("out"))
    return tmp_path / "copy"


def results(study: Path) -> dict[str, bytes]:
    """Weights and scores of each run, to the bit."""
    return {
        path.relative_to(study).as_posix(): path.read_bytes()
        for path in study.glob("runs/*/*/*")
        if path.name in RESULTS
    }


def command(folder: Path, *arguments: object) -> list[str]:
    verb = [sys.executable, "-m", "hemaseg", "compare", str(folder / "study.toml")]
    return [*verb, "-o", str(folder / "new"), *map(str, arguments)]


def test_the_order_of_the_models_changes_no_bit(original: Path, folder: Path) -> None:
    file = write_study(folder, ONE_FOLD | {"arms": STUDY["arms"][::-1]})
    run_study(open_study(file, folder / "new"))
    costs = pd.read_csv(folder / "new" / "costs.csv")
    assert list(costs["arm"]) == ["two", "one"]
    found = results(folder / "new")
    assert len(found) == 2 * len(RESULTS)
    assert found == results(original / "out")


def test_several_at_a_time_change_no_bit_and_say_that_times_do(
    original: Path, folder: Path
) -> None:
    labels: list[tuple[str, float, int]] = []
    study = open_study(folder / "study.toml", folder / "new")
    comparison = run_study(study, lambda *label: labels.append(label), num_jobs=2)
    assert results(folder / "new") == results(original / "out")
    for name in ("scores.csv", "pairs.csv", "summary.csv"):
        ours, theirs = ((place / name).read_bytes() for place in (folder / "new", original / "out"))
        assert ours == theirs
    assert comparison.num_subjects > 0
    names = "run 1, one, fold 0, seed 0; run 2, two, fold 0, seed 0"
    assert labels[0] == (f"0/2 runs ended, now {names}", 0, 2)
    assert labels[-1] == ("2/2 runs ended, now ", 2, 2)
    for run in study.runs:
        assert (run.folder / LOG).read_text() == f"{run.name}, of 2: complete\n"
    for place, is_alone in ((folder / "new", False), (original / "out", True)):
        assert set(pd.read_csv(place / "costs.csv")["ran_alone"]) == {is_alone}


@pytest.mark.skipif(
    find_spec("tensorboard") is None,
    reason='tensorboard is not installed: pip install "hemaseg[tensorboard]"',
)
@pytest.mark.parametrize("num_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_trainings_are_told_to_trackers(original: Path, folder: Path, num_jobs: int) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    study = open_study(folder / "study.toml", folder / "new")
    run_study(study, num_jobs=num_jobs, tracking=Tracking(("tensorboard",)))
    assert results(folder / "new") == results(original / "out")
    for run in study.runs:
        events = EventAccumulator(str(run.folder / "tensorboard"))
        events.Reload()
        losses = [event.value for event in events.Scalars("training_loss")]
        assert losses == pytest.approx(pd.read_csv(run.folder / "training.csv").training_loss)


def test_the_comparison_is_made_as_the_study_says(folder: Path) -> None:
    settings = {"metric": "assd_mm", "margin": 3.0, "alpha": 0.1, "num_bootstrap": 99}
    plan = ONE_FOLD | {"comparison": settings | {"pairs": [["two", "one"]]}}
    found = run_study(open_study(write_study(folder, plan), folder / "new"))
    assert not found.higher_is_better
    assert found.pairs[["arm_a", "arm_b"]].to_numpy().tolist() == [["two", "one"]]
    assert {name: getattr(found, name) for name in settings} == settings


@pytest.mark.slow
def test_tasks_of_an_array_start_together_in_a_new_folder(original: Path, folder: Path) -> None:
    tasks = [
        subprocess.Popen(command(folder, "--run", number), stdout=subprocess.PIPE, text=True)
        for number in (2, 1)
    ]
    out = [task.communicate(timeout=120)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0]
    assert out[0] == "run 2, two, fold 0, seed 0, of 2: complete\n"
    assert results(folder / "new") == results(original / "out")
    assert not (folder / "new" / "scores.csv").exists()
    run_study(open_study(folder / "study.toml", folder / "new"))
    ours, theirs = (
        (place / "scores.csv").read_bytes() for place in (folder / "new", original / "out")
    )
    assert ours == theirs


def test_decoded_slices_go_when_all_runs_are_complete(folder: Path) -> None:
    """A single run leaves them to the next one."""
    study = open_study(folder / "study.toml", folder / "new")
    labels: list[str] = []
    for number in (1, 2):
        run_one(study, number, lambda label, *_: labels.append(label))
        assert len(list((study.folder / SLICES).rglob("images.npy"))) == 1
    assert any(label.startswith(f"{study.runs[0].name}: reading, image") for label in labels)
    assert not any(label.startswith(f"{study.runs[1].name}: reading, image") for label in labels)
    run_study(study)
    assert not (study.folder / SLICES).exists()


def test_a_folder_of_that_name_keeps_what_is_not_ours(folder: Path) -> None:
    study = open_study(folder / "study.toml", folder / "new")
    scan = study.folder / SLICES / "head-1" / "images.npy"
    scan.parent.mkdir(parents=True)
    scan.touch()
    run_study(study)
    assert [path for path in (study.folder / SLICES).rglob("*") if path.is_file()] == [scan]


def test_one_run_is_done_once(original: Path, tmp_path: Path) -> None:
    shutil.copytree(original, tmp_path / "copy")
    study = open_study(tmp_path / "copy" / "study.toml", tmp_path / "copy" / "out")
    labels: list[str] = []
    assert run_one(study, 2, lambda label, *_: labels.append(label)) == study.runs[1]
    assert labels == []
    (study.runs[1].folder / "metrics.csv").unlink()
    run_one(study, 2, lambda label, *_: labels.append(label))
    assert labels
    assert all(label.startswith("run 2, two, fold 0, seed 0: scoring") for label in labels)


@pytest.mark.parametrize("number", [0, 3])
def test_a_number_that_is_not_in_the_plan_is_refused(folder: Path, number: int) -> None:
    study = open_study(folder / "study.toml", folder / "new")
    with pytest.raises(ConfigError, match=f"--run {number}: no such run, expected 1 to 2"):
        run_one(study, number)


def test_a_run_that_another_process_has_is_refused(folder: Path) -> None:
    study = open_study(folder / "study.toml", folder / "new")
    with claim(study.runs[0].folder), pytest.raises(TrainingError) as caught:
        run_one(study, 1)
    assert f"process {os.getpid()} on " in str(caught.value)
    assert "works in it, expected nobody" in str(caught.value)
    assert not (study.runs[0].folder / "run.json").exists()


@pytest.mark.parametrize("num_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_fails_stops_no_other_but_the_comparison(folder: Path, num_jobs: int) -> None:
    arms = [STUDY["arms"][0] | {"recipe": "hasty.toml"}, STUDY["arms"][1]]
    file = write_study(
        folder,
        ONE_FOLD | {"arms": arms},
        training={"num_epochs": 1, "batch_size": 7},
    )
    text = (folder / "recipe.toml").read_text()
    assert "learning_rate = 0.01" in text
    (folder / "hasty.toml").write_text(text.replace("learning_rate = 0.01", "learning_rate = 1e30"))
    study = open_study(file, folder / "new")
    with pytest.raises(TrainingError) as caught:
        run_study(study, num_jobs=num_jobs)
    first, line, last = str(caught.value).splitlines()
    assert first.startswith(f"{folder / 'new'}: 1 of 2 runs failed, expected all to be complete")
    assert line.startswith("  run 1, one, fold 0, seed 0: loss is nan in epoch 1, ")
    assert line.endswith(f"(log: {study.runs[0].folder / LOG})") == (num_jobs == 2)
    assert last.endswith("what is complete is kept.")
    assert [state.status for state in run_states(study)] == ["failed", "complete"]
    assert not (folder / "new" / "scores.csv").exists()
    assert (folder / "new" / SLICES).exists()


def test_runs_that_do_not_fit_into_memory_together_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(folder / "study.toml", folder / "new")
    one, two = (require_memory(run.config) for run in study.runs)
    monkeypatch.setattr(device, "available_memory_mib", lambda _: one + two - 1)
    with pytest.raises(TrainingError, match=r"2 runs at a time would take .* --jobs 1\.$"):
        run_study(study, num_jobs=2)
    assert not (folder / "new" / "runs").exists()


@pytest.mark.parametrize(
    ("status", "was_alone"), [("running", True), ("interrupted", False), ("interrupted", True)]
)
def test_a_run_that_was_killed_or_had_others_beside_is_not_said_to_be_alone(
    original: Path, tmp_path: Path, status: str, was_alone: bool
) -> None:
    shutil.copytree(original, tmp_path / "copy")
    study = open_study(tmp_path / "copy" / "study.toml", tmp_path / "copy" / "out")
    path = study.runs[0].folder / "run.json"
    record = json.loads(path.read_text())
    assert record["ran_alone"] is True
    path.write_text(json.dumps(record | {"status": status, "ran_alone": was_alone}))
    run_study(study)
    is_alone = was_alone and status != "running"
    assert list(pd.read_csv(study.folder / "costs.csv")["ran_alone"]) == [is_alone, True]
    assert json.loads(path.read_text())["ran_alone"] is is_alone


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("is_ctrl_c", [False, True])
def test_stopping_leaves_no_process_and_runs_in_order(
    folder: Path, jobs: int, is_ctrl_c: bool
) -> None:
    """SIGTERM to the parent; or Ctrl-C, by which a terminal reaches its children too."""
    training = RECIPE["training"] | {"num_epochs": 9999}
    file = write_study(folder, ONE_FOLD, training=training)
    study = open_study(file, folder / "new")
    with subprocess.Popen(
        command(folder, "--jobs", jobs), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        tables = [run.folder / "training.csv" for run in study.runs[:jobs]]
        until = time.monotonic() + 300
        while not all(table.exists() and table.read_text().count("\n") > 1 for table in tables):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        states = run_states(study)
        assert [state.status for state in states[:jobs]] == ["running"] * jobs
        if is_ctrl_c:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if is_ctrl_c else 143)
    assert err == (
        "hemaseg: 2 of 2 runs to do (1-2); the same command goes on\n"
        f"hemaseg: {'stopped' if is_ctrl_c else 'terminated'}\n"
    )
    for run in study.runs[:jobs]:
        assert holder(run.folder) is None
        record = json.loads((run.folder / "run.json").read_text())
        assert (record["status"], record["ran_alone"]) == ("interrupted", jobs == 1)
        assert list((run.folder / "checkpoints").glob("0*.safetensors"))
