# mypy: allow-untyped-calls
# (SimpleITK's functions have no types.)
"""Lesion detection against hand-made masks, two other implementations, and properties."""

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from medpy.metric import binary as medpy_binary

from hemaseg.metrics.lesions import LesionCounts, lesion_counts


def mask(*rows: str) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in rows])


REFERENCE = mask(
    "##....##",
    "##....##",
    "........",
    "...#....",
)


def test_one_found_one_missed_one_false() -> None:
    prediction = mask(
        ".##.....",
        ".##.....",
        ".......#",
        "...##...",
    )
    # The upper right lesion has a predicted neighbour, but shares no pixel with it.
    assert lesion_counts(prediction, REFERENCE) == LesionCounts(3, 2, 3, 1)


def test_one_prediction_may_detect_several_lesions() -> None:
    prediction = mask("########", *["........"] * 3)
    assert lesion_counts(prediction, REFERENCE) == LesionCounts(3, 2, 1, 0)


def test_several_predictions_of_one_lesion_are_none_of_them_false() -> None:
    reference = mask("######")
    assert lesion_counts(mask("#.#..#"), reference) == LesionCounts(1, 1, 3, 0)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        (False, False, LesionCounts(0, 0, 0, 0)),
        (True, False, LesionCounts(0, 0, 1, 1)),
        (False, True, LesionCounts(1, 0, 0, 0)),
    ],
    ids=["both empty", "reference empty", "prediction empty"],
)
def test_empty_masks(prediction: bool, reference: bool, expected: LesionCounts) -> None:
    shape = (2, 3, 4)
    assert lesion_counts(np.full(shape, prediction), np.full(shape, reference)) == expected


def test_corners_connect_in_2d_and_3d() -> None:
    diagonal = np.eye(3, dtype=bool)
    assert lesion_counts(diagonal, diagonal) == LesionCounts(1, 1, 1, 0)
    corner = np.zeros((2, 2, 2), dtype=bool)
    corner[0, 0, 0] = corner[1, 1, 1] = True
    assert lesion_counts(corner, corner) == LesionCounts(1, 1, 1, 0)


def test_an_empty_slice_separates_lesions() -> None:
    stack = np.zeros((3, 4, 4), dtype=bool)
    stack[0], stack[2] = True, True
    assert lesion_counts(stack, stack).num_reference_lesions == 2


@pytest.mark.parametrize("shape", [(60, 70), (12, 30, 30)])
def test_agrees_with_simpleitk(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(3)
    prediction, reference = random.random((2, *shape)) < 0.03
    labels = {}
    for name, array in (("prediction", prediction), ("reference", reference)):
        image = SimpleITK.GetImageFromArray(array.astype(np.uint8))
        labels[name] = SimpleITK.GetArrayFromImage(SimpleITK.ConnectedComponent(image, True))
    found = set(labels["reference"][prediction & reference])
    true = set(labels["prediction"][prediction & reference])
    num_predicted = int(labels["prediction"].max())
    assert 0 < len(found) < labels["reference"].max()
    assert lesion_counts(prediction, reference) == LesionCounts(
        int(labels["reference"].max()), len(found), num_predicted, num_predicted - len(true)
    )


def test_agrees_with_medpy_where_lesions_correspond_one_to_one() -> None:
    # MedPy pairs each lesion with one prediction only; here no lesion has more than one.
    prediction = np.roll(REFERENCE, 1, axis=1) & ~mask(*["......##"] * 4)
    prediction[3, 7] = True
    counts = lesion_counts(prediction, REFERENCE)
    assert counts.num_detected_lesions / counts.num_reference_lesions == pytest.approx(
        medpy_binary.obj_tpr(prediction, REFERENCE, connectivity=2)
    )
    assert counts.num_false_lesions / counts.num_predicted_lesions == pytest.approx(
        medpy_binary.obj_fpr(prediction, REFERENCE, connectivity=2)
    )


@settings(deadline=None, max_examples=60)
@given(arrays(np.bool_, (3, 4, 5)), arrays(np.bool_, (3, 4, 5)), st.permutations([0, 1, 2]))
def test_properties(prediction: np.ndarray, reference: np.ndarray, axes: list[int]) -> None:
    counts = lesion_counts(prediction, reference)
    assert 0 <= counts.num_detected_lesions <= counts.num_reference_lesions
    assert 0 <= counts.num_false_lesions <= counts.num_predicted_lesions
    swapped = lesion_counts(reference, prediction)
    assert swapped.num_reference_lesions == counts.num_predicted_lesions
    # At any overlap, a component is detected or false, whichever way one looks.
    assert swapped.num_detected_lesions == counts.num_predicted_lesions - counts.num_false_lesions
    for change in (np.flip, lambda m: m.transpose(axes), lambda m: np.pad(m, 1)):
        assert lesion_counts(change(prediction), change(reference)) == counts


def test_counts_pool() -> None:
    assert LesionCounts(1, 1, 2, 1) + LesionCounts(3, 0, 1, 1) == LesionCounts(4, 1, 3, 2)


def test_refuses_label_maps() -> None:
    with pytest.raises(TypeError, match="reference is int64"):
        lesion_counts(REFERENCE, REFERENCE.astype(np.int64))
