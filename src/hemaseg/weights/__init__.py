"""The weights that ship with hemaseg, and which folder a user means by a model.

Each folder beside this file is one model, of the files that a run folder has, so that a shipped
model and a user's own run are one thing to all other code:

model.json            `ModelRecord`, as in a run folder
weights.safetensors   rounded to float16, see `save_weights`
card.md               for people: what it was trained on, what it scores, what it must not be for

Torch is imported inside the functions, so that a wrong name is refused at once.
"""

from dataclasses import dataclass
from pathlib import Path

from hemaseg.errors import ConfigError

SHIPPED = Path(__file__).parent
"""Folder of the shipped models."""

DEFAULT = "ct"
"""Name of the one that is used where a user names none."""

DEFAULT_FOR_MRI = "mri"
"""Name of the one that is used then for scans that the other refuses because they are MRI."""

CARD = "card.md"


@dataclass(frozen=True)
class ShippedModel:
    """One shipped model.

    Attributes:
        name: What `--model` and `--start` take.
        network: Key in `catalogue.MODELS`.
        modality: `CT` or `MRI` if it was trained on that alone; empty if mixed or unknown.
        image_size: Rows and columns that the network sees.
        num_parameters: Trainable ones.
        num_bytes: Of `weights.safetensors`.
        sha256: Of the same file, as it is on this machine.
        is_default: Whether it is used, for scans of its modality, where none is named.
    """

    name: str
    network: str
    modality: str
    image_size: int
    num_parameters: int
    num_bytes: int
    sha256: str
    is_default: bool


def shipped_names() -> list[str]:
    """Names of the shipped models in alphabetical order."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/model.json"))


def model_folder(asked: str | Path = DEFAULT) -> Path:
    """The folder of the model that a user means, for `load_model` and `predict_scans`.

    A name goes before a path: where a folder of the same name as a shipped model lies in the
    working directory, `NAME` is the shipped model and `./NAME` the folder.

    Args:
        asked: Name of a shipped model, or path of a run folder (a `Path` is never a name).

    Raises:
        ConfigError: There is neither.
    """
    names = shipped_names()
    if asked in names:
        return SHIPPED / asked
    path = Path(asked)
    if path.is_file():
        raise ConfigError(
            f"{asked}: is a file, expected the folder of a model. Name that which holds model.json."
        )
    if not path.is_dir():
        raise ConfigError(
            f"{asked}: no such folder, and no model of that name ships, expected "
            f"{', '.join(names)}, or the path of a run folder that hemaseg train wrote. Correct it."
        )
    return path


def model_folders(asked: str | None = None) -> tuple[Path, ...]:
    """The folders of the models that are tried in this order, each for scans of its modality.

    Args:
        asked: As in `model_folder`; then it is the only one.

    Raises:
        ConfigError: As in `model_folder`.
    """
    names = (DEFAULT, DEFAULT_FOR_MRI) if asked is None else (asked,)
    return tuple(model_folder(name) for name in names)


def list_shipped() -> list[ShippedModel]:
    """All shipped models in alphabetical order.

    Raises:
        CheckpointError: A record is damaged, or its weights are missing.
        ConfigError: A record names a network or option that is unknown.
    """
    return [shipped_model(SHIPPED / name) for name in shipped_names()]


def shipped_model(folder: Path) -> ShippedModel:
    """What is said of one shipped model; the weights are hashed, not loaded.

    Raises:
        CheckpointError: The record is damaged, or the weights are missing.
        ConfigError: The record names a network or option that is unknown.
    """
    import torch

    from hemaseg.errors import CheckpointError
    from hemaseg.files import file_sha256
    from hemaseg.models.catalogue import build_model
    from hemaseg.models.cost import num_parameters
    from hemaseg.training.checkpoint import MODEL, WEIGHTS, ModelRecord, read_record

    record = read_record(folder / MODEL, ModelRecord)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise CheckpointError(
            f"{weights}: no such file, expected beside {MODEL}. Install hemaseg again."
        )
    with torch.device("meta"):
        network = build_model(record.model.name, record.model.options)
    return ShippedModel(
        name=folder.name,
        network=record.model.name,
        modality=record.modality,
        image_size=record.image_size,
        num_parameters=num_parameters(network),
        num_bytes=weights.stat().st_size,
        sha256=file_sha256(weights),
        is_default=folder.name in (DEFAULT, DEFAULT_FOR_MRI),
    )
