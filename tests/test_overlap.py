# mypy: allow-untyped-calls
# (SimpleITK's functions have no types.)
"""Overlap scores against hand-made shapes, two other implementations, and properties."""

import math
from itertools import permutations

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from medpy.metric import binary as medpy_binary

from hemaseg.metrics.overlap import OverlapCounts, dice, overlap_counts, require_masks


@st.composite
def mask_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6))
    return draw(arrays(np.bool_, shape)), draw(arrays(np.bool_, shape))


def square(*, top: int, left: int, side: int = 4) -> np.ndarray:
    mask = np.zeros((10, 10), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_squares_that_share_a_quarter() -> None:
    # 16 pixels each, 4 of them shared: union 28.
    prediction, reference = square(top=1, left=1), square(top=3, left=3)
    counts = overlap_counts(prediction, reference)
    assert dice(prediction, reference) == counts.dice == pytest.approx(8 / 32)
    assert counts.iou == pytest.approx(4 / 28)
    assert counts.sensitivity == pytest.approx(4 / 16)
    assert counts.precision == pytest.approx(4 / 16)


def test_square_inside_a_square() -> None:
    prediction, reference = square(top=2, left=2, side=2), square(top=1, left=1, side=6)
    counts = overlap_counts(prediction, reference)
    assert counts == OverlapCounts(4, 0, 32)
    assert counts.sensitivity == pytest.approx(4 / 36)
    assert counts.precision == 1


def test_concentric_balls_approach_the_closed_form() -> None:
    squared = ((np.indices((61, 61, 61)) - 30) ** 2).sum(axis=0)
    inner, outer = squared <= 20**2, squared <= 28**2
    assert dice(inner, outer) == pytest.approx(2 * 20**3 / (20**3 + 28**3), rel=5e-3)
    assert overlap_counts(inner, outer).iou == pytest.approx((20 / 28) ** 3, rel=5e-3)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        (False, False, {"dice": "nan", "iou": "nan", "sensitivity": "nan", "precision": "nan"}),
        (True, False, {"dice": 0, "iou": 0, "sensitivity": "nan", "precision": 0}),
        (False, True, {"dice": 0, "iou": 0, "sensitivity": 0, "precision": "nan"}),
    ],
    ids=["both empty", "reference empty", "prediction empty"],
)
def test_empty_masks(prediction: bool, reference: bool, expected: dict[str, float | str]) -> None:
    counts = overlap_counts(np.full((2, 3), prediction), np.full((2, 3), reference))
    for name, value in expected.items():
        np.testing.assert_equal(getattr(counts, name), float(value))


@pytest.mark.parametrize("shape", [(40, 50), (12, 20, 30)])
@pytest.mark.parametrize("density", [0.02, 0.5])
def test_agrees_with_medpy_and_simpleitk(shape: tuple[int, ...], density: float) -> None:
    random = np.random.default_rng(7)
    prediction, reference = random.random((2, *shape)) < density
    itk = SimpleITK.LabelOverlapMeasuresImageFilter()
    itk.Execute(*(SimpleITK.GetImageFromArray(m.astype(np.uint8)) for m in (prediction, reference)))
    theirs = {
        "dice": (medpy_binary.dc(prediction, reference), itk.GetDiceCoefficient()),
        "iou": (medpy_binary.jc(prediction, reference), itk.GetJaccardCoefficient()),
        "sensitivity": (
            medpy_binary.recall(prediction, reference),
            1 - itk.GetFalseNegativeError(),
        ),
        "precision": (
            medpy_binary.precision(prediction, reference),
            1 - itk.GetFalseDiscoveryRate(),
        ),
    }
    counts = overlap_counts(prediction, reference)
    for name, values in theirs.items():
        assert values == pytest.approx([getattr(counts, name)] * 2, rel=1e-12)


@settings(deadline=None, max_examples=60)
@given(mask_pairs())
def test_symmetry_range_and_relation(masks: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, reference = masks
    counts, swapped = overlap_counts(prediction, reference), overlap_counts(reference, prediction)
    np.testing.assert_equal(counts.dice, swapped.dice)
    np.testing.assert_equal(counts.sensitivity, swapped.precision)
    assert counts.prediction_size == prediction.sum()
    assert counts.reference_size == reference.sum()
    if math.isnan(counts.dice):
        assert not prediction.any()
        assert not reference.any()
    else:
        assert 0 <= counts.iou <= counts.dice <= 1
        assert counts.dice == pytest.approx(2 * counts.iou / (1 + counts.iou))


@settings(deadline=None, max_examples=60)
@given(mask_pairs(), st.integers(0, 5))
def test_geometry_does_not_matter(masks: tuple[np.ndarray, np.ndarray], choice: int) -> None:
    counts = overlap_counts(*masks)
    orders = list(permutations(range(masks[0].ndim)))
    axes = orders[choice % len(orders)]
    for change in (np.flip, lambda m: m.transpose(axes), lambda m: np.pad(m, (choice, 2))):
        assert overlap_counts(*(change(mask) for mask in masks)) == counts


@settings(deadline=None, max_examples=60)
@given(mask_pairs())
def test_counts_of_parts_pool_to_those_of_the_whole(masks: tuple[np.ndarray, np.ndarray]) -> None:
    parts = (overlap_counts(*both) for both in zip(*masks, strict=True))
    assert sum(parts, OverlapCounts()) == overlap_counts(*masks)


def test_pooled_dice_is_not_the_mean() -> None:
    small, large = OverlapCounts(0, 0, 2), OverlapCounts(49, 0, 0)
    assert (small + large).dice == pytest.approx(98 / 100)
    assert (small.dice + large.dice) / 2 == 0.5


def test_counts_may_come_as_array_scalars() -> None:
    counts = OverlapCounts(np.int64(3), np.array(1), np.uint8(2))  # type: ignore[arg-type]
    assert counts == OverlapCounts(3, 1, 2)
    assert type(counts.true_positives) is int


@pytest.mark.parametrize("value", [1.5, "3", None, np.array([1, 2])])
def test_refuses_counts_that_are_no_integers(value: object) -> None:
    with pytest.raises(TypeError, match=r"false_positives is .*expected an integer count"):
        OverlapCounts(1, value, 2)  # type: ignore[arg-type]


def test_refuses_negative_counts() -> None:
    with pytest.raises(ValueError, match="false_negatives is -2, expected 0 or more"):
        OverlapCounts(1, 0, -2)


@pytest.mark.parametrize(
    ("mask", "found"),
    [(np.zeros((2, 2), np.uint8), "uint8"), (np.zeros((2, 2)), "float64"), ([[True]], "list")],
)
def test_refuses_what_is_not_a_boolean_array(mask: np.ndarray, found: str) -> None:
    good = np.zeros((2, 2), dtype=bool)
    with pytest.raises(TypeError, match=f"prediction is {found}, expected"):
        require_masks(mask, good)
    with pytest.raises(TypeError, match=f"reference is {found}, expected"):
        dice(good, mask)


def test_refuses_different_shapes_even_if_they_would_broadcast() -> None:
    with pytest.raises(ValueError, match=r"prediction has shape \(3, 1\), reference \(3, 4\)"):
        overlap_counts(np.ones((3, 1), dtype=bool), np.ones((3, 4), dtype=bool))
