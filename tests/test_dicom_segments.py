"""SEG files as other tools write them, and damaged ones: read onto their grid, or refused."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from dicom_files import file_bytes, phantom_series
from hemaseg.dicom.seg import write_seg
from hemaseg.dicom.segments import read_seg
from hemaseg.errors import ScanError
from hemaseg.scans.scan import Scan, to_stored
from hemaseg.scans.screening import ReadOptions
from seg_files import (
    ALGORITHM,
    FILED,
    SHAPE,
    random_mask,
    random_series,
    scan_of,
    series_at,
    written_by_highdicom,
)


def two_lesions(scan: Scan) -> NDArray[np.uint8]:
    """Stored pixels in slices 1 and 4 to 6 of 9."""
    pixels = np.zeros(SHAPE, np.uint8)
    pixels[1, 3:6, 4:9] = 1
    pixels[4:7, 8:12, 10:14] = 1
    return pixels


def test_frames_left_out_are_put_back(tmp_path: Path) -> None:
    scan = random_series(tmp_path / "in", "axial")
    pixels = two_lesions(scan)
    written_by_highdicom(tmp_path / "seg.dcm", scan, pixels, omit_empty_frames=True)
    assert dcmread(tmp_path / "seg.dcm").NumberOfFrames == 4
    read = read_seg(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(to_stored(read.voxels, read.stored_axes), pixels[1:7])
    assert read.is_even
    assert [finding.kind for finding in read.findings] == ["empty-frames"]
    assert "2 slices" in read.findings[0].message
    assert read.voxel_ml.tolist() == pytest.approx([scan.voxel_ml[0]] * 6)


def without_spacing(seg: Dataset) -> None:
    del seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices


def test_frames_left_out_are_put_back_by_their_smallest_distance(tmp_path: Path) -> None:
    scan = random_series(tmp_path / "in", "axial")
    pixels = two_lesions(scan)
    path = tmp_path / "seg.dcm"
    written_by_highdicom(path, scan, pixels, omit_empty_frames=True, change=without_spacing)
    read = read_seg(path)
    np.testing.assert_array_equal(to_stored(read.voxels, read.stored_axes), pixels[1:7])


@pytest.mark.parametrize("stated_mm", [2.0, 3.0])
def test_nothing_is_put_back_by_a_spacing_that_frames_contradict(
    tmp_path: Path, stated_mm: float
) -> None:
    """Frames 5 mm apart are no multiple of it: with slices between them, volumes would be half."""
    scan = random_series(tmp_path / "in", "axial")
    pixels = np.zeros(SHAPE, np.uint8)
    pixels[2:6, 3:9, 3:9] = 1

    def state(seg: Dataset) -> None:
        measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.SpacingBetweenSlices = stated_mm

    path = tmp_path / "seg.dcm"
    written_by_highdicom(path, scan, pixels, omit_empty_frames=True, change=state)
    read = read_seg(path)
    assert not read.findings
    np.testing.assert_array_equal(to_stored(read.voxels, read.stored_axes), pixels[2:6])
    assert read.voxel_ml.tolist() == pytest.approx([scan.voxel_ml[0]] * 4)


def test_left_out_of_an_uneven_series(tmp_path: Path) -> None:
    scan = random_series(tmp_path / "in", "tilted and uneven")
    path = tmp_path / "seg.dcm"
    pixels = two_lesions(scan)
    pixels[3] = pixels[4]
    written_by_highdicom(path, scan, pixels, omit_empty_frames=True)
    with pytest.raises(ScanError, match="5 uneven positions, made from 9 instances") as caught:
        read_seg(path)
    assert caught.value.kind == "missing-slices"


def test_nothing_is_put_back_into_a_whole_series_of_two_spacings(tmp_path: Path) -> None:
    heights = [0, 5, 10, 15, 20, 30, 40, 50, 60]
    thickness = {"SliceThickness": lambda k: "5" if k < 4 else "10"}
    scan = series_at(tmp_path / "in", heights, **thickness)
    written_by_highdicom(tmp_path / "seg.dcm", scan, np.ones(SHAPE, np.uint8))
    read = read_seg(tmp_path / "seg.dcm")
    np.testing.assert_allclose(read.voxel_ml, scan.voxel_ml)


def test_no_more_slices_are_put_back_than_there_were_instances(tmp_path: Path) -> None:
    """Steps of 5 mm would make 10 slices of the 9, of which one was left out."""
    scan = series_at(tmp_path / "in", [0, 5, 10, 15, 20, 25, 30, 35, 45])
    pixels = np.ones(SHAPE, np.uint8)
    pixels[3] = 0
    path = tmp_path / "seg.dcm"
    written_by_highdicom(path, scan, pixels, omit_empty_frames=True)
    with pytest.raises(ScanError, match="8 uneven positions, made from 9 instances"):
        read_seg(path)


def test_one_frame_has_the_spacing_that_the_file_states(tmp_path: Path) -> None:
    scan = random_series(tmp_path / "in", "axial")
    pixels = np.zeros(SHAPE, np.uint8)
    pixels[3, 2:4, 2:4] = 1
    path = tmp_path / "seg.dcm"

    def thinner(seg: Dataset) -> None:
        measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.SliceThickness = 4

    written_by_highdicom(path, scan, pixels, omit_empty_frames=True, change=thinner)
    assert read_seg(path).voxel_ml.tolist() == pytest.approx([0.5 * 0.5 * 5 / 1000])

    def next_to_nothing(seg: Dataset) -> None:
        seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = 1e-320

    written_by_highdicom(path, scan, pixels, omit_empty_frames=True, change=next_to_nothing)
    with pytest.raises(ScanError, match=r"one slice of 9\.99989e-321 mm .* expected 0\.0001 to"):
        read_seg(path)

    def no_distance(seg: Dataset) -> None:
        without_spacing(seg)
        del seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness

    written_by_highdicom(path, scan, pixels, omit_empty_frames=True, change=no_distance)
    with pytest.raises(ScanError, match="SpacingBetweenSlices") as caught:
        read_seg(path)
    assert caught.value.kind == "missing-attribute"


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_one_of_several_segments(tmp_path: Path, kind: str) -> None:
    scan = random_series(tmp_path / "in", "axial, columns negated")
    labels = np.random.default_rng(2).integers(0, 4, SHAPE).astype(np.uint8)
    path = tmp_path / "seg.dcm"
    written_by_highdicom(path, scan, labels, kind=kind, num_segments=3)
    for number in (1, 2, 3):
        read = read_seg(path, segment=number)
        np.testing.assert_array_equal(to_stored(read.voxels, read.stored_axes), labels == number)
    with pytest.raises(ScanError, match=r"segments 1, 2, 3, expected one") as caught:
        read_seg(path)
    assert caught.value.kind == "mixed-segments"
    assert "Secret" not in str(caught.value)
    with pytest.raises(ScanError, match=r"segments 1, 2, 3, expected segment 4") as caught:
        read_seg(path, segment=4)
    assert caught.value.kind == "unknown-segment"


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless, JPEGLSLossless])
def test_fractions_that_are_a_mask(tmp_path: Path, syntax: str) -> None:
    scan = random_series(tmp_path / "in", "axial")
    pixels = two_lesions(scan).astype(np.float32)
    options: dict[str, Any] = {"kind": "FRACTIONAL", "transfer_syntax_uid": syntax}
    written_by_highdicom(tmp_path / "seg.dcm", scan, pixels, **options)
    read = read_seg(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(to_stored(read.voxels, read.stored_axes), pixels[1:7] == 1)
    pixels[4, 8, 10] = 0.5
    written_by_highdicom(tmp_path / "seg.dcm", scan, pixels, **options)
    with pytest.raises(ScanError, match="3 different values") as caught:
        read_seg(tmp_path / "seg.dcm")
    assert caught.value.kind == "not-a-mask"


# Files that are no sound SEG.


def sound_seg(folder: Path) -> Path:
    scan = random_series(folder / "in", "axial")
    write_seg(random_mask(scan), scan, folder / "seg.dcm", algorithm=ALGORITHM)
    return folder / "seg.dcm"


def groups(seg: Dataset) -> Any:
    return seg.PerFrameFunctionalGroupsSequence


def shared(seg: Dataset) -> Any:
    return seg.SharedFunctionalGroupsSequence[0]


def place_again(seg: Dataset) -> None:
    groups(seg)[3].PlanePositionSequence = groups(seg)[2].PlanePositionSequence


def shift_in_plane(seg: Dataset) -> None:
    groups(seg)[3].PlanePositionSequence[0].ImagePositionPatient[0] += 3


def turn_one(seg: Dataset) -> None:
    orientation = shared(seg).PlaneOrientationSequence
    del shared(seg).PlaneOrientationSequence
    for item in groups(seg):
        item.PlaneOrientationSequence = deepcopy(orientation)
    item.PlaneOrientationSequence[0].ImageOrientationPatient = [0, 1, 0, 1, 0, 0]


def of_no_segment(seg: Dataset) -> None:
    for item in (shared(seg), *groups(seg)):
        item.pop("SegmentIdentificationSequence", None)


FAULTS: dict[str, tuple[str, Callable[[Dataset], Any]]] = {
    "no segments": ("mixed-segments", lambda seg: seg.SegmentSequence.clear()),
    "image": ("not-a-segmentation", lambda seg: setattr(seg, "SOPClassUID", CTImageStorage)),
    "other type": ("not-a-segmentation", lambda seg: setattr(seg, "SegmentationType", "OTHER")),
    "no rows": ("missing-attribute", lambda seg: delattr(seg, "Rows")),
    "no frames": ("dicom-damaged", lambda seg: setattr(seg, "NumberOfFrames", 0)),
    "8 bits": ("bits", lambda seg: setattr(seg, "BitsAllocated", 8)),
    "fewer frames": ("dicom-truncated", lambda seg: setattr(seg, "NumberOfFrames", 10)),
    "more bytes": ("dicom-surplus", lambda seg: setattr(seg, "Rows", 18)),
    "huge": ("too-large", lambda seg: setattr(seg, "NumberOfFrames", 2**31 - 1)),
    "no pixels": ("missing-attribute", lambda seg: delattr(seg, "PixelData")),
    "frame without groups": ("dicom-damaged", lambda seg: groups(seg).pop()),
    "frame without place": (
        "no-position",
        lambda seg: delattr(groups(seg)[4], "PlanePositionSequence"),
    ),
    "no orientation": ("no-position", lambda seg: delattr(shared(seg), "PlaneOrientationSequence")),
    "no pixel spacing": (
        "pixel-spacing",
        lambda seg: delattr(shared(seg), "PixelMeasuresSequence"),
    ),
    "two at a place": ("duplicate-slices", place_again),
    "off the line": ("slices-off-line", shift_in_plane),
    "one turned": ("mixed-orientations", turn_one),
    "frames of a segment that is not listed": (
        "dicom-damaged",
        lambda seg: setattr(seg.SegmentSequence[0], "SegmentNumber", 2),
    ),
    "frames of no segment": ("dicom-damaged", of_no_segment),
    "big endian": ("transfer-syntax", lambda seg: None),
}


def test_labels_that_are_not_listed_are_refused(tmp_path: Path) -> None:
    scan = random_series(tmp_path / "in", "axial")
    pixels = 2 * two_lesions(scan)

    def unlist(seg: Dataset) -> None:
        del seg.SegmentSequence[-1]

    options: dict[str, Any] = {"kind": "LABELMAP", "num_segments": 2, "change": unlist}
    written_by_highdicom(tmp_path / "seg.dcm", scan, pixels, **options)
    with pytest.raises(ScanError, match="1 of 1 frames or labels of no listed segment") as caught:
        read_seg(tmp_path / "seg.dcm")
    assert caught.value.kind == "dicom-damaged"


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_refused(tmp_path: Path, fault: str) -> None:
    path = sound_seg(tmp_path)
    kind, change = FAULTS[fault]
    seg = dcmread(path)
    change(seg)
    syntax = ExplicitVRBigEndian if fault == "big endian" else ExplicitVRLittleEndian
    path.write_bytes(file_bytes(Dataset(seg), syntax))
    with pytest.raises(ScanError) as caught:
        read_seg(path)
    assert caught.value.kind == kind, caught.value
    assert str(caught.value).startswith(f"{path}: ")


def test_files_that_are_no_dicom(tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    for data, kind in ((None, "missing"), (b"", "empty-file"), (b"text" * 99, "not-an-image")):
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(ScanError) as caught:
            read_seg(path)
        assert caught.value.kind == kind


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = sound_seg(tmp_path)
    data = path.read_bytes()
    for length in np.linspace(1, len(data) - 1, 200).astype(int):
        path.write_bytes(data[:length])
        with pytest.raises(ScanError):
            read_seg(path)


@pytest.mark.parametrize("num_mutants", [100, pytest.param(3000, marks=pytest.mark.slow)])
def test_mutants_are_read_or_refused(tmp_path: Path, num_mutants: int) -> None:
    phantom_series(tmp_path / "in", size=24, pixel_mm=8, **FILED)
    scan, path = scan_of(tmp_path / "in"), tmp_path / "seg.dcm"
    write_seg(scan.voxels > 50, scan, path, algorithm=ALGORITHM, keep_identity=True)
    data = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(num_mutants)
    messages = []
    for _ in range(num_mutants):
        mutant = data.copy()
        places = rng.integers(128, len(data), rng.integers(1, 6))
        mutant[places] = rng.integers(0, 256, len(places))
        path.write_bytes(mutant.tobytes())
        try:
            read = read_seg(path, ReadOptions(max_bytes=2**24))
        except ScanError as error:
            messages.append(str(error))
        else:
            assert read.voxels.dtype == bool
    assert len(messages) > num_mutants / 20
    assert not [message for message in messages if "planted" in message.lower()]
