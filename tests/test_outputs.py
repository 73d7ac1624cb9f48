"""What is written of a case; whole calls are tested in test_cases.py and test_cli_scans.py."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from dicom_files import phantom_series
from hemaseg.config import IntensityConfig, ModelConfig
from hemaseg.errors import ScanError
from hemaseg.intake.sources import find_sources, read_source
from hemaseg.metrics.measurement import measure
from hemaseg.prediction import outputs
from hemaseg.prediction.outputs import Case, Clock, Wanted, write_case
from hemaseg.prediction.places import case_places
from hemaseg.scans.images import read_mask
from hemaseg.scans.screening import Finding, ReadOptions, kinds_of
from hemaseg.slices.intensity import Range
from hemaseg.training.checkpoint import ModelRecord

MODEL = ModelRecord(
    model=ModelConfig(name="unet"),
    image_size=32,
    intensity=IntensityConfig(),
    threshold=0.5,
    weights_sha256="0" * 64,
)


def dicom_case(folder: Path, **series: Any) -> Case:
    """The blood of a synthetic head, as if a network had found it."""
    phantom_series(folder / "dicom", **series)
    (source,) = find_sources([folder / "dicom"], ReadOptions()).sources
    scan = read_source(source, ReadOptions())
    mask = (scan.voxels > 50) & (scan.voxels < 100)
    (places,) = case_places([source], folder / "out", bids=False)
    measured = measure(mask, scan.affine, scan.slice_coordinates)
    return Case(source, places, scan, Range(30, 100), mask.astype(np.float32), mask, measured)


def test_a_dicom_case_has_nifti_seg_and_report(tmp_path: Path) -> None:
    case, clock = dicom_case(tmp_path, num_slices=14, spacing_mm=10.0), Clock()
    wanted = Wanted(probability=True)
    written = write_case(case, wanted, MODEL, tmp_path / "out", clock)
    kinds = ("mask.nii.gz", "probability.nii.gz", "seg.dcm", "sr.dcm", "overview.png")
    assert [path.name for path in written] == [f"dicom_{kind}" for kind in kinds]
    assert all(path.is_file() for path in written)
    assert list(clock.seconds) == ["mask", "probability", "seg", "report", "overview"]
    mask = read_mask(written[0])
    assert mask.affine is not None
    assert case.scan.affine is not None
    np.testing.assert_allclose(mask.affine, case.scan.affine, atol=1e-4)
    np.testing.assert_array_equal(mask.voxels, case.mask)
    modalities = [str(dcmread(path).Modality) for path in written[2:4]]
    assert modalities == ["SEG", "SR"]


def test_dicom_can_be_left_out(tmp_path: Path) -> None:
    case = dicom_case(tmp_path, num_slices=14, spacing_mm=10.0)
    written = write_case(case, Wanted(dicom=False), MODEL, tmp_path / "out", Clock())
    assert [path.name for path in written] == ["dicom_mask.nii.gz", "dicom_overview.png"]


OFFSETS = np.r_[np.arange(0, 60, 5), np.arange(60, 130, 10)]


def test_what_nifti_cannot_hold_is_written_as_seg_and_said(tmp_path: Path) -> None:
    case = dicom_case(tmp_path, offsets_mm=OFFSETS)
    written = write_case(case, Wanted(probability=True), MODEL, tmp_path / "out", Clock())
    assert [path.name for path in written] == [
        f"dicom_{kind}" for kind in ("seg.dcm", "sr.dcm", "overview.png")
    ]
    assert kinds_of(case.findings) == ("uneven-spacing", "uneven-nifti")


def test_what_no_wanted_format_can_hold_is_refused(tmp_path: Path) -> None:
    case = dicom_case(tmp_path, offsets_mm=OFFSETS)
    with pytest.raises(ScanError) as caught:
        write_case(case, Wanted(dicom=False), MODEL, tmp_path / "out", Clock())
    assert caught.value.kind == "uneven-nifti"


def test_the_picture_shows_what_the_network_saw(tmp_path: Path) -> None:
    case = dicom_case(tmp_path, num_slices=14, spacing_mm=10.0)
    overview = write_case(case, Wanted(), MODEL, tmp_path / "out", Clock())[-1]
    with Image.open(overview) as opened:
        first = np.asarray(opened)[4:260, 4:260, 0]
    # Brain of 34 HU in a window from 30 to 100; nothing is blood in the first slice shown.
    grey = round((34 - 30) / 70 * 255)
    assert (first == grey).mean() > 0.2


def captions(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    shown: list[str] = []
    monkeypatch.setattr(outputs, "write_overview", lambda *_, **kw: shown.extend(kw["caption"]))
    write_case(case, Wanted(dicom=False), MODEL, folder, Clock())
    return shown


def test_the_picture_says_how_much_the_network_trusts_its_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = dicom_case(tmp_path, num_slices=14, spacing_mm=10.0)
    lines = captions(case, tmp_path, monkeypatch)
    assert lines[1] == "Dice that the network itself expects of this mask: 1.00"
    assert not any("Unlike" in line for line in lines)
    case.findings.append(Finding("unlike-training", "share of black pixels 0.9"))
    assert captions(case, tmp_path, monkeypatch)[2].startswith("Unlike the scans that the network")


def test_the_picture_of_an_empty_mask_says_what_may_be_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = dicom_case(tmp_path, num_slices=14, spacing_mm=10.0)
    empty = np.zeros_like(case.mask)
    measured = measure(empty, case.scan.affine)
    doubtful = replace(
        case, mask=empty, probabilities=case.probabilities * np.float32(0.25), measurement=measured
    )
    expected = f"{case.measurement.volume_ml / 4:.1f} mL"
    assert captions(doubtful, tmp_path, monkeypatch)[1].endswith(f"add up to {expected}")
    assert np.isnan(doubtful.confidence)


def test_the_clock_counts_parts() -> None:
    clock = Clock()
    with clock.part("sleep"):
        time.sleep(0.02)
    assert 0.02 <= clock.seconds["sleep"] < 1
