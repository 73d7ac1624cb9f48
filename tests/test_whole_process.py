"""Whole predictions are timed as they are, with a memory that is their own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hemaseg.benchmark.whole_process import measure_studies, predict_process, write_study
from hemaseg.errors import EngineError
from hemaseg.scans.images import read_scan
from lively import save_lively


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lively(tmp_path_factory.mktemp("run"), "CT")


def test_one_study_in_turns_and_many_once(run: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    dicom, nifti, many = measure_studies(
        *("mine", run, "CT", tmp_path),
        num_studies=3,
        num_turns=1,
        num_slices=8,
        image_size=64,
        progress=lambda *step: steps.append(step),
    )
    assert [step[1:] for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert [one.file_format for one in (dicom, nifti, many)] == ["DICOM", "NIfTI", "NIfTI"]
    assert [one.num_studies for one in (dicom, nifti, many)] == [1, 1, 3]
    for one in (dicom, nifti, many):
        assert 0 < one.fastest_s <= one.whole_s <= one.slowest_s
        assert sum(one.parts_s.values()) == pytest.approx(one.whole_s)
        assert one.parts_s["start and loading"] > 0
        assert one.engine in ("torch", "openvino")
    # The files of each kind were written by somebody, and by nobody else.
    assert "seg" in dicom.parts_s
    assert "seg" not in nifti.parts_s
    assert len(list((tmp_path / "output3").glob("*/*_mask.nii.gz"))) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux")
def test_the_memory_is_not_that_of_the_process_that_asks() -> None:
    code = (
        "import numpy, subprocess, sys; large = numpy.ones(2**27); "  # 1 GiB
        "subprocess.run([sys.executable, '-m', 'hemaseg.benchmark.launcher', '--version'])"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    peak_mib = float(ended.stdout.partition('"peak_mib": ')[2].rstrip("}\n"))
    assert 5 < peak_mib < 500


def test_studies_show_one_head_whatever_its_slices(tmp_path: Path) -> None:
    edges_mm = []
    for num, size in ((8, 64), (16, 128)):
        path = write_study(tmp_path / str(num), "NIfTI", "CT", num_slices=num, image_size=size)
        scan = read_scan(path)
        assert scan.voxels.shape == (num, size, size)
        assert scan.spacing_mm is not None
        edges_mm.append(np.multiply(scan.spacing_mm, scan.voxels.shape))
    np.testing.assert_allclose(edges_mm[0], edges_mm[1], rtol=1e-5)


def test_a_prediction_that_fails_says_why(run: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.nii").write_bytes(os.urandom(400))
    with pytest.raises(EngineError, match=r"ended with status \d, expected 0: .+ Mend that first"):
        predict_process(tmp_path / "bad.nii", run, tmp_path / "out")
