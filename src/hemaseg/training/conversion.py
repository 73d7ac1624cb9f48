"""Weights that others made with plain PyTorch, to a model folder of ours.

A `.pt` file is a pickle, which can run any code; here it never does. It is opened in a process of
its own (`unpickling`), and what comes back are names and numbers in safetensors, which are compared
with those of the network that the user says it is. Nothing is guessed or filled in.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from hemaseg.config import ImageSize, IntensityConfig, ModelConfig, Section, Share
from hemaseg.errors import CheckpointError, ConfigError
from hemaseg.files import file_sha256
from hemaseg.models.catalogue import build_model, require_image_size
from hemaseg.models.cost import num_parameters
from hemaseg.training.checkpoint import RUN, read_record, save_model

MAX_S, MAX_WAIT_S = 120, 300
"""Of processor time for one file, and of time on the clock."""

_PREFIXES = ("module.", "_orig_mod.")
"""What data parallelism and torch.compile put before each name."""
_KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
"""Of the environment, what starting Python and PyTorch can need."""
_ASK = "Ask its maker for the weights alone: torch.save(network.state_dict(), FILE)."
REASONS = {
    "code": "names {}, so reading it would run code, expected numbers alone; nothing of it was "
    "run. " + _ASK,
    "program": "is a TorchScript program, expected weights alone. " + _ASK,
    "other": "holds {}, expected one state dict. " + _ASK,
    "bomb": "unfolds to {}, more than 100 times its size, expected weights. Do not trust it.",
    "memory": "needs several times as much memory as it has bytes, expected weights. Do not trust "
    "it, or free memory.",
    "damaged": "cannot be read ({}), expected a file of torch.save. It is damaged or of another "
    "kind; get it again.",
    "unwritten": "its weights cannot be kept in the folder for temporary files ({}). Make room "
    "there.",
}
"""What is wrong with a file, by what `unpickling` answers."""


class _Answer(Section):
    """What the process says: `kind` is "weights" or a key of `REASONS`."""

    kind: Literal["weights", "code", "program", "other", "bomb", "memory", "damaged", "unwritten"]
    found: str


class Usage(Section):
    """What a file of weights does not say, and a predictor must know."""

    model: ModelConfig
    image_size: ImageSize
    intensity: IntensityConfig
    threshold: Share = 0.5
    modality: Literal["", "CT", "MRI"] = ""
    """Of all scans that it was trained on; empty if they were mixed or unknown."""


@dataclass(frozen=True)
class Converted:
    """What was found in a file.

    Attributes:
        sha256: Of the file.
        place: Key of the state dict among other things; empty if there were none.
        prefix: What stood before each name, and was left out.
        num_parameters: Trainable ones.
    """

    sha256: str
    place: str
    prefix: str
    num_parameters: int


def convert(file: Path, usage: Usage, folder: Path) -> Converted:
    """Make a model folder of a foreign file of weights.

    Args:
        file: A state dict as `torch.save` writes it, alone or under a key of `WRAPPINGS`; or
            `*.safetensors`. Floating-point numbers of any size, which become float32.
        usage: Which network it is, and how it is used.
        folder: Where `weights.safetensors` and `model.json` go; made if needed, and left alone if
            anything is wrong.

    Raises:
        CheckpointError: The file is missing, damaged, would run code, or does not hold what the
            network has: each name, shape and kind of number, all finite.
        ConfigError: There is no such network or image size, or the folder is that of a run.
    """
    if (folder / RUN).exists():
        raise ConfigError(
            f"{folder}: is a run folder of hemaseg train, expected a new one. Choose another."
        )
    with torch.device("meta"):
        network = build_model(usage.model.name, usage.model.options)
    require_image_size(usage.model.name, usage.image_size)
    weights, place = _read(file)
    weights, prefix = _without_prefix(weights)
    expected = network.state_dict()
    _require_equal(file, weights, expected, usage.model.name)
    weights = {key: weights[key].to(value.dtype) for key, value in expected.items()}
    if wrong := [key for key, value in weights.items() if not value.isfinite().all()]:
        raise CheckpointError(
            f"{file}: {_listed(wrong)}: numbers that are not finite, expected weights. Their "
            "training failed; use others."
        )
    network.load_state_dict(weights, assign=True)
    save_model(
        folder,
        network,
        usage.model,
        image_size=usage.image_size,
        intensity=usage.intensity,
        threshold=usage.threshold,
        modality=usage.modality,
    )
    return Converted(file_sha256(file), place, prefix, num_parameters(network))


def _read(file: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file, and the key that they were under."""
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file, expected weights of PyTorch. Correct it.")
    if file.suffix == ".safetensors":
        return _load(file, file), ""
    with tempfile.TemporaryDirectory(prefix="hemaseg-") as folder:
        place = read_apart(file, Path(folder))
        return _load(Path(folder) / "weights.safetensors", file), place


def _load(path: Path, shown: Path) -> dict[str, Tensor]:
    try:
        # By its bytes: a mapped file could change, and on Windows not be removed.
        return load(path.read_bytes())
    except SafetensorError as error:
        raise CheckpointError(
            f"{shown}: cannot be read as safetensors, expected a complete file. Get it again."
        ) from error


def read_apart(
    file: Path, folder: Path, *, max_s: int = MAX_S, max_wait_s: int = MAX_WAIT_S
) -> str:
    """Write the state dict of a file of PyTorch as safetensors, in a process of its own.

    Args:
        file: The file.
        folder: An empty folder; gets `weights.safetensors`.
        max_s: Seconds of processor time, where the system limits it.
        max_wait_s: Seconds on the clock.

    Returns:
        The key of the state dict; empty if it is all there is.

    Raises:
        CheckpointError: It holds none, or the process was stopped or ended in an unforeseen way.
    """
    max_bytes = 2**30 + 4 * file.stat().st_size
    arguments = (file.resolve(), folder, max_bytes, max_s)
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    # Threads of one more core would not make reading faster. The path is that of this process, less
    # the working folder, in which a foreign torch.py may lie.
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    log = folder / "log"
    with log.open("wb") as errors:
        try:
            status = subprocess.run(
                [sys.executable, "-P", "-m", "hemaseg.training.unpickling", *map(str, arguments)],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                timeout=max_wait_s,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise CheckpointError(
                f"{file}: not read within {max_wait_s} s, expected weights. Do not trust it."
            ) from None
    if status < 0:
        raise CheckpointError(
            f"{file}: the process that read it was ended by signal {-status}, expected weights. Do "
            "not trust it."
        )
    if status or not (folder / "answer.json").is_file():
        last = log.read_text(errors="replace").strip().rpartition("\n")[2]
        raise CheckpointError(
            f"{file}: the process that read it failed ({_shown(last) or status}), which hemaseg "
            "did not foresee. Please report it."
        )
    answer = read_record(folder / "answer.json", _Answer)
    found = _shown(answer.found)
    if answer.kind != "weights":
        raise CheckpointError(f"{file}: {REASONS[answer.kind].format(found)}")
    return found


def _without_prefix(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The tensors without what wrappers of the network put before all names, and what that was."""

    def shared() -> str:
        return next((p for p in _PREFIXES if all(key.startswith(p) for key in weights)), "")

    removed = ""
    while weights and (prefix := shared()):
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
        removed += prefix
    return weights, removed


def _require_equal(
    file: Path, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str
) -> None:
    """Refuse weights that are not those of a network, and say in what they differ."""
    missing = [key for key in expected if key not in weights]
    unknown = [key for key in weights if key not in expected]
    shared = [key for key in expected if key in weights]
    kinds = [
        f"{key} is {found}, expected {wanted}"
        for key in shared
        if (found := _kind(weights[key])) != (wanted := _kind(expected[key]))
    ]
    problems = [
        f"{len(found)} {what} ({_listed(found)})"
        for what, found in (
            (f"of its {len(expected)} tensors missing", missing),
            ("that it does not have", unknown),
            ("of another shape or kind", kinds),
        )
        if found
    ]
    if problems:
        raise CheckpointError(
            f"{file}: not the weights of {name} with these options: {'; '.join(problems)}. Name "
            "the network and the options that they were trained with."
        )


def _kind(value: Tensor) -> str:
    number = "float" if value.is_floating_point() else str(value.dtype).removeprefix("torch.")
    return f"{number} {tuple(value.shape)}"


def _listed(names: list[str]) -> str:
    """The first few names, which are foreign words, for a message."""
    return ", ".join(map(_shown, names[:3])) + (", ..." if len(names) > 3 else "")


def _shown(words: str) -> str:
    """Foreign words without what a terminal would obey, and not too many of them."""
    return ascii(words)[1:-1][:120]
