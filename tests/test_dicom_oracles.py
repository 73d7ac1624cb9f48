"""Our reading of DICOM against dcm2niix: the same voxels in the same places.

Only the program's files are compared, so no code is shared. For tilted series it writes a NIfTI
whose affine does not hold the tilt (it warns so); there the voxels are compared, and places in
`test_dicom_reading.py` with closed forms.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from dicom_files import write_series
from hemaseg.dicom.reading import choose_series, find_series, read_series
from hemaseg.scans.scan import Scan
from hemaseg.scans.screening import ReadOptions
from seg_files import turned

pytestmark = pytest.mark.skipif(
    shutil.which("dcm2niix") is None, reason="dcm2niix (Debian package dcm2niix) is not installed"
)

ACCEPTED = ReadOptions(accept=frozenset({"derived", "few-slices"}))


def ours(folder: Path) -> Scan:
    return read_series(choose_series(find_series(folder, ACCEPTED), None), ACCEPTED)


def theirs(folder: Path, output: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Voxels (I, J, K) and affine of what dcm2niix makes of a folder, unscaled by it."""
    output.mkdir()
    command = ["dcm2niix", "-b", "n", "-z", "n", "-o", str(output), "-f", "scan", str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    image: Any = nib.load(output / "scan.nii")
    return np.asarray(image.dataobj), image.affine


def assert_same_places(scan: Scan, voxels: NDArray[Any], affine: NDArray[np.float64]) -> None:
    """Every voxel of ours has the value that theirs has at the same point of the patient."""
    assert scan.affine is not None
    to_theirs = np.linalg.inv(affine) @ scan.affine
    np.testing.assert_allclose(to_theirs, np.rint(to_theirs), atol=2e-3)
    indices = np.indices(scan.voxels.shape).reshape(3, -1)
    i, j, k = np.rint(to_theirs[:3, :3] @ indices + to_theirs[:3, 3:]).astype(int)
    np.testing.assert_array_equal(voxels[i, j, k], scan.voxels.reshape(-1))


PLANES = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "axial, both negated": ((-1, 0, 0), (0, -1, 0)),
    "axial, rows negated": ((-1, 0, 0), (0, 1, 0)),
    "axial, columns negated": ((1, 0, 0), (0, -1, 0)),
    "axial, rows and columns exchanged": ((0, 1, 0), (1, 0, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "sagittal, columns negated": ((0, -1, 0), (0, 0, 1)),
}


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("degrees", [(0, 0, 0), (11, 0, 0), (-7, 19, 31)], ids=str)
def test_awkward_cosines(tmp_path: Path, plane: str, degrees: tuple[float, float, float]) -> None:
    rotation = turned(degrees)
    rows, columns = (rotation @ np.array(direction, float) for direction in PLANES[plane])
    voxels = np.random.default_rng(3).integers(-1000, 2000, (9, 20, 24)).astype(np.int16)
    write_series(
        tmp_path / "in",
        voxels,
        row_cosines=tuple(rows),
        column_cosines=tuple(columns),
        pixel_spacing=(1.5, 1.25),
        spacing_mm=2.0,
        origin=(-13.5, 41.25, 7.75),
        modality="MR",
    )
    assert_same_places(ours(tmp_path / "in"), *theirs(tmp_path / "in", tmp_path / "out"))


@pytest.mark.real_data
def test_real_sagittal_mri(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "formats/dicom-mri-siemens-t1"
    assert_same_places(ours(folder), *theirs(folder, tmp_path / "out"))


@pytest.mark.real_data
def test_voxels_of_the_real_tilted_ct(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "formats/dicom-ct-ge-tilted"
    scan = ours(folder)
    voxels, _ = theirs(folder, tmp_path / "out")
    # Theirs are columns, rows from the last to the first, slices from inferior to superior.
    same_order = np.transpose(voxels[:, ::-1, :], (2, 1, 0))
    is_padding = same_order == -1500
    assert is_padding.any()
    np.testing.assert_array_equal(scan.voxels[~is_padding], same_order[~is_padding])
    assert set(scan.voxels[is_padding]) == {-1000}
