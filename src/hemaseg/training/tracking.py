"""Where a training can be watched besides `training.csv`: TensorBoard and MLflow, off by default.

The table stays the truth. A tracker gets the same numbers under the names of its columns, gives
nothing back, and draws no random numbers; one that fails is told of once and left out from then on.

    tracker = open_tracker(["tensorboard", "mlflow"], run_folder, tell=print)
    tracker.begin(flat(config.model_dump()))
    tracker.epoch(1, {"training_loss": 0.8, "validation_dice": 0.4})
    tracker.end("complete")

To go on with an interrupted run, begin with the first epoch that is still to be done. Nothing is
loaded but the id of the run of MLflow, as JSON.
"""

import importlib.util
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, Protocol

from hemaseg.config import Section
from hemaseg.errors import CheckpointError, ConfigError
from hemaseg.training.checkpoint import read_record, write_record

Status = Literal["complete", "interrupted", "failed"]
"""How a run ended, as in `run.json`."""

_MLFLOW = {
    # A server that does not answer costs seconds of training, not minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    # Nobody is told that this run exists but the server that the user names.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A folder as the store, which MLflow keeps up but does not develop; others need a database.
    "MLFLOW_ALLOW_FILE_STORE": "true",
}
"""Settings of MLflow, unless the user has others."""
_ENDS: dict[Status, str] = {"complete": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_MAX_VALUE = 500
"""Characters of a parameter that every version of MLflow takes."""


class Tracker(Protocol):
    """What is told of a training while it goes on."""

    def begin(self, parameters: Mapping[str, object], first_epoch: int = 1) -> None:
        """A training begins, or goes on.

        Args:
            parameters: What it depends on, by full names (`config.flat`).
            first_epoch: The next to be done. From 2 on, what is known of the epochs before stays;
                at 1, what an earlier training left in the folder is replaced.
        """

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        """An epoch is done; what is NaN is undefined, and left out."""

    def end(self, status: Status) -> None:
        """The training has ended; nothing comes after it."""


def open_tracker(
    names: Sequence[str], folder: Path, *, tell: Callable[[str], None]
) -> "JoinedTracker":
    """What tells all trackers of a run, none if no name is given.

    Args:
        names: Of `TRACKERS`.
        folder: The run folder.
        tell: Called with a sentence once for each tracker that fails.

    Raises:
        ConfigError: A tracker is unknown, or not installed.
    """
    require_trackers(names)
    return JoinedTracker({name: TRACKERS[name](folder) for name in names}, tell)


def require_trackers(names: Sequence[str]) -> None:
    """Check that trackers are known and installed.

    Raises:
        ConfigError: One is not.
    """
    for name in names:
        if name not in TRACKERS:
            known = ", ".join(TRACKERS)
            raise ConfigError(f"tracker {name} is unknown, expected {known}. Correct it.")
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f'tracker {name} is not installed. Run pip install "hemaseg[{name}]", or leave it '
                "out."
            )


class JoinedTracker:
    """Several trackers as one that never fails."""

    def __init__(self, trackers: Mapping[str, Tracker], tell: Callable[[str], None]) -> None:
        self._trackers = dict(trackers)
        self._tell = tell

    def begin(self, parameters: Mapping[str, object], first_epoch: int = 1) -> None:
        """See `Tracker`."""
        self._each(lambda tracker: tracker.begin(parameters, first_epoch))

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        known = {name: value for name, value in values.items() if not math.isnan(value)}
        self._each(lambda tracker: tracker.epoch(number, known))

    def end(self, status: Status) -> None:
        """See `Tracker`."""
        self._each(lambda tracker: tracker.end(status))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:  # whatever a server, a disk or a library can come up with
                del self._trackers[name]
                # An address can hold a password.
                words = re.sub(r"//[^/@\s]*@", "//", f"{type(error).__name__}: {error}")
                self._tell(
                    f"{name} does not track this run any more ({shorten(words, 300)}). Training "
                    "goes on, and training.csv has all numbers."
                )


class _TensorBoard:
    """Event files in `RUN/tensorboard/`, one for each time that the training began or went on.

    Parameters are left to `config.toml` beside it. The files are written here and not by PyTorch's
    SummaryWriter, whose thread answers a full disk with a traceback of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tensorboard"
        self._path = Path()

    def begin(self, parameters: Mapping[str, object], first_epoch: int = 1) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self._folder.mkdir(parents=True, exist_ok=True)
        earlier = sorted(self._folder.glob("events.out.tfevents.*"))
        if first_epoch == 1:
            for path in earlier:
                path.unlink()
            earlier = []
        # TensorBoard reads files in the order of their names, so that each needs a later one.
        number = int(earlier[-1].name.split(".")[3]) + 1 if earlier else 0
        now = time.time()
        self._path = self._folder / f"events.out.tfevents.{max(int(now), number):010d}.hemaseg"
        self._write(Event(wall_time=now, file_version="brain.Event:2"))
        if first_epoch > 1:  # what was written of this epoch and later ones is void
            again = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=now, step=first_epoch, session_log=again))

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(wall_time=time.time(), step=number, summary=Summary(value=scalars)))

    def end(self, status: Status) -> None:
        """Every event is on disk already."""

    def _write(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        with self._path.open("ab") as file:
            RecordWriter(file).write(event.SerializeToString())


class _MLflow:
    """A run of the server that the user's MLFLOW_TRACKING_URI names, else of `RUN/mlruns/`.

    `RUN/tracking.json` has its id. The experiment is that of MLFLOW_EXPERIMENT_ID or
    MLFLOW_EXPERIMENT_NAME, else "hemaseg".
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run_id = ""

    def begin(self, parameters: Mapping[str, object], first_epoch: int = 1) -> None:
        for name, value in _MLFLOW.items():
            os.environ.setdefault(name, value)
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        store = (self._folder / "mlruns").resolve().as_uri()
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or store)
        if first_epoch > 1 and (earlier := self._earlier()):
            self._run_id = earlier
            self._client.update_run(earlier, status="RUNNING")
            return
        # With the folder above, which is the arm where the run is one of a study.
        name = "/".join(self._folder.resolve().parts[-2:])
        run = self._client.create_run(self._experiment(), run_name=name)
        self._run_id = run.info.run_id
        write_record(_Tracked(mlflow_run_id=self._run_id), self._folder / "tracking.json")
        params = [Param(name, str(value)[:_MAX_VALUE]) for name, value in parameters.items()]
        self._client.log_batch(self._run_id, params=params)

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now_ms = int(1000 * time.time())
        metrics = [Metric(name, value, now_ms, number) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def end(self, status: Status) -> None:
        if self._run_id:  # Else the training ended before it began.
            self._client.set_terminated(self._run_id, _ENDS[status])

    def _earlier(self) -> str:
        """Id of the run to go on with; empty if this server has none."""
        from mlflow.exceptions import MlflowException

        try:
            asked = read_record(self._folder / "tracking.json", _Tracked).mlflow_run_id
            info = self._client.get_run(asked).info
        except (CheckpointError, MlflowException):
            return ""
        return asked if info.lifecycle_stage == "active" else ""

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "hemaseg"
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another run has just made it
                found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id)


class _Tracked(Section):
    """`tracking.json`."""

    format: Literal["hemaseg-tracking-1"] = "hemaseg-tracking-1"
    mlflow_run_id: str


UNTRACKED = JoinedTracker({}, lambda sentence: None)
"""What most trainings are."""

TRACKERS: dict[str, Callable[[Path], Tracker]] = {"tensorboard": _TensorBoard, "mlflow": _MLflow}
"""Name of the extra and of the package -> what tells it of a run folder."""
