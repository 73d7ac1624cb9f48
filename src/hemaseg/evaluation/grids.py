"""Two masks on one grid, or refused: nothing is resampled, and nothing moved to where it fits.

A DICOM SEG leaves out what is empty, so what its frames do not cover is empty. It may therefore
cover a part of the grid of the other mask, if its voxels are voxels of that grid. A mask of any
other format covers its whole grid.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemaseg.errors import EvaluationError
from hemaseg.scans.scan import GRID_TOLERANCE, Scan, corners_apart
from hemaseg.scans.screening import kinds_of

MAX_VOXELS = 2**30
"""Largest grid that masks are put together on."""


def on_one_grid(prediction: Scan, reference: Scan) -> tuple[Scan, Scan]:
    """The two masks, of one shape and, where both have geometry, of one affine.

    A DICOM SEG is put on the grid of the other mask; two of them on the smallest grid that holds
    both, or where slices are uneven, on that of the one that is. Slices of a SEG follow each other
    there: one with every second slice may be of thicker slices. Only where they are uneven because
    some were left out (finding `missing-slices`), the grid of the other mask says where they lie.

    Args:
        prediction: Boolean voxels.
        reference: Boolean voxels.

    Raises:
        EvaluationError: They lie on different grids: shapes differ, or corners lie more than
            `GRID_TOLERANCE` apart; or voxels of a SEG lie in another frame of reference, between
            those of the other mask or beyond its grid; or the other mask has no geometry, or
            neither says where the slices are that both leave out.
    """
    if not (_is_seg(prediction) or _is_seg(reference)):
        _check_equal(prediction, reference)
        return prediction, reference
    _check_space(prediction, reference)
    grid = max(reference, prediction, key=_rank)
    part = prediction if grid is reference else reference
    indices = _indices(part, grid)
    low = np.array([min(0, index[0]) for index in indices])
    shape = tuple(
        int(max(size, index[-1] + 1) - first)
        for size, index, first in zip(grid.voxels.shape, indices, low, strict=True)
    )
    if math.prod(shape) > MAX_VOXELS:
        raise EvaluationError(
            f"{prediction.path}: covers together with {reference.path} a grid {by(shape)}, "
            f"expected at most {MAX_VOXELS:,} voxels. Segment the same scan."
        )
    assert grid.affine is not None
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    on_grid = []
    for mask in (prediction, reference):
        own = indices if mask is part else [np.arange(size) for size in mask.voxels.shape]
        within = np.ix_(*(index - first for index, first in zip(own, low, strict=True)))
        voxels = np.zeros(shape, dtype=np.bool_)
        voxels[within] = mask.voxels
        coordinates = grid.slice_coordinates
        on_grid.append(replace(mask, voxels=voxels, affine=affine, slice_coordinates=coordinates))
    return on_grid[0], on_grid[1]


def by(shape: Iterable[int]) -> str:
    """A shape as messages have it.

    >>> by((16, 64, 64))
    '16x64x64'
    """
    return "x".join(map(str, shape))


def check_shape(mask: Scan, expected: tuple[int, ...], where: str) -> None:
    """Refuse a mask of another shape.

    Args:
        mask: The mask.
        expected: Slices, rows and columns.
        where: What has that shape, for the message.

    Raises:
        EvaluationError: The shape is another.
    """
    if mask.voxels.shape != expected:
        raise EvaluationError(
            f"{mask.path}: grid {by(mask.voxels.shape)}, expected {by(expected)} (slices x rows x "
            f"columns) as {where}. Resample it onto that grid."
        )


def _is_seg(mask: Scan) -> bool:
    return mask.frame_of_reference is not None


def _leaves_out(mask: Scan) -> bool:
    """Whether it has slices at uneven places, because others between them were left out."""
    return "missing-slices" in kinds_of(mask.findings)


def _rank(mask: Scan) -> tuple[bool, bool, bool, int]:
    """The larger, the more a mask says of the grid; a single slice does not say the spacing."""
    return not _is_seg(mask), not _leaves_out(mask), not mask.is_even, len(mask.voxels)


def _check_equal(prediction: Scan, reference: Scan) -> None:
    """Refuse masks of different shapes, or whose corners lie apart in space."""
    shape = reference.voxels.shape
    check_shape(prediction, shape, str(reference.path))
    if prediction.affine is None or reference.affine is None:
        return
    distance = corners_apart(reference.affine, prediction.affine, shape)
    if distance > GRID_TOLERANCE:
        raise EvaluationError(
            f"{prediction.path}: corners of the grid up to {distance:.3g} voxels away from those "
            f"of {reference.path}, expected at most {GRID_TOLERANCE}. Resample it onto that grid, "
            "or correct the header that is wrong."
        )


def _check_space(prediction: Scan, reference: Scan) -> None:
    """Refuse a SEG and a mask whose places cannot be compared."""
    for mask, other in ((prediction, reference), (reference, prediction)):
        if mask.affine is None:
            raise EvaluationError(
                f"{mask.path}: no geometry, expected one beside {other.path}: a DICOM SEG can "
                "leave out slices, and where they lie is unknown. Save it as NIfTI or DICOM SEG."
            )
    uids = prediction.frame_of_reference, reference.frame_of_reference
    if all(uids) and uids[0] != uids[1]:
        raise EvaluationError(
            f"{prediction.path}: another DICOM frame of reference than {reference.path}, expected "
            "the same: positions in two of them cannot be compared. Segment the same series, or "
            "register one and resample its mask."
        )


def _indices(part: Scan, grid: Scan) -> list[NDArray[np.intp]]:
    """Slices, rows and columns of a grid in which those of a SEG or another mask lie, increasing.

    They may reach beyond the grid of an even SEG, which goes on there.
    """
    assert part.affine is not None
    assert grid.affine is not None
    if _leaves_out(grid):
        raise EvaluationError(
            f"{part.path}: leaves out slices at places that {grid.path} leaves out too, expected "
            "one of them to say where they are. Write one with its empty slices."
        )
    to_grid = np.linalg.solve(grid.affine, part.affine)
    heights = to_grid[0, 3] + to_grid[0, 0] * _places(part)
    if grid.is_even:
        slices = np.rint(heights)
    else:
        slices = np.abs(_places(grid)[:, None] - heights).argmin(axis=0)
    if not _leaves_out(part):
        slices = slices[0] + np.arange(len(slices))
    if (np.diff(slices) < 1).any():
        raise EvaluationError(
            f"{part.path}: several slices where {grid.path} has one, expected one at each place. "
            "Resample it onto that grid."
        )
    starts = (np.rint(to_grid[axis, 3]) + np.arange(part.voxels.shape[axis]) for axis in (1, 2))
    indices = [np.asarray(index, dtype=np.intp) for index in (slices, *starts)]
    is_bound = (not (_is_seg(grid) and grid.is_even), *[not _is_seg(grid)] * 2)
    for index, size, bound in zip(indices, grid.voxels.shape, is_bound, strict=True):
        if bound and (index[0] < 0 or index[-1] >= size):
            raise EvaluationError(
                f"{part.path}: grid {by(part.voxels.shape)} (slices x rows x columns) that reaches "
                f"beyond the {by(grid.voxels.shape)} of {grid.path}, expected voxels of that grid. "
                "Resample it onto that grid."
            )
    expected = slices if grid.is_even else _places(grid)[indices[0]]
    own = [np.arange(size) for size in part.voxels.shape[1:]]
    apart_mm = np.linalg.norm(
        _corners_mm(part.affine, _places(part), *own)
        - _corners_mm(grid.affine, expected, *indices[1:]),
        axis=1,
    )
    distance = apart_mm.max() / np.linalg.norm(grid.affine[:3, :3], axis=0).min()
    if distance > GRID_TOLERANCE:
        raise EvaluationError(
            f"{part.path}: corners of slices up to {distance:.3g} voxels away from voxels of "
            f"{grid.path}, expected at most {GRID_TOLERANCE}. Resample it onto that grid, "
            "or write it with its empty slices if it leaves out some."
        )
    return indices


def _places(mask: Scan) -> NDArray[np.float64]:
    """(K,) places of the slices in steps of the affine."""
    if mask.slice_coordinates is None:
        return np.arange(len(mask.voxels), dtype=np.float64)
    return mask.slice_coordinates


def _corners_mm(
    affine: NDArray[np.float64], places: NDArray[Any], rows: NDArray[Any], columns: NDArray[Any]
) -> NDArray[np.float64]:
    """(4 K, 3) places in space of the four corners of each slice."""
    corners = product(places, rows[[0, -1]], columns[[0, -1]])
    return np.array([(*corner, 1.0) for corner in corners]) @ affine[:3].T
