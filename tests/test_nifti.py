# mypy: allow-untyped-calls
# (nibabel's functions have no types.)
"""NIfTI: exact values and geometry; headers and streams that are not sound are refused."""

import gzip
import time
import tracemalloc
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from hemaseg.errors import ScanError
from hemaseg.scans.images import read_scan, write_mask
from hemaseg.scans.nifti import is_nifti, nifti_bytes
from hemaseg.scans.screening import ReadOptions, kinds_of
from image_files import geometry_bytes, load, made_scan, save_nifti

CUBE = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
ONES = [1, 1, 1, 1, 0, 0, 0, 0]


def refusal(path: Path, options: ReadOptions | None = None) -> ScanError:
    with pytest.raises(ScanError) as caught:
        read_scan(path, options)
    assert str(caught.value).startswith(f"{path}: ")
    return caught.value


def turned(deg: float) -> NDArray[np.float64]:
    """Turned about the superior axis."""
    turn, cos, sin = np.eye(4), np.cos(np.radians(deg)), np.sin(np.radians(deg))
    turn[:2, :2] = [[cos, -sin], [sin, cos]]
    return turn


def test_names() -> None:
    assert is_nifti(Path("B.NII"))
    assert not is_nifti(Path("b.gz"))


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("code", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_values_and_types_are_kept(
    tmp_path: Path, kind: Any, code: str, order: Literal["<", ">"]
) -> None:
    dtype = np.dtype(code).newbyteorder(order)
    stored = np.arange(24).reshape(2, 3, 4).astype(dtype)
    image = kind(stored, np.eye(4), dtype=stored.dtype)
    swapped = kind(stored, np.eye(4), image.header.as_byteswapped(order))
    swapped.to_filename(tmp_path / "a.nii")
    scan = read_scan(tmp_path / "a.nii")
    assert scan.voxels.dtype == np.dtype(code)
    np.testing.assert_array_equal(np.sort(scan.voxels, axis=None), np.arange(24))
    write_mask(scan.voxels == 3, scan, tmp_path / "mask.nii")
    np.testing.assert_array_equal(load(tmp_path / "mask.nii").dataobj, stored == 3)
    assert load(tmp_path / "mask.nii").header.endianness == order


def test_scale_factors_are_applied(tmp_path: Path) -> None:
    stored = np.arange(8, dtype=np.int16).reshape(2, 2, 2)
    path = save_nifti(tmp_path / "a.nii", stored, scl_slope=2, scl_inter=-1024)
    scan = read_scan(path)
    assert scan.voxels.dtype == np.float32
    assert sorted(scan.voxels.ravel()) == [-1024 + 2 * value for value in range(8)]
    wide = save_nifti(tmp_path / "b.nii", stored.astype(np.int32), scl_slope=0.5)
    assert read_scan(wide).voxels.dtype == np.float64
    assert sorted(read_scan(wide).voxels.ravel()) == [value / 2 for value in range(8)]
    path = save_nifti(tmp_path / "d.nii", stored.astype(np.uint16), scl_slope=1, scl_inter=-1024)
    assert sorted(read_scan(path).voxels.ravel()) == [value - 1024 for value in range(8)]
    # The standard: a slope of 0 means none.
    none = save_nifti(tmp_path / "c.nii", stored, scl_slope=0, scl_inter=np.nan)
    assert read_scan(none).voxels.dtype == np.int16


def test_values_that_scaling_makes_too_large_are_refused(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii", CUBE.astype(np.int16) * 100, scl_slope=3e38)
    assert refusal(path).kind == "not-finite"


@pytest.mark.parametrize("dim", [[4, 2, 2, 2, 1, 1, 1, 1], [7, 2, 2, 2, 1, 1, 1, 1]])
def test_axes_of_length_1_are_dropped_and_named(tmp_path: Path, dim: list[int]) -> None:
    scan = read_scan(save_nifti(tmp_path / "a.nii", CUBE, dim=dim))
    assert kinds_of(scan.findings) == ("axes-dropped", "identity-affine")
    assert "read as (2, 2, 2)" in scan.findings[0].message
    np.testing.assert_array_equal(
        scan.voxels, read_scan(save_nifti(tmp_path / "b.nii", CUBE)).voxels
    )


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_masks_keep_every_byte_of_geometry_and_drop_notes(
    tmp_path: Path, kind: Any, suffix: str
) -> None:
    affine = np.diag([-0.7, 0.8, 3.3, 1])
    affine[:3, 3] = 1.5, -2.5, 3.5
    image = kind(np.zeros((4, 5, 6), dtype=np.float32), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=4)
    image.header["descrip"] = b"Name of a patient"
    image.header["pixdim"][4:] = 1.5, 2.5, 3.5, 4.5
    path = tmp_path / f"a{suffix}"
    image.to_filename(path)
    scan = read_scan(path)
    voxels = np.zeros(scan.voxels.shape, dtype=np.bool_)
    voxels[2, 3, 1] = True
    mask = nifti_bytes(voxels.astype(np.uint8), scan)
    original = gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes()
    assert geometry_bytes(mask) == geometry_bytes(original)
    assert b"patient" in original
    assert b"patient" not in mask
    header = kind.from_bytes(mask).header
    assert (header.get_data_dtype(), header.get_data_shape()) == (np.uint8, (4, 5, 6))


def test_scans_of_other_formats_get_their_exact_affine() -> None:
    affine = np.array([[0, 0, -1, 7], [0, -2, 0, 8], [5, 0, 0, 9], [0, 0, 0, 1.0]])
    voxels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    image = nib.Nifti1Image.from_bytes(nifti_bytes(voxels, made_scan(voxels, affine)))
    np.testing.assert_array_equal(image.dataobj, voxels.transpose())
    np.testing.assert_array_equal(image.affine, affine[:, [2, 1, 0, 3]])
    np.testing.assert_allclose(image.get_qform(), image.affine, atol=1e-6)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"
    # Stored from the top down, as a DICOM series can be: (slice, row, column) with slices turned.
    axes = np.array([[0, -1], [1, 1], [2, 1]])
    image = nib.Nifti1Image.from_bytes(
        nifti_bytes(voxels, made_scan(voxels, affine, stored_axes=axes))
    )
    np.testing.assert_array_equal(image.dataobj, voxels[::-1].transpose())
    np.testing.assert_allclose(image.affine @ [1, 2, 1, 1], affine @ [0, 2, 1, 1])


def test_tilted_scans_get_no_qform_and_uneven_ones_no_file() -> None:
    affine = np.array([[0, 0, -1, 7], [1, -2, 0, 8], [5, 0, 0, 9], [0, 0, 0, 1.0]])
    voxels = np.zeros((3, 2, 2), np.uint8)
    image = nib.Nifti1Image.from_bytes(nifti_bytes(voxels, made_scan(voxels, affine)))
    np.testing.assert_array_equal(image.affine, affine[:, [2, 1, 0, 3]])
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)
    uneven = made_scan(voxels, affine, slice_coordinates=np.array([0, 1, 3.0]))
    with pytest.raises(ScanError, match="made: unevenly spaced slices, expected even") as caught:
        nifti_bytes(voxels, uneven)
    assert caught.value.kind == "uneven-nifti"
    with pytest.raises(ValueError, match="made: no geometry"):
        nifti_bytes(voxels, made_scan(voxels))


@pytest.mark.parametrize(
    ("kind", "fields", "found"),
    [
        ("nifti-header", {"magic": b"ni1"}, "no NIfTI header in the first 360 bytes"),
        ("nifti-header", {"sizeof_hdr": 349}, "no NIfTI header in the first 360 bytes"),
        ("dimensions", {"dim": [0, 2, 2, 2, 1, 1, 1, 1]}, "0 dimensions (), expected 3"),
        ("dimensions", {"dim": [-3, 2, 2, 2, 1, 1, 1, 1]}, "-3 dimensions (), expected 3"),
        ("dimensions", {"dim": [8, 2, 2, 2, 1, 1, 1, 1]}, "8 dimensions (2, 2, 2, 1, 1, 1, 1)"),
        ("dimensions", {"dim": [3, 2, 2, 0, 1, 1, 1, 1]}, "3 dimensions (2, 2, 0), expected 3"),
        ("dimensions", {"dim": [3, 2, 2, -2, 1, 1, 1, 1]}, "3 dimensions (2, 2, -2), expected 3"),
        ("not-3d", {"dim": [2, 4, 2, 1, 1, 1, 1, 1]}, "2 dimensions (4, 2), expected 3"),
        ("not-3d", {"dim": [4, 2, 2, 1, 2, 1, 1, 1]}, "4 dimensions (2, 2, 1, 2), expected 3"),
        ("not-3d", {"dim": [5, 2, 2, 1, 1, 2, 1, 1]}, "5 dimensions (2, 2, 1, 1, 2), expected 3"),
        ("truncated", {"dim": [3, 2, 2, 3, 1, 1, 1, 1]}, "360 bytes, expected 364 for voxels"),
        ("surplus-bytes", {"dim": [3, 2, 2, 1, 1, 1, 1, 1]}, "360 bytes, expected 356 for voxels"),
        (
            "truncated",
            {"datatype": 4, "bitpix": 16},
            "360 bytes, expected 368 for voxels (2, 2, 2)",
        ),
        ("too-large", {"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "35,181,150,962,015 bytes"),
        ("voxel-type", {"datatype": 128, "bitpix": 24}, "expected whole or real numbers"),
        ("voxel-type", {"datatype": 32, "bitpix": 64}, "voxels of type complex64"),
        ("voxel-type", {"datatype": 1536, "bitpix": 128}, "of at most 64 bits"),
        ("voxel-type", {"datatype": 1, "bitpix": 1}, "expected whole or real numbers"),
        ("voxel-type", {"datatype": 9999}, "voxels of type 9999, expected whole or real"),
        ("voxel-type", {"bitpix": 16}, "16 bits a voxel, expected 8 of uint8"),
        ("scale-factor", {"scl_slope": 1, "scl_inter": np.nan}, "slope 1.0, intercept nan"),
        ("scale-factor", {"scl_slope": -np.inf}, "slope -inf, intercept 0.0"),
        ("vox-offset", {"vox_offset": 1e30}, "vox_offset 1e+30, expected a whole number of at"),
        ("vox-offset", {"vox_offset": np.nan}, "vox_offset nan, expected a whole number"),
        ("vox-offset", {"vox_offset": -352}, "vox_offset -352, expected"),
        ("vox-offset", {"vox_offset": 0}, "vox_offset 0, expected a whole number of at least 352"),
        ("vox-offset", {"vox_offset": 352.5}, "vox_offset 352.5, expected"),
        ("truncated", {"vox_offset": 368}, "360 bytes, expected 376"),
        ("no-geometry", {"sform_code": 0}, "sform_code 0 and qform_code 0, expected numbers from"),
        ("no-geometry", {"sform_code": 6}, "sform_code 6 and qform_code 0, expected numbers from"),
        ("no-geometry", {"qform_code": -1}, "qform_code -1, expected numbers from 0 to 5"),
        ("not-mm", {"xyzt_units": 1}, "lengths in m, expected mm"),
        ("not-mm", {"xyzt_units": 3 + 8}, "lengths in micrometres, expected mm"),
        ("not-mm", {"xyzt_units": 7}, "lengths in the unit 7, expected mm"),
        ("affine-not-finite", {"srow_x": [np.nan, 0, 0, 0]}, "affine [[nan, 0.0, 0.0, 0.0], [0.0"),
        ("affine-not-finite", {"srow_x": [1, 0, 0, 1e7]}, "affine [[1.0, 0.0, 0.0, 10000000.0]"),
        ("affine-singular", {"srow_x": [0, 0, 0, 0]}, "affine [[0.0, 0.0, 0.0, 0.0], [0.0, 1.0"),
        ("affine-singular", {"srow_x": [0, 1, 1, 0]}, "affine [[0.0, 1.0, 1.0, 0.0], [0.0, 1.0"),
        ("voxel-size", {"srow_x": [1e-4, 0, 0, 0]}, "expected at least 0.001 mm"),
    ],
)
def test_bad_headers_are_refused(
    tmp_path: Path, kind: str, fields: dict[str, Any], found: str
) -> None:
    error = refusal(save_nifti(tmp_path / "a.nii", CUBE, **fields))
    assert found in str(error)
    assert error.kind == kind


def test_an_affine_that_is_all_but_flat_is_refused(tmp_path: Path) -> None:
    rows: dict[str, Any] = {
        "srow_x": [1, 1, 1, 0],
        "srow_y": [1, 1, 1 + 1e-6, 0],
        "srow_z": [0, 1, 0, 0],
    }
    assert refusal(save_nifti(tmp_path / "a.nii", CUBE, **rows)).kind == "affine-singular"


@pytest.mark.parametrize(
    ("kind", "fields", "found"),
    [
        ("nifti-header", {"eol_check": [13, 10, 26, 13]}, "no NIfTI header in the first 540"),
        ("too-large", {"dim": [3, 2**40, 2**40, 2**40, 1, 1, 1, 1]}, "expected at most"),
        ("vox-offset", {"vox_offset": 2**62}, "vox_offset 4.61169e+18, expected"),
        ("vox-offset", {"vox_offset": 352}, "expected a whole number of at least 544"),
    ],
)
def test_bad_headers_of_nifti_2_are_refused(
    tmp_path: Path, kind: str, fields: dict[str, Any], found: str
) -> None:
    error = refusal(save_nifti(tmp_path / "a.nii", CUBE, kind=nib.Nifti2Image, **fields))
    assert found in str(error)
    assert error.kind == kind


@pytest.mark.parametrize("size", [[0, 1, 1], [1, np.inf, 1], [1, 1, -2], [np.nan, 1, 1]])
def test_voxel_sizes_that_are_none(tmp_path: Path, size: list[float]) -> None:
    pixdim = [1, *size, 0, 0, 0, 0]
    path = save_nifti(tmp_path / "a.nii", CUBE, pixdim=pixdim)
    scan = read_scan(path)
    assert kinds_of(scan.findings) == ("voxel-size-ignored", "identity-affine")
    assert f"voxel size {[float(edge) for edge in size]} mm beside" in scan.findings[0].message
    assert scan.voxel_ml == pytest.approx(0.001)
    assert geometry_bytes(nifti_bytes(scan.voxels, scan)) == geometry_bytes(path.read_bytes())
    # No sform that could hold.
    path = save_nifti(tmp_path / "b.nii", CUBE, pixdim=pixdim, sform_code=0, qform_code=1)
    error = refusal(path)
    assert f"voxel size {[float(edge) for edge in size]}, expected positive" in str(error)
    assert error.kind == "voxel-size"


def test_a_voxel_size_beside_the_affine_is_noted(tmp_path: Path) -> None:
    affine = np.diag([0.5, 0.5, 5, 1])
    near = save_nifti(tmp_path / "a.nii", CUBE, affine, pixdim=[1, 0.5, 0.5, 5.01, 0, 0, 0, 0])
    assert read_scan(near).findings == ()
    scan = read_scan(save_nifti(tmp_path / "b.nii", CUBE, affine, pixdim=ONES))
    assert "[1.0, 1.0, 1.0] mm beside an affine of [0.5, 0.5, 5.0] mm" in scan.findings[0].message
    assert kinds_of(scan.findings) == ("voxel-size-ignored",)
    assert scan.voxel_ml == pytest.approx(0.00125)


def test_the_qform_holds_where_there_is_no_sform(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(20):
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = rotation * rng.uniform(0.5, 5, 3), rng.uniform(-99, 99, 3)
        image = nib.Nifti1Image(CUBE, None)
        image.set_qform(affine, code=1)
        data = bytearray(image.to_bytes())
        if k % 2 and image.header["pixdim"][0] > 0:
            data[76:80] = bytes(4)  # pixdim[0] of 0 counts as 1.
        (tmp_path / "a.nii").write_bytes(data)
        scan = read_scan(tmp_path / "a.nii")
        place = np.argwhere(scan.voxels == CUBE[1, 0, 1])[0]
        assert scan.affine is not None
        np.testing.assert_allclose(scan.affine @ [*place, 1], affine @ [1, 0, 1, 1], atol=1e-4)


@pytest.mark.parametrize(
    "fields",
    [{"quatern_b": 0.9, "quatern_c": 0.9}, {"quatern_d": np.nan}, {"pixdim": [2, *ONES[1:]]}],
)
def test_quaternions_that_are_none_are_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    path = save_nifti(tmp_path / "a.nii", CUBE, sform_code=0, qform_code=1, **fields)
    assert refusal(path).kind == "affine-not-finite"
    path = save_nifti(tmp_path / "a.nii", CUBE, qform_code=1, **fields)
    error = refusal(path)
    assert "an sform beside a qform of no rotation or place, [[nan" in str(error)
    assert error.kind == "forms-disagree"


def save_forms(
    path: Path, sform: NDArray[np.float64], qform: NDArray[np.float64], size: int = 9
) -> Path:
    image = nib.Nifti1Image(np.zeros((size, size, size), np.uint8), None)
    image.set_qform(qform, code=1)
    image.set_sform(sform, code=2)
    path.write_bytes(image.to_bytes())
    return path


def test_forms_that_differ_in_size_or_side_are_refused(tmp_path: Path) -> None:
    path, same = tmp_path / "a.nii", np.diag([1.0, 1, 2, 1])
    accepting = ReadOptions(accept=frozenset({"forms-apart"}))
    error = refusal(save_forms(path, same, np.diag([1.0, 1, 2.5, 1])), accepting)
    assert "voxels of 2 mm3 by the sform, 2.5 mm3 by the qform" in str(error)
    error = refusal(save_forms(path, same, np.diag([-1.0, 1, 2, 1])), accepting)
    assert "axes toward RAS by the sform, toward LAS by the qform" in str(error)
    assert error.kind == "forms-disagree"
    assert refusal(save_forms(path, same, turned(180) @ same), accepting).kind == "forms-disagree"


def test_forms_that_differ_in_place_can_be_accepted(tmp_path: Path) -> None:
    path, same = tmp_path / "a.nii", np.diag([1.0, 1, 2, 1])
    shifted = same.copy()
    shifted[0, 3] = 0.49
    assert read_scan(save_forms(path, same, shifted)).findings == ()
    shifted[0, 3] = 0.51
    error = refusal(save_forms(path, same, shifted))
    assert "voxels up to 0.51 voxels apart, expected at most half of one" in str(error)
    scan = read_scan(path, ReadOptions(accept=frozenset({"forms-apart"})))
    assert kinds_of(scan.findings) == ("forms-apart",)
    assert scan.affine is not None
    assert scan.affine[0, 3] == 8  # Of the sform; columns of the display run to the left.
    # 8 voxels and 5 degrees: 8 * sqrt(2) * 2 sin(2.5 degrees) = 0.99 mm
    error = refusal(save_forms(path, same, turned(5) @ same))
    assert "voxels up to 0.987 voxels apart" in str(error)
    assert read_scan(save_forms(path, same, turned(2) @ same)).findings == ()


def test_shear_that_a_qform_cannot_hold_is_no_disagreement(tmp_path: Path) -> None:
    sheared = np.diag([0.5, 0.5, 5, 1])
    sheared[1, 2] = 5 * np.tan(np.radians(20))
    path = save_forms(tmp_path / "a.nii", sheared, sheared, size=64)  # nibabel takes the shear out.
    scan = read_scan(path)
    assert scan.findings == ()
    assert scan.voxel_ml == pytest.approx(0.5 * 0.5 * 5 / 1000)
    assert abs(load(path).get_qform() - sheared).max() > 0.5


@pytest.mark.real_data
def test_forms_of_real_files_agree(real_data: Path) -> None:
    paths = sorted((real_data / "formats").glob("nifti-*/*.nii.gz"))
    assert len(paths) == 8
    for path in paths:
        assert read_scan(path).findings == ()


@pytest.mark.parametrize("length", [1, 200, 347, 351])
def test_headers_that_are_cut_are_refused(tmp_path: Path, length: int) -> None:
    path = save_nifti(tmp_path / "a.nii", CUBE)
    path.write_bytes(path.read_bytes()[:length])
    error = refusal(path)
    assert error.kind == ("nifti-header" if length < 348 else "truncated")
    assert f"{length} bytes" in str(error)


def test_surplus_bytes_are_refused(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii", CUBE)
    path.write_bytes(path.read_bytes() + b"0000")
    error = refusal(path)
    assert "364 bytes, expected 360" in str(error)
    assert error.kind == "surplus-bytes"
    with path.open("ab") as file:
        file.truncate(2**27)
    error = refusal(path)
    assert f"more than {360 + 2**16:,} bytes, expected 360" in str(error)
    assert error.kind == "surplus-bytes"


def test_text_is_refused(tmp_path: Path) -> None:
    for name, kind in (("a.nii", "nifti-header"), ("a.nii.gz", "gzip-damaged")):
        (tmp_path / name).write_text("This is no image. " * 50)
        assert refusal(tmp_path / name).kind == kind


def test_damaged_gzip_streams_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    noise = np.random.default_rng(0).integers(0, 255, (9, 9, 9), dtype=np.uint8)
    data = save_nifti(path, noise).read_bytes()
    swapped = bytearray(data)
    swapped[-8] ^= 1
    for damaged in (data[:100], data[:-1], data[:-8], bytes(swapped), data + b"garbage"):
        path.write_bytes(damaged)
        error = refusal(path)
        assert "gzip stream damaged after " in str(error)
        assert error.kind == "gzip-damaged"
    path.write_bytes(gzip.compress(gzip.decompress(data)[:-1]))
    error = refusal(path)
    assert "1,080 bytes, expected 1,081" in str(error)
    assert error.kind == "truncated"
    # The standard: members one after another are one stream, and zeros may fill up the last block.
    whole = gzip.decompress(data)
    path.write_bytes(gzip.compress(whole[:500]) + gzip.compress(whole[500:]) + bytes(100))
    assert read_scan(path).voxels.sum() == noise.sum()


def test_gzip_streams_are_inflated_no_further_than_promised(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    whole = save_nifti(tmp_path / "a.nii", CUBE).read_bytes()
    path.write_bytes(gzip.compress(whole + b"0"))
    error = refusal(path)
    assert "361 bytes, expected 360" in str(error)
    assert error.kind == "surplus-bytes"
    with gzip.open(path, "wb", 1) as file:
        file.write(whole)
        for _ in range(256):
            file.write(bytes(2**20))
    assert path.stat().st_size < 2**21
    tracemalloc.start()
    start = time.perf_counter()
    error = refusal(path)
    elapsed_s, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"more than {360 + 2**16:,} bytes, expected 360" in str(error)
    assert error.kind == "gzip-bomb"
    assert peak < 2**20
    assert elapsed_s < 1


def test_a_promise_takes_no_memory(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii.gz", CUBE, dim=[3, 1000, 1000, 1000, 1, 1, 1, 1])
    tracemalloc.start()
    error = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "360 bytes, expected 1,000,000,352" in str(error)
    assert peak < 2**20


def test_the_limit_holds_for_decoded_voxels(tmp_path: Path) -> None:
    stored = np.zeros((20, 20, 20), np.int16)
    path = save_nifti(tmp_path / "a.nii.gz", stored)
    assert path.stat().st_size < 1000
    assert read_scan(path, ReadOptions(max_bytes=16_352)).voxels.nbytes == 16_000
    error = refusal(path, ReadOptions(max_bytes=16_351))
    assert "(20, 20, 20) of type int16 take 16,352 bytes, expected at most 16,351" in str(error)
    assert error.kind == "too-large"
    # Scaled, they take twice as much.
    path = save_nifti(path, stored, scl_slope=2)
    assert "take 32,352 bytes" in str(refusal(path, ReadOptions(max_bytes=16_352)))
    # And a higher limit lets more in: the header alone decides here.
    path = save_nifti(path, stored, dim=[3, 2000, 2000, 2000, 1, 1, 1, 1])
    assert "take 16,000,000,352 bytes, expected at most 1,073,741,824" in str(refusal(path))
    assert refusal(path, ReadOptions(max_bytes=2**40)).kind == "truncated"


def test_a_suffix_that_promises_other_packing_is_named(tmp_path: Path) -> None:
    content = save_nifti(tmp_path / "a.nii", CUBE).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(content)
    (tmp_path / "c.nii").write_bytes(gzip.compress(content))
    assert str(refusal(tmp_path / "b.nii.gz")).endswith("If it is not packed at all, name it .nii.")
    assert str(refusal(tmp_path / "c.nii")).endswith("Name it .nii.gz, for it is packed.")
