"""A trained network as a file that other software runs without us.

What is exported takes images `(N, 1, S, S)` as `slices.intensity` scales them, in [0, 1], and gives
calibrated probabilities of the same shape; N is free, S is the model's `image_size`. Each format is
written by its own maker's converter and read back by its own runtime, whose masks are compared with
ours before the file gets its name.
"""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch
from torch import Tensor, nn

from hemaseg.errors import ConfigError, EngineError
from hemaseg.files import write_text
from hemaseg.phantoms.heads import HeadOptions, synthesise
from hemaseg.slices.dataset import fit_to_square
from hemaseg.slices.intensity import intensity_range
from hemaseg.training.checkpoint import ModelRecord, load_model

MAX_FLIPPED = 1e-5
"""Share of mask pixels that may differ from ours."""

_NEEDS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "torch": (),
}
FORMATS = tuple(_NEEDS)
_SUFFIXES = {"onnx": (".onnx",), "openvino": (".xml", ".bin"), "torch": (".pt2",)}
Run = Callable[[Tensor], Tensor]
"""Images `(N, 1, S, S)` to probabilities of the same shape."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        files: The network, and `.json`: how to scale images, and the threshold.
        flipped: Share of mask pixels of the check that differ from ours.
        num_pixels: Of the check.
    """

    files: tuple[Path, ...]
    flipped: float
    num_pixels: int


class Probabilities(nn.Module):
    """Images to calibrated probabilities: the network, its temperature, the sigmoid."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, image: Tensor) -> Tensor:
        """`(N, 1, H, W)` to `(N, 1, H, W)` in [0, 1]."""
        return cast(Tensor, self.network(image) / self.temperature).sigmoid()


def export_model(run_folder: Path, file_format: str, folder: Path) -> Exported:
    """Write a network in another format, once its masks are found to be ours.

    Args:
        run_folder: What `hemaseg train` wrote, or a model that ships.
        file_format: One of `FORMATS`.
        folder: Where `NAME.onnx`, `NAME.xml` with `NAME.bin`, or `NAME.pt2` go, and beside the
            first of them `.json`, as in `NAME.onnx.json`; NAME is that of the run folder.

    Raises:
        ConfigError: An unknown format.
        EngineError: A package that the format needs is not installed; or the file, read back, gives
            other masks, and was not kept.
        CheckpointError: The run folder is incomplete or damaged.
    """
    *targets, described = files_of(run_folder, file_format, folder)
    if missing := [name for name in _NEEDS[file_format] if not importlib.util.find_spec(name)]:
        raise EngineError(
            f"{', '.join(missing)}: not installed, expected for {file_format}. Install by pip "
            'install "hemaseg[export]".'
        )
    network, record = load_model(run_folder)
    ours = Probabilities(network, record.temperature).eval()
    images = _check_images(record)
    folder.mkdir(parents=True, exist_ok=True)
    # Made beside its place, so that only what was checked gets its name.
    with TemporaryDirectory(dir=folder) as made:
        write, read = _FORMATS[file_format]
        first, *others = (Path(made) / target.name for target in targets)
        with _quiet_converters():
            write(ours, images[:2], first)
        flipped = _flipped(ours, read(first), images, record.threshold)
        if flipped > MAX_FLIPPED:
            raise EngineError(
                f"{first.name}, read back, has another mask at {flipped:.1e} of {images.numel():,} "
                f"pixels, expected at most {MAX_FLIPPED:.0e}. It was not kept; choose another "
                "format, or report this with your versions."
            )
        for file, target in zip((first, *others), targets, strict=True):
            file.replace(target)
    write_text(described, record.model_dump_json(indent=2) + "\n")
    return Exported((*targets, described), flipped, images.numel())


def files_of(run_folder: Path, file_format: str, folder: Path) -> tuple[Path, ...]:
    """What `export_model` would write: the network's files, then the JSON file.

    Raises:
        ConfigError: An unknown format.
    """
    if file_format not in FORMATS:
        raise ConfigError(f'format "{file_format}", expected one of {", ".join(FORMATS)}')
    name = run_folder.resolve().name
    first, *others = _SUFFIXES[file_format]
    return tuple(folder / f"{name}{suffix}" for suffix in (first, *others, f"{first}.json"))


@contextmanager
def _quiet_converters() -> Iterator[None]:
    """Converters warn of what they do anyway; what comes out is compared with ours."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(StringIO()):
            yield
    finally:
        logger.setLevel(before)


def _check_images(record: ModelRecord) -> Tensor:
    """Slices of a synthetic head with blood."""
    modality = "MRI" if record.modality == "MRI" else "CT"
    head = synthesise(7, HeadOptions(modality, num_slices=12, num_hematomas=1, volume_ml=30.0))  # type: ignore[arg-type]
    scale = intensity_range(head.voxels, modality, record.intensity, name="synthetic head")
    return fit_to_square(torch.from_numpy(scale.scale(head.voxels))[:, None], record.image_size)


def _flipped(ours: nn.Module, theirs: Run, images: Tensor, threshold: float) -> float:
    with torch.inference_mode():
        expected = ours(images) >= threshold
    return float(((theirs(images) >= threshold) != expected).float().mean())


def _write_onnx(network: nn.Module, images: Tensor, file: Path) -> None:
    torch.onnx.export(
        network,
        (images,),
        file,
        input_names=["image"],
        output_names=["probability"],
        dynamic_shapes={"image": {0: torch.export.Dim.DYNAMIC}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _read_onnx(file: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"image": images.numpy()})[0])


def _write_openvino(network: nn.Module, images: Tensor, file: Path) -> None:
    import openvino

    converted = openvino.convert_model(network, example_input=images, input=[-1, *images.shape[1:]])
    openvino.save_model(converted, file, compress_to_fp16=False)


def _read_openvino(file: Path) -> Run:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: torch.from_numpy(compiled([images.numpy()])[0])


def _write_torch(network: nn.Module, images: Tensor, file: Path) -> None:
    free = {"image": {0: torch.export.Dim.DYNAMIC}}
    torch.export.save(torch.export.export(network, (images,), dynamic_shapes=free), file)


def _read_torch(file: Path) -> Run:
    return cast(Run, torch.inference_mode()(torch.export.load(file).module()))


_FORMATS: dict[str, tuple[Callable[[nn.Module, Tensor, Path], None], Callable[[Path], Run]]] = {
    "onnx": (_write_onnx, _read_onnx),
    "openvino": (_write_openvino, _read_openvino),
    "torch": (_write_torch, _read_torch),
}
