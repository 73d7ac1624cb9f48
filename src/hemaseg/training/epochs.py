"""The epochs of a training: steps, validation, checkpoints, best weights, table.

It never asks which model it has: that is the fairness argument of a comparison.
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hemaseg.config import RunConfig, flat
from hemaseg.errors import TrainingError
from hemaseg.files import csv_text, file_sha256, write_text
from hemaseg.interruption import StopRequest
from hemaseg.metrics.calibration import Calibration
from hemaseg.models.catalogue import build_model
from hemaseg.models.recomputation import recomputation
from hemaseg.slices.augmentation import augment
from hemaseg.slices.dataset import SliceSet, epoch_order
from hemaseg.training.checkpoint import (
    MODEL,
    RUN,
    WEIGHTS,
    ModelRecord,
    RunRecord,
    Start,
    read_record,
    save_model,
    write_record,
)
from hemaseg.training.device import memory_format, peak_memory_mib, reset_peak_memory
from hemaseg.training.losses import loss
from hemaseg.training.optimisation import make_optimiser, make_schedules
from hemaseg.training.processes import Processes
from hemaseg.training.progress import Epoch, Progress
from hemaseg.training.recording import Recorded
from hemaseg.training.resumption import Checkpoint, RunIdentity, TrainingState, write_checkpoint
from hemaseg.training.tracking import Status, Tracker
from hemaseg.training.validation import THRESHOLD, validate

_STEPS_BETWEEN_CHECKS = 16
"""On a GPU: how late a number that is not finite is seen. Until then no checkpoint is written."""


class Epochs:
    """One training: what does not change while it goes on, and the state that does."""

    def __init__(
        self,
        config: RunConfig,
        training: SliceSet,
        validation: SliceSet,
        folder: Path,
        record: RunRecord,
        identity: RunIdentity,
        *,
        device: torch.device,
        processes: Processes,
        tracker: Tracker,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._config, self._recipe = config, config.recipe
        self._training, self._validation = training, validation
        self._has_lesion = training.has_lesion
        self._folder, self._record, self._identity = folder, record, identity
        self._device, self._layout = device, memory_format(device)
        self._processes, self._tracker, self._progress = processes, tracker, progress
        self._num_steps = math.ceil(int(self._has_lesion.sum()) / self._recipe.training.batch_size)
        self._autocast = torch.autocast(
            device.type, torch.bfloat16, enabled=record.precision == "bf16"
        )
        self._checkpoint_s = 0.0
        self._waiting: list[_Waiting] = []
        torch.manual_seed(config.seed)
        network = build_model(config.model.name, config.model.options)
        network = network.to(device, memory_format=self._layout)  # type: ignore[call-overload]
        optimiser = make_optimiser(network, self._recipe.optimiser)
        num_steps = self._num_steps * self._recipe.training.num_epochs
        self.state = TrainingState(
            network,
            optimiser,
            *make_schedules(optimiser, self._recipe.schedule, num_steps),
            random=torch.Generator().manual_seed(config.seed),
        )

    def go_on(
        self,
        start: Start | None,
        checkpoint: Checkpoint | None,
        stop: StopRequest,
        checkpoint_every_s: float,
    ) -> None:
        """Train from the beginning or from a checkpoint to the last epoch.

        Raises:
            KeyboardInterrupt: It was asked to stop. Before the last epoch's end a checkpoint was
                written; after it, who calls writes one, as for whatever comes then.
        """
        state = self.state
        joined = self._begin(start, checkpoint)
        last_s = time.monotonic()

        def keep() -> None:
            """Write a checkpoint if it is time; stop if that was asked."""
            nonlocal last_s
            stops = self._processes.any(stop.kind is not None)
            if self._processes.is_first and (
                stops or time.monotonic() - last_s >= checkpoint_every_s
            ):
                self.write_checkpoint()
                last_s = time.monotonic()
            if stops:
                self._processes.wait()
                raise stop.kind or KeyboardInterrupt

        self._write_table()
        if self._processes.is_first:
            self._tracker.begin(flat(self._config.model_dump()), first_epoch=len(state.done) + 1)
        while len(state.done) < self._recipe.training.num_epochs:
            begin_s = time.perf_counter() - state.elapsed_s
            if not len(state.order):
                state.order = epoch_order(
                    self._has_lesion, self._recipe.slices.negative_share, state.random
                )
                state.step, state.sum_loss = 0, 0.0
                state.learning_rate = state.optimiser.param_groups[0]["lr"]
            joined.train()
            batches = state.order.split(self._recipe.training.batch_size)
            for indices in batches[state.step :]:
                self._step(joined, indices)
                state.step += 1
                state.elapsed_s = time.perf_counter() - begin_s
                self._show()
                keep()
            self._check()
            state.elapsed_s = time.perf_counter() - begin_s
            # Several processes can only stop where all of them are.
            self._finish_epoch(begin_s, keep if self._processes.num == 1 else lambda: None)
            if self._processes.is_first:
                values = asdict(state.done[-1])
                self._tracker.epoch(values.pop("epoch"), values)
        if self._processes.any(stop.kind is not None):
            raise stop.kind or KeyboardInterrupt

    def _begin(self, start: Start | None, checkpoint: Checkpoint | None) -> nn.Module:
        """Put everything where it was or shall be; what a step runs."""
        state = self.state
        if start is not None:
            state.network.load_state_dict(start.network.state_dict())
        if checkpoint is not None:
            checkpoint.restore(state, self._identity)
            if self._processes.is_first and state.done:
                self._restore_best(checkpoint)
        reset_peak_memory(self._device)
        joined = self._processes.join(state.network)
        if self._record.slices_on_device:
            self._training = self._training.on(self._device)
            self._validation = self._validation.on(self._device)
        if not self._record.passes_recorded:
            return joined
        slices, training = self._recipe.slices, self._recipe.training
        return Recorded(
            joined.train(), training.batch_size, slices.image_size, self._record.precision
        )

    def finish(self, status: Status, message: str, calibration: Calibration | None) -> RunRecord:
        """Say in `run.json` and to the tracker how it ended; what was said."""
        done = self.state.done
        best = max(done, key=rank, default=None)
        finished = self._record.model_copy(
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
        if self._processes.is_first:
            write_record(finished, self._folder / RUN)
            self._tracker.end(status)
        return finished

    def write_checkpoint(self) -> None:
        """Write one now; by the first process, between two steps."""
        self._check()
        self._checkpoint_s = write_checkpoint(
            *(self._folder, self.state, self._identity, self._device, self._processes.num)
        )

    def _restore_best(self, checkpoint: Checkpoint) -> None:
        """The best weights as they were: epochs that a kill has undone may have replaced them."""
        weights, model = self._folder / WEIGHTS, self._folder / MODEL
        expected = checkpoint.best_sha256
        if (
            weights.exists()
            and model.exists()
            and file_sha256(weights) == expected == read_record(model, ModelRecord).weights_sha256
        ):
            return
        network = build_model(self._config.model.name, self._config.model.options)
        network.load_state_dict(checkpoint.best)
        self._save(network)

    def _save(self, network: nn.Module) -> None:
        save_model(
            self._folder,
            network,
            self._config.model,
            image_size=self._recipe.slices.image_size,
            intensity=self._recipe.intensity,
            threshold=THRESHOLD,
            modality=self._record.modality,
        )

    def _step(self, joined: nn.Module, indices: Tensor) -> None:
        """Change the weights once by a batch."""
        recipe, state, losses = self._recipe, self.state, []
        # The last step's gradients go before this step's activations come.
        state.optimiser.zero_grad(set_to_none=True)
        parts = indices.split(recipe.training.slices_per_pass)
        for number, part in enumerate(parts, 1):
            share = self._processes.share(len(part))
            images, masks = self._training.batch(part[share], self._device)
            images, masks = augment(
                *(images, masks, recipe.augmentation, state.random),
                share=share,
                num_drawn=len(part),
            )
            # Gradients are averaged over processes once, at the last part.
            alone = self._processes.num == 1 or number == len(parts)
            with nullcontext() if alone else joined.no_sync():  # type: ignore[operator]
                with self._autocast, recomputation(recipe.training.recomputes_activations):
                    logits = joined(images.contiguous(memory_format=self._layout))
                value = loss(logits, masks, recipe.loss, self._processes)
                if len(parts) > 1:
                    value = value * (len(part) / len(indices))
                losses.append(value.detach())
                value.backward()
        gradients = [w.grad for w in state.network.parameters() if w.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        self._waiting.append(_Waiting(state.step + 1, torch.stack(losses), norm, indices))
        # To look at a number, one waits for the GPU, which then waits for the next step. Several
        # processes wait for each other anyway, and have to fail together.
        is_alone_on_gpu = self._device.type == "cuda" and self._processes.num == 1
        if not is_alone_on_gpu or len(self._waiting) == _STEPS_BETWEEN_CHECKS:
            self._check()
        state.optimiser.step()
        if state.cosine is not None:
            state.cosine.step()

    def _check(self) -> None:
        """Add the losses of the last steps to the sum; an error if a number is not finite."""
        for waiting in self._waiting:
            losses = waiting.losses.tolist()
            for what, number in [
                *(("loss", value) for value in losses),
                ("norm of the gradients", float(waiting.norm)),
            ]:
                if not math.isfinite(number):
                    raise self._not_finite(what, number, waiting)
            self.state.sum_loss += sum(losses)
        self._waiting.clear()

    def _finish_epoch(self, begin_s: float, between: Callable[[], None]) -> None:
        """Validate, keep the weights if they are the best, add a row to the table."""
        state, network = self.state, self.state.network
        epoch, training_s = len(state.done) + 1, state.elapsed_s
        validation_loss, validation_dice = validate(
            network,
            self._validation,
            self._config,
            self._autocast,
            processes=self._processes,
            between=between,
        )
        if not math.isfinite(validation_loss):
            raise TrainingError(
                f"validation loss is {validation_loss} after epoch {epoch}, expected a finite "
                "number. Lower optimiser.learning_rate, or use training.precision fp32."
            )
        if state.plateau is not None:
            state.plateau.step(validation_loss)
        epoch_s = time.perf_counter() - begin_s
        peaks = [peak_memory_mib(self._device), *(before.peak_memory_mib for before in state.done)]
        row = Epoch(
            epoch=epoch,
            training_loss=state.sum_loss / self._num_steps,
            validation_loss=validation_loss,
            validation_dice=validation_dice,
            learning_rate=state.learning_rate,
            epoch_s=epoch_s,
            cumulative_s=epoch_s + (state.done[-1].cumulative_s if state.done else 0.0),
            slices_per_s=len(state.order) / training_s,
            peak_memory_mib=max((p for p in peaks if p is not None and p == p), default=math.nan),
        )
        if self._processes.is_first and (not state.done or rank(row) > max(map(rank, state.done))):
            self._save(network)
        state.done.append(row)
        state.order, state.step, state.elapsed_s = state.order[:0], 0, 0.0
        self._write_table()

    def _write_table(self) -> None:
        if self._processes.is_first:
            rows = map(asdict, self.state.done)
            write_text(self._folder / "training.csv", csv_text(Epoch.__dataclass_fields__, rows))

    def _show(self) -> None:
        if self._progress is not None:
            done = self.state.done
            self._progress(
                Progress(
                    epoch=len(done) + 1,
                    num_epochs=self._recipe.training.num_epochs,
                    step=self.state.step,
                    num_steps=self._num_steps,
                    last=done[-1] if done else None,
                    predicted_peak_mib=self._record.predicted_peak_mib or math.nan,
                    checkpoint_s=self._checkpoint_s,
                )
            )

    def _not_finite(self, what: str, number: float, waiting: "_Waiting") -> TrainingError:
        """An error that names the batch's cases."""
        names = [self._training.names[i] for i in waiting.indices.tolist()]
        cases = ", ".join(f"{name.image} (slice {name.index})" for name in names)
        return TrainingError(
            f"{what} is {number} in epoch {len(self.state.done) + 1}, step {waiting.step}, "
            f"expected a finite number; batch: {cases}. Lower optimiser.learning_rate, use "
            "training.precision fp32, or look at these images."
        )


class _Waiting(NamedTuple):
    """Numbers of a step, still where they were computed."""

    step: int
    losses: Tensor
    norm: Tensor
    indices: Tensor


def rank(epoch: Epoch) -> tuple[float, float]:
    """Order of epochs: validation Dice (undefined is worst), then lower validation loss."""
    dice = epoch.validation_dice
    return (-1.0 if math.isnan(dice) else dice, -epoch.validation_loss)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
