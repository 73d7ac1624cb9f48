"""Checkpoints: all that a training needs to go on to the same bits, after whatever ended it.

A checkpoint is one safetensors file in `RUN/checkpoints/`: weights, those of the best epoch so far,
the optimiser's moments, the states of the random generators and the order of the epoch as tensors,
the rest as JSON in the header. It is written beside its place, synced, and moved there, and its
name holds the SHA-256 of its bytes; the two newest are kept. So at any moment one that is whole
lies there, once there was one.
"""

import json
import math
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from hemaseg.config import RunConfig, Section, differences
from hemaseg.errors import CheckpointError, TrainingError
from hemaseg.files import PARTIAL, file_sha256, sync_folder, whole_file
from hemaseg.training.checkpoint import WEIGHTS, Software, software
from hemaseg.training.device import Precision
from hemaseg.training.progress import Epoch

CHECKPOINTS = "checkpoints"
NUM_KEPT = 2

_NAME = re.compile(r"(\d{8})-([0-9a-f]{64})\.safetensors")
_NEXT = "next.safetensors"
"""One that is whole and has no name yet."""
_HEADER = "hemaseg"


class RunIdentity(Section):
    """What decides the numbers of a run; a run goes on only as the same one."""

    config: RunConfig
    cohort_sha256: str
    split_sha256: str
    fold: int
    start_weights_sha256: str | None
    precision: Precision


@dataclass(eq=False)
class TrainingState:
    """All that changes while a network trains.

    Attributes:
        network: Being trained.
        optimiser: Of its weights.
        cosine: Learning rate per step, if the recipe says so.
        plateau: Learning rate per epoch, if the recipe says so.
        random: Draws order and augmentation.
        order: Slices of the epoch that is under way; empty between epochs.
        step: Steps of it that are done.
        sum_loss: Over these steps.
        elapsed_s: Time that they took.
        learning_rate: At its start.
        done: Epochs before it.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    cosine: LambdaLR | None
    plateau: ReduceLROnPlateau | None
    random: torch.Generator
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    step: int = 0
    sum_loss: float = 0.0
    elapsed_s: float = 0.0
    learning_rate: float = 0.0
    done: list[Epoch] = field(default_factory=list)


class _Header(Section):
    format: Literal["hemaseg-checkpoint-1"] = "hemaseg-checkpoint-1"
    identity: RunIdentity
    software: Software
    device: str
    num_processes: int
    best_sha256: str | None
    """Of `weights.safetensors`, whose tensors are in the checkpoint too."""
    step: int
    sum_loss: float
    elapsed_s: float
    learning_rate: float
    done: list[dict[str, int | float | None]]
    optimiser_groups: list[dict[str, Any]]
    cosine: dict[str, Any] | None
    plateau: dict[str, Any] | None


def write_checkpoint(
    folder: Path,
    state: TrainingState,
    identity: RunIdentity,
    device: torch.device,
    num_processes: int = 1,
) -> float:
    """Write a checkpoint, then remove all but the two newest.

    Args:
        folder: Of the run. The weights of the best epoch so far lie in it, and go into the
            checkpoint: later epochs, which a kill may undo, can replace them.
        state: Between two steps.
        identity: Of the run.
        device: Where it trains.
        num_processes: That train together.

    Returns:
        Seconds that it took.

    Raises:
        TrainingError: It cannot be written; those before it are as they were.
    """
    begin_s = time.perf_counter()
    tensors = {f"network.{name}": value for name, value in state.network.state_dict().items()}
    optimiser = state.optimiser.state_dict()
    for index, values in optimiser["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in values.items()}
    tensors |= {"order": state.order, "random": state.random.get_state()}
    tensors["random_cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors["random_cuda"] = torch.cuda.get_rng_state(device)
    best = folder / WEIGHTS if state.done else None
    if best is not None:
        tensors |= {f"best.{name}": value for name, value in load_file(best).items()}
    header = _Header(
        identity=identity,
        software=software(),
        device=str(device),
        num_processes=num_processes,
        best_sha256=None if best is None else file_sha256(best),
        step=state.step,
        sum_loss=state.sum_loss,
        elapsed_s=state.elapsed_s,
        learning_rate=state.learning_rate,
        done=[{k: None if v != v else v for k, v in asdict(row).items()} for row in state.done],
        optimiser_groups=optimiser["param_groups"],
        cosine=state.cosine.state_dict() if state.cosine else None,
        plateau=state.plateau.state_dict() if state.plateau else None,
    )
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    before = _files(folder)
    number = 1 + max((int(_NAME.fullmatch(file.name)[1]) for file in before), default=0)  # type: ignore[index]
    inner = folder / CHECKPOINTS
    try:
        with whole_file(inner / _NEXT) as partial:
            # Not pydantic's JSON, which has no infinity: a plateau begins with it.
            save_file(plain, partial, {_HEADER: json.dumps(header.model_dump())})
        sha256 = file_sha256(inner / _NEXT)
        (inner / _NEXT).replace(inner / f"{number:08}-{sha256}.safetensors")
        sync_folder(inner)
    except (OSError, SafetensorError) as error:
        num_mib = sum(value.nbytes for value in plain.values()) / 2**20
        raise TrainingError(
            f"{inner}: a checkpoint of {num_mib:,.0f} MiB cannot be written "
            f"({getattr(error, 'strerror', None) or error}). "
            f"{'The one before it is kept. ' if before else ''}Make room or allow writing, then go "
            "on with --resume."
        ) from error
    for file in before[NUM_KEPT - 1 :]:
        file.unlink(missing_ok=True)
    return time.perf_counter() - begin_s


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One that was read whole.

    Attributes:
        file: Where it lies.
        damaged: Newer ones that were not whole.
    """

    file: Path
    damaged: tuple[Path, ...]
    _header: _Header
    _tensors: dict[str, Tensor]

    @property
    def best_sha256(self) -> str | None:
        """Of the file with the weights of the best epoch so far; None before the first one."""
        return self._header.best_sha256

    @property
    def best(self) -> dict[str, Tensor]:
        """These weights."""
        return _below("best.", self._tensors)

    def differences(self, device: torch.device, num_processes: int) -> list[str]:
        """What is not as it was when the checkpoint was written, and can move the last bits."""
        header = self._header
        before = header.software.model_dump() | {
            "device": header.device,
            "num_processes": header.num_processes,
        }
        now = software().model_dump() | {"device": str(device), "num_processes": num_processes}
        return [f"{key} {before[key]}, now {now[key]}" for key in now if before[key] != now[key]]

    def describe(self) -> str:
        """Where in the training it was written."""
        return f"epoch {len(self._header.done) + 1}, step {self._header.step}"

    def restore(self, state: TrainingState, identity: RunIdentity) -> None:
        """Put everything back to the bit, in the memory layout that the network has.

        Args:
            state: As made for the run: network, optimiser and schedules of its configuration.
            identity: Of the run, whose settings were compared with those in its folder.

        Raises:
            CheckpointError: It is of another run, or does not fit.
        """
        if differences(self._header.identity, identity, apart_from={"config.device"}):
            raise CheckpointError(
                f"{self.file}: of another run than the others of its files. Train again."
            )
        header, tensors = self._header, self._tensors
        optimiser: dict[int, dict[str, Tensor]] = {}
        for name, value in _below("optimiser.", tensors).items():
            index, key = name.split(".")
            optimiser.setdefault(int(index), {})[key] = value
        try:
            state.network.load_state_dict(_below("network.", tensors))
            state.optimiser.load_state_dict(
                {"state": optimiser, "param_groups": header.optimiser_groups}
            )
            for group in state.optimiser.param_groups:  # The checkpoint may be of another device.
                group["fused"] = group["params"][0].is_cuda or None
            # Moments in the layout of their weights, in which steps are fastest.
            for weight, moments in state.optimiser.state.items():
                for key, value in moments.items():
                    if value.shape == weight.shape:
                        moments[key] = torch.empty_like(weight).copy_(value)
            if state.cosine is not None:
                state.cosine.load_state_dict(header.cosine or {})
            if state.plateau is not None:
                state.plateau.load_state_dict(header.plateau or {})
            state.random.set_state(tensors["random"])
            torch.set_rng_state(tensors["random_cpu"])
            if "random_cuda" in tensors and torch.cuda.is_available():
                torch.cuda.set_rng_state(tensors["random_cuda"])
            state.order = tensors["order"]
            state.step, state.sum_loss = header.step, header.sum_loss
            state.elapsed_s, state.learning_rate = header.elapsed_s, header.learning_rate
            state.done = [
                Epoch(**{k: math.nan if v is None else v for k, v in row.items()})  # type: ignore[arg-type]
                for row in header.done
            ]
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{self.file}: does not fit the run ({str(error).splitlines()[0]}), though its "
                "bytes are whole. It is of another version of hemaseg or PyTorch; resume with "
                "that one, or train again."
            ) from error


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a run that is whole; None if none was written yet.

    Raises:
        CheckpointError: There are some, all damaged.
    """
    damaged: list[Path] = []
    for file in _files(folder):
        if file_sha256(file) != file.stem.partition("-")[2]:
            damaged.append(file)
            continue
        try:
            with safe_open(file, "pt") as content:
                header = _Header.model_validate(json.loads(content.metadata()[_HEADER]))
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        except (SafetensorError, ValidationError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{file}: not a checkpoint of this version ({str(error).splitlines()[0]}). Resume "
                "with the version that wrote it, or train again."
            ) from error
        return Checkpoint(file, tuple(damaged), header, tensors)
    if damaged:
        raise CheckpointError(
            f"{folder / CHECKPOINTS}: all {len(damaged)} checkpoints are damaged: their SHA-256 is "
            "not that in their names. Restore one, or train again."
        )
    return None


def remove_checkpoints(folder: Path, *, apart_from: Checkpoint | None = None) -> None:
    """Remove the checkpoints of a run, and what kills left of files that were being written.

    Args:
        folder: Of the run.
        apart_from: The one that stays, with those that are older.
    """
    files = _files(folder) if apart_from is None else apart_from.damaged
    inner = folder / CHECKPOINTS
    # safetensors, too, writes beside the place of a file, under such a name.
    left = [
        file
        for place in (folder, inner)
        for pattern in (f"{PARTIAL}*", ".tmp??????")
        for file in place.glob(pattern)
    ]
    for file in (*files, inner / _NEXT, *left):
        file.unlink(missing_ok=True)
    if inner.is_dir() and not any(inner.iterdir()):
        inner.rmdir()


def _files(folder: Path) -> list[Path]:
    """Checkpoints of a run, newest first."""
    files = (folder / CHECKPOINTS).glob("*.safetensors")
    return sorted((file for file in files if _NAME.fullmatch(file.name)), reverse=True)
