"""A predicted mask without its small lesions."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemaseg.metrics.lesions import lesion_sizes

_SAME = 1e-6
"""Volumes that differ by less are equal, relative to the larger: the geometry of a NIfTI file has 7
significant digits."""


@dataclass(frozen=True, eq=False)
class Cleaned:
    """A mask, and what was removed from it.

    Attributes:
        mask: (K, H, W) without the small lesions.
        num_removed_lesions: How many they were.
        removed_ml: Their volume together; 0 where nothing was removed.
    """

    mask: NDArray[np.bool_]
    num_removed_lesions: int
    removed_ml: float


def remove_small_lesions(
    mask: NDArray[np.bool_], voxel_ml: NDArray[np.float64], min_lesion_ml: float
) -> Cleaned:
    """Remove the lesions whose volume is below a limit; those of exactly that volume stay.

    A lesion is what `metrics.lesions` counts: voxels that share a face, an edge or a corner, in
    three dimensions.

    Args:
        mask: (K, H, W).
        voxel_ml: (K,) volume of a voxel of each slice, as `Scan.voxel_ml` gives it.
        min_lesion_ml: The limit, from 0 upward. 0 gives the mask itself, also without geometry.

    Raises:
        ValueError: The limit is negative or no finite number, or it is above 0 and the volume of a
            voxel is undefined.

    >>> mask = np.array([[[True, False, True, True]]])
    >>> remove_small_lesions(mask, np.array([0.5]), 1.0).mask.tolist()
    [[[False, False, True, True]]]
    """
    if not 0 <= min_lesion_ml < math.inf:
        raise ValueError(f"min_lesion_ml is {min_lesion_ml}, expected a number of mL from 0 upward")
    if not min_lesion_ml:
        return Cleaned(mask, 0, 0.0)
    if np.isnan(voxel_ml).any():
        raise ValueError(
            f"min_lesion_ml is {min_lesion_ml}, expected 0 where the volume of a voxel is undefined"
        )
    labels, lesions_ml = lesion_sizes(mask, voxel_ml)
    is_small = lesions_ml < min_lesion_ml * (1 - _SAME)
    # Label 0 is the background.
    return Cleaned(
        np.append(False, ~is_small)[labels],
        int(np.count_nonzero(is_small)),
        float(lesions_ml[is_small].sum()),
    )
