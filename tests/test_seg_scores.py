"""Scores of DICOM SEG as other tools write them, against each other and against NIfTI."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_files import phantom_series
from hemaseg.dicom.seg import write_seg
from hemaseg.errors import EvaluationError
from hemaseg.evaluation.measuring import measure_files
from hemaseg.evaluation.scoring import evaluate
from hemaseg.evaluation.tables import Scores
from hemaseg.scans.images import write_mask
from hemaseg.scans.scan import Scan, to_display
from hemaseg.scans.screening import ReadOptions
from seg_files import (
    ALGORITHM,
    CLASSIC,
    SHAPE,
    TILT,
    UNEVEN_MM,
    random_series,
    scan_of,
    series_at,
    written_by_highdicom,
)

# Stored pixels (slice, row, column) of 0.5 x 0.5 mm, slices of 5 mm; the prediction is not in
# slices 2 and 3, and the reference begins where frames of the prediction may be left out.
PREDICTION, REFERENCE = np.zeros((2, *SHAPE), dtype=np.uint8)
PREDICTION[[1, 4, 5], 3:9, 4:12] = 1  # 3 x 6 x 8 = 144 voxels
REFERENCE[3:7, 5:9, 6:14] = 1  # 4 x 4 x 8 = 128; 2 x 4 x 6 = 48 in both
VOXEL_ML = 0.5 * 0.5 * 5 / 1000
SCORES = {
    "dice": 2 * 48 / (144 + 128),
    "sensitivity": 48 / 128,
    "precision": 48 / 144,
    "prediction_ml": 144 * VOXEL_ML,
    "reference_ml": 128 * VOXEL_ML,
    "prediction_pixels": 144,
    "reference_pixels": 128,
    "num_reference_lesions": 1,
    "num_detected_lesions": 1,
    "num_predicted_lesions": 2,
    "num_false_lesions": 1,
}

Write = Callable[[Path, Scan, NDArray[np.uint8]], None]


def nifti(folder: Path, scan: Scan, pixels: NDArray[np.uint8]) -> None:
    write_mask(displayed(scan, pixels), scan, folder / "p.nii.gz")


def ours(folder: Path, scan: Scan, pixels: NDArray[np.uint8]) -> None:
    write_seg(displayed(scan, pixels), scan, folder / "p_seg.dcm", algorithm=ALGORITHM)


def displayed(scan: Scan, pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    assert scan.stored_axes is not None
    return to_display(pixels == 1, np.eye(4), scan.stored_axes)[0]


def theirs(**options: Any) -> Write:
    def write(folder: Path, scan: Scan, pixels: NDArray[np.uint8]) -> None:
        written_by_highdicom(folder / "p.dcm", scan, pixels, **options)

    return write


def fractions(folder: Path, scan: Scan, pixels: NDArray[np.uint8]) -> None:
    written_by_highdicom(folder / "p", scan, pixels.astype(np.float32), kind="FRACTIONAL")


def shuffled(seg: Dataset) -> None:
    """Frames in another order; 20 x 24 bits are 60 whole bytes."""
    frames = np.frombuffer(seg.PixelData, np.uint8)[: 60 * int(seg.NumberOfFrames)]
    order = np.random.default_rng(4).permutation(int(seg.NumberOfFrames))
    groups = seg.PerFrameFunctionalGroupsSequence
    seg.PerFrameFunctionalGroupsSequence = [groups[index] for index in order]
    data = frames.reshape(-1, 60)[order].tobytes()
    seg.PixelData = data + bytes(len(data) % 2)


def cropped(seg: Dataset) -> None:
    """Only rows 2 to 17, of 3 bytes each."""
    down = np.array(
        seg.SharedFunctionalGroupsSequence[0]
        .PlaneOrientationSequence[0]
        .ImageOrientationPatient[3:]
    )
    frames = np.frombuffer(seg.PixelData, np.uint8)[: 60 * int(seg.NumberOfFrames)]
    data = frames.reshape(-1, 20, 3)[:, 2:18].tobytes()
    seg.PixelData, seg.Rows = data + bytes(len(data) % 2), 16
    for groups in seg.PerFrameFunctionalGroupsSequence:
        plane = groups.PlanePositionSequence[0]
        moved = np.array(plane.ImagePositionPatient, dtype=np.float64) + down * 2 * 0.5
        plane.ImagePositionPatient = [f"{value:.10g}" for value in moved]


WAYS: dict[str, Write] = {
    "NIfTI": nifti,
    "SEG of predict": ours,
    "all frames": theirs(omit_empty_frames=False),
    "empty frames left out": theirs(),
    "another order": theirs(change=shuffled),
    "cropped": theirs(change=cropped),
    "FRACTIONAL": fractions,
    "LABELMAP": theirs(kind="LABELMAP"),
}


def scored(tmp_path: Path, scan: Scan, predict: Write, refer: Write, **options: Any) -> Scores:
    for name, write, pixels in (("a", predict, PREDICTION), ("b", refer, REFERENCE)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, scan, pixels)
    return evaluate(tmp_path / "a", tmp_path / "b", **options)


def only(scores: Scores) -> dict[str, Any]:
    (row,) = scores.subjects.to_dict(orient="records")
    return {str(name): value for name, value in row.items()}


@pytest.mark.parametrize("refer", WAYS)
@pytest.mark.parametrize("predict", WAYS)
def test_every_way_to_write_a_mask_gives_its_scores(
    tmp_path: Path, predict: str, refer: str
) -> None:
    scan = random_series(tmp_path / "in", "axial")
    scores = scored(tmp_path, scan, WAYS[predict], WAYS[refer])
    row = only(scores)
    assert row["subject"] == "p"
    assert {name: row[name] for name in SCORES} == pytest.approx(SCORES, rel=1e-6)
    assert row["hd95_mm"] == pytest.approx(hd95_of_nifti(tmp_path, scan), rel=1e-6)
    # A SEG without empty frames says nothing of slices beyond its own.
    whole = {"NIfTI", "SEG of predict", "all frames"} & {predict, refer}
    assert row["num_slices"] == (9 if whole else 6)
    slices = scores.slices
    assert slices["slice"].tolist() == list(range(row["num_slices"]))
    lesions = slices["prediction_pixels"].to_numpy() > 0
    assert np.flatnonzero(lesions).tolist() == [1 - (not whole), 4 - (not whole), 5 - (not whole)]


def hd95_of_nifti(tmp_path: Path, scan: Scan) -> float:
    (tmp_path / "nifti").mkdir()
    return float(only(scored(tmp_path / "nifti", scan, nifti, nifti))["hd95_mm"])


@pytest.mark.parametrize("kind", [kind for kind in CLASSIC if kind != "tilted and uneven"])
def test_slices_of_any_orientation(tmp_path: Path, kind: str) -> None:
    scan = random_series(tmp_path / "in", kind)
    (tmp_path / "nifti").mkdir()
    expected = only(scored(tmp_path / "nifti", scan, nifti, nifti))
    assert expected["dice"] == pytest.approx(SCORES["dice"])
    for name, predict, refer in (
        ("one", nifti, theirs()),
        ("two", theirs(), nifti),
        ("both", theirs(change=shuffled), theirs()),
    ):
        (tmp_path / name).mkdir()
        row = only(scored(tmp_path / name, scan, predict, refer))
        for column in (*SCORES, "iou", "hd95_mm", "assd_mm", "surface_dice", "volume_error_ml"):
            assert row[column] == pytest.approx(expected[column], rel=1e-5), column


def test_segments_are_labels(tmp_path: Path) -> None:
    scan = random_series(tmp_path / "in", "axial")

    def two_segments(folder: Path, scan: Scan, pixels: NDArray[np.uint8]) -> None:
        other = np.zeros_like(pixels)
        other[0, :4, :4] = 1
        both = np.stack([other, pixels], axis=-1)
        written_by_highdicom(folder / "p.dcm", scan, both, num_segments=2)

    row = only(scored(tmp_path, scan, ours, two_segments, reference_label=2))
    assert row["dice"] == pytest.approx(SCORES["dice"])
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({}, r"b/p\.dcm: segments 1, 2, expected one\. Choose one by its number"),
        ({"label": 2}, r"a/p_seg\.dcm: segments 1, expected segment 2"),
        ({"reference_label": 3}, r"b/p\.dcm: segments 1, 2, expected segment 3"),
    )
    for options, words in refused:
        with pytest.raises(EvaluationError, match=words):
            evaluate(tmp_path / "a", tmp_path / "b", **options)
    (tmp_path / "both").mkdir()
    row = only(scored(tmp_path / "both", scan, two_segments, two_segments, label=2))
    assert row["dice"] == pytest.approx(SCORES["dice"])


def test_two_masks_without_a_slice_in_common(tmp_path: Path) -> None:
    scan = random_series(tmp_path / "in", "axial")
    for name, slices in (("a", slice(0, 2)), ("b", slice(5, 7))):
        pixels = np.zeros_like(REFERENCE)
        pixels[slices, 3:9, 4:12] = 1
        (tmp_path / name).mkdir()
        theirs()(tmp_path / name, scan, pixels)
    row = only(evaluate(tmp_path / "a", tmp_path / "b"))
    assert (row["dice"], row["num_slices"], row["num_slices_without_lesion"]) == (0, 7, 5)
    # Each outer slice is 5 slices away from the other mask's nearest, each inner one 4.
    assert row["assd_mm"] == pytest.approx((5 + 4) / 2 * 5)


def in_another_space(seg: Dataset) -> None:
    seg.FrameOfReferenceUID = "1.2.3"


def in_no_space(seg: Dataset) -> None:
    del seg.FrameOfReferenceUID


def test_another_frame_of_reference_is_refused(tmp_path: Path) -> None:
    scan = random_series(tmp_path / "in", "axial")
    with pytest.raises(EvaluationError, match=r"a/p\.dcm: another DICOM frame of reference") as one:
        scored(tmp_path, scan, theirs(change=in_another_space), ours)
    assert "than " + str(tmp_path / "b" / "p_seg.dcm") in str(one.value)
    for name, predict, refer in (
        ("unstated", theirs(change=in_no_space), ours),
        ("nifti", theirs(change=in_another_space), nifti),
    ):
        (tmp_path / name).mkdir()
        row = only(scored(tmp_path / name, scan, predict, refer))
        assert row["dice"] == pytest.approx(SCORES["dice"])


def test_another_grid_is_refused(tmp_path: Path) -> None:
    scan = random_series(tmp_path / "in", "axial")
    other = series_at(tmp_path / "other", [3 * k for k in range(9)])

    def of_other(folder: Path, scan: Scan, pixels: NDArray[np.uint8]) -> None:
        theirs()(folder, other, pixels)

    words = r"a/p\.dcm: corners of slices up to .* voxels of .*b/p\.nii\.gz, expected at most 0\.1"
    with pytest.raises(EvaluationError, match=words):
        scored(tmp_path, scan, of_other, nifti)


def without_spacing(seg: Dataset) -> None:
    del seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices


def test_every_second_slice_without_a_stated_spacing_is_refused(tmp_path: Path) -> None:
    """Whether slices were left out, or the mask is of thicker ones, nobody can know."""
    scan = random_series(tmp_path / "in", "axial")

    def sparse(folder: Path, scan: Scan, pixels: NDArray[np.uint8]) -> None:
        pixels = np.zeros_like(pixels)
        pixels[[1, 3, 5], 4:9, 4:9] = 1
        written_by_highdicom(folder / "p.dcm", scan, pixels, change=without_spacing)

    with pytest.raises(EvaluationError, match="or write it with its empty slices"):
        scored(tmp_path, scan, nifti, sparse)


def test_fractions_of_more_than_two_values_are_refused(tmp_path: Path) -> None:
    scan = random_series(tmp_path / "in", "axial")

    def soft(folder: Path, scan: Scan, pixels: NDArray[np.uint8]) -> None:
        soft_pixels = (pixels * np.linspace(0.2, 1, SHAPE[2])).astype(np.float32)
        written_by_highdicom(folder / "p", scan, soft_pixels, kind="FRACTIONAL")

    with pytest.raises(EvaluationError, match=r"a/p: 9 different values .* expected two in a mask"):
        scored(tmp_path, scan, soft, nifti)


def uneven_ml(pixels: NDArray[np.uint8]) -> float:
    """Area times half the way to each neighbour, perpendicular to the tilted slices."""
    steps = np.diff(UNEVEN_MM)
    shares_mm = (np.append(steps[0], steps) + np.append(steps, steps[-1])) / 2
    return float(pixels.sum(axis=(1, 2)) @ shares_mm * 0.25 * math.cos(TILT) / 1000)


@pytest.mark.parametrize("refer", [ours, theirs(omit_empty_frames=False)])
def test_uneven_slices_keep_their_volumes_and_distances(tmp_path: Path, refer: Write) -> None:
    scan = random_series(tmp_path / "in", "tilted and uneven")
    row = only(scored(tmp_path, scan, ours, refer))
    assert row["dice"] == pytest.approx(SCORES["dice"])
    assert row["prediction_ml"] == pytest.approx(uneven_ml(PREDICTION), rel=1e-6)
    assert row["reference_ml"] == pytest.approx(uneven_ml(REFERENCE), rel=1e-6)
    measured = measure_files([tmp_path / "a", tmp_path / "b"], ReadOptions()).rows
    assert [one["volume_ml"] for one in measured] == pytest.approx(
        [row["prediction_ml"], row["reference_ml"]]
    )


def test_distances_of_uneven_slices_are_those_in_space(tmp_path: Path) -> None:
    scan = random_series(tmp_path / "in", "tilted and uneven")
    for name, k in (("a", 2), ("b", 6)):
        pixels = np.zeros_like(REFERENCE)
        pixels[k, 7, 9] = 1
        (tmp_path / name).mkdir()
        ours(tmp_path / name, scan, pixels)
    row = only(evaluate(tmp_path / "a", tmp_path / "b"))
    # The table moves along z; pixels keep their place in the slice.
    assert row["hd95_mm"] == pytest.approx(UNEVEN_MM[6] - UNEVEN_MM[2], rel=1e-6)


def test_frames_left_out_of_uneven_slices_lie_where_the_other_mask_says(tmp_path: Path) -> None:
    scan = random_series(tmp_path / "in", "tilted and uneven")
    expected = uneven_ml(PREDICTION), uneven_ml(REFERENCE)
    for name, predict, refer in (
        ("one", ours, theirs()),
        ("other", theirs(change=shuffled), theirs(omit_empty_frames=False)),
    ):
        (tmp_path / name).mkdir()
        row = only(scored(tmp_path / name, scan, predict, refer))
        assert (row["dice"], row["num_slices"]) == (pytest.approx(SCORES["dice"]), 9)
        assert (row["prediction_ml"], row["reference_ml"]) == pytest.approx(expected, rel=1e-6)
    words = r"b/p\.dcm: leaves out slices at places that .*a/p\.dcm leaves out too|a/p\.dcm: leaves"
    with pytest.raises(EvaluationError, match=words):
        evaluate(tmp_path / "other" / "a", tmp_path / "one" / "b")


def test_frames_of_one_block_of_uneven_slices(tmp_path: Path) -> None:
    """They are even by themselves."""
    scan = random_series(tmp_path / "in", "tilted and uneven")

    def upper_block(folder: Path, scan: Scan, pixels: NDArray[np.uint8]) -> None:
        pixels = np.zeros_like(pixels)
        pixels[5:8, 5:9, 6:14] = 1
        written_by_highdicom(folder / "p.dcm", scan, pixels)

    row = only(scored(tmp_path, scan, ours, upper_block))
    assert (row["num_slices"], row["reference_pixels"]) == (9, 3 * 4 * 8)
    assert row["dice"] == pytest.approx(2 * 24 / (144 + 96))
    expected_ml = 96 * 7.38 * 0.25 * math.cos(TILT) / 1000
    assert row["reference_ml"] == pytest.approx(expected_ml, rel=1e-6)


def test_uneven_slices_have_no_nifti_grid(tmp_path: Path) -> None:
    scan = random_series(tmp_path / "in", "tilted and uneven")
    even = random_series(tmp_path / "even", "tilted")

    def of_even(folder: Path, scan: Scan, pixels: NDArray[np.uint8]) -> None:
        nifti(folder, even, pixels)

    with pytest.raises(EvaluationError, match=r"a/p_seg\.dcm: corners of slices up to"):
        scored(tmp_path, scan, ours, of_even)


def test_an_empty_prediction_misses_the_lesion(tmp_path: Path) -> None:
    scan = random_series(tmp_path / "in", "axial")
    for name, write, pixels in (("a", ours, 0 * PREDICTION), ("b", theirs(), REFERENCE)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, scan, pixels)
    row = only(evaluate(tmp_path / "a", tmp_path / "b"))
    assert (row["dice"], row["hd95_mm"], row["prediction_ml"]) == (0, math.inf, 0)
    assert row["reference_ml"] == pytest.approx(128 * VOXEL_ML)


def test_every_seg_that_is_wrong_is_listed_and_no_patient_named(tmp_path: Path) -> None:
    phantom_series(tmp_path / "in", size=24, pixel_mm=8, patient_name="Quisling^Zoe")
    scan = scan_of(tmp_path / "in")
    for name in ("a", "b"):
        for patient in ("p", "q", "r"):
            path = tmp_path / name / patient / "m_seg.dcm"
            path.parent.mkdir(parents=True)
            written_by_highdicom(path, scan, (scan.voxels > 50).astype(np.uint8))
            assert b"Quisling" in path.read_bytes()
    for patient, kept in (("p", 3000), ("q", 900)):
        path = tmp_path / "a" / patient / "m_seg.dcm"
        path.write_bytes(path.read_bytes()[:-kept])
    with pytest.raises(EvaluationError, match="cannot be scored") as caught:
        evaluate(tmp_path / "a", tmp_path / "b")
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(":")[0].split("/")[-2] for line in lines] == ["p", "q"]
    assert "Quisling" not in str(caught.value)
