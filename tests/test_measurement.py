"""Measurements of masks against closed forms, a brute-force oracle, invariances and properties."""

import itertools
import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from hemaseg.metrics.measurement import (
    MEASUREMENT_COLUMNS,
    Measurement,
    measure,
    measurement_columns,
)
from hemaseg.scans.scan import Scan
from small_heads import small_head

Mask = NDArray[np.bool_]
Array = NDArray[np.float64]


def grid(slice_mm: float, row_mm: float, column_mm: float, *, tilt_deg: float = 0.0) -> Array:
    """Affine of slices toward superior, rows toward posterior, columns toward left.

    Tilt moves each slice backward against the one below, as a gantry does; slices stay
    `slice_mm` apart perpendicular to their planes.
    """
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = slice_mm, -row_mm, -column_mm, 1
    affine[1, 0] = -slice_mm * math.tan(math.radians(tilt_deg))
    return affine


def rotation(seed: int) -> Array:
    """A random rotation in space."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return np.asarray(q * np.linalg.det(q))


def ellipsoid(shape: tuple[int, int, int], centre: Array, semi_axes: Array) -> Mask:
    """Voxels whose centre is in an ellipsoid along the axes; everything in voxels."""
    places = np.indices(shape) - centre[:, None, None, None]
    return np.asarray(((places / semi_axes[:, None, None, None]) ** 2).sum(axis=0) <= 1)


def box(shape: tuple[int, int, int], start: tuple[int, int, int], size: tuple[int, ...]) -> Mask:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask


def lengths(measured: Measurement) -> list[float]:
    return [measured.a_mm, measured.b_mm, measured.c_mm, measured.longest_axis_mm]


# An oracle that shares no idea with the implementation: all corners of all voxels, all pairs, and
# lines through all corners that are cut with all four sides of all pixels.


def brute_longest(points: Array) -> float:
    return float(np.linalg.norm(points[:, None] - points, axis=-1).max())


def brute_corners(lesion: Mask, steps: Array, coordinates: Array) -> Array:
    middles = (coordinates[1:] + coordinates[:-1]) / 2
    first, last = 2 * coordinates[0] - middles[0], 2 * coordinates[-1] - middles[-1]
    edges = [first, *middles, last]
    corners = {
        (edges[k + i], h + j - 0.5, w + m - 0.5)
        for k, h, w in np.argwhere(lesion)
        for i, j, m in itertools.product((0, 1), repeat=3)
    }
    return np.array(sorted(corners)) @ steps.T


def brute_diameters(area: Mask, steps: Array) -> tuple[float, float]:
    """A and B in one slice; among equally long A the longest B."""
    ring = ((0, 0), (0, 1), (1, 1), (1, 0))
    pixels = [[steps @ (h + i, w + j) for i, j in ring] for h, w in np.argwhere(area).astype(float)]
    corners = np.concatenate(pixels)
    a_mm = brute_longest(corners)
    corners = np.unique(np.round(corners, 12), axis=0)
    directions = [
        (p - q) / a_mm
        for p, q in itertools.combinations(corners, 2)
        if math.dist(p, q) > a_mm * (1 - 1e-9)
    ]
    return a_mm, max(brute_chord(pixels, corners, direction) for direction in directions)


def brute_chord(pixels: list[list[Array]], corners: Array, direction: Array) -> float:
    normal = np.cross(np.cross(pixels[0][1] - pixels[0][0], pixels[0][3] - pixels[0][0]), direction)
    normal /= np.linalg.norm(normal)
    longest = 0.0
    for stop in corners @ direction:
        met: list[float] = []
        for pixel in pixels:
            for p, q in zip(pixel, pixel[1:] + pixel[:1], strict=True):
                before, behind = p @ direction - stop, q @ direction - stop
                if min(abs(before), abs(behind)) < 1e-9:
                    met += [
                        float(x @ normal) for x, d in ((p, before), (q, behind)) if abs(d) < 1e-9
                    ]
                elif before * behind < 0:
                    met.append((p + (q - p) * before / (before - behind)) @ normal)
        longest = max(longest, max(met) - min(met))
    return longest


def brute_largest(mask: Mask, coordinates: Array) -> Mask:
    """The largest lesion, grown voxel by voxel."""
    first, *middle, last = coordinates
    around = [2 * first - middle[0], *coordinates, 2 * last - middle[-1]]
    shares = [(above - below) / 2 for below, above in zip(around, around[2:], strict=False)]
    left = {tuple(voxel) for voxel in np.argwhere(mask).tolist()}
    lesions = []
    while left:
        lesion, todo = set(), [left.pop()]
        while todo:
            voxel = todo.pop()
            lesion.add(voxel)
            near = {v for v in left if all(abs(a - b) < 2 for a, b in zip(v, voxel, strict=True))}
            left -= near
            todo += near
        lesions.append(lesion)
    best = max(lesions, key=lambda lesion: sum(shares[voxel[0]] for voxel in lesion))
    found = np.zeros_like(mask)
    found[tuple(np.array(sorted(best)).T)] = True
    return found


def test_box() -> None:
    mask = box((6, 20, 20), (2, 5, 7), (2, 6, 8))
    measured = measure(mask, grid(5, 0.5, 0.5))
    assert measured.volume_ml == pytest.approx(0.12, rel=1e-12)
    assert (measured.num_voxels, measured.num_lesions) == (96, 1)
    assert measured.lesion_volumes_ml == (measured.volume_ml,)
    assert measured.num_lesion_slices == 2
    assert measured.slice_areas_mm2.tolist() == [0, 0, 12, 12, 0, 0]
    # A is the diagonal of 3 x 4 mm. A line at 90 degrees to it spans the width of 3 mm, of which it
    # is 5/4 long.
    assert lengths(measured) == pytest.approx([5, 3.75, 10, math.hypot(3, 4, 10)], rel=1e-12)
    assert measured.abc2_ml == pytest.approx(5 * 3.75 * 10 / 2000, rel=1e-12)


def test_one_voxel_has_the_extent_of_one_voxel() -> None:
    measured = measure(box((3, 3, 3), (1, 1, 1), (1, 1, 1)), grid(2, 3, 4))
    # Of the two diagonals of 3 x 4 mm, B is the chord across A: 3 mm high, 5/4 as long.
    assert lengths(measured) == pytest.approx([5, 3.75, 2, math.sqrt(29)], rel=1e-12)


def test_line_and_plane_of_voxels() -> None:
    line = measure(box((1, 1, 9), (0, 0, 0), (1, 1, 9)), grid(1, 1, 1))
    assert line.a_mm == pytest.approx(math.hypot(9, 1), rel=1e-12)
    assert line.b_mm == pytest.approx(math.hypot(9, 1) / 9, rel=1e-12)
    assert line.longest_axis_mm == pytest.approx(math.sqrt(83), rel=1e-12)
    plane = measure(box((3, 9, 9), (1, 0, 0), (1, 9, 9)), grid(1, 1, 1))
    assert lengths(plane) == pytest.approx(
        [math.sqrt(162), math.sqrt(162), 1, math.sqrt(163)], rel=1e-12
    )


@pytest.mark.parametrize("spacing", [(1.0, 0.4, 0.5), (0.8, 0.5, 0.3)])
def test_ellipsoid_in_fine_slices(spacing: tuple[float, float, float]) -> None:
    steps, semi_axes = np.array(spacing), np.array([18.0, 24.0, 15.0])
    shape = (61, 131, 111)
    mask = ellipsoid(shape, np.array([30.2, 65.4, 54.7]), semi_axes / steps)
    measured = measure(mask, grid(*spacing))
    true_ml = 4 / 3 * math.pi * float(semi_axes.prod()) / 1000
    assert measured.volume_ml == pytest.approx(true_ml, rel=2e-3)
    # The corners of a pixel lie up to half a diagonal outside, at both ends.
    pixel = math.hypot(*spacing[1:])
    assert 48 < measured.a_mm <= 48 + pixel
    assert 30 - 0.5 < measured.b_mm <= 30 + pixel
    assert 48 < measured.longest_axis_mm <= 48 + float(np.linalg.norm(steps))
    # A slice at z has the part 1 - (z/r)^2 of the largest area: 75 % at r/2, 25 % at sqrt(3)/2 r.
    assert measured.c_mm == pytest.approx(36 * (1 + math.sqrt(3)) / 4, abs=2 * spacing[0])
    # So of an ellipsoid ABC/2 is 3/pi (for 1/2 instead of pi/6) times 0.683 (for C) of the volume.
    assert measured.abc2_ml / true_ml == pytest.approx(0.652, rel=0.05)


def test_elliptic_cylinder_counts_every_slice_fully() -> None:
    h, w = np.indices((140, 140)) - 69.5
    area = (h / 60) ** 2 + (w / 40) ** 2 <= 1
    measured = measure(np.repeat(area[None], 5, axis=0), grid(4, 0.5, 0.5))
    assert measured.c_mm == 20
    assert [measured.a_mm, measured.b_mm] == pytest.approx([60, 40], abs=math.sqrt(0.5))
    assert measured.abc2_ml / measured.volume_ml == pytest.approx(2 / math.pi, rel=0.02)


def test_slices_are_weighted_by_their_part_of_the_largest_area() -> None:
    mask = np.zeros((7, 10, 10), dtype=bool)
    for k, count in enumerate([24, 25, 75, 76, 100, 1]):
        mask[k].reshape(-1)[:count] = True
    assert measure(mask, grid(3, 1, 1)).c_mm == (0 + 0.5 + 0.5 + 1 + 1 + 0) * 3
    coordinates = np.array([0, 1, 2, 4, 6, 7, 8.0])
    # Shares 1, 1, 1.5, 2, 1.5, 1, 1.
    measured = measure(mask, grid(3, 1, 1), coordinates)
    assert measured.c_mm == (0.5 + 0.75 + 2 + 1.5) * 3
    assert measured.volume_ml == pytest.approx((24 + 25 + 112.5 + 152 + 150 + 1) * 3 / 1000)


def test_abc2_is_of_the_largest_lesion_alone() -> None:
    large = box((8, 30, 30), (1, 2, 2), (3, 6, 6))
    both = (
        large | box((8, 30, 30), (5, 10, 10), (1, 9, 9)) | box((8, 30, 30), (1, 29, 29), (1,) * 3)
    )
    alone, measured = measure(large, grid(1, 1, 1)), measure(both, grid(1, 1, 1))
    assert measured.num_lesions == 3
    assert measured.lesion_volumes_ml == pytest.approx((0.108, 0.081, 0.001), rel=1e-12)
    assert measured.volume_ml == pytest.approx(0.19, rel=1e-12)
    assert lengths(measured) == lengths(alone)
    assert measured.abc2_ml == alone.abc2_ml


def test_the_largest_lesion_is_largest_by_volume_not_by_voxels() -> None:
    mask = np.zeros((5, 9, 9), dtype=bool)
    mask[0, :2, :2] = mask[4, :3, 0] = True
    measured = measure(mask, grid(1, 1, 1), np.array([0, 1, 2, 3, 5.0]))
    # Four voxels of 1 mm against three of 2 mm.
    assert measured.lesion_volumes_ml == pytest.approx((0.006, 0.004), rel=1e-12)
    assert measured.a_mm == pytest.approx(math.hypot(3, 1), rel=1e-12)


def test_corners_connect_lesions() -> None:
    mask = np.zeros((2, 2, 2), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert measure(mask, grid(1, 1, 1)).num_lesions == 1


def test_b_is_a_chord_and_not_the_width_of_a_caliper() -> None:
    """A bar with one step up at its left end and one step down at its right end."""
    area = np.zeros((1, 5, 21), dtype=bool)
    area[0, 2] = area[0, :2, 9] = area[0, 3:, 11] = True
    measured = measure(area, grid(1, 1, 1))
    assert (measured.a_mm, measured.b_mm) == pytest.approx(
        brute_diameters(area[0], np.eye(3)[:, 1:]), rel=1e-12
    )
    # Across A the lesion is about 5 mm wide, but no line at 90 degrees to A meets both prongs.
    assert measured.b_mm < 3.2


@pytest.mark.parametrize("tilt_deg", [0.0, 10.0, 18.5, 30.0])
def test_tilt_changes_nothing_within_the_slice_and_no_volume(tilt_deg: float) -> None:
    head = small_head(3)
    upright = measure(head.mask, grid(8, 3.5, 3.5))
    tilted = measure(head.mask, grid(8, 3.5, 3.5, tilt_deg=tilt_deg))
    assert tilted.volume_ml == pytest.approx(head.mask.sum() * 8 * 3.5 * 3.5 / 1000, rel=1e-12)
    assert tilted.slice_areas_mm2 == pytest.approx(upright.slice_areas_mm2, rel=1e-12)
    assert tilted.slice_areas_mm2.sum() * 8 / 1000 == pytest.approx(tilted.volume_ml, rel=1e-12)
    assert lengths(tilted)[:3] == pytest.approx(lengths(upright)[:3], rel=1e-12)


def test_longest_axis_of_a_sheared_box() -> None:
    affine = grid(2, 1, 1, tilt_deg=20)
    measured = measure(box((9, 9, 9), (2, 3, 1), (4, 3, 5)), affine)
    edges = affine[:3, :3] * [4, 3, 5]
    diagonals = [edges @ (1, i, j) for i in (-1, 1) for j in (-1, 1)]
    assert measured.longest_axis_mm == pytest.approx(
        max(float(np.linalg.norm(d)) for d in diagonals), rel=1e-12
    )


def test_uneven_slices_keep_their_own_share() -> None:
    coordinates = np.array([0, 1, 2, 4, 6.0])
    mask = box((5, 8, 8), (1, 2, 2), (3, 2, 2))
    scan = Scan(mask, grid(5, 0.5, 0.5, tilt_deg=18.5), Path("tilted"), coordinates)
    measured = measure(mask, scan.affine, coordinates)
    # Shares 1, 1.5 and 2 of 5 mm.
    assert measured.volume_ml == pytest.approx(22.5 / 1000, rel=1e-12)
    assert measured.volume_ml == pytest.approx(scan.voxel_ml @ mask.sum(axis=(1, 2)), rel=1e-12)
    assert measured.c_mm == pytest.approx(22.5, rel=1e-12)
    # From half a step below slice 1 to half of two steps above slice 3.
    straight = measure(mask, grid(5, 0.5, 0.5), coordinates)
    assert straight.longest_axis_mm == pytest.approx(math.hypot(1, 1, 22.5), rel=1e-12)


def test_even_coordinates_are_as_none() -> None:
    head = small_head(5)
    with_none = measure(head.mask, head.affine)
    even = measure(head.mask, head.affine, np.arange(len(head.mask), dtype=np.float64))
    assert measurement_columns(even) == measurement_columns(with_none)


def test_phantom_through_tilt_and_uneven_slices() -> None:
    """An ellipsoid sampled on a tilted, unevenly spaced stack has its volume and length."""
    affine = grid(1, 0.5, 0.5, tilt_deg=18.5)
    steps = np.where(np.arange(90) % 2, 0.7, 1.3)
    coordinates = np.append(0.0, np.cumsum(steps))
    k, h, w = np.meshgrid(coordinates, np.arange(150), np.arange(110), indexing="ij")
    places = np.stack([k, h, w], axis=-1) @ affine[:3, :3].T
    centre, semi_axes = affine[:3, :3] @ (45.3, 70.2, 55.1), np.array([20.0, 16.0, 24.0])
    mask = (((places - centre) / semi_axes) ** 2).sum(axis=-1) <= 1
    measured = measure(mask, affine, coordinates)
    true_ml = 4 / 3 * math.pi * float(semi_axes.prod()) / 1000
    assert measured.volume_ml == pytest.approx(true_ml, rel=2e-3)
    assert 48 - 1.3 < measured.longest_axis_mm < 48 + 2


@pytest.mark.parametrize("seed", range(6))
def test_pose_of_the_head_changes_nothing(seed: int) -> None:
    head = small_head(seed)
    affine = grid(8, 3, 3.5, tilt_deg=12)
    turned = affine.copy()
    turned[:3] = rotation(seed) @ affine[:3] + np.array([[0, 0, 0, 11], [0] * 4, [0] * 4])
    measured, moved = measure(head.mask, affine), measure(head.mask, turned)
    assert moved.volume_ml == pytest.approx(measured.volume_ml, rel=1e-12)
    assert moved.slice_areas_mm2 == pytest.approx(measured.slice_areas_mm2, rel=1e-12)
    assert lengths(moved) == pytest.approx(lengths(measured), rel=1e-9)


small_masks = arrays(np.bool_, (3, 4, 5)).filter(lambda mask: bool(mask.any()))


def largest_is_alone(measured: Measurement) -> bool:
    first, *others = measured.lesion_volumes_ml
    return not others or others[0] < first * (1 - 1e-9)


@settings(max_examples=60)
@given(small_masks, st.tuples(*[st.booleans()] * 3), st.booleans())
def test_flips_and_swapped_axes_change_nothing(
    mask: Mask, flips: tuple[bool, bool, bool], swap: bool
) -> None:
    affine = grid(2.5, 0.5, 0.75)
    axes = [axis for axis in range(3) if flips[axis]]
    changed, changed_affine = np.flip(mask, tuple(axes)), affine.copy()
    for axis in axes:
        changed_affine[:3, axis] *= -1
    if swap:
        changed, changed_affine = changed.transpose(0, 2, 1), changed_affine[:, [0, 2, 1, 3]]
    measured, same = measure(mask, affine), measure(changed, changed_affine)
    assert same.volume_ml == pytest.approx(measured.volume_ml, rel=1e-12)
    assert same.lesion_volumes_ml == pytest.approx(measured.lesion_volumes_ml, rel=1e-12)
    areas = same.slice_areas_mm2[::-1] if flips[0] else same.slice_areas_mm2
    assert areas == pytest.approx(measured.slice_areas_mm2, rel=1e-12)
    assume(largest_is_alone(measured))
    assert lengths(same) == pytest.approx(lengths(measured), rel=1e-9)


@settings(max_examples=40)
@given(small_masks, st.sampled_from([0.0, 17.0]), st.sampled_from([1.0, 0.75]), st.booleans())
def test_agrees_with_brute_force(
    mask: Mask, tilt_deg: float, column_mm: float, is_even: bool
) -> None:
    affine = grid(2.5, 1.0, column_mm, tilt_deg=tilt_deg)
    coordinates = np.array([0.0, 1.0, 2.0] if is_even else [0.0, 1.0, 2.5])
    measured = measure(mask, affine, coordinates)
    lesion = brute_largest(mask, coordinates)
    assume(largest_is_alone(measured))
    steps = affine[:3, :3]
    assert measured.longest_axis_mm == pytest.approx(
        brute_longest(brute_corners(lesion, steps, coordinates)), rel=1e-12
    )
    areas = lesion.sum(axis=(1, 2))
    candidates = [
        brute_diameters(lesion[k], steps[:, 1:]) for k in np.flatnonzero(areas == areas.max())
    ]
    a_mm = max(a for a, _ in candidates)
    b_mm = max(b for a, b in candidates if a > a_mm * (1 - 1e-9))
    assert [measured.a_mm, measured.b_mm] == pytest.approx([a_mm, b_mm], rel=1e-9)


@settings(max_examples=60)
@given(small_masks, st.floats(0.1, 10), st.floats(0, 40))
def test_properties(mask: Mask, scale: float, tilt_deg: float) -> None:
    affine = grid(2.0, 0.5, 0.5, tilt_deg=tilt_deg)
    measured = measure(mask, affine)
    assert measured.volume_ml == pytest.approx(sum(measured.lesion_volumes_ml), rel=1e-12)
    assert measured.volume_ml == pytest.approx(mask.sum() * 0.5 / 1000, rel=1e-12)
    assert list(measured.lesion_volumes_ml) == sorted(measured.lesion_volumes_ml, reverse=True)
    # A pixel is 0.5 x 0.5 mm. A chord across the longest distance is no longer than it.
    assert math.hypot(0.5, 0.5) - 1e-12 <= measured.a_mm <= measured.longest_axis_mm + 1e-12
    assert 0.5 - 1e-12 <= measured.b_mm <= measured.a_mm * (1 + 1e-9)
    assert 2 - 1e-12 <= measured.c_mm <= 6 + 1e-12
    scaled = affine.copy()
    scaled[:3] *= scale
    larger = measure(mask, scaled)
    assert larger.volume_ml == pytest.approx(measured.volume_ml * scale**3, rel=1e-9)
    assert larger.abc2_ml == pytest.approx(measured.abc2_ml * scale**3, rel=1e-6)
    assert lengths(larger) == pytest.approx([x * scale for x in lengths(measured)], rel=1e-6)
    # More room around the mask is no part of it.
    padded = measure(np.pad(mask, 2), affine)
    assert lengths(padded) == pytest.approx(lengths(measured), rel=1e-12)


def test_empty_mask_has_a_volume_but_no_lengths() -> None:
    measured = measure(np.zeros((4, 5, 6), dtype=bool), grid(5, 1, 1))
    assert (measured.volume_ml, measured.num_voxels, measured.num_lesions) == (0.0, 0, 0)
    assert (measured.lesion_volumes_ml, measured.num_lesion_slices) == ((), 0)
    assert measured.slice_areas_mm2.tolist() == [0.0] * 4
    undefined = [*lengths(measured), measured.abc2_ml]
    assert all(math.isnan(value) for value in undefined)


def test_without_geometry_only_counts_are_defined() -> None:
    mask = box((2, 9, 9), (0, 1, 1), (1, 3, 3)) | box((2, 9, 9), (1, 8, 8), (1, 1, 1))
    measured = measure(mask, None)
    assert (measured.num_voxels, measured.num_lesions, measured.num_lesion_slices) == (10, 2, 2)
    assert len(measured.lesion_volumes_ml) == 2
    undefined = [
        *(measured.volume_ml, measured.abc2_ml, *measured.lesion_volumes_ml, *lengths(measured)),
        *measured.slice_areas_mm2,
    ]
    assert all(math.isnan(value) for value in undefined)
    columns = measurement_columns(measured)
    assert columns["slice_areas_mm2"] == ""
    assert (columns["num_slices"], columns["num_voxels"]) == (2, 10)


def test_columns_are_rounded_to_seven_digits() -> None:
    mask = box((3, 9, 9), (1, 1, 1), (1, 3, 3))
    columns = measurement_columns(measure(mask, grid(5, 0.4882812, 0.4882812)))
    assert tuple(columns) == MEASUREMENT_COLUMNS
    assert columns["volume_ml"] == columns["largest_lesion_ml"] == 0.01072883
    assert columns["slice_areas_mm2"] == "0;2.145767;0"
    assert columns["a_mm"] == columns["b_mm"] == 2.071602
    assert (columns["num_slices"], columns["num_lesion_slices"]) == (3, 1)


def test_columns_of_an_empty_mask() -> None:
    columns = measurement_columns(measure(np.zeros((2, 3, 3), dtype=bool), grid(5, 1, 1)))
    assert (columns["volume_ml"], columns["slice_areas_mm2"]) == (0.0, "0;0")
    for name in ("largest_lesion_ml", "abc2_ml", "a_mm", "b_mm", "c_mm", "longest_axis_mm"):
        assert math.isnan(float(str(columns[name])))


@pytest.mark.parametrize(
    ("mask", "affine", "coordinates", "error", "message"),
    [
        (np.zeros((2, 3, 3), np.uint8), np.eye(4), None, TypeError, "mask is uint8"),
        (np.zeros((3, 3), bool), np.eye(4), None, ValueError, r"shape \(3, 3\)"),
        (np.zeros((0, 3, 3), bool), np.eye(4), None, ValueError, r"shape \(0, 3, 3\)"),
        (np.zeros((2, 3, 3), bool), np.eye(3), None, ValueError, r"affine has shape \(3, 3\)"),
        (
            np.zeros((2, 3, 3), bool),
            np.diag([1, 0, 1, 1.0]),
            None,
            ValueError,
            "expected one that can",
        ),
        (
            np.zeros((2, 3, 3), bool),
            np.full((4, 4), np.nan),
            None,
            ValueError,
            "expected one that can",
        ),
        (np.zeros((2, 3, 3), bool), np.eye(4), np.array([1.0, 1]), ValueError, "expected 2 incr"),
        (np.zeros((2, 3, 3), bool), np.eye(4), np.arange(3.0), ValueError, r"\[0.0, 1.0, 2.0\]"),
    ],
)
def test_refuses_wrong_calls(
    mask: Mask, affine: Array, coordinates: Array | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        measure(mask, affine, coordinates)


def test_ellipses_on_pixels_are_up_to_a_diagonal_longer() -> None:
    """What docs/metrics.md says of the convention that a lesion ends at the corners of pixels."""
    random = np.random.default_rng(2)
    excess = []
    for _ in range(40):
        a, turn = random.uniform(10, 40), random.uniform(0, math.pi)
        h, w = np.indices((91, 91)) - (45 + random.uniform(-0.5, 0.5, 2))[:, None, None]
        u = h * math.cos(turn) + w * math.sin(turn)
        v = w * math.cos(turn) - h * math.sin(turn)
        area = (u / a) ** 2 + (v / (a * random.uniform(0.5, 1))) ** 2 <= 1
        excess.append(measure(area[None], grid(5, 1, 1)).a_mm - 2 * a)
    assert min(excess) > 0
    assert max(excess) <= math.sqrt(2)
    assert 0.8 < np.mean(excess) < 1.0


def test_a_whole_head_is_measured_in_a_moment() -> None:
    centre, semi_axes = np.array([15.3, 250.2, 260.1]), np.array([4.9, 54, 54])
    mask = ellipsoid((32, 512, 512), centre, semi_axes)
    affine, seconds = grid(5, 0.45, 0.45), []
    for _ in range(3):
        start = time.perf_counter()
        measured = measure(mask, affine)
        seconds.append(time.perf_counter() - start)
    assert 55 < measured.volume_ml < 65
    assert min(seconds) < 0.3


@pytest.mark.parametrize("part", [0.1, 0.3, 0.6])
def test_noise_for_a_mask_does_not_hang(part: float) -> None:
    """What an untrained network gives: outlines of a million sides."""
    mask = np.random.default_rng(1).random((8, 512, 512)) < part
    start = time.perf_counter()
    measured = measure(mask, grid(5, 0.45, 0.45))
    assert time.perf_counter() - start < 5
    assert measured.num_voxels == mask.sum()
