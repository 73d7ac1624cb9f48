"""Frames of a DICOM series as a stack: sorted by position, with the geometry that they have.

A stack is a grid of pixels that is carried along a line. The line need not be perpendicular to the
slices (gantry tilt), and the steps along it need not be even; both are kept as they are.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemaseg.dicom.objects import Frame
from hemaseg.scans.plausibility import TILT_DEG
from hemaseg.scans.scan import display_orientation, to_display
from hemaseg.scans.screening import Screen

ORIENTATION_TOLERANCE = 1e-3
"""Difference of direction cosines within a series; 0.25 mm on the far side of a head."""
SAME_PLACE_MM = 0.01
"""Slices that are closer along the normal are at one position."""
OFF_LINE_MM = 0.2
"""Distance of a slice's origin from the line of the stack: positions rounded to 0.1 mm pass."""
EVEN_MM = 0.1
"""Distance of slices from an even grid, or a fifth of its step if that is less, that is rounding
of positions and not uneven spacing."""
GAP_RATIO = 1.5
"""A step that is so many times longer than those beside it is a gap."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Geometry of sorted slices.

    Attributes:
        affine: (4, 4), takes (slice, row, column, 1) to RAS mm.
        coordinates: (slice,) from 0, in steps of the affine; None where they are 0, 1, 2, ...
    """

    affine: NDArray[np.float64]
    coordinates: NDArray[np.float64] | None


def heights(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """(frame,) positions along the normal of the first frame in mm."""
    normal = np.cross(frames[0].across, frames[0].down)
    return np.array([float(frame.position @ normal) for frame in frames])


def same_places(frames: Sequence[Frame]) -> list[list[int]]:
    """Indices of the frames at each position along the normal, positions increasing.

    >>> from dataclasses import replace
    >>> x, y, z = np.eye(3)
    >>> one = Frame(1, None, 5 * z, x, y, (1, 1), None, None, 1, 0)
    >>> same_places([one, replace(one, position=0 * z), one])
    [[1], [0, 2]]
    """
    height = heights(frames)
    order = [int(index) for index in np.argsort(height, kind="stable")]
    places = [order[:1]]
    for below, index in pairwise(order):
        if height[index] - height[below] < SAME_PLACE_MM:
            places[-1].append(index)
        else:
            places.append([index])
    return places


def check_same_way(frames: Sequence[Frame], screen: Screen) -> None:
    """Refuse frames that face different ways or have different pixels.

    Raises:
        ScanError: Directions or pixel spacings differ.
    """
    directions = np.array([(*frame.across, *frame.down) for frame in frames])
    spread = float(np.ptp(directions, axis=0).max())
    if spread > ORIENTATION_TOLERANCE:
        raise screen.error(
            "mixed-orientations",
            f"direction cosines of the slices differ by up to {spread:.3g}, expected one "
            "orientation. Give slices of one orientation alone.",
        )
    spacings = np.array([frame.spacing for frame in frames])
    if (np.ptp(spacings, axis=0) > 1e-3 * spacings.min(axis=0)).any():
        low, high = spacings.min(), spacings.max()
        raise screen.error(
            "mixed-grids",
            f"pixel spacings from {low:g} to {high:g} mm, expected one. Give slices of one "
            "resolution alone.",
        )


def stack(frames: Sequence[Frame], screen: Screen) -> Stack:
    """Geometry of frames that are sorted along their normal, one at each position.

    Raises:
        ScanError: Slices are missing (unless accepted), do not lie on one line, or there is but one
            and its thickness is unknown.
    """
    first = frames[0]
    normal = np.cross(first.across, first.down)
    normal /= np.linalg.norm(normal)
    origins = np.array([frame.position for frame in frames])
    if len(frames) == 1:
        line, places = normal, np.zeros(1)
        unit = first.distance or first.thickness or 0.0
        if not 1e-4 < unit < 1e4:
            raise screen.error(
                "missing-attribute",
                f"one slice of {unit:g} mm by SpacingBetweenSlices or SliceThickness, "
                "expected 0.0001 to 10,000: its volume is unknown. Give the whole series.",
            )
    else:
        line = (origins[-1] - origins[0]) / np.linalg.norm(origins[-1] - origins[0])
        places = (origins - origins[0]) @ line
        _check_line(origins - origins[0] - places[:, None] * line, screen)
        _check_order(frames, screen)
        _check_gaps(frames, np.diff(places), screen)
        _note_thin_slices(frames, np.diff(places), screen)
        unit = float(places[-1]) / (len(frames) - 1)
    tilt_deg = math.degrees(math.acos(min(1.0, float(line @ normal))))
    if tilt_deg > TILT_DEG:
        screen.report(
            "gantry-tilt",
            f"slices tilted {tilt_deg:.1f} degrees against the stack; volumes are taken "
            "perpendicular to them",
        )
    coordinates = None
    if np.abs(places - unit * np.arange(len(frames))).max() > min(EVEN_MM, unit / 5):
        steps = np.diff(places)
        screen.report(
            "uneven-spacing",
            f"slices {steps.min():.4g} to {steps.max():.4g} mm apart; each keeps its own share of "
            "the volume",
        )
        unit = float(np.median(steps))
        coordinates = places / unit
    affine = np.eye(4)
    affine[:3, 0] = line * unit
    affine[:3, 1] = first.down * first.spacing[0]
    affine[:3, 2] = first.across * first.spacing[1]
    affine[:3, 3] = first.position
    affine[:2] *= -1  # LPS to RAS.
    return Stack(affine, coordinates)


def displayed(
    stored: NDArray[Any], geometry: Stack, screen: Screen
) -> tuple[NDArray[Any], Stack, NDArray[np.float64]]:
    """Stored slices in display order, their geometry, and the axes as `Scan.stored_axes`.

    Args:
        stored: (slice, row, column).
        geometry: Of the stored slices.
        screen: Of the scan.

    Raises:
        ScanError: Uneven slices that are not axial.
    """
    affine, coordinates = geometry.affine, geometry.coordinates
    axes = display_orientation(affine)
    if coordinates is not None and axes[0, 0] != 0:
        raise screen.error(
            "uneven-not-axial",
            "slices at uneven distances that are not axial, expected even ones: they cannot be "
            "shown as axial slices. Resample the series, or take an axial one.",
        )
    voxels, display = to_display(stored, affine, axes)
    if coordinates is not None and axes[0, 1] < 0:
        # The last stored slice comes first, and does not lie where even steps would have it.
        display[:3, 3] += affine[:3, 0] * (coordinates[-1] - (len(stored) - 1))
        coordinates = (coordinates[-1] - coordinates)[::-1].copy()
    return voxels, Stack(display, coordinates), axes


def _check_line(offsets: NDArray[np.float64], screen: Screen) -> None:
    """Refuse slices whose origins are off the line from the first to the last."""
    off_mm = float(np.linalg.norm(offsets, axis=1).max())
    if off_mm > OFF_LINE_MM:
        raise screen.error(
            "slices-off-line",
            f"slices shifted by up to {off_mm:.2f} mm against each other, expected at most "
            f"{OFF_LINE_MM} mm. Give slices of one stack alone, or resample them.",
        )


def _check_order(frames: Sequence[Frame], screen: Screen) -> None:
    """Note numbers that go up and down along the stack."""
    numbers = [frame.instance for frame in frames if frame.instance is not None]
    if len(numbers) == len(frames):
        ups = [later > earlier for earlier, later in pairwise(numbers)]
        if any(ups) and not all(ups):
            screen.report(
                "slices-sorted",
                f"instance numbers that go both up and down along the {len(frames)} slices; sorted "
                "by position",
            )


def _check_gaps(frames: Sequence[Frame], steps: NDArray[np.float64], screen: Screen) -> None:
    """Refuse steps that are gaps, unless that is accepted."""
    gaps = find_gaps(
        steps, [frame.instance for frame in frames], [frame.thickness for frame in frames]
    )
    if gaps:
        usual = float(np.median(np.delete(steps, gaps)))
        screen.refuse(
            "missing-slices",
            f"{len(gaps)} of {len(steps)} steps between slices are gaps, the longest of "
            f"{steps[gaps].max():.4g} mm where {usual:.4g} mm is usual, expected none. Export the "
            "whole series again.",
        )


def _note_thin_slices(frames: Sequence[Frame], steps: NDArray[np.float64], screen: Screen) -> None:
    """Note slices that are much thinner than their distance: every second one may be missing."""
    thicknesses = [frame.thickness for frame in frames if frame.thickness]
    usual = float(np.median(steps))
    if len(thicknesses) == len(frames) and usual >= GAP_RATIO * max(thicknesses):
        screen.report(
            "wide-gaps",
            f"slices {usual:.4g} mm apart and at most {max(thicknesses):.4g} mm thick; what lies "
            "between them is taken to be as in the slice",
        )


def find_gaps(
    steps: NDArray[np.float64], instances: list[int | None], thicknesses: list[float | None]
) -> list[int]:
    """Indices of the steps where slices are missing.

    A step is a gap if it is `GAP_RATIO` times as long as those beside it, and slices are not
    thicker on one side of it; or if InstanceNumber skips numbers there and the step is a whole
    multiple of the nearest ones without a skip. Blocks of different spacing are no gaps.

    Args:
        steps: (K-1,) between neighbouring slices.
        instances: (K,) InstanceNumber.
        thicknesses: (K,) SliceThickness.

    >>> find_gaps(np.array([5.0, 5.0, 10.0, 5.0]), [1, 2, 3, 5, 6], [5.0] * 5)
    [2]
    >>> find_gaps(np.array([5.0, 5.0, 7.0, 7.0]), [1, 2, 3, 4, 5], [5.0, 5.0, 5.0, 7.0, 7.0])
    []
    """
    known = [number for number in instances if number is not None]
    skips = np.abs(np.diff(known)) != 1 if len(known) == len(instances) else np.array([])
    whole = [index for index in range(len(steps)) if skips.size and not skips[index]]
    gaps = []
    for index, step in enumerate(steps):
        beside = _beside(index, range(len(steps)))
        is_long = bool(beside) and all(step >= GAP_RATIO * steps[other] for other in beside)
        if is_long and thicknesses[index] == thicknesses[index + 1]:
            gaps.append(index)
        elif skips.size and skips[index] and (near := _beside(index, whole)):
            ratios = [float(step / steps[other]) for other in near]
            if all(round(ratio) >= 2 and abs(ratio - round(ratio)) < 0.1 for ratio in ratios):
                gaps.append(index)
    return gaps


def _beside(index: int, others: Sequence[int]) -> list[int]:
    """The nearest of the others (increasing) on each side; at an end, the nearest two."""
    place = bisect_left(others, index)
    before = list(others[max(0, place - 2) : place])
    after = [other for other in others[place : place + 3] if other != index][:2]
    return [before[-1], after[0]] if before and after else before + after
