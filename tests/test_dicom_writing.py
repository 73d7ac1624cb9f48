"""Heads as DICOM series: read by our reader and by dcm2niix, and judged by dciodvfy."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from command_line import files
from dicom_files import read
from hemaseg.phantoms.dicom_writing import write_series
from hemaseg.phantoms.heads import Head, HeadOptions, synthesise
from hemaseg.phantoms.mri import SEQUENCES

SMALL = {"num_slices": 12, "image_size": 48, "slice_mm": 9.0, "pixel_mm": 4.3}


def head_of(seed: int = 3, **options: Any) -> Head:
    return synthesise(seed, HeadOptions(**(SMALL | options)))


KINDS: dict[str, dict[str, Any]] = {
    "upright": {"tilt_deg": 0.0},
    "tilted": {"tilt_deg": 18.5},
    "tilted the other way": {"tilt_deg": -24.0},
    **{f"MRI {name}": {"modality": "MRI", "sequence": name} for name in SEQUENCES},
}


@pytest.fixture(scope="module", params=KINDS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A head and the folder of its series."""
    head = head_of(**KINDS[request.param])
    folder = tmp_path_factory.mktemp("series") / "head"
    write_series(head, 3, folder)
    return head, folder


def test_reads_back_as_the_head(written: tuple[Head, Path]) -> None:
    head, folder = written
    scan = read(folder)
    np.testing.assert_array_equal(scan.voxels, head.voxels)
    assert scan.affine is not None
    np.testing.assert_allclose(scan.affine, head.affine, atol=2e-5)
    assert scan.modality == head.modality
    tilts = ["gantry-tilt"] if head.tilt_deg else []
    assert [finding.kind for finding in scan.findings] == tilts


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed")
def test_every_slice_is_valid(written: tuple[Head, Path]) -> None:
    _, folder = written
    for path in (folder / "0001.dcm", folder / "0012.dcm"):
        ended = subprocess.run(["dciodvfy", path], capture_output=True, text=True, timeout=60)
        assert ended.stderr.strip() in ("CTImage", "MRImage")
        assert ended.returncode == 0


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
def test_dcm2niix_finds_the_same_voxels_in_the_same_places(
    written: tuple[Head, Path], tmp_path: Path
) -> None:
    head, folder = written
    command = ["dcm2niix", "-b", "n", "-z", "n", "-o", str(tmp_path), "-f", "scan", str(folder)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    image: Any = nib.load(tmp_path / "scan.nii")
    stored: NDArray[Any] = np.asarray(image.dataobj)
    # Columns, rows from the last to the first, slices from inferior to superior.
    np.testing.assert_array_equal(stored[:, ::-1].transpose(2, 1, 0), head.voxels)
    num_rows = head.voxels.shape[1]
    flipped = head.affine @ np.array(
        [[0, 0, 1, 0], [0, -1, 0, num_rows - 1], [1, 0, 0, 0], [0, 0, 0, 1]]
    )
    np.testing.assert_allclose(image.affine, flipped, atol=2e-3)
    if head.tilt_deg:
        # The tilt that it reads is the one that it finds in the positions.
        assert f"{-head.tilt_deg:g}, estimated from slice vector {-head.tilt_deg:g}" in said


def test_equal_heads_give_equal_files_and_others_other_uids(tmp_path: Path) -> None:
    for name, age in {"a": "acute", "b": "acute", "c": "chronic"}.items():
        write_series(head_of(num_hematomas=1, age=age), 3, tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    one, other = (pydicom.dcmread(tmp_path / name / "0001.dcm") for name in "ac")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert one[keyword].value != other[keyword].value
    assert len({read_uid(path) for path in tmp_path.glob("[ac]/*")}) == 24


def read_uid(path: Path) -> str:
    return str(pydicom.dcmread(path).SOPInstanceUID)


def test_nobody_takes_it_for_a_patient(tmp_path: Path) -> None:
    write_series(head_of(), 3, tmp_path / "head")
    header = pydicom.dcmread(tmp_path / "head/0001.dcm")
    assert str(header.PatientName) == "PHANTOM^SEED 3"
    assert header.PatientID == "HEMASEG-PHANTOM-3"
    assert header.QualityControlImage == "YES"
    assert (header.RescaleIntercept, header.BitsStored) == (-1024, 12)


def test_an_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="an 8-bit export, expected HU or signal in int16"):
        write_series(head_of(is_export=True), 3, tmp_path / "head")
    assert not (tmp_path / "head").exists()


def test_nothing_is_left_of_a_series_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def interrupted(self: pydicom.Dataset, *_: Any, **__: Any) -> None:
        calls.append(self)
        if len(calls) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(pydicom.Dataset, "save_as", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_series(head_of(), 3, tmp_path / "head")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_kept(tmp_path: Path) -> None:
    (tmp_path / "head").mkdir()
    (tmp_path / "head/mine.txt").write_text("mine")
    with pytest.raises(OSError, match="head"):
        write_series(head_of(), 3, tmp_path / "head")
    assert files(tmp_path) == {"head/mine.txt": b"mine"}
