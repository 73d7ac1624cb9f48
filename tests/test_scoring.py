# mypy: allow-untyped-calls
# (nibabel's functions have no types.)
"""Mask files to scores: hand-made stacks and volumes, cohorts, and what is refused."""

import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medpy.metric import binary as medpy_binary
from PIL import Image

from hemaseg.cohorts.table import CaseImage, Cohort
from hemaseg.errors import EvaluationError
from hemaseg.evaluation.grids import MAX_VOXELS
from hemaseg.evaluation.scoring import evaluate, evaluate_cohort
from hemaseg.evaluation.tables import (
    BATCH_COLUMNS,
    SLICE_COLUMNS,
    SUBJECT_COLUMNS,
    Scores,
    summarize,
)

EMPTY = ("....", "....", "....")
SQUARE = ("##..", "##..", "....")
SHIFTED = (".##.", ".##.", "....")
CORNER = ("....", "....", "...#")


def write_png(path: Path, rows: tuple[str, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.array([[255 * (pixel == "#") for pixel in row] for row in rows], dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(np.uint8), affine), path)
    return path


def score_pngs(
    folder: Path,
    predictions: Mapping[str, tuple[str, ...]],
    references: Mapping[str, tuple[str, ...]],
) -> Scores:
    for name, rows in predictions.items():
        write_png(folder / "predictions" / name, rows)
    for name, rows in references.items():
        write_png(folder / "references" / name, rows)
    return evaluate(folder / "predictions", folder / "references")


def only_row(table: pd.DataFrame) -> dict[str, object]:
    (row,) = table.to_dict(orient="records")
    return {str(name): value for name, value in row.items()}


def check(row: dict[str, object], **expected: object) -> None:
    for name, value in expected.items():
        found = row[name]
        if isinstance(value, float):
            assert found == pytest.approx(value, nan_ok=True), name
        else:
            assert found == value, name


def test_a_stack_of_pictures(tmp_path: Path) -> None:
    scores = score_pngs(
        tmp_path,
        {"p_9.png": SHIFTED, "p_10.png": EMPTY, "p_11.png": CORNER, "p_12.png": EMPTY},
        {"p_9.png": SQUARE, "p_10.png": SQUARE, "p_11.png": EMPTY, "p_12.png": EMPTY},
    )
    check(
        only_row(scores.subjects),
        subject="p",
        site="",
        num_slices=4,
        dice=4 / 13,
        iou=2 / 11,
        sensitivity=2 / 8,
        precision=2 / 5,
        hd95_mm=math.nan,
        assd_mm=math.nan,
        surface_dice=math.nan,
        prediction_ml=math.nan,
        reference_ml=math.nan,
        volume_error_ml=math.nan,
        absolute_volume_error_ml=math.nan,
        prediction_pixels=5,
        reference_pixels=8,
        num_reference_lesions=1,
        num_detected_lesions=1,
        num_predicted_lesions=2,
        num_false_lesions=1,
        num_slices_without_lesion=2,
        num_false_alarm_slices=1,
    )
    slices = scores.slices
    assert slices["slice"].tolist() == [9, 10, 11, 12]
    np.testing.assert_equal(slices["dice"].tolist(), [0.5, 0, 0, math.nan])
    np.testing.assert_equal(slices["sensitivity"].tolist(), [0.5, 0, math.nan, math.nan])
    np.testing.assert_equal(slices["precision"].tolist(), [0.5, math.nan, 0, math.nan])
    assert slices["overlap_pixels"].tolist() == [2, 0, 0, 0]
    assert slices["has_lesion"].tolist() == [True, True, False, False]
    assert slices["false_alarm"].tolist() == [False, False, True, False]
    check(only_row(scores.batches), batch=1, num_slices=2, dice=0.25, pooled_dice=4 / 12)


def test_columns_are_those_documented(tmp_path: Path) -> None:
    scores = score_pngs(tmp_path, {"p_1.png": SQUARE}, {"p_1.png": SQUARE})
    assert tuple(scores.subjects) == SUBJECT_COLUMNS
    assert tuple(scores.slices) == SLICE_COLUMNS
    assert tuple(scores.batches) == BATCH_COLUMNS
    documents = Path(__file__).parents[1] / "docs"
    architecture = " ".join((documents / "architecture.md").read_text().split())
    assert ", ".join(f"`{name}`" for name in SUBJECT_COLUMNS) in architecture
    metrics = (documents / "metrics.md").read_text()
    for name in (*SUBJECT_COLUMNS, *SLICE_COLUMNS, *BATCH_COLUMNS):
        assert f"`{name}`" in metrics


def test_lesions_do_not_join_across_slices_that_were_left_out(tmp_path: Path) -> None:
    slices = {"p_1.png": SQUARE, "p_2.png": SQUARE, "p_4.png": SQUARE}
    row = only_row(score_pngs(tmp_path, slices, slices).subjects)
    check(row, num_slices=3, num_reference_lesions=2, num_slices_without_lesion=0)


def test_subjects_come_in_natural_order(tmp_path: Path) -> None:
    names = dict.fromkeys(["p10/1.png", "p9/2.png", "p9/10.png"], SQUARE)
    scores = score_pngs(tmp_path, names, names)
    assert scores.subjects["subject"].tolist() == ["p9", "p10"]
    assert scores.slices["slice"].tolist() == [2, 10, 1]


def test_batches_hold_slices_with_a_lesion_in_order(tmp_path: Path) -> None:
    predictions, references = {}, {}
    for number in range(1, 21):
        # Ten slices with a lesion, every other one; the first four of them are found exactly.
        name = f"p_{number}.png"
        references[name] = SQUARE if number % 2 else EMPTY
        predictions[name] = SQUARE if number < 8 else CORNER
    scores = score_pngs(tmp_path, predictions, references)
    assert scores.batches["batch"].tolist() == [1, 2]
    assert scores.batches["num_slices"].tolist() == [8, 2]
    assert scores.batches["dice"].tolist() == [0.5, 0]
    # 4 slices of 4 + 4 pixels with 4 shared, 4 slices of 1 + 4 with none.
    assert scores.batches["pooled_dice"].tolist() == [pytest.approx(32 / 52), 0]


def test_no_lesion_no_batch(tmp_path: Path) -> None:
    scores = score_pngs(tmp_path, {"p_1.png": CORNER}, {"p_1.png": EMPTY})
    assert scores.batches.empty
    check(only_row(scores.subjects), dice=0.0, sensitivity=math.nan, num_false_alarm_slices=1)


def test_a_volume(tmp_path: Path) -> None:
    # (right, anterior, superior) voxels of 0.5 x 0.8 x 5 mm; each lesion two voxels long.
    prediction, reference = np.zeros((2, 6, 7, 4), dtype=bool)
    prediction[2:4, 3, 1], reference[2:4, 3, 2] = True, True
    affine = np.diag([0.5, 0.8, 5, 1])
    write_nifti(tmp_path / "a" / "sub-01.nii.gz", prediction, affine)
    write_nifti(tmp_path / "b" / "sub-01_mask.nii.gz", reference, affine)
    scores = evaluate(tmp_path / "a", tmp_path / "b", tolerance_mm=4.9)
    check(
        only_row(scores.subjects),
        subject="sub-01",
        num_slices=4,
        dice=0.0,
        hd95_mm=5.0,
        assd_mm=5.0,
        surface_dice=0.0,
        prediction_ml=2 * 0.5 * 0.8 * 5 / 1000,
        reference_ml=2 * 0.5 * 0.8 * 5 / 1000,
        volume_error_ml=0.0,
        num_slices_without_lesion=3,
        num_false_alarm_slices=1,
    )
    assert scores.slices["slice"].tolist() == [0, 1, 2, 3]
    assert scores.slices["reference_pixels"].tolist() == [0, 0, 2, 0]
    wider = evaluate(tmp_path / "a", tmp_path / "b", tolerance_mm=5)
    check(only_row(wider.subjects), surface_dice=1.0, surface_tolerance_mm=5.0)


def test_one_label_of_maps(tmp_path: Path) -> None:
    predicted, reference = np.zeros((2, 2, 4, 4), np.uint8)
    predicted[0, 0] = (1, 1, 2, 2)
    reference[0, 0] = (1, 3, 2, 0)
    write_nifti(tmp_path / "predictions/p.nii", predicted, np.eye(4))
    write_nifti(tmp_path / "references/p.nii", reference, np.eye(4))
    folders = tmp_path / "predictions", tmp_path / "references"
    check(only_row(evaluate(*folders, label=1).subjects), dice=2 / 3, reference_pixels=1)
    check(only_row(evaluate(*folders, label=2).subjects), dice=2 / 3, prediction_pixels=2)
    with pytest.raises(EvaluationError, match="predictions: label 3 in no mask"):
        evaluate(*folders, label=3)
    with pytest.raises(EvaluationError, match=r"0, 1, 2.*Or choose one label: --label NUMBER"):
        evaluate(*folders)
    with pytest.raises(ValueError, match="label is 0, expected 1 or more"):
        evaluate(*folders, label=0)


def test_a_label_of_one_side_alone(tmp_path: Path) -> None:
    """Whichever is the mask of two values; the message says how to name the label of the other."""
    voxels = np.zeros((2, 4, 4), np.uint8)
    voxels[0, 0, :2] = 1
    write_nifti(tmp_path / "mask/p.nii", voxels, np.eye(4))
    voxels[0] *= 3
    voxels[1, 1, 1] = 2
    write_nifti(tmp_path / "map/p.nii", voxels, np.eye(4))
    mask, labels = tmp_path / "mask", tmp_path / "map"
    for folders in ((labels, mask), (mask, labels)):
        words = "mask: label 3 in no mask, .*; --reference-label gives references in a folder"
        with pytest.raises(EvaluationError, match=words):
            evaluate(*folders, label=3)
    check(only_row(evaluate(labels, mask, label=3, reference_label=1).subjects), dice=1.0)
    check(only_row(evaluate(mask, labels, reference_label=3).subjects), dice=1.0)


def test_orientation_of_the_files_does_not_matter(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    prediction, reference = random.random((2, 6, 7, 4)) < 0.3
    affine = np.diag([0.5, 0.8, 5, 1])
    write_nifti(tmp_path / "a" / "x.nii.gz", prediction, affine)
    write_nifti(tmp_path / "b" / "x.nii.gz", reference, affine)
    # The same reference stored from left to right with the slices first.
    stored = nib.as_closest_canonical(nib.load(tmp_path / "b" / "x.nii.gz")).as_reoriented(
        np.array([[1, -1], [2, 1], [0, -1]])
    )
    (tmp_path / "c").mkdir()
    nib.save(stored, tmp_path / "c" / "x.nii")
    expected = evaluate(tmp_path / "a", tmp_path / "b")
    found = evaluate(tmp_path / "a", tmp_path / "c")
    pd.testing.assert_frame_equal(found.subjects, expected.subjects)
    pd.testing.assert_frame_equal(found.slices, expected.slices)


def test_a_tilted_gantry_changes_distances_and_not_volumes(tmp_path: Path) -> None:
    prediction, reference = np.zeros((2, 3, 3, 3), dtype=bool)
    prediction[1, 1, 0], reference[1, 1, 2] = True, True
    affine = np.array([[1.0, 0, 0, 0], [0, 1, 1.5, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    write_nifti(tmp_path / "a" / "x.nii", prediction, affine)
    write_nifti(tmp_path / "b" / "x.nii", reference, affine)
    row = only_row(evaluate(tmp_path / "a", tmp_path / "b").subjects)
    # Two slices up, 4 mm, and 3 mm along the tilt: 5 mm. The voxel has 1 x 1 x 2 mm3.
    check(row, hd95_mm=5.0, prediction_ml=0.002, reference_ml=0.002)


def test_scans_of_a_subject_are_pooled(tmp_path: Path) -> None:
    voxels = np.zeros((5, 5, 5), dtype=bool)
    voxels[2, 2, 2] = True
    fine, coarse = np.eye(4), np.diag([2.0, 2, 2, 1])
    write_nifti(tmp_path / "a" / "s" / "day1.nii", voxels, fine)
    write_nifti(tmp_path / "b" / "s" / "day1.nii", voxels, fine)
    write_nifti(tmp_path / "a" / "s" / "day2.nii", np.zeros_like(voxels), coarse)
    write_nifti(tmp_path / "b" / "s" / "day2.nii", voxels, coarse)
    scores = evaluate(tmp_path / "a", tmp_path / "b")
    check(
        only_row(scores.subjects),
        num_slices=10,
        dice=2 / 3,
        hd95_mm=math.inf,
        assd_mm=math.inf,
        surface_dice=2 / 3,
        num_reference_lesions=2,
        num_detected_lesions=1,
    )
    assert scores.slices["scan"].tolist() == ["day1"] * 5 + ["day2"] * 5


def test_errors_of_volume_do_not_cancel_between_scans(tmp_path: Path) -> None:
    small, large = np.zeros((2, 5, 5, 5), dtype=bool)
    small[2, 2, 2], large[1:4, 2, 2] = True, True
    write_nifti(tmp_path / "a" / "s" / "day1.nii", small, np.eye(4))
    write_nifti(tmp_path / "b" / "s" / "day1.nii", large, np.eye(4))
    write_nifti(tmp_path / "a" / "s" / "day2.nii", large, np.eye(4))
    write_nifti(tmp_path / "b" / "s" / "day2.nii", small, np.eye(4))
    scores = evaluate(tmp_path / "a", tmp_path / "b")
    check(
        only_row(scores.subjects),
        prediction_ml=0.002,
        reference_ml=0.002,
        volume_error_ml=0.0,
        absolute_volume_error_ml=0.002,
    )
    assert "1 subjects have several scans" in " ".join(summarize(scores).sentences)


def make_cohort(
    folder: Path, *, spacing_mm: tuple[float, float, float] | None = (5.0, 0.5, 0.4)
) -> Cohort:
    """Three slices of one subject: with a lesion, declared negative, unmarked."""
    cases = []
    for number, rows in ((1, SQUARE), (2, EMPTY), (3, None)):
        num_pixels = None if rows is None else sum(row.count("#") for row in rows)
        mask = (
            write_png(folder / "masks" / f"p_{number}.png", rows) if rows and num_pixels else None
        )
        lesion_ml = math.nan
        if spacing_mm is not None and num_pixels is not None:
            lesion_ml = num_pixels * math.prod(spacing_mm) / 1000
        cases.append(
            CaseImage(
                subject="p",
                scan="p",
                site="HT",
                modality="CT",
                slice=number,
                image=folder / "images" / f"p_{number}.jpg",
                mask=mask,
                num_rows=3,
                num_columns=4,
                num_slices=1,
                spacing_mm=spacing_mm,
                lesion_pixels=num_pixels,
                lesion_ml=lesion_ml,
                sha256="0" * 64,
            )
        )
    return Cohort(tuple(cases))


def make_predictions(folder: Path) -> Path:
    write_png(folder / "p" / "p_1.png", SHIFTED)
    write_png(folder / "p" / "p_2.png", CORNER)
    return folder


def test_a_cohort_gives_site_and_spacing(tmp_path: Path) -> None:
    scores = evaluate_cohort(make_predictions(tmp_path / "run"), make_cohort(tmp_path))
    check(
        only_row(scores.subjects),
        site="HT",
        num_slices=2,
        dice=4 / 9,
        hd95_mm=percentile_by_hand(),
        prediction_ml=0.005,
        reference_ml=0.004,
        volume_error_ml=0.001,
        num_false_lesions=0,
        num_slices_without_lesion=1,
        num_false_alarm_slices=1,
    )


def percentile_by_hand() -> float:
    """95th percentile of the 5 distances of the prediction, the larger of the two.

    All pixels are border. Of the square shifted by a column, two pixels lie on the reference and
    two 0.4 mm away; the corner pixel is one slice, one row and two columns away from it.
    """
    corner_mm = math.hypot(5, 0.5, 0.8)
    return 0.4 + 0.8 * (corner_mm - 0.4)


def test_a_cohort_knows_the_label_of_its_references(tmp_path: Path) -> None:
    first, *_ = make_cohort(tmp_path).images
    assert first.mask is not None
    labels = np.asarray(Image.open(first.mask)) // 255 * 2
    labels[-1, -1] = 1
    Image.fromarray(labels.astype(np.uint8)).save(first.mask)
    make_predictions(tmp_path / "predictions")
    cohort = Cohort((replace(first, label=2),))
    row = only_row(evaluate_cohort(tmp_path / "predictions", cohort).subjects)
    check(row, reference_pixels=first.lesion_pixels)


def test_predictions_for_a_cohort_can_be_maps_of_labels(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path)
    folder = make_predictions(tmp_path / "run")
    expected = only_row(evaluate_cohort(folder, cohort).subjects)
    for path in folder.rglob("*.png"):
        labels = np.asarray(Image.open(path)) // 255 * 3
        labels[-1, 0] = 1
        Image.fromarray(labels.astype(np.uint8)).save(path)
    with pytest.raises(EvaluationError, match="Or choose one label: --label NUMBER"):
        evaluate_cohort(folder, cohort)
    row = only_row(evaluate_cohort(folder, cohort, label=3).subjects)
    assert row["dice"] == expected["dice"] == pytest.approx(4 / 9)
    with pytest.raises(EvaluationError, match="run: label 9 in no mask"):
        evaluate_cohort(folder, cohort, label=9)
    with pytest.raises(ValueError, match="label is 0"):
        evaluate_cohort(folder, cohort, label=0)


def test_without_spacing_what_needs_mm_is_undefined(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path, spacing_mm=None)
    scores = evaluate_cohort(make_predictions(tmp_path / "run"), cohort)
    check(only_row(scores.subjects), dice=4 / 9, hd95_mm=math.nan, reference_ml=math.nan)


def test_one_scan_without_spacing_leaves_the_subject_without_mm(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_nifti(tmp_path / folder / "s" / "day1.nii", np.ones((3, 3, 3)), np.eye(4))
        write_png(tmp_path / folder / "s" / "day2_1.png", SQUARE)
    row = only_row(evaluate(tmp_path / "a", tmp_path / "b").subjects)
    in_mm = ("hd95_mm", "assd_mm", "surface_dice", "reference_ml", "prediction_ml")
    check(row, dice=1.0, **dict.fromkeys(in_mm, math.nan))


def test_a_single_slice_is_scored_in_two_dimensions(tmp_path: Path) -> None:
    case = replace(make_cohort(tmp_path).images[0], spacing_mm=(5.0, 1.0, 1.0), lesion_ml=0.02)
    write_png(tmp_path / "run" / "p" / "p_1.png", ("####",) * 3)
    row = only_row(evaluate_cohort(tmp_path / "run", Cohort((case,))).subjects)
    prediction, reference = np.zeros((2, 1, 3, 4), dtype=bool)
    prediction[:], reference[0, :2, :2] = True, True
    # In 3-D the two inner pixels of the prediction would be surface too.
    assert row["assd_mm"] == pytest.approx(medpy_binary.assd(prediction[0], reference[0]))
    assert row["assd_mm"] != pytest.approx(medpy_binary.assd(prediction, reference))


@settings(max_examples=15, deadline=None)
@given(factor=st.floats(0.1, 10))
def test_distances_scale_with_spacing_and_volumes_with_its_cube(
    tmp_path_factory: pytest.TempPathFactory, factor: float
) -> None:
    folder = tmp_path_factory.getbasetemp() / "scaled"
    predictions = make_predictions(folder / "run")
    row = only_row(evaluate_cohort(predictions, make_cohort(folder), tolerance_mm=1).subjects)
    larger = make_cohort(folder, spacing_mm=(5 * factor, 0.5 * factor, 0.4 * factor))
    scaled = only_row(evaluate_cohort(predictions, larger, tolerance_mm=factor).subjects)
    for name in ("hd95_mm", "assd_mm"):
        assert scaled[name] == pytest.approx(row[name] * factor)  # type: ignore[operator]
    for name in ("prediction_ml", "reference_ml", "volume_error_ml", "absolute_volume_error_ml"):
        assert scaled[name] == pytest.approx(row[name] * factor**3)  # type: ignore[operator]
    for name in ("dice", "iou", "sensitivity", "precision", "surface_dice"):
        assert scaled[name] == pytest.approx(row[name])


def test_progress_counts_files(tmp_path: Path) -> None:
    for name in ("a_1.png", "a_2.png", "b_1.png"):
        write_png(tmp_path / name, SQUARE)
    seen: list[tuple[int, int]] = []
    evaluate(tmp_path, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 3), (3, 3)]


def test_all_files_that_cannot_be_scored_are_listed(tmp_path: Path) -> None:
    good = ("##", "..")
    for name in ("p_1.png", "p_2.png", "q_1.png", "r_1.png"):
        write_png(tmp_path / "a" / name, good)
        write_png(tmp_path / "b" / name, good)
    write_png(tmp_path / "a" / "p_1.png", ("###", "...", "..."))
    (tmp_path / "a" / "p_2.png").write_bytes(b"")
    Image.fromarray(np.array([[0, 1], [2, 3]], dtype=np.uint8)).save(tmp_path / "b" / "q_1.png")
    with pytest.raises(EvaluationError, match="cannot be scored") as caught:
        evaluate(tmp_path / "a", tmp_path / "b")
    grid, empty, values = str(caught.value).splitlines()[1:]
    assert "a/p_1.png: grid 1x3x3, expected 1x2x2" in grid
    assert "b/p_1.png" in grid
    assert "a/p_2.png: 0 bytes" in empty
    assert "b/q_1.png: 4 different values (0, 1, 2, 3)" in values


def test_refuses_slices_of_different_sizes_in_one_stack(tmp_path: Path) -> None:
    slices = {"p_1.png": SQUARE, "p_2.png": ("##", "##")}
    with pytest.raises(
        EvaluationError, match=r"p_2\.png: grid 1x2x2, expected 1x3x4 as .*p_1\.png"
    ):
        score_pngs(tmp_path, slices, slices)


def test_refuses_masks_apart_in_space(tmp_path: Path) -> None:
    voxels = np.ones((4, 4, 4), dtype=bool)
    affine, moved = np.diag([1.0, 1, 3, 1]), np.diag([1.0, 1, 3, 1])
    write_nifti(tmp_path / "b" / "x.nii", voxels, affine)
    moved[2, 3] = 0.09  # as far as a mask may lie off its image in a cohort
    write_nifti(tmp_path / "a" / "x.nii", voxels, moved)
    check(only_row(evaluate(tmp_path / "a", tmp_path / "b").subjects), dice=1.0)
    moved[2, 3] = 0.5
    write_nifti(tmp_path / "a" / "x.nii", voxels, moved)
    with pytest.raises(EvaluationError, match=r"up to 0\.5 voxels away .* expected at most 0\.1"):
        evaluate(tmp_path / "a", tmp_path / "b")


def test_refuses_a_mask_that_has_changed_since_it_was_indexed(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path)
    predictions = make_predictions(tmp_path / "run")
    write_png(tmp_path / "masks" / "p_1.png", CORNER)
    with pytest.raises(EvaluationError, match=r"p_1\.png: 1 lesion pixels, expected 4"):
        evaluate_cohort(predictions, cohort)


def test_refuses_a_mask_that_was_empty_when_indexed(tmp_path: Path) -> None:
    _, negative, _ = make_cohort(tmp_path).images
    negative = replace(negative, mask=write_png(tmp_path / "masks" / "p_2.png", CORNER))
    with pytest.raises(EvaluationError, match=r"p_2\.png: 1 lesion pixels, expected 0"):
        evaluate_cohort(make_predictions(tmp_path / "run"), Cohort((negative,)))


def test_refuses_a_prediction_on_another_grid_than_a_declared_negative(tmp_path: Path) -> None:
    predictions = make_predictions(tmp_path / "run")
    write_png(predictions / "p" / "p_2.png", ("..", ".."))
    with pytest.raises(EvaluationError, match=r"grid 1x2x2, expected 1x3x4 .* in the cohort table"):
        evaluate_cohort(predictions, make_cohort(tmp_path))


def test_refuses_slices_of_one_scan_with_different_spacing(tmp_path: Path) -> None:
    first, second, _ = make_cohort(tmp_path).images
    images = first, replace(second, spacing_mm=(5.0, 0.5, 0.9))
    with pytest.raises(EvaluationError, match=r"5 x 0\.5 x 0\.9 mm .* expected 5 x 0\.5 x 0\.4"):
        evaluate_cohort(make_predictions(tmp_path / "run"), Cohort(images))
    images = first, replace(second, spacing_mm=None, lesion_ml=math.nan)
    with pytest.raises(EvaluationError, match=r"unknown mm .* expected 5 x 0\.5 x 0\.4"):
        evaluate_cohort(make_predictions(tmp_path / "run"), Cohort(images))


def test_refuses_a_file_without_number_in_a_scan_of_several(tmp_path: Path) -> None:
    slices = {"p.png": SQUARE, "p_2.png": SQUARE}
    with pytest.raises(EvaluationError, match=r"p\.png: no slice number"):
        score_pngs(tmp_path, slices, slices)


def test_refuses_slice_numbers_that_would_make_a_huge_stack(tmp_path: Path) -> None:
    slices = {"p_1.png": SQUARE, "p_200000000.png": SQUARE}
    with pytest.raises(EvaluationError, match=f"200000000x3x4, expected at most {MAX_VOXELS:,}"):
        score_pngs(tmp_path, slices, slices)


@pytest.mark.parametrize("tolerance_mm", [-1.0, math.nan, math.inf])
def test_refuses_a_tolerance_that_is_none(tmp_path: Path, tolerance_mm: float) -> None:
    write_png(tmp_path / "p_1.png", SQUARE)
    with pytest.raises(ValueError, match=f"tolerance_mm is {tolerance_mm}, expected"):
        evaluate(tmp_path, tmp_path, tolerance_mm=tolerance_mm)


def test_refuses_batches_of_nothing(tmp_path: Path) -> None:
    write_png(tmp_path / "p_1.png", SQUARE)
    with pytest.raises(ValueError, match="batch_size is 0, expected 1 or more"):
        evaluate(tmp_path, tmp_path, batch_size=0)


def test_scoring_does_not_import_torch(tmp_path: Path) -> None:
    write_png(tmp_path / "p_1.png", SQUARE)
    code = (
        "import sys; from pathlib import Path; from hemaseg.evaluation.scoring import evaluate;"
        "evaluate(Path(sys.argv[1]), Path(sys.argv[1]));"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)


@pytest.mark.real_data
def test_real_masks_against_themselves_shifted(real_data: Path, tmp_path: Path) -> None:
    references = real_data / "ct-phe-sich" / "hematoma_silver"
    files = sorted(references.glob("000*.png"))
    for name in ("predictions", "references"):
        (tmp_path / name).mkdir()
    for path in files:
        pixels = np.array(Image.open(path))
        Image.fromarray(pixels).save(tmp_path / "references" / path.name)
        Image.fromarray(np.roll(pixels, 2, axis=0)).save(tmp_path / "predictions" / path.name)
    scores = evaluate(tmp_path / "predictions", tmp_path / "references")
    assert len(scores.slices) == len(files)
    for subject, dice in zip(scores.subjects["subject"], scores.subjects["dice"], strict=True):
        own = [path for path in files if path.name.startswith(f"{subject}_")]
        reference = np.stack([np.array(Image.open(path)) > 0 for path in own])
        assert dice == pytest.approx(medpy_binary.dc(np.roll(reference, 2, axis=1), reference))
