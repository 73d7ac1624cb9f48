"""Scans to masks, volumes, tables and pictures, case by case.

A case that fails does not stop the others, and a case that was done before is not done again. An
`Executor` does the cases: `Local` here, or `cluster.Cluster` on many machines;
both by `predictor.CasePredictor`, so that where a case is done changes nothing of it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Protocol

from hemaseg.engines.options import EngineOptions
from hemaseg.errors import ConfigError
from hemaseg.intake.checking import problem_of
from hemaseg.intake.sources import Source, Sources
from hemaseg.prediction.outputs import Wanted
from hemaseg.prediction.places import Places, case_places, describe_dataset
from hemaseg.prediction.predictor import CasePredictor, Done, Job, Outcome
from hemaseg.prediction.records import PredictionTable, Row, done_row, failed_row
from hemaseg.scans.screening import Finding, ReadOptions
from hemaseg.training.claim import claim

LOCK = "predictions.lock"
"""In the output folder while it is predicted into; see `claim`."""

_ONE_AT_A_TIME = Lock()
"""PyTorch's settings, which make masks reproducible, are those of the whole process."""

Progress = Callable[[str, int, int], None]
"""Called with what is being predicted, and the numbers of cases done and to do."""


class Executor(Protocol):
    """Does cases, somewhere and in any order."""

    def prepare(self, job: Job) -> None:
        """Find out what would stop all cases, before anything is written.

        Raises:
            HemasegError: The network cannot be loaded, or there is nothing to run it on.
        """
        ...

    def outcomes(
        self, cases: Sequence[tuple[Source, Places]], progress: Progress
    ) -> Iterator[tuple[int, Outcome]]:
        """The index of each case and how it ended, as soon as it has ended.

        Raises:
            HemasegError: No case can be done any more.
        """
        ...


@dataclass(frozen=True)
class Predicted:
    """How the cases of one call ended.

    Attributes:
        rows: As in `predictions.csv`, one per case.
        num_done: Cases with a mask.
        num_before: Those of them that an earlier call had done.
        failures: Name and problem of each of the others.
    """

    rows: tuple[Row, ...]
    num_done: int
    num_before: int
    failures: tuple[tuple[str, Finding], ...]


def predict_scans(
    run_folders: Sequence[Path],
    sources: Sources,
    folder: Path,
    options: ReadOptions,
    wanted: Wanted,
    *,
    assume_modality: bool = True,
    engine: EngineOptions | None = None,
    force: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> Predicted:
    """Predict scans, each into a folder of its own (see `places`), and list them in a table.

    A case of the same scan, model and options whose files are there is left as it is. Where other
    files are in its place, it fails.

    Args:
        run_folders: What `hemaseg train` wrote, or models that ship. Of several, the first that is
            of the modality of a scan predicts it.
        sources: As `find_sources` gives them.
        folder: Where results go; nothing is written elsewhere.
        options: How scans are read.
        wanted: What is written.
        assume_modality: Whether a scan whose modality nobody knows is taken for that of the only
            network. If not, or if there are several networks, 8-bit pictures are taken for that of
            the first one, and other such scans are refused: their units decide what is seen.
        engine: What computes, where and how exactly.
        force: Whether files in the place of a case are replaced.
        progress: Called while cases are done, and at the end.
        executor: What does the cases; None for this process. The results are the same, and so is
            the order of the table.

    Raises:
        CheckpointError: A run folder is incomplete or damaged, or its network gives no numbers.
        ConfigError: The device does not exist, the folder holds another table or BIDS dataset, or
            another process predicts into it. (Threads of this process wait for each other.)
        ClusterError: A cluster cannot be reached or used; cases that were done are kept.
        EngineError: The engine cannot run this network on this device.
        OSError: The table cannot be written.
        KeyboardInterrupt: The table lists the cases that were done; the same call goes on.
    """
    job = Job(
        *(tuple(run_folders), folder, options, wanted),
        engine=engine or EngineOptions(),
        force=force,
        assume_modality=assume_modality and len(run_folders) == 1,
    )
    executor = executor or Local()
    progress = progress or (lambda *_: None)
    with _ONE_AT_A_TIME:
        executor.prepare(job)
        with claim(folder, name=LOCK, error=ConfigError, is_strict=False):
            return _predicted(job, sources, executor, progress)


def _predicted(job: Job, sources: Sources, executor: Executor, progress: Progress) -> Predicted:
    named = (*sources.failed, *sources.sources)
    table = PredictionTable(job.folder, [source.name for source in named], force=job.force)
    if job.wanted.bids:
        describe_dataset(job.folder, sources.sources, force=job.force)
    ended: dict[str, Outcome] = {
        source.name: problem_of(source.problem or ValueError(), source) for source in sources.failed
    }

    def row(source: Source) -> Row:
        outcome = ended[source.name]
        if isinstance(outcome, Done):
            return done_row(outcome.record)
        return failed_row(source.name, source.shown, f"{outcome.kind}: {outcome.message}")

    table.put(map(row, sources.failed))
    places = case_places(sources.sources, job.folder, bids=job.wanted.bids)
    cases = list(zip(sources.sources, places, strict=True))
    for index, outcome in executor.outcomes(cases, progress):
        ended[cases[index][0].name] = outcome
        table.put([row(cases[index][0])])
    progress("done", len(cases), len(cases))
    done = [outcome for outcome in ended.values() if isinstance(outcome, Done)]
    return Predicted(
        rows=tuple(map(row, named)),
        num_done=len(done),
        num_before=sum(not outcome.is_new for outcome in done),
        failures=tuple(
            (source.name, problem)
            for source in named
            if isinstance(problem := ended[source.name], Finding)
        ),
    )


class Local:
    """Does cases in this process, in their order.

    While one is measured and written, and the next one read, the network works on that which was
    read last: at most two are in memory.
    """

    def prepare(self, job: Job) -> None:
        """As `Executor` says."""
        self._predictor = CasePredictor(job)
        self._predictor.load()

    def outcomes(
        self, cases: Sequence[tuple[Source, Places]], progress: Progress
    ) -> Iterator[tuple[int, Outcome]]:
        """As `Executor` says."""
        with self._predictor.workers() as workers:
            begun = (self._predictor.begin(*case, workers) for case in cases)
            ahead = None
            for index, (source, _) in enumerate(cases):
                progress(source.name, index, len(cases))
                end = ahead or next(begun)
                ahead = next(begun, None)
                yield index, end()
