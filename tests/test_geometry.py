# mypy: allow-untyped-calls
# (nibabel's functions have no types.)
"""Proof that volume, place and side survive: ellipsoids of known mL in every axis order, turned and
sheared at random, through files and back.

The truth is analytic: an ellipsoid is symmetric about its centre, and so are the voxels in it if
the centre lies on a voxel or midway between two, whatever affine places them. nibabel reads the
same files as an oracle.
"""

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from hemaseg.scans.images import read_mask, read_scan, write_mask
from hemaseg.scans.nifti import nifti_bytes
from hemaseg.scans.scan import Scan
from image_files import ORIENTATIONS, geometry_bytes, load

NUM_OBLIQUES, NUM_SHEARED = 20, 5
SHAPE, SPACING_MM = (22, 18, 10), np.array([0.9, 1.1, 4.3])
CENTER, SEMI_AXES = np.array([7.5, 10.0, 3.5]), np.array([6.4, 5.2, 2.7])  # In voxels.


def ellipsoid(
    shape: tuple[int, ...], center: NDArray[np.float64], semi_axes: NDArray[np.float64]
) -> NDArray[np.bool_]:
    offsets = np.moveaxis(np.indices(shape), 0, -1) - center
    return np.asarray(((offsets / semi_axes) ** 2).sum(axis=-1) <= 1)


BLEED = ellipsoid(SHAPE, CENTER, SEMI_AXES)
RAS = np.diag([*SPACING_MM, 1.0])


def random_affine(rng: np.random.Generator, *, is_sheared: bool) -> NDArray[np.float64]:
    """A random rotation and place, after a shear of up to 30 degrees in each plane."""
    rotation, upper = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.diag(upper))
    rotation[:, 0] *= np.linalg.det(rotation)
    affine = np.eye(4)
    affine[:3, :3] = rotation
    if is_sheared:
        tangents = np.tan(np.radians(rng.uniform(-30, 30, 3)))
        affine[:3, :3] @= np.array([[1, *tangents[:2]], [0, 1, tangents[2]], [0, 0, 1]])
    affine[:3, 3] = rng.uniform(-150, 150, 3)
    return affine


def stored_as(
    axes: str, voxels: NDArray[Any], affine: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Voxels that are stored toward right, anterior and superior, in another order of axes."""
    ras, native = (nib.orientations.axcodes2ornt(tuple(codes)) for codes in ("RAS", axes))
    change = nib.orientations.ornt_transform(ras, native)
    stored = nib.orientations.apply_orientation(voxels, change)
    return stored, affine @ nib.orientations.inv_ornt_aff(change, voxels.shape)


def write(
    path: Path, stored: NDArray[Any], affine: NDArray[np.float64], *, has_qform: bool
) -> bytes:
    image = nib.Nifti1Image(stored, None)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=int(has_qform))
    data = bytes(image.to_bytes())
    path.write_bytes(data)
    return data


def centroid_mm(scan: Scan) -> NDArray[np.float64]:
    assert scan.affine is not None
    return np.asarray((scan.affine @ [*np.argwhere(scan.voxels).mean(axis=0), 1])[:3])


def volume_ml(scan: Scan) -> float:
    return float(scan.voxels.sum(axis=(1, 2)) @ scan.voxel_ml)


def check(path: Path, axes: str, placed: NDArray[np.float64], *, has_qform: bool) -> None:
    """One file: volume, centroid and side against the truth, and the bytes of its mask."""
    stored, affine = stored_as(axes, BLEED.astype(np.int16), placed @ RAS)
    data = write(path, stored, affine, has_qform=has_qform)
    scan = read_mask(path)
    true_ml = BLEED.sum() * SPACING_MM.prod() * np.linalg.det(placed[:3, :3]) / 1000
    assert volume_ml(scan) == pytest.approx(true_ml, rel=1e-5)
    true_mm = (placed @ RAS @ [*CENTER, 1])[:3]
    assert np.linalg.norm(centroid_mm(scan) - true_mm) < 0.001
    oracle = load(path)
    place = np.argwhere(oracle.get_fdata()).mean(axis=0)
    assert np.linalg.norm(centroid_mm(scan) - (oracle.affine @ [*place, 1])[:3]) < 0.001
    # Superior, posterior, left is a left-handed order in RAS mm, and the head is never mirrored.
    assert scan.affine is not None
    assert np.linalg.det(scan.affine[:3, :3]) < 0
    mask = nifti_bytes(scan.voxels.astype(np.uint8), scan)
    assert geometry_bytes(mask) == geometry_bytes(data)
    np.testing.assert_array_equal(nib.Nifti1Image.from_bytes(mask).dataobj, stored)


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_volume_and_place_in_every_axis_order_and_at_random_angles(
    tmp_path: Path, axes: str
) -> None:
    rng = np.random.default_rng(ORIENTATIONS.index(axes))
    path = tmp_path / "a.nii"
    check(path, axes, np.eye(4), has_qform=True)
    for number in range(NUM_OBLIQUES + NUM_SHEARED):
        placed = random_affine(rng, is_sheared=number >= NUM_OBLIQUES)
        # A qform stands beside every other sform, also where it cannot hold the shear.
        check(path, axes, placed, has_qform=number % 2 == 0)


def test_fine_voxels_have_the_volume_of_the_ellipsoid(tmp_path: Path) -> None:
    semi_mm, spacing_mm = np.array([21.0, 16.0, 12.0]), np.array([0.4, 0.4, 0.5])
    shape = (110, 84, 52)
    center = (np.array(shape) - 1) / 2
    voxels = ellipsoid(shape, center, semi_mm / spacing_mm)
    placed = random_affine(np.random.default_rng(5), is_sheared=True)
    stored, affine = stored_as("PSL", voxels.astype(np.uint8), placed @ np.diag([*spacing_mm, 1]))
    write(tmp_path / "a.nii", stored, affine, has_qform=False)
    scan = read_mask(tmp_path / "a.nii")
    # Shear as above keeps volumes.
    true_ml = 4 / 3 * math.pi * semi_mm.prod() / 1000
    assert volume_ml(scan) == pytest.approx(true_ml, rel=1e-3)
    # A product of spacings would be wrong.
    assert scan.spacing_mm is not None
    assert voxels.sum() * np.prod(scan.spacing_mm) / 1000 > 1.03 * true_ml


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_mask_of_a_mask_is_the_same_file(tmp_path: Path, suffix: str) -> None:
    placed = random_affine(np.random.default_rng(6), is_sheared=False)
    stored, affine = stored_as("ILP", BLEED.astype(np.float32), placed @ RAS)
    image = nib.Nifti1Image(stored, affine)
    image.to_filename(tmp_path / f"a{suffix}")
    scan = read_scan(tmp_path / f"a{suffix}")
    write_mask(scan.voxels > 0, scan, tmp_path / f"b{suffix}")
    again = read_mask(tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(again.voxels, scan.voxels > 0)
    np.testing.assert_array_equal(again.affine, scan.affine)
    write_mask(again.voxels, again, tmp_path / f"c{suffix}")
    assert (tmp_path / f"c{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.real_data
def test_masks_of_real_scans_keep_their_grid(tmp_path: Path, real_data: Path) -> None:
    for name in ("patient12_native_flair", "patient07_mni_lesion"):
        path = real_data / f"formats/nifti-mri-ms/{name}.nii.gz"
        scan, original = read_scan(path), load(path)
        bright = scan.voxels > 0.9 * scan.voxels.max()
        write_mask(bright, scan, tmp_path / "mask.nii")
        mask = load(tmp_path / "mask.nii")
        data = np.asarray(original.dataobj)
        np.testing.assert_array_equal(mask.dataobj, data > 0.9 * data.max())
        np.testing.assert_array_equal(mask.affine, original.affine)
        header = bytes(original.header.binaryblock)
        assert geometry_bytes((tmp_path / "mask.nii").read_bytes()) == geometry_bytes(header)
