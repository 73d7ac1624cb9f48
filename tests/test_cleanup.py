"""A mask without its small lesions: closed forms, properties, and the volumes of `measure`."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from hemaseg.metrics.measurement import measure
from hemaseg.prediction.cleanup import remove_small_lesions
from hemaseg.scans.scan import Scan, slice_shares

VOXEL_ML = 0.7 * 0.7 * 3 / 1000


def cubes() -> NDArray[np.bool_]:
    """One of 8 voxels and one of 27."""
    mask = np.zeros((9, 10, 11), dtype=bool)
    mask[1:3, 1:3, 1:3] = True
    mask[4:7, 5:8, 5:8] = True
    return mask


@pytest.mark.parametrize(
    ("limit_voxels", "num_kept", "num_removed"),
    [(0, 35, 0), (7.99, 35, 0), (8, 35, 0), (8.01, 27, 1), (27, 27, 1), (27.01, 0, 2), (1e9, 0, 2)],
)
def test_two_cubes(limit_voxels: float, num_kept: int, num_removed: int) -> None:
    """A cube of exactly the limit stays, though sums of volumes are not exact."""
    mask = cubes()
    cleaned = remove_small_lesions(mask, np.full(9, VOXEL_ML), limit_voxels * VOXEL_ML)
    assert (cleaned.mask.sum(), cleaned.num_removed_lesions) == (num_kept, num_removed)
    assert cleaned.removed_ml == pytest.approx((35 - num_kept) * VOXEL_ML)
    assert mask.sum() == 35


def test_a_lesion_of_the_limit_stays_on_a_grid_of_single_precision() -> None:
    edge_mm = float(np.float32(0.7))
    voxel_ml = np.full(9, edge_mm**2 * float(np.float32(3.1)) / 1000)
    limit_ml = 8 * 0.7**2 * 3.1 / 1000
    assert 8 * voxel_ml[0] < limit_ml
    assert remove_small_lesions(cubes(), voxel_ml, limit_ml).num_removed_lesions == 0


def test_each_slice_counts_with_its_own_volume() -> None:
    """The same cube, where slices are close and where they are far apart."""
    mask = np.zeros((6, 8, 8), dtype=bool)
    mask[0:2, 0:2, 0:2] = mask[3:5, 4:6, 4:6] = True
    coordinates = np.array([0.0, 1, 2, 4, 6, 8])
    affine = np.diag([2.0, 1, 1, 1])
    volumes_ml = measure(mask, affine, coordinates).lesion_volumes_ml
    assert volumes_ml == pytest.approx((4 * 2 * (2 + 2) / 1000, 4 * 2 * (1 + 1) / 1000))
    voxel_ml = 2 / 1000 * slice_shares(coordinates, 6)
    cleaned = remove_small_lesions(mask, voxel_ml, volumes_ml[0])
    assert cleaned.removed_ml == pytest.approx(volumes_ml[1])
    assert measure(cleaned.mask, affine, coordinates).lesion_volumes_ml == volumes_ml[:1]


def test_tilt_does_not_inflate_a_lesion() -> None:
    """By a product of header spacings the cube would be 15 % larger, and stay."""
    lean_mm = 3 * math.tan(math.radians(30))
    affine = np.array([[0, 0, -0.7, 0], [-lean_mm, -0.7, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]])
    scan = Scan(cubes(), affine, Path("tilted"))
    for limit_voxels, num_removed in ((27, 1), (27.1, 2)):
        cleaned = remove_small_lesions(scan.voxels, scan.voxel_ml, limit_voxels * VOXEL_ML)
        assert cleaned.num_removed_lesions == num_removed


def test_a_corner_between_slices_connects() -> None:
    mask = np.zeros((2, 3, 3), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert remove_small_lesions(mask, np.ones(2), 2.0).num_removed_lesions == 0
    mask[1] = np.roll(mask[1], 1, axis=0)
    assert remove_small_lesions(mask, np.ones(2), 2.0).num_removed_lesions == 2


@given(
    arrays(np.bool_, (4, 5, 6)),
    st.floats(0, 12),
    st.lists(st.floats(0.25, 4), min_size=4, max_size=4),
)
def test_properties(mask: NDArray[np.bool_], limit_ml: float, volumes: list[float]) -> None:
    voxel_ml = np.array(volumes)
    cleaned = remove_small_lesions(mask, voxel_ml, limit_ml)
    assert not (cleaned.mask & ~mask).any()
    gone_ml = float((mask & ~cleaned.mask).sum(axis=(1, 2)) @ voxel_ml)
    assert cleaned.removed_ml == pytest.approx(gone_ml)
    again = remove_small_lesions(cleaned.mask, voxel_ml, limit_ml)
    np.testing.assert_array_equal(again.mask, cleaned.mask)
    assert (again.num_removed_lesions, again.removed_ml) == (0, 0)
    larger = remove_small_lesions(mask, voxel_ml, 2 * limit_ml)
    assert not (larger.mask & ~cleaned.mask).any()


@given(arrays(np.bool_, (4, 5, 6)), st.integers(0, 30))
def test_what_remains_is_what_measure_finds_large(
    mask: NDArray[np.bool_], limit_voxels: int
) -> None:
    affine = np.diag([3.0, 0.7, 0.7, 1])
    limit_ml = limit_voxels * VOXEL_ML
    cleaned = remove_small_lesions(mask, np.full(4, VOXEL_ML), limit_ml)
    before, after = (measure(m, affine).lesion_volumes_ml for m in (mask, cleaned.mask))
    assert after == tuple(ml for ml in before if round(ml / VOXEL_ML) >= limit_voxels)
    assert cleaned.num_removed_lesions == len(before) - len(after)


@pytest.mark.parametrize("voxel_ml", [1.0, math.nan])
def test_0_gives_the_mask_itself(voxel_ml: float) -> None:
    mask = cubes()
    cleaned = remove_small_lesions(mask, np.full(9, voxel_ml), 0)
    assert cleaned.mask is mask
    assert (cleaned.num_removed_lesions, cleaned.removed_ml) == (0, 0)


def test_an_empty_mask_stays_empty() -> None:
    cleaned = remove_small_lesions(np.zeros((2, 3, 3), dtype=bool), np.ones(2), 1.0)
    assert not cleaned.mask.any()
    assert (cleaned.num_removed_lesions, cleaned.removed_ml) == (0, 0)


@pytest.mark.parametrize("limit_ml", [-0.1, math.nan, math.inf])
def test_wrong_limits_are_refused(limit_ml: float) -> None:
    with pytest.raises(ValueError, match=f"min_lesion_ml is {limit_ml}, expected a number of mL"):
        remove_small_lesions(cubes(), np.ones(9), limit_ml)


def test_without_geometry_nothing_can_be_small() -> None:
    with pytest.raises(ValueError, match=r"is 0\.5, expected 0 where the volume of a voxel is und"):
        remove_small_lesions(cubes(), np.full(9, math.nan), 0.5)
