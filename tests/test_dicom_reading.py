"""Whole series read: voxels exact, each at its place, and refused where that cannot be."""

import math
import os
import pickle
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
)

from dicom_files import (
    file_bytes,
    phantom_series,
    read,
    write_enhanced,
    write_series,
)
from hemaseg.dicom.reading import choose_series, find_series, read_series
from hemaseg.errors import ScanError
from hemaseg.scans.scan import Scan
from hemaseg.scans.screening import ReadOptions, kinds_of

LOSSLESS = (
    *(ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian),
    *(DeflatedExplicitVRLittleEndian, RLELossless, JPEGLossless, JPEGLosslessSV1),
    *(JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless),
)


def numbered(shape: tuple[int, int, int] = (4, 6, 5)) -> NDArray[np.int16]:
    """Stored values that are all different, so that each tells where it came from."""
    return np.arange(math.prod(shape), dtype=np.int16).reshape(shape) - 40


def places_of(scan: Scan) -> dict[int, NDArray[np.float64]]:
    """RAS position of each value of a scan of different values."""
    assert scan.affine is not None
    coordinates = scan.slice_coordinates
    steps = np.arange(len(scan.voxels)) if coordinates is None else coordinates
    return {
        int(value): (scan.affine @ np.array([steps[k], h, w, 1]))[:3]
        for (k, h, w), value in np.ndenumerate(scan.voxels)
    }


def refusal(path: Path, *accept: str) -> ScanError:
    with pytest.raises(ScanError) as caught:
        read(path, *accept)
    return caught.value


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name)
def test_voxels_are_exact_in_every_lossless_syntax(tmp_path: Path, syntax: UID) -> None:
    voxels = np.random.default_rng(1).integers(-32768, 32768, (3, 16, 20)).astype(np.int16)
    write_series(tmp_path / "single", voxels, transfer_syntax=syntax, SliceThickness=None)
    write_enhanced(tmp_path / "multi" / "one.dcm", voxels, transfer_syntax=syntax)
    for folder in ("single", "multi"):
        scan = read(tmp_path / folder)
        assert scan.voxels.dtype == np.int16
        np.testing.assert_array_equal(scan.voxels, voxels)


TURNS = st.tuples(*[st.floats(-math.pi, math.pi)] * 3)


@settings(max_examples=40)
@given(turn=TURNS, offset=st.tuples(*[st.floats(-200, 200)] * 3), is_mirrored=st.booleans())
def test_every_voxel_lies_where_its_header_says(
    tmp_path_factory: pytest.TempPathFactory,
    turn: tuple[float, float, float],
    offset: tuple[float, float, float],
    is_mirrored: bool,
) -> None:
    across, down, normal = rotation(turn)
    if is_mirrored:
        down, normal = -down, -normal
    voxels = numbered()
    folder = tmp_path_factory.mktemp("series")
    write_series(
        folder,
        voxels,
        row_cosines=across.tolist(),
        column_cosines=down.tolist(),
        origin=offset,
        pixel_spacing=(1.5, 0.75),
        spacing_mm=2.5,
    )
    found = places_of(read(folder))
    assert len(found) == voxels.size
    for (k, row, column), value in np.ndenumerate(voxels):
        lps = np.array(offset) + 2.5 * k * normal + 1.5 * row * down + 0.75 * column * across
        np.testing.assert_allclose(found[int(value)], lps * (-1, -1, 1), atol=1e-4)


def rotation(turn: tuple[float, float, float]) -> NDArray[np.float64]:
    """Three perpendicular unit vectors, right-handed."""
    x, y, z = turn
    about_x = np.array([[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]])
    about_y = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    about_z = np.array([[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]])
    return np.asarray(about_x @ about_y @ about_z)


def test_display_order_is_superior_posterior_left_without_resampling(tmp_path: Path) -> None:
    # Sagittal: columns go to posterior, rows to inferior, and slices to the right.
    voxels = numbered()
    write_series(tmp_path, voxels, row_cosines=(0, 1, 0), column_cosines=(0, 0, -1))
    scan = read(tmp_path)
    np.testing.assert_array_equal(scan.voxels, voxels.transpose(1, 2, 0)[::-1, :, ::-1])


@pytest.mark.parametrize("down", [1, -1], ids=["normal up", "normal down"])
@pytest.mark.parametrize("tilt_deg", [0.0, 18.5, -25.0])
def test_volume_of_tilted_uneven_slices_is_that_of_the_phantom(
    tmp_path: Path, tilt_deg: float, down: int
) -> None:
    offsets = np.r_[np.arange(0, 60, 2.5), 61.0, np.arange(64, 130, 4)]
    phantom = phantom_series(
        tmp_path, offsets_mm=down * offsets, tilt_deg=tilt_deg, size=96, pixel_mm=2.0,
        column_cosines=(0, down, 0),
    )  # fmt: skip
    scan = read(tmp_path)
    bleed = scan.voxels == 64
    found_ml = float(bleed.sum(axis=(1, 2)) @ scan.voxel_ml)
    # Distances perpendicular to the slices are those along the table times the cosine.
    edges = np.r_[offsets[0], (offsets[1:] + offsets[:-1]) / 2, offsets[-1]]
    shares_mm = np.diff(edges)
    shares_mm[0] *= 2
    shares_mm[-1] *= 2
    counts = phantom.mask.sum(axis=(1, 2))
    expected_ml = counts @ shares_mm * 4.0 * math.cos(math.radians(tilt_deg)) / 1000
    assert found_ml == pytest.approx(expected_ml, rel=1e-6)
    assert found_ml == pytest.approx(phantom.lesion_ml, rel=0.01)
    # The centre of the bleed, each slice by its share.
    assert scan.affine is not None
    assert scan.slice_coordinates is not None
    k, h, w = np.nonzero(bleed)
    points = scan.affine @ np.array([scan.slice_coordinates[k], h, w, np.ones(len(k))])
    center = np.average(points[:3], axis=1, weights=scan.voxel_ml[k])
    np.testing.assert_allclose(center, phantom.center_mm * (-1, -1, 1), atol=0.3)
    kinds = ("gantry-tilt", "uneven-spacing") if tilt_deg else ("uneven-spacing",)
    assert kinds_of(scan.findings) == kinds
    if tilt_deg:
        assert f"{abs(tilt_deg)} degrees" in scan.findings[0].message


def test_slices_are_placed_one_by_one_where_steps_are_uneven(tmp_path: Path) -> None:
    heights = (0.0, 2.0, 5.0, 9.0)
    for name, down in (("up", (0, 1, 0)), ("down", (0, -1, 0))):
        folder = tmp_path / name
        voxels = numbered()
        positions = [(10, 20, height) for height in heights]
        write_series(folder, voxels, positions=positions, column_cosines=down)
        scan = read(folder)
        assert not scan.is_even
        found = places_of(scan)
        for k, height in enumerate(heights):
            np.testing.assert_allclose(found[int(voxels[k, 0, 0])], (-10, -20, height), atol=1e-9)
        assert scan.slice_coordinates is not None
        assert scan.slice_coordinates[0] == 0
        assert (np.diff(scan.slice_coordinates) > 0).all()


def test_order_of_files_and_numbers_does_not_matter(tmp_path: Path) -> None:
    voxels = numbered()
    paths = write_series(tmp_path, voxels, InstanceNumber=lambda k: 4 - k)
    for index, path in enumerate((paths[2], paths[0], paths[3], paths[1])):
        path.rename(tmp_path / f"{index}")
    scan = read(tmp_path)
    np.testing.assert_array_equal(scan.voxels, voxels)
    assert scan.findings == ()


def test_numbers_that_go_up_and_down_are_reported(tmp_path: Path) -> None:
    write_series(tmp_path, numbered(), InstanceNumber=lambda k: (1, 3, 2, 4)[k])
    (finding,) = read(tmp_path).findings
    assert finding.kind == "slices-sorted"
    assert "4 slices" in finding.message


def test_source_names_instance_and_frame_of_each_stored_slice(tmp_path: Path) -> None:
    voxels = numbered()
    # Written from the last slice to the first.
    positions = [(0, 0, 5.0 * k) for k in (3, 2, 1, 0)]
    paths = write_series(tmp_path / "single", voxels[::-1], positions=positions)
    write_enhanced(tmp_path / "multi/one.dcm", voxels[::-1], positions=positions)
    single, multi = read(tmp_path / "single").dicom, read(tmp_path / "multi").dicom
    assert single is not None
    assert multi is not None
    uids = [str(single.headers[index].SOPInstanceUID) for index, _ in single.frames]
    assert uids == [str(dcmread(path).SOPInstanceUID) for path in paths[::-1]]
    assert {number for _, number in single.frames} == {1}
    assert len(multi.headers) == 1
    assert multi.frames == ((0, 4), (0, 3), (0, 2), (0, 1))


def test_headers_have_neither_pixels_nor_overlays_nor_private_elements(tmp_path: Path) -> None:
    (path, *_) = write_series(tmp_path, numbered(), patient_name="Doe^Jane")
    data_set = dcmread(path)
    data_set.private_block(0x0011, "TEST", create=True).add_new(1, "LO", "Doe")
    data_set.add_new(0x60003000, "OW", bytes(8))
    data_set.save_as(path)
    source = read(tmp_path).dicom
    assert source is not None
    header = source.headers[0]
    assert header.PatientName == "Doe^Jane"
    assert header.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert not any(tag.is_private or tag.group > 0x5000 for tag in header.keys())  # noqa: SIM118


# Sources.


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.dcm")):
            archive.write(file, file.relative_to(folder))
    return path


def moved(folder: Path, place: Callable[[int], str]) -> Path:
    for index, file in enumerate(sorted(folder.iterdir())):
        target = folder.parent / "moved" / place(index)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    return folder.parent / "moved"


SOURCES: dict[str, Callable[[Path], Path]] = {
    "zip": lambda folder: zipped(folder, folder.parent / "scan.zip"),
    "zip named otherwise": lambda folder: zipped(folder, folder.parent / "scan"),
    "nested folders": lambda folder: moved(folder, lambda k: f"a/{k}/b/{k}.dcm"),
    "no suffixes": lambda folder: moved(folder, lambda k: f"IM{k:04}"),
    "names of UIDs": lambda folder: moved(folder, lambda k: f"1.2.840.{k}"),
}


@pytest.mark.parametrize("source", SOURCES)
def test_sources_give_the_same_scan(tmp_path: Path, source: str) -> None:
    voxels = numbered()
    write_series(tmp_path / "series", voxels)
    expected = read(tmp_path / "series")
    path = SOURCES[source](tmp_path / "series")
    scan = read(path)
    np.testing.assert_array_equal(scan.voxels, voxels)
    np.testing.assert_array_equal(scan.affine, expected.affine)
    assert scan.path == path
    assert scan.findings == ()


@pytest.mark.parametrize("source", SOURCES)
def test_a_series_without_its_objects_gives_the_same_scan(tmp_path: Path, source: str) -> None:
    write_series(tmp_path / "series", numbered(), patient_name="Doe^John", patient_id="4711")
    path = SOURCES[source](tmp_path / "series")
    whole = choose_series(find_series(path, ReadOptions()), None)
    # As another process gets it.
    sent = pickle.dumps(whole.without_objects())
    light = pickle.loads(sent)
    assert len(sent) < 200 * len(whole.instances) + 1000 < len(pickle.dumps(whole)) / 4
    assert light.files == whole.files
    scan, expected = read_series(light, ReadOptions()), read_series(whole, ReadOptions())
    np.testing.assert_array_equal(scan.voxels, expected.voxels)
    np.testing.assert_array_equal(scan.affine, expected.affine)
    assert scan.dicom is not None
    assert expected.dicom is not None
    assert scan.dicom.frames == expected.dicom.frames
    assert scan.dicom.headers == expected.dicom.headers
    assert scan.findings == expected.findings
    # What happened to the files since is found as it is in a series with its objects.
    for file in whole.files:
        file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ScanError) as caught:
        read_series(light, ReadOptions())
    anew = refusal(path)
    assert (caught.value.kind, str(caught.value)) == (anew.kind, str(anew))


def test_a_series_whose_files_are_gone_is_refused(tmp_path: Path) -> None:
    (first, *_) = write_series(tmp_path / "series", numbered())
    series = choose_series(find_series(tmp_path, ReadOptions()), None).without_objects()
    first.unlink()
    with pytest.raises(ScanError, match="no such file or folder") as caught:
        read_series(series, ReadOptions())
    assert caught.value.kind == "missing"


def test_nothing_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "series", numbered())
    path = zipped(tmp_path / "series", tmp_path / "scan.zip")
    shutil.rmtree(tmp_path / "series")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    tmp_path.chmod(0o500)
    try:
        read(path)
    finally:
        tmp_path.chmod(0o700)
    assert sorted(tmp_path.iterdir()) == [path, temporary]
    assert not list(temporary.iterdir())


def test_files_without_preamble_and_meta_group(tmp_path: Path) -> None:
    voxels = numbered()
    for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian):
        folder = tmp_path / syntax
        for path in write_series(folder, voxels, transfer_syntax=syntax):
            data = path.read_bytes()
            path.write_bytes(data[144 + int.from_bytes(data[140:144], "little") :])
        np.testing.assert_array_equal(read(folder).voxels, voxels)


def test_one_multi_frame_file(tmp_path: Path) -> None:
    voxels = numbered()
    path = write_enhanced(tmp_path / "one.dcm", voxels, spacing_mm=3.0)
    scan = read(path)
    np.testing.assert_array_equal(scan.voxels, voxels)
    np.testing.assert_allclose(scan.voxel_ml, 3.0 * 0.5 * 0.5 / 1000)


def test_one_slice_is_as_thick_as_its_header_says(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, numbered()[:1], spacing_mm=4.0)
    assert read(path).spacing_mm == (4.0, 0.5, 0.5)
    write_series(tmp_path, numbered()[:1], spacing_mm=4.0, SpacingBetweenSlices="4.5")
    assert read(path).spacing_mm == (4.5, 0.5, 0.5)
    write_series(tmp_path, numbered()[:1], SliceThickness=None)
    error = refusal(path)
    assert error.kind == "missing-attribute"
    assert "SliceThickness" in str(error)


# What lies beside a series.


def test_a_directory_file_is_no_object(tmp_path: Path) -> None:
    write_series(tmp_path, numbered())
    directory = Dataset()
    directory.SOPClassUID, directory.SOPInstanceUID = MediaStorageDirectoryStorage, UID("1.2.3")
    (tmp_path / "DICOMDIR").write_bytes(file_bytes(directory))
    assert read(tmp_path).findings == ()


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    write_series(tmp_path, numbered(), series_number=1, SeriesDescription="head")
    write_series(
        tmp_path, numbered()[:1], series_number=2, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    document = Dataset()
    document.SOPClassUID, document.SOPInstanceUID = EncapsulatedPDFStorage, UID("1.2.3")
    (tmp_path / "letter.dcm").write_bytes(file_bytes(document))
    (tmp_path / "README").write_text("Dear colleague")
    (finding,) = read(tmp_path).findings
    assert finding.kind == "left-out"
    assert finding.message == (
        "files that are not DICOM: 1; DICOM objects without pixels: 1; "
        'series: CT, "CT head", localizer, 1 images, axial'
    )


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("001-0009.dcm", b"", "empty-file"),
        ("001-0009.dcm", b"\0" * 500, "not-an-image"),
        ("001-0009.dcm", b"\0" * 128 + b"DICM", "dicom-damaged"),
        ("other", b"\0" * 128 + b"DICM" + b"\x02\0\x01\0OB", "dicom-damaged"),
    ],
)
def test_a_file_that_may_be_a_missing_slice_is_refused(
    tmp_path: Path, name: str, content: bytes, kind: str
) -> None:
    write_series(tmp_path, numbered())
    (tmp_path / name).write_bytes(content)
    error = refusal(tmp_path)
    assert error.kind == kind
    assert name in str(error)


def test_a_damaged_file_does_not_spoil_series_elsewhere(tmp_path: Path) -> None:
    write_series(tmp_path / "a", numbered(), series_number=1)
    write_series(tmp_path / "b", numbered(), series_number=2)
    (tmp_path / "b" / "x.dcm").write_bytes(b"\0" * 128 + b"DICM")
    good, bad = find_series(tmp_path, ReadOptions()).series
    assert (good.number, good.error) == (1, None)
    assert bad.error is not None
    assert bad.error.kind == "dicom-damaged"


def test_a_truncated_slice_spoils_its_own_series_alone(tmp_path: Path) -> None:
    write_series(tmp_path, numbered(), series_number=1)
    (path, *_) = write_series(tmp_path, numbered(), series_number=2)
    path.write_bytes(path.read_bytes()[:-10])
    good, bad = find_series(tmp_path, ReadOptions()).series
    assert good.error is None
    assert bad.error is not None
    assert bad.error.kind == "dicom-truncated"
    assert "60 bytes where 50 are left" in str(bad.error)


# Refusals of a series.


def edited(folder: Path, k: int, **attributes: Any) -> Path:
    """A series whose slice k has other attributes."""
    usual = write_series(folder, numbered())
    data_set = dcmread(usual[k])
    for keyword, value in attributes.items():
        setattr(data_set, keyword, value)
    data_set.save_as(usual[k])
    return folder


TURNED = [math.cos(0.01), math.sin(0.01), 0, -math.sin(0.01), math.cos(0.01), 0]


@pytest.mark.parametrize(
    ("attributes", "kind", "shown"),
    [
        ({"ImageOrientationPatient": TURNED}, "mixed-orientations", "0.01"),
        ({"PixelSpacing": [0.5, 0.51]}, "mixed-grids", "0.5 to 0.51 mm"),
        ({"FrameOfReferenceUID": "1.2.3"}, "mixed-grids", "2 frames of reference"),
        ({"ImagePositionPatient": [-60, -59.7, 5]}, "slices-off-line", "0.30 mm"),
        ({"ImagePositionPatient": [-60, -60, 10]}, "duplicate-slices", "1 of 3 positions"),
        ({"ImagePositionPatient": [-60, -60, 10.005]}, "duplicate-slices", "1 of 3 positions"),
        ({"Rows": 5, "PixelData": bytes(50)}, "mixed-grids", "5 x 5 and 6 x 5"),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, "derived", "ImageType"),
        ({"BurnedInAnnotation": "YES"}, "secondary-capture", "burnt-in"),
    ],
)
def test_one_slice_that_does_not_fit(
    tmp_path: Path, attributes: dict[str, Any], kind: str, shown: str
) -> None:
    error = refusal(edited(tmp_path, 1, **attributes))
    assert error.kind == kind
    assert shown in str(error)


def test_small_differences_fit(tmp_path: Path) -> None:
    turned = [math.cos(2e-4), math.sin(2e-4), 0, -math.sin(2e-4), math.cos(2e-4), 0]
    edited(
        *(tmp_path, 1),
        ImageOrientationPatient=turned,
        ImagePositionPatient=[-60.05, -60, 5.05],
        PixelSpacing=[0.5001, 0.5],
    )
    assert read(tmp_path).is_even


def test_identical_copies_are_dropped(tmp_path: Path) -> None:
    (path, *_) = write_series(tmp_path, numbered())
    (tmp_path / "copy.dcm").write_bytes(path.read_bytes())
    # Exported twice under another UID.
    data_set = dcmread(path)
    data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    data_set.save_as(tmp_path / "again.dcm")
    scan = read(tmp_path)
    np.testing.assert_array_equal(scan.voxels, numbered())
    (finding,) = scan.findings
    assert finding.kind == "duplicates-dropped"
    assert finding.message.startswith("2 identical copies")


def test_copies_of_another_meaning_are_no_copies(tmp_path: Path) -> None:
    (path, *_) = write_series(tmp_path, numbered())
    data_set = dcmread(path)
    data_set.RescaleIntercept = 1
    data_set.save_as(tmp_path / "again.dcm")
    assert refusal(tmp_path).kind == "duplicate-slices"


def test_a_gap_is_refused_and_can_be_accepted(tmp_path: Path) -> None:
    voxels = numbered((8, 3, 3))
    paths = write_series(tmp_path, voxels)
    paths[3].unlink()
    error = refusal(tmp_path)
    assert error.kind == "missing-slices"
    assert "10 mm where 5 mm is usual" in str(error)
    scan = read(tmp_path, "missing-slices")
    assert kinds_of(scan.findings) == ("missing-slices", "uneven-spacing")
    np.testing.assert_array_equal(scan.slice_coordinates, [0, 1, 2, 4, 5, 6, 7])
    # The neighbours of the gap share it.
    np.testing.assert_allclose(scan.voxel_ml / scan.voxel_ml[0], [1, 1, 1.5, 1.5, 1, 1, 1])


def test_uneven_slices_that_are_not_axial_are_refused(tmp_path: Path) -> None:
    positions = [(0, height, 0) for height in (0.0, 2.0, 5.0, 9.0)]
    write_series(tmp_path, numbered(), positions=positions, column_cosines=(0, 0, -1))
    assert refusal(tmp_path).kind == "uneven-not-axial"


def test_acceptable_roles_can_be_accepted(tmp_path: Path) -> None:
    write_series(tmp_path, numbered(), ImageType=["DERIVED", "SECONDARY", "MPR"])
    error = refusal(tmp_path)
    assert error.kind == "derived"
    scan = read(tmp_path, "derived")
    assert kinds_of(scan.findings) == ("derived",)
    np.testing.assert_array_equal(scan.voxels, numbered())


def test_another_modality_has_no_name_in_the_scan(tmp_path: Path) -> None:
    write_series(tmp_path, numbered(), Modality="PT")
    error = refusal(tmp_path)
    assert error.kind == "wrong-modality"
    assert "PT" in str(error)
    assert read(tmp_path, "wrong-modality").modality == ""


def test_modalities(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", numbered())
    write_series(tmp_path / "mr", numbered(), modality="MR")
    assert read(tmp_path / "ct").modality == "CT"
    assert read(tmp_path / "mr").modality == "MRI"


def test_the_limit_counts_decoded_pixels(tmp_path: Path) -> None:
    write_series(tmp_path, numbered())
    (series,) = find_series(tmp_path, ReadOptions()).series
    assert read_series(series, ReadOptions(max_bytes=240)).voxels.nbytes == 240
    with pytest.raises(ScanError, match="decode to 240 bytes, expected at most 239") as caught:
        read_series(series, ReadOptions(max_bytes=239))
    assert caught.value.kind == "too-large"


def test_a_file_that_goes_away_is_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path, numbered())
    series = choose_series(find_series(tmp_path, ReadOptions()), None)
    paths[1].unlink()
    with pytest.raises(ScanError) as caught:
        read_series(series, ReadOptions())
    assert caught.value.kind == "missing"


def test_a_known_error_is_raised(tmp_path: Path) -> None:
    write_series(tmp_path, numbered())
    (series,) = find_series(tmp_path, ReadOptions()).series
    error = ScanError("why", kind="bits")
    with pytest.raises(ScanError, match="why"):
        read_series(replace(series, error=error), ReadOptions())


def test_no_message_identifies_the_patient(tmp_path: Path) -> None:
    folder = tmp_path / "Doe_Jane"
    for path in write_series(
        *(folder, numbered()),
        patient_name="Doe^Jane",
        patient_id="PID4711",
        SeriesDescription="CT of Jane, 4711",
        RescaleSlope="0",
    ):
        path.rename(folder / f"JANE-PID4711-{path.name}")
    (series,) = find_series(tmp_path, ReadOptions()).series
    assert {"Doe", "Jane", "PID4711"} <= set(series.identity)
    assert "Jane" not in repr(series) + series.summary
    text = str(refusal(tmp_path)).replace(str(tmp_path), "")
    assert "[...]" in text
    for word in ("doe", "jane", "4711"):
        assert word not in text.lower()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed")
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_the_series_of_these_tests_are_valid(tmp_path: Path, modality: str) -> None:
    (path, *_) = phantom_series(tmp_path, num_slices=2, tilt_deg=10, modality=modality).paths
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    assert f"{modality}Image" in done.stderr
    assert "Error" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    write_series(tmp_path, numbered())
    os.mkfifo(tmp_path / "pipe.dcm")
    np.testing.assert_array_equal(read(tmp_path).voxels, numbered())


# Real scans.


@pytest.mark.real_data
def test_real_tilted_uneven_ct(real_data: Path) -> None:
    folder = real_data / "formats/dicom-ct-ge-tilted"
    scan = read(folder)
    assert scan.voxels.shape == (28, 512, 512)
    assert kinds_of(scan.findings) == (
        *("left-out", "gantry-tilt", "uneven-spacing", "padding-replaced"),
    )
    assert "18.5 degrees" in scan.findings[1].message
    assert "1.14 to 7.38 mm" in scan.findings[2].message
    assert scan.voxels.min() >= -1024
    # Area of a slice times the extent perpendicular to it, half a step added at both ends.
    area_mm2 = (512 * 0.4882812) ** 2
    along_mm = (157.7760586 - 5.8360586) + (4.22 + 7.38) / 2
    expected_ml = area_mm2 * along_mm * 0.9483237 / 1000
    assert float(scan.voxel_ml.sum()) * 512**2 == pytest.approx(expected_ml, rel=1e-6)
    # The last slice, far from even steps, lies where its own header says.
    assert scan.affine is not None
    assert scan.slice_coordinates is not None
    last = scan.affine @ (scan.slice_coordinates[-1], 0, 0, 1)
    np.testing.assert_allclose(last[:3], (125.0, 123.5404569, 157.7760586), atol=1e-4)


@pytest.mark.real_data
def test_real_sagittal_mri(real_data: Path) -> None:
    scan = read(real_data / "formats/dicom-mri-siemens-t1")
    assert scan.voxels.shape == (256, 256, 35)
    assert scan.modality == "MRI"
    assert scan.spacing_mm == pytest.approx((1.015625, 1.015625, 4.8), rel=1e-6)
    assert CTImageStorage not in {header.SOPClassUID for header in scan.dicom.headers}  # type: ignore[union-attr]
    # The most inferior, anterior, right corner: the last row of the slice with the least x.
    assert scan.affine is not None
    np.testing.assert_allclose(
        scan.affine[:3, 3], (81.599998, 130, 130 - 255 * 1.015625), atol=1e-5
    )
