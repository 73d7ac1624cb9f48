"""Which masks are too large for a lesion: by their share of voxels, and in mL."""

import math

import numpy as np
import pytest

from hemaseg.scans.mask_size import oversize


@pytest.mark.parametrize(
    ("num_marked", "volume_ml", "reasons"),
    [
        (0, 0.0, ()),
        (50, 500.0, ()),
        (51, 500.0, ("51 % of the voxels",)),
        (50, 500.6, ("501 mL",)),
        (99, 4351.2, ("99 % of the voxels", "4,351 mL")),
        (99, math.nan, ("99 % of the voxels",)),
        (1, math.nan, ()),
    ],
)
def test_limits(num_marked: int, volume_ml: float, reasons: tuple[str, ...]) -> None:
    assert oversize(num_marked, 100, volume_ml) == reasons


def test_a_lesion_cropped_closely_has_one_sign_at_most() -> None:
    """An ellipsoid of 200 mL in its own box: pi / 6 of the voxels, and far below 500 mL."""
    places = np.indices((40, 40, 40)) / 19.5 - 1
    ball = np.square(places).sum(axis=0) <= 1
    assert len(oversize(int(ball.sum()), ball.size, 200.0)) <= 1
