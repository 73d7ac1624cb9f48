import numpy as np
import pytest
from numpy.typing import NDArray

from hemaseg.phantoms import ct
from hemaseg.phantoms.anatomy import Labels, Tissue
from hemaseg.phantoms.ct import (
    BLOOD_HU,
    Age,
    Scanner,
    attenuation_hu,
    draw_scanner,
    render_ct,
)

SILENT = Scanner(noise_hu=0.0, blur_pixels=0.5, sharpening=0.0, cupping_hu=0.0, num_streaks=0)
NUM_PLANES = 3


class Steady(np.random.Generator):
    """Draws the middle of every range and no noise, so that only the equations are left."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def uniform(self, low: float = 0.0, high: float = 1.0, size: object = None) -> float:  # type: ignore[override]
        return (low + high) / 2

    def normal(self, loc: float = 0.0, scale: float = 1.0, size: object = None) -> float:  # type: ignore[override]
        return loc

    def standard_normal(self, size: object = None, **_: object) -> NDArray[np.float32]:  # type: ignore[override]
        return np.zeros(size, np.float32)  # type: ignore[call-overload, no-any-return]


def slab(tissue: Tissue, num_slices: int = 4, size: int = 24) -> Labels:
    return np.full((num_slices * NUM_PLANES, size, size), tissue, np.uint8)


@pytest.mark.parametrize("age", BLOOD_HU)
def test_attenuation_is_that_of_textbooks(age: Age) -> None:
    for seed in range(200):
        hu = attenuation_hu(age, np.random.default_rng(seed))
        white, grey = hu[Tissue.WHITE], hu[Tissue.GREY]
        assert 12 < white < grey < 50
        assert 3 <= grey - white <= 10 + 1e-4
        assert -1 < hu[Tissue.FLUID] < 15
        assert -111 < hu[Tissue.FAT] < -59
        assert hu[Tissue.BONE] >= 900
        assert hu[Tissue.DENSE_BONE] >= 1200
        assert hu[Tissue.AIR] == -1000
        assert hu[Tissue.EDEMA] < (white + grey) / 2
        low, high = BLOOD_HU[age]
        assert low - 1e-3 <= hu[Tissue.BLOOD] <= high + 1e-3
        assert hu[Tissue.VENTRICULAR_BLOOD] <= hu[Tissue.BLOOD]


def test_clots_are_densest_in_the_first_days_and_fade() -> None:
    means = {age: sum(bounds) / 2 for age, bounds in BLOOD_HU.items()}
    assert max(means, key=lambda age: means[age]) == "acute"
    fading = [means[age] for age in ("acute", "early subacute", "late subacute", "chronic")]
    assert fading == sorted(fading, reverse=True)


@pytest.mark.parametrize("tissue", [Tissue.WHITE, Tissue.FLUID, Tissue.BONE, Tissue.AIR])
def test_one_tissue_without_noise_has_its_value(tissue: Tissue) -> None:
    random = Steady()
    expected = attenuation_hu("acute", random)[tissue]
    found = render_ct(slab(tissue), NUM_PLANES, "acute", SILENT, random)
    assert found.dtype == np.int16
    assert found.shape == (4, 24, 24)
    assert set(np.unique(found)) == {round(float(expected))}


def test_a_slice_is_the_mean_of_its_planes() -> None:
    labels = slab(Tissue.WHITE)
    labels[3] = Tissue.BONE  # one plane of three of the second slice
    hu = attenuation_hu("acute", Steady())
    found = render_ct(labels, NUM_PLANES, "acute", SILENT, Steady())[:, 12, 12]
    mixed = (2 * hu[Tissue.WHITE] + hu[Tissue.BONE]) / 3
    np.testing.assert_allclose(found, [hu[Tissue.WHITE], mixed, *[hu[Tissue.WHITE]] * 2], atol=0.51)


@pytest.mark.parametrize("blur", [0.7, 1.0])
def test_noise_is_as_stated_after_the_kernel(blur: float) -> None:
    """A Gaussian kernel leaves 1 / (2 sqrt(pi) sd) of the noise of pixels."""
    scanner = Scanner(10.0, blur, 0.0, 0.0, 0)
    air = render_ct(slab(Tissue.AIR, 8, 96), NUM_PLANES, "acute", scanner, np.random.default_rng(0))
    brain = render_ct(
        slab(Tissue.WHITE, 8, 96), NUM_PLANES, "acute", scanner, np.random.default_rng(0)
    )
    expected = 10.0 / (2 * np.sqrt(np.pi) * blur)
    assert brain[:, 8:-8, 8:-8].std() == pytest.approx(expected, rel=0.1)
    inner = air[:, 8:-8, 8:-8]
    assert inner[inner > -1024].std() < 0.5 * expected  # four tenths, less what is cut


def test_beam_hardening_brightens_brain_below_bone_alone() -> None:
    labels = slab(Tissue.WHITE, 2, 96)
    labels[:, :4] = Tissue.BONE
    plain, hard = (
        render_ct(labels, NUM_PLANES, "acute", Scanner(0.0, 0.5, 0.0, cup, 0), Steady())
        for cup in (0.0, 5.0)
    )
    added = (hard.astype(int) - plain)[0, :, 48]
    assert added[6:14].min() > 0
    assert not added[60:].any()


def test_values_fit_twelve_bits() -> None:
    scanner = Scanner(300.0, 0.45, 0.8, 0.0, 3)
    for tissue in (Tissue.AIR, Tissue.DENSE_BONE):
        found = render_ct(slab(tissue), NUM_PLANES, "acute", scanner, np.random.default_rng(3))
        assert -1024 <= found.min() <= found.max() <= 3071


def test_streaks_cross_the_head_and_not_the_air() -> None:
    labels = slab(Tissue.WHITE, 3, 64)
    labels[:, :, :20] = Tissue.AIR
    scanner = Scanner(0.0, 0.5, 0.0, 0.0, 4)
    random = np.random.default_rng(5)
    found = render_ct(labels, NUM_PLANES, "acute", scanner, random)
    assert np.ptp(found[:, :, 24:]) > 2
    assert found[:, :, :16].std() < 1.5


def test_clots_are_mottled_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = slab(Tissue.WHITE, 4, 40)
    labels[:, 10:30, 10:30] = Tissue.BLOOD
    found = render_ct(labels, NUM_PLANES, "acute", SILENT, np.random.default_rng(1)).astype(float)
    assert found[:, 13:27, 13:27].std() > found[:, :8].std()
    # It is the mottling that makes the difference.
    with monkeypatch.context() as changed:
        changed.setattr(ct, "_mottle", lambda *_: None)
        even = render_ct(labels, NUM_PLANES, "acute", SILENT, np.random.default_rng(1))
    assert even[:, 13:27, 13:27].std() < found[:, 13:27, 13:27].std()


def test_scanners_are_of_their_seeds_and_differ() -> None:
    scanners = [draw_scanner(np.random.default_rng(seed)) for seed in range(100)]
    assert scanners[7] == draw_scanner(np.random.default_rng(7))
    assert len({scanner.noise_hu for scanner in scanners}) == 100
    assert 0 < sum(scanner.sharpening > 0 for scanner in scanners) < 100
    assert all(scanner.noise_hu > 0 and 0.4 < scanner.blur_pixels < 1.2 for scanner in scanners)
