"""Which series are found; that they are read rightly is shown in `test_dicom_reading`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import BasicTextSRStorage

from dicom_files import STUDY_UID, file_bytes, write_enhanced, write_series
from hemaseg.dicom.search import find_series
from hemaseg.dicom.series import Series, SeriesListing
from hemaseg.errors import ScanError
from hemaseg.scans.screening import ReadOptions

VOXELS = np.arange(4 * 2 * 2, dtype=np.int16).reshape(4, 2, 2)


def found(path: Path) -> SeriesListing:
    return find_series(path, ReadOptions())


def only(path: Path) -> Series:
    (series,) = found(path).series
    return series


def refusal(path: Path) -> tuple[str, str]:
    with pytest.raises(ScanError) as caught:
        found(path)
    return caught.value.kind, str(caught.value)


def test_what_is_known_of_a_series(tmp_path: Path) -> None:
    paths = write_series(
        *(tmp_path, VOXELS), series_number=3, SeriesDescription="Head 5 mm", spacing_mm=2.5
    )
    series = only(tmp_path)
    assert series.study_uid == STUDY_UID
    assert series.uid
    assert (series.number, series.modality, series.role) == (3, "CT", "original")
    assert (series.description, series.num_images) == ("Head 5 mm", 4)
    assert (series.plane, series.spacing_mm, series.is_bone) == ("axial", 2.5, False)
    assert series.files == tuple(paths)
    assert series.error is None
    assert found(tmp_path).left_out == ()


@pytest.mark.parametrize(
    ("row", "column", "plane"),
    [
        ((1, 0, 0), (0, 1, 0), "axial"),
        ((1, 0, 0), (0, 0, -1), "coronal"),
        ((0, 1, 0), (0, 0, -1), "sagittal"),
        ((1, 0, 0), (0, 0.8, -0.6), "axial"),
    ],
)
def test_planes(
    tmp_path: Path, row: tuple[float, ...], column: tuple[float, ...], plane: str
) -> None:
    write_series(tmp_path, VOXELS, row_cosines=row, column_cosines=column)
    assert only(tmp_path).plane == plane


@pytest.mark.parametrize(
    ("attributes", "is_bone"),
    [
        ({"ConvolutionKernel": "H31s"}, False),
        ({"ConvolutionKernel": "J40s"}, False),
        ({"ConvolutionKernel": "STANDARD"}, False),
        ({"ConvolutionKernel": "H60s"}, True),
        ({"ConvolutionKernel": "Hr68h"}, True),
        ({"ConvolutionKernel": "BONEPLUS"}, True),
        ({"ConvolutionKernel": None}, False),
        ({"SeriesDescription": "Head bone 1.0"}, True),
        ({"SeriesDescription": "H60 is not a kernel here"}, False),
    ],
)
def test_bone(tmp_path: Path, attributes: dict[str, Any], is_bone: bool) -> None:
    write_series(tmp_path, VOXELS, **attributes)
    assert only(tmp_path).is_bone == is_bone


def test_series_are_told_apart(tmp_path: Path) -> None:
    localizer: dict[str, Any] = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write_series(tmp_path, VOXELS, series_number=2, series_uid="1.2")
    write_series(tmp_path, VOXELS[:1], series_number=1, series_uid="1.2", **localizer)
    write_series(tmp_path, VOXELS, series_number=10, modality="MR", series_uid="1.3")
    write_series(tmp_path, VOXELS, series_number=7, study_uid="1.1", series_uid="1.4")
    listed = [(one.study_uid, one.number, one.role) for one in found(tmp_path).series]
    assert listed == [
        ("1.1", 7, "original"),
        (STUDY_UID, 1, "localizer"),
        (STUDY_UID, 2, "original"),
        (STUDY_UID, 10, "original"),
    ]


def test_images_of_multi_frame_objects_are_counted(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "one.dcm", VOXELS)
    series = only(tmp_path)
    assert (series.num_images, series.plane, series.spacing_mm) == (4, "axial", 5.0)


def test_one_slice_has_no_spacing(tmp_path: Path) -> None:
    write_series(tmp_path, VOXELS[:1])
    assert only(tmp_path).spacing_mm is None


def test_an_error_has_the_place_of_its_object(tmp_path: Path) -> None:
    write_series(tmp_path, VOXELS, PixelSpacing=lambda k: ["0", "1"] if k == 2 else ["1", "1"])
    error = only(tmp_path).error
    assert error is not None
    assert error.kind == "pixel-spacing"
    assert str(error).startswith(f"{tmp_path}/001-0003.dcm: pixel spacing [0.0, 1.0]")


def test_descriptions_and_places_do_not_identify(tmp_path: Path) -> None:
    for path in write_series(
        *(tmp_path, VOXELS),
        patient_name="Doe^Jane",
        SeriesDescription="Jane\x07 head",
        ImagePositionPatient=None,
    ):
        path.rename(tmp_path / f"doe {path.name}")
    series = only(tmp_path)
    assert series.description == "[...] head"
    assert {"Doe", "Jane"} <= set(series.identity)
    assert "/[...] 001-0001.dcm: position" in str(series.error)
    assert "Doe" not in repr(series)


def test_a_uid_that_is_none_is_an_error(tmp_path: Path) -> None:
    paths = write_series(tmp_path, VOXELS[:3], series_uid="1.2.345")
    paths[-1].write_bytes(paths[-1].read_bytes().replace(b"1.2.345\0", b"../../x\0"))
    error = only(tmp_path).error
    assert error is not None
    assert error.kind == "dicom-damaged"
    assert "SeriesInstanceUID" in str(error)
    for path in paths[:2]:
        path.unlink()
    with pytest.raises(ScanError, match="SeriesInstanceUID"):
        find_series(tmp_path, ReadOptions())


def test_a_slice_of_another_modality_is_an_error_of_the_series(tmp_path: Path) -> None:
    paths = write_series(tmp_path, VOXELS[:3])
    data_set = dcmread(paths[-1])
    data_set.Modality = "MR"
    data_set.save_as(paths[-1])
    errors = [one.error for one in found(tmp_path).series]
    assert [error and error.kind for error in errors] == ["mixed-series"] * 2
    assert "slices of CT and MRI" in str(errors[0])


def report() -> bytes:
    data_set = Dataset()
    data_set.SOPClassUID, data_set.SOPInstanceUID = BasicTextSRStorage, "1.2.3"
    return file_bytes(data_set)


@pytest.mark.parametrize(
    ("files", "kind", "shown"),
    [
        ({}, "empty-folder", "among 0 files"),
        ({"a.txt": b"x", "b": b""}, "empty-folder", "among 2 files"),
        ({"a.dcm": report(), "b": b"x"}, "not-pixels", "Basic Text SR"),
        ({"a.dcm": report(), "b": bytes(128) + b"DICM"}, "dicom-damaged", "b: a file that"),
    ],
)
def test_folders_without_a_series(
    tmp_path: Path, files: dict[str, bytes], kind: str, shown: str
) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    found_kind, message = refusal(tmp_path)
    assert found_kind == kind
    assert shown in message
    assert str(tmp_path) in message


@pytest.mark.parametrize(
    ("data", "kind"), [(b"", "empty-file"), (b"Dear colleague", "not-an-image")]
)
def test_files_that_are_not_dicom(tmp_path: Path, data: bytes, kind: str) -> None:
    (tmp_path / "a").write_bytes(data)
    assert refusal(tmp_path / "a")[0] == kind


def test_a_missing_path(tmp_path: Path) -> None:
    kind, message = refusal(tmp_path / "nothing")
    assert kind == "missing"
    assert str(tmp_path / "nothing") in message


def test_a_stray_spoils_what_lies_beside_it_or_all(tmp_path: Path) -> None:
    write_series(tmp_path / "a", VOXELS, series_number=1)
    write_series(tmp_path / "b", VOXELS, series_number=2)
    stray = bytes(128) + b"DICM"
    (tmp_path / "a/x").write_bytes(stray)
    assert [one.error is None for one in found(tmp_path).series] == [False, True]
    (tmp_path / "a/x").unlink()
    (tmp_path / "c").mkdir()
    (tmp_path / "c/x").write_bytes(stray)
    assert [one.error is None for one in found(tmp_path).series] == [False, False]


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("x.dcm", b"", "empty-file"),
        ("x.dcm", b"abc", "not-an-image"),
        ("x.txt", b"", None),
        ("x.txt", b"abc", None),
        ("x", b"", None),
        ("sub/x.dcm", b"", None),
    ],
)
def test_files_named_like_the_slices(
    tmp_path: Path, name: str, data: bytes, kind: str | None
) -> None:
    write_series(tmp_path, VOXELS)
    (tmp_path / "sub").mkdir()
    (tmp_path / name).write_bytes(data)
    series = only(tmp_path)
    if kind is None:
        assert series.error is None
        assert found(tmp_path).left_out == ("files that are not DICOM: 1",)
    else:
        assert series.error is not None
        assert series.error.kind == kind
        assert "x.dcm" in str(series.error)


def test_without_suffixes_only_empty_files_count(tmp_path: Path) -> None:
    for path in write_series(tmp_path, VOXELS):
        path.rename(path.with_suffix(""))
    (tmp_path / "LICENSE").write_bytes(b"abc")
    assert only(tmp_path).error is None
    (tmp_path / "IM5").write_bytes(b"")
    error = only(tmp_path).error
    assert error is not None
    assert error.kind == "empty-file"
