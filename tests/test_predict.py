import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hemaseg.cohorts.index import index_folder
from hemaseg.cohorts.table import Cohort
from hemaseg.config import IntensityConfig, ModelConfig, Recipe, RunConfig
from hemaseg.engines.engine import TorchEngine
from hemaseg.engines.options import EngineOptions
from hemaseg.errors import ScanError
from hemaseg.evaluation.scoring import evaluate_cohort
from hemaseg.metrics.confidence import soft_overlap
from hemaseg.models.catalogue import build_model
from hemaseg.prediction.predict import predict_cohort, probabilities
from hemaseg.scans.images import read_mask, read_scan
from hemaseg.slices.dataset import load_slices, scaled_images
from hemaseg.training import loop
from hemaseg.training.checkpoint import MODEL as MODEL_FILE
from hemaseg.training.checkpoint import load_model, save_model, write_record
from lively import Brightness
from small_heads import write_heads

MODEL = ModelConfig(name="unet", options={"base_width": 4})
CPU = EngineOptions(device="cpu")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    network = build_model(MODEL.name, MODEL.options)
    save_model(folder, network, MODEL, image_size=32, intensity=IntensityConfig(), threshold=0.5)
    return folder


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("heads")
    write_heads(folder, num_subjects=2, seed=3)
    return index_folder(folder, modality="CT")


def test_probabilities_lie_where_the_image_is() -> None:
    random = np.random.default_rng(0)
    voxels = random.random((11, 32, 32)).astype(np.float32)
    found = probabilities(TorchEngine(Brightness()), voxels, 32)
    assert found.shape == voxels.shape
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-(voxels - 0.5) * 20)), atol=5e-3)


@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (33, 47)])
def test_probabilities_come_back_on_the_images_own_grid(shape: tuple[int, int]) -> None:
    voxels = np.zeros((1, *shape), np.float32)
    voxels[:, 5:20, 8:30] = 1
    mask = probabilities(TorchEngine(Brightness()), voxels, 64) >= 0.5
    agreement = 2 * (mask & (voxels > 0)).sum() / (mask.sum() + (voxels > 0).sum())
    assert agreement > 0.95


def test_masks_lie_on_the_grid_of_their_files(
    run_folder: Path, cohort: Cohort, tmp_path: Path
) -> None:
    cost = predict_cohort(run_folder, cohort, tmp_path, engine=CPU)
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
        predict_cohort(run_folder, cohort, tmp_path / name, engine=CPU)
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
    predict_cohort(run_folder, cohort, tmp_path / "all", engine=CPU)
    predict_cohort(run_folder, cohort, tmp_path / "marked", engine=CPU, marked_only=True)
    assert len(list((tmp_path / "all/p").glob("*.png"))) == 3
    assert [p.name for p in (tmp_path / "marked/p").glob("*.png")] == ["p_1.png"]
    assert read_mask(tmp_path / "marked/p/p_1.png").voxels.shape == (1, 20, 30)
    table = pd.read_csv(tmp_path / "all/predictions.csv")
    assert table["reference"].notna().tolist() == [False, True, False]


def test_predicted_masks_score_what_validation_promised(tmp_path: Path) -> None:
    """Reading, scaling, order and threshold are the same in training and in prediction."""
    write_heads(tmp_path / "heads", num_subjects=7, seed=42)
    cohort = index_folder(tmp_path / "heads", modality="CT")
    training, validation = cohort.select(cohort.subjects[:4]), cohort.select(cohort.subjects[4:])
    recipe = Recipe.model_validate(
        {
            "description": "test",
            # The phantoms' own size, so that nothing is resampled; negatives, so that all slices
            # are validated on.
            "slices": {"image_size": 64, "negative_share": 0.25},
            "loss": {"name": "dice_cross_entropy"},
            "optimiser": {"learning_rate": 0.01},
            "training": {"num_epochs": 12, "batch_size": 4},
        }
    )
    record = loop.train(
        RunConfig(model=MODEL, device="cpu", recipe=recipe),
        load_slices(training, recipe),
        load_slices(validation, recipe),
        tmp_path / "run",
        origin=loop.DataOrigin(cohort_sha256="", split_sha256="", fold=0),
    )
    predict_cohort(tmp_path / "run", validation, tmp_path / "masks", engine=CPU)
    scores = evaluate_cohort(tmp_path / "masks", validation)
    assert record.best_validation_dice is not None
    assert record.best_validation_dice > 0.3
    assert scores.subjects["dice"].mean() == pytest.approx(record.best_validation_dice, abs=2e-3)


def test_slices_of_sagittal_scans_are_refused_not_squeezed(
    run_folder: Path, tmp_path: Path
) -> None:
    voxels = np.random.default_rng(0).normal(size=(5, 20, 20)).astype(np.float32)
    affine = np.diag([5.0, 1.0, 1.0, 1.0])
    (tmp_path / "p").mkdir()
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "p/p.nii.gz")
    mask = np.zeros(voxels.shape, np.uint8)
    mask[2, 5:9, 5:9] = 1
    nib.save(nib.Nifti1Image(mask, affine), tmp_path / "p/p_mask.nii.gz")
    cohort = index_folder(tmp_path / "p", modality="MRI")
    with pytest.raises(ScanError, match=r"axial pixels of 1 x 5 mm, expected nearly square"):
        predict_cohort(run_folder, cohort, tmp_path / "masks", engine=CPU)


def test_the_number_of_threads_changes_no_bit(run_folder: Path) -> None:
    network, _ = load_model(run_folder)
    voxels = np.random.default_rng(0).random((5, 40, 40)).astype(np.float32)
    before = torch.get_num_threads()
    one = probabilities(TorchEngine(network), voxels, 32)
    try:
        torch.set_num_threads(3)
        three = probabilities(TorchEngine(network), voxels, 32)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(three, one)


@pytest.mark.parametrize("temperature", [0.3, 2.5, 9.0])
@pytest.mark.parametrize("size", [32, 48, 80])
def test_a_temperature_moves_no_pixel_across_one_half(temperature: float, size: int) -> None:
    voxels = np.random.default_rng(0).random((5, size, size)).astype(np.float32)
    engine = TorchEngine(Brightness())
    before, after = (probabilities(engine, voxels, 32, t) for t in (1.0, temperature))
    assert 0.1 < (before >= 0.5).mean() < 0.9
    np.testing.assert_array_equal(before >= 0.5, after >= 0.5)
    assert not np.array_equal(before, after)


def test_on_the_networks_own_grid_a_temperature_divides_the_logits() -> None:
    voxels = np.random.default_rng(0).random((2, 32, 32)).astype(np.float32)
    found = probabilities(TorchEngine(Brightness()), voxels, 32, 4.0)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-(voxels - 0.5) * 5)), atol=5e-3)


def test_confidence_is_that_of_the_subject(
    run_folder: Path, cohort: Cohort, tmp_path: Path
) -> None:
    network, record = load_model(run_folder)
    predict_cohort(run_folder, cohort, tmp_path, engine=CPU)
    table = pd.read_csv(tmp_path / "predictions.csv").set_index("subject")
    for image in scaled_images(cohort, record.intensity):
        found = probabilities(TorchEngine(network), image.voxels, record.image_size)
        expected = soft_overlap(found, found >= 0.5).confidence
        assert table.loc[image.case.subject, "confidence"] == pytest.approx(
            expected, abs=1e-4, nan_ok=True
        )


def test_the_threshold_of_the_model_decides(
    run_folder: Path, cohort: Cohort, tmp_path: Path
) -> None:
    network, record = load_model(run_folder)
    found = [
        probabilities(TorchEngine(network), image.voxels, record.image_size)
        for image in scaled_images(cohort, record.intensity)
    ]
    threshold = float(np.median(found[0]))
    assert all(0.1 < (one >= threshold).mean() < 0.9 for one in found)
    shutil.copytree(run_folder, tmp_path / "run")
    changed = record.model_copy(update={"threshold": threshold})
    write_record(changed, tmp_path / "run" / MODEL_FILE)
    torch_on_cpu = EngineOptions("torch", device="cpu")
    predict_cohort(tmp_path / "run", cohort, tmp_path / "out", engine=torch_on_cpu)
    names = pd.read_csv(tmp_path / "out" / "predictions.csv")["prediction"]
    for name, expected in zip(names, found, strict=True):
        mask = read_mask(tmp_path / "out" / name)
        np.testing.assert_array_equal(mask.voxels, expected >= threshold)
