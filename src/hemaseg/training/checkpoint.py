"""The run folder: weights as safetensors, all else as JSON and TOML; nothing that can run code.

config.toml           the resolved run: model, seed, device, recipe
run.json              `RunRecord`: status, data, versions, best epoch, cost
training.csv          one row per epoch
checkpoints/          until the run is complete: what it needs to go on (`resumption`)
weights.safetensors   of the best epoch
model.json            `ModelRecord`: what is needed to use the weights, and their hash
"""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hemaseg.config import (
    ImageSize,
    IntensityConfig,
    ModelConfig,
    Positive,
    Section,
    SectionT,
    Share,
)
from hemaseg.errors import CheckpointError, ConfigError
from hemaseg.files import file_sha256, whole_file, write_text
from hemaseg.metrics.calibration import Calibration
from hemaseg.models.catalogue import build_model, require_image_size
from hemaseg.slices.appearance import Appearance
from hemaseg.training.device import Precision

WEIGHTS = "weights.safetensors"
MODEL = "model.json"
RUN = "run.json"

_SMALLEST_NORMAL = torch.finfo(torch.float16).tiny
"""2^-14; what is smaller has fewer digits in float16."""


class ModelRecord(Section):
    """What a predictor must know besides the weights."""

    format: Literal["hemaseg-model-1"] = "hemaseg-model-1"
    model: ModelConfig
    image_size: ImageSize
    intensity: IntensityConfig
    threshold: Share
    """Probability from which a pixel belongs to the mask."""
    modality: str = ""
    """`CT` or `MRI` if all training scans were; empty if they were mixed or unknown."""
    temperature: Positive = 1.0
    """What logits are divided by, so that probabilities are calibrated; 1 if they were not."""
    appearance: Appearance | None = None
    """What the training scans look like; null if they were too few or not described."""
    volume_errors_cbrt_ml: tuple[Annotated[float, Field(ge=0, le=1e6)], ...] = ()
    """Of the test subjects of its study, as `metrics.volume_interval.volume_errors` gives them;
    empty if nobody knows."""
    weights_sha256: str


@dataclass(frozen=True, eq=False)
class Start:
    """What training begins from in place of random weights.

    Attributes:
        network: Whose weights and running statistics are taken.
        model: What the network is.
        weights_sha256: Of the file that they are from.
    """

    network: nn.Module
    model: ModelConfig
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
    precision: Precision
    software: Software
    num_processes: int = 1
    """That trained together, one for each device."""
    cohort_file: str = ""
    """As seen from the run folder, for `--resume`; empty in older records."""
    split_file: str = ""
    cohort_sha256: str
    split_sha256: str
    fold: int
    modality: str = ""
    resumptions: tuple[str, ...] = ()
    """Where the training went on after it was interrupted, one sentence each."""
    start_weights_sha256: str | None = None
    """Of the weights that training began from, as in their `model.json`; null if they were drawn
    from the seed."""
    num_training_subjects: int
    num_training_slices: int
    num_training_lesion_slices: int
    num_validation_subjects: int
    num_validation_slices: int
    num_epochs_done: int = 0
    best_epoch: int | None = None
    best_validation_dice: float | None = None
    training_s: float = 0.0
    predicted_peak_mib: float | None = None
    """What `peak_memory_mib` was expected to be, before the first step; null in older records."""
    peak_memory_mib: float | None = None
    slices_on_device: bool = False
    passes_recorded: bool = False
    """Both on a GPU with room for them; what they change is time."""
    inference_slices_per_s: float | None = None
    calibration: Calibration | None = None
    """On the validation slices; null if training did not end, or before there was any."""
    ran_alone: bool = True
    """Whether no other run of its study ran beside it, so that its times can be compared with those
    of others; false where nobody knows."""


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


def write_record(record: Section, path: Path) -> None:
    """Write a record as JSON, whole or not at all."""
    write_text(path, record.model_dump_json(indent=2) + "\n")


def read_record(path: Path, kind: type[SectionT]) -> SectionT:
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
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}), expected a file of a run folder. Restore "
            "it."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "file"
        raise CheckpointError(
            f"{path}: {key}: {first['msg'].removeprefix('Value error, ')}. The file is damaged or "
            "of another version; restore or train again."
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
    """Write weights (see `save_weights`) and `model.json`; each whole or not, the record last."""
    weights_sha256 = save_weights(folder, network)
    record = ModelRecord(
        model=model,
        image_size=image_size,
        intensity=intensity,
        threshold=threshold,
        modality=modality,
        weights_sha256=weights_sha256,
    )
    write_record(record, folder / MODEL)


def save_weights(folder: Path, network: nn.Module, *, is_float16: bool = False) -> str:
    """Write the weights of a network, whole or not at all.

    Args:
        folder: Where `weights.safetensors` goes.
        network: On any device.
        is_float16: Whether numbers are rounded to float16, for half the bytes. A number keeps 11
            binary digits, so it moves by at most 1/2048 of itself (0.05 %), and below 6e-5 by at
            most 3e-8. A tensor that holds a number beyond 65504 stays float32, and so does a
            running statistic of batch norm that holds one below 6e-5 other than 0: its root
            divides, so its digits count and not its size.
            Networks are float32 again after loading; what rounding lost does not come back, so
            probabilities differ a little: `scripts/ship_model.py` says by how much.

    Returns:
        SHA-256 of the file.

    Raises:
        CheckpointError: The file cannot be written.
    """
    weights = {
        key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()
    }
    if is_float16:
        statistics = {name for name, _ in network.named_buffers()}
        weights = {key: _rounded(value, key in statistics) for key, value in weights.items()}
    try:
        with whole_file(folder / WEIGHTS) as partial:
            save_file(weights, partial)
    except SafetensorError as error:  # how safetensors reports a full disk
        raise CheckpointError(
            f"{folder / WEIGHTS}: cannot be written ({error}). Check that the folder may be "
            "written to and has space."
        ) from error
    return file_sha256(folder / WEIGHTS)


def _rounded(values: Tensor, is_statistic: bool) -> Tensor:
    """Floating-point values as float16 where that has their range; others as they are."""
    if not values.is_floating_point():
        return values
    rounded = values.half()
    size = values.abs()
    overflows = bool((rounded.isinf() & values.isfinite()).any())
    underflows = is_statistic and bool(((size > 0) & (size < _SMALLEST_NORMAL)).any())
    return values if overflows or underflows else rounded


def load_model(folder: Path) -> tuple[nn.Module, ModelRecord]:
    """The network of a run folder, on the CPU in evaluation mode, and how to use it.

    It is float32 however the weights are stored.

    Raises:
        CheckpointError: A file is missing, damaged, changed since it was written, or does not fit
            the model that the record names; or this version has no such model.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: no such folder. Give the folder that hemaseg train wrote."
        )
    record = read_record(folder / MODEL, ModelRecord)
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file, expected beside {MODEL}. Restore it.")
    found = file_sha256(path)
    if found != record.weights_sha256:
        raise CheckpointError(
            f"{path}: SHA-256 {found[:16]}..., expected {record.weights_sha256[:16]}... as written "
            f"in {MODEL}. The weights are damaged or of another run; restore or train again."
        )
    try:
        # Of shapes alone: a size that the weights do not have costs no memory.
        with torch.device("meta"):
            network = build_model(record.model.name, record.model.options)
        require_image_size(record.model.name, record.image_size)
    except ConfigError as error:
        raise CheckpointError(
            f"{folder / MODEL}: {error}. The file is damaged or of another version; restore or "
            "train again."
        ) from error
    try:
        expected = network.state_dict()
        # Copies of the type to compute in: the file is mapped into memory and may be replaced.
        weights = {
            name: value.to(expected.get(name, value).dtype, copy=True)
            for name, value in load_file(path).items()
        }
        network.load_state_dict(weights, strict=True, assign=True)
    except (SafetensorError, RuntimeError) as error:
        # PyTorch says in the first line that something is wrong, and what it is in the next, which
        # can list all keys.
        reason = str(error).split("\n", 2)[:2][-1].strip(" .\t")
        raise CheckpointError(
            f"{path}: weights do not fit {_described(record.model)}: {shorten(reason, 160)}. They "
            "are damaged or of another model; restore or train again."
        ) from error
    return network.eval(), record


def load_start(folder: Path, run_folder: Path) -> Start:
    """Weights to begin a training from.

    Args:
        folder: A run folder or a model that ships.
        run_folder: Where the run is to go.

    Raises:
        CheckpointError: It is incomplete or damaged, or a weight is not finite.
        ConfigError: The run would replace what it begins from.
    """
    # Path.resolve raises RuntimeError at a link to itself, before Python 3.13.
    if os.path.realpath(folder) == os.path.realpath(run_folder):
        raise ConfigError(
            f"{run_folder}: the run would replace the weights that it starts from. Choose another "
            "output folder."
        )
    network, record = load_model(folder)
    if not all(bool(values.isfinite().all()) for values in network.state_dict().values()):
        raise CheckpointError(
            f"{folder / WEIGHTS}: holds numbers that are not finite, expected weights to begin "
            "from. Their training failed; start from others."
        )
    return Start(network, record.model, record.weights_sha256)


def require_fitting(start: Start, model: ModelConfig) -> None:
    """Check that weights are of the network that is to be trained, with its options.

    Raises:
        ConfigError: They are not.
    """
    if start.model != model:
        raise ConfigError(
            f"the training would start from weights of {_described(start.model)}, expected "
            f"{_described(model)}, which is to be trained. Start from a model of that network, or "
            "train the other one."
        )


def _described(model: ModelConfig) -> str:
    options = ", ".join(f"{name} = {value}" for name, value in sorted(model.options.items()))
    return f"{model.name} with {options or 'its default options'}"
