"""A scan in memory: voxels in display order, with the geometry that they must not lose."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from hemaseg.errors import ScanError
from hemaseg.scans.screening import Finding, Screen

if TYPE_CHECKING:
    from pydicom import Dataset

GRID_TOLERANCE = 0.1
"""How far corners of two grids that count as one may lie apart, in shortest edges of a voxel: far
above rounding, far below a shift that matters."""

_MASK_TOLERANCE = 1e-3
_DISPLAY_AXES = nib.orientations.axcodes2ornt(("S", "P", "L"))


@dataclass(frozen=True, eq=False)
class DicomSource:
    """The instances that the slices of a scan came from, in stored order.

    The stored order of a DICOM scan is (slice, row, column), slices along the normal of the first
    frame (the cross product of its row and column cosines), increasing.

    Attributes:
        headers: Data sets without pixels, overlays and private elements: one for each slice, or the
            one of a multi-frame object.
        frames: (index in `headers`, frame number from 1) of each stored slice.
    """

    headers: "tuple[Dataset, ...]"
    frames: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Scan:
    """Voxels in display order, with their geometry.

    The centre of voxel (k, h, w) lies at `affine @ (z, h, w, 1)` in RAS mm, where z is k, or
    `slice_coordinates[k]` in a series of uneven spacing.

    Attributes:
        voxels: (K, H, W), see `docs/conventions.md`; scaled values. A picture has K = 1.
        affine: (4, 4); None where there is no geometry.
        path: The file, folder or archive.
        slice_coordinates: (K,), increasing from 0; None where they are 0, 1, 2, ...
        modality: `CT`, `MRI`, or empty where the file does not say.
        stored_axes: (3, 2), nibabel's orientation that takes stored axes to display order; None
            where they are the same.
        nifti_header: A NIfTI header with the geometry of the file and nothing else, with which a
            mask is written back onto the file's own grid; None for other formats.
        dicom: The instances of a DICOM series; None for other formats.
        pictures: The files of a stack of pictures, one for each slice; empty for all else.
        frame_of_reference: UID of the space that a DICOM segmentation lies in, empty where it
            states none; None for all else.
        findings: Repairs and notes of reading.
    """

    voxels: NDArray[Any]
    affine: NDArray[np.float64] | None
    path: Path
    slice_coordinates: NDArray[np.float64] | None = None
    modality: str = ""
    stored_axes: NDArray[np.float64] | None = None
    nifti_header: Any = None
    dicom: DicomSource | None = None
    pictures: tuple[Path, ...] = ()
    frame_of_reference: str | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def is_even(self) -> bool:
        """True if neighbouring slices are equally far apart, or the spacing is unknown."""
        return self.slice_coordinates is None

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Distance of neighbouring slices, rows and columns in mm; None without geometry.

        The distance of slices is measured along the stack (under gantry tilt it is not their
        thickness), and is the mean where spacing is uneven.
        """
        if self.affine is None:
            return None
        slices, rows, columns = np.linalg.norm(self.affine[:3, :3], axis=0)
        if self.slice_coordinates is not None:
            slices *= np.diff(self.slice_coordinates).mean()
        return float(slices), float(rows), float(columns)

    @property
    def voxel_ml(self) -> NDArray[np.float64]:
        """(K,) volume of a voxel of each slice in mL; NaN without geometry.

        |det| of the affine / 1000, times the slice's own share of the distance to its neighbours
        (`slice_shares`). The determinant is the area of a pixel times the distance perpendicular to
        the slice, so gantry tilt does not inflate it as a product of spacings would.
        """
        num_slices = len(self.voxels)
        if self.affine is None:
            return np.full(num_slices, np.nan)
        det_ml = abs(np.linalg.det(self.affine[:3, :3])) / 1000
        return np.asarray(det_ml * slice_shares(self.slice_coordinates, num_slices))


def slice_shares(coordinates: NDArray[np.float64] | None, num_slices: int) -> NDArray[np.float64]:
    """(K,) share of each slice: half the distance to each of its two neighbours.

    An end slice reaches as far outward as toward its one neighbour, so evenly spaced slices have
    the same share each and their sum is the volume by |det|. This is the midpoint rule: each point
    between two slices belongs to the nearer one.

    Args:
        coordinates: (K,) increasing; None for 0, 1, 2, ...
        num_slices: K.

    >>> slice_shares(np.array([0.0, 1.0, 3.0]), 3)
    array([1. , 1.5, 2. ])
    """
    if coordinates is None or num_slices == 1:
        return np.ones(num_slices)
    steps = np.diff(coordinates)
    return np.asarray((np.append(steps[:1], steps) + np.append(steps, steps[-1:])) / 2)


def corners_apart(
    affine: NDArray[np.float64], other: NDArray[np.float64], shape: tuple[int, ...]
) -> float:
    """How far corners of two grids of one shape lie apart at most, in shortest edges of a voxel.

    Args:
        affine: (4, 4) to mm; its voxels are the measure.
        other: (4, 4).
        shape: Of both grids, three axes.

    >>> corners_apart(np.diag([2.0, 1.0, 1.0, 1.0]), np.diag([2.5, 1.0, 1.0, 1.0]), (3, 9, 9))
    1.0
    """
    corners = np.c_[np.array([*np.ndindex(2, 2, 2)]) * (np.array(shape) - 1), np.ones(8)]
    apart_mm = np.linalg.norm((corners @ (affine - other).T)[:, :3], axis=1)
    return float(apart_mm.max() / np.linalg.norm(affine[:3, :3], axis=0).min())


def display_orientation(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 2) orientation that takes axes stored under `affine` to superior, posterior, left."""
    stored = nib.orientations.io_orientation(affine)
    return np.asarray(nib.orientations.ornt_transform(stored, _DISPLAY_AXES))


def to_display(
    stored: NDArray[Any], affine: NDArray[np.float64], axes: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Stored voxels in display order, contiguous and of native byte order, and their affine.

    Args:
        stored: Three axes in the order of the file.
        affine: (4, 4), takes stored indices to RAS mm.
        axes: As `display_orientation` gives them.
    """
    voxels = nib.orientations.apply_orientation(stored, axes)
    return (
        np.array(voxels, dtype=voxels.dtype.newbyteorder("="), order="C"),
        affine @ nib.orientations.inv_ornt_aff(axes, stored.shape),
    )


def to_stored(display: NDArray[Any], axes: NDArray[np.float64] | None) -> NDArray[Any]:
    """The inverse of `to_display` for an array (K, H, W) of a scan with these `stored_axes`."""
    if axes is None:
        return display
    identity = np.array([[0, 1], [1, 1], [2, 1]])
    back = nib.orientations.ornt_transform(identity, axes)
    return np.asarray(nib.orientations.apply_orientation(display, back))


def check_finite(voxels: NDArray[Any], screen: Screen) -> None:
    """Refuse voxels that are no numbers.

    Raises:
        ScanError: Some are NaN or infinite.
    """
    if voxels.dtype.kind == "f" and not (is_finite := np.isfinite(voxels)).all():
        raise screen.error(
            "not-finite",
            f"{int((~is_finite).sum())} voxels are NaN or infinite, expected finite numbers. "
            "Give them a value, for example that of the background.",
        )


def as_mask(scan: Scan) -> Scan:
    """The scan as a mask: True where its voxels have the one value that is not 0.

    Floating-point values count as equal within a thousandth of that value, since a stored 1 with a
    scale factor can read as 0.99999997. A constant image of any other value than 0 is a full mask.

    Raises:
        ScanError: There are more than two values, or two of which neither is 0.
    """
    voxels = scan.voxels
    low, high = voxels.min(), voxels.max()
    value = high if high > 0 else low
    if voxels.dtype.kind == "f":
        tolerance = _MASK_TOLERANCE * abs(value)
        is_zero = np.abs(voxels) <= tolerance
        is_value = np.abs(voxels - value) <= tolerance
    else:
        is_zero, is_value = voxels == 0, voxels == value
    if not (is_zero | is_value).all():
        values = np.unique(voxels)
        shown = ", ".join(f"{found:g}" for found in values[:6]) + (", ..." * (len(values) > 6))
        raise ScanError(
            f"{scan.path}: {len(values)} different values ({shown}), expected two in a mask, 0 "
            "and one other. Save one class per file, not smoothed, as PNG or NIfTI; JPEG blurs.",
            kind="not-a-mask",
        )
    return replace(scan, voxels=is_value & ~is_zero)


def mask_of_label(scan: Scan, label: int | None) -> Scan:
    """The scan as a mask, see `as_mask`; or one label of a map of labels, where a label is given.

    A label that no voxel has gives an empty mask and the finding `label-absent`.

    Raises:
        ScanError: As `as_mask`; or, with a label, voxels that are no whole numbers.
    """
    if label is None:
        try:
            return as_mask(scan)
        except ScanError as error:
            if (scan.voxels % 1).any():
                raise
            remedy = "Or choose one label: --label NUMBER."
            raise ScanError(f"{error} {remedy}", kind=error.kind) from None
    labels = scan.voxels
    if labels.dtype.kind == "f":
        labels = np.rint(scan.voxels)
        between = scan.voxels[np.abs(scan.voxels - labels) > _MASK_TOLERANCE]
        if between.size:
            raise ScanError(
                f"{scan.path}: {between.size} voxels such as {between[0]:.6g}, expected whole "
                "numbers in a map of labels. Give one that is neither a probability nor smoothed.",
                kind="not-a-mask",
            )
    mask, findings = labels == label, scan.findings
    if not mask.any():
        message = f"no voxel has the label {label}; the mask is empty"
        findings = (*findings, Finding("label-absent", message))
    return replace(scan, voxels=mask, findings=findings)


def content_sha256(scan: Scan) -> str:
    """SHA-256 of the decoded voxels, their shape and type, as 64 hexadecimal digits.

    The same voxels have the same hash in any file format; geometry and metadata do not enter.
    """
    voxels = np.ascontiguousarray(scan.voxels, dtype=scan.voxels.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{voxels.dtype.str} {voxels.shape} ".encode())
    digest.update(voxels.data)
    return digest.hexdigest()
