import math
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from command_line import files
from hemaseg.config import ModelConfig, Recipe, RunConfig, flat
from hemaseg.errors import ConfigError
from hemaseg.training.progress import Epoch
from hemaseg.training.tracking import _MLFLOW, TRACKERS, JoinedTracker, Status, open_tracker

COLUMNS = tuple(Epoch.__dataclass_fields__)[1:]
needs_mlflow = pytest.mark.skipif(
    find_spec("mlflow") is None, reason='mlflow is not installed: pip install "hemaseg[mlflow]"'
)
needs_tensorboard = pytest.mark.skipif(
    find_spec("tensorboard") is None,
    reason='tensorboard is not installed: pip install "hemaseg[tensorboard]"',
)


def rows(first: int, last: int, *, seed: int = 0) -> dict[int, dict[str, float]]:
    """Values of all columns of `training.csv` by epoch; those of the first Dice are undefined."""
    drawn = np.random.default_rng(seed).random((last + 1, len(COLUMNS)))
    made = {n: dict(zip(COLUMNS, drawn[n].tolist(), strict=True)) for n in range(first, last + 1)}
    if first == 1:
        made[1]["validation_dice"] = math.nan
    return made


def train(
    folder: Path, names: list[str], told: list[str], values: Mapping[int, Mapping[str, float]]
) -> None:
    """What a training tells, from the first of the epochs on."""
    config = RunConfig(model=ModelConfig(name="unet"), recipe=Recipe(description="theirs"))
    tracker = open_tracker(names, folder, tell=told.append)
    tracker.begin(flat(config.model_dump()), first_epoch=min(values))
    for number, row in values.items():
        tracker.epoch(number, row)
    tracker.end("complete" if len(values) > 1 else "interrupted")


def defined(values: Mapping[int, Mapping[str, float]]) -> dict[str, list[tuple[int, float]]]:
    """What a tracker should have: column -> epochs and values."""
    return {
        column: [(n, row[column]) for n, row in values.items() if not math.isnan(row[column])]
        for column in COLUMNS
    }


def seen_in_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def assert_near(
    found: Mapping[str, list[tuple[int, float]]], expected: Mapping[str, list[tuple[int, float]]]
) -> None:
    """Equal as float32, which is what TensorBoard keeps."""
    assert found.keys() == expected.keys()
    for column, pairs in expected.items():
        assert [number for number, _ in found[column]] == [number for number, _ in pairs]
        assert [value for _, value in found[column]] == pytest.approx(
            [value for _, value in pairs], rel=1e-6
        )


@needs_tensorboard
def test_tensorboard_shows_the_rows_of_the_table(tmp_path: Path) -> None:
    told: list[str] = []
    train(tmp_path, ["tensorboard"], told, rows(1, 5))
    assert_near(seen_in_tensorboard(tmp_path), defined(rows(1, 5)))
    assert told == []
    assert [path.name for path in tmp_path.iterdir()] == ["tensorboard"]


@needs_tensorboard
def test_tensorboard_goes_on_where_a_run_was_interrupted(tmp_path: Path) -> None:
    """Epochs that were done, but lost because the run was resumed before them, are shown once."""
    train(tmp_path, ["tensorboard"], [], rows(1, 5))
    train(tmp_path, ["tensorboard"], [], rows(4, 6, seed=1))
    train(tmp_path, ["tensorboard"], [], rows(6, 8, seed=2))
    expected = rows(1, 3) | rows(4, 5, seed=1) | rows(6, 8, seed=2)
    assert_near(seen_in_tensorboard(tmp_path), defined(expected))


@needs_tensorboard
def test_a_training_from_the_start_replaces_what_was_there(tmp_path: Path) -> None:
    train(tmp_path, ["tensorboard"], [], rows(1, 5))
    (tmp_path / "tensorboard" / "notes.txt").touch()
    train(tmp_path, ["tensorboard"], [], rows(1, 2, seed=1))
    assert_near(seen_in_tensorboard(tmp_path), defined(rows(1, 2, seed=1)))
    assert (tmp_path / "tensorboard" / "notes.txt").exists()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("tensorboard", marks=needs_tensorboard),
        pytest.param("mlflow", marks=needs_mlflow),
    ],
)
def test_random_numbers_stay_what_they_were(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_mlflow(monkeypatch)

    def state() -> tuple[object, str, bytes]:
        return (
            random.getstate(),
            str(np.random.get_state()),  # noqa: NPY002
            torch.get_rng_state().numpy().tobytes(),
        )

    before = state()
    train(tmp_path, [name], [], rows(1, 3))
    assert state() == before


@needs_tensorboard
@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot limit the size of a file")
def test_a_full_disk_is_told_of_once_without_a_traceback(tmp_path: Path) -> None:
    code = f"""
import resource
from pathlib import Path
from hemaseg.training.tracking import open_tracker

tracker = open_tracker(["tensorboard"], Path({str(tmp_path)!r}), tell=print)
tracker.begin({{"seed": 0}})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for number in range(1, 200):
    tracker.epoch(number, {{"training_loss": 1 / number}})
tracker.end("complete")
print("done")
"""
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    told, done = ended.stdout.splitlines()
    assert told.startswith("tensorboard does not track this run any more (OSError: ")
    assert told.endswith("Training goes on, and training.csv has all numbers.")
    assert (done, ended.stderr) == ("done", "")


class Recording:
    """Keeps what it is told, until it is told of the epoch that it cannot stand."""

    def __init__(self, fails_at: int) -> None:
        self.fails_at = fails_at
        self.seen: list[object] = []

    def begin(self, parameters: Mapping[str, object], first_epoch: int = 1) -> None:
        self.seen.append((parameters, first_epoch))

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        if number == self.fails_at:
            raise ConnectionError("no answer from https://me:secret@server/api\nor another")
        self.seen.append((number, values))

    def end(self, status: Status) -> None:
        self.seen.append(status)


def test_one_that_fails_is_told_of_once_and_the_other_goes_on() -> None:
    told: list[str] = []
    weak, strong = Recording(fails_at=2), Recording(fails_at=0)
    tracker = JoinedTracker({"weak": weak, "strong": strong}, told.append)
    tracker.begin({"seed": 3}, first_epoch=1)
    for number in (1, 2, 3):
        tracker.epoch(number, {"loss": 0.5, "dice": math.nan})
    tracker.end("failed")
    started, first = ({"seed": 3}, 1), (1, {"loss": 0.5})
    assert weak.seen == [started, first]
    assert strong.seen == [started, first, (2, {"loss": 0.5}), (3, {"loss": 0.5}), "failed"]
    assert told == [
        "weak does not track this run any more (ConnectionError: no answer from "
        "https://server/api or another). Training goes on, and training.csv has all numbers."
    ]


def test_a_place_that_is_taken_does_not_stop_training(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").touch()
    told: list[str] = []
    train(tmp_path, ["tensorboard"], told, rows(1, 3))
    assert len(told) == 1
    assert (tmp_path / "tensorboard").read_bytes() == b""


def test_no_tracker_leaves_no_trace(tmp_path: Path) -> None:
    train(tmp_path, [], [], rows(1, 3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", TRACKERS)
def test_what_is_not_installed_is_refused_before_training(tmp_path: Path, name: str) -> None:
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(ConfigError, match=rf'not installed\. Run pip install "hemaseg\[{name}\]"'):
        open_tracker([name], tmp_path, tell=print)


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tracker wandb is unknown, expected tensorboard, mlflow"):
        open_tracker(["wandb"], tmp_path, tell=print)


def forget_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of MLflow comes from outside, and none stays."""
    for name in (*_MLFLOW, "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@needs_mlflow
def test_mlflow_has_the_rows_of_the_table_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    forget_mlflow(monkeypatch)
    told: list[str] = []
    folder = tmp_path / "unet" / "fold-0"
    folder.mkdir(parents=True)
    train(folder, ["mlflow"], told, rows(1, 1))
    assert told == []
    client = MlflowClient((folder / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("hemaseg").experiment_id
    (run,) = client.search_runs([experiment])
    assert (run.info.status, run.info.run_name) == ("KILLED", "unet/fold-0")
    assert run.data.params["recipe.optimiser.learning_rate"] == "0.001"
    assert run.data.params["model.name"] == "unet"

    train(folder, ["mlflow"], told, rows(2, 4))
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    found = {
        column: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, column)]
        for column in COLUMNS
    }
    assert found == defined(rows(1, 1) | rows(2, 4))

    client.delete_run(run.info.run_id)
    train(folder, ["mlflow"], told, rows(5, 6))  # another, since that is gone
    (run,) = client.search_runs([experiment])
    assert client.get_metric_history(run.info.run_id, "training_loss")[0].step == 5
    train(folder, ["mlflow"], told, rows(1, 2))
    assert len(client.search_runs([experiment])) == 2
    assert told == []
    assert {path.name for path in folder.iterdir()} == {"mlruns", "tracking.json"}


@needs_mlflow
def test_a_server_that_is_gone_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_mlflow(monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")  # nobody listens
    told: list[str] = []
    train(tmp_path, ["mlflow"], told, rows(1, 3))
    assert len(told) == 1
    assert told[0].startswith("mlflow does not track this run any more (MlflowException: ")
    assert "secret" not in told[0]
    assert files(tmp_path) == {}
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
