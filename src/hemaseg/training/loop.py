"""One training from its data to its run folder, whatever becomes of it on the way."""

import gc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from hemaseg.config import RunConfig, differences, read_config, write_config
from hemaseg.errors import CheckpointError, ConfigError, TrainingError
from hemaseg.interruption import stop_requests
from hemaseg.metrics.calibration import Calibration
from hemaseg.slices.dataset import SliceSet
from hemaseg.training.checkpoint import (
    MODEL,
    RUN,
    WEIGHTS,
    RunRecord,
    Start,
    read_record,
    require_fitting,
    software,
    write_record,
)
from hemaseg.training.device import (
    available_memory_mib,
    choose_device,
    choose_precision,
    deterministic,
    is_out_of_memory,
    kept_memory,
)
from hemaseg.training.doubt import add_doubt
from hemaseg.training.epochs import Epochs
from hemaseg.training.memory import Placement, place, require_memory
from hemaseg.training.processes import ALONE, Processes
from hemaseg.training.progress import CHECKPOINT_EVERY_S, Progress
from hemaseg.training.requirements import require_lesions, require_size
from hemaseg.training.resumption import (
    Checkpoint,
    RunIdentity,
    newest_checkpoint,
    remove_checkpoints,
)
from hemaseg.training.tracking import UNTRACKED, Tracker


@dataclass(frozen=True)
class DataOrigin:
    """Where training and validation slices came from; stored in `run.json`.

    Attributes:
        cohort_sha256: Of `cohort.csv`.
        split_sha256: Of `split.json`.
        fold: From 0.
        modality: Of all training scans, empty if mixed or unknown; stored with the weights too.
        cohort_file: As seen from the run folder; empty if resuming shall not look for it.
        split_file: As seen from the run folder.
    """

    cohort_sha256: str
    split_sha256: str
    fold: int
    modality: str = ""
    cohort_file: str = ""
    split_file: str = ""


def train(
    config: RunConfig,
    training: SliceSet,
    validation: SliceSet,
    folder: Path,
    *,
    origin: DataOrigin,
    start: Start | None = None,
    resumes: bool = False,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    processes: Processes = ALONE,
    has_device: bool = True,
    tracker: Tracker = UNTRACKED,
    progress: Callable[[Progress], None] | None = None,
) -> RunRecord:
    """Train one network and keep the weights of the epoch with the best validation Dice.

    Then, if nothing interrupts it, they are calibrated and the training scans described (`doubt`).

    SIGINT, SIGTERM or SIGHUP end the step that is under way, write a checkpoint and raise; a second
    SIGINT ends at once. After that, and after any other end, `resumes` goes on from the last
    checkpoint to the bits that an unbroken run gives, on the same machine and software.

    Args:
        config: Model, seed, device, recipe; the seed decides weights, order and augmentation.
        training: Slices to learn from.
        validation: Slices of other subjects; if the recipe shows no slices without lesion
            (`negative_share = 0`), only those with one count, but all calibrate.
        folder: Run folder; made if needed, files of an earlier run in it are replaced.
        origin: Hashes of the data, for the record.
        start: Weights to begin from, drawn from the seed if None; the seed decides order and
            augmentation in both cases. Network and options must be those of the configuration;
            image size, intensity and modality may be others.
        resumes: Whether to go on where a run in this folder stopped; from the beginning if it
            stopped before its first checkpoint or there is none, not at all if it is complete.
        checkpoint_every_s: Least time between checkpoints, and so about what a kill costs.
        processes: That train together (see `processes`); each is given the same slices.
        has_device: Whether no other process is meant to use the GPU meanwhile; else nothing is put
            there but the network (`memory.place`).
        tracker: Told of each epoch.
        progress: Called after each step.

    Returns:
        The final record, as written to `run.json`.

    Raises:
        TrainingError: No lesion in training or validation, a loss or gradient that is not finite
            (with the cases of the batch), not enough memory, by prediction or in fact (with what
            to change), a checkpoint that cannot be written, or another process that is gone.
        ConfigError: An unknown model or device, weights of another network to start from, or
            another run than this in the folder that is to go on.
        CheckpointError: What is to go on is damaged.
        KeyboardInterrupt: After the run folder was left usable, with status "interrupted".
    """
    recipe, whole_validation = config.recipe, validation
    if start is not None:
        require_fitting(start, config.model)
    if recipe.slices.negative_share == 0:
        validation = validation.select(torch.nonzero(validation.has_lesion).flatten())
    require_lesions(training, validation)
    require_size(config, int(training.has_lesion.sum()))
    device = choose_device(config.device)
    identity = RunIdentity(
        config=config,
        cohort_sha256=origin.cohort_sha256,
        split_sha256=origin.split_sha256,
        fold=origin.fold,
        start_weights_sha256=start.weights_sha256 if start else None,
        precision=choose_precision(recipe.training.precision, device),
    )
    checkpoint = newest_checkpoint(folder) if resumes else None
    before = _begun(folder, identity, checkpoint) if resumes else None
    if before is not None and before.status == "complete":
        if processes.is_first:
            remove_checkpoints(folder)
        return before
    record = _planned(training, validation, identity, origin, device, processes.num, has_device)
    if before is not None and checkpoint is not None:
        where = _resumption(checkpoint, device, processes.num)
        record = record.model_copy(update={"resumptions": (*before.resumptions, where)})
    processes.wait()  # Until all have read what is now replaced.
    if processes.is_first:
        _open(folder, config, record, checkpoint)
    run = Epochs(
        *(config, training, validation, folder, record, identity),
        device=device,
        processes=processes,
        tracker=tracker,
        progress=progress,
    )
    keeps = _keeps_memory(config, device, record)
    calibration: Calibration | None = None
    try:
        with deterministic(recipe.training.is_deterministic), kept_memory(keeps):
            with stop_requests() as stop:
                run.go_on(start, checkpoint, stop, checkpoint_every_s)
            if record.passes_recorded:
                gc.collect()  # What is recorded refers to itself, and keeps its memory until then.
            if processes.is_first:
                calibration = add_doubt(
                    folder,
                    training,
                    whole_validation,
                    device=device,
                    batch_size=recipe.training.slices_per_pass,
                )
            processes.wait()
    except KeyboardInterrupt:
        # Further signals wait meanwhile: a parent sends SIGTERM to whom Ctrl-C has reached already.
        with stop_requests():
            num_done = len(run.state.done)
            kept = (
                "weights of the best epoch kept"
                if num_done
                else "no epoch was finished, so no weights"
            )
            if processes.is_first and num_done == recipe.training.num_epochs:
                run.write_checkpoint()  # All but the calibration is done.
            run.finish("interrupted", f"stopped before its end; {kept}", calibration)
        raise
    except Exception as error:
        problem = _explained(error, config, device, processes)
        with suppress(OSError):  # A full disk is told by the error itself.
            run.finish("failed", str(problem), calibration)
        if problem is error:
            raise
        raise problem from error
    finished = run.finish("complete", "", calibration)
    if processes.is_first:
        remove_checkpoints(folder)
    return finished


def _planned(
    training: SliceSet,
    validation: SliceSet,
    identity: RunIdentity,
    origin: DataOrigin,
    device: torch.device,
    num_processes: int,
    has_device: bool,
) -> RunRecord:
    """The record of a run that begins: on what, and what it is going to take, if that is there."""
    config, num_lesion_slices = identity.config, int(training.has_lesion.sum())
    predicted_mib = require_memory(
        config, num_slices=num_lesion_slices, num_processes=num_processes
    )
    placement = Placement()
    if has_device:
        placement = place(
            *(config, (training, validation), predicted_mib),
            device=device,
            num_slices=num_lesion_slices,
            num_processes=num_processes,
        )
    if placement.slices_on_device:
        predicted_mib += (training.num_bytes + validation.num_bytes) / 2**20
    return RunRecord(
        status="running",
        device=str(device),
        precision=identity.precision,
        software=software(),
        num_processes=num_processes,
        start_weights_sha256=identity.start_weights_sha256,
        num_training_subjects=len({name.subject for name in training.names}),
        num_training_slices=len(training),
        num_training_lesion_slices=num_lesion_slices,
        num_validation_subjects=len({name.subject for name in validation.names}),
        num_validation_slices=len(validation),
        predicted_peak_mib=predicted_mib,
        **asdict(placement),
        **asdict(origin),
    )


def _open(
    folder: Path, config: RunConfig, record: RunRecord, checkpoint: Checkpoint | None
) -> None:
    """Make the run folder, and leave of an earlier run in it what this one goes on from."""
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint is None:
        for name in (RUN, WEIGHTS, MODEL, "training.csv"):
            (folder / name).unlink(missing_ok=True)
    remove_checkpoints(folder, apart_from=checkpoint)
    write_config(config, folder / "config.toml")
    write_record(record, folder / RUN)


def _keeps_memory(config: RunConfig, device: torch.device, record: RunRecord) -> bool:
    """Whether freed memory is kept for the next step, which takes up to a third more."""
    # Who recomputes activations wants less memory, not less time.
    if device.type != "cpu" or config.recipe.training.recomputes_activations:
        return False
    return 1.5 * (record.predicted_peak_mib or 0.0) <= (available_memory_mib(device) or 0.0)


def _begun(folder: Path, identity: RunIdentity, checkpoint: Checkpoint | None) -> RunRecord | None:
    """The record of the run in a folder; refuses to go on with another run than that."""
    for name in (RUN, "config.toml"):
        if not (folder / name).exists():
            if checkpoint is None:
                return None
            raise CheckpointError(
                f"{folder / name}: no such file, expected beside {checkpoint.file.parent.name}. "
                "Restore it, or begin anew without --resume."
            )
    record = read_record(folder / RUN, RunRecord)
    begun = RunIdentity(
        config=read_config(folder / "config.toml", RunConfig),
        cohort_sha256=record.cohort_sha256,
        split_sha256=record.split_sha256,
        fold=record.fold,
        start_weights_sha256=record.start_weights_sha256,
        precision=record.precision,
    )
    if changed := differences(begun, identity, apart_from={"config.device"}):
        raise ConfigError(
            f"{folder}: begun with {'; '.join(changed)}; expected the same to go on. Give what "
            "the run was begun with, or begin another one elsewhere."
        )
    return record


def _resumption(checkpoint: Checkpoint, device: torch.device, num_processes: int) -> str:
    """A sentence for the record."""
    where = f"went on from {checkpoint.describe()}"
    if checkpoint.damaged:
        where += f"; {len(checkpoint.damaged)} newer checkpoints were damaged"
    changed = checkpoint.differences(device, num_processes)
    return where + (
        f"; the last bits may not be those of an unbroken run: {', '.join(changed)}"
        if changed
        else ""
    )


def _explained(
    error: Exception, config: RunConfig, device: torch.device, processes: Processes
) -> Exception:
    """The error itself, or what it means for the user."""
    if is_out_of_memory(error):
        recipe = config.recipe
        return TrainingError(
            f"out of memory on {device} with {recipe.training.slices_per_pass} slices of "
            f"image_size {recipe.slices.image_size} at once. Set "
            "training.recomputes_activations = true (the same numbers for more time), or "
            f"training.micro_batch_size = {max(1, recipe.training.slices_per_pass // 2)} (the "
            "same batch in parts), or choose a smaller slices.image_size or model."
        )
    if processes.num > 1 and isinstance(error, RuntimeError):
        # Of gradients that PyTorch exchanges, for one; what else it can be, nobody foresees.
        return TrainingError(
            f"process {processes.rank} of {processes.num}: {str(error).splitlines()[0]}. If it "
            "lost another one, the message of the one that ended first says why; go on with "
            "--resume, on any number of processes."
        )
    return error
