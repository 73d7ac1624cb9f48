from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from hemaseg.cohorts.index import index_folder
from hemaseg.cohorts.table import Cohort
from hemaseg.config import IntensityConfig, ModelConfig
from hemaseg.models.catalogue import build_model
from hemaseg.prediction.predict import BATCH_SIZE, predict_cohort, probabilities
from hemaseg.scans.images import read_mask, read_scan
from hemaseg.scans.phantoms import write_phantoms
from hemaseg.training.checkpoint import save_model

MODEL = ModelConfig(name="unet", options={"base_width": 4})


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    network = build_model(MODEL.name, MODEL.options)
    save_model(folder, network, MODEL, image_size=32, intensity=IntensityConfig())
    return folder


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("heads")
    write_phantoms(folder, num_subjects=2, seed=3)
    return index_folder(folder, modality="CT")


class Brightness(nn.Module):
    """Logits above 0 where the image is above one half."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - 0.5) * 20 + self.unused


def test_probabilities_lie_where_the_image_is() -> None:
    random = np.random.default_rng(0)
    voxels = random.random((BATCH_SIZE + 3, 32, 32)).astype(np.float32)
    found = probabilities(Brightness(), voxels, 32)
    assert found.shape == voxels.shape
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-(voxels - 0.5) * 20)), atol=5e-3)


@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (33, 47)])
def test_probabilities_come_back_on_the_images_own_grid(shape: tuple[int, int]) -> None:
    voxels = np.zeros((1, *shape), np.float32)
    voxels[:, 5:20, 8:30] = 1
    mask = probabilities(Brightness(), voxels, 64) >= 0.5
    agreement = 2 * (mask & (voxels > 0)).sum() / (mask.sum() + (voxels > 0).sum())
    assert agreement > 0.95


def test_masks_lie_on_the_grid_of_their_files(
    run_folder: Path, cohort: Cohort, tmp_path: Path
) -> None:
    cost = predict_cohort(run_folder, cohort, tmp_path, device="cpu")
    assert cost.num_slices == 32
    assert cost.slices_per_s > 0
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert list(table["subject"]) == list(cohort.subjects)
    for row in table.itertuples():
        image = read_scan(tmp_path / str(row.image))
        mask = read_mask(tmp_path / str(row.prediction))
        assert mask.voxels.shape == image.voxels.shape
        np.testing.assert_array_equal(mask.affine, image.affine)
        assert (tmp_path / str(row.reference)).is_file()


def test_prediction_repeats_to_the_bit(run_folder: Path, cohort: Cohort, tmp_path: Path) -> None:
    for name in ("a", "b"):
        predict_cohort(run_folder, cohort, tmp_path / name, device="cpu")
    for path in (tmp_path / "a").rglob("*.nii.gz"):
        other = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert path.read_bytes() == other.read_bytes()


def test_pictures_give_png_masks_and_unmarked_ones_can_be_left_out(
    run_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(3):
        pixels = random.integers(0, 255, (20, 30)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"images/p_{number}.png")
    mask = np.zeros((20, 30), np.uint8)
    mask[3:9, 3:9] = 255
    Image.fromarray(mask).save(folder / "masks/p_1.png")
    cohort = index_folder(folder)
    predict_cohort(run_folder, cohort, tmp_path / "all", device="cpu")
    predict_cohort(run_folder, cohort, tmp_path / "marked", device="cpu", marked_only=True)
    assert len(list((tmp_path / "all/p").glob("*.png"))) == 3
    assert [p.name for p in (tmp_path / "marked/p").glob("*.png")] == ["p_1.png"]
    assert read_mask(tmp_path / "marked/p/p_1.png").voxels.shape == (1, 20, 30)
    table = pd.read_csv(tmp_path / "all/predictions.csv")
    assert table["reference"].notna().tolist() == [False, True, False]
