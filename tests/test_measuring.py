"""Mask files of any format to the table of measurements, and what is wrong with some of them."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.sr.codedict import codes

from dicom_files import PhantomSeries, phantom_series
from hemaseg.evaluation.measuring import COLUMNS, Measured, measure_files
from hemaseg.metrics.measurement import measure, measurement_columns
from hemaseg.phantoms.heads import Head
from hemaseg.scans.images import read_scan, write_mask
from hemaseg.scans.screening import ReadOptions
from small_heads import small_head

OPTIONS = ReadOptions()
HEAD = small_head(2)
AREA = max(HEAD.mask, key=np.count_nonzero)
"""The slice where the lesion is largest."""


def write_nifti(
    path: Path, voxels: NDArray[Any], affine: NDArray[np.float64] = HEAD.affine, **header: float
) -> Path:
    """Voxels (K, H, W) as a NIfTI file with the axes column, row, slice."""
    image = nib.Nifti1Image(voxels.transpose(2, 1, 0), affine[:, [2, 1, 0, 3]])
    if header:
        image.header.set_slope_inter(header["slope"], 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def write_png(path: Path, mask: NDArray[np.bool_]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(path)
    return path


def only_row(measured: Measured) -> dict[str, object]:
    assert not measured.failures
    (row,) = measured.rows
    assert tuple(row) == COLUMNS
    return row


def columns_of(head: Head) -> dict[str, object]:
    return measurement_columns(measure(head.mask, head.affine))


@pytest.mark.parametrize("name", ["sub-01_mask.nii.gz", "sub-01_mask.nii"])
def test_nifti_mask(tmp_path: Path, name: str) -> None:
    path = write_nifti(tmp_path / name, HEAD.mask.astype(np.uint8))
    row = only_row(measure_files([path], OPTIONS))
    assert (row["name"], row["file"], row["findings"]) == ("sub-01_mask", str(path), "")
    assert {name: row[name] for name in columns_of(HEAD)} == columns_of(HEAD)
    assert row["volume_ml"] == pytest.approx(HEAD.hematoma_ml, rel=0.1)


def test_a_written_mask_measures_as_the_mask_in_memory(tmp_path: Path) -> None:
    scan = read_scan(write_nifti(tmp_path / "scan.nii.gz", HEAD.voxels))
    write_mask(HEAD.mask, scan, tmp_path / "mask.nii.gz")
    row = only_row(measure_files([tmp_path / "mask.nii.gz"], OPTIONS))
    assert {name: row[name] for name in columns_of(HEAD)} == columns_of(HEAD)


def test_label_of_a_map(tmp_path: Path) -> None:
    labels = HEAD.mask.astype(np.int16)
    labels[0, :2, :2] = 3
    path = write_nifti(tmp_path / "map.nii.gz", labels)
    assert only_row(measure_files([path], OPTIONS, label=1))["num_voxels"] == HEAD.mask.sum()
    assert only_row(measure_files([path], OPTIONS, label=3))["num_voxels"] == 4
    (refused,) = measure_files([path], OPTIONS).failures
    assert refused.kind == "not-a-mask"
    assert "3 different values (0, 1, 3), expected two in a mask" in str(refused)
    assert str(refused).endswith(" Or choose one label: --label NUMBER.")


def test_scaled_label_is_found(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "map.nii.gz", HEAD.mask * np.int32(3), slope=1 / 3)
    assert read_scan(path).voxels.max() != 1
    assert only_row(measure_files([path], OPTIONS, label=1))["num_voxels"] == HEAD.mask.sum()


def test_absent_label_is_empty_and_said(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "map.nii.gz", HEAD.mask.astype(np.uint8))
    row = only_row(measure_files([path], OPTIONS, label=2))
    assert (row["volume_ml"], row["num_lesions"], row["findings"]) == (0.0, 0, "label-absent")


def test_probabilities_have_no_labels(tmp_path: Path) -> None:
    voxels = HEAD.mask.astype(np.float32)
    voxels[0, 0, :3] = 0.375
    path = write_nifti(tmp_path / "p.nii", voxels)
    (refused,) = measure_files([path], OPTIONS).failures
    assert "--label" not in str(refused)
    (refused,) = measure_files([path], OPTIONS, label=1).failures
    assert refused.kind == "not-a-mask"
    assert "p.nii: 3 voxels such as 0.375, expected whole numbers" in str(refused)


@pytest.mark.parametrize("label", [0, -1])
def test_the_background_is_no_label(label: int) -> None:
    with pytest.raises(ValueError, match=f"label is {label}, expected 1 or more"):
        measure_files([], OPTIONS, label=label)


def test_pictures_have_no_millilitres(tmp_path: Path) -> None:
    path = write_png(tmp_path / "p1_7.png", AREA)
    row = only_row(measure_files([path], OPTIONS))
    assert (row["name"], row["num_slices"], row["num_lesions"]) == ("p1_7", 1, 1)
    assert row["num_voxels"] == AREA.sum()
    for name in ("volume_ml", "largest_lesion_ml", "abc2_ml", "a_mm", "longest_axis_mm"):
        assert math.isnan(float(str(row[name])))
    assert row["slice_areas_mm2"] == ""


def test_a_tiff_of_several_pages_is_one_mask(tmp_path: Path) -> None:
    pages = [Image.fromarray(page.astype(np.uint8) * np.uint8(255)) for page in HEAD.mask]
    pages[0].save(tmp_path / "m.tif", save_all=True, append_images=pages[1:])
    row = only_row(measure_files([tmp_path / "m.tif"], OPTIONS))
    assert (row["num_slices"], row["num_voxels"]) == (len(HEAD.mask), HEAD.mask.sum())


def write_seg_of_others(path: Path, series: PhantomSeries, *labels: NDArray[np.bool_]) -> Path:
    """A DICOM SEG as another program would write it, with a segment for each mask."""
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"segment {number}",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Hemorrhage,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, _ in enumerate(labels, start=1)
    ]
    hd.seg.Segmentation(
        source_images=[dcmread(file) for file in series.paths],
        pixel_array=np.stack(labels, axis=-1).astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=2,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="another",
        manufacturer_model_name="another",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=False,
    ).save_as(path)
    return path


@pytest.fixture(scope="module")
def tilted(tmp_path_factory: pytest.TempPathFactory) -> PhantomSeries:
    """A tilted, unevenly spaced series."""
    steps = [3.0] * 14 + [1.0] + [6.0] * 10
    return phantom_series(
        tmp_path_factory.mktemp("ct"), offsets_mm=np.append(0, np.cumsum(steps)), tilt_deg=18.5
    )


def test_dicom_seg_of_a_tilted_and_uneven_series(tmp_path: Path, tilted: PhantomSeries) -> None:
    path = write_seg_of_others(tmp_path / "seg", tilted, tilted.mask)
    row = only_row(measure_files([path], OPTIONS))
    assert (row["name"], row["num_voxels"]) == ("seg", tilted.mask.sum())
    # The table moves upward, at 18.5 degrees to the normal of the slices.
    above = np.diff(tilted.positions[:, 2])
    shares_mm = (np.append(above[0], above) + np.append(above, above[-1])) / 2
    areas_mm2 = tilted.mask.sum(axis=(1, 2)) * 3.2**2
    expected_ml = areas_mm2 @ shares_mm * math.cos(math.radians(18.5)) / 1000
    assert row["volume_ml"] == pytest.approx(expected_ml, rel=1e-6)
    assert row["volume_ml"] == pytest.approx(tilted.lesion_ml, rel=0.05)
    assert [float(area) for area in str(row["slice_areas_mm2"]).split(";")] == pytest.approx(
        areas_mm2, rel=1e-6
    )


def test_segments_of_a_dicom_seg_are_labels(tmp_path: Path, tilted: PhantomSeries) -> None:
    other = np.zeros_like(tilted.mask)
    other[3, 4:6, 4:9] = True
    path = write_seg_of_others(tmp_path / "two.dcm", tilted, tilted.mask, other)
    assert only_row(measure_files([path], OPTIONS, label=2))["num_voxels"] == 10
    assert only_row(measure_files([path], OPTIONS, label=1))["num_voxels"] == tilted.mask.sum()
    for label in (None, 3):
        (refused,) = measure_files([path], OPTIONS, label=label).failures
        assert "segments 1, 2, expected" in str(refused)


def test_no_name_of_a_patient_gets_out(tmp_path: Path) -> None:
    series = phantom_series(tmp_path / "ct", patient_name="Quisling^Zoe", patient_id="QZ-4711")
    path = write_seg_of_others(tmp_path / "seg.dcm", series, series.mask)
    data = path.read_bytes()
    assert b"Quisling" in data
    (tmp_path / "cut.dcm").write_bytes(data[:-1000])
    measured = measure_files([path, tmp_path / "cut.dcm"], OPTIONS)
    assert (len(measured.rows), len(measured.failures)) == (1, 1)
    said = measured.to_csv() + repr(measured)
    assert "Quisling" not in said
    assert "4711" not in said


def test_of_dicom_files_in_a_folder_only_segmentations_are_masks(
    tmp_path: Path, tilted: PhantomSeries
) -> None:
    (tmp_path / "ct.dcm").write_bytes(tilted.paths[0].read_bytes())
    path = write_seg_of_others(tmp_path / "1.2.3", tilted, tilted.mask)
    assert only_row(measure_files([tmp_path], OPTIONS))["file"] == str(path)
    (refused,) = measure_files([tmp_path / "ct.dcm"], OPTIONS).failures
    assert str(tmp_path / "ct.dcm") in str(refused)


@pytest.mark.parametrize("ending", ["", "_mask"])
def test_numbered_pictures_in_a_folder_are_one_mask(tmp_path: Path, ending: str) -> None:
    for number, area in enumerate(HEAD.mask, start=1):
        write_png(tmp_path / "p1" / f"p1_{number}{ending}.png", area)
    write_png(tmp_path / "p2" / f"p2_1{ending}.png", AREA)
    first, second = measure_files([tmp_path], OPTIONS).rows
    # In the order of the numbers: the slices of one lesion touch.
    assert (first["name"], first["num_slices"], first["num_lesions"]) == ("p1", len(HEAD.mask), 1)
    assert first["file"] == str(tmp_path / "p1" / f"p1_1{ending}.png")
    assert first["num_voxels"] == HEAD.mask.sum()
    assert (second["name"], second["num_slices"]) == (f"p2_1{ending}", 1)


def test_pictures_that_are_only_numbers_are_called_as_their_folder(tmp_path: Path) -> None:
    for number in (9, 10):
        write_png(tmp_path / "P7" / f"{number}.png", AREA)
    row = only_row(measure_files([tmp_path], OPTIONS))
    assert (row["name"], row["file"]) == ("P7", str(tmp_path / "P7" / "9.png"))


def test_pictures_of_one_stack_must_fit(tmp_path: Path) -> None:
    write_png(tmp_path / "a_1.png", AREA)
    write_png(tmp_path / "a_2.png", AREA[:40])
    (refused,) = measure_files([tmp_path], OPTIONS).failures
    assert refused.kind == "mixed-stack"


def test_folder_of_masks_beside_images(tmp_path: Path) -> None:
    """Where some files are called masks, the others are not taken for masks."""
    for name in ("s10", "s9"):
        write_nifti(tmp_path / name / f"{name}_ct.nii.gz", HEAD.voxels)
        write_nifti(tmp_path / name / f"{name}_MASK.nii.gz", HEAD.mask.astype(np.uint8))
    write_png(tmp_path / "s9" / "s9_mask" / "1.png", AREA)
    write_png(tmp_path / "s9" / "s9_overview.png", AREA)
    (tmp_path / "notes.txt").write_text("none")
    write_nifti(tmp_path / ".hidden_mask.nii", HEAD.mask.astype(np.uint8))
    measured = measure_files([tmp_path], OPTIONS)
    assert not measured.failures
    assert [row["name"] for row in measured.rows] == ["1", "s9_MASK", "s10_MASK"]


def test_masks_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        write_nifti(tmp_path / patient / "ct_mask.nii.gz", HEAD.mask.astype(np.uint8))
    measured = measure_files([tmp_path], OPTIONS)
    assert [row["name"] for row in measured.rows] == ["p1_ct_mask", "p2_ct_mask"]


def test_a_mask_named_twice_is_measured_once(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", HEAD.mask.astype(np.uint8))
    assert len(measure_files([path, tmp_path, path], OPTIONS).rows) == 1


def test_goes_on_past_what_cannot_be_read(tmp_path: Path) -> None:
    good = write_nifti(tmp_path / "good.nii.gz", HEAD.mask.astype(np.uint8))
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(good.read_bytes()[:-40])
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.nii").touch()
    (tmp_path / "text.txt").write_text("no mask")
    names = ["cut.nii.gz", "gone.nii", "empty", "none.nii", "text.txt", "good.nii.gz"]
    done = []
    measured = measure_files(
        [tmp_path / name for name in names],
        OPTIONS,
        progress=lambda num_done, num: done.append((num_done, num)),
    )
    assert only_row(Measured(measured.rows, ()))["name"] == "good"
    assert {error.kind for error in measured.failures} == {
        *("gzip-damaged", "missing", "empty-folder", "empty-file", "not-an-image")
    }
    (empty,) = [str(error) for error in measured.failures if error.kind == "empty-folder"]
    assert empty.startswith(f"{tmp_path / 'empty'}: 0 masks among 0 files, expected NIfTI")
    assert done == [(number, 5) for number in range(1, 6)]


def test_links_that_lead_in_a_circle(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", HEAD.mask.astype(np.uint8))
    (tmp_path / "again").symlink_to(tmp_path)
    (refused,) = measure_files([tmp_path], OPTIONS).failures
    assert refused.kind == "folder-loop"


def test_limit_of_bytes_holds(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", HEAD.mask.astype(np.uint8))
    (refused,) = measure_files([path], ReadOptions(max_bytes=1000)).failures
    assert refused.kind == "too-large"


def test_masks_larger_than_lesions_are_noted(tmp_path: Path) -> None:
    write_nifti(tmp_path / "half.nii", np.ones((2, 3, 4), np.uint8) * (np.arange(4) < 2))
    write_nifti(tmp_path / "more.nii", np.ones((2, 3, 4), np.uint8) * (np.arange(4) < 3))
    wide = np.diag([100.0, 100.0, 100.0, 1.0])
    write_nifti(
        tmp_path / "litres.nii", (np.arange(24).reshape(2, 3, 4) < 1).astype(np.uint8), wide
    )
    rows = measure_files([tmp_path], OPTIONS).rows
    assert {row["name"]: row["findings"] for row in rows} == {
        "half": "",
        "more": "large-mask",
        "litres": "large-mask",
    }


def test_table(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a, b.nii", HEAD.mask.astype(np.uint8))
    write_nifti(tmp_path / "c.nii", np.zeros_like(HEAD.mask, dtype=np.uint8))
    text = measure_files([tmp_path], OPTIONS).to_csv()
    filled, empty = csv.DictReader(io.StringIO(text))
    assert tuple(filled) == COLUMNS
    assert filled["file"] == str(tmp_path / "a, b.nii")
    expected = columns_of(HEAD)
    assert filled["num_voxels"] == str(expected["num_voxels"])
    assert float(filled["volume_ml"]) == expected["volume_ml"]
    areas = [float(area) for area in filled["slice_areas_mm2"].split(";")]
    # Slices are 8 mm apart.
    assert sum(areas) * 8 / 1000 == pytest.approx(float(filled["volume_ml"]), rel=1e-6)
    assert (empty["volume_ml"], empty["num_lesions"]) == ("0.0", "0")
    assert empty["a_mm"] == empty["abc2_ml"] == empty["largest_lesion_ml"] == ""
    assert Measured((), ()).to_csv() == ",".join(COLUMNS) + "\n"
