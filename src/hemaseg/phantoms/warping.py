"""Where each voxel of a head lies in the atlas: pose, size, and a smooth change of shape.

The map is a cubic B-spline on few control points. Uniform B-splines repeat linear functions
exactly, so pose and size are in the control points too, and one product of small matrices gives
all positions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.float32]
Axis = NDArray[np.floating[Any]]


def spline_basis(num: int, num_controls: int) -> NDArray[np.float32]:
    """`(num, num_controls)` values of the uniform cubic B-splines at `num` even positions.

    Control point j stands at (j - 1) / (num_controls - 3) of the way from the first position to
    the last, so that control values that are linear in it are reproduced.

    >>> basis = spline_basis(5, 6)
    >>> np.allclose(basis @ ((np.arange(6) - 1) / 3), np.linspace(0, 1, 5))
    True
    """
    u = np.linspace(0, num_controls - 3, num)
    distance = np.abs(u[:, None] - (np.arange(num_controls) - 1))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


def control_positions(num_controls: int, first: float, last: float) -> NDArray[np.float64]:
    """Where the control points of `spline_basis` stand between two positions."""
    return first + (last - first) * (np.arange(num_controls) - 1) / (num_controls - 3)


def smooth_noise(
    shape: Sequence[int], num_controls: Sequence[int], random: np.random.Generator
) -> NDArray[np.float32]:
    """Normal noise on control points, drawn smooth between them; `shape` has three axes.

    Its standard deviation is about 0.4.
    """
    noise = random.standard_normal(tuple(num_controls), dtype=np.float32)
    planes, rows, columns = (
        spline_basis(n, count) for n, count in zip(shape, num_controls, strict=True)
    )
    sheets = rows @ noise @ columns.T
    return np.asarray((planes @ sheets.reshape(len(noise), -1)).reshape(tuple(shape)))


def rotation(angles_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(3, 3)`: turns about the axes toward superior, posterior and left, in this order."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(angles_deg)):
        turn = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def atlas_positions(
    axes_mm: tuple[Axis, Axis, Axis],
    shear_mm: float,
    to_atlas: NDArray[np.float64],
    bend_mm: float,
    random: np.random.Generator,
) -> Positions:
    """`(3, K, H, W)` positions in the atlas in mm toward superior, posterior, left.

    Args:
        axes_mm: Positions of planes, rows and columns in the scanner, even steps.
        shear_mm: How far rows move backward for each mm upward (gantry tilt).
        to_atlas: `(3, 4)` from the scanner to the atlas.
        bend_mm: Standard deviation of the control points' random shift.
        random: Draws the shifts.
    """
    num_controls = (6, 7, 7)
    controls = [
        control_positions(n, axis[0], axis[-1])
        for n, axis in zip(num_controls, axes_mm, strict=True)
    ]
    s, p, left = np.meshgrid(*controls, indexing="ij")
    points = np.stack([s, p + shear_mm * s, left, np.ones_like(s)])
    moved = np.tensordot(to_atlas, points, axes=1)
    moved += random.normal(0, bend_mm, moved.shape)
    planes, rows, columns = (
        spline_basis(len(axis), n) for n, axis in zip(num_controls, axes_mm, strict=True)
    )
    sheets = rows @ moved.astype(np.float32) @ columns.T  # (3, controls, H, W)
    flat = sheets.reshape(3, num_controls[0], -1)
    return np.asarray(planes @ flat).reshape(3, len(planes), len(rows), len(columns))
