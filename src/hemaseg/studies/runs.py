"""One run of a study: trained, predicted and scored, each as far as it has not been done.

Torch is imported inside the functions, so that comparing score tables that exist never loads it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hemaseg.cohorts.split import Parts, Split, parts
from hemaseg.cohorts.table import Cohort
from hemaseg.config import ArmConfig, RunConfig
from hemaseg.errors import CheckpointError, TrainingError
from hemaseg.evaluation.scoring import evaluate_cohort
from hemaseg.evaluation.tables import Scores, write_scores
from hemaseg.metrics.volume_interval import volume_errors

if TYPE_CHECKING:
    from hemaseg.slices.dataset import SliceSet
    from hemaseg.training.tracking import JoinedTracker

Report = Callable[[str, float], None]
"""Called with what is being done, and the share of the run's training that is done."""


@dataclass(frozen=True)
class PlannedRun:
    """One training of one arm on one fold with one seed.

    Attributes:
        arm: Network and recipe.
        config: What is stored in the run folder.
        fold: From 0.
        folder: The run folder.
        number: In the plan of its study, from 1.
    """

    arm: ArmConfig
    config: RunConfig
    fold: int
    folder: Path
    number: int = 1

    @property
    def name(self) -> str:
        """In words."""
        return f"run {self.number}, {self.arm.name}, fold {self.fold}, seed {self.config.seed}"

    @property
    def list_of_predictions(self) -> Path:
        """Written when all masks are."""
        return self.folder / "predictions" / "predictions.csv"

    @property
    def score_files(self) -> tuple[Path, Path, Path]:
        """Scores per subject, slice and batch."""
        one, two, three = (
            self.folder / f"metrics{unit}.csv" for unit in ("", "_slices", "_batches")
        )
        return one, two, three


def run_path(arm: str, fold: int | str, seed: int | str) -> str:
    """A run folder within the study folder.

    Example:
        >>> run_path("U-Net", 0, 1)
        'runs/U-Net/fold-0_seed-1'
    """
    return f"runs/{arm}/fold-{fold}_seed-{seed}"


def require_memory_of_all(runs: Sequence[PlannedRun], num_jobs: int) -> None:
    """Check that each of these trainings fits into memory, and the largest of them together.

    Args:
        runs: Of one study, not yet trained.
        num_jobs: How many may run at the same time.

    Raises:
        ConfigError: There is no such device here.
        TrainingError: They do not fit; says what would.
    """
    from hemaseg.training.device import available_memory_mib, choose_device
    from hemaseg.training.memory import require_memory

    # Runs of one arm take the same.
    needed_mib = {
        name: require_memory(config)
        for name, config in {run.arm.name: run.config for run in runs}.items()
    }
    largest = sorted((needed_mib[run.arm.name] for run in runs), reverse=True)[:num_jobs]
    if len(largest) < 2:
        return
    device = choose_device(runs[0].config.device)
    available = available_memory_mib(device)
    if available is None or sum(largest) <= available:
        return
    fitting = max(1, sum(total <= available for total in accumulate(largest)))
    raise TrainingError(
        f"{len(largest)} runs at a time would take {sum(largest):,.0f} MiB on {device}, expected "
        f"at most the {available:,.0f} MiB that are free. What fits: --jobs {fitting}."
    )


def is_complete(run: PlannedRun, split: Split) -> bool:
    """Whether nothing is left to do.

    Raises:
        CheckpointError: The run was trained on other cases, or its record is damaged.
    """
    files = (run.list_of_predictions, *run.score_files)
    return is_trained(run, split) and all(file.exists() for file in files)


def complete_run(
    run: PlannedRun,
    cohort: Cohort,
    split: Split,
    *,
    tolerance_mm: float,
    report: Report,
    tracker: "JoinedTracker | None" = None,
    is_alone: bool = True,
    cache: Path | None = None,
) -> None:
    """Do what is left.

    Args:
        run: What to train, and where.
        cohort: All cases of the study.
        split: Its folds.
        tolerance_mm: Of the surface Dice.
        report: Called often.
        tracker: Told of the training; None for none.
        is_alone: Whether no other run of the study can run meanwhile.
        cache: Folder of slices that runs of the study have in common; None to decode them anew.

    Raises:
        HemasegError: Whatever training, prediction and scoring can refuse.
    """
    selected = parts(split, cohort, run.fold)
    if not is_trained(run, split):
        # Those that are there are of weights that are about to be replaced.
        for file in (run.list_of_predictions, *run.score_files):
            file.unlink(missing_ok=True)
        was_alone = _was_alone(run)
        try:
            _train(run, selected, cohort, split, cache, report, tracker, is_alone)
        finally:
            _update_record(run, ran_alone=was_alone and is_alone)
    if not run.list_of_predictions.exists():
        slices_per_s = _predict(run, selected.test, report)
        ran_alone = _was_alone(run) and is_alone
        _update_record(run, inference_slices_per_s=slices_per_s, ran_alone=ran_alone)
    scores = evaluate_cohort(
        run.list_of_predictions.parent,
        selected.test,
        tolerance_mm=tolerance_mm,
        progress=lambda done, total: report(f"scoring, image {done}/{total}", 1.0),
    )
    _keep_volume_errors(run, scores, selected.test, split)
    write_scores(scores, run.score_files[0])


def is_trained(run: PlannedRun, split: Split) -> bool:
    """Whether its training is complete.

    Raises:
        CheckpointError: It was trained on other cases, or its record is damaged.
    """
    from hemaseg.training.checkpoint import RUN, RunRecord, read_record

    path = run.folder / RUN
    if not path.exists():
        return False
    record = read_record(path, RunRecord)
    if record.status != "complete":
        return False
    if (record.split_sha256, record.fold) != (split.sha256, run.fold):
        raise CheckpointError(
            f"{path}: trained on fold {record.fold} of split {record.split_sha256[:12]}, expected "
            f"fold {run.fold} of split {split.sha256[:12]}. Choose another output folder, or "
            "delete this run's."
        )
    return True


def _train(
    run: PlannedRun,
    selected: Parts,
    cohort: Cohort,
    split: Split,
    cache: Path | None,
    report: Report,
    tracker: "JoinedTracker | None",
    is_alone: bool,
) -> None:
    from hemaseg.training import loop
    from hemaseg.training.tracking import UNTRACKED

    training, validation = _slices(run, selected, cohort, split, cache, report)
    loop.train(
        run.config,
        training,
        validation,
        run.folder,
        origin=loop.DataOrigin(
            split.cohort_sha256, split.sha256, run.fold, selected.train.modality
        ),
        resumes=True,
        has_device=is_alone,
        tracker=tracker or UNTRACKED,
        progress=lambda step: report(
            step.describe(), (step.epoch - 1 + step.step / step.num_steps) / step.num_epochs
        ),
    )


def _slices(
    run: PlannedRun,
    selected: Parts,
    cohort: Cohort,
    split: Split,
    cache: Path | None,
    report: Report,
) -> "tuple[SliceSet, SliceSet]":
    """For training and for validation, in memory: the same whether or not they are cached."""
    from hemaseg.slices.cache import cached_slices
    from hemaseg.slices.dataset import load_slices
    from hemaseg.training.progress import Reading

    reading, words = Reading("reading"), ""

    def progress(done: int, total: int) -> None:
        report(f"{reading.describe()}, image {done}/{total}{words}", 0.0)

    recipe = run.config.recipe
    # In a part of single slices, the intensity of a scan is scaled by those that lie in the part.
    if cache is not None and split.unit == "subject":
        report(reading.what, 0.0)
        learned = {name for fold in split.folds for name in (*fold.train, *fold.validation)}
        try:
            every = cached_slices(cohort.select(learned), recipe, cache, progress=progress)
        except OSError as error:  # A full disk costs no run.
            words = f", not kept for other runs ({error.strerror or error})"
        else:
            # Copies, which are read in random order and must not wait for a disk then.
            return (
                every.of_subjects(selected.train.subjects),
                every.of_subjects(selected.validation.subjects),
            )
    return (
        load_slices(selected.train, recipe, progress=progress),
        load_slices(selected.validation, recipe, progress=progress),
    )


def _was_alone(run: PlannedRun) -> bool:
    """Whether no other run ran beside what was done of it so far; not if its process was killed."""
    from hemaseg.training.checkpoint import RUN, RunRecord, read_record

    if not (run.folder / RUN).exists():
        return True
    record = read_record(run.folder / RUN, RunRecord)
    return record.ran_alone and record.status != "running"


def _update_record(run: PlannedRun, **values: object) -> None:
    from hemaseg.training.checkpoint import RUN, RunRecord, read_record, write_record

    if (run.folder / RUN).exists():
        record = read_record(run.folder / RUN, RunRecord)
        write_record(record.model_copy(update=values), run.folder / RUN)


def _keep_volume_errors(run: PlannedRun, scores: Scores, test: Cohort, split: Split) -> None:
    """Add to the model how far the volumes of subjects were off that it never saw.

    Those of a scan, as what `predict` measures: a mean over several would err less, and so would
    the marked slices of a scan alone.
    """
    from hemaseg.training.checkpoint import MODEL, ModelRecord, read_record, write_record

    volumes = scores.subjects[["prediction_ml", "reference_ml"]].to_numpy(float)
    errors = volume_errors(*volumes.T)
    marked, unmarked = (
        {(image.subject, image.scan) for image in test.images if image.is_marked == is_marked}
        for is_marked in (True, False)
    )
    is_known = (
        split.unit == "subject"
        and len(marked) == len(errors)
        and not marked & unmarked
        and np.isfinite(errors).all()
    )
    before = read_record(run.folder / MODEL, ModelRecord)
    kept = tuple(errors.tolist()) if is_known else ()
    record = before.model_copy(update={"volume_errors_cbrt_ml": kept})
    if record != before:
        write_record(record, run.folder / MODEL)


def _predict(run: PlannedRun, test: Cohort, report: Report) -> float:
    """Slices per second."""
    from hemaseg.engines.options import EngineOptions
    from hemaseg.prediction.predict import predict_cohort

    cost = predict_cohort(
        run.folder,
        test,
        run.list_of_predictions.parent,
        # Plain PyTorch, as for training: times and scores compare networks, not engines.
        engine=EngineOptions("torch", device=run.config.device),
        marked_only=True,
        progress=lambda done, total: report(f"predicting, image {done}/{total}", 1.0),
    )
    return cost.slices_per_s
