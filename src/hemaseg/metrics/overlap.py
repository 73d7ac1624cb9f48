"""How much two masks overlap: Dice, IoU, sensitivity and precision.

Each score exists once, as a property of `OverlapCounts`. Counts of several slices or scans are
pooled with `+`, which is how a subject's score is made of its slices. Empty masks: an *undefined*
score is NaN, a missed or invented lesion is 0 (table in `docs/metrics.md`).
"""

import operator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OverlapCounts:
    """Voxels of two masks by agreement; `+` pools the counts of disjoint voxels.

    The voxels in neither mask are not counted: no score here depends on them, so a score does not
    rise with the amount of background around a lesion.

    Raises:
        TypeError: A count is not an integer.
        ValueError: A count is negative.

    Example:
        >>> OverlapCounts(true_positives=3, false_positives=1, false_negatives=2).dice
        0.6666666666666666
        >>> (OverlapCounts(3, 1, 2) + OverlapCounts(0, 4, 0)).precision
        0.375
    """

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0

    def __post_init__(self) -> None:
        for name in ("true_positives", "false_positives", "false_negatives"):
            value = getattr(self, name)
            try:
                count = operator.index(value)
            except TypeError:
                raise TypeError(
                    f"{name} is {value!r}, expected an integer count; convert it with int()"
                ) from None
            if count < 0:
                raise ValueError(f"{name} is {count}, expected 0 or more; count voxels of masks")
            object.__setattr__(self, name, count)

    def __add__(self, other: "OverlapCounts") -> "OverlapCounts":
        return OverlapCounts(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
        )

    @property
    def prediction_size(self) -> int:
        """Number of voxels in the prediction."""
        return self.true_positives + self.false_positives

    @property
    def reference_size(self) -> int:
        """Number of voxels in the reference."""
        return self.true_positives + self.false_negatives

    @property
    def dice(self) -> float:
        """Twice the overlap by the sum of the two sizes, 0 to 1; NaN if both masks are empty."""
        return _ratio(2 * self.true_positives, self.prediction_size + self.reference_size)

    @property
    def iou(self) -> float:
        """Overlap by union (Jaccard 1912), 0 to 1; NaN if both masks are empty."""
        return _ratio(self.true_positives, self.prediction_size + self.false_negatives)

    @property
    def sensitivity(self) -> float:
        """Part of the reference that was found, 0 to 1; NaN if the reference is empty."""
        return _ratio(self.true_positives, self.reference_size)

    @property
    def precision(self) -> float:
        """Part of the prediction that is right, 0 to 1; NaN if the prediction is empty."""
        return _ratio(self.true_positives, self.prediction_size)


def overlap_counts(prediction: np.ndarray, reference: np.ndarray) -> OverlapCounts:
    """Numbers of voxels in both masks, in the prediction alone and in the reference alone.

    Args:
        prediction: Boolean mask of any shape.
        reference: Boolean mask of the same shape.

    Raises:
        TypeError: A mask is not a boolean array.
        ValueError: The masks differ in shape.

    Example:
        >>> overlap_counts(np.array([True, True, False]), np.array([False, True, True]))
        OverlapCounts(true_positives=1, false_positives=1, false_negatives=1)
    """
    require_masks(prediction, reference)
    num_both = int(np.count_nonzero(prediction & reference))
    return OverlapCounts(
        num_both,
        int(np.count_nonzero(prediction)) - num_both,
        int(np.count_nonzero(reference)) - num_both,
    )


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice of two boolean masks: 0 to 1, NaN if both are empty, 0 if one is.

    Args:
        prediction: Boolean mask of any shape.
        reference: Boolean mask of the same shape.

    Raises:
        TypeError: A mask is not a boolean array.
        ValueError: The masks differ in shape.

    Example:
        >>> dice(np.array([[True, True]]), np.array([[True, False]]))
        0.6666666666666666
        >>> dice(np.array([False]), np.array([False]))
        nan

    Source: Dice, Ecology 26 (1945) 297.
    """
    return overlap_counts(prediction, reference).dice


def require_masks(prediction: np.ndarray, reference: np.ndarray) -> None:
    """Refuse what is not a pair of boolean arrays of one shape; every metric calls this first.

    Label maps and probabilities are refused, not thresholded: with them the formulas would give a
    plausible wrong number.

    Raises:
        TypeError: A mask is not a boolean array.
        ValueError: The masks differ in shape.
    """
    for name, mask in (("prediction", prediction), ("reference", reference)):
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            kind = getattr(mask, "dtype", type(mask).__name__)
            raise TypeError(
                f"{name} is {kind}, expected a NumPy array of bool; compare with a threshold first"
            )
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction has shape {prediction.shape}, reference {reference.shape}, expected the "
            "same; resample one mask onto the grid of the other"
        )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
