"""The run folder: weights as safetensors, all else as JSON and TOML; nothing that can run code.

config.toml           the resolved run: model, seed, device, recipe
run.json              `RunRecord`: status, data, versions, best epoch, cost
training.csv          one row per epoch
weights.safetensors   of the best epoch
model.json            `ModelRecord`: what is needed to use the weights, and their hash
"""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from hemaseg.config import IntensityConfig, ModelConfig, Section
from hemaseg.errors import CheckpointError
from hemaseg.files import file_sha256, whole_file, write_text
from hemaseg.models.catalogue import build_model

WEIGHTS = "weights.safetensors"
MODEL = "model.json"
RUN = "run.json"


class ModelRecord(Section):
    """What a predictor must know besides the weights."""

    format: Literal["hemaseg-model-1"] = "hemaseg-model-1"
    model: ModelConfig
    image_size: int
    intensity: IntensityConfig
    threshold: float
    """Probability from which a pixel belongs to the mask."""
    modality: str = ""
    """`CT` or `MRI` if all training scans were; empty if they were mixed or unknown."""
    weights_sha256: str


class Software(Section):
    """What a run was made with."""

    hemaseg: str
    python: str
    torch: str
    numpy: str
    platform: str
    processor: str
    num_threads: int


class RunRecord(Section):
    """What happened in a run; times in seconds, undefined values null."""

    format: Literal["hemaseg-run-1"] = "hemaseg-run-1"
    status: Literal["running", "complete", "interrupted", "failed"]
    message: str = ""
    device: str
    precision: Literal["fp32", "bf16"]
    software: Software
    cohort_sha256: str
    split_sha256: str
    fold: int
    modality: str = ""
    num_training_subjects: int
    num_training_slices: int
    num_training_lesion_slices: int
    num_validation_subjects: int
    num_validation_slices: int
    num_epochs_done: int = 0
    best_epoch: int | None = None
    best_validation_dice: float | None = None
    training_s: float = 0.0
    peak_memory_mib: float | None = None
    inference_slices_per_s: float | None = None


def software() -> Software:
    """Versions and machine of this process."""
    return Software(
        hemaseg=version("hemaseg"),
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=version("numpy"),
        platform=platform.platform(),
        processor=f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        num_threads=torch.get_num_threads(),
    )


RecordT = TypeVar("RecordT", bound=Section)


def write_record(record: Section, path: Path) -> None:
    """Write a record as JSON, whole or not at all."""
    write_text(path, record.model_dump_json(indent=2) + "\n")


def read_record(path: Path, kind: type[RecordT]) -> RecordT:
    """Read and check a record.

    Raises:
        CheckpointError: If it is missing, unreadable, or not of this kind.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no such file, expected in a run folder. Give one that hemaseg train wrote."
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error}).") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "file"
        raise CheckpointError(
            f"{path}: {key}: {first['msg']}. The file is damaged or of another version; "
            "train again."
        ) from error


def save_model(
    folder: Path,
    network: nn.Module,
    model: ModelConfig,
    *,
    image_size: int,
    intensity: IntensityConfig,
    threshold: float,
    modality: str = "",
) -> None:
    """Write weights and `model.json`; each file whole or not at all, the record last."""
    weights = {
        key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()
    }
    try:
        with whole_file(folder / WEIGHTS) as partial:
            save_file(weights, partial)
    except SafetensorError as error:  # how safetensors reports a full disk
        raise CheckpointError(
            f"{folder / WEIGHTS}: cannot be written ({error}). Check that the folder may be "
            "written to and has space."
        ) from error
    record = ModelRecord(
        model=model,
        image_size=image_size,
        intensity=intensity,
        threshold=threshold,
        modality=modality,
        weights_sha256=file_sha256(folder / WEIGHTS),
    )
    write_record(record, folder / MODEL)


def load_model(folder: Path) -> tuple[nn.Module, ModelRecord]:
    """The network of a run folder, on the CPU in evaluation mode, and how to use it.

    Raises:
        CheckpointError: If a file is missing, damaged, changed since it was written, or does not
        fit     the model that the record names.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: no such folder. Give the folder that hemaseg train wrote."
        )
    record = read_record(folder / MODEL, ModelRecord)
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file, expected beside {MODEL}. Train again.")
    found = file_sha256(path)
    if found != record.weights_sha256:
        raise CheckpointError(
            f"{path}: SHA-256 {found[:16]}..., expected {record.weights_sha256[:16]}... as written "
            f"in {MODEL}. The weights are damaged or of another run; restore or train again."
        )
    network = build_model(record.model.name, record.model.options)
    try:
        network.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: weights do not fit model {record.model.name} with options "
            f"{record.model.options}: {str(error).splitlines()[0]}"
        ) from error
    return network.eval(), record
