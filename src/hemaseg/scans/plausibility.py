"""Whether a scan can be a head in axial slices: what is asked of any scan that is to be segmented.

The limits are wide: no head shall be refused, and what is refused would give a wrong mask or volume
without any other sign.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemaseg.scans.scan import Scan
from hemaseg.scans.screening import Screen, kinds_of

MAX_PIXEL_ASPECT = 1.5
"""Longer over shorter side of an axial pixel. Networks see pixels, so a longer one is squeezed."""

MAX_LABEL = 16
"""Whole numbers up to it are labels; a picture in 8 bits goes on to some hundred."""

MIN_SLICES = 3
MIN_FIELD_MM, MAX_FIELD_MM = 80.0, 700.0
"""Width of a newborn's head, cropped closely; and a scanner's bore, or a trunk."""

MAX_SHEAR_DEG = 5.0
"""Rows against columns: shifts the far side of a head by a twelfth of its width."""

OBLIQUE_DEG = 10.0
"""Slices against the axial plane. Heads are tilted less within usual angulation."""

TILT_DEG = 1.0
"""Stack against the normal of its slices: 1 degree makes a product of spacings 0.02 % wrong."""

_AIR_HU = -1100, -850
_SOFT_TISSUE_HU = -100, 150
_USUAL_OFFSET = 1024

_MIDDLE_HU = -150, 200
"""Median of the middle of a head: brain; bone and soft tissue where the neck is in the middle."""

_LEAST_SOFT = 0.15
"""Of the voxels, soft tissue where the middle of the field of view is none: a head aside."""


def screen_scan(scan: Scan, screen: Screen) -> Scan:
    """A scan with the findings of screening it for segmentation; not for masks.

    Args:
        scan: As read.
        screen: Of this scan; its modality counts where the scan does not know its own.

    Returns:
        The scan with its own findings and those of `screen`.

    Raises:
        ScanError: It is constant or a label map, or its modality is CT and its values cannot be HU;
            or, unless accepted, it has too few slices, is not the size of a head, is not axial, or
            sheared.
    """
    low, high = scan.voxels.min(), scan.voxels.max()
    if low == high:
        raise screen.error(
            "constant",
            f"all {scan.voxels.size:,} voxels are {low:g}, expected a picture of a head. "
            "Export the scan again.",
        )
    if labels := _labels(scan.voxels, float(low), float(high)):
        raise screen.error(
            "label-map",
            f"{labels}, expected a picture of a head: it looks like a mask. Give the scan itself; "
            "hemaseg measure takes masks.",
        )
    if scan.affine is not None:
        if (scan.modality or screen.options.modality) == "CT" and (reason := _not_hu(scan.voxels)):
            raise screen.error("not-hu", reason)
        _screen_field(scan, screen)
        _screen_angles(scan.affine, screen, is_tilt_known="gantry-tilt" in kinds_of(scan.findings))
    return replace(scan, findings=tuple(dict.fromkeys((*scan.findings, *screen.findings))))


def _labels(voxels: NDArray[Any], low: float, high: float) -> str:
    """What makes a scan a mask or label map; empty if it is none."""
    if low != 0:
        return ""
    if ((voxels == 0) | (voxels == high)).all():
        return f"all voxels are 0 or {high:g}"
    if high <= MAX_LABEL and np.array_equal(voxels, np.trunc(voxels)):
        return f"all voxels are whole numbers from 0 to {high:g}"
    return ""


def non_axial(spacing_mm: tuple[float, float, float]) -> str:
    """Why slices of this spacing cannot be shown as axial ones; empty if they can.

    A sagittal or coronal series has its slice distance as one side of each axial pixel.

    Args:
        spacing_mm: Slice, row, column.

    >>> non_axial((3.0, 1.0, 1.0))
    ''
    """
    _, row_mm, column_mm = spacing_mm
    if max(row_mm, column_mm) <= MAX_PIXEL_ASPECT * min(row_mm, column_mm):
        return ""
    return (
        f"axial pixels of {row_mm:g} x {column_mm:g} mm, expected nearly square ones (at most "
        f"{MAX_PIXEL_ASPECT} to 1). Resample the scan, or take an axial one."
    )


def _not_hu(voxels: NDArray[Any]) -> str:
    """Why the values of a CT cannot be HU; empty if they can.

    Pictures are no matter here: their window was applied when they were exported. Skull-stripped
    heads with a background of 0, values clipped to a window, and any padding pass.
    """
    low, high = float(voxels.min()), float(voxels.max())
    found = f"values of a CT from {low:g} to {high:g}"
    if voxels.dtype.kind == "u":
        return (
            f"{found} in unsigned {voxels.dtype}, expected HU, which can be negative. Subtract the "
            "offset of the export (often 1024) and save as signed values, or export again in HU."
        )
    if high < 20 or max(-low, high) > 32768:
        return (
            f"{found}, expected HU, of which brain has 20 to 45 and bone at most some thousand. "
            "Export the scan again in HU, without normalisation."
        )
    if _share(voxels, *_AIR_HU) < 0.001:
        # No air at -1000: either masked or clipped, or it lies at 0 because an offset was added.
        # Then soft tissue, half of a head, is where HU have dense bone, and only some of it.
        first, last = (edge + _USUAL_OFFSET for edge in _SOFT_TISSUE_HU)
        shifted = _share(voxels, first, last)
        if shifted > max(0.05, 0.5 * _share(voxels, 200, np.inf)):
            return (
                f"{found}, {shifted:.0%} of them from {first} to {last} and no air near -1000, "
                f"expected HU: they look like HU + {_USUAL_OFFSET}. Subtract the offset and save "
                "as signed values, or export again in HU."
            )
    third = tuple(slice(size // 3, size - size // 3) for size in voxels.shape)
    low_soft, high_soft = _SOFT_TISSUE_HU
    middle, soft = float(np.median(voxels[third])), _share(voxels, low_soft, high_soft)
    if not _MIDDLE_HU[0] <= middle <= _MIDDLE_HU[1] and soft < _LEAST_SOFT:
        # An offset subtracted twice, or a wrong slope: nothing in it would look like blood.
        return (
            f"{found}, {middle:g} in the middle and {soft:.0%} of them from {low_soft} to "
            f"{high_soft}, expected HU, of which brain has 20 to 45. Correct slope and intercept, "
            "or export again in HU."
        )
    return ""


def _share(voxels: NDArray[Any], low: float, high: float) -> float:
    """Share of voxels from `low` to `high`."""
    return float(np.count_nonzero((voxels >= low) & (voxels <= high)) / voxels.size)


def _screen_field(scan: Scan, screen: Screen) -> None:
    """Number and size of the slices."""
    if scan.spacing_mm is None:
        return
    num_slices, num_rows, num_columns = scan.voxels.shape
    slice_mm, row_mm, column_mm = scan.spacing_mm
    if num_slices < MIN_SLICES:
        screen.refuse(
            "few-slices",
            f"{num_slices} slices, expected at least {MIN_SLICES}. Give the whole series.",
        )
    height_mm, depth_mm, width_mm = (
        num_slices * slice_mm,
        num_rows * row_mm,
        num_columns * column_mm,
    )
    is_small = min(depth_mm, width_mm) < MIN_FIELD_MM
    if is_small or max(height_mm, depth_mm, width_mm) > MAX_FIELD_MM:
        screen.refuse(
            "not-a-head",
            f"a field of view of {height_mm:.4g} x {depth_mm:.4g} x {width_mm:.4g} mm (slices, "
            f"rows, columns), expected slices of at least {MIN_FIELD_MM:g} mm and nothing beyond "
            f"{MAX_FIELD_MM:g} mm. Correct the voxel size, or crop the head.",
        )
    if reason := non_axial(scan.spacing_mm):
        screen.refuse("non-axial", reason)


def _screen_angles(affine: NDArray[np.float64], screen: Screen, *, is_tilt_known: bool) -> None:
    """Angles between the axes of the scan, and of its slices to the axial plane."""
    stack, down, across = (column / np.linalg.norm(column) for column in affine[:3, :3].T)
    shear_deg = 90 - _angle_deg(down, across)
    if shear_deg > MAX_SHEAR_DEG:
        screen.refuse(
            "sheared",
            f"rows and columns {shear_deg:.1f} degrees off perpendicular, expected at most "
            f"{MAX_SHEAR_DEG:g}. Resample the scan without shear.",
        )
    normal = np.cross(across, down)
    normal /= np.linalg.norm(normal)
    oblique_deg = _angle_deg(normal, np.array([0.0, 0.0, 1.0]))
    if oblique_deg > OBLIQUE_DEG:
        screen.report(
            "oblique",
            f"slices turned {oblique_deg:.1f} degrees out of the axial plane; networks are trained "
            "on axial slices",
        )
    tilt_deg = _angle_deg(normal, stack)
    if tilt_deg > TILT_DEG and not is_tilt_known:
        screen.report(
            "gantry-tilt",
            f"slices tilted {tilt_deg:.1f} degrees against the stack; volumes are taken "
            "perpendicular to them",
        )


def _angle_deg(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Angle of two unit vectors, either way round."""
    return math.degrees(math.acos(min(1.0, abs(float(first @ second)))))
