import hashlib
import math
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hemaseg.phantoms.heads import (
    AGES,
    BOUNDS,
    NUM_PLANES,
    Head,
    HeadOptions,
    _of_slices,
    check_options,
    synthesise,
)

SMALL = HeadOptions(num_slices=18, image_size=64, slice_mm=8.0, pixel_mm=3.6)


def head_of(seed: int, **options: Any) -> Head:
    return synthesise(seed, replace(SMALL, **options))


def digest(head: Head) -> str:
    content = hashlib.sha256()
    for array in (head.voxels, head.mask, head.ventricular_mask, head.affine):
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()


@pytest.mark.parametrize("modality", ["CT", "MRI"])
def test_equal_seeds_give_equal_bits_with_any_number_of_threads(modality: str) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1].split(':')\n"
        "from test_heads import digest, head_of\n"
        f"print(digest(head_of(5, modality={modality!r}, num_hematomas=2)))"
    )
    command = [sys.executable, "-c", code, ":".join(path for path in sys.path if path)]
    found = set()
    for num_threads in ("1", "3"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = os.environ | dict.fromkeys(names, num_threads)
        found.add(subprocess.check_output(command, env=environment, text=True).strip())
    assert found == {digest(head_of(5, modality=modality, num_hematomas=2))}


def test_other_seeds_give_other_heads() -> None:
    assert len({digest(head_of(seed)) for seed in range(6)}) == 6


@pytest.mark.parametrize("modality", ["CT", "MRI"])
@pytest.mark.parametrize("tilt_deg", [0.0, 20.0])
def test_shapes_types_and_empty_masks(modality: str, tilt_deg: float) -> None:
    tilt = tilt_deg if modality == "CT" else None
    head = head_of(2, modality=modality, tilt_deg=tilt, num_hematomas=0)
    assert head.voxels.shape == head.mask.shape == head.ventricular_mask.shape == (18, 64, 64)
    assert head.voxels.dtype == np.int16
    assert head.mask.dtype == np.bool_
    assert not head.mask.any()
    assert not head.ventricular_mask.any()
    assert (head.hematoma_ml, head.ventricular_ml, head.hematomas) == (0.0, 0.0, ())


@pytest.mark.parametrize("seed", range(10))
def test_volumes_are_as_asked_and_masks_have_them(seed: int) -> None:
    head = head_of(seed, image_size=128, pixel_mm=1.8, slice_mm=5.0, num_slices=30,
                   num_hematomas=1, volume_ml=15.0)  # fmt: skip
    plane_ml = 1.8**2 * 5.0 / NUM_PLANES / 1000
    assert head.hematoma_ml == pytest.approx(15.0, abs=0.51 * plane_ml)
    assert head.hematoma_ml == pytest.approx(head.hematomas[0].volume_ml)
    mask_ml = head.mask.sum() * plane_ml * NUM_PLANES
    assert mask_ml == pytest.approx(15.0, rel=0.05)


def test_a_slice_is_blood_where_half_of_it_is() -> None:
    planes = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 1], [1, 1, 1]], bool).reshape(-1, 1, 1)
    assert _of_slices(planes).ravel().tolist() == [False, False, True, True]
    counts = planes.reshape(-1, NUM_PLANES).sum(axis=1)
    # What rounding adds or takes is a third of a voxel at most.
    assert np.abs(_of_slices(planes).ravel() - counts / NUM_PLANES).max() <= 1 / 3 + 1e-9


@pytest.mark.parametrize("seed", range(12))
def test_blood_is_in_the_brain_and_apart_from_the_ventricles(seed: int) -> None:
    options = {"num_hematomas": 2, "volume_ml": 25.0, "age": "acute"}
    head = head_of(seed, image_size=96, pixel_mm=2.4, **options)
    assert head.mask.any()
    assert not (head.mask & head.ventricular_mask).any()
    median = np.median(head.voxels[head.mask])
    assert 40 < median < 95  # HU
    assert (head.voxels[head.mask] < 300).mean() > 0.97  # no bone but at the rim


@pytest.mark.parametrize("seed", range(6))
def test_masses_are_no_blood_and_take_none_away(seed: int) -> None:
    """The same head with and without; where there was blood, nothing changes."""
    options = {"modality": "MRI", "sequence": "FLAIR", "num_hematomas": 1, "volume_ml": 15.0}
    without, head = (head_of(seed, num_masses=num, **options) for num in (0, 2))
    assert np.array_equal(head.mask, without.mask)
    assert np.array_equal(head.ventricular_mask, without.ventricular_mask)
    assert head.hematoma_ml == without.hematoma_ml
    assert head.age == without.age
    assert (head.voxels == without.voxels).mean() > 0.5
    brighter = head.voxels > 1.2 * without.voxels.astype(float)
    assert (brighter & ~head.mask).sum() > 5 * (brighter & head.mask).sum()
    assert brighter.any()


def test_blood_in_the_ventricles_counts_apart() -> None:
    heads = [head_of(seed, num_hematomas=1, volume_ml=40.0) for seed in range(12)]
    with_blood = [head for head in heads if head.ventricular_ml > 1]
    assert with_blood
    for head in with_blood:
        assert head.ventricular_mask.any()
        assert head.ventricular_ml == pytest.approx(
            sum(hematoma.ventricular_ml for hematoma in head.hematomas)
        )
        assert head.hematoma_ml == pytest.approx(40.0, rel=0.01)


@pytest.mark.parametrize("tilt_deg", [-25.0, 0.0, 17.0])
def test_affine_has_the_volume_of_voxels_and_the_tilt(tilt_deg: float) -> None:
    head = head_of(1, tilt_deg=tilt_deg)
    matrix = head.affine[:3, :3]
    # Superior, posterior, left is left-handed.
    assert np.linalg.det(matrix) == pytest.approx(-8.0 * 3.6 * 3.6)
    slices, rows, columns = matrix.T
    normal = np.cross(rows, columns) / np.linalg.norm(np.cross(rows, columns))
    cosine = abs(slices @ normal) / np.linalg.norm(slices)
    assert math.degrees(math.acos(min(1.0, cosine))) == pytest.approx(abs(tilt_deg), abs=1e-5)
    assert slices[1] == pytest.approx(-8.0 * math.tan(math.radians(tilt_deg)))
    assert head.tilt_deg == tilt_deg
    middle = head.affine @ [17 / 2, 63 / 2, 63 / 2, 1]
    np.testing.assert_allclose(middle[:3], 0, atol=1e-9)


def test_axes_run_toward_superior_posterior_left() -> None:
    matrix = head_of(1, tilt_deg=0.0).affine[:3, :3]
    np.testing.assert_allclose(matrix, [[0, 0, -3.6], [0, -3.6, 0], [8.0, 0, 0]])


@pytest.mark.parametrize("seed", [4, 6])
def test_tilt_shears_the_grid_and_not_the_head(seed: int) -> None:
    """In mm the head leans equally whatever the tilt; in rows it does not."""
    in_mm, in_rows = [], []
    for tilt_deg in (-20.0, 20.0):
        # MRI has no head holder, which stays with the grid.
        head = head_of(seed, modality="MRI", sequence="T1", tilt_deg=tilt_deg, num_hematomas=0)
        middles = []
        for k in (9, 14):
            is_head = head.voxels[k] > np.percentile(head.voxels[k], 70)
            rows = np.flatnonzero(is_head.sum(axis=1) > 3)
            middles.append((rows[0] + rows[-1]) / 2)
        front = [(head.affine @ [k, row, 0, 1])[1] for k, row in zip((9, 14), middles, strict=True)]
        in_mm.append(front[1] - front[0])
        in_rows.append(3.6 * (middles[0] - middles[1]))
    sheared_mm = 2 * 5 * 8.0 * math.tan(math.radians(20.0))
    assert in_mm[1] - in_mm[0] == pytest.approx(0, abs=6)
    assert in_rows[1] - in_rows[0] == pytest.approx(sheared_mm, abs=6)


def test_what_is_left_to_the_seed_varies() -> None:
    heads = [head_of(seed, slice_mm=None, num_slices=None) for seed in range(24)]
    assert len({len(head.voxels) for head in heads}) > 4
    assert {head.age for head in heads} <= set(AGES)
    tilted = [head for head in heads if head.tilt_deg]
    assert 3 < len(tilted) < 20
    without = [head for head in heads if not head.hematomas]
    assert 0 < len(without) < 14


def test_exports_are_8_bit_pictures_of_the_same_head() -> None:
    for modality in ("CT", "MRI"):
        plain, export = (
            head_of(3, modality=modality, is_export=is_export) for is_export in (False, True)
        )
        assert export.voxels.dtype == np.uint8
        np.testing.assert_array_equal(plain.mask, export.mask)
        order = np.argsort(plain.voxels, axis=None, kind="stable")
        assert (np.diff(export.voxels.ravel()[order].astype(int)) >= 0).all()
        assert (export.voxels.min(), export.voxels.max()) == (0, 255)


def test_turned_heads_lie_anyhow() -> None:
    wide = []
    for seed in range(12):
        head = head_of(seed, turned=True, num_hematomas=0, tilt_deg=0.0)
        is_head = (head.voxels[9] > -300) & (head.voxels[9] < 3000)
        extents = [np.ptp(np.flatnonzero(is_head.any(axis=axis))) for axis in (1, 0)]
        wide.append(bool(extents[1] > extents[0] * 1.05))
    assert 1 < sum(wide) < 11


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_slices": 1}, "num_slices 1, expected 2 to 512"),
        ({"image_size": 16}, "image_size 16, expected 32 to 1024"),
        ({"image_size": 10**400}, "image_size 10+, expected 32 to 1024"),
        ({"pixel_mm": 0.0}, r"pixel_mm 0, expected 0\.1 to 10"),
        ({"slice_mm": -2.0}, r"slice_mm -2, expected 0\.3 to 20"),
        ({"tilt_deg": 31.0}, "tilt_deg 31, expected -30 to 30"),
        ({"tilt_deg": math.nan}, "tilt_deg nan, expected"),
        ({"volume_ml": math.inf}, r"volume_ml inf, expected 0\.01 to 200"),
        ({"num_hematomas": -1}, "num_hematomas -1, expected 0 to 10"),
        ({"num_masses": 11}, "num_masses 11, expected 0 to 10"),
        ({"modality": "PET"}, "modality 'PET', expected CT, MRI"),
        ({"age": "old"}, "age 'old', expected hyperacute, acute"),
        ({"sequence": "DWI"}, "sequence 'DWI', expected T1, T2"),
        ({"num_slices": 512, "image_size": 512}, "134,217,728 voxels, expected at most"),
    ],
)
def test_what_no_head_can_have_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        head_of(1, **options)


def test_negative_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="seed -1, expected 0 or more"):
        synthesise(-1)


def test_bounds_themselves_are_allowed() -> None:
    for name, bounds in BOUNDS.items():
        for value in bounds:
            if name not in ("image_size", "num_slices"):
                options: dict[str, Any] = {name: value}
                check_options(replace(SMALL, **options))


def test_a_volume_that_is_asked_for_is_there() -> None:
    """A fifth of the heads has no hematoma, but not if one says how large it shall be."""
    options = HeadOptions(num_slices=8, image_size=64)
    without = next(seed for seed in range(40) if not synthesise(seed, options).hematomas)
    assert synthesise(without, replace(options, volume_ml=20.0)).hematoma_ml == pytest.approx(
        20.0, abs=0.5
    )
    none = replace(options, volume_ml=20.0, num_hematomas=0)
    assert synthesise(without, none).hematoma_ml == 0
