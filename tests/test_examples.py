"""Which slices are shown, and how images and masks of any kind become planes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hemaseg.errors import ComparisonError, ScanError
from hemaseg.reporting.examples import Example, read_examples
from hemaseg.reporting.study_folder import read_study_folder
from small_study import ARMS, change_json, change_table, make_study, rows_of

PREDICTIONS = "runs/U-Net/fold-0_seed-0/predictions/predictions.csv"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete study; tests do not change it."""
    return make_study(tmp_path_factory.mktemp("study") / "small")


@pytest.fixture
def copy(study: Path, tmp_path: Path) -> Path:
    """A copy of the study, to be changed."""
    shutil.copytree(study, tmp_path / "small")
    return tmp_path / "small"


def examples_of(folder: Path) -> tuple[Example, ...]:
    return read_examples(read_study_folder(folder))


def test_examples_are_chosen_by_the_stated_rule(study: Path) -> None:
    scores = [row for row in rows_of(study / "scores.csv") if float(row["reference_pixels"]) > 0]
    means = {
        subject: np.mean([float(row["dice"]) for row in scores if row["subject"] == subject])
        for subject in {row["subject"] for row in scores}
    }
    ranking = sorted(means, key=lambda subject: means[subject])
    slices = rows_of(study / "scores_slices.csv")
    shown = examples_of(study)
    assert [(example.role, example.subject) for example in shown] == [
        ("best", ranking[-1]), ("median", ranking[3]), ("worst", ranking[0]),
    ]  # fmt: skip
    for example in shown:
        own = [row for row in slices if row["subject"] == example.subject]
        areas = {row["slice"]: float(row["reference_pixels"]) for row in own}
        assert example.slice == max(areas, key=lambda name: areas[name])
        # In the first run, seed 0.
        dice = {
            row["arm"]: float(row["dice"])
            for row in own
            if (row["slice"], row["seed"]) == (example.slice, "0")
        }
        assert example.dice == tuple(dice[arm] for arm in ARMS)


@pytest.mark.parametrize(("modality", "black", "white"), [("CT", 0, 255), ("MRI", 30, 200)])
def test_pictures_are_shown_as_the_modality_asks(
    copy: Path, modality: str, black: float, white: float
) -> None:
    cohort = json.loads((copy / "provenance.json").read_text())["cohort"]
    change_json(copy / "provenance.json", cohort=cohort | {"modality": modality})
    shown = examples_of(copy)
    assert [example.role for example in shown] == ["best", "median", "worst"]
    for example in shown:
        # The lesion is 200; of the other pixels, 30 to 89, one in a hundred may be below black.
        assert example.display_range == pytest.approx((black, white), abs=2)
        lesion = np.zeros((24, 24), dtype=bool)
        lesion[6:12, 6:12] = True
        np.testing.assert_array_equal(example.reference, lesion)
        np.testing.assert_array_equal(example.image >= 200, lesion)
        assert [int(mask.sum()) for mask in example.predictions] == [6 * 7, 5 * 7, 4 * 7]


def test_examples_of_volumes_are_taken_at_the_index_of_the_slice(
    copy: Path,
) -> None:
    import nibabel as nib

    volume = np.zeros((16, 16, 3), dtype=np.int16)
    volume[4:9, 4:9, 2] = 1
    image = nib.Nifti1Image(volume, np.diag([1.0, 2.0, 5.0, 1.0]))
    nib.save(image, copy / "volume.nii.gz")
    for path in (copy / "runs").glob("*/*/predictions/predictions.csv"):
        change_table(
            path,
            lambda table: table.drop_duplicates("subject").assign(
                slice="",
                image="../../../../volume.nii.gz",
                reference="../../../../volume.nii.gz",
                prediction=[f"{name}.nii.gz" for name in table["subject"].unique()],
            ),
        )
        for name in pd.read_csv(path)["prediction"]:
            shutil.copy(copy / "volume.nii.gz", path.parent / name)
    cohort = json.loads((copy / "provenance.json").read_text())["cohort"]
    change_json(copy / "provenance.json", cohort=cohort | {"modality": "CT"})
    change_table(
        copy / "scores_slices.csv",
        lambda table: table.replace({"slice": {"1": "0", "2": "1", "10": "2"}}).assign(
            reference_pixels=lambda rows: rows["slice"]
        ),
    )
    for example in examples_of(copy):
        assert example.slice == "2"
        assert int(example.reference.sum()) == 5 * 5  # of three slices, the last is marked
        assert example.pixel_aspect == pytest.approx(2.0)  # rows 2 mm, columns 1 mm apart
        assert example.display_range == (0.0, 100.0)
    change_table(copy / "scores_slices.csv", lambda table: table.replace({"slice": {"2": "3"}}))
    with pytest.raises(ComparisonError, match=r"has slices 0 to 2, but .* names slice 3"):
        examples_of(copy)


def test_one_label_of_the_reference_is_shown(copy: Path) -> None:
    expected = [int(example.reference.sum()) for example in examples_of(copy)]
    for path in (copy / "images").glob("*_mask.png"):
        labels = np.asarray(Image.open(path)) // 255 * 2
        labels[-1, -1] = 1
        Image.fromarray(labels.astype(np.uint8)).save(path)
    for path in (copy / "runs").glob("*/*/predictions/predictions.csv"):
        change_table(path, lambda table: table.assign(label="2"))
    assert [int(example.reference.sum()) for example in examples_of(copy)] == expected
    for path in (copy / "runs").glob("*/*/predictions/predictions.csv"):
        change_table(path, lambda table: table.assign(label="two"))
    with pytest.raises(ComparisonError, match="label 'two', expected a whole number from 1 upwar"):
        examples_of(copy)


def test_subjects_with_several_scans_are_no_examples(copy: Path) -> None:
    change_table(
        copy / "scores_slices.csv",
        lambda table: table.assign(scan=table["subject"] + "_" + table["slice"]),
    )
    assert examples_of(copy) == ()


@pytest.mark.parametrize("name", ["runs", "scores_slices.csv"])
def test_without_predictions_there_are_no_examples(copy: Path, name: str) -> None:
    shutil.rmtree(copy / name) if name == "runs" else (copy / name).unlink()
    assert examples_of(copy) == ()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "scores_slices.csv",
            lambda table: table[table["arm"] != "U-Net"],
            r"has slices of DR-U-Net, Dense-U-Net, but scores\.csv knows it for .*, U-Net\.",
        ),
        (
            PREDICTIONS,
            lambda table: table.assign(subject="P99"),
            r"0 rows for subject P0., slice \d+, expected 1",
        ),
    ],
)
def test_tables_of_other_slices_are_refused(
    copy: Path, name: str, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    change_table(copy / name, change)
    with pytest.raises(ComparisonError, match=message):
        examples_of(copy)


def test_missing_masks_and_other_grids_are_refused(copy: Path) -> None:
    for path in (copy / "runs" / "U-Net").glob("*/predictions/*.png"):
        Image.new("L", (7, 5)).save(path)
    with pytest.raises(ComparisonError, match=r"\(24, 24\) pixels, .* U-Net has \(5, 7\)"):
        examples_of(copy)
    for path in (copy / "runs" / "U-Net").glob("*/predictions/*.png"):
        path.unlink()
    with pytest.raises(ScanError, match=r"\.png: no such file"):
        examples_of(copy)
