"""DICOM SEG: validators and readers of others, on classic, enhanced, turned and tilted series."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from dicom_files import phantom_series
from hemaseg.dicom.seg import Algorithm, read_seg, write_seg
from seg_files import (
    ALGORITHM,
    CLASSIC,
    ENHANCED,
    FILED,
    NEVER,
    TILT,
    errors_of,
    filed,
    planted_in,
    random_mask,
    random_series,
    scan_of,
    validated,
)


def frames_of(seg: Dataset) -> NDArray[np.bool_]:
    """Frames of a binary SEG (frame, row, column), without a library's help."""
    count = seg.NumberOfFrames * seg.Rows * seg.Columns
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")[:count]
    return bits.reshape(seg.NumberOfFrames, seg.Rows, seg.Columns).astype(bool)


def source_slices(folder: Path) -> dict[tuple[str, str, int], tuple[Any, ...]]:
    """Class, instance and number of each frame in a folder to its values and place, by pydicom."""
    slices = {}
    for path in sorted(folder.rglob("*.dcm")):
        source = dcmread(path)
        values = source.pixel_array * float(source.get("RescaleSlope", 1))
        values = values + float(source.get("RescaleIntercept", 0))
        values = values.reshape(-1, source.Rows, source.Columns)
        for k in range(len(values)):
            place, orientation, measures = source, source, source
            if "SharedFunctionalGroupsSequence" in source:
                (place,) = source.PerFrameFunctionalGroupsSequence[k].PlanePositionSequence
                (shared,) = source.SharedFunctionalGroupsSequence
                (orientation,) = shared.PlaneOrientationSequence
                (measures,) = shared.PixelMeasuresSequence
            slices[source.SOPClassUID, source.SOPInstanceUID, k + 1] = (
                values[k],
                place.ImagePositionPatient,
                orientation.ImageOrientationPatient,
                measures.SliceThickness,
                measures.PixelSpacing,
            )
    return slices


def measures_of(seg: Dataset, groups: Dataset) -> Any:
    """The pixel measures of a frame: its own or those of all."""
    (shared,) = seg.SharedFunctionalGroupsSequence
    is_own = "PixelMeasuresSequence" in groups
    (measures,) = groups.PixelMeasuresSequence if is_own else shared.PixelMeasuresSequence
    assert is_own != ("PixelMeasuresSequence" in shared)
    return measures


def assert_lands_on_its_slices(path: Path, folder: Path, above: float) -> None:
    """Each frame is the threshold of the slice it refers to, and has its place."""
    seg, slices = dcmread(path), source_slices(folder)
    (shared,) = seg.SharedFunctionalGroupsSequence
    (plane,) = shared.PlaneOrientationSequence
    for frame, groups in zip(frames_of(seg), seg.PerFrameFunctionalGroupsSequence, strict=True):
        (derivation,) = groups.DerivationImageSequence
        (source,) = derivation.SourceImageSequence
        number = source.get("ReferencedFrameNumber", 1)
        key = source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID, number
        values, position, orientation, thickness, spacing = slices.pop(key)
        np.testing.assert_array_equal(frame, values > above)
        assert groups.PlanePositionSequence[0].ImagePositionPatient == position
        assert plane.ImageOrientationPatient == orientation
        measures = measures_of(seg, groups)
        assert (measures.SliceThickness, measures.PixelSpacing) == (thickness, spacing)
    assert not slices


@pytest.mark.parametrize("kind", [*CLASSIC, *ENHANCED])
def test_mask_lands_on_the_source_slices(tmp_path: Path, kind: str) -> None:
    scan = random_series(tmp_path / "in", kind)
    write_seg(scan.voxels > 1000, scan, tmp_path / "seg.dcm", algorithm=ALGORITHM)
    assert_lands_on_its_slices(tmp_path / "seg.dcm", tmp_path / "in", 1000)


@pytest.mark.parametrize("kind", [*CLASSIC, *ENHANCED])
def test_highdicom_finds_the_mask_by_the_instances(tmp_path: Path, kind: str) -> None:
    scan = random_series(tmp_path / "in", kind)
    write_seg(scan.voxels > 1000, scan, tmp_path / "seg.dcm", algorithm=ALGORITHM)
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    for (_, uid, number), (values, *_) in source_slices(tmp_path / "in").items():
        if kind in ENHANCED:
            found = seg.get_pixels_by_source_frame(uid, [number], segment_numbers=[1])
        else:
            found = seg.get_pixels_by_source_instance([uid], segment_numbers=[1])
        np.testing.assert_array_equal(found[0, ..., 0], values > 1000)


@pytest.mark.parametrize("is_empty", [False, True])
@pytest.mark.parametrize("kind", [*CLASSIC, *ENHANCED])
def test_it_reads_as_the_mask_on_the_grid_of_the_scan(
    tmp_path: Path, kind: str, is_empty: bool
) -> None:
    scan = random_series(tmp_path / "in", kind)
    mask = random_mask(scan) & (not is_empty)
    write_seg(mask, scan, tmp_path / "seg.dcm", algorithm=ALGORITHM)
    read = read_seg(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read.voxels, mask)
    assert read.voxels.dtype == bool
    assert read.affine is not None
    np.testing.assert_array_equal(read.affine, scan.affine)
    np.testing.assert_array_equal(read.voxel_ml, scan.voxel_ml)
    assert read.is_even == scan.is_even


@validated
@pytest.mark.parametrize("keep_identity", [False, True])
@pytest.mark.parametrize("is_empty", [False, True])
@pytest.mark.parametrize("kind", ["axial", "MRI", "tilted and uneven", "enhanced", "sagittal"])
def test_validator_finds_no_error(
    tmp_path: Path, kind: str, is_empty: bool, keep_identity: bool
) -> None:
    scan = random_series(tmp_path / "in", kind)
    mask = random_mask(scan) & (not is_empty)
    path = tmp_path / "seg.dcm"
    write_seg(mask, scan, path, algorithm=ALGORITHM, keep_identity=keep_identity)
    assert errors_of(path) == []
    assert frames_of(dcmread(path)).sum() == mask.sum()


def test_codes_and_words(tmp_path: Path) -> None:
    scan = random_series(tmp_path / "in", "axial")
    write_seg(random_mask(scan), scan, tmp_path / "seg.dcm", algorithm=ALGORITHM)
    seg = dcmread(tmp_path / "seg.dcm")
    (segment,) = seg.SegmentSequence

    def code(keyword: str) -> tuple[str, str]:
        (item,) = segment[keyword].value
        return item.CodeValue, item.CodingSchemeDesignator

    assert code("SegmentedPropertyCategoryCodeSequence") == ("49755003", "SCT")
    assert code("SegmentedPropertyTypeCodeSequence") == ("50960005", "SCT")
    assert code("AnatomicRegionSequence") == ("12738006", "SCT")
    (identification,) = segment.SegmentationAlgorithmIdentificationSequence
    assert identification.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
    assert (identification.AlgorithmName, identification.AlgorithmVersion) == ("DR U-Net", "0.1.0")
    assert identification.AlgorithmParameters == "weights_sha256=" + "ab" * 32
    assert (segment.SegmentAlgorithmType, segment.SegmentAlgorithmName) == ("AUTOMATIC", "DR U-Net")
    assert "research use only" in seg.SeriesDescription
    assert (seg.SegmentationType, seg.ContentLabel, seg.Modality) == ("BINARY", "HEMORRHAGE", "SEG")
    assert scan.dicom is not None
    header = scan.dicom.headers[0]
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[keyword].value == header[keyword].value
    assert seg.SeriesInstanceUID != header.SeriesInstanceUID
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == header.SeriesInstanceUID
    referenced = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
    assert referenced == {instance.SOPInstanceUID for instance in scan.dicom.headers}


@pytest.mark.parametrize(
    ("kind", "spacing_mm"),
    [("axial", 5.0), ("tilted", 5 * np.cos(TILT)), ("tilted and uneven", None)],
)
def test_only_an_even_stack_has_a_spacing(
    tmp_path: Path, kind: str, spacing_mm: float | None
) -> None:
    scan = random_series(tmp_path / "in", kind)
    write_seg(random_mask(scan), scan, tmp_path / "seg.dcm", algorithm=ALGORITHM)
    seg = dcmread(tmp_path / "seg.dcm")
    for groups in seg.PerFrameFunctionalGroupsSequence:
        stated = measures_of(seg, groups).get("SpacingBetweenSlices")
        assert stated == (None if spacing_mm is None else pytest.approx(spacing_mm, rel=1e-9))
    assert "DimensionOrganizationType" not in seg


def test_nothing_that_identifies_is_copied(tmp_path: Path) -> None:
    phantom_series(tmp_path / "in", **(FILED | NEVER))
    scan = scan_of(tmp_path / "in")
    write_seg(scan.voxels > 50, scan, tmp_path / "seg.dcm", algorithm=ALGORITHM)
    assert planted_in(tmp_path / "seg.dcm", FILED | NEVER) == set()
    assert filed(dcmread(tmp_path / "seg.dcm")) == {}


def test_identity_is_copied_on_request(tmp_path: Path) -> None:
    phantom_series(tmp_path / "in", **(FILED | NEVER))
    scan = scan_of(tmp_path / "in")
    path = tmp_path / "seg.dcm"
    write_seg(scan.voxels > 50, scan, path, algorithm=ALGORITHM, keep_identity=True)
    assert filed(dcmread(path)) == FILED
    assert planted_in(path, NEVER) == set()


def test_same_mask_gives_the_same_object(tmp_path: Path) -> None:
    scan = random_series(tmp_path / "in", "axial")
    mask = random_mask(scan)

    def uids(mask: NDArray[np.bool_], **options: Any) -> set[str]:
        write_seg(mask, scan, tmp_path / "seg.dcm", **{"algorithm": ALGORITHM, **options})
        seg = dcmread(tmp_path / "seg.dcm")
        dimensions = seg.DimensionOrganizationSequence[0].DimensionOrganizationUID
        tracking = seg.SegmentSequence[0].TrackingUID
        return {seg.SOPInstanceUID, seg.SeriesInstanceUID, dimensions, tracking}

    first = uids(mask)
    assert len(first) == 4
    assert uids(mask) == first
    for other in (
        uids(~mask),
        uids(mask, keep_identity=True),
        uids(mask, algorithm=Algorithm("U-Net", "0.1.0")),
    ):
        assert not first & other


@pytest.mark.parametrize("text", ["", " ", "a" * 65, "a\\b", "Netz f\xfcr Blut", "a\nb"])
def test_algorithm_must_fit_into_dicom(text: str) -> None:
    with pytest.raises(ValueError, match="expected 1 to 64 printable ASCII"):
        Algorithm(text, "1")
    with pytest.raises(ValueError, match="expected 1 to 64 printable ASCII"):
        Algorithm("U-Net", text)


def test_calls_that_cannot_be_right(tmp_path: Path) -> None:
    scan = random_series(tmp_path / "in", "axial")
    mask, path = random_mask(scan), tmp_path / "seg.dcm"
    with pytest.raises(ValueError, match=r"mask is uint8 \(9, 20, 24\), expected bool"):
        write_seg(mask.astype(np.uint8), scan, path, algorithm=ALGORITHM)
    with pytest.raises(
        ValueError, match=r"mask is bool \(8, 20, 24\), expected bool \(9, 20, 24\)"
    ):
        write_seg(mask[1:], scan, path, algorithm=ALGORITHM)
    with pytest.raises(ValueError, match="not from DICOM"):
        write_seg(mask, replace(scan, dicom=None), path, algorithm=ALGORITHM)
    assert not path.exists()


def test_seg_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = random_series(tmp_path / "in", "axial")
    path = tmp_path / "seg.dcm"
    write_seg(random_mask(scan), scan, path, algorithm=ALGORITHM)
    before = path.read_bytes(), sorted(tmp_path.iterdir())

    def fail_halfway(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail_halfway)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write_seg(~random_mask(scan), scan, path, algorithm=ALGORITHM)
    assert (path.read_bytes(), sorted(tmp_path.iterdir())) == before


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["dicom-ct-ge-tilted", "dicom-mri-siemens-t1"])
def test_real_series(real_data: Path, tmp_path: Path, name: str) -> None:
    scan = scan_of(real_data / "formats" / name)
    path = tmp_path / "seg.dcm"
    write_seg(scan.voxels > 40, scan, path, algorithm=ALGORITHM, keep_identity=True)
    assert_lands_on_its_slices(path, real_data / "formats" / name, 40)
    read = read_seg(path)
    np.testing.assert_array_equal(read.voxels, scan.voxels > 40)
    np.testing.assert_array_equal(read.voxel_ml, scan.voxel_ml)
    if shutil.which("dciodvfy"):
        assert errors_of(path) == []
