"""What is known of a training while it goes on."""

import time
from dataclasses import dataclass, field

CHECKPOINT_EVERY_S = 300.0
"""Between checkpoints, unless asked otherwise: what a kill costs at most. Writing one takes less
than 2 % of it, as `docs/guarantees.md` shows."""
SLOW_S = 5.0
"""A checkpoint that takes longer is worth a word in the progress line, and so is such reading."""


@dataclass(frozen=True)
class Reading:
    """Tells reading that takes long from reading that waits: for a disk, a network, a busy machine.

    Attributes:
        what: Is being read, in words.
    """

    what: str
    _wall_s: float = field(default_factory=time.monotonic)
    _busy_s: float = field(default_factory=time.process_time)

    def describe(self) -> str:
        """A few words for a progress line: what, and how much of the time is waiting if most is."""
        wall_s = time.monotonic() - self._wall_s
        waiting = 1 - (time.process_time() - self._busy_s) / max(wall_s, 1e-9)
        if wall_s < SLOW_S or waiting < 0.5:
            return self.what
        return f"{self.what}, slow disk or network: {waiting:.0%} of the time waiting"


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
        epoch_s: Training, validation and checkpoints; what an interruption lost is not counted.
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
    checkpoint_s: float = 0.0
    """What writing the last checkpoint took; 0 before the first one."""

    def describe(self) -> str:
        """A few words for a progress line: what is known of the run so far.

        In the first epoch that is the predicted peak of memory, then the last validation Dice.
        """
        words = f"training, epoch {self.epoch}/{self.num_epochs}"
        if self.checkpoint_s > SLOW_S:
            words += f", slow disk: {self.checkpoint_s:.0f} s for a checkpoint"
        if self.last is None:
            return f"{words}, predicted peak {self.predicted_peak_mib:,.0f} MiB"
        return f"{words}, Dice {self.last.validation_dice:.3f}"
