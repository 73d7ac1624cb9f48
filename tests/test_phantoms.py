import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hemaseg.scans.images import read_mask, read_scan
from hemaseg.scans.phantoms import BLOOD_HU, phantom, write_phantoms


@pytest.mark.parametrize("seed", range(6))
def test_mask_has_the_stated_volume(seed: int) -> None:
    fine = phantom(seed, shape=(90, 120, 110), spacing_mm=(1.6, 1.7, 1.5))
    voxel_ml = 1.6 * 1.7 * 1.5 / 1000
    assert fine.mask.sum() * voxel_ml == pytest.approx(fine.lesion_ml, rel=0.01)
    assert abs(np.linalg.det(fine.affine[:3, :3])) / 1000 == pytest.approx(voxel_ml)


def test_blood_is_as_bright_as_stated() -> None:
    head = phantom(4)
    assert abs(head.voxels[head.mask].mean() - BLOOD_HU) < 8


def test_same_seed_same_voxels() -> None:
    one, same, other = phantom(7), phantom(7), phantom(8)
    assert np.array_equal(one.voxels, same.voxels)
    assert not np.array_equal(one.voxels, other.voxels)


def test_head_without_hematoma() -> None:
    head = phantom(1, has_lesion=False)
    assert not head.mask.any()
    assert head.lesion_ml == 0


def test_files_read_back_in_display_order_with_the_volume(tmp_path: Path) -> None:
    write_phantoms(tmp_path, num_subjects=8, seed=10)
    table = pd.read_csv(tmp_path / "phantoms.csv")
    assert list(table["subject"]) == sorted(table["subject"], key=lambda s: int(s[2:]))
    for number, row in enumerate(table.itertuples(), 1):
        expected = phantom(10 + number, has_lesion=number % 8 != 0)
        folder = tmp_path / str(row.subject)
        scan = read_scan(folder / f"{row.subject}.nii.gz")
        mask = read_mask(folder / f"{row.subject}_mask.nii.gz")
        assert np.array_equal(scan.voxels, expected.voxels)
        assert np.array_equal(mask.voxels, expected.mask)
        assert scan.affine is not None
        np.testing.assert_allclose(scan.affine, expected.affine)
        assert math.isclose(float(str(row.lesion_ml)), expected.lesion_ml, abs_tol=1e-3)
