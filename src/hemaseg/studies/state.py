"""What is done of a study and what is missing."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hemaseg.studies.runs import PlannedRun, is_complete
from hemaseg.studies.study import Study
from hemaseg.training.claim import holder

Status = Literal["complete", "running", "interrupted", "failed", "missing"]


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    Attributes:
        run: The run.
        status: `running` only while a process holds its folder; `missing` if it never began.
        message: Why it ended, or who works on it.
    """

    run: PlannedRun
    status: Status
    message: str = ""

    @property
    def is_to_do(self) -> bool:
        """Whether somebody has to start it."""
        return self.status not in ("complete", "running")


def run_states(study: Study) -> tuple[RunState, ...]:
    """The state of every run, in the order of the plan.

    Raises:
        CheckpointError: A record is damaged, or of another split.
    """
    return tuple(_state(run, study) for run in study.runs)


def _state(run: PlannedRun, study: Study) -> RunState:
    from hemaseg.training.checkpoint import RUN, RunRecord, read_record

    if (process := holder(run.folder)) is not None:
        return RunState(run, "running", process)
    if is_complete(run, study.split):
        return RunState(run, "complete")
    if not (run.folder / RUN).exists():
        return RunState(run, "missing")
    record = read_record(run.folder / RUN, RunRecord)
    if record.status == "complete":
        return RunState(run, "interrupted", "trained, not yet predicted and scored")
    if record.status == "running":
        return RunState(run, "interrupted", "its process ended without a word")
    return RunState(run, record.status, record.message)


def as_array(numbers: Iterable[int]) -> str:
    """Rising numbers as SLURM's `--array` takes them.

    >>> as_array([2, 5, 6, 7, 9, 10])
    '2,5-7,9-10'
    """
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][-1] == number - 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    return ",".join("-".join(map(str, ends)) for ends in ranges)
