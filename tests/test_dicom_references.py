"""What objects made from a series take from it."""

from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, config, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from dicom_files import phantom_series
from hemaseg.dicom.references import content_uid, frame_value
from hemaseg.dicom.seg import write_seg
from hemaseg.errors import ScanError
from seg_files import ALGORITHM, random_mask, random_series, scan_of


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "M\xfcller^J\xfcrgen"),
        ("ISO_IR 192", "Wang^XiaoDong=\u738b^\u5c0f\u4e1c"),
        (
            ["", "ISO 2022 IR 87"],
            "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046",
        ),
    ],
)
def test_names_keep_their_characters(tmp_path: Path, character_set: Any, name: str) -> None:
    phantom_series(
        tmp_path / "in", num_slices=5, SpecificCharacterSet=character_set, patient_name=name
    )
    scan = scan_of(tmp_path / "in")
    path = tmp_path / "seg.dcm"
    write_seg(scan.voxels > 50, scan, path, algorithm=ALGORITHM, keep_identity=True)
    assert str(dcmread(path).PatientName) == name


@pytest.mark.parametrize(
    "keyword", ["StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"]
)
@pytest.mark.parametrize("value", ["", "Planted^Paula"])
def test_series_that_nothing_can_refer_to(tmp_path: Path, keyword: str, value: str) -> None:
    scan = random_series(tmp_path / "in", "axial")
    assert scan.dicom is not None
    with config.disable_value_validation():
        for header in scan.dicom.headers:
            setattr(header, keyword, value)
    with pytest.raises(ScanError, match=f"the series has no {keyword}, expected one") as caught:
        write_seg(random_mask(scan), scan, tmp_path / "seg.dcm", algorithm=ALGORITHM)
    assert caught.value.kind == "missing-attribute"


def test_identity_that_cannot_be_decoded_is_not_quoted(tmp_path: Path) -> None:
    scan = random_series(tmp_path / "in", "axial")
    assert scan.dicom is not None
    # Three bytes that are to be numbers of two bytes each.
    tag = Tag("PatientID")
    broken = RawDataElement(tag, "US", 3, b"PLA", 0, False, True)
    scan.dicom.headers[0]._dict[tag] = broken
    path = tmp_path / "seg.dcm"
    with pytest.raises(ScanError, match="cannot be decoded") as caught:
        write_seg(random_mask(scan), scan, path, algorithm=ALGORITHM, keep_identity=True)
    assert caught.value.kind == "dicom-damaged"
    assert "PLA" not in str(caught.value)
    assert not path.exists()
    write_seg(random_mask(scan), scan, path, algorithm=ALGORITHM)


def test_value_of_a_frame_is_its_own_before_that_of_all() -> None:
    def groups(**measures: float) -> Dataset:
        item = Dataset()
        item.PixelMeasuresSequence = [Dataset()]
        for keyword, value in measures.items():
            setattr(item.PixelMeasuresSequence[0], keyword, value)
        return item

    header = Dataset()
    header.PerFrameFunctionalGroupsSequence = [Dataset(), groups(SliceThickness=7)]
    header.SharedFunctionalGroupsSequence = [groups(SliceThickness=4)]
    assert [frame_value(header, number, "SliceThickness") for number in (1, 2)] == [4, 7]
    assert frame_value(header, 1, "ImagePositionPatient") is None
    header = Dataset()
    header.SliceThickness = 5
    assert frame_value(header, 1, "SliceThickness") == 5


def test_uid_is_that_of_the_content() -> None:
    first = content_uid("instance", [], "a", 1)
    assert first == content_uid("instance", [], "a", 1)
    others = [
        *(content_uid("series", [], "a", 1), content_uid("instance", [], "b", 1)),
        *(content_uid("instance", [], "a", 2), content_uid("instance", [reference("1.2")], "a", 1)),
        content_uid("instance", [reference("1.3")], "a", 1),
    ]
    assert len({first, *others}) == 6
    assert all(uid.is_valid for uid in (first, *others))


def reference(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPInstanceUID = uid
    return item
