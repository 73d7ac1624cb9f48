"""The structured report: codes and numbers, a validator, an archive, and what it does not say."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from dicom_files import phantom_series
from hemaseg.dicom.seg import write_seg
from hemaseg.metrics.measurement import Measurement, measure
from hemaseg.prediction.dicom_sr import write_sr
from hemaseg.scans.scan import Scan, to_display
from seg_files import (
    ALGORITHM,
    FILED,
    NEVER,
    errors_of,
    filed,
    planted_in,
    scan_of,
    validated,
)


def write_case(
    folder: Path, *, is_empty: bool = False, keep_identity: bool = False, **series: Any
) -> tuple[Scan, Measurement, Path, Path]:
    """Series, SEG and SR of the phantom in folder/in, seg.dcm and sr.dcm."""
    phantom = phantom_series(folder / "in", **series)
    scan = scan_of(folder / "in")
    assert scan.stored_axes is not None
    mask, _ = to_display(phantom.mask & (not is_empty), np.eye(4), scan.stored_axes)
    measured = measure(mask, scan.affine, scan.slice_coordinates)
    seg_path, sr_path = folder / "seg.dcm", folder / "sr.dcm"
    write_seg(mask, scan, seg_path, algorithm=ALGORITHM, keep_identity=keep_identity)
    write_sr(measured, scan, seg_path, sr_path, algorithm=ALGORITHM, keep_identity=keep_identity)
    return scan, measured, seg_path, sr_path


def code(item: Dataset) -> tuple[str, str]:
    return item.CodeValue, item.CodingSchemeDesignator


def group_of(path: Path) -> Any:
    """The one measurement group of a report, by plain pydicom."""
    report = dcmread(path)
    (measurements,) = [
        item
        for item in report.ContentSequence
        if code(item.ConceptNameCodeSequence[0]) == ("126010", "DCM")
    ]
    (group,) = measurements.ContentSequence
    return group


def numbers_of(path: Path) -> dict[tuple[str, str], tuple[Any, str]]:
    """Code of each measurement to its value and unit."""
    return {
        code(item.ConceptNameCodeSequence[0]): (
            float(item.MeasuredValueSequence[0].NumericValue),
            item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue,
        )
        for item in group_of(path).ContentSequence
        if item.ValueType == "NUM"
    }


def test_the_numbers_are_those_of_the_table(tmp_path: Path) -> None:
    _, measured, _, path = write_case(tmp_path, tilt_deg=18.5)
    assert numbers_of(path) == {
        ("118565006", "SCT"): (pytest.approx(measured.volume_ml, rel=1e-6), "mL"),
        ("abc2", "99HEMASEG"): (pytest.approx(measured.abc2_ml, rel=1e-6), "mL"),
        ("longest-axis", "99HEMASEG"): (pytest.approx(measured.longest_axis_mm, rel=1e-6), "mm"),
    }
    # The phantom's bleed has a known volume.
    assert numbers_of(path)["118565006", "SCT"][0] == pytest.approx(39.58, rel=0.02)


def test_an_empty_mask_has_a_volume_of_0_and_no_lengths(tmp_path: Path) -> None:
    *_, path = write_case(tmp_path, is_empty=True)
    assert numbers_of(path) == {("118565006", "SCT"): (0.0, "mL")}


def test_codes_of_the_group(tmp_path: Path) -> None:
    *_, path = write_case(tmp_path)
    codes = {
        code(item.ConceptNameCodeSequence[0]): code(item.ConceptCodeSequence[0])
        for item in group_of(path).ContentSequence
        if item.ValueType == "CODE"
    }
    assert codes == {
        ("276214006", "SCT"): ("49755003", "SCT"),  # Finding category: abnormal structure
        ("121071", "DCM"): ("50960005", "SCT"),  # Finding: hemorrhage
        ("363698007", "SCT"): ("12738006", "SCT"),  # Finding site: brain
        ("111000", "DCM"): ("123110", "DCM"),  # Algorithm family: artificial intelligence
        ("use", "99HEMASEG"): ("research-only", "99HEMASEG"),
    }
    report = dcmread(path)
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert report.PreliminaryFlag == "PRELIMINARY"
    assert b"Research use only; not for clinical use" in path.read_bytes()
    assert [item.CodingSchemeDesignator for item in report.CodingSchemeIdentificationSequence] == [
        "99HEMASEG"
    ]


def test_group_refers_to_segment_and_series(tmp_path: Path) -> None:
    scan, _, seg_path, path = write_case(tmp_path)
    seg = dcmread(seg_path)
    report: Any = hd.sr.srread(path)
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    referenced = group.referenced_segment
    assert referenced.referenced_sop_instance_uid == seg.SOPInstanceUID
    assert referenced.referenced_segment_numbers == [1]
    assert group.tracking_uid == seg.SegmentSequence[0].TrackingUID
    assert group.tracking_identifier == seg.SegmentSequence[0].TrackingID
    assert scan.dicom is not None
    headers = scan.dicom.headers
    (source,) = [
        item
        for item in group_of(path).ContentSequence
        if code(item.ConceptNameCodeSequence[0]) == ("121232", "DCM")
    ]
    assert headers[0].SeriesInstanceUID == source.UID
    evidence = {instance for _, _, instance, _ in report.get_evidence(current_procedure_only=True)}
    assert evidence == {seg.SOPInstanceUID, *(header.SOPInstanceUID for header in headers)}
    assert report.StudyInstanceUID == headers[0].StudyInstanceUID
    assert len({report.SeriesInstanceUID, seg.SeriesInstanceUID, headers[0].SeriesInstanceUID}) == 3


@validated
@pytest.mark.parametrize("keep_identity", [False, True])
@pytest.mark.parametrize("is_empty", [False, True])
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_validator_finds_no_error(
    tmp_path: Path, modality: str, is_empty: bool, keep_identity: bool
) -> None:
    *_, path = write_case(
        tmp_path,
        is_empty=is_empty,
        keep_identity=keep_identity,
        modality=modality,
        tilt_deg=18.5,
        offsets_mm=np.append(np.arange(12) * 4.2, 51 + np.arange(10) * 7.4),
        patient_name="Planted^Name",
        patient_id="PLANTED-ID",
    )
    assert errors_of(path) == []


def test_same_measurement_gives_the_same_uids(tmp_path: Path) -> None:
    scan, measured, seg_path, path = write_case(tmp_path)
    first = dcmread(path)
    write_sr(measured, scan, seg_path, path, algorithm=ALGORITHM)
    assert dcmread(path).SOPInstanceUID == first.SOPInstanceUID
    other = replace(measured, volume_ml=measured.volume_ml + 1)
    write_sr(other, scan, seg_path, path, algorithm=ALGORITHM)
    assert dcmread(path).SOPInstanceUID != first.SOPInstanceUID


def test_calls_that_cannot_be_right(tmp_path: Path) -> None:
    scan, measured, seg_path, path = write_case(tmp_path)
    with pytest.raises(ValueError, match="volume_ml is NaN"):
        write_sr(replace(measured, volume_ml=np.nan), scan, seg_path, path, algorithm=ALGORITHM)
    with pytest.raises(ValueError, match="not from DICOM"):
        write_sr(measured, replace(scan, dicom=None), seg_path, path, algorithm=ALGORITHM)
    with pytest.raises(ValueError, match="not a SEG of the study"):
        write_sr(measured, scan, path, path, algorithm=ALGORITHM)
    with pytest.raises(FileNotFoundError):
        write_sr(measured, scan, tmp_path / "absent.dcm", path, algorithm=ALGORITHM)


def test_report_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, measured, seg_path, path = write_case(tmp_path)
    before = path.read_bytes(), sorted(tmp_path.iterdir())

    def fail_halfway(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail_halfway)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write_sr(measured, scan, seg_path, path, algorithm=ALGORITHM)
    assert (path.read_bytes(), sorted(tmp_path.iterdir())) == before


def test_identity_is_absent_or_copied_as_asked(tmp_path: Path) -> None:
    *_, path = write_case(tmp_path / "without", **(FILED | NEVER))
    assert planted_in(path, FILED | NEVER) == set()
    assert filed(dcmread(path)) == {}
    *_, path = write_case(tmp_path / "with", keep_identity=True, **(FILED | NEVER))
    assert filed(dcmread(path)) == FILED
    assert planted_in(path, NEVER) == set()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def archive(folder: Path) -> Iterator[tuple[str, int]]:
    """An Orthanc that keeps its files in the folder: its web address and its DICOM port."""
    web_port, dicom_port = free_port(), free_port()
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": web_port,
        "DicomPort": dicom_port,
        "DicomAet": "ARCHIVE",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": True,
        "Plugins": [],
    }
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps(settings))
    address = f"http://127.0.0.1:{web_port}"
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            ["Orthanc", str(folder / "settings.json")], stdout=log, stderr=log, cwd=folder
        )
        try:
            wait_for(f"{address}/system")
            yield address, dicom_port
        finally:
            server.kill()
            server.wait(timeout=30)


def wait_for(address: str) -> None:
    for _ in range(120):
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.25)
        else:
            return
    raise AssertionError(f"{address} did not answer within 30 s")


def fetch(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return bytes(answer.read())


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("Orthanc") and shutil.which("storescu")),
    reason="Orthanc or storescu (Debian packages orthanc, dcmtk) is not installed",
)
def test_archive_files_them_with_the_study_and_gives_them_back(tmp_path: Path) -> None:
    *_, seg_path, sr_path = write_case(tmp_path, keep_identity=True, tilt_deg=12, **FILED)
    sources = sorted((tmp_path / "in").iterdir())
    with archive(tmp_path / "archive") as (address, dicom_port):
        store = ["storescu", "-R", "-xe", "127.0.0.1", str(dicom_port), *map(str, sources)]
        subprocess.run([*store, str(seg_path), str(sr_path)], check=True, timeout=60)
        (study,) = json.loads(fetch(f"{address}/studies?expand"))
        assert study["MainDicomTags"]["AccessionNumber"] == FILED["AccessionNumber"]
        assert len(study["Series"]) == 3
        fetched = {}
        for instance in json.loads(fetch(f"{address}/instances")):
            data_set = dcmread(BytesIO(fetch(f"{address}/instances/{instance}/file")))
            fetched[data_set.SOPInstanceUID] = data_set
    stored = [dcmread(path) for path in (*sources, seg_path, sr_path)]
    assert set(fetched) == {data_set.SOPInstanceUID for data_set in stored}
    for data_set in stored:
        assert fetched[data_set.SOPInstanceUID] == data_set
