from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, Sequence, dcmread
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from dicom_files import file_bytes, write_enhanced, write_series
from hemaseg.dicom.attributes import quiet_pydicom
from hemaseg.dicom.objects import DicomObject, read_object

LIMIT = 2**30
VOXELS = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)


def an_object(folder: Path, **options: Any) -> DicomObject:
    """A slice, read."""
    (path, *_) = write_series(folder, VOXELS, **options)
    return opened(path.read_bytes())


def opened(data: bytes) -> DicomObject:
    with quiet_pydicom():
        return read_object(BytesIO(data), LIMIT)


def problem(found: DicomObject) -> tuple[str, str]:
    assert found.error is not None
    assert found.frames == ()
    return found.error.kind, str(found.error)


def test_a_slice(tmp_path: Path) -> None:
    found = an_object(
        *(tmp_path,),
        origin=(1.5, -2.5, 3),
        row_cosines=(0, 1, 0),
        column_cosines=(0, 0, -1),
        pixel_spacing=(0.75, 0.5),
        slope=2,
        intercept=-1024,
        InstanceNumber=7,
        SpacingBetweenSlices="6",
    )
    assert found.error is None
    assert (found.modality, found.role) == ("CT", "original")
    assert found.frame_of_reference
    (frame,) = found.frames
    assert (frame.number, frame.instance) == (1, 7)
    np.testing.assert_array_equal(frame.position, [1.5, -2.5, 3])
    np.testing.assert_array_equal(frame.across, [0, 1, 0])
    np.testing.assert_array_equal(frame.down, [0, 0, -1])
    assert frame.spacing == (0.75, 0.5)
    assert (frame.thickness, frame.distance) == (5.0, 6.0)
    assert (frame.slope, frame.intercept) == (2.0, -1024.0)


def test_what_a_header_need_not_have(tmp_path: Path) -> None:
    absent = {"SliceThickness": None, "InstanceNumber": None, "FrameOfReferenceUID": None}
    found = an_object(tmp_path, modality="MR", **absent)
    (frame,) = found.frames
    assert (frame.thickness, frame.distance, frame.instance) == (None, None, None)
    assert (frame.slope, frame.intercept) == (1.0, 0.0)
    assert found.frame_of_reference == ""


GROUPS = (
    *("PlanePositionSequence", "PlaneOrientationSequence"),
    *("PixelMeasuresSequence", "PixelValueTransformationSequence"),
)


@pytest.mark.parametrize("groups", [GROUPS[:1], GROUPS], ids=["shared", "per frame"])
def test_functional_groups(tmp_path: Path, groups: tuple[str, ...]) -> None:
    path = write_enhanced(
        *(tmp_path / "one.dcm", VOXELS),
        origin=(1, 2, 3),
        spacing_mm=4,
        pixel_spacing=(0.75, 0.5),
        intercept=-1024,
        frame_groups=groups,
    )
    found = opened(path.read_bytes())
    assert found.error is None
    assert [frame.number for frame in found.frames] == [1, 2, 3]
    assert {frame.instance for frame in found.frames} == {None}
    positions = np.array([frame.position for frame in found.frames])
    np.testing.assert_array_equal(positions, [(1, 2, 3), (1, 2, 7), (1, 2, 11)])
    assert {frame.spacing for frame in found.frames} == {(0.75, 0.5)}
    assert {frame.thickness for frame in found.frames} == {4.0}
    assert {frame.intercept for frame in found.frames} == {-1024.0}


def test_each_frame_has_its_own_slope(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "one.dcm", VOXELS, modality="MR", slopes=[1, 2, 0.5])
    assert [frame.slope for frame in opened(path.read_bytes()).frames] == [1, 2, 0.5]


def edited(path: Path, **attributes: Any) -> DicomObject:
    data_set = dcmread(path)
    for keyword, value in attributes.items():
        setattr(data_set, keyword, value)
    data_set.save_as(path)
    return opened(path.read_bytes())


def test_frames_without_groups_have_no_place(tmp_path: Path) -> None:
    (path, *_) = write_series(tmp_path, VOXELS)
    kind, message = problem(edited(path, NumberOfFrames=2, PixelData=bytes(80)))
    assert kind == "no-position"
    assert "2 frames" in message


def test_groups_must_be_as_many_as_frames(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "one.dcm", VOXELS)
    kind, message = problem(edited(path, NumberOfFrames=2, PixelData=bytes(80)))
    assert kind == "dicom-damaged"
    assert "3 functional groups" in message
    assert "2 frames" in message


@pytest.mark.parametrize(
    ("attributes", "kind", "shown"),
    [
        ({"StudyInstanceUID": None}, "missing-attribute", "StudyInstanceUID"),
        ({"Modality": None}, "missing-attribute", "Modality"),
        ({"Rows": None}, "missing-attribute", "Rows"),
        ({"RescaleSlope": None}, "missing-attribute", "RescaleSlope"),
        ({"RescaleIntercept": None}, "missing-attribute", "RescaleIntercept"),
        ({"RescaleSlope": None, "Modality": "MR"}, "missing-attribute", "RescaleSlope"),
        (
            {"RescaleIntercept": None, "RescaleSlope": None},
            "missing-attribute",
            "RescaleSlope",
        ),
        ({"RescaleSlope": "0"}, "rescale", "slope [0.0]"),
        ({"RescaleSlope": "1e999"}, "rescale", "slope [inf]"),
        ({"RescaleIntercept": "nan"}, "rescale", "intercept [nan]"),
        ({"RescaleType": "Z_EFF"}, "not-hu", "CT values in Z_EFF"),
        ({"ImagePositionPatient": None}, "no-position", "position []"),
        ({"ImagePositionPatient": ["1", "2"]}, "no-position", "position [1.0, 2.0]"),
        ({"ImagePositionPatient": ["1", "2", "1e6"]}, "no-position", "1000000.0"),
        ({"ImageOrientationPatient": None}, "no-position", "0 direction cosines"),
        (
            {"ImageOrientationPatient": ["1", "0", "0", "0", "1.006", "0"]},
            "bad-orientation",
            "1, 0, 0, 0, 1.006, 0",
        ),
        (
            {"ImageOrientationPatient": ["1", "0", "0", "0.006", "1", "0"]},
            "bad-orientation",
            "0.006",
        ),
        ({"ImageOrientationPatient": ["1", "0", "0"]}, "bad-orientation", "1, 0, 0"),
        ({"PixelSpacing": None}, "pixel-spacing", "spacing []"),
        ({"PixelSpacing": ["0", "1"]}, "pixel-spacing", "[0.0, 1.0]"),
        ({"PixelSpacing": ["1", "-1"]}, "pixel-spacing", "[1.0, -1.0]"),
        ({"PixelSpacing": ["1", "inf"]}, "pixel-spacing", "[1.0, inf]"),
        ({"PixelSpacing": "1"}, "pixel-spacing", "[1.0]"),
        ({"SliceThickness": "nan"}, "dicom-damaged", "SliceThickness"),
    ],
)
def test_what_a_header_must_have(
    tmp_path: Path, attributes: dict[str, Any], kind: str, shown: str
) -> None:
    with quiet_pydicom():
        found = problem(an_object(tmp_path, **attributes))
    assert found[0] == kind
    assert shown in found[1]


def test_cosines_are_made_unit_vectors(tmp_path: Path) -> None:
    found = an_object(tmp_path, ImageOrientationPatient=["0.999", "0", "0", "0.001", "1.002", "0"])
    (frame,) = found.frames
    np.testing.assert_allclose(np.linalg.norm([frame.across, frame.down], axis=1), 1, rtol=1e-12)


def test_a_lookup_table_is_not_read(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor = [2, 0, 16]
    attributes = {"ModalityLUTSequence": lambda _: Sequence([table])}
    kind, message = problem(an_object(tmp_path, modality="MR", **attributes))
    assert kind == "rescale"
    assert "lookup table" in message


@pytest.mark.parametrize(
    ("attributes", "role"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}, "original"),
        ({"ImageType": None}, "original"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "LOCALIZER"]}, "localizer"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]}, "derived"),
        ({"ImageType": ["ORIGINAL", "SECONDARY", "AXIAL"]}, "derived"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "MPR"]}, "derived"),
        (
            {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"], "LossyImageCompression": "01"},
            "original",
        ),
        ({"BurnedInAnnotation": "YES"}, "secondary-capture"),
        ({"BurnedInAnnotation": "NO"}, "original"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "secondary-capture"),
        (
            {"SOPClassUID": MultiFrameGrayscaleByteSecondaryCaptureImageStorage},
            "secondary-capture",
        ),
    ],
)
def test_roles(tmp_path: Path, attributes: dict[str, Any], role: str) -> None:
    found = an_object(tmp_path, **attributes)
    assert found.role == role
    assert found.error is None


def bare(sop_class: UID | None, **attributes: Any) -> DicomObject:
    """An object without pixels."""
    data_set = Dataset()
    data_set.SOPClassUID = sop_class or EnhancedCTImageStorage
    data_set.SOPInstanceUID = UID("1.2.3")
    for keyword, value in attributes.items():
        setattr(data_set, keyword, value)
    data = file_bytes(data_set)
    if sop_class is None:
        start = data.rindex(b"\x08\x00\x16\x00UI")
        data = data[:start] + data[data.rindex(b"\x08\x00\x18\x00UI") :]
    return opened(data)


@pytest.mark.parametrize(
    ("sop_class", "attributes", "kind"),
    [
        (BasicTextSRStorage, {}, "not-pixels"),
        (UID("1.3.12.2.1107.5.9.1"), {}, "not-pixels"),
        (UID("1.3.12.2.1107.5.9.1"), {"Rows": 5}, "dicom-damaged"),
        (EnhancedCTImageStorage, {}, "dicom-damaged"),
        (None, {}, "dicom-damaged"),
    ],
)
def test_objects_without_pixels(
    sop_class: UID | None, attributes: dict[str, Any], kind: str
) -> None:
    found = problem(bare(sop_class, **attributes))
    assert found[0] == kind
    if sop_class == BasicTextSRStorage:
        assert "Basic Text SR Storage" in found[1]


def test_a_directory_is_known() -> None:
    assert bare(MediaStorageDirectoryStorage).is_directory
    assert not bare(BasicTextSRStorage).is_directory


def test_a_damaged_object_keeps_what_comes_before(tmp_path: Path) -> None:
    (path, *_) = write_series(tmp_path, VOXELS, patient_name="Doe^Jane")
    data = path.read_bytes()
    found = opened(data[:-1])
    assert problem(found)[0] == "dicom-truncated"
    assert found.header.PatientName == "Doe^Jane"
    assert (found.modality, found.role) == ("CT", "original")
    assert found.header.SeriesInstanceUID
    garbage = opened(bytes(128) + b"DICM" + b"\xff" * 50)
    assert problem(garbage)[0] in ("dicom-damaged", "missing-attribute")
    assert len(garbage.header) == 0


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_the_limit_holds_for_each_file(tmp_path: Path, syntax: UID) -> None:
    (path, *_) = write_series(tmp_path, VOXELS, transfer_syntax=syntax)
    size = path.stat().st_size
    with quiet_pydicom():
        found = read_object(BytesIO(path.read_bytes()), size - 1)
    kind, message = problem(found)
    assert kind == "too-large"
    assert f"a file of {size:,} bytes, expected at most {size - 1:,}" in message


def test_the_limit_holds_for_decoded_pixels(tmp_path: Path) -> None:
    (path, *_) = write_series(
        tmp_path, np.zeros((1, 99, 99), np.int16), transfer_syntax=RLELossless
    )
    with quiet_pydicom():
        assert read_object(BytesIO(path.read_bytes()), 99 * 99 * 2).error is None
        found = read_object(BytesIO(path.read_bytes()), 99 * 99 * 2 - 1)
    kind, message = problem(found)
    assert kind == "too-large"
    assert "19,602 bytes, expected at most 19,601" in message


def test_nothing_is_raised_for_any_bytes(tmp_path: Path) -> None:
    (path, *_) = write_series(tmp_path, VOXELS)
    data = path.read_bytes()
    for size in range(0, len(data), 23):
        assert opened(data[:size]).error is not None
    assert len(opened(data).frames) == 1
