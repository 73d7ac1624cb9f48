"""Two masks on one grid: parts of a grid are put where they lie, and all else is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hemaseg.errors import EvaluationError
from hemaseg.evaluation.grids import check_shape, on_one_grid
from hemaseg.scans.scan import Scan
from hemaseg.scans.screening import Finding

SHAPE = (8, 9, 10)
AFFINE = np.array(
    [[0.1, 0.0, -0.7, 40.0], [1.6, -0.5, 0.0, -9.0], [4.7, -0.15, 0.0, 3.0], [0, 0, 0, 1]]
)
"""Tilted: slices are sheared against each other."""
UNEVEN = np.array([0.0, 1, 2, 3, 5, 7, 9, 11])
MASK = np.random.default_rng(1).random(SHAPE) < 0.3


def nifti(voxels: NDArray[np.bool_] = MASK, affine: NDArray[np.float64] = AFFINE) -> Scan:
    return Scan(voxels=voxels, affine=affine, path=Path("nifti"))


def seg(
    *box: slice,
    voxels: NDArray[np.bool_] = MASK,
    places: NDArray[np.float64] | None = None,
    uid: str = "1.2",
) -> Scan:
    """A part of a mask as a DICOM SEG holds it, here with its first voxel in its affine."""
    part = voxels[box]
    starts = [own.start or 0 for own in (*box, slice(0), slice(0), slice(0))][:3]
    affine = AFFINE.copy()
    first = starts[0] if places is None else places[starts[0]]
    affine[:3, 3] += AFFINE[:3, :3] @ (first, *starts[1:])
    own = None if places is None else places[box[0]] - first if box else places
    return Scan(part, affine, Path("seg"), own, frame_of_reference=uid)


def only(*box: slice) -> NDArray[np.bool_]:
    """The mask, empty beyond a box."""
    kept = np.zeros_like(MASK)
    kept[box] = MASK[box]
    return kept


PARTS = [
    (),
    (slice(2, 7),),
    (slice(3, 4),),
    (slice(0, 8), slice(2, 8), slice(1, 5)),
    (slice(4, 8), slice(0, 1), slice(9, 10)),
]


@pytest.mark.parametrize("box", PARTS)
def test_a_part_lies_where_it_was_cut_from(box: tuple[slice, ...]) -> None:
    whole = np.flip(MASK)
    for order in (1, -1):
        found = on_one_grid(*[seg(*box), nifti(whole)][::order])[::order]
        np.testing.assert_array_equal(found[0].voxels, only(*box))
        np.testing.assert_array_equal(found[1].voxels, whole)
        for mask in found:
            assert mask.affine is not None
            np.testing.assert_array_equal(mask.affine, AFFINE)


@given(st.data())
def test_two_parts_lie_as_in_the_whole(data: st.DataObject) -> None:
    boxes = []
    for _ in range(2):
        starts = [data.draw(st.integers(0, size - 1)) for size in SHAPE]
        ends = [data.draw(st.integers(s + 1, n)) for s, n in zip(starts, SHAPE, strict=True)]
        boxes.append(tuple(map(slice, starts, ends)))
    ours, theirs = on_one_grid(seg(*boxes[0]), seg(*boxes[1]))
    hull = tuple(
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(*boxes, strict=True)
    )
    np.testing.assert_array_equal(ours.voxels, only(*boxes[0])[hull])
    np.testing.assert_array_equal(theirs.voxels, only(*boxes[1])[hull])
    expected = seg(*hull).affine
    assert expected is not None
    for mask in (ours, theirs):
        np.testing.assert_allclose(mask.affine, expected, rtol=0, atol=1e-9)  # type: ignore[arg-type]


@pytest.mark.parametrize("box", PARTS[:3])
def test_a_part_of_an_uneven_stack(box: tuple[slice, ...]) -> None:
    whole = seg(places=UNEVEN)
    ours, theirs = on_one_grid(seg(*box, places=UNEVEN), whole)
    np.testing.assert_array_equal(ours.voxels, only(*box))
    np.testing.assert_array_equal(theirs.voxels, MASK)
    assert ours.slice_coordinates is theirs.slice_coordinates is UNEVEN


def test_an_even_part_of_an_uneven_stack() -> None:
    """From the upper block, whose slices are two steps apart."""
    part = seg(slice(4, 7), places=UNEVEN)
    affine = part.affine
    assert affine is not None
    affine[:3, 0] *= 2
    ours, _ = on_one_grid(replace(part, slice_coordinates=None), seg(places=UNEVEN))
    np.testing.assert_array_equal(ours.voxels, only(slice(4, 7)))


def sparse(*slices: int) -> Scan:
    """Slices of the uneven stack, as a SEG that leaves out others has them."""
    places = UNEVEN[list(slices)]
    part = seg(slice(slices[0], None), places=UNEVEN)
    found = Finding("missing-slices", "some were left out")
    voxels = MASK[list(slices)]
    return replace(part, voxels=voxels, slice_coordinates=places - places[0], findings=(found,))


@pytest.mark.parametrize("slices", [(1, 2, 5), (0, 7), (3, 4, 6, 7)])
def test_slices_that_were_left_out_are_empty(slices: tuple[int, ...]) -> None:
    ours, theirs = on_one_grid(sparse(*slices), seg(places=UNEVEN))
    np.testing.assert_array_equal(ours.voxels[list(slices)], MASK[list(slices)])
    assert ours.voxels.sum() == MASK[list(slices)].sum()
    np.testing.assert_array_equal(theirs.voxels, MASK)
    with pytest.raises(EvaluationError, match="seg: leaves out slices at places that seg leaves"):
        on_one_grid(sparse(*slices), sparse(*slices))
    with pytest.raises(EvaluationError, match="seg: corners of slices up to"):
        on_one_grid(moved(sparse(*slices), 0.1, 0, 0), seg(places=UNEVEN))
    with pytest.raises(EvaluationError, match="seg: several slices where seg has one"):
        on_one_grid(twice(sparse(*slices)), seg(places=UNEVEN))


def twice(mask: Scan) -> Scan:
    """With the first slice once more in its place."""
    assert mask.slice_coordinates is not None
    places = np.append(0, mask.slice_coordinates)
    voxels = np.concatenate([mask.voxels[:1], mask.voxels])
    return replace(mask, voxels=voxels, slice_coordinates=places)


def test_a_single_slice_does_not_say_how_far_the_next_is() -> None:
    part = seg(slice(5, 6))
    assert part.affine is not None
    part.affine[:3, 0] = (0, 0, 1.25)
    for other in (nifti(), seg(), seg(slice(1, 3))):
        ours, _ = on_one_grid(part, other)
        _, theirs = on_one_grid(other, part)
        assert ours.voxels.sum() == theirs.voxels.sum() == MASK[5].sum()
        np.testing.assert_array_equal(ours.voxels[-1 if len(ours.voxels) == 5 else 5], MASK[5])


def moved(mask: Scan, *steps: float) -> Scan:
    """Moved by so many slices, rows and columns."""
    assert mask.affine is not None
    affine = mask.affine.copy()
    affine[:3, 3] += AFFINE[:3, :3] @ steps
    return replace(mask, affine=affine)


def stretched(mask: Scan, axis: int, factor: float) -> Scan:
    assert mask.affine is not None
    affine = mask.affine.copy()
    affine[:3, axis] *= factor
    return replace(mask, affine=affine)


@pytest.mark.parametrize(
    ("part", "other", "words"),
    [
        # Between the voxels; distances are in rows, which are shortest.
        (moved(seg(), 0, 0.4, 0), nifti(), "seg: corners of slices up to 0.4 voxels away from"),
        (moved(seg(slice(2, 4)), 0, 0, 0.4), nifti(), "up to 0.536 voxels away from"),
        (moved(seg(slice(2, 4)), 0.4, 0, 0), nifti(), "expected at most 0.1. Resample it"),
        (stretched(seg(slice(2, 4)), 1, 1.05), seg(), "seg: corners of slices up to 0.4 voxels"),
        # Every second slice.
        (stretched(seg(slice(1, 4)), 0, 2), nifti(), "or write it with its empty slices if it"),
        # Beyond the grid of a mask that covers all of it, at either end of each axis.
        (seg(), nifti(MASK[:7]), "seg: grid 8x9x10 .* beyond the 7x9x10 of nifti"),
        (seg(), nifti(MASK[:, :8]), "beyond the 8x8x10 of nifti"),
        (seg(), nifti(MASK[:, :, :9]), "beyond the 8x9x9 of nifti"),
        (moved(seg(slice(0, 2)), -1, 0, 0), nifti(), "beyond the 8x9x10 of nifti"),
        (moved(seg(), 0, -1, 0), nifti(), "beyond the 8x9x10 of nifti"),
        (moved(seg(), 0, 0, -1), nifti(), "beyond the 8x9x10 of nifti"),
        # Uneven slices.
        (seg(places=UNEVEN), nifti(), "seg: corners of slices up to 38.1 voxels away from"),
        (seg(places=11 - UNEVEN[::-1]), seg(places=UNEVEN), "seg: corners of slices up to"),
        (seg(), seg(slice(0, 6), places=UNEVEN), "seg: grid 8x9x10 .* beyond the 6x9x10 of seg"),
        # Another space, and none.
        (seg(), seg(uid="1.3"), "seg: another DICOM frame of reference than seg, expected the"),
        (seg(), replace(nifti(), affine=None), "nifti: no geometry, expected one beside seg"),
        (
            seg(),
            moved(seg(), 2e5, 0, 1900),
            r"a grid 200008x9x1910, expected at most 1,073,741,824",
        ),
        # A mask of another format covers its whole grid.
        (moved(nifti(), 0, 0.4, 0), nifti(), "nifti: corners of the grid up to 0.4 voxels away"),
        (moved(nifti(), 0, 1, 0), nifti(), "nifti: corners of the grid up to 1 voxels away"),
    ],
)
def test_other_grids_are_refused(part: Scan, other: Scan, words: str) -> None:
    for pair in ((part, other), (other, part)):
        with pytest.raises(EvaluationError, match=words):
            on_one_grid(*pair)


def test_another_shape_is_refused() -> None:
    words = r"nifti: grid 7x9x10, expected 8x9x10 \(slices x rows x columns\) as nifti"
    with pytest.raises(EvaluationError, match=words):
        on_one_grid(nifti(MASK[1:]), nifti())


def test_a_frame_of_reference_that_is_not_stated_is_no_other() -> None:
    ours, _ = on_one_grid(seg(uid=""), seg(uid="1.3"))
    np.testing.assert_array_equal(ours.voxels, MASK)


def test_masks_without_geometry_need_one_shape() -> None:
    picture = replace(nifti(), affine=None)
    assert on_one_grid(picture, nifti())[0] is picture
    with pytest.raises(EvaluationError, match=r"grid 8x9x10, expected 1x9x10 .* as a table"):
        check_shape(picture, (1, 9, 10), "a table")
