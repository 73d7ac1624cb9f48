import math

import numpy as np
import pytest

from hemaseg.metrics.confidence import PROBABILITY_FLOOR, SoftOverlap, expected_ml, soft_overlap
from hemaseg.metrics.overlap import dice


def test_by_hand() -> None:
    probabilities = np.array([[0.9, 0.6], [0.3, 0.0]], np.float32)
    mask = probabilities >= 0.5
    assert soft_overlap(probabilities, mask).confidence == pytest.approx(2 * 1.5 / (1.8 + 2))


def test_certain_probabilities_give_the_dice_itself() -> None:
    random = np.random.default_rng(0)
    truth, mask = random.random((2, 3, 9, 9)) < 0.3
    found = soft_overlap(truth.astype(np.float32), mask).confidence
    assert found == pytest.approx(dice(mask, truth))


def test_it_is_the_expected_dice_of_independent_pixels() -> None:
    """Against the mean Dice over references drawn from the probabilities."""
    random = np.random.default_rng(1)
    probabilities = random.beta(0.3, 1.0, (1, 40, 40)).astype(np.float32)
    probabilities[probabilities < PROBABILITY_FLOOR] = 0
    mask = probabilities >= 0.5
    scores = [dice(mask, random.random(mask.shape) < probabilities) for _ in range(400)]
    assert soft_overlap(probabilities, mask).confidence == pytest.approx(np.mean(scores), abs=0.005)


def test_certainty_raises_it() -> None:
    mask = np.array([True, True, False, False])
    sure, unsure = (
        soft_overlap(np.array([p, p, 1 - p, 1 - p], np.float32), mask).confidence
        for p in (0.85, 0.55)
    )
    assert unsure == pytest.approx(0.55)
    assert sure == pytest.approx(0.85)


def test_background_below_the_floor_does_not_swamp_a_small_lesion() -> None:
    probabilities = np.full(5_000_000, PROBABILITY_FLOOR / 2, np.float32)
    probabilities[:100] = 0.99
    assert soft_overlap(probabilities, probabilities > 0.5).confidence == pytest.approx(
        0.99 * 2 / 1.99
    )


def test_an_empty_mask_has_none_but_an_expected_volume() -> None:
    probabilities = np.full((2, 5, 5), 0.2, np.float32)
    sums = soft_overlap(probabilities, np.zeros(probabilities.shape, bool))
    assert math.isnan(sums.confidence)
    assert math.isnan(SoftOverlap().confidence)
    volumes = np.array([1.0, 3.0])  # of one voxel of each slice
    assert expected_ml(probabilities, volumes) == pytest.approx(0.2 * 25 * 4)
    assert math.isnan(expected_ml(probabilities, np.full(2, math.nan)))


def test_pixels_are_pooled() -> None:
    random = np.random.default_rng(2)
    probabilities = random.random((4, 6, 6)).astype(np.float32)
    mask = probabilities >= 0.7
    pooled = soft_overlap(probabilities[:1], mask[:1]) + soft_overlap(probabilities[1:], mask[1:])
    assert pooled.confidence == pytest.approx(soft_overlap(probabilities, mask).confidence)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"probabilities have shape \(2,\), the mask \(3,\)"):
        soft_overlap(np.zeros(2, np.float32), np.zeros(3, bool))
