"""How far the volume of a new scan may be off, by the errors on subjects that a network never saw.

*Source:* split conformal prediction: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random
World", 2005; Lei et al., "Distribution-Free Predictive Inference for Regression", 2018. The cube
root is our choice: masks err at their borders, and the same error there moves the cube root of a
volume by about as much in a large lesion as in a small one.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

COVERAGE_PERCENT = 90
"""Of 100 scans like those that the errors are from, in how many the reference lies within."""
MIN_SUBJECTS = 9
"""Of fewer, no error is large enough: the interval would have no end."""


def volume_errors(
    prediction_ml: NDArray[np.float64], reference_ml: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Absolute differences of the cube roots of volumes, in ascending order.

    Args:
        prediction_ml: (n,) from 0.
        reference_ml: (n,) from 0.

    Returns:
        (n,) in cube roots of mL; NaN where a volume is, at the end.

    >>> volume_errors(np.array([8.0, 27.0]), np.array([64.0, 8.0]))
    array([1., 2.])
    """
    return np.sort(np.abs(np.cbrt(prediction_ml) - np.cbrt(reference_ml)))


def volume_interval(volume_ml: float, errors: Sequence[float]) -> tuple[float, float]:
    """Where the volume lies that a reader would have drawn, in at least 90 of 100 scans.

    The scans are all that are like those of the errors, drawn as they were: the promise is not
    kept for large or for small lesions apart. It is that of a new scan and new subjects
    for the errors; of one set of errors it varies, the more the fewer they are.

    Args:
        volume_ml: Predicted, from 0; NaN without geometry.
        errors: As `volume_errors` gives them, of subjects that the network never saw, one scan
            each.

    Returns:
        Ends in mL, the lower one from 0. NaN if the volume is, or there are fewer than
        `MIN_SUBJECTS` errors.

    >>> volume_interval(27.0, [0.1] * 8 + [1.0])
    (8.0, 64.0)
    """
    if len(errors) < MIN_SUBJECTS:
        return float("nan"), float("nan")
    # The smallest error that at least 90 % of the n and the new one are expected not to pass.
    rank = -(-COVERAGE_PERCENT * (len(errors) + 1) // 100)
    largest, root = sorted(errors)[rank - 1], float(np.cbrt(volume_ml))
    return max(root - largest, 0.0) ** 3, (root + largest) ** 3
