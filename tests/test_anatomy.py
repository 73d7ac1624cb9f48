import math

import numpy as np
import pytest

from hemaseg.phantoms.anatomy import HEMATOMA, Labels, Tissue, _paint_ball, head_tissues
from hemaseg.phantoms.atlas import atlas

SEEDS = range(6)


@pytest.fixture(scope="module", params=SEEDS)
def tissues(request: pytest.FixtureRequest) -> Labels:
    return head_tissues(atlas(), np.random.default_rng(request.param))


def test_healthy_head_has_all_tissues_and_no_blood(tissues: Labels) -> None:
    assert tissues.shape == atlas().grey.shape
    found = set(np.unique(tissues))
    assert found <= set(map(int, Tissue))
    assert not found & {*HEMATOMA, Tissue.VENTRICULAR_BLOOD, Tissue.EDEMA, Tissue.HOLDER}
    needed = {Tissue.AIR, Tissue.WHITE, Tissue.GREY, Tissue.FLUID, Tissue.VENTRICLE, Tissue.BONE}
    assert needed <= found
    assert {Tissue.FAT, Tissue.SOFT, Tissue.EYE, Tissue.LENS, Tissue.DURA} <= found


def test_brain_lies_within_the_hull_and_bone_without(tissues: Labels) -> None:
    hull = atlas().hull_half_mm
    assert hull[np.isin(tissues, (Tissue.WHITE, Tissue.GREY, Tissue.VENTRICLE))].max() < 0
    # In half millimetres; the skull may be up to 2 mm closer to the brain than in the atlas.
    assert hull[np.isin(tissues, (Tissue.BONE, Tissue.MARROW, Tissue.FAT))].min() > -4


def test_volumes_are_those_of_people(tissues: Labels) -> None:
    """In mL, wide: brain 900 to 1900, ventricles 5 to 150 (voxels are 1 mm)."""
    counts = np.bincount(tissues.ravel(), minlength=max(Tissue) + 1) / 1000
    brain_ml = counts[Tissue.WHITE] + counts[Tissue.GREY] + counts[Tissue.SCAR]
    assert 900 < brain_ml < 1900
    assert 5 < counts[Tissue.VENTRICLE] < 150


def test_heads_are_of_their_seeds() -> None:
    one, same, other = (head_tissues(atlas(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).mean() > 0.01


def test_the_atlas_is_not_changed() -> None:
    names = ("grey", "white", "parts", "hull_half_mm", "ventricle_half_mm")
    before = {name: getattr(atlas(), name).copy() for name in names}
    head_tissues(atlas(), np.random.default_rng(0))
    for name, values in before.items():
        np.testing.assert_array_equal(getattr(atlas(), name), values)


@pytest.mark.parametrize("radius_mm", [2.0, 7.5, 15.0])
def test_a_ball_has_the_volume_of_a_ball(radius_mm: float) -> None:
    tissues = np.zeros(atlas().grey.shape, np.uint8)
    center = np.array([5.3, 20.1, -14.6])
    _paint_ball(tissues, atlas(), center, radius_mm, Tissue.CALCIUM)
    found = np.argwhere(tissues == Tissue.CALCIUM)
    assert len(found) == pytest.approx(4 / 3 * math.pi * radius_mm**3, rel=0.12)
    np.testing.assert_allclose(found.mean(axis=0) + atlas().low_mm, center, atol=0.3)


def test_a_ball_in_the_brain_alone_leaves_the_rest() -> None:
    tissues = np.full(atlas().grey.shape, Tissue.FLUID, np.uint8)
    tissues[..., :96] = Tissue.WHITE  # the right half
    before = tissues.copy()
    _paint_ball(tissues, atlas(), np.zeros(3), 9.0, Tissue.SCAR, brain_only=True)
    changed = tissues != before
    assert changed.any()
    assert (before[changed] == Tissue.WHITE).all()


def test_a_ball_off_the_grid_is_cut() -> None:
    tissues = np.zeros(atlas().grey.shape, np.uint8)
    _paint_ball(tissues, atlas(), np.array([106.0, 0, 0]), 5.0, Tissue.CALCIUM)
    _paint_ball(tissues, atlas(), np.array([900.0, 0, 0]), 5.0, Tissue.BONE)
    assert set(np.unique(tissues)) == {0, Tissue.CALCIUM}
