import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemaseg.phantoms.warping import (
    atlas_positions,
    control_positions,
    rotation,
    smooth_noise,
    spline_basis,
)

AXES = (np.linspace(-60, 60, 25), np.linspace(-90, 90, 31), np.linspace(-80, 80, 21))


@given(st.integers(2, 60), st.integers(4, 15), st.floats(-100, 100), st.floats(0.1, 300))
def test_linear_functions_are_repeated(
    num: int, num_controls: int, first: float, length: float
) -> None:
    last = first + length
    drawn = spline_basis(num, num_controls) @ control_positions(num_controls, first, last)
    scale = abs(first) + length
    np.testing.assert_allclose(drawn, np.linspace(first, last, num), atol=3e-6 * scale)


@given(st.integers(2, 60), st.integers(4, 15))
def test_weights_are_shares(num: int, num_controls: int) -> None:
    basis = spline_basis(num, num_controls)
    np.testing.assert_allclose(basis.sum(axis=1), 1, atol=1e-6)
    assert basis.min() >= 0
    assert ((basis > 0).sum(axis=1) <= 4).all()


def test_spline_on_a_control_point() -> None:
    # The uniform cubic B-spline is 2/3 at its centre and 1/6 one step away.
    np.testing.assert_allclose(spline_basis(3, 5)[1], [0, 1 / 6, 2 / 3, 1 / 6, 0], atol=1e-7)


@pytest.mark.parametrize(
    ("angles", "moved"),
    [((90, 0, 0), (1, 0, 0)), ((0, 90, 0), (0, 0, -1)), ((0, 0, 90), (0, 1, 0))],
)
def test_turns_about_one_axis(angles: tuple[int, ...], moved: tuple[int, ...]) -> None:
    found = rotation(np.array(angles, float)) @ [1.0, 0, 0]
    np.testing.assert_allclose(found, moved, atol=1e-12)


@given(st.lists(st.floats(-180, 180), min_size=3, max_size=3))
def test_turns_keep_lengths_and_sides(angles: list[float]) -> None:
    matrix = rotation(np.array(angles))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)


@pytest.mark.parametrize("shear_mm", [0.0, 0.36])
def test_unbent_positions_are_the_pose(shear_mm: float) -> None:
    random = np.random.default_rng(2)
    to_atlas = np.column_stack([rotation(np.array([5.0, 8, -11])) * 0.97, [3.0, -4, 9]])
    found = atlas_positions(AXES, shear_mm, to_atlas, 0.0, random)
    s, p, left = np.meshgrid(*AXES, indexing="ij")
    expected = np.tensordot(
        to_atlas, np.stack([s, p + shear_mm * s, left, np.ones_like(s)]), axes=1
    )
    assert found.shape == (3, 25, 31, 21)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_bends_are_smooth_and_as_large_as_asked() -> None:
    pose = np.eye(3, 4)
    unbent = atlas_positions(AXES, 0.0, pose, 0.0, np.random.default_rng(0))
    bends = np.array(
        [
            atlas_positions(AXES, 0.0, pose, 4.0, np.random.default_rng(seed)) - unbent
            for seed in range(12)
        ]
    )
    # Weighted means of independent shifts: between 0.2 and 0.45 of their SD.
    assert 0.2 * 4 < bends.std() < 0.45 * 4
    steps = [
        np.abs(np.diff(bends, axis=axis)).max() / (lengths[1] - lengths[0])
        for axis, lengths in zip((2, 3, 4), AXES, strict=True)
    ]
    assert max(steps) < 0.6  # below 1 nothing folds along an axis


def test_smooth_noise_is_normal_and_of_its_seed() -> None:
    one, same, other = (
        smooth_noise((20, 30, 40), (6, 8, 9), np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    many = [smooth_noise((9, 9, 9), (5, 5, 5), np.random.default_rng(n)) for n in range(200)]
    assert np.std(many) == pytest.approx(0.35, abs=0.1)
    assert np.mean(many) == pytest.approx(0, abs=0.05)
