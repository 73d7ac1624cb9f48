"""What tests of SEG and SR share: series, planted identities, and a validator's checks."""

import shutil
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, generate_uid

from dicom_files import decimal, file_bytes, write_series
from hemaseg.dicom.reading import choose_series, find_series, read_series
from hemaseg.dicom.seg import Algorithm
from hemaseg.scans.scan import Scan, to_display
from hemaseg.scans.screening import ReadOptions

ALGORITHM = Algorithm("DR U-Net", "0.1.0", "ab" * 32)
ACCEPTED = ReadOptions(
    accept=frozenset({"derived", "few-slices", "non-axial", "not-a-head", "missing-slices"})
)

FILED: dict[str, Any] = {
    "PatientName": "Planted^Paula",
    "PatientID": "PLANTED-4711",
    "IssuerOfPatientID": "PLANTED-ISSUER",
    "PatientBirthDate": "19330303",
    "PatientSex": "F",
    "StudyDate": "20110711",
    "StudyTime": "101531.98765",
    "AccessionNumber": "PLANTED-ACC",
    "StudyID": "PLANTED-STUDY",
    "ReferringPhysicianName": "Planted^Doctor",
}
"""What identifies patient and study, and is copied on request."""

NEVER: dict[str, Any] = {
    "OtherPatientIDs": "PLANTED-0815",
    "OtherPatientNames": "Planted^Maiden",
    "PatientAge": "089Y",
    "PatientAddress": "Planted Road 1",
    "PatientTelephoneNumbers": "+49 planted",
    "PatientComments": "planted comment",
    "PatientMotherBirthName": "Planted^Mother",
    "EthnicGroup": "PLANTED-GROUP",
    "InstitutionName": "Planted Hospital",
    "InstitutionAddress": "Planted Street 2",
    "InstitutionalDepartmentName": "Planted Department",
    "StationName": "PLANTED-STATION",
    "OperatorsName": "Planted^Operator",
    "PerformingPhysicianName": "Planted^Performer",
    "RequestingPhysician": "Planted^Requester",
    "StudyDescription": "planted study",
    "SeriesDescription": "planted series",
    "ProtocolName": "planted protocol",
    "ImageComments": "planted image",
    "AdmissionID": "PLANTED-ADM",
    "DeviceSerialNumber": "PLANTED-SERIAL",
    "PositionReferenceIndicator": "planted place",
    "SeriesDate": "20110712",
    "AcquisitionDate": "20110713",
    "ContentDate": "20110714",
    "SeriesTime": "101532.98765",
}
"""What identifies too, and is never copied."""


validated = pytest.mark.skipif(
    shutil.which("dciodvfy") is None,
    reason="dciodvfy (Debian package dicom3tools) is not installed",
)


def scan_of(folder: Path) -> Scan:
    """The one series of a folder."""
    return read_series(choose_series(find_series(folder, ACCEPTED), None), ACCEPTED)


def errors_of(path: Path) -> list[str]:
    """Lines in which dciodvfy reports an error."""
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, timeout=60, check=False)
    lines = (done.stdout + done.stderr).decode(errors="replace").splitlines()
    assert any(name in lines for name in ("Segmentation", "Comprehensive3DSR")), lines
    return [line for line in lines if line.startswith("Error")]


def planted_in(path: Path, values: dict[str, Any]) -> set[str]:
    """Keywords whose planted value occurs anywhere in the bytes of a file."""
    data = path.read_bytes()
    # One letter occurs by chance.
    return {word for word, value in values.items() if len(value) > 1 and value.encode() in data}


def filed(data_set: Dataset) -> dict[str, Any]:
    """The attributes of `FILED` that are not empty."""
    return {word: str(data_set.get(word)) for word in FILED if data_set.get(word)}


SHAPE = (9, 20, 24)
TILT = np.radians(18.5)
UNEVEN_MM = [0, 4.22, 8.44, 12.66, 13.8, 21.18, 28.56, 35.94, 43.32]


def turned(degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    """Rotation about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[[first, second], [first, second]] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        matrix = step @ matrix
    return matrix


OBLIQUE = turned((-7, 19, 31))
OFFSETS = np.arange(SHAPE[0]) * 5.0
UPWARD = [(-60, -60, z) for z in OFFSETS]
CLASSIC: dict[str, dict[str, Any]] = {
    "axial": {},
    "axial, slices downward": {"positions": [(-60, -60, 40 - z) for z in OFFSETS]},
    "axial, columns negated": {"column_cosines": (0, -1, 0)},
    "axial, rows negated": {"row_cosines": (-1, 0, 0)},
    "axial, both negated": {"row_cosines": (-1, 0, 0), "column_cosines": (0, -1, 0)},
    "axial, rows and columns exchanged": {"row_cosines": (0, 1, 0), "column_cosines": (1, 0, 0)},
    "coronal": {"row_cosines": (1, 0, 0), "column_cosines": (0, 0, -1)},
    "sagittal": {"row_cosines": (0, 1, 0), "column_cosines": (0, 0, -1)},
    "sagittal, columns negated": {"row_cosines": (0, -1, 0), "column_cosines": (0, 0, 1)},
    "oblique": {"row_cosines": OBLIQUE[0], "column_cosines": OBLIQUE[1]},
    "tilted": {
        "column_cosines": (0, np.cos(TILT), -np.sin(TILT)),
        "positions": UPWARD,
    },
    "tilted and uneven": {
        "column_cosines": (0, np.cos(TILT), -np.sin(TILT)),
        "positions": [(-60, -60, z) for z in UNEVEN_MM],
        "SliceThickness": lambda k: "4" if k < 4 else "7",
    },
    "MRI": {"modality": "MR", "pixel_spacing": (0.9375, 0.46875)},
}


def write_enhanced(
    folder: Path,
    voxels: NDArray[np.int16],
    *,
    positions: Any = UPWARD,
    orientation: Any = (1, 0, 0, 0, 1, 0),
    modality: str = "CT",
    frames_of_an_instance: int = 100,
) -> list[Path]:
    """Enhanced multi-frame objects; orientation and spacing shared, positions of each frame."""
    folder.mkdir(parents=True, exist_ok=True)
    (template,) = write_series(folder, voxels[:1], modality=modality)
    paths = []
    for first in range(0, len(voxels), frames_of_an_instance):
        frames = voxels[first : first + frames_of_an_instance]
        data_set = dcmread(template)
        for keyword in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"):
            delattr(data_set, keyword)
        is_ct = modality == "CT"
        data_set.SOPClassUID = EnhancedCTImageStorage if is_ct else EnhancedMRImageStorage
        data_set.SOPInstanceUID = generate_uid(entropy_srcs=["enhanced", str(folder), str(first)])
        data_set.InstanceNumber = first + 1
        data_set.NumberOfFrames = len(frames)
        data_set.PixelData = frames.astype("<i2").tobytes()
        shared = Dataset()
        plane = Dataset()
        plane.ImageOrientationPatient = [decimal(value) for value in orientation]
        shared.PlaneOrientationSequence = [plane]
        measures = Dataset()
        measures.PixelSpacing, measures.SliceThickness = [0.5, 0.5], 5
        shared.PixelMeasuresSequence = [measures]
        values = Dataset()
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, 0, "HU"
        shared.PixelValueTransformationSequence = [values]
        data_set.SharedFunctionalGroupsSequence = [shared]
        data_set.PerFrameFunctionalGroupsSequence = []
        for k, position in enumerate(positions[first : first + frames_of_an_instance]):
            groups = Dataset()
            place = Dataset()
            place.ImagePositionPatient = [decimal(value) for value in position]
            groups.PlanePositionSequence = [place]
            content = Dataset()
            content.StackID, content.InStackPositionNumber = "1", first + k + 1
            groups.FrameContentSequence = [content]
            data_set.PerFrameFunctionalGroupsSequence.append(groups)
        paths.append(folder / f"enhanced-{first:03}.dcm")
        paths[-1].write_bytes(file_bytes(data_set))
    template.unlink()
    return paths


ENHANCED: dict[str, dict[str, Any]] = {
    "enhanced": {},
    "enhanced MRI": {"modality": "MR"},
    "enhanced, frames downward": {"positions": [(-60, -60, 40 - z) for z in OFFSETS]},
    "enhanced, tilted and uneven": {
        "orientation": (1, 0, 0, 0, np.cos(TILT), -np.sin(TILT)),
        "positions": [(-60, -60, z) for z in UNEVEN_MM],
    },
    "enhanced, one frame in each instance": {"frames_of_an_instance": 1},
}


def random_series(folder: Path, kind: str) -> Scan:
    voxels = np.random.default_rng(3).integers(-1000, 2000, SHAPE).astype(np.int16)
    if kind in CLASSIC:
        write_series(folder, voxels, **CLASSIC[kind])
    else:
        write_enhanced(folder, voxels, **ENHANCED[kind])
    return scan_of(folder)


def series_at(folder: Path, heights: list[int], **options: Any) -> Scan:
    """A series of slices at these heights."""
    voxels = np.random.default_rng(3).integers(-1000, 2000, SHAPE).astype(np.int16)
    write_series(folder, voxels, positions=[(-60, -60, z) for z in heights], **options)
    return scan_of(folder)


def random_mask(scan: Scan) -> NDArray[np.bool_]:
    """A mask that has empty slices at both ends and within, in stored order."""
    stored = np.random.default_rng(5).random(SHAPE) < 0.2
    stored[[0, 4, -2, -1]] = False
    assert scan.stored_axes is not None
    mask, _ = to_display(stored, np.eye(4), scan.stored_axes)
    assert mask.shape == scan.voxels.shape
    return mask


def written_by_highdicom(
    path: Path,
    scan: Scan,
    pixels: NDArray[Any],
    *,
    kind: str = "BINARY",
    num_segments: int = 1,
    change: Callable[[Dataset], None] = lambda seg: None,
    **options: Any,
) -> None:
    """A SEG of stored pixels (slice, row, column[, segment]) on a classic series."""
    assert scan.dicom is not None
    code = hd.sr.CodedConcept("50960005", "SCT", "Hemorrhage")
    identification = hd.AlgorithmIdentificationSequence(
        name="other", version="1", family=hd.sr.CodedConcept("123110", "DCM", "AI")
    )
    seg = hd.seg.Segmentation(
        [dcmread(BytesIO(file_bytes(header))) for header in scan.dicom.headers],
        pixels,
        kind,
        [
            hd.seg.SegmentDescription(
                k + 1, f"Secret {k + 1}", code, code, "AUTOMATIC", identification
            )
            for k in range(num_segments)
        ],
        *(generate_uid(), 7, generate_uid(), 1, "other", "other", "1", "1"),
        **options,
    )
    change(seg)
    seg.save_as(path)
