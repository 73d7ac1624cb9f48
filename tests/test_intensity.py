import tracemalloc

import numpy as np
import pytest

from hemaseg.config import IntensityConfig
from hemaseg.errors import ConfigError
from hemaseg.slices.intensity import Range, intensity_range

AUTO = IntensityConfig()


def test_auto_by_values_and_modality() -> None:
    ct = np.array([[[-1000, 0, 65]]], np.int16)
    assert intensity_range(ct, "CT", AUTO, name="s") == Range(30, 100)
    assert intensity_range(ct.astype(np.uint8), "CT", AUTO, name="s") == Range(0, 255)
    mri = np.concatenate([np.zeros(500), np.arange(1.0, 202.0)])
    assert intensity_range(mri, "MRI", AUTO, name="s") == Range(2.0, 200.0)


def test_window_of_the_configuration() -> None:
    config = IntensityConfig(method="window", window_hu=(0, 80))
    scaled = intensity_range(np.zeros(1, np.int16), "", config, name="s").scale(
        np.array([-5, 0, 20, 80, 99], np.int16)
    )
    assert scaled.tolist() == [0, 0, 0.25, 1, 1]
    assert scaled.dtype == np.float32


def test_robust_scaling_ignores_background_and_outliers() -> None:
    random = np.random.default_rng(0)
    brain = random.uniform(100, 200, 10_000)
    config = IntensityConfig(method="robust")
    alone = intensity_range(brain, "MRI", config, name="s")
    padded = intensity_range(np.concatenate([brain, np.zeros(90_000)]), "MRI", config, name="s")
    spiked = intensity_range(np.concatenate([brain, [1e9]]), "MRI", config, name="s")
    assert alone == padded
    assert spiked.high == pytest.approx(alone.high, rel=0.01)


def test_robust_scaling_does_not_depend_on_the_scanners_unit() -> None:
    brain = np.random.default_rng(0).uniform(10, 20, 1000)
    config = IntensityConfig(method="robust")
    one, other = (intensity_range(k * brain, "MRI", config, name="s") for k in (1, 37))
    np.testing.assert_allclose(one.scale(brain), other.scale(37 * brain), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_constant_scan_under_robust_is_finite(value: float) -> None:
    voxels = np.full((2, 3, 3), value)
    scaled = intensity_range(voxels, "MRI", IntensityConfig(method="robust"), name="s").scale(
        voxels
    )
    assert np.array_equal(scaled, np.zeros((2, 3, 3)))


def test_unknown_modality_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"scan 7: modality unknown .*\(int16\).*--modality"):
        intensity_range(np.zeros(1, np.int16), "", AUTO, name="scan 7")


def test_methods_that_do_not_fit_the_values_are_refused() -> None:
    as_is, window = IntensityConfig(method="as_is"), IntensityConfig(method="window")
    with pytest.raises(ConfigError, match="expects 8-bit values, found float64"):
        intensity_range(np.zeros(1), "MRI", as_is, name="s")
    with pytest.raises(ConfigError, match="expects values in HU, found 8-bit"):
        intensity_range(np.zeros(1, np.uint8), "CT", window, name="s")
    with pytest.raises(ConfigError, match="can be negative, found unsigned uint16"):
        intensity_range(np.zeros(1, np.uint16), "CT", AUTO, name="s")


def test_scaling_a_large_scan_takes_the_room_of_its_result_alone() -> None:
    voxels = np.arange(2**20, dtype=np.int32).astype(np.int16).reshape(16, 256, 256)
    tracemalloc.start()
    scaled = Range(-7.5, 1000.3).scale(voxels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.1 * scaled.nbytes
    assert scaled.dtype == np.float32
    whole = (voxels.astype(np.float32) - -7.5) / (1000.3 - -7.5)
    assert np.array_equal(scaled, np.clip(whole, 0, 1))
    assert voxels[0, 0, 1] == 1  # not scaled in its own place
