"""The one loop that trains every model.

It never asks which model it has: that is the fairness argument of a comparison.

Shape legend: N slices of a batch, H rows, W columns.
"""

import contextlib
import csv
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from hemaseg.config import OptimiserConfig, RunConfig, ScheduleConfig, write_config
from hemaseg.errors import ConfigError, TrainingError
from hemaseg.metrics.calibration import Calibration
from hemaseg.metrics.overlap import OverlapCounts
from hemaseg.models.catalogue import build_model, model_class
from hemaseg.models.recomputation import recomputation
from hemaseg.slices.augmentation import augment
from hemaseg.slices.dataset import SliceSet, epoch_order
from hemaseg.training.checkpoint import (
    MODEL,
    RUN,
    WEIGHTS,
    RunRecord,
    Start,
    require_fitting,
    save_model,
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
    memory_format,
    peak_memory_mib,
    reset_peak_memory,
)
from hemaseg.training.doubt import add_doubt
from hemaseg.training.losses import loss
from hemaseg.training.memory import require_memory

THRESHOLD = 0.5
"""Probability from which a pixel belongs to the mask; the paper states none."""


@dataclass(frozen=True)
class DataOrigin:
    """Where training and validation slices came from; stored in `run.json`.

    Attributes:
        cohort_sha256: Of `cohort.csv`.
        split_sha256: Of `split.json`.
        fold: From 0.
        modality: Of all training scans, empty if mixed or unknown; stored with the weights too.
    """

    cohort_sha256: str
    split_sha256: str
    fold: int
    modality: str = ""


@dataclass(frozen=True)
class Epoch:
    """One row of `training.csv`.

    Attributes:
        epoch: From 1.
        training_loss: Mean over the epoch's batches, weights changing meanwhile.
        validation_loss: Mean over validation batches, weighted by their slices.
        validation_dice: Mean over validation subjects of Dice pooled over the subject's slices; NaN
            if it is undefined for all of them.
        learning_rate: At the start of the epoch.
        epoch_s: Training and validation.
        cumulative_s: Sum of `epoch_s` so far.
        slices_per_s: Training slices over training time, validation apart.
        peak_memory_mib: Highest since the run began; NaN where it cannot be measured.
    """

    epoch: int
    training_loss: float
    validation_loss: float
    validation_dice: float
    learning_rate: float
    epoch_s: float
    cumulative_s: float
    slices_per_s: float
    peak_memory_mib: float


@dataclass(frozen=True)
class Progress:
    """What a progress bar needs to know after each training step."""

    epoch: int
    num_epochs: int
    step: int
    num_steps: int
    last: Epoch | None
    predicted_peak_mib: float

    def describe(self) -> str:
        """A few words for a progress line: what is known of the run so far.

        In the first epoch that is the predicted peak of memory, then the last validation Dice.
        """
        words = f"training, epoch {self.epoch}/{self.num_epochs}"
        if self.last is None:
            return f"{words}, predicted peak {self.predicted_peak_mib:,.0f} MiB"
        return f"{words}, Dice {self.last.validation_dice:.3f}"


def train(
    config: RunConfig,
    training: SliceSet,
    validation: SliceSet,
    folder: Path,
    *,
    origin: DataOrigin,
    start: Start | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> RunRecord:
    """Train one network and keep the weights of the epoch with the best validation Dice.

    Then, if nothing interrupts it, they are calibrated and the training scans described (`doubt`).

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
        progress: Called after each step.

    Returns:
        The final record, as written to `run.json`.

    Raises:
        TrainingError: No lesion in training or validation, a loss that is not finite (with the
            cases of the batch), or not enough memory, by prediction or in fact (with what to
            change).
        ConfigError: An unknown model or device, or weights of another network to start from.
        KeyboardInterrupt: After the run folder was left usable, with status "interrupted".
    """
    recipe, whole_validation = config.recipe, validation
    if start is not None:
        require_fitting(start, config.model)
    if recipe.slices.negative_share == 0:
        validation = validation.select(torch.nonzero(validation.has_lesion).flatten())
    _require_lesions(training, validation)
    _require_size(config, int(training.has_lesion.sum()))
    device = choose_device(config.device)
    precision = choose_precision(recipe.training.precision, device)
    predicted_mib = require_memory(
        config, device=device, precision=precision, num_slices=int(training.has_lesion.sum())
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, MODEL, "training.csv"):  # of an earlier run
        (folder / name).unlink(missing_ok=True)
    write_config(config, folder / "config.toml")
    record = RunRecord(
        status="running",
        device=str(device),
        precision=precision,
        software=software(),
        start_weights_sha256=start.weights_sha256 if start else None,
        num_training_subjects=len({name.subject for name in training.names}),
        num_training_slices=len(training),
        num_training_lesion_slices=int(training.has_lesion.sum()),
        num_validation_subjects=len({name.subject for name in validation.names}),
        num_validation_slices=len(validation),
        predicted_peak_mib=predicted_mib,
        **asdict(origin),
    )
    write_record(record, folder / RUN)

    calibration: Calibration | None = None

    def finish(status: str, message: str, done: list[Epoch]) -> RunRecord:
        best = max(done, key=_rank, default=None)
        finished = record.model_copy(
            update={
                "status": status,
                "message": message,
                "num_epochs_done": len(done),
                "best_epoch": best.epoch if best else None,
                "best_validation_dice": _or_none(best.validation_dice) if best else None,
                "training_s": done[-1].cumulative_s if done else 0.0,
                "peak_memory_mib": _or_none(done[-1].peak_memory_mib) if done else None,
                "calibration": calibration,
            }
        )
        write_record(finished, folder / RUN)
        return finished

    done: list[Epoch] = []
    # Kept memory takes up to a third more; who recomputes activations wants less, not less time.
    free_mib = available_memory_mib(device) or 0.0
    keeps = (
        device.type == "cpu"
        and not recipe.training.recomputes_activations
        and 1.5 * predicted_mib <= free_mib
    )
    try:
        with deterministic(recipe.training.is_deterministic), kept_memory(keeps):
            _run_epochs(
                config,
                training,
                validation,
                folder,
                record,
                device=device,
                initial=start.network if start else None,
                done=done,
                progress=progress,
            )
            calibration = add_doubt(
                folder,
                training,
                whole_validation,
                device=device,
                batch_size=recipe.training.batch_size,
            )
    except KeyboardInterrupt:
        kept = "weights of the best epoch kept" if done else "no epoch was finished, so no weights"
        finish("interrupted", f"stopped by the user; {kept}", done)
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            finish("failed", str(error), done)
            raise
        batch = recipe.training.batch_size
        message = (
            f"out of memory on {device} with batch_size {batch} and image_size "
            f"{recipe.slices.image_size}. Halve training.batch_size, set "
            "training.recomputes_activations = true, or choose a smaller slices.image_size or "
            "model."
        )
        finish("failed", message, done)
        raise TrainingError(message) from error
    return finish("complete", "", done)


def _run_epochs(
    config: RunConfig,
    training: SliceSet,
    validation: SliceSet,
    folder: Path,
    record: RunRecord,
    *,
    device: torch.device,
    initial: nn.Module | None,
    done: list[Epoch],
    progress: Callable[[Progress], None] | None,
) -> None:
    """Append one `Epoch` to `done` and to `training.csv` for each pass; save the best weights."""
    recipe = config.recipe
    torch.manual_seed(config.seed)
    network = build_model(config.model.name, config.model.options)
    if initial is not None:
        network.load_state_dict(initial.state_dict())
    layout = memory_format(device)
    network = network.to(device, memory_format=layout)  # type: ignore[call-overload]
    optimiser = _optimiser(network, recipe.optimiser)
    random = torch.Generator().manual_seed(config.seed)
    has_lesion = training.has_lesion
    batch_size = recipe.training.batch_size
    num_steps = math.ceil(int(has_lesion.sum()) / batch_size)
    cosine, plateau = _schedules(optimiser, recipe.schedule, num_steps * recipe.training.num_epochs)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=record.precision == "bf16")
    reset_peak_memory(device)
    with (folder / "training.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(Epoch.__dataclass_fields__))
        table.writeheader()
        for epoch in range(1, recipe.training.num_epochs + 1):
            start = time.perf_counter()
            network.train()
            learning_rate = optimiser.param_groups[0]["lr"]
            sum_loss = 0.0
            order = epoch_order(has_lesion, recipe.slices.negative_share, random)
            for step, indices in enumerate(order.split(batch_size), 1):
                images = training.images[indices].float().to(device)
                masks = training.masks[indices].float().to(device)
                images, masks = augment(images, masks, recipe.augmentation, random)
                # The last step's gradients go before this step's activations come.
                optimiser.zero_grad(set_to_none=True)
                with autocast, recomputation(recipe.training.recomputes_activations):
                    logits = network(images.contiguous(memory_format=layout))
                value = loss(logits, masks, recipe.loss)
                sum_loss += _finite(value, training, indices, epoch, step)
                value.backward()
                optimiser.step()
                if cosine is not None:
                    cosine.step()
                if progress is not None:
                    progress(
                        Progress(
                            epoch=epoch,
                            num_epochs=recipe.training.num_epochs,
                            step=step,
                            num_steps=num_steps,
                            last=done[-1] if done else None,
                            predicted_peak_mib=record.predicted_peak_mib or math.nan,
                        )
                    )
            training_s = time.perf_counter() - start
            validation_loss, validation_dice = validate(network, validation, config, autocast)
            if not math.isfinite(validation_loss):
                raise TrainingError(
                    f"validation loss is {validation_loss} after epoch {epoch}, expected a finite "
                    "number. Lower optimiser.learning_rate, or use training.precision fp32."
                )
            if plateau is not None:
                plateau.step(validation_loss)
            epoch_s = time.perf_counter() - start
            row = Epoch(
                epoch=epoch,
                training_loss=sum_loss / num_steps,
                validation_loss=validation_loss,
                validation_dice=validation_dice,
                learning_rate=learning_rate,
                epoch_s=epoch_s,
                cumulative_s=epoch_s + (done[-1].cumulative_s if done else 0.0),
                slices_per_s=len(order) / training_s,
                peak_memory_mib=_or_nan(peak_memory_mib(device)),
            )
            if not done or _rank(row) > max(map(_rank, done)):
                save_model(
                    folder,
                    network,
                    config.model,
                    image_size=recipe.slices.image_size,
                    intensity=recipe.intensity,
                    threshold=THRESHOLD,
                    modality=record.modality,
                )
            done.append(row)
            table.writerow({k: "" if v != v else v for k, v in asdict(row).items()})
            file.flush()


def validate(
    network: nn.Module,
    slices: SliceSet,
    config: RunConfig,
    autocast: contextlib.AbstractContextManager[object],
) -> tuple[float, float]:
    """Mean loss over batches, and mean Dice over subjects at the network's resolution.

    Returns:
        Loss; Dice, where a subject with neither lesion nor prediction is undefined and left out
        (NaN if all are).
    """
    device = next(network.parameters()).device
    network.eval()
    sum_loss = 0.0
    counts: dict[str, OverlapCounts] = defaultdict(OverlapCounts)
    with torch.inference_mode(), autocast:
        for indices in torch.arange(len(slices)).split(config.recipe.training.batch_size):
            images = slices.images[indices].float().to(device)
            masks = slices.masks[indices].to(device)
            logits = network(images.contiguous(memory_format=memory_format(device))).float()
            sum_loss += float(loss(logits, masks.float(), config.recipe.loss)) * len(indices)
            for index, count in zip(
                indices.tolist(), _overlap(logits.sigmoid() >= THRESHOLD, masks), strict=True
            ):
                counts[slices.names[index].subject] += count
    scores = [c.dice for c in counts.values() if not math.isnan(c.dice)]
    return sum_loss / len(slices), sum(scores) / len(scores) if scores else math.nan


def _overlap(predictions: Tensor, masks: Tensor) -> list[OverlapCounts]:
    """Counts of each slice of `(N, 1, H, W)` boolean tensors, fetched from the device at once."""
    pairs = ((predictions & masks), (predictions & ~masks), (~predictions & masks))
    counts = torch.stack([pair.flatten(1).sum(dim=1) for pair in pairs], dim=1)
    return [OverlapCounts(*row) for row in counts.tolist()]


def _optimiser(network: nn.Module, config: OptimiserConfig) -> torch.optim.Optimizer:
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)


def _schedules(
    optimiser: torch.optim.Optimizer, config: ScheduleConfig, num_steps: int
) -> tuple[LambdaLR | None, ReduceLROnPlateau | None]:
    """The schedule that the recipe names: cosine, stepped per batch, or plateau, per epoch."""
    if config.name == "plateau":
        return None, ReduceLROnPlateau(optimiser, factor=config.factor, patience=config.patience)
    num_warmup = round(config.warmup_share * num_steps)

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / (num_warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / max(1, num_steps - num_warmup)))

    return LambdaLR(optimiser, factor), None


def _finite(value: Tensor, slices: SliceSet, indices: Tensor, epoch: int, step: int) -> float:
    """The loss as a float; an error that names the batch's cases if it is NaN or infinite."""
    number = float(value.detach())
    if math.isfinite(number):
        return number
    names = [slices.names[i] for i in indices.tolist()]
    cases = ", ".join(f"{name.image} (slice {name.index})" for name in names)
    raise TrainingError(
        f"loss is {number} in epoch {epoch}, step {step}, expected a finite number; batch: "
        f"{cases}. Lower optimiser.learning_rate, use training.precision fp32, or look at these "
        "images."
    )


def _require_lesions(training: SliceSet, validation: SliceSet) -> None:
    for name, slices in (("training", training), ("validation", validation)):
        if not len(slices) or not slices.has_lesion.any():
            raise TrainingError(
                f"the {name} set has {len(slices)} marked slices and no lesion, expected at "
                "least one lesion. Check the masks, split again, or raise slices.image_size if "
                "the lesions are so small that they vanish."
            )


def _require_size(config: RunConfig, num_lesion_slices: int) -> None:
    """Refuse an image size that the network cannot halve, or cannot normalise a last batch of."""
    stride = model_class(config.model.name).stride
    size, batch_size = config.recipe.slices.image_size, config.recipe.training.batch_size
    if size % stride:
        raise ConfigError(
            f"slices.image_size is {size}, expected a multiple of {stride} for model "
            f"{config.model.name}. Change it in the recipe."
        )
    if size == stride and num_lesion_slices % batch_size == 1:
        raise ConfigError(
            f"at slices.image_size {size} the bottleneck of {config.model.name} is one pixel, and "
            f"with training.batch_size {batch_size} the last batch of {num_lesion_slices} slices "
            "would be one slice: nothing to normalise over. Change either in the recipe."
        )


def _rank(epoch: Epoch) -> tuple[float, float]:
    """Order of epochs: validation Dice (undefined is worst), then lower validation loss."""
    dice = epoch.validation_dice
    return (-1.0 if math.isnan(dice) else dice, -epoch.validation_loss)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
