import numpy as np
import pytest
from numpy.typing import NDArray

from hemaseg.metrics.lesions import label_lesions
from hemaseg.phantoms.anatomy import HEMATOMA, Tissue, head_tissues
from hemaseg.phantoms.atlas import atlas
from hemaseg.phantoms.hematomas import (
    SITES,
    Site,
    Volume,
    _add_foci,
    _push,
    add_hematoma,
    add_masses,
    draw_site,
    fill_ventricles,
    flat_indices,
)
from hemaseg.phantoms.warping import atlas_positions

AXES = (
    np.linspace(-65, 90, 60),
    np.linspace(-90, 110, 72),
    np.linspace(-78, 78, 56),
)
SPACING_MM = (155 / 59, 200 / 71, 156 / 55)
BRAIN = (Tissue.WHITE, Tissue.GREY)
TISSUES = head_tissues(atlas(), np.random.default_rng(5))


def volume_of(bend_mm: float = 2.0) -> Volume:
    random = np.random.default_rng(9)
    positions = atlas_positions(AXES, 0.0, np.eye(3, 4), bend_mm, random)
    labels = TISSUES.reshape(-1)[flat_indices(positions, atlas())]
    return Volume(
        labels, positions, TISSUES, atlas(), (SPACING_MM[0], SPACING_MM[1], SPACING_MM[2])
    )


def is_clot(volume: Volume) -> NDArray[np.bool_]:
    return np.isin(volume.labels, HEMATOMA)


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
@pytest.mark.parametrize("volume_ml", [0.1, 1.0, 7.0, 15.0])
def test_volume_is_as_asked_within_a_voxel(site: Site, volume_ml: float) -> None:
    volume = volume_of()
    found = add_hematoma(volume, site, volume_ml, np.random.default_rng(3))
    assert found.volume_ml == pytest.approx(volume_ml, abs=0.51 * volume.voxel_ml)
    assert is_clot(volume).sum() * volume.voxel_ml == pytest.approx(found.volume_ml)
    ventricular = (volume.labels == Tissue.VENTRICULAR_BLOOD).sum() * volume.voxel_ml
    assert ventricular == pytest.approx(found.ventricular_ml)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("volume_ml", [2.0, 60.0])
def test_blood_replaces_brain_alone(seed: int, volume_ml: float) -> None:
    volume = volume_of()
    depth_mm = -atlas().hull_half_mm.reshape(-1)[flat_indices(volume.positions, atlas())] / 2
    before = volume.labels.copy()
    random = np.random.default_rng(seed)
    found = add_hematoma(volume, draw_site(random), volume_ml, random)
    clot = is_clot(volume)
    assert found.volume_ml == pytest.approx(volume_ml, abs=0.51 * volume.voxel_ml)
    assert depth_mm[clot].min() > 2  # mm within the skull
    outside = depth_mm < 0
    np.testing.assert_array_equal(volume.labels[outside], before[outside])
    # The skull's inside is up to 2 mm off the atlas's; deeper there is no bone before or after.
    deep = volume.labels[depth_mm > 2.5]
    assert not np.isin(deep, (Tissue.BONE, Tissue.MARROW, Tissue.AIR, Tissue.FAT)).any()


def test_earlier_blood_stays_blood_but_where_the_next_needs_room() -> None:
    volume = volume_of()
    random = np.random.default_rng(1)
    site = SITES[0]
    add_hematoma(volume, site, 10.0, random)
    first = is_clot(volume)
    add_hematoma(volume, site, 10.0, random)
    assert is_clot(volume)[first].all()
    assert is_clot(volume).sum() * volume.voxel_ml == pytest.approx(20.0, abs=volume.voxel_ml)


def test_edema_of_an_earlier_hematoma_stays() -> None:
    for seed in range(6):
        volume = volume_of()
        random = np.random.default_rng(seed)
        add_hematoma(volume, SITES[0], 20.0, random)
        edema = volume.labels == Tissue.EDEMA
        add_hematoma(volume, SITES[0], 5.0, random)
        left = volume.labels[edema]
        assert np.isin(left, (Tissue.EDEMA, *HEMATOMA)).all()


def test_without_brain_there_is_no_blood() -> None:
    volume = volume_of()
    volume.labels[...] = Tissue.FLUID
    empty = Volume(
        volume.labels,
        volume.positions,
        np.full_like(TISSUES, Tissue.FLUID),
        atlas(),
        volume.spacing_mm,
    )
    found = add_hematoma(empty, SITES[0], 5.0, np.random.default_rng(0))
    assert (found.volume_ml, found.ventricular_ml) == (0.0, 0.0)
    assert not is_clot(empty).any()


@pytest.mark.parametrize("seed", range(12))
def test_a_further_mass_leaves_the_first_one_whole(seed: int) -> None:
    before, one, three = volume_of(), volume_of(), volume_of()
    for volume, num in ((one, 1), (three, 3)):
        add_masses(volume, num, np.random.default_rng(seed))
    grown = (Tissue.SCAR, Tissue.EDEMA)
    first = np.isin(one.labels, grown) & ~np.isin(before.labels, grown)
    assert first.any()
    assert np.isin(three.labels[first], (*grown, Tissue.FLUID)).all()


def test_masses_are_solid_swollen_mottled_or_foci_and_never_blood() -> None:
    kinds, num_parts = set(), []
    for seed in range(40):
        volume = volume_of()
        before = volume.labels.copy()
        add_masses(volume, 1, np.random.default_rng(seed))
        assert not is_clot(volume).any()
        changed = volume.labels != before
        kinds |= {frozenset(np.unique(volume.labels[changed & np.isin(before, BRAIN)]).tolist())}
        num_parts.append(label_lesions(changed & (volume.labels == Tissue.SCAR))[1])
    assert {Tissue.SCAR, Tissue.EDEMA, Tissue.FLUID} <= frozenset.union(*kinds)
    assert len(kinds) > 4
    assert 2 <= sum(num >= 5 for num in num_parts) <= 25  # a sixth are foci, others have fingers


def test_foci_are_small_and_in_white_matter() -> None:
    volume = volume_of()
    before = volume.labels.copy()
    held = np.zeros(before.shape, np.bool_)
    _add_foci(volume, held, np.random.default_rng(2))
    np.testing.assert_array_equal(volume.labels != before, held)
    assert (before[held] == Tissue.WHITE).all()
    assert (volume.labels[held] == Tissue.SCAR).all()
    assert 0.05 < held.sum() * volume.voxel_ml < 40 * 1.0
    volume.labels[...] = Tissue.GREY
    _add_foci(volume, held, np.random.default_rng(2))
    assert (volume.labels == Tissue.GREY).all()


def test_ventricles_are_filled_at_the_back_or_from_a_side() -> None:
    places = []
    for seed in range(30):
        volume = volume_of()
        before = volume.labels.copy()
        fill_ventricles(volume, np.random.default_rng(seed))
        changed = volume.labels != before
        assert (before[changed] == Tissue.VENTRICLE).all()
        assert (volume.labels[changed] == Tissue.VENTRICULAR_BLOOD).all()
        assert changed.any()
        back = volume.positions[1][changed].min()
        left = volume.positions[1][volume.labels == Tissue.VENTRICLE].max()
        places.append(back >= left)
    assert 12 < sum(places) < 30  # seven tenths


def test_no_ventricles_no_blood() -> None:
    volume = volume_of()
    volume.labels[...] = Tissue.WHITE
    fill_ventricles(volume, np.random.default_rng(0))
    assert (volume.labels == Tissue.WHITE).all()


RADIUS_MM = 12.0


def pushed(distances_mm: NDArray[np.float64], share: float, depth_mm: float) -> NDArray[np.float64]:
    """Where tissue at these distances from the center came from."""
    near = np.zeros((3, 1, 1, len(distances_mm)), np.float32)
    near[1, 0, 0] = distances_mm
    depth = np.full((1, 1, len(distances_mm)), depth_mm, np.float32)
    _push(near, np.zeros(3), RADIUS_MM, depth, share)
    np.testing.assert_array_equal(near[[0, 2]], 0)
    return np.asarray(near[1, 0, 0], np.float64)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_the_displaced_share_of_the_sphere_has_left_it(share: float) -> None:
    """What is within R after the push came from within q, with q^3 = (1 - share) R^3."""
    (q,) = pushed(np.array([RADIUS_MM]), share, 50.0)
    assert q**3 == pytest.approx((1 - share) * RADIUS_MM**3, rel=1e-4)
    inside = pushed(np.array([0.5 * RADIUS_MM]), share, 50.0)[0]
    assert (inside / (0.5 * RADIUS_MM)) ** 3 == pytest.approx(1 - share, rel=1e-4)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_tissue_keeps_its_order_and_rests_far_away_and_at_the_skull(share: float) -> None:
    distances = np.linspace(0.5, 80, 300)
    came_from = pushed(distances, share, 50.0)
    assert (np.diff(came_from) > 0).all()
    assert (came_from <= distances + 1e-4).all()
    np.testing.assert_allclose(came_from[-20:], distances[-20:], atol=0.05)
    np.testing.assert_allclose(pushed(distances, share, 0.0), distances, rtol=1e-5)


def test_indices_are_of_the_nearest_voxel_and_stay_on_the_grid() -> None:
    low, shape = atlas().low_mm, atlas().grey.shape
    positions = np.array([[0.4, -999.0, 999.0], [0.6, -999.0, 999.0], [-0.6, -999.0, 999.0]])
    found = flat_indices(positions.astype(np.float32).reshape(3, 1, 1, 3), atlas())
    zero = [(0 - low[0], 1 - low[1], -1 - low[2]), (0, 0, 0)]
    expected = np.array([*zero, np.array(shape) - 1])
    np.testing.assert_array_equal(np.unravel_index(found.ravel(), shape), expected.T)


def test_a_site_holds_what_is_asked_of_it() -> None:
    random = np.random.default_rng(0)
    assert {draw_site(random, 100.0).max_ml for _ in range(60)} == {120.0}
    assert draw_site(random, 150.0).max_ml == 120.0  # none holds it: the largest do
    assert "pons" not in {draw_site(random, 40.0).name for _ in range(200)}


def test_sites_come_by_their_shares() -> None:
    random = np.random.default_rng(0)
    drawn = [draw_site(random).name for _ in range(4000)]
    total = sum(site.share for site in SITES)
    assert total == pytest.approx(1)
    for site in SITES:
        assert drawn.count(site.name) / 4000 == pytest.approx(site.share / total, abs=0.025)
