import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemaseg.dicom.objects import Frame
from hemaseg.dicom.stacks import (
    check_same_way,
    displayed,
    find_gaps,
    heights,
    same_places,
    stack,
)
from hemaseg.errors import ScanError
from hemaseg.scans.screening import ReadOptions, Screen, kinds_of

X, Y, Z = np.eye(3)


def frames(
    positions: Sequence[Sequence[float]],
    *,
    instances: Sequence[int | None] | None = None,
    thicknesses: Sequence[float | None] | None = None,
) -> list[Frame]:
    """Axial frames with pixels of 2 x 3 mm."""
    count = len(positions)
    return [
        Frame(1, instance, np.array(position, float), X, Y, (2.0, 3.0), thickness, None, 1.0, 0.0)
        for position, instance, thickness in zip(
            positions,
            instances or range(1, count + 1),
            thicknesses or [5.0] * count,
            strict=True,
        )
    ]


def along_z(*places: float) -> list[tuple[float, float, float]]:
    return [(10.0, 20.0, place) for place in places]


def refusal(found: list[Frame]) -> ScanError:
    with pytest.raises(ScanError) as caught:
        stack(found, Screen("scan"))
    return caught.value


def test_affine_of_an_upright_stack() -> None:
    screen = Screen("scan")
    found = stack(frames(along_z(-5, 0, 5)), screen)
    expected = [[0, 0, -3, -10], [0, -2, 0, -20], [5, 0, 0, -5], [0, 0, 0, 1]]
    np.testing.assert_array_equal(found.affine, expected)
    assert found.coordinates is None
    assert screen.findings == []


def test_tilt_shears_the_affine() -> None:
    screen = Screen("scan")
    tilt = math.radians(20)
    positions = [(0, k * 5 * math.sin(tilt), k * 5 * math.cos(tilt)) for k in range(4)]
    found = stack(frames(positions), screen)
    np.testing.assert_allclose(found.affine[:3, 0], np.array(positions[1]) * (-1, -1, 1))
    # The volume of a voxel is its area times the distance perpendicular to the slice.
    assert abs(np.linalg.det(found.affine)) == pytest.approx(2 * 3 * 5 * math.cos(tilt))
    (finding,) = screen.findings
    assert finding.kind == "gantry-tilt"
    assert "20.0 degrees" in finding.message


def test_uneven_steps_are_coordinates_in_steps_of_the_affine() -> None:
    screen = Screen("scan")
    found = stack(frames(along_z(0, 4, 8, 12, 13, 20, 27)), screen)
    assert found.coordinates is not None
    np.testing.assert_allclose(
        found.coordinates * found.affine[2, 0], [0, 4, 8, 12, 13, 20, 27], rtol=1e-12
    )
    (finding,) = screen.findings
    assert finding.kind == "uneven-spacing"
    assert "1 to 7 mm" in finding.message


@pytest.mark.parametrize(("places", "is_even"), [
    ((0.0, 0.6, 1.2, 1.9, 2.5), True),  # 0.625 mm, rounded.
    ((0.0, 5.09, 10.0), True),
    ((0.0, 5.11, 10.0), False),
    ((0.0, 0.28, 0.68, 1.08, 1.48), False),
])  # fmt: skip
def test_rounded_positions_are_even(places: tuple[float, ...], is_even: bool) -> None:
    assert (stack(frames(along_z(*places)), Screen("scan")).coordinates is None) == is_even


@pytest.mark.parametrize(("shift", "is_refused"), [(0.19, False), (0.21, True)])
def test_slices_off_the_line(shift: float, is_refused: bool) -> None:
    found = frames([(0, 0, 0), (0, shift, 5), (0, 0, 10)])
    if is_refused:
        error = refusal(found)
        assert error.kind == "slices-off-line"
        assert "0.21 mm" in str(error)
    else:
        assert stack(found, Screen("scan")).coordinates is None


@pytest.mark.parametrize(
    ("instances", "is_reported"),
    [
        ((1, 2, 3), False),
        ((3, 2, 1), False),
        ((10, 20, 31), False),
        ((1, 3, 2), True),
        ((1, 1, 2), True),
        ((1, 1, 1), False),
        ((1, None, 0), False),
    ],
)
def test_numbers_against_positions(instances: tuple[int | None, ...], is_reported: bool) -> None:
    screen = Screen("scan")
    stack(frames(along_z(0, 5, 10), instances=instances), screen)
    assert kinds_of(screen.findings) == ("slices-sorted",) * is_reported


def test_a_gap_that_is_accepted() -> None:
    found = frames(along_z(0, 5, 15, 20))
    assert refusal(found).kind == "missing-slices"
    screen = Screen("scan", ReadOptions(accept=frozenset({"missing-slices"})))
    coordinates = stack(found, screen).coordinates
    assert coordinates is not None
    np.testing.assert_allclose(coordinates, [0, 1, 3, 4])
    assert kinds_of(screen.findings) == ("missing-slices", "uneven-spacing")


NONE: list[int | None] = [None] * 9


@pytest.mark.parametrize(
    ("steps", "instances", "thicknesses", "gaps"),
    [
        # Evenly spaced, and real blocks of different spacing.
        ([5, 5, 5], NONE, [5], []),
        ([4, 4, 4, 7, 7, 7], NONE, [5], []),
        ([4.22, 4.22, 1.14, 7.38, 7.38], NONE, [4], []),
        ([4, 4, 12, 7, 7], NONE, [4, 4, 4, 7, 7, 7], []),
        ([5, 1, 5, 5], NONE, [5], []),
        ([5, 5, 1, 5], NONE, [5], []),
        ([5], NONE, [5], []),
        # One long step.
        ([5, 10, 5], NONE, [5], [1]),
        ([5, 7.5, 5], NONE, [5], [1]),
        ([5, 7.4, 5], NONE, [5], []),
        ([10, 5, 5], NONE, [5], [0]),
        ([5, 5, 10], NONE, [5], [2]),
        ([4, 4, 12, 7, 7], NONE, [5], [2]),
        ([5, 10], NONE, [5], [1]),
        ([5, 10, 5, 5, 15, 5], NONE, [5], [1, 4]),
        # Several long steps side by side, known by the numbers that are skipped.
        ([5, 10, 10, 5], NONE, [5], []),
        ([5, 10, 10, 5], [1, 2, 4, 6, 7], [5], [1, 2]),
        ([5, 10, 10, 5], [7, 6, 4, 2, 1], [5], [1, 2]),
        ([5, 5, 10, 10], [1, 2, 3, 5, 7], [5], [2, 3]),
        ([5, 8, 8, 5], [1, 2, 4, 6, 7], [5], []),
        # Numbers that skip where nothing is missing.
        ([5, 5, 5], [1, 3, 5, 7], [5], []),
        ([5, 5, 5], [1, 2, 9, 10], [5], []),
        ([2.5, 2.5, 5, 5], [1, 2, 3, 31, 32], [5], []),
        ([5, 5, 5], [1, 1, 1, 1], [5], []),
        # A gap where thickness changes too, known by the numbers.
        ([5, 5, 10, 5], [1, 2, 3, 5, 6], [5, 5, 5, 4, 4], [2]),
    ],
)
def test_gaps(
    steps: list[float],
    instances: list[int | None],
    thicknesses: list[float | None],
    gaps: list[int],
) -> None:
    count = len(steps) + 1
    found = find_gaps(
        np.array(steps, float),
        instances[:count],
        thicknesses if len(thicknesses) > 1 else thicknesses * count,
    )
    assert found == gaps


def test_gaps_of_many_slices_are_found_fast() -> None:
    steps = np.ones(20_000)
    steps[777] = 2
    numbers: list[int | None] = [*range(778), *range(779, 20_002)]
    assert find_gaps(steps, numbers, [1.0] * 20_001) == [777]


def test_places_are_sorted_and_shared() -> None:
    found = frames(along_z(5, 0, 5.005, 5.02))
    assert same_places(found) == [[1], [0, 2], [3]]
    np.testing.assert_allclose(heights(found), [5, 0, 5.005, 5.02])


def test_a_way_is_compared_by_its_cosines() -> None:
    one, two = frames(along_z(0, 5))
    check_same_way([one, two], Screen("scan"))
    turned = Frame(**{**vars(two), "down": np.array([0.0, math.cos(2e-3), math.sin(2e-3)])})
    with pytest.raises(ScanError, match=r"up to 0\.002") as caught:
        check_same_way([one, turned], Screen("scan"))
    assert caught.value.kind == "mixed-orientations"
    larger = Frame(**{**vars(two), "spacing": (2.0, 3.01)})
    with pytest.raises(ScanError, match=r"from 2 to 3\.01 mm") as caught:
        check_same_way([one, larger], Screen("scan"))
    assert caught.value.kind == "mixed-grids"


@given(
    steps=st.lists(st.floats(0.5, 9.0), min_size=2, max_size=8),
    flips=st.tuples(st.booleans(), st.booleans()),
)
def test_display_keeps_every_slice_at_its_place(
    steps: list[float], flips: tuple[bool, bool]
) -> None:
    across, down = X * (-1) ** flips[0], Y * (-1) ** flips[1]
    normal = np.cross(across, down)
    places = np.r_[0, np.cumsum(steps)]
    accept = ReadOptions(accept=frozenset({"missing-slices"}))
    found = [
        Frame(1, None, place * normal, across, down, (1.0, 1.0), None, None, 1.0, 0.0)
        for place in places
    ]
    stored = np.arange(len(places) * 6).reshape(len(places), 2, 3)
    geometry = stack(found, Screen("scan", accept))
    voxels, display, _ = displayed(stored, geometry, Screen("scan"))
    even = np.arange(len(places), dtype=float)
    coordinates = even if display.coordinates is None else display.coordinates
    for (k, h, w), value in np.ndenumerate(voxels):
        index, row, column = np.argwhere(stored == value)[0]
        lps = places[index] * normal + row * down + column * across
        point = display.affine @ np.array([coordinates[k], h, w, 1])
        # Slices that are even but for rounding are placed evenly.
        np.testing.assert_allclose(point[:3], lps * (-1, -1, 1), atol=0.11)
