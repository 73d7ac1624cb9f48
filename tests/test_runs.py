import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemaseg.cohorts.index import index_folder
from hemaseg.cohorts.split import Split, split_holdout, split_slices
from hemaseg.cohorts.table import Cohort
from hemaseg.config import ArmConfig, ModelConfig, Recipe, RunConfig
from hemaseg.errors import CheckpointError
from hemaseg.studies.runs import PlannedRun, complete_run, is_complete
from small_heads import write_heads


def settings(model: str = "unet", image_size: int = 32, **options: int) -> RunConfig:
    recipe = {
        "description": "test",
        "slices": {"image_size": image_size},
        "training": {"num_epochs": 1, "batch_size": 4},
    }
    return RunConfig(
        model=ModelConfig(name=model, options={**options} or {"base_width": 4}),
        device="cpu",
        recipe=Recipe.model_validate(recipe),
    )


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("heads")
    write_heads(folder, num_subjects=6, seed=1)
    return index_folder(folder, modality="CT")


@pytest.fixture(scope="module")
def split(cohort: Cohort) -> Split:
    return split_holdout(cohort, test=0.3, seed=0)


def planned(folder: Path) -> PlannedRun:
    arm = ArmConfig(name="A", model="unet", recipe="recipe.toml")
    return PlannedRun(arm, settings(), 0, folder)


def said(run: PlannedRun, cohort: Cohort, split: Split, cache: Path | None = None) -> list[str]:
    """What is reported while a run is completed."""
    steps: list[str] = []
    complete_run(
        run,
        cohort,
        split,
        tolerance_mm=2.0,
        report=lambda step, share: steps.append(step),
        cache=cache,
    )
    return steps


def complete(run: PlannedRun, cohort: Cohort, split: Split, cache: Path | None = None) -> list[str]:
    """What was done, each step once."""
    return list(dict.fromkeys(step.partition(",")[0] for step in said(run, cohort, split, cache)))


@pytest.fixture
def run(tmp_path: Path, cohort: Cohort, split: Split) -> PlannedRun:
    """A complete run."""
    run = planned(tmp_path / "run")
    assert not is_complete(run, split)
    assert complete(run, cohort, split) == ["reading", "training", "predicting", "scoring"]
    assert is_complete(run, split)
    return run


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_shares_of_a_run_rise_from_0_to_1(tmp_path: Path, cohort: Cohort, split: Split) -> None:
    shares: list[float] = []
    complete_run(
        planned(tmp_path),
        cohort,
        split,
        tolerance_mm=2.0,
        report=lambda step, share: shares.append(share),
    )
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)


def volume_errors_of(run: PlannedRun) -> list[float]:
    record = json.loads((run.folder / "model.json").read_text())
    errors: list[float] = record["volume_errors_cbrt_ml"]
    return errors


def test_a_model_keeps_how_far_its_volumes_were_off_in_test_subjects(
    run: PlannedRun, split: Split
) -> None:
    with (run.folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["subject"] for row in rows} == set(split.folds[0].test)
    roots = [
        (float(r["prediction_ml"]) ** (1 / 3), float(r["reference_ml"]) ** (1 / 3)) for r in rows
    ]
    expected = sorted(abs(one - two) for one, two in roots)
    assert volume_errors_of(run) == pytest.approx(expected, rel=1e-9)
    assert expected[-1] > 0


def test_a_model_keeps_no_errors_of_subjects_with_several_scans(
    tmp_path: Path, cohort: Cohort, split: Split
) -> None:
    """Their volumes are means, which err less than that of one scan."""
    subject = split.folds[0].test[0]
    scan = cohort.select([subject]).images[0]
    folder = tmp_path / "again"
    for name, path in (("scan", scan.image), ("mask", scan.mask)):
        assert path is not None
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder / f"{name}.nii.gz")
    again = replace(scan, scan="again", image=folder / "scan.nii.gz", mask=folder / "mask.nii.gz")
    several = replace(cohort, images=(*cohort.images, again))
    run = planned(tmp_path / "run")
    complete(run, several, replace(split, cohort_sha256=several.sha256))
    assert is_complete(run, replace(split, cohort_sha256=several.sha256))
    assert volume_errors_of(run) == []


@pytest.fixture
def stacks(tmp_path: Path) -> Cohort:
    """Four subjects with three pictures each, of known spacing."""
    folder = tmp_path / "stacks"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    random = np.random.default_rng(1)
    for place in (f"p{subject}_{number}.png" for subject in range(4) for number in range(3)):
        pixels = random.integers(0, 255, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / place)
        mask = np.pad(np.full((8, 8), 255, np.uint8), 4)
        Image.fromarray(mask).save(folder / "masks" / place)
    images = index_folder(folder, modality="CT").images
    known = (replace(image, spacing_mm=(5.0, 1.0, 1.0), lesion_ml=0.32) for image in images)
    return Cohort(tuple(known))


def test_a_model_keeps_no_errors_of_scans_of_which_slices_are_unmarked(
    tmp_path: Path, stacks: Cohort
) -> None:
    """What a network marks in these is not scored, but `predict` counts it."""
    split = split_holdout(stacks, test=0.3, seed=0)
    subject = split.folds[0].test[0]
    first = stacks.select([subject]).images[0]
    unmarked = replace(first, mask=None, lesion_pixels=None, lesion_ml=math.nan)
    partly = Cohort(tuple(unmarked if image is first else image for image in stacks.images))
    for cohort, num in ((stacks, len(split.folds[0].test)), (partly, 0)):
        run = planned(tmp_path / f"run{num}")
        complete(run, cohort, replace(split, cohort_sha256=cohort.sha256))
        assert len(volume_errors_of(run)) == num
    assert subject in (run.folder / "metrics.csv").read_text()


def test_errors_do_not_outlive_the_scores_they_were_made_of(tmp_path: Path, stacks: Cohort) -> None:
    """Scored again where the spacing is no longer known, and so no volume."""
    split, run = split_holdout(stacks, test=0.3, seed=0), planned(tmp_path / "run")
    complete(run, stacks, split)
    assert volume_errors_of(run) != []
    run.score_files[0].unlink()
    unknown = (replace(image, spacing_mm=None, lesion_ml=math.nan) for image in stacks.images)
    assert complete(run, Cohort(tuple(unknown)), split) == ["scoring"]
    assert volume_errors_of(run) == []


def decoded(run: PlannedRun, cohort: Cohort, split: Split, cache: Path) -> list[str]:
    """What was said of each image that was read."""
    return [step for step in said(run, cohort, split, cache) if step.startswith("reading, ")]


def same_bits(one: PlannedRun, two: PlannedRun) -> bool:
    names = ("weights.safetensors", "model.json", "metrics.csv", "metrics_slices.csv")
    return all((one.folder / n).read_bytes() == (two.folder / n).read_bytes() for n in names)


def test_runs_share_slices_and_give_the_same_bits(
    run: PlannedRun, tmp_path: Path, cohort: Cohort, split: Split
) -> None:
    """What is only tested on is not decoded for training."""
    cache = tmp_path / "slices"
    fold = split.folds[0]
    num = len(fold.train + fold.validation)
    assert 0 < num < len(cohort.images)
    first, second = planned(tmp_path / "first"), planned(tmp_path / "second")
    expected = [f"reading, image {done}/{num}" for done in range(1, num + 1)]
    assert decoded(first, cohort, split, cache) == expected
    assert decoded(second, cohort, split, cache) == []
    assert same_bits(first, run)
    assert same_bits(second, run)


def test_a_disk_without_room_costs_no_run(
    run: PlannedRun,
    tmp_path: Path,
    cohort: Cohort,
    split: Split,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    other = planned(tmp_path / "other")
    steps = decoded(other, cohort, split, tmp_path / "slices")
    num = len(split.folds[0].train)
    words = "not kept for other runs (No space left on device)"
    assert steps[0] == f"reading, image 1/{num}, {words}"
    assert same_bits(other, run)


def test_a_folder_that_cannot_be_made_costs_no_run(
    run: PlannedRun, tmp_path: Path, cohort: Cohort, split: Split
) -> None:
    (tmp_path / "slices").touch()
    other = planned(tmp_path / "other")
    steps = decoded(other, cohort, split, tmp_path / "slices")
    assert all(step.endswith(", not kept for other runs (Not a directory)") for step in steps)
    assert same_bits(other, run)


def test_parts_of_single_slices_are_decoded_by_themselves(tmp_path: Path) -> None:
    """The range of a scan is then that of its slices in the part, which differs between parts."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(1)
    for number in range(12):
        pixels = rng.integers(1, 100 * (number + 1), (16, 16), dtype=np.uint16)
        Image.fromarray(pixels).save(tmp_path / "images" / f"p_{number}.png")
        mask = np.pad(np.full((8, 8), 255, np.uint8), 4)
        Image.fromarray(mask).save(tmp_path / "masks" / f"p_{number}.png")
    cohort = index_folder(tmp_path, modality="MRI")
    split = split_slices(cohort, seed=0)
    with_cache, without = planned(tmp_path / "with"), planned(tmp_path / "without")
    complete(with_cache, cohort, split, tmp_path / "slices")
    complete(without, cohort, split)
    assert same_bits(with_cache, without)
    assert not (tmp_path / "slices").exists()


@pytest.mark.parametrize("name", ["metrics.csv", "metrics_slices.csv", "metrics_batches.csv"])
def test_a_run_without_one_of_its_scores_is_only_scored(
    run: PlannedRun, cohort: Cohort, split: Split, name: str
) -> None:
    before, scores = times(run.folder), (run.folder / name).read_bytes()
    (run.folder / name).unlink()
    assert not is_complete(run, split)
    assert complete(run, cohort, split) == ["scoring"]
    assert (run.folder / name).read_bytes() == scores
    changed = {path for path, time in times(run.folder).items() if time != before[path]}
    assert changed == set(run.score_files)


def test_a_run_without_list_of_predictions_is_predicted_not_trained(
    run: PlannedRun, cohort: Cohort, split: Split
) -> None:
    before = times(run.folder)
    run.list_of_predictions.unlink()
    assert not is_complete(run, split)
    assert complete(run, cohort, split) == ["predicting", "scoring"]
    weights = run.folder / "weights.safetensors"
    assert weights.stat().st_mtime_ns == before[weights]
    assert json.loads((run.folder / "run.json").read_text())["inference_slices_per_s"] > 0


@pytest.mark.parametrize("status", ["interrupted", "running", "failed"])
def test_a_run_that_was_not_finished_is_done_again_in_every_part(
    run: PlannedRun, cohort: Cohort, split: Split, status: str
) -> None:
    weights, scores = (
        (run.folder / name).read_bytes() for name in ("weights.safetensors", "metrics.csv")
    )
    record = json.loads((run.folder / "run.json").read_text())
    (run.folder / "run.json").write_text(json.dumps(record | {"status": status}))
    (run.folder / "weights.safetensors").write_bytes(b"of the first epoch")
    (run.folder / "metrics.csv").write_text("of other weights")
    assert not is_complete(run, split)
    assert complete(run, cohort, split) == ["reading", "training", "predicting", "scoring"]
    assert (run.folder / "weights.safetensors").read_bytes() == weights
    assert (run.folder / "metrics.csv").read_bytes() == scores


def test_scores_do_not_outlive_the_weights_they_were_made_of(
    run: PlannedRun, cohort: Cohort, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.folder / "run.json").unlink()

    def stopped(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hemaseg.training.loop.train", stopped)
    with pytest.raises(KeyboardInterrupt):
        complete(run, cohort, split)
    assert not any(file.exists() for file in run.score_files)
    assert not run.list_of_predictions.exists()


def test_a_run_that_was_trained_on_another_split_is_refused(
    run: PlannedRun, cohort: Cohort, split: Split
) -> None:
    other = split_holdout(cohort, test=0.3, seed=1)
    with pytest.raises(CheckpointError) as caught:
        is_complete(run, other)
    assert f"trained on fold 0 of split {split.sha256[:12]}" in str(caught.value)
    assert f"expected fold 0 of split {other.sha256[:12]}" in str(caught.value)


def test_a_damaged_record_is_refused(run: PlannedRun, split: Split) -> None:
    (run.folder / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"run\.json.*EOF"):
        is_complete(run, split)
