"""What every file is asked before it is read; masks and probabilities written back."""

import gzip
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from hemaseg.errors import ScanError
from hemaseg.scans.images import read_mask, read_scan, stem, write_mask, write_probability
from hemaseg.scans.pictures import read_stack
from hemaseg.scans.screening import ReadOptions
from image_files import (
    ORIENTATIONS,
    gradient,
    load,
    made_scan,
    save_nifti,
    save_pages,
    save_picture,
)


def refusal(path: Path, options: ReadOptions | None = None) -> ScanError:
    with pytest.raises(ScanError) as caught:
        read_scan(path, options)
    return caught.value


def test_names() -> None:
    assert stem(Path("a/b.c.NII.GZ")) == "b.c"
    assert stem(Path("a/b.nii")) == "b"
    assert stem(Path("a/b.c.png")) == "b.c"


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.nii").touch()
    (tmp_path / "a.dcm").write_text("This is no image.")
    os.mkfifo(tmp_path / "pipe.nii")
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    for name, kind, found in (
        ("gone.png", "missing", "no such file. Check"),
        ("loop.nii", "missing", "no such file. Check"),
        ("folder.png", "not-an-image", "a folder or device, expected a file"),
        ("pipe.nii", "not-an-image", "a folder or device, expected a file"),
        ("empty.nii", "empty-file", "0 bytes, expected an image"),
        ("a.dcm", "not-an-image", "expected a file ending in .png, .jpg, .jpeg, .tif"),
    ):
        error = refusal(tmp_path / name)
        assert str(error).startswith(f"{tmp_path / name}: {found}")
        assert error.kind == kind


@pytest.mark.parametrize("name", ["a.png", "a.nii", "a.nii.gz"])
def test_files_that_may_not_be_read_are_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_picture(tmp_path / name, gradient(), format="PNG")

    def deny(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied", name)

    # Modes of files do not stop a superuser, as whom tests may run.
    monkeypatch.setattr("builtins.open", deny)
    monkeypatch.setattr("io.open", deny)
    error = refusal(path)
    assert str(error) == f"{path}: may not be read. Give yourself the permission to read it."
    assert error.kind == "no-permission"


def test_files_that_fail_while_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_nifti(tmp_path / "a.nii", np.zeros((2, 2, 2), np.uint8))

    def fail(*args: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("hemaseg.scans.nifti._read", fail)
    error = refusal(path)
    assert "cannot be read (Input/output error), expected a complete image file" in str(error)
    assert error.kind == "unreadable"


@pytest.mark.parametrize("name", ["a.nii", "a.png"])
def test_files_that_are_too_large_are_refused_unread(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(2**30 + 1)  # A hole, which takes no space.
    error = refusal(path)
    assert "1,073,741,825 bytes, expected at most 1,073,741,824. Crop" in str(error)
    assert error.kind == "too-large"
    assert refusal(path, ReadOptions(max_bytes=2**20)).kind == "too-large"
    with path.open("wb") as file:
        file.truncate(2**20 + 1)
    assert refusal(path, ReadOptions(max_bytes=2**20 + 1)).kind != "too-large"


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


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_equal_masks_give_equal_files(tmp_path: Path, suffix: str) -> None:
    scan = read_scan(save_nifti(tmp_path / f"a{suffix}", np.zeros((4, 5, 6), np.float32)))
    voxels = np.zeros(scan.voxels.shape, dtype=np.bool_)
    voxels[2, 3, 1] = True
    path = tmp_path / f"mask{suffix}"
    write_mask(voxels, scan, path)
    mask = load(path)
    assert (mask.get_data_dtype(), mask.shape) == (np.uint8, (4, 5, 6))
    np.testing.assert_array_equal(read_mask(path).voxels, voxels)
    first = path.read_bytes()
    assert first.startswith(b"\x1f\x8b") == (suffix == ".nii.gz")
    write_mask(voxels, scan, path)
    assert path.read_bytes() == first
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"a{suffix}", f"mask{suffix}"]


def test_probabilities_lie_on_the_same_grid(tmp_path: Path) -> None:
    stored = np.zeros((4, 5, 6), np.int16)
    affine = np.array([[0, 0.5, 0, 3], [2, 0, 0, 4], [0, 0, 3, 5], [0, 0, 0, 1.0]])
    scan = read_scan(save_nifti(tmp_path / "a.nii", stored, affine, scl_slope=2, scl_inter=7))
    probabilities = np.random.default_rng(0).random(scan.voxels.shape, np.float32)
    write_probability(probabilities, scan, tmp_path / "p.nii.gz")
    again = read_scan(tmp_path / "p.nii.gz")
    np.testing.assert_array_equal(again.voxels, probabilities)
    np.testing.assert_array_equal(again.affine, scan.affine)
    image = load(tmp_path / "p.nii.gz")
    assert (image.get_data_dtype(), image.shape) == (np.float32, (4, 5, 6))
    np.testing.assert_allclose(image.affine, affine)


def test_probabilities_of_pictures_have_16_bits(tmp_path: Path) -> None:
    scan = read_scan(save_picture(tmp_path / "a.png", gradient()))
    probabilities = np.linspace(0, 1, 24, dtype=np.float32).reshape(1, 4, 6)
    write_probability(probabilities, scan, tmp_path / "p.png")
    found = read_scan(tmp_path / "p.png").voxels
    assert found.dtype == np.uint16
    assert (found.min(), found.max()) == (0, 65535)
    np.testing.assert_allclose(found / 65535, probabilities, atol=0.5 / 65535)


def test_picture_mask_is_a_png_of_0_and_255(tmp_path: Path) -> None:
    scan = read_scan(save_picture(tmp_path / "a.jpg", np.zeros((4, 6), dtype=np.uint8)))
    write_mask(gradient()[np.newaxis] > 20, scan, tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.array(picture), 255 * (gradient() > 20))


def test_stacks_get_masks_as_stacks(tmp_path: Path) -> None:
    slices = np.stack([gradient() + k for k in range(3)])
    mask = slices > 21
    pages = read_scan(save_pages(tmp_path / "a.tif", slices))
    write_mask(mask, pages, tmp_path / "mask.tif")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.tif").voxels, mask)
    stack = read_stack([save_picture(tmp_path / f"s{k}.png", slices[k]) for k in range(3)])
    write_mask(mask, stack, tmp_path / "masks")
    for k in range(3):
        np.testing.assert_array_equal(read_mask(tmp_path / f"masks/s{k}.png").voxels[0], mask[k])


def test_what_does_not_fit_is_not_written(tmp_path: Path) -> None:
    scan = read_scan(save_picture(tmp_path / "a.png", gradient()))
    with pytest.raises(ValueError, match=r"uint8 \(1, 4, 6\), expected bool \(1, 4, 6\)"):
        write_mask(scan.voxels, scan, tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"bool \(4, 6\), expected bool \(1, 4, 6\)"):
        write_mask(gradient() > 2, scan, tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"mask\.jpg: expected a name ending in \.png"):
        write_mask(scan.voxels > 2, scan, tmp_path / "mask.jpg")
    volume = made_scan(np.zeros((3, 2, 2)), np.eye(4))
    with pytest.raises(ValueError, match=r"mask\.png: expected a name ending in \.nii\.gz or"):
        write_mask(volume.voxels > 2, volume, tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"float64 \(3, 2, 2\), expected float32 \(3, 2, 2\)"):
        write_probability(volume.voxels, volume, tmp_path / "p.nii")
    for value in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match=f"probabilities from .*{value:g}.*from 0 to 1"):
            write_probability(np.full((3, 2, 2), value, np.float32), volume, tmp_path / "p.nii")
    uneven = made_scan(volume.voxels, np.eye(4), slice_coordinates=np.array([0, 1, 3.0]))
    with pytest.raises(ScanError, match="made: unevenly spaced slices"):
        write_mask(volume.voxels > 2, uneven, tmp_path / "mask.nii.gz")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_packed_masks_name_no_time(tmp_path: Path) -> None:
    volume = made_scan(np.zeros((3, 2, 2)), np.eye(4))
    write_mask(volume.voxels > 2, volume, tmp_path / "mask.nii.gz")
    data = (tmp_path / "mask.nii.gz").read_bytes()
    assert data[4:8] == bytes(4)
    assert len(gzip.decompress(data)) == 352 + 12
