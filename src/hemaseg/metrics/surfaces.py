"""How far apart the surfaces of two masks are: HD95, ASSD and surface Dice.

The expensive step, `surface_distances`, is done once; the scores are cheap functions of its result.

The *surface* of a mask is the set of its border voxels: those with at least one face neighbour
outside the mask (4 neighbours in 2-D, 6 in 3-D; beyond the edge of the array is outside). The
distance of a border voxel is that of its centre to the nearest border voxel centre of the other
mask. Every border voxel counts the same. MedPy, MetricsReloaded, and MONAI by default define it so;
surface-distance weights by area. `docs/metrics.md` shows how much that changes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from hemaseg.metrics.overlap import require_masks

# Leaves of this size made queries about twice as fast as the default of 10 on lattice points.
LEAF_SIZE = 64
# NIfTI headers hold spacings as 32-bit floats, so that 0.3 mm may arrive as 0.30000001 mm.
RELATIVE_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distances in mm from every border voxel of each mask to the border of the other.

    Infinite where the other mask is empty; no values where the mask itself is. `+` pools the
    distances of several scans of one subject.
    """

    prediction_to_reference_mm: np.ndarray
    reference_to_prediction_mm: np.ndarray

    def __add__(self, other: "SurfaceDistances") -> "SurfaceDistances":
        return SurfaceDistances(
            np.concatenate([self.prediction_to_reference_mm, other.prediction_to_reference_mm]),
            np.concatenate([self.reference_to_prediction_mm, other.reference_to_prediction_mm]),
        )


def surface_distances(
    prediction: np.ndarray,
    reference: np.ndarray,
    *,
    spacing_mm: Sequence[float] | np.ndarray,
    slice_coordinates: np.ndarray | None = None,
) -> SurfaceDistances:
    """Distances between the surfaces of two masks, both ways.

    Args:
        prediction: Boolean mask of any number of dimensions D.
        reference: Boolean mask of the same shape.
        spacing_mm: D distances between neighbouring voxels in mm, in the order of the axes; or,
            for a grid that may be sheared (a CT with tilted gantry), an array with D columns, of
            which column d is the step in mm to the next voxel along axis d, as in an affine.
        slice_coordinates: Places along the first axis, in steps of it, where the slices are
            unevenly spaced; None for 0, 1, 2, ...

    Raises:
        TypeError: A mask is not a boolean array.
        ValueError: The masks differ in shape, or the spacing is neither D positive numbers nor D
            independent columns.

    Example: two pixels, one row and two columns apart.
        >>> prediction = np.array([[True, False, False], [False, False, False]])
        >>> reference = np.array([[False, False, False], [False, False, True]])
        >>> distances = surface_distances(prediction, reference, spacing_mm=(3.0, 2.0))
        >>> distances.prediction_to_reference_mm
        array([5.])
    """
    require_masks(prediction, reference)
    steps_mm = _steps_mm(spacing_mm, prediction.ndim)
    prediction_points = _border_places(prediction, slice_coordinates) @ steps_mm.T
    reference_points = _border_places(reference, slice_coordinates) @ steps_mm.T
    return SurfaceDistances(
        _nearest_mm(prediction_points, reference_points),
        _nearest_mm(reference_points, prediction_points),
    )


def hd95_mm(distances: SurfaceDistances) -> float:
    """95th percentile Hausdorff distance in mm: the larger of the two directed 95th percentiles.

    NaN if both masks are empty, infinite if one is. Percentiles interpolate linearly between the
    sorted distances.

    Example:
        >>> hd95_mm(SurfaceDistances(np.array([0.0, 2.0]), np.array([1.0])))
        1.9

    Source: Huttenlocher et al., IEEE PAMI 15 (1993) 850, joined as in MONAI and MetricsReloaded;
    MedPy instead takes one percentile of both sets together.
    """
    forward = distances.prediction_to_reference_mm
    backward = distances.reference_to_prediction_mm
    if not forward.size and not backward.size:
        return math.nan
    return max(percentile(values, 95) for values in (forward, backward) if values.size)


def assd_mm(distances: SurfaceDistances) -> float:
    """Average symmetric surface distance in mm: the mean over the border voxels of both masks.

    NaN if both masks are empty, infinite if one is.

    Example:
        >>> assd_mm(SurfaceDistances(np.array([0.0, 2.0]), np.array([4.0])))
        2.0

    Source: Heimann et al., IEEE Trans Med Imaging 28 (2009) 1251. The mean of the two directed
    means, which some tools report under this name, would be 2.5 in the example.
    """
    both = _pooled(distances)
    return float(np.mean(both)) if both.size else math.nan


def surface_dice(distances: SurfaceDistances, *, tolerance_mm: float) -> float:
    """Part of both surfaces that lies within a tolerance of the other, 0 to 1.

    NaN if both masks are empty, 0 if one is. A distance equal to the tolerance counts as within,
    up to a relative rounding error of 1e-6.

    Args:
        distances: Distances between the surfaces.
        tolerance_mm: Distance in mm that is regarded as agreement, 0 or more.

    Raises:
        ValueError: The tolerance is negative or not finite.

    Example:
        >>> surface_dice(SurfaceDistances(np.array([0.0, 2.0]), np.array([1.0])), tolerance_mm=1)
        0.6666666666666666

    Source: Nikolov et al., J Med Internet Res 23 (2021) e26151, with border voxels for surface
    elements as in MONAI.
    """
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise ValueError(
            f"tolerance_mm is {tolerance_mm}, expected a finite number of 0 or more; give it in mm"
        )
    both = _pooled(distances)
    if not both.size:
        return math.nan
    return float(np.mean(both <= tolerance_mm * (1 + RELATIVE_TOLERANCE)))


def percentile(values: np.ndarray, percent: float) -> float:
    """Percentile with linear interpolation, also where some values are infinite.

    `np.percentile` gives NaN when it interpolates from or between infinite values; here the
    result is infinite as soon as an infinite value has a share in it.

    Args:
        values: One or more numbers, none of them NaN; infinite ones must be positive.
        percent: 0 to 100.

    Example:
        >>> percentile(np.array([1.0, 2.0, 4.0]), 75), percentile(np.array([1.0, np.inf]), 50)
        (3.0, inf)
    """
    rank = math.ceil((len(values) - 1) * percent / 100)
    upper = np.partition(values, rank)[rank]
    if np.isinf(upper):
        return math.inf
    # What lies above has no share in the result, but would make NumPy compute 0 times infinity.
    return float(np.percentile(np.minimum(values, upper), percent))


def _pooled(distances: SurfaceDistances) -> np.ndarray:
    return np.concatenate(
        [distances.prediction_to_reference_mm, distances.reference_to_prediction_mm]
    )


def _steps_mm(spacing_mm: Sequence[float] | np.ndarray, num_dimensions: int) -> np.ndarray:
    steps = np.asarray(spacing_mm, dtype=np.float64)
    if np.isfinite(steps).all():
        if steps.shape == (num_dimensions,) and (steps > 0).all():
            return np.diag(steps)
        if (
            steps.ndim == 2
            and steps.shape[1] == num_dimensions
            and np.linalg.matrix_rank(steps) == num_dimensions
        ):
            return steps
    raise ValueError(
        f"spacing_mm is {steps.tolist()}, expected {num_dimensions} positive numbers or an array "
        f"with {num_dimensions} independent columns; give the distance in mm along each axis"
    )


def _border_places(mask: np.ndarray, slice_coordinates: np.ndarray | None) -> np.ndarray:
    """Border voxels (P, D) in steps along each axis."""
    voxels = _border_voxels(mask)
    if slice_coordinates is None:
        return voxels
    return np.column_stack([slice_coordinates[voxels[:, 0]], voxels[:, 1:]])


def _border_voxels(mask: np.ndarray) -> np.ndarray:
    """Indices (P, D) of the voxels of the mask with a face neighbour outside it."""
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box:
        return np.empty((0, mask.ndim), dtype=np.intp)
    cropped = mask[box[0]]
    border = cropped & ~ndimage.binary_erosion(cropped)
    points: np.ndarray = np.argwhere(border) + np.array([axis.start for axis in box[0]])
    return points


def _nearest_mm(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    if not len(targets):
        return np.full(len(points), math.inf)
    distances, _ = KDTree(targets, leafsize=LEAF_SIZE).query(points)
    return np.asarray(distances, dtype=np.float64)
