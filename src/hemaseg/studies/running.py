"""A study's runs, as far as they are missing; then its comparison.

Runs are independent: they go one after another in this process, several at a time in child
processes, or one per call, as an array job of a cluster makes them.

Torch is imported inside the functions that need networks.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from hemaseg.comparison.paired import Comparison, compare, paper_analysis, write_comparison
from hemaseg.errors import ConfigError, HemasegError, TrainingError
from hemaseg.studies.gathering import gather
from hemaseg.studies.jobs import Job, run_jobs
from hemaseg.studies.provenance import write_provenance
from hemaseg.studies.runs import (
    PlannedRun,
    Report,
    complete_run,
    is_complete,
    is_trained,
    require_memory_of_all,
)
from hemaseg.studies.study import Study, is_higher_better, keep_plan
from hemaseg.training.claim import claim

Progress = Callable[[str, float, int], None]
"""Called with what is being done, and how many runs (parts of runs count) are done and to do."""

LOG = "log.txt"
"""In a run folder: what the child process printed that ran it."""

SLICES = "slices"
"""In a study folder, until all runs are complete: their slices, decoded once (`slices.cache`)."""


@dataclass(frozen=True)
class Tracking:
    """Where trainings can be watched; nowhere unless given.

    Attributes:
        names: Of `training.tracking.TRACKERS`, all installed (`require_trackers`).
        tell: Called with a sentence when one of them fails, which stops nothing.
    """

    names: tuple[str, ...] = ()
    tell: Callable[[str], None] = print


NOWHERE = Tracking()
"""Where most studies are tracked."""


def run_study(
    study: Study,
    progress: Progress | None = None,
    *,
    num_jobs: int = 1,
    tracking: Tracking = NOWHERE,
) -> Comparison:
    """Train, predict and score what is missing; then gather, compare and write all tables.

    A run that is complete is not repeated, so an interrupted study goes on where it stopped. One
    that fails does not stop the others, but nothing is compared then. An arm that by prediction
    does not fit into memory is refused before any is trained. Decoded slices, which all runs share,
    are removed when all are complete.

    Args:
        study: Opened.
        progress: See `Progress`.
        num_jobs: How many runs may run at the same time, each in a child process with its share of
            the cores; 1 runs them in this process, one after another.
        tracking: Of each training. What trackers of child processes say goes to the logs.

    Raises:
        TrainingError: Runs failed, by number and reason; or they do not fit into memory.
        HemasegError: Whatever gathering and comparing can refuse.
    """
    from hemaseg.slices.cache import remove_slices

    missing = [run for run in study.runs if not is_complete(run, study.split)]
    untrained = [run for run in missing if not is_trained(run, study.split)]
    require_memory_of_all(untrained, num_jobs)
    keep_plan(study)
    if num_jobs > 1:
        failed = _run_at_once(study, missing, num_jobs, progress, tracking.names)
    else:
        failed = _run_in_turn(study, missing, progress, tracking)
    if failed:
        lines = "".join(f"\n  {name}: {words}" for name, words in failed.items())
        raise TrainingError(
            f"{study.folder}: {len(failed)} of {len(study.runs)} runs failed, expected all to be "
            f"complete before they are compared:{lines}\nCorrect what is wrong and give the same "
            "command again; what is complete is kept."
        )
    # They show patients, and who hands over the study thinks of tables.
    remove_slices(study.folder / SLICES)
    scores, batches = gather(study.runs, study.folder, warning=study.split.warning)
    settings = study.config.comparison
    comparison = compare(
        scores,
        metric=settings.metric,
        margin=settings.margin,
        pairs=settings.pairs,
        alpha=settings.alpha,
        num_bootstrap=settings.num_bootstrap,
        higher_is_better=is_higher_better(settings.metric, None),
    )
    write_comparison(
        comparison, study.folder, paper=paper_analysis(batches), warning=study.split.warning
    )
    write_provenance(study.folder, cohort=study.cohort, split=study.split, config=study.config)
    return comparison


def run_one(
    study: Study, number: int, progress: Progress | None = None, *, tracking: Tracking = NOWHERE
) -> PlannedRun:
    """Train, predict and score one run as far as that is missing, and compare nothing.

    Args:
        study: Opened.
        number: Of the run in the plan, from 1.
        progress: See `Progress`.
        tracking: Of its training.

    Raises:
        ConfigError: There is no such run.
        TrainingError: Another process works on it.
        HemasegError: Whatever a run can refuse.
    """
    if not 1 <= number <= len(study.runs):
        raise ConfigError(
            f"--run {number}: no such run, expected 1 to {len(study.runs)}. --missing lists them."
        )
    run = study.runs[number - 1]
    keep_plan(study)
    if not is_complete(run, study.split):
        # Whether others run meanwhile, only who called us knows.
        _complete(study, run, _reporter(run, 0, 1, progress), tracking, is_alone=False)
    return run


def _complete(
    study: Study, run: PlannedRun, report: Report, tracking: Tracking, *, is_alone: bool
) -> None:
    from hemaseg.training.tracking import open_tracker

    if study.config.num_threads:
        import torch

        torch.set_num_threads(study.config.num_threads)
    with claim(run.folder):
        complete_run(
            run,
            study.cohort,
            study.split,
            tolerance_mm=study.config.comparison.surface_tolerance_mm,
            report=report,
            tracker=open_tracker(tracking.names, run.folder, tell=tracking.tell),
            is_alone=is_alone,
            cache=study.folder / SLICES,
        )


def _run_in_turn(
    study: Study, missing: Sequence[PlannedRun], progress: Progress | None, tracking: Tracking
) -> dict[str, str]:
    """Name and error of each run that failed."""
    failed = {}
    for num_done, run in enumerate(missing):
        try:
            report = _reporter(run, num_done, len(missing), progress)
            _complete(study, run, report, tracking, is_alone=True)
        except HemasegError as error:
            failed[run.name] = str(error)
    return failed


def _run_at_once(
    study: Study,
    missing: Sequence[PlannedRun],
    num_jobs: int,
    progress: Progress | None,
    trackers: Sequence[str],
) -> dict[str, str]:
    """Name and last words of each run that failed."""
    # -P: a file in the current folder is never taken for a module of the same name.
    command = (sys.executable, "-P", "-m", "hemaseg", "compare", str(study.file.absolute()))
    options = (
        *("--output", str(study.folder.absolute())),
        *chain.from_iterable(("--track", name) for name in trackers),
    )
    jobs = [
        Job(run.name, (*command, *options, "--run", str(run.number)), run.folder / LOG)
        for run in missing
    ]
    import torch

    num_threads = study.config.num_threads or max(1, torch.get_num_threads() // num_jobs)

    def show(num_ended: int, running: Sequence[str]) -> None:
        if progress is not None:
            names = "; ".join(running)
            progress(f"{num_ended}/{len(jobs)} runs ended, now {names}", num_ended, len(jobs))

    failed = run_jobs(
        jobs,
        limit=num_jobs,
        environment=os.environ | {"OMP_NUM_THREADS": str(num_threads)},
        progress=show,
    )
    logs = {run.name: run.folder / LOG for run in missing}
    return {name: f"{words} (log: {logs[name]})" for name, words in failed.items()}


def _reporter(run: PlannedRun, num_done: int, total: int, progress: Progress | None) -> Report:
    def report(step: str, share: float) -> None:
        if progress is not None:
            progress(f"{run.name}: {step}", num_done + share, total)

    return report
