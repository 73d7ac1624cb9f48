# mypy: allow-untyped-calls
# (nibabel's functions have no types.)
"""Reading and writing of image files: exact values and geometry, and the refusal of all others."""

import gzip
import hashlib
import itertools
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hemaseg.errors import ScanError
from hemaseg.scans.images import (
    Scan,
    content_sha256,
    is_nifti,
    is_picture,
    read_mask,
    read_scan,
    stem,
    write_mask,
)

ORIENTATIONS = [
    "".join(axes)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for axes in itertools.product(*order)
]


def save_nifti(
    path: Path, voxels: NDArray[Any], affine: NDArray[np.float64] | None = None, **fields: Any
) -> Path:
    """A NIfTI-1 file, with some header fields overwritten after nibabel's checks."""
    image = nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine)
    data = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(data[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    data[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(data)) if path.suffix == ".gz" else bytes(data))
    return path


def load(path: Path) -> Any:
    return nib.load(path)


def save_picture(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def png_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of these chunks, with right checksums."""
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (*chunks, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def gradient(dtype: Any = np.uint8) -> NDArray[Any]:
    """(4, 6) pixels that are all different."""
    return np.arange(24, dtype=dtype).reshape(4, 6)


def test_names() -> None:
    assert stem(Path("a/b.c.NII.GZ")) == "b.c"
    assert is_nifti(Path("B.NII"))
    assert is_picture(Path("b.TIF"))
    assert not is_picture(Path("b.nii.gz"))
    assert not is_nifti(Path("b.gz"))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pictures_keep_values_and_type(tmp_path: Path, suffix: str, dtype: Any) -> None:
    pixels = gradient(dtype) * np.iinfo(dtype).max // 23
    scan = read_scan(save_picture(tmp_path / f"a{suffix}", pixels))
    assert scan.voxels.shape == (1, 4, 6)
    assert scan.voxels.dtype == dtype
    np.testing.assert_array_equal(scan.voxels[0], pixels)
    assert scan.affine is None
    assert scan.spacing_mm is None
    assert np.isnan(scan.voxel_ml)


def test_jpeg_is_read_as_grey(tmp_path: Path) -> None:
    pixels = np.full((8, 8), 77, dtype=np.uint8)
    path = save_picture(tmp_path / "a.jpg", pixels, quality=100)
    np.testing.assert_array_equal(read_scan(path).voxels, pixels[np.newaxis])


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_tiff_with_signed_values(tmp_path: Path, dtype: Any) -> None:
    pixels = gradient(dtype) - 1000
    scan = read_scan(save_picture(tmp_path / "a.tif", pixels))
    assert scan.voxels.dtype == dtype
    np.testing.assert_array_equal(scan.voxels[0], pixels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_in_colour_is_read_as_grey(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(gradient()).convert(mode).save(path)
    scan = read_scan(path)
    assert scan.voxels.dtype == np.uint8
    np.testing.assert_array_equal(scan.voxels[0], gradient())


def test_one_bit_picture_has_0_and_255(tmp_path: Path) -> None:
    scan = read_scan(save_picture(tmp_path / "a.png", np.eye(3, dtype=np.bool_)))
    np.testing.assert_array_equal(scan.voxels[0], 255 * np.eye(3))
    assert scan.voxels.dtype == np.uint8


def test_axes_of_a_volume_are_superior_posterior_left(tmp_path: Path) -> None:
    stored = np.zeros((5, 6, 7), dtype=np.int16)
    stored[1, 2, 3] = 9  # Voxel axes toward right, anterior, superior.
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = -10, 20, 30
    scan = read_scan(save_nifti(tmp_path / "a.nii.gz", stored, affine))
    assert scan.voxels.shape == (7, 6, 5)
    place = np.argwhere(scan.voxels == 9)[0]
    np.testing.assert_array_equal(place, [3, 6 - 1 - 2, 5 - 1 - 1])
    assert scan.affine is not None
    np.testing.assert_allclose(scan.affine @ [*place, 1], affine @ [1, 2, 3, 1])
    assert scan.spacing_mm == (4, 3, 2)
    assert scan.voxel_ml == pytest.approx(0.024)
    assert scan.voxels.flags.c_contiguous
    assert scan.voxels.flags.writeable


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_all_48_orientations_show_the_same_and_are_written_back(tmp_path: Path, axes: str) -> None:
    shown = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    display = nib.orientations.axcodes2ornt(("S", "P", "L"))
    native = nib.orientations.axcodes2ornt(tuple(axes))
    change = nib.orientations.ornt_transform(display, native)
    stored = nib.orientations.apply_orientation(shown, change)
    # K, H, W to mm: slices of 5 mm upward, rows of 2 mm backward, columns of 1 mm to the left.
    affine = np.array([[0, 0, -1, 7], [0, -2, 0, 8], [5, 0, 0, 9], [0, 0, 0, 1.0]])
    own_affine = affine @ nib.orientations.inv_ornt_aff(change, shown.shape)
    path = save_nifti(tmp_path / "a.nii", stored, own_affine)
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.voxels, shown)
    assert scan.affine is not None
    np.testing.assert_allclose(scan.affine, affine)
    write_mask(shown % 5 == 2, scan, tmp_path / "mask.nii")
    mask = load(tmp_path / "mask.nii")
    np.testing.assert_array_equal(mask.dataobj, stored % 5 == 2)
    np.testing.assert_array_equal(mask.affine, load(path).affine)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_mask_keeps_geometry_and_drops_notes(tmp_path: Path, kind: Any, suffix: str) -> None:
    affine = np.diag([-0.7, 0.8, 3.3, 1])
    affine[:3, 3] = 1.5, -2.5, 3.5
    image = kind(np.zeros((4, 5, 6), dtype=np.float32), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=4)
    image.header["descrip"] = b"Name of a patient"
    image.to_filename(tmp_path / f"a{suffix}")
    scan = read_scan(tmp_path / f"a{suffix}")
    voxels = np.zeros(scan.voxels.shape, dtype=np.bool_)
    voxels[2, 3, 1] = True
    path = tmp_path / f"mask{suffix}"
    write_mask(voxels, scan, path)
    mask = load(path)
    assert type(mask) is kind
    assert mask.get_data_dtype() == np.uint8
    assert mask.shape == (4, 5, 6)
    assert (int(mask.header["qform_code"]), int(mask.header["sform_code"])) == (1, 4)
    for name in ("pixdim", "srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_z", "xyzt_units"):
        np.testing.assert_array_equal(mask.header[name], image.header[name])
    assert bytes(mask.header["descrip"]).strip(b"\0") == b""
    np.testing.assert_array_equal(read_mask(path).voxels, voxels)
    first = path.read_bytes()
    write_mask(voxels, scan, path)
    assert path.read_bytes() == first
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"a{suffix}", f"mask{suffix}"]


def test_picture_mask_is_a_png_of_0_and_255(tmp_path: Path) -> None:
    scan = read_scan(save_picture(tmp_path / "a.jpg", np.zeros((4, 6), dtype=np.uint8)))
    write_mask(gradient()[np.newaxis] > 20, scan, tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.array(picture), 255 * (gradient() > 20))


def test_write_mask_refuses_what_does_not_fit(tmp_path: Path) -> None:
    scan = read_scan(save_picture(tmp_path / "a.png", gradient()))
    with pytest.raises(ValueError, match=r"uint8 \(1, 4, 6\), expected bool \(1, 4, 6\)"):
        write_mask(scan.voxels, scan, tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"bool \(4, 6\), expected bool \(1, 4, 6\)"):
        write_mask(gradient() > 2, scan, tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"mask\.jpg: expected a name ending in \.png"):
        write_mask(scan.voxels > 2, scan, tmp_path / "mask.jpg")
    stack = Scan(np.zeros((3, 2, 2)), None, Path("made"))
    with pytest.raises(ValueError, match="made: 3 slices, expected a scan as read_scan"):
        write_mask(stack.voxels > 2, stack, tmp_path / "mask.png")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_volume_of_a_sheared_voxel_is_the_determinant(tmp_path: Path) -> None:
    tilt = np.deg2rad(15)
    affine = np.array([[0.5, 0, 0, 0], [0, 0.5, 5 * np.sin(tilt), 0], [0, 0, 5 * np.cos(tilt), 0]])
    path = save_nifti(
        tmp_path / "a.nii", np.zeros((3, 3, 3), np.int16), np.vstack([affine, [0, 0, 0, 1]])
    )
    scan = read_scan(path)
    assert scan.spacing_mm == pytest.approx((5, 0.5, 0.5))
    assert scan.voxel_ml == pytest.approx(0.5 * 0.5 * 5 * np.cos(tilt) / 1000)


def test_scale_factors_are_applied(tmp_path: Path) -> None:
    stored = np.arange(8, dtype=np.int16).reshape(2, 2, 2)
    path = save_nifti(tmp_path / "a.nii", stored, scl_slope=2, scl_inter=-1024)
    scan = read_scan(path)
    assert scan.voxels.dtype == np.float32
    assert sorted(scan.voxels.ravel()) == [-1024 + 2 * value for value in range(8)]


def test_big_endian_files_are_read_in_native_order(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(8, dtype=">i2").reshape(2, 2, 2), np.eye(4))
    swapped = nib.Nifti1Image(image.dataobj, None, image.header.as_byteswapped(">"))
    swapped.set_sform(np.eye(4), code=1)
    swapped.to_filename(tmp_path / "a.nii")
    scan = read_scan(tmp_path / "a.nii")
    assert scan.voxels.dtype == np.dtype("=i2")
    assert sorted(scan.voxels.ravel()) == list(range(8))
    write_mask(scan.voxels == 3, scan, tmp_path / "mask.nii")
    assert int(np.asarray(load(tmp_path / "mask.nii").dataobj).sum()) == 1


@pytest.mark.parametrize("value", [1, 7, 255])
def test_masks_of_0_and_another_value(tmp_path: Path, value: int) -> None:
    pixels = value * np.eye(4, dtype=np.uint8)
    mask = read_mask(save_picture(tmp_path / "a.png", pixels))
    assert mask.voxels.dtype == np.bool_
    np.testing.assert_array_equal(mask.voxels[0], np.eye(4))


def test_constant_masks_are_empty_or_full(tmp_path: Path) -> None:
    empty = read_mask(save_picture(tmp_path / "a.png", np.zeros((3, 3), np.uint8)))
    full = read_mask(save_picture(tmp_path / "b.png", np.full((3, 3), 255, np.uint8)))
    assert not empty.voxels.any()
    assert full.voxels.all()


def test_mask_whose_1_reads_as_almost_1(tmp_path: Path) -> None:
    stored = np.zeros((2, 2, 2), dtype=np.int32)
    stored[0, 0, 0] = 2147483584
    path = save_nifti(tmp_path / "a.nii", stored, scl_slope=4.6566e-10, scl_inter=0)
    assert 0 < abs(read_scan(path).voxels.max() - 1) < 1e-3
    assert read_mask(path).voxels.sum() == 1


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (np.array([[0, 1, 2]], np.uint8), r"3 different values \(0, 1, 2\)"),
        (np.array([[1, 2]], np.uint8), r"2 different values \(1, 2\)"),
        (np.array([[0, 1, -1]], np.float32), r"3 different values \(-1, 0, 1\)"),
        (np.array([[0, 1, 0.5]], np.float32), r"3 different values \(0, 0\.5, 1\)"),
        (gradient(), r"24 different values \(0, 1, 2, 3, 4, 5, \.\.\.\)"),
    ],
)
def test_other_masks_are_refused(tmp_path: Path, pixels: NDArray[Any], found: str) -> None:
    path = save_picture(tmp_path / "a.tif", pixels)
    with pytest.raises(ScanError, match=rf"a\.tif: {found}.*expected two.*JPEG"):
        read_mask(path)


def test_hash_is_of_shape_type_and_values(tmp_path: Path) -> None:
    pixels = np.array([[1, 2]], dtype=np.uint8)
    png = read_scan(save_picture(tmp_path / "a.png", pixels))
    assert content_sha256(png) == hashlib.sha256(b"|u1 (1, 1, 2) \x01\x02").hexdigest()
    tiff = read_scan(save_picture(tmp_path / "a.tif", pixels))
    deeper = read_scan(save_picture(tmp_path / "b.tif", pixels.astype(np.uint16)))
    turned = read_scan(save_picture(tmp_path / "c.tif", pixels.T))
    assert content_sha256(tiff) == content_sha256(png)
    assert len({content_sha256(scan) for scan in (png, deeper, turned)}) == 3


def test_missing_empty_and_unknown_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=r"gone\.png: no such file"):
        read_scan(tmp_path / "gone.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ScanError, match=r"folder\.png: no such file"):
        read_scan(tmp_path / "folder.png")
    (tmp_path / "empty.nii").touch()
    with pytest.raises(ScanError, match=r"empty\.nii: 0 bytes"):
        read_scan(tmp_path / "empty.nii")
    with pytest.raises(ScanError, match=r"a\.dcm: expected a file ending in \.png"):
        read_scan(tmp_path / "a.dcm")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.nii", "a.nii.gz"])
def test_other_content_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("This is no image. " * 50)
    with pytest.raises(ScanError, match=name):
        read_scan(tmp_path / name)


def test_every_cut_and_every_changed_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    voxels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2) * 30
    files = [
        save_picture(tmp_path / "a.png", gradient()),
        save_nifti(tmp_path / "a.nii.gz", voxels),
    ]
    for file in files:
        data, expected, num_refused = file.read_bytes(), read_scan(file).voxels, 0
        for place in range(len(data)):
            changed = bytearray(data)
            changed[place] ^= 0x55
            for damaged in (data[:place], changed):
                file.write_bytes(damaged)
                try:
                    found = read_scan(file).voxels
                except ScanError:
                    num_refused += 1
                else:  # For example the time in the header of gzip.
                    np.testing.assert_array_equal(found, expected)
        assert num_refused > 1.8 * len(data)


@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "a.nii"])
def test_cut_files_are_refused(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 255, (32, 32, 4), dtype=np.uint8)
    path = tmp_path / name
    if is_nifti(path):
        save_nifti(path, pixels)
    else:
        save_picture(path, pixels[..., 0])
    data = path.read_bytes()
    for length in (1, 20, len(data) // 2, len(data) * 9 // 10, len(data) - 3):
        path.write_bytes(data[:length])
        with pytest.raises(ScanError, match=name):
            read_scan(path)


def test_surplus_bytes_are_refused(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii", np.zeros((2, 2, 2), np.uint8))
    path.write_bytes(path.read_bytes() + b"0000")
    with pytest.raises(ScanError, match="at least 364 bytes, expected 360"):
        read_scan(path)


@pytest.mark.parametrize(
    ("pixels", "options", "found"),
    [
        (np.array([[[9, 9, 9], [9, 9, 8]]], np.uint8), {}, "1 coloured and 0 transparent"),
        (np.array([[[9, 255], [9, 254]]], np.uint8), {}, "0 coloured and 1 transparent"),
    ],
)
def test_colour_and_transparency_are_refused(
    tmp_path: Path, pixels: NDArray[Any], options: dict[str, Any], found: str
) -> None:
    path = save_picture(tmp_path / "a.png", pixels, **options)
    with pytest.raises(ScanError, match=found):
        read_scan(path)


def test_colour_palette_is_refused(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1]], np.uint8), mode=None).convert("P")
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.save(tmp_path / "a.png")
    with pytest.raises(ScanError, match="1 coloured and 0 transparent"):
        read_scan(tmp_path / "a.png")


def test_colour_that_would_lose_precision_is_refused(tmp_path: Path) -> None:
    rows = zlib.compress(b"\0" + struct.pack(">3H", 256, 256, 256))
    header = struct.pack(">2I5B", 1, 1, 16, 2, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(png_chunks((b"IHDR", header), (b"IDAT", rows)))
    with pytest.raises(ScanError, match="pixels of type RGB;16B, expected grey"):
        read_scan(path)
    Image.new("CMYK", (2, 2)).save(tmp_path / "a.jpg")
    with pytest.raises(ScanError, match="pixels of type CMYK"):
        read_scan(tmp_path / "a.jpg")


def test_several_pages_are_refused(tmp_path: Path) -> None:
    page = Image.fromarray(gradient())
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page, page])
    with pytest.raises(ScanError, match="3 pages, expected 1"):
        read_scan(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_orientation_tag_is_refused(tmp_path: Path, suffix: str) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    path = save_picture(tmp_path / f"a{suffix}", gradient(), exif=tags)
    with pytest.raises(ScanError, match="orientation tag 6, expected 1"):
        read_scan(path)


def test_picture_that_decodes_to_too_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for size in (10_000, 60_000):
        header = struct.pack(">2I5B", size, size, 8, 0, 0, 0, 0)
        path.write_bytes(png_chunks((b"IHDR", header), (b"IDAT", zlib.compress(b"0"))))
        with pytest.raises(ScanError, match=rf"a\.png: too large .*{size * size}"):
            read_scan(path)


def test_volume_that_decodes_to_too_much_is_refused(tmp_path: Path) -> None:
    path = save_nifti(
        tmp_path / "a.nii.gz", np.zeros((2, 2, 2), np.int16), dim=[3, 2000, 2000, 2000, 1, 1, 1, 1]
    )
    with pytest.raises(ScanError, match="16,000,000,352 bytes, expected at most 1,073,741,824"):
        read_scan(path)


def test_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    with path.open("wb") as file:
        file.truncate(2**30 + 1)  # A hole, which takes no space.
    with pytest.raises(ScanError, match="1,073,741,825 bytes, expected at most 1,073,741,824"):
        read_scan(path)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"sform_code": 0, "qform_code": 0}, "sform_code 0 and qform_code 0, expected one above 0"),
        ({"srow_x": [np.nan, 0, 0, 0]}, r"affine \[\[nan.*expected finite"),
        ({"srow_x": [1e30, 0, 0, 0]}, r"affine \[\[1\.0000000150474662e\+30.*expected finite"),
        ({"srow_x": [0, 0, 0, 0]}, r"affine \[\[0\.0, 0\.0.*volume above 0"),
        ({"pixdim": [1, 0, 1, 1, 0, 0, 0, 0]}, r"voxel size \[0\.0, 1\.0, 1\.0\]"),
        ({"pixdim": [1, 1, np.inf, 1, 0, 0, 0, 0]}, r"voxel size \[1\.0, inf, 1\.0\]"),
        ({"pixdim": [1, 1, 1, -2, 0, 0, 0, 0]}, r"voxel size \[1\.0, 1\.0, -2\.0\]"),
        ({"xyzt_units": 1}, "lengths in meter, expected mm"),
        ({"qform_code": 1, "pixdim": [1, 1, 1, 2, 0, 0, 0, 0]}, "1 mm3 by the sform, 2 mm3 by"),
        ({"dim": [4, 2, 2, 2, 1, 1, 1, 1]}, r"4 dimensions \(2, 2, 2, 1\), expected 3"),
        ({"dim": [2, 4, 2, 1, 1, 1, 1, 1]}, r"2 dimensions \(4, 2\), expected 3"),
        ({"dim": [3, 2, 2, 0, 1, 1, 1, 1]}, r"3 dimensions \(2, 2, 0\), expected 3"),
        ({"dim": [3, 2, 2, -2, 1, 1, 1, 1]}, r"3 dimensions \(2, 2, -2\), expected 3"),
        ({"dim": [3, 2, 2, 1, 1, 1, 1, 1]}, r"at least 360 bytes, expected 356"),
        ({"datatype": 128}, "voxels of type .*expected whole or real numbers"),
        ({"datatype": 32}, "voxels of type complex64"),
        ({"datatype": 9999}, "cannot be decoded"),
        ({"datatype": 4}, r"360 bytes, expected 368 for voxels \(2, 2, 2\) of type int16"),
        ({"vox_offset": 1e30}, "bytes, expected at most 1,073,741,824"),
        ({"vox_offset": np.nan}, r"cannot be decoded \(ValueError"),
        ({"vox_offset": -1}, "expected 7 for voxels"),
        ({"vox_offset": 0}, "expected 8 for voxels"),
        ({"magic": b"ni1"}, "no NIfTI header in the first 360 bytes"),
        ({"sizeof_hdr": 349}, "no NIfTI header in the first 360 bytes"),
        ({"scl_slope": 1, "scl_inter": np.nan}, "cannot be decoded"),
    ],
)
def test_bad_headers_are_refused(tmp_path: Path, fields: dict[str, Any], found: str) -> None:
    path = save_nifti(tmp_path / "a.nii", np.zeros((2, 2, 2), np.uint8), **fields)
    with pytest.raises(ScanError, match=rf"a\.nii: .*{found}"):
        read_scan(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    voxels = np.zeros((2, 2, 2), dtype=np.float32)
    voxels[0, 1] = value
    with pytest.raises(ScanError, match=r"a\.nii: 2 voxels are NaN or infinite"):
        read_scan(save_nifti(tmp_path / "a.nii", voxels))
    with pytest.raises(ScanError, match=r"a\.tif: 2 voxels are NaN or infinite"):
        read_scan(save_picture(tmp_path / "a.tif", voxels[0]))


def test_random_changes_of_the_header_give_a_scan_or_a_scan_error(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii", np.zeros((2, 2, 2), np.uint8))
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    num_refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(300):
            changed = bytearray(data)
            for place in rng.integers(0, 348, 3):
                changed[place] = rng.integers(256)
            path.write_bytes(changed)
            try:
                assert read_scan(path).voxels.size == 8
            except ScanError:
                num_refused += 1
    assert num_refused > 60


@pytest.mark.real_data
def test_real_volumes(real_data: Path) -> None:
    lesion = read_mask(real_data / "formats/nifti-mri-ms/patient07_mni_lesion.nii.gz")
    assert lesion.voxels.shape == (182, 218, 182)
    assert (int(lesion.voxels.sum()), lesion.voxel_ml) == (1300, 0.001)
    brain = read_mask(real_data / "formats/nifti-mri-brats/brainmask.nii.gz")
    assert int(brain.voxels.sum()) == 1523743
    with pytest.raises(ScanError, match=r"5 different values \(0, 1, 2, 3, 4\)"):
        read_mask(real_data / "formats/nifti-mri-brats/OTMultiClass.nii.gz")


def test_a_small_value_in_a_float_mask_is_not_taken_for_zero(tmp_path: Path) -> None:
    voxels = np.zeros((3, 4, 5), np.float32)
    voxels[1, 2, 3] = 0.0005
    path = tmp_path / "mask.nii.gz"
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    assert read_mask(path).voxels.sum() == 1
