# mypy: allow-untyped-calls
# (SimpleITK's functions have no types.)
"""Surface distances against hand-made shapes, four other implementations, and properties."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import SimpleITK
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from medpy.metric import binary as medpy_binary

from hemaseg.metrics.surfaces import (
    SurfaceDistances,
    assd_mm,
    hd95_mm,
    percentile,
    surface_dice,
    surface_distances,
)


def mask(*rows: str) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def ellipsoid(
    shape: tuple[int, ...], centre: tuple[float, ...], radii: tuple[float, ...]
) -> np.ndarray:
    axes = zip(np.indices(shape), centre, radii, strict=True)
    inside: np.ndarray = sum(((i - c) / r) ** 2 for i, c, r in axes) <= np.float64(1)
    return inside


class Case(NamedTuple):
    prediction: np.ndarray
    reference: np.ndarray
    spacing_mm: tuple[float, ...]
    hd95_mm: float
    assd_mm: float
    surface_dice: float


# The numbers come from MONAI 1.6.1 (compute_hausdorff_distance with percentile=95,
# compute_average_surface_distance with symmetric=True, compute_surface_dice with a threshold of
# 1 mm; float32) and, with the digits that MONAI lacks, from the formulas of MetricsReloaded
# (measured_distance, normalised_surface_distance), which agree in all digits of MONAI.
CASES = {
    "2-D": Case(
        ellipsoid((60, 50), (28, 24), (18, 15)),
        ellipsoid((60, 50), (31, 22), (14, 17)),
        (0.5, 0.7),
        *(3.395823989297154, 1.43380690210205, 0.5),
    ),
    "3-D, thick slices": Case(
        ellipsoid((9, 40, 40), (4, 20, 20), (2.5, 12, 12)),
        ellipsoid((9, 40, 40), (4, 22, 19), (3.5, 13, 10)),
        (5.0, 0.5, 0.5),
        *(5.0, 1.279042884133756, 0.6302211302211302),
    ),
    "3-D, cut by the edge": Case(
        ellipsoid((16, 16, 16), (3, 8, 8), (5, 6, 6)),
        ellipsoid((16, 16, 16), (4, 9, 8), (6, 4, 5)),
        (1.0, 1.0, 1.0),
        *(3.0, 1.1070286655361388, 0.6666666666666666),
    ),
    "one of two lesions missed": Case(
        ellipsoid((40, 60), (20, 15), (8, 9)),
        ellipsoid((40, 60), (20, 15), (9, 8)) | ellipsoid((40, 60), (25, 50), (4, 5)),
        (1.0, 2.0),
        *(60.10115773199753, 11.144724338714314, 0.65),
    ),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def distances_of(case: Case) -> SurfaceDistances:
    return surface_distances(case.prediction, case.reference, spacing_mm=case.spacing_mm)


@each_case
def test_agrees_with_monai_and_metrics_reloaded(case: Case) -> None:
    distances = distances_of(case)
    assert hd95_mm(distances) == pytest.approx(case.hd95_mm, rel=1e-12)
    assert assd_mm(distances) == pytest.approx(case.assd_mm, rel=1e-12)
    assert surface_dice(distances, tolerance_mm=1) == pytest.approx(case.surface_dice, rel=1e-12)


@each_case
def test_agrees_with_medpy(case: Case) -> None:
    distances = distances_of(case)
    masks = case.prediction, case.reference
    joined = np.concatenate(
        [distances.prediction_to_reference_mm, distances.reference_to_prediction_mm]
    )
    assert assd_mm(distances) == pytest.approx(medpy_binary.assd(*masks, case.spacing_mm))
    assert joined.max() == pytest.approx(medpy_binary.hd(*masks, case.spacing_mm))
    # MedPy joins the two sets before it takes the percentile.
    assert np.percentile(joined, 95) == pytest.approx(medpy_binary.hd95(*masks, case.spacing_mm))
    directed = [
        np.mean(distances.prediction_to_reference_mm),
        np.mean(distances.reference_to_prediction_mm),
    ]
    assert directed == pytest.approx(
        [
            medpy_binary.asd(*masks, case.spacing_mm),
            medpy_binary.asd(*masks[::-1], case.spacing_mm),
        ]
    )


@each_case
def test_agrees_with_simpleitk(case: Case) -> None:
    borders, maps = [], []
    for array in (case.prediction, case.reference):
        # Padded, so that voxels at the edge of the array are border.
        image = SimpleITK.GetImageFromArray(np.pad(array, 1).astype(np.uint8))
        image.SetSpacing(case.spacing_mm[::-1])
        contour = SimpleITK.LabelContour(image)
        borders.append(SimpleITK.GetArrayFromImage(contour).astype(bool))
        distance_map = SimpleITK.SignedMaurerDistanceMap(
            contour, squaredDistance=False, useImageSpacing=True
        )
        maps.append(np.abs(SimpleITK.GetArrayFromImage(distance_map)))
    distances = distances_of(case)
    np.testing.assert_allclose(
        distances.prediction_to_reference_mm, maps[1][borders[0]], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        distances.reference_to_prediction_mm, maps[0][borders[1]], rtol=1e-5, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "hd95", "assd", "dice"),
    [
        ("2-D", 3.5, 1.3515812547440693, 0.5091450448371119),
        ("3-D, thick slices", 5.0, 0.7847929839697783, 0.793075494008217),
        ("3-D, cut by the edge", 2.8284271247461903, 0.8647561135106797, 0.7471216501909711),
    ],
)
def test_surface_distance_weights_by_area_and_disagrees_as_documented(
    name: str, hd95: float, assd: float, dice: float
) -> None:
    case = CASES[name]
    theirs = surface_distance.compute_surface_distances(
        case.reference, case.prediction, case.spacing_mm
    )
    weights = theirs["surfel_areas_gt"], theirs["surfel_areas_pred"]
    weighted = (
        theirs["distances_gt_to_pred"] @ weights[0] + theirs["distances_pred_to_gt"] @ weights[1]
    )
    assert weighted / (weights[0].sum() + weights[1].sum()) == pytest.approx(assd)
    assert surface_distance.compute_robust_hausdorff(theirs, 95) == pytest.approx(hd95)
    assert surface_distance.compute_surface_dice_at_tolerance(theirs, 1) == pytest.approx(dice)
    assert assd < case.assd_mm
    assert dice > case.surface_dice


def test_two_pixels_in_anisotropic_spacing() -> None:
    prediction, reference = mask("#..", "...", "..."), mask("...", "...", "..#")
    distances = surface_distances(prediction, reference, spacing_mm=(1.5, 2.0))
    # Two rows of 1.5 mm and two columns of 2 mm: a triangle with sides 3, 4, 5.
    assert hd95_mm(distances) == pytest.approx(5)
    assert assd_mm(distances) == pytest.approx(5)
    assert surface_dice(distances, tolerance_mm=4.99) == 0
    assert surface_dice(distances, tolerance_mm=5) == 1


def test_segments_shifted_by_one_pixel() -> None:
    # Every pixel is border. Distances in columns: 1, 0, 0 one way, 0, 0, 1 the other.
    distances = surface_distances(mask("###."), mask(".###"), spacing_mm=(1, 2))
    assert assd_mm(distances) == pytest.approx(4 / 6)
    assert hd95_mm(distances) == pytest.approx(0.9 * 2)
    assert surface_dice(distances, tolerance_mm=0) == pytest.approx(4 / 6)
    assert surface_dice(distances, tolerance_mm=2) == 1


def test_inner_pixels_are_no_surface() -> None:
    distances = surface_distances(
        mask("#####", "#####", "#####", "#####", "#####"),
        mask(".....", ".....", "..#..", ".....", "....."),
        spacing_mm=(1, 1),
    )
    assert len(distances.prediction_to_reference_mm) == 16
    # The centre pixel is 2 rows from the nearest border pixel, though it lies in the other mask.
    assert distances.reference_to_prediction_mm.tolist() == [2.0]


def test_diagonal_neighbours_do_not_make_inner_pixels() -> None:
    plus = mask(".#.", "###", ".#.")
    distances = surface_distances(plus, plus, spacing_mm=(1, 1))
    assert len(distances.prediction_to_reference_mm) == 4


def test_cubes_shifted_along_an_axis() -> None:
    cube, shifted = np.zeros((2, 14, 10, 10), dtype=bool)
    cube[2:8, 2:8, 2:8], shifted[6:12, 2:8, 2:8] = True, True
    distances = surface_distances(cube, shifted, spacing_mm=(3, 1, 1))
    # The farthest face, 36 of 152 border voxels, lies 4 slices away.
    assert hd95_mm(distances) == pytest.approx(12)
    assert max(distances.prediction_to_reference_mm) == pytest.approx(12)


def test_concentric_balls_approach_the_difference_of_their_radii() -> None:
    squared = ((np.indices((61, 61, 61)) - 30) ** 2).sum(axis=0)
    distances = surface_distances(squared <= 18**2, squared <= 27**2, spacing_mm=(0.5, 0.5, 0.5))
    assert assd_mm(distances) == pytest.approx(9 * 0.5, abs=0.25)
    assert hd95_mm(distances) == pytest.approx(9 * 0.5, abs=0.5)


@pytest.mark.parametrize(
    ("prediction", "reference", "distance", "dice"),
    [(False, False, math.nan, math.nan), (True, False, math.inf, 0), (False, True, math.inf, 0)],
    ids=["both empty", "reference empty", "prediction empty"],
)
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_empty_masks(
    prediction: bool, reference: bool, distance: float, dice: float, shape: tuple[int, ...]
) -> None:
    distances = surface_distances(
        np.full(shape, prediction), np.full(shape, reference), spacing_mm=[2.0] * len(shape)
    )
    np.testing.assert_equal(hd95_mm(distances), distance)
    np.testing.assert_equal(assd_mm(distances), distance)
    np.testing.assert_equal(surface_dice(distances, tolerance_mm=2), dice)


def test_scans_pool_and_a_missed_one_is_not_forgotten() -> None:
    dot, none = mask("#"), mask(".")
    found = surface_distances(dot, dot, spacing_mm=(1, 1))
    missed = surface_distances(none, dot, spacing_mm=(1, 1))
    invented = surface_distances(dot, none, spacing_mm=(1, 1))
    assert assd_mm(found + missed) == math.inf
    assert hd95_mm(found + missed) == math.inf
    assert surface_dice(found + missed, tolerance_mm=1) == pytest.approx(2 / 3)
    assert hd95_mm(missed + invented) == math.inf
    assert hd95_mm(found + surface_distances(none, none, spacing_mm=(1, 1))) == 0


@st.composite
def mask_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two masks that are not empty."""
    shape = draw(array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=5))
    masks = draw(arrays(np.bool_, shape)), draw(arrays(np.bool_, shape))
    for array in masks:
        array[draw(st.tuples(*(st.integers(0, side - 1) for side in shape)))] = True
    return masks


def scores(
    masks: tuple[np.ndarray, ...], spacing_mm: np.ndarray, tolerance_mm: float = 1.5
) -> tuple[float, float, float]:
    distances = surface_distances(*masks, spacing_mm=spacing_mm)
    dice = surface_dice(distances, tolerance_mm=tolerance_mm)
    return hd95_mm(distances), assd_mm(distances), dice


SPACING_MM = np.array([3.0, 0.7, 0.5])


@settings(deadline=None, max_examples=60)
@given(mask_pairs(), st.floats(0.01, 100))
def test_distances_scale_with_the_spacing(
    masks: tuple[np.ndarray, np.ndarray], factor: float
) -> None:
    spacing_mm = SPACING_MM[: masks[0].ndim]
    hd95, assd, dice = scores(masks, spacing_mm)
    scaled = scores(masks, spacing_mm * factor, 1.5 * factor)
    assert scaled == pytest.approx((hd95 * factor, assd * factor, dice))


@settings(deadline=None, max_examples=60)
@given(mask_pairs(), st.randoms(use_true_random=False))
def test_geometry_does_not_matter(masks: tuple[np.ndarray, np.ndarray], random: object) -> None:
    axes = list(range(masks[0].ndim))
    random.shuffle(axes)  # type: ignore[attr-defined]
    spacing_mm = SPACING_MM[: masks[0].ndim]
    expected = pytest.approx(scores(masks, spacing_mm))
    assert scores(masks[::-1], spacing_mm) == expected
    assert scores(tuple(np.flip(array) for array in masks), spacing_mm) == expected
    assert scores(tuple(np.pad(array, (3, 1)) for array in masks), spacing_mm) == expected
    turned = tuple(array.transpose(axes) for array in masks)
    assert scores(turned, spacing_mm[axes]) == expected


@settings(deadline=None, max_examples=60)
@given(mask_pairs())
def test_range_and_identity(masks: tuple[np.ndarray, np.ndarray]) -> None:
    spacing_mm = SPACING_MM[: masks[0].ndim]
    hd95, assd, dice = scores(masks, spacing_mm)
    diagonal = np.linalg.norm(spacing_mm * (np.array(masks[0].shape) - 1))
    assert 0 <= hd95 <= diagonal * (1 + 1e-9)
    assert 0 <= assd <= diagonal * (1 + 1e-9)
    assert 0 <= dice <= 1
    assert scores((masks[0], masks[0]), spacing_mm) == (0, 0, 1)


def test_an_oblique_grid_has_the_distances_of_a_straight_one() -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    case = CASES["3-D, thick slices"]
    steps_mm = turn @ np.diag(case.spacing_mm)
    masks = case.prediction, case.reference
    assert scores(masks, steps_mm) == pytest.approx(scores(masks, np.array(case.spacing_mm)))


def test_a_sheared_grid() -> None:
    # Gantry tilt: every slice is shifted by 3 mm along the rows and lies 4 mm further.
    steps_mm = np.array([[4.0, 0.0, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    prediction, reference = np.zeros((2, 3, 2, 2), dtype=bool)
    prediction[0, 0, 0], reference[2, 0, 0] = True, True
    distances = surface_distances(prediction, reference, spacing_mm=steps_mm)
    assert hd95_mm(distances) == pytest.approx(10)


def test_a_slice_in_space() -> None:
    steps_mm = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    distances = surface_distances(mask("#.", ".."), mask("..", ".#"), spacing_mm=steps_mm)
    assert hd95_mm(distances) == pytest.approx(5)


def test_spacing_stored_as_float32_does_not_change_what_is_within_the_tolerance() -> None:
    spacing_mm = np.array([1, 0.3], dtype=np.float32)
    distances = surface_distances(mask("#."), mask(".#"), spacing_mm=spacing_mm)
    assert distances.prediction_to_reference_mm[0] > 0.3
    assert surface_dice(distances, tolerance_mm=0.3) == 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.floats(0, 100))
def test_percentile_is_numpys_for_finite_values(values: list[float], percent: float) -> None:
    assert percentile(np.array(values), percent) == pytest.approx(np.percentile(values, percent))


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 2), (50.1, math.inf)])
def test_percentile_with_infinite_values(percent: float, expected: float) -> None:
    assert percentile(np.array([math.inf, 1, math.inf, 2, 1.5]), percent) == expected


@pytest.mark.parametrize("tolerance_mm", [-1.0, math.nan, math.inf])
def test_refuses_a_tolerance_that_is_none(tolerance_mm: float) -> None:
    distances = surface_distances(mask("#"), mask("#"), spacing_mm=(1, 1))
    with pytest.raises(ValueError, match=f"tolerance_mm is {tolerance_mm}, expected a finite"):
        surface_dice(distances, tolerance_mm=tolerance_mm)


@pytest.mark.parametrize(
    ("spacing_mm", "found"),
    [
        ((1.0,), r"\[1.0\]"),
        ((1.0, 2.0, 3.0), r"\[1.0, 2.0, 3.0\]"),
        ((1.0, 0.0), r"\[1.0, 0.0\]"),
        ((1.0, -2.0), r"\[1.0, -2.0\]"),
        ((math.nan, 1.0), r"\[nan, 1.0\]"),
        ([[1.0, 2.0], [2.0, 4.0]], r"\[\[1.0, 2.0\], \[2.0, 4.0\]\]"),
    ],
)
def test_refuses_a_spacing_that_is_none(spacing_mm: tuple[float, ...], found: str) -> None:
    with pytest.raises(ValueError, match=f"spacing_mm is {found}, expected 2 positive numbers"):
        surface_distances(mask("#"), mask("#"), spacing_mm=spacing_mm)


def test_refuses_masks_of_different_shapes() -> None:
    with pytest.raises(ValueError, match=r"prediction has shape \(1, 2\), reference \(1, 1\)"):
        surface_distances(mask("##"), mask("#"), spacing_mm=(1, 1))


def test_slices_lie_where_their_coordinates_say() -> None:
    """Slices 3 steps apart, each 2 mm up and 1 mm along."""
    prediction, reference = np.zeros((2, 3, 4, 4), dtype=bool)
    prediction[0, 1, 1], reference[2, 1, 1] = True, True
    steps_mm = np.array([[2.0, 0, 0], [0, 0.5, 0], [1, 0, 0.5]])
    distances = surface_distances(
        prediction,
        reference,
        spacing_mm=steps_mm,
        slice_coordinates=np.array([0.0, 1, 3]),
    )
    assert hd95_mm(distances) == pytest.approx(math.hypot(6, 3))


@pytest.mark.parametrize("is_reference_empty", [False, True])
def test_an_empty_mask_of_unevenly_spaced_slices(is_reference_empty: bool) -> None:
    prediction, reference = np.zeros((2, 3, 4, 4), dtype=bool)
    reference[2, 1, 1] = not is_reference_empty
    places = np.array([0.0, 1, 3])
    distances = surface_distances(
        prediction, reference, spacing_mm=(2, 1, 1), slice_coordinates=places
    )
    found = hd95_mm(distances)
    assert math.isnan(found) if is_reference_empty else found == math.inf


@given(mask_pairs())
def test_even_coordinates_change_nothing(pair: tuple[np.ndarray, np.ndarray]) -> None:
    spacing_mm = np.arange(1.0, pair[0].ndim + 1)
    even = np.arange(len(pair[0]), dtype=np.float64)
    plain = surface_distances(*pair, spacing_mm=spacing_mm)
    found = surface_distances(*pair, spacing_mm=spacing_mm, slice_coordinates=even)
    for name in ("prediction_to_reference_mm", "reference_to_prediction_mm"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))
