"""Shares of slices, the two orders of axes, masks by their values, and hashes."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hemaseg.errors import ScanError
from hemaseg.scans.images import read_mask, read_scan
from hemaseg.scans.scan import (
    as_mask,
    check_finite,
    content_sha256,
    display_orientation,
    slice_shares,
    to_display,
    to_stored,
)
from hemaseg.scans.screening import Screen
from image_files import gradient, load, made_scan, save_nifti, save_picture


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


@given(st.permutations(range(3)), st.tuples(*[st.sampled_from((-1, 1))] * 3))
def test_stored_order_is_found_again(order: list[int], signs: tuple[int, int, int]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = (np.diag(signs) @ np.diag([1.0, 2.0, 3.0]))[:, order]
    stored = np.arange(24).reshape(2, 3, 4)
    axes = display_orientation(affine)
    display, display_affine = to_display(stored, affine, axes)
    np.testing.assert_array_equal(to_stored(display, axes), stored)
    place = np.argwhere(display == 17)[0]
    np.testing.assert_allclose(
        display_affine @ [*place, 1], affine @ [*np.argwhere(stored == 17)[0], 1]
    )
    assert display_orientation(display_affine).tolist() == [[0, 1], [1, 1], [2, 1]]


def test_scan_without_stored_axes_is_stored_as_displayed() -> None:
    voxels = gradient()[np.newaxis]
    assert to_stored(voxels, None) is voxels


def test_volume_of_a_sheared_voxel_is_the_determinant(tmp_path: Path) -> None:
    tilt = np.deg2rad(15)
    affine = np.array([[0.5, 0, 0, 0], [0, 0.5, 5 * np.sin(tilt), 0], [0, 0, 5 * np.cos(tilt), 0]])
    path = save_nifti(
        tmp_path / "a.nii", np.zeros((3, 3, 3), np.int16), np.vstack([affine, [0, 0, 0, 1]])
    )
    scan = read_scan(path)
    assert scan.spacing_mm == pytest.approx((5, 0.5, 0.5))
    assert scan.voxel_ml == pytest.approx(0.5 * 0.5 * 5 * np.cos(tilt) / 1000)


@given(st.lists(st.floats(0.5, 10), min_size=1, max_size=20))
def test_shares_are_half_the_way_to_each_neighbour(steps: list[float]) -> None:
    coordinates = np.append(0, np.cumsum(steps))
    shares = slice_shares(coordinates, len(coordinates))
    # The stack with half a step more at either end.
    assert shares.sum() == pytest.approx(coordinates[-1] + (steps[0] + steps[-1]) / 2)
    middles = (coordinates[1:] + coordinates[:-1]) / 2
    assert shares[1:-1] == pytest.approx(np.diff(middles))
    assert shares[[0, -1]] == pytest.approx([steps[0], steps[-1]])


def test_even_slices_and_single_ones_have_shares_of_1() -> None:
    assert slice_shares(None, 3).tolist() == [1, 1, 1]
    assert slice_shares(np.array([0.0]), 1).tolist() == [1]


def test_uneven_slices_have_volumes_of_their_own() -> None:
    voxels, affine = np.zeros((3, 2, 2)), np.diag([4.0, 0.5, 0.5, 1])
    scan = made_scan(voxels, affine, slice_coordinates=np.array([0, 1, 3.0]))
    assert not scan.is_even
    assert scan.spacing_mm == (6, 0.5, 0.5)
    assert scan.voxel_ml.tolist() == [0.001, 0.0015, 0.002]


def test_no_geometry_no_volume() -> None:
    scan = made_scan(np.zeros((3, 2, 2)))
    assert scan.is_even
    assert scan.spacing_mm is None
    assert np.isnan(scan.voxel_ml).tolist() == [True] * 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_refused(value: float) -> None:
    voxels = np.zeros((2, 2, 2), dtype=np.float32)
    check_finite(voxels, Screen("a"))
    voxels[0, 1] = value
    with pytest.raises(ScanError, match="a: 2 voxels are NaN or infinite, expected") as caught:
        check_finite(voxels, Screen("a"))
    assert caught.value.kind == "not-finite"


@pytest.mark.parametrize("value", [1, 7, 255])
def test_masks_of_0_and_another_value(tmp_path: Path, value: int) -> None:
    pixels = value * np.eye(4, dtype=np.uint8)
    mask = read_mask(save_picture(tmp_path / "a.png", pixels))
    assert mask.voxels.dtype == np.bool_
    np.testing.assert_array_equal(mask.voxels[0], np.eye(4))


def test_constant_masks_are_empty_or_full() -> None:
    assert not as_mask(made_scan(np.zeros((1, 3, 3), np.uint8))).voxels.any()
    assert as_mask(made_scan(np.full((1, 3, 3), 255, np.uint8))).voxels.all()


def test_mask_whose_1_reads_as_almost_1(tmp_path: Path) -> None:
    stored = np.zeros((2, 2, 2), dtype=np.int32)
    stored[0, 0, 0] = 2147483584
    path = save_nifti(tmp_path / "a.nii", stored, scl_slope=4.6566e-10, scl_inter=0)
    assert 0 < abs(read_scan(path).voxels.max() - 1) < 1e-3
    assert read_mask(path).voxels.sum() == 1


def test_a_small_value_in_a_float_mask_is_not_taken_for_zero() -> None:
    voxels = np.zeros((3, 4, 5), np.float32)
    voxels[1, 2, 3] = 0.0005
    assert as_mask(made_scan(voxels)).voxels.sum() == 1


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (np.array([[0, 1, 2]], np.uint8), r"3 different values \(0, 1, 2\)"),
        (np.array([[1, 2]], np.uint8), r"2 different values \(1, 2\)"),
        (np.array([[0, 1, -1]], np.float32), r"3 different values \(-1, 0, 1\)"),
        (np.array([[0, 1, 0.5]], np.float32), r"3 different values \(0, 0\.5, 1\)"),
        (np.array([[0, 1, 0.9]], np.float32), r"3 different values \(0, 0\.9, 1\)"),
        (gradient(), r"24 different values \(0, 1, 2, 3, 4, 5, \.\.\.\)"),
    ],
)
def test_other_masks_are_refused(pixels: NDArray[Any], found: str) -> None:
    with pytest.raises(ScanError, match=rf"made: {found}.*expected two.*JPEG") as caught:
        as_mask(made_scan(pixels[np.newaxis]))
    assert caught.value.kind == "not-a-mask"


def test_hash_is_of_shape_type_and_values(tmp_path: Path) -> None:
    pixels = np.array([[1, 2]], dtype=np.uint8)
    png = read_scan(save_picture(tmp_path / "a.png", pixels))
    assert content_sha256(png) == hashlib.sha256(b"|u1 (1, 1, 2) \x01\x02").hexdigest()
    tiff = read_scan(save_picture(tmp_path / "a.tif", pixels))
    deeper = read_scan(save_picture(tmp_path / "b.tif", pixels.astype(np.uint16)))
    turned = read_scan(save_picture(tmp_path / "c.tif", pixels.T))
    assert content_sha256(tiff) == content_sha256(png)
    assert len({content_sha256(scan) for scan in (png, deeper, turned)}) == 3


@pytest.mark.real_data
def test_real_masks(real_data: Path) -> None:
    path = real_data / "formats/nifti-mri-ms/patient07_mni_lesion.nii.gz"
    lesion = read_mask(path)
    assert lesion.voxels.shape == (182, 218, 182)
    assert (int(lesion.voxels.sum()), set(lesion.voxel_ml)) == (1300, {0.001})
    assert int(np.asarray(load(path).dataobj).sum()) == 1300
    brain = read_mask(real_data / "formats/nifti-mri-brats/brainmask.nii.gz")
    assert int(brain.voxels.sum()) == 1523743
    with pytest.raises(ScanError, match=r"5 different values \(0, 1, 2, 3, 4\)"):
        read_mask(real_data / "formats/nifti-mri-brats/OTMultiClass.nii.gz")
