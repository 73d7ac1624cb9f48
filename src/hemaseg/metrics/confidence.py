"""How much a network trusts its own mask, from the mask and its probabilities alone.

No reference is needed; whether the numbers tell good masks from bad ones is for a set with
references to show (`scripts/measure_doubt.py`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PROBABILITY_FLOOR = 0.1
"""A pixel less likely than this counts as 0. A head has millions of them, and the haze that a
network leaves over it would otherwise outweigh a small lesion, and say more of the network than of
the mask."""


@dataclass(frozen=True)
class SoftOverlap:
    """Sums over the pixels of a mask and its probabilities; `+` pools disjoint pixels.

    Attributes:
        within: Sum of the probabilities in the mask.
        everywhere: Sum of all probabilities, those below `PROBABILITY_FLOOR` left out.
        num_pixels: In the mask.
    """

    within: float = 0.0
    everywhere: float = 0.0
    num_pixels: int = 0

    def __add__(self, other: "SoftOverlap") -> "SoftOverlap":
        return SoftOverlap(
            self.within + other.within,
            self.everywhere + other.everywhere,
            self.num_pixels + other.num_pixels,
        )

    @property
    def confidence(self) -> float:
        """The Dice that the network expects of its mask, 0 to 1; NaN if the mask is empty.

            2 (sum of p in the mask) / (sum of p + pixels of the mask)

        This is near the expected Dice if the probabilities are calibrated and pixels independent
        given the image. They are not: a lesion is missed or invented as a whole. So it ranks masks,
        and says nothing of the patient. Of an empty mask the formula would give 0 however sure the
        network is that there is nothing, so there it is undefined; `expected_ml` says more.

        *Source:* Borges, Pacheco and Silva, "Soft Dice Confidence", arXiv 2402.10665, 2024; the
        floor is ours.
        """
        if not self.num_pixels:
            return float("nan")
        return 2 * self.within / (self.everywhere + self.num_pixels)


def soft_overlap(probabilities: NDArray[np.float32], mask: NDArray[np.bool_]) -> SoftOverlap:
    """The sums of a mask and its probabilities.

    Args:
        probabilities: Any shape, in [0, 1].
        mask: The same shape.

    Raises:
        ValueError: The shapes differ.

    >>> sums = soft_overlap(np.array([0.9, 0.6, 0.3, 0.001]), np.array([True, True, False, False]))
    >>> round(sums.confidence, 4)  # 2 * 1.5 / (1.8 + 2)
    0.7895
    """
    if probabilities.shape != mask.shape:
        raise ValueError(f"probabilities have shape {probabilities.shape}, the mask {mask.shape}")
    return SoftOverlap(
        float(_floored(probabilities[mask]).sum(dtype=np.float64)),
        float(_floored(probabilities).sum(dtype=np.float64)),
        int(np.count_nonzero(mask)),
    )


def expected_ml(probabilities: NDArray[np.float32], voxel_ml: NDArray[np.float64]) -> float:
    """Volume that the probabilities add up to, those below `PROBABILITY_FLOOR` left out.

    Beside an empty mask it says how much the network holds for possible without marking it.

    Args:
        probabilities: (K, H, W) in [0, 1].
        voxel_ml: (K,) volume of a voxel of each slice, as `Scan.voxel_ml` gives it.

    Returns:
        mL; NaN without geometry.

    >>> expected_ml(np.array([[[0.5, 0.25, 0.001]]]), np.array([2.0]))
    1.5
    """
    return float(_floored(probabilities).sum(axis=(1, 2), dtype=np.float64) @ voxel_ml)


def _floored(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(probabilities < PROBABILITY_FLOOR, np.float32(0), probabilities)
