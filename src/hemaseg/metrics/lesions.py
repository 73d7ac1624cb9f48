"""Which lesions were found: detection counted by connected components instead of voxels.

A *lesion* is a connected component of a mask; voxels that share a face, an edge or a corner are
connected (8 neighbours in 2-D, 26 in 3-D).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hemaseg.metrics.overlap import require_masks


@dataclass(frozen=True)
class LesionCounts:
    """Lesions of a reference and a prediction; `+` pools the counts of several scans.

    Attributes:
        num_reference_lesions: Connected components of the reference.
        num_detected_lesions: Those of them that share a voxel with the prediction.
        num_predicted_lesions: Connected components of the prediction.
        num_false_lesions: Those of them that share no voxel with the reference.
    """

    num_reference_lesions: int
    num_detected_lesions: int
    num_predicted_lesions: int
    num_false_lesions: int

    def __add__(self, other: "LesionCounts") -> "LesionCounts":
        return LesionCounts(
            self.num_reference_lesions + other.num_reference_lesions,
            self.num_detected_lesions + other.num_detected_lesions,
            self.num_predicted_lesions + other.num_predicted_lesions,
            self.num_false_lesions + other.num_false_lesions,
        )


def lesion_counts(prediction: np.ndarray, reference: np.ndarray) -> LesionCounts:
    """Numbers of reference lesions that were detected and of predicted lesions that are false.

    A reference lesion is detected if the prediction shares a voxel with it. One predicted component
    may detect several lesions, and several may detect one; a predicted component is false only if
    it shares no voxel with any reference lesion.

    Args:
        prediction: Boolean mask of any number of dimensions.
        reference: Boolean mask of the same shape.

    Raises:
        TypeError: A mask is not a boolean array.
        ValueError: The masks differ in shape.

    Example: two lesions, one of them found, and one predicted lesion where there is none.
        >>> reference = np.array([[True, False, True, True, False, False]])
        >>> prediction = np.array([[False, False, False, True, False, True]])
        >>> counts = lesion_counts(prediction, reference)
        >>> counts.num_reference_lesions, counts.num_detected_lesions, counts.num_false_lesions
        (2, 1, 1)
    """
    require_masks(prediction, reference)
    predicted_labels, num_predicted = label_lesions(prediction)
    reference_labels, num_reference = label_lesions(reference)
    # Label 0 is the background.
    num_detected = int(np.count_nonzero(np.unique(reference_labels[prediction])))
    num_true = int(np.count_nonzero(np.unique(predicted_labels[reference])))
    return LesionCounts(num_reference, num_detected, num_predicted, num_predicted - num_true)


def label_lesions(mask: NDArray[np.bool_]) -> tuple[NDArray[Any], int]:
    """Number the lesions of a mask.

    Args:
        mask: Any number of dimensions.

    Returns:
        Labels from 1 upward, of the shape of the mask, with 0 for the background; and how many
        lesions there are.

    >>> label_lesions(np.array([[True, False], [False, True]]))[1]
    1
    """
    labels, num_lesions = ndimage.label(mask, structure=np.ones((3,) * mask.ndim, dtype=bool))
    return labels, num_lesions


def lesion_sizes(
    mask: NDArray[np.bool_], slice_weights: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Number the lesions of a stack, and sum over the voxels of each what a voxel of its slice is.

    Args:
        mask: (K, H, W).
        slice_weights: (K,) for a voxel of each slice its share, or its volume. If all are 1, the
            sums are exact counts.

    Returns:
        Labels (K, H, W) as `label_lesions` gives them, and the sums in their order.

    >>> lesion_sizes(np.ones((2, 1, 1), bool), np.array([1.0, 1.5]))[1]
    array([2.5])
    """
    labels, num_lesions = label_lesions(mask)
    weights = np.broadcast_to(slice_weights[:, None, None], mask.shape)[mask]
    sizes = np.bincount(labels[mask], weights, minlength=num_lesions + 1)[1:]
    return labels, sizes.astype(np.float64)
