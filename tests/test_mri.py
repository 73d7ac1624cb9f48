import math
from typing import Any

import numpy as np
import pytest

from hemaseg.phantoms.anatomy import Tissue
from hemaseg.phantoms.ct import Age
from hemaseg.phantoms.heads import AGES
from hemaseg.phantoms.mri import SEQUENCES, Sequence, _Protocol, render_mri, signals

NUM_PLANES = 3
WHITE, FLUID = (0.70, 620.0, 80.0, 60.0), (1.0, 4000.0, 1800.0, 500.0)


class Low:
    """The least of every range."""

    def uniform(self, low: float, _: float) -> float:
        return low


@pytest.mark.parametrize(
    ("sequence", "tissue", "expected"),
    [
        # Spin echo, TR 380, TE 8: 0.7 (1 - e^(-380/620)) e^(-8/80) = 0.7 * 0.45824 * 0.90484
        ("T1", WHITE, 0.29024),
        # 1 (1 - e^(-380/4000)) e^(-8/1800) = 0.090627 * 0.995565
        ("T1", FLUID, 0.090225),
        # TR 2800, TE 75: 0.7 (1 - e^(-2800/620)) e^(-75/80) = 0.7 * 0.989064 * 0.391605
        ("T2", WHITE, 0.271126),
        # (1 - e^(-0.7)) e^(-75/1800) = 0.503415 * 0.959189
        ("T2", FLUID, 0.482870),
        # TR 7000, TE 85, TI 1900: |1 - 2 e^(-0.475) + e^(-1.75)| e^(-85/1800)
        ("FLAIR", FLUID, 0.066767),
        # Gradient echo, TR 450, TE 14, flip 15 degrees, e = e^(-450/620) = 0.483934:
        # 0.7 sin(15) (1 - e) / (1 - cos(15) e) e^(-14/60)
        ("T2*", WHITE, 0.138996),
    ],
)
def test_signal_by_hand(
    sequence: Sequence, tissue: tuple[float, float, float, float], expected: float
) -> None:
    random: Any = Low()
    assert _Protocol(sequence, random)(*tissue) == pytest.approx(expected, rel=2e-3)


def test_inversion_nulls_what_has_relaxed_half() -> None:
    random: Any = Low()
    flair = _Protocol("FLAIR", random)
    nulled = min(range(100, 9000), key=lambda t1: flair(1.0, t1, 1e9, 1e9))
    # 1 - 2 e^(-TI/T1) + e^(-TR/T1) = 0 at TI 1900, TR 7000.
    assert 1 - 2 * math.exp(-1900 / nulled) + math.exp(-7000 / nulled) == pytest.approx(0, abs=1e-3)


def brightness(sequence: Sequence, age: Age, tissue: Tissue) -> float:
    """Of a tissue against brain, the median over patients and protocols."""
    found = []
    for seed in range(60):
        values = signals(sequence, age, np.random.default_rng(seed))
        found.append(values[tissue] / values[[Tissue.WHITE, Tissue.GREY]].mean())
    return float(np.median(found))


@pytest.mark.parametrize(
    ("age", "on_t1", "on_t2"),
    [
        # Bradley 1993, table of the stages; None is like brain.
        ("hyperacute", None, "bright"),
        ("acute", "dark", "dark"),
        ("early subacute", "bright", "dark"),
        ("late subacute", "bright", "bright"),
        ("chronic", "dark", "bright"),
    ],
)
def test_blood_passes_through_its_stages(age: Age, on_t1: str | None, on_t2: str) -> None:
    stages: tuple[tuple[Sequence, str | None], ...] = (("T1", on_t1), ("T2", on_t2))
    for sequence, expected in stages:
        ratio = brightness(sequence, age, Tissue.BLOOD)
        if expected is None:
            assert 0.75 < ratio < 1.25
        else:
            assert (ratio > 1.15) if expected == "bright" else (ratio < 0.9)


def test_old_blood_has_a_dark_rim() -> None:
    sequences: tuple[Sequence, ...] = ("T2", "FLAIR", "T2*")
    for sequence in sequences:
        assert brightness(sequence, "chronic", Tissue.BLOOD_RIM) < 0.2


def test_tissues_look_as_on_every_scanner() -> None:
    acute: Age = "acute"
    assert brightness("T1", acute, Tissue.FLUID) < 0.7
    assert brightness("T1", acute, Tissue.FAT) > 1.3
    assert brightness("T1", acute, Tissue.WHITE) > 1 > brightness("T1", acute, Tissue.GREY)
    assert brightness("T2", acute, Tissue.FLUID) > 1.5
    assert brightness("T2", acute, Tissue.WHITE) < 1 < brightness("T2", acute, Tissue.GREY)
    assert brightness("FLAIR", acute, Tissue.FLUID) < 0.7
    assert brightness("FLAIR", acute, Tissue.EDEMA) > 1.3


def test_random_contrast_shows_blood() -> None:
    for seed in range(200):
        values = signals("random", "acute", np.random.default_rng(seed))
        assert (values >= 0).all()
        assert (values <= 1).all()
        assert values[Tissue.AIR] == 0
        for tissue in (Tissue.WHITE, Tissue.GREY):
            assert abs(values[Tissue.BLOOD] - values[tissue]) > 0.1


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("age", AGES)
def test_signals_are_finite_and_positive(sequence: Sequence, age: Age) -> None:
    values = signals(sequence, age, np.random.default_rng(4))
    assert len(values) == max(Tissue) + 1
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert values[Tissue.AIR] == 0


def test_air_has_the_noise_of_a_magnitude_and_tissue_its_order() -> None:
    labels = np.full((4 * NUM_PLANES, 64, 64), Tissue.AIR, np.uint8)
    labels[:, 20:44, 20:44] = Tissue.WHITE
    found = render_mri(labels, NUM_PLANES, "T1", "acute", np.random.default_rng(0))
    assert found.dtype == np.int16
    assert found.shape == (4, 64, 64)
    assert found.min() >= 0
    air = found[:, :14].astype(float)
    # Rayleigh: the mean is sqrt(pi / (4 - pi)) of the standard deviation.
    assert air.mean() / air.std() == pytest.approx(math.sqrt(math.pi / (4 - math.pi)), rel=0.06)
    assert found[:, 26:38, 26:38].min() > air.mean()


def test_equal_seeds_give_equal_slices() -> None:
    labels = np.full((2 * NUM_PLANES, 32, 32), Tissue.GREY, np.uint8)
    one, same, other = (
        render_mri(labels, NUM_PLANES, "T2", "acute", np.random.default_rng(seed))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
