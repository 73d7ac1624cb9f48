"""How large the lesions of one mask are: volume, areas, axes, and ABC/2 beside them.

A mask is taken as the body that its voxels fill: each voxel is a box (a parallelepiped where the
grid is tilted) whose faces lie halfway to its neighbours, and an end slice reaches as far outward
as inward. Everything is measured on this one body, so that volumes, areas and lengths agree.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from hemaseg.metrics.lesions import lesion_sizes
from hemaseg.scans.scan import slice_shares

MEASUREMENT_COLUMNS = (
    *("volume_ml", "num_voxels", "num_lesions", "largest_lesion_ml"),
    *("abc2_ml", "a_mm", "b_mm", "c_mm", "longest_axis_mm"),
    *("num_slices", "num_lesion_slices", "slice_areas_mm2"),
)
"""Columns of a table of measurements; see `measurement_columns`."""

_SIGNIFICANT_DIGITS = 7
# Lengths that differ by less are equal but for rounding; relative to the longest.
_TIE = 1e-9


@dataclass(frozen=True, eq=False)
class Measurement:
    """What is measured in one mask of K slices; mm and mL are NaN without geometry.

    Attributes:
        volume_ml: Sum over slices of area times the slice's own share of the distance to its
            neighbours, perpendicular to the slice (`scans.scan.slice_shares`). 0 for an empty mask.
        num_voxels: In the mask.
        num_lesions: Components whose voxels share a face, an edge or a corner.
        lesion_volumes_ml: Volume of each lesion, largest first.
        num_lesion_slices: Slices that the mask is in.
        slice_areas_mm2: (K,) area of the mask in each slice, in the plane of the slice.
        a_mm: A of ABC/2, see `measure`. NaN for an empty mask, as are all lengths.
        b_mm: B of ABC/2.
        c_mm: C of ABC/2.
        longest_axis_mm: Largest distance in space between two points of the largest lesion.
    """

    volume_ml: float
    num_voxels: int
    num_lesions: int
    lesion_volumes_ml: tuple[float, ...]
    num_lesion_slices: int
    slice_areas_mm2: NDArray[np.float64]
    a_mm: float
    b_mm: float
    c_mm: float
    longest_axis_mm: float

    @property
    def abc2_ml(self) -> float:
        """ABC/2 of the largest lesion in mL; NaN if there is none."""
        return self.a_mm * self.b_mm * self.c_mm / 2000


def measure(
    mask: NDArray[np.bool_],
    affine: NDArray[np.float64] | None,
    slice_coordinates: NDArray[np.float64] | None = None,
) -> Measurement:
    """Measure a mask.

    ABC/2 (Kothari et al.) estimates the volume of *one* hematoma as that of an ellipsoid, with 1/2
    for pi/6; here it is that of the largest lesion (by volume; of equal ones the lowest):

    - A is the longest distance between two of its points in the slice where its area is largest.
    - B is the longest distance between two of its points in that slice on a line at 90 degrees
      to A. This is what a reader draws; the caliper width across A would not be on one line.
    - C is the sum of the slices' shares, perpendicular to the slice. A slice counts fully if the
      lesion's area there is more than 75 % of the largest, half from 25 to 75 %, not below.

    Where several slices have the largest area, or several A are equally long, it is the one with
    the longest A, and then the longest B. Points are those of whole pixels, corners included, as
    in ImageJ: a lesion that is one pixel wide is not 0 mm wide.

    Args:
        mask: (K, H, W) in display order.
        affine: (4, 4), takes (k, h, w, 1) to RAS mm; None where there is no geometry.
        slice_coordinates: (K,) places of the slices in units of the affine's slice step,
            increasing; None for 0, 1, 2, ...

    Raises:
        TypeError: The mask is not a boolean array.
        ValueError: Mask, affine or coordinates have another shape, the affine has no inverse, or
            the coordinates do not increase.

    Example: a lesion of 3 x 4 mm in two slices, 5 mm apart.
        >>> mask = np.zeros((4, 9, 9), dtype=bool)
        >>> mask[1:3, 2:5, 3:7] = True
        >>> measured = measure(mask, np.diag([5.0, 1.0, 1.0, 1.0]))
        >>> measured.volume_ml, measured.a_mm, measured.c_mm
        (0.12, 5.0, 10.0)

    Source: Kothari et al., Stroke 27 (1996) 1304.
    """
    _require(mask, affine, slice_coordinates)
    shares = slice_shares(slice_coordinates, len(mask))
    steps = np.full((3, 3), math.nan) if affine is None else affine[:3, :3]
    normal_mm2 = np.cross(steps[:, 1], steps[:, 2])
    pixel_mm2 = float(np.linalg.norm(normal_mm2))
    voxel_ml = float(abs(normal_mm2 @ steps[:, 0])) / 1000
    areas = np.count_nonzero(mask, axis=(1, 2))
    box = ndimage.find_objects(mask.view(np.uint8))
    lesions_ml, a_mm, b_mm, c_mm, longest_mm = [], math.nan, math.nan, math.nan, math.nan
    if box:
        labels, sizes = lesion_sizes(mask[box[0]], shares[box[0][0]])
        lesions_ml = np.sort(sizes * voxel_ml)[::-1].tolist()
        if affine is not None:
            largest = labels == sizes.argmax() + 1
            # (K + 1,) coordinates of the lower face of each slice, and the upper one of the last.
            first = 0.0 if slice_coordinates is None else slice_coordinates[0]
            edges = first - shares[0] / 2 + np.append(0.0, np.cumsum(shares))
            a_mm, b_mm = _diameters(largest, steps[:, 1:])
            # Perpendicular to the slice, whatever the tilt of the stack.
            thickness_mm = voxel_ml * 1000 / pixel_mm2 * shares
            c_mm = _weighted_extent(largest, thickness_mm[box[0][0]])
            longest_mm = _longest_axis(largest, edges[box[0][0].start :], steps)
    return Measurement(
        volume_ml=float(areas @ shares) * voxel_ml,
        num_voxels=int(areas.sum()),
        num_lesions=len(lesions_ml),
        lesion_volumes_ml=tuple(lesions_ml),
        num_lesion_slices=int(np.count_nonzero(areas)),
        slice_areas_mm2=areas * pixel_mm2,
        a_mm=a_mm,
        b_mm=b_mm,
        c_mm=c_mm,
        longest_axis_mm=longest_mm,
    )


def measurement_columns(measurement: Measurement) -> dict[str, object]:
    """The measurement as a row of a table, with the keys `MEASUREMENT_COLUMNS`.

    Numbers have 7 significant digits: the geometry of a NIfTI file has no more, and noise of
    arithmetic does not show. What is undefined is NaN, or an empty text for the areas, which are
    joined by semicolons, the lowest slice first.

    >>> columns = measurement_columns(measure(np.ones((2, 1, 1), bool), np.diag([3, 0.1, 0.1, 1])))
    >>> columns["volume_ml"], columns["slice_areas_mm2"]
    (6e-05, '0.01;0.01')
    """
    areas, lesions_ml = measurement.slice_areas_mm2, measurement.lesion_volumes_ml
    return {
        "volume_ml": _rounded(measurement.volume_ml),
        "num_voxels": measurement.num_voxels,
        "num_lesions": measurement.num_lesions,
        "largest_lesion_ml": _rounded(lesions_ml[0] if lesions_ml else math.nan),
        "abc2_ml": _rounded(measurement.abc2_ml),
        "a_mm": _rounded(measurement.a_mm),
        "b_mm": _rounded(measurement.b_mm),
        "c_mm": _rounded(measurement.c_mm),
        "longest_axis_mm": _rounded(measurement.longest_axis_mm),
        "num_slices": len(areas),
        "num_lesion_slices": measurement.num_lesion_slices,
        "slice_areas_mm2": ";".join(
            f"{area:.{_SIGNIFICANT_DIGITS}g}" for area in areas if not math.isnan(area)
        ),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{_SIGNIFICANT_DIGITS}g}")


def _require(
    mask: NDArray[np.bool_],
    affine: NDArray[np.float64] | None,
    coordinates: NDArray[np.float64] | None,
) -> None:
    if mask.dtype != np.bool_:
        raise TypeError(f"mask is {mask.dtype}, expected bool; compare with a threshold first")
    if mask.ndim != 3 or not mask.size:
        raise ValueError(f"mask has shape {mask.shape}, expected (slices, rows, columns)")
    if affine is not None:
        if affine.shape != (4, 4):
            raise ValueError(f"affine has shape {affine.shape}, expected (4, 4)")
        if not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
            raise ValueError(f"affine is {affine[:3].tolist()}, expected one that can be inverted")
    if coordinates is not None and (
        coordinates.shape != (len(mask),) or not (np.diff(coordinates) > 0).all()
    ):
        raise ValueError(
            f"slice_coordinates are {coordinates.tolist()}, expected {len(mask)} increasing numbers"
        )


def _weighted_extent(lesion: NDArray[np.bool_], thickness_mm: NDArray[np.float64]) -> float:
    """C of ABC/2 in mm; all slices have pixels of one size, so counts compare as areas do."""
    counts = np.count_nonzero(lesion, axis=(1, 2))
    quarters, largest = 4 * counts, counts.max()
    weights = np.select([quarters > 3 * largest, quarters >= largest], [1.0, 0.5], 0.0)
    return float(weights @ thickness_mm)


def _longest_axis(
    lesion: NDArray[np.bool_], edges: NDArray[np.float64], steps: NDArray[np.float64]
) -> float:
    """Largest distance in mm between two corners of voxels."""
    corners = _corners(lesion).astype(np.float64)
    corners[:, 0] = edges[corners[:, 0].astype(np.intp)]
    return float(pdist(_hull(corners) @ steps.T).max())


def _diameters(lesion: NDArray[np.bool_], steps: NDArray[np.float64]) -> tuple[float, float]:
    """A and B of ABC/2 in mm of a lesion (K, H, W); `steps` (3, 2) leads to next row and column."""
    # The same lengths and angles in the plane of the slice: steps = (orthonormal) @ frame.
    frame = np.linalg.qr(steps).R
    counts = np.count_nonzero(lesion, axis=(1, 2))
    longest = []
    for area in lesion[counts == counts.max()]:
        hull = _hull(_corners(area)) @ frame.T
        starts, ends = np.triu_indices(len(hull), 1)
        across = hull[ends] - hull[starts]
        lengths = np.hypot(*across.T)
        is_longest = lengths >= lengths.max() * (1 - _TIE)
        outline = _outline(area) @ frame.T
        longest += [
            (float(length), direction / length, outline)
            for length, direction in zip(lengths[is_longest], across[is_longest], strict=True)
        ]
    a_mm = max(length for length, _, _ in longest)
    return a_mm, max(
        _longest_chord(outline, direction, a_mm)
        for length, direction, outline in longest
        if length >= a_mm * (1 - _TIE)
    )


def _corners(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Corners (N, D) of the first and last voxel of each row of a D-dimensional mask.

    They have the same convex hull as the corners of all voxels. Voxel i reaches from i to i + 1.
    """
    rows = np.argwhere(mask.any(axis=-1))
    along = mask[tuple(rows.T)]
    ends = along.argmax(axis=1), along.shape[1] - along[:, ::-1].argmax(axis=1)
    offsets = itertools.product((0, 1), repeat=rows.shape[1])
    return np.concatenate(
        [np.column_stack([rows + offset, end]) for offset in offsets for end in ends]
    )


def _hull(points: NDArray[np.float64] | NDArray[np.intp]) -> NDArray[np.float64]:
    """Those of the points that span their convex hull; corners of voxels never lie in a plane."""
    return points[ConvexHull(points).vertices].astype(np.float64)


def _outline(area: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N, 2, 2) the sides of pixels (N) between area and surroundings: from (h, w) to (h, w)."""
    padded = np.pad(area, 1)
    down, right = np.eye(2)
    level = np.argwhere(padded[1:] != padded[:-1]) - right
    upright = np.argwhere(padded[:, 1:] != padded[:, :-1]) - down
    return np.concatenate(
        [np.stack([level, level + right], axis=1), np.stack([upright, upright + down], axis=1)]
    )


def _longest_chord(
    outline: NDArray[np.float64], direction: NDArray[np.float64], a_mm: float
) -> float:
    """Longest distance between two points of an outline on a line perpendicular to a direction.

    Between the ends of sides the length is a linear function of the line's place, so that it is
    largest at an end of some side: these places are the stops. Stops are searched in blocks, those
    first whose sides lie farthest apart, until no other block can have a longer chord.

    Args:
        outline: (N, 2, 2) sides in mm, from point to point.
        direction: (2,) unit vector along A.
        a_mm: Length of A; a line meets what lies within 1e-9 of it.
    """
    places, heights = outline @ direction, outline @ np.array([-direction[1], direction[0]])
    first, last = places.min(axis=1) - _TIE * a_mm, places.max(axis=1) + _TIE * a_mm
    stops = np.unique(places)
    cuts = np.linspace(stops[0], stops[-1], math.isqrt(len(outline)))[1:-1]
    blocks = []
    for block in np.split(stops, np.searchsorted(stops, cuts)):
        if block.size:
            sides = np.flatnonzero((first <= block[-1]) & (last >= block[0]))
            blocks.append((float(np.ptp(heights[sides])), block[:, None], sides))
    longest = 0.0
    for bound, stop, sides in sorted(blocks, key=lambda block: -block[0]):
        if bound <= longest:
            break
        (start, end), (low, high) = places[sides].T, heights[sides].T
        # A side along the line counts with one end; the other is an end of its neighbour too.
        part = np.clip((stop - start) / np.where(start == end, 1.0, end - start), 0, 1)
        is_met = (first[sides] <= stop) & (stop <= last[sides])
        met = np.where(is_met, low + part * (high - low), math.nan)
        longest = max(longest, float((np.nanmax(met, axis=1) - np.nanmin(met, axis=1)).max()))
    return longest
