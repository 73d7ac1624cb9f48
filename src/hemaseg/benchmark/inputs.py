"""What is benchmarked: networks that are trained or not, and slices that suit them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hemaseg.config import IntensityConfig, ModelConfig
from hemaseg.models.catalogue import build_model
from hemaseg.phantoms.heads import HeadOptions, synthesise
from hemaseg.slices.dataset import fit_to_square
from hemaseg.slices.intensity import intensity_range
from hemaseg.training.checkpoint import ModelRecord, load_model, save_model

UNTRAINED_SIZE = 256
"""Rows and columns that networks with random weights are run at."""


@dataclass(frozen=True)
class Inputs:
    """What all contenders get.

    Attributes:
        run_folder: Of the network.
        model: Its record.
        images_file: `(num_slices, 1, H, W)` in [0, 1], as `.npy`.
        num_slices: Of a pass.
    """

    run_folder: Path
    model: ModelRecord
    images_file: Path
    num_slices: int


def write_inputs(folder: Path, name: str, run_folder: Path | None, num_slices: int) -> Inputs:
    """Slices of a synthetic head as a network wants them, and a run folder for it.

    Args:
        folder: To write into.
        name: Of the network.
        run_folder: Of the network; None for random weights.
        num_slices: Of a pass.

    Raises:
        CheckpointError: The run folder is damaged.
    """
    if run_folder is None:
        images = _slices("CT", IntensityConfig(), UNTRAINED_SIZE, num_slices)
        run_folder = folder
        save_untrained(folder, name, images)
    _, record = load_model(run_folder)
    images = _slices(record.modality, record.intensity, record.image_size, num_slices)
    np.save(folder / "images.npy", images.numpy())
    return Inputs(run_folder, record, folder / "images.npy", num_slices)


def modality_of_head(modality: str) -> Literal["CT", "MRI"]:
    """Of the synthetic head for a network of some modality, or of none."""
    return "MRI" if modality == "MRI" else "CT"


def _slices(modality: str, scaling: IntensityConfig, size: int, num_slices: int) -> Tensor:
    """`(num_slices, 1, size, size)` of a synthetic head with a hematoma, in [0, 1]."""
    kind = modality_of_head(modality)
    options = HeadOptions(kind, num_slices=num_slices, num_hematomas=1, volume_ml=40.0)
    head = synthesise(1, options)
    voxels = intensity_range(head.voxels, kind, scaling, name="synthetic head").scale(head.voxels)
    return fit_to_square(torch.from_numpy(voxels)[:, None], size).to(torch.float16).float()


def save_untrained(folder: Path, name: str, images: Tensor) -> None:
    """A run folder of random weights whose batch norms fit the images, and a twentieth is mask."""
    torch.manual_seed(0)
    network = build_model(name)
    with torch.no_grad():
        for _ in range(4):
            network.train()(images[:4])
        found = network.eval()(images).sigmoid()
    save_model(
        folder,
        network,
        ModelConfig(name=name),
        image_size=images.shape[-1],
        intensity=IntensityConfig(),
        threshold=float(np.quantile(found.numpy(), 0.95)),
        modality="CT",
    )
