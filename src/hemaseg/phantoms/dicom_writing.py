"""A head as a DICOM series that readers and archives accept, and that nobody takes for a patient.

Attributes are those that CT Image Storage and MR Image Storage demand. UIDs are made of what the
series shows, so equal heads give equal files, and heads of one seed and other options do not meet
in an archive.
"""

import hashlib
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from hemaseg.dicom.objects import object_bytes
from hemaseg.files import PARTIAL
from hemaseg.phantoms.heads import Head

INTERCEPT_HU = -1024
_SCANNING = {
    "T1": ("SE", "NONE"),
    "T2": ("SE", "SK"),
    "FLAIR": (["SE", "IR"], "SK"),
    "T2*": ("GR", "SP"),
    "random": ("RM", "NONE"),
}
"""ScanningSequence and SequenceVariant of each sequence."""


def write_series(head: Head, seed: int, folder: Path) -> None:
    """Write a head as one file for each slice, `0001.dcm` from inferior to superior.

    Values of CT are HU + 1024 in 12 bits, with the rescale that says so; of MRI as they are. Under
    gantry tilt the slices keep their orientation and their positions are sheared, as in
    `Head.affine`. The folder appears whole or not at all.

    Args:
        head: Of int16 voxels.
        seed: That it was made of; the patient is named after it.
        folder: To write, which must not exist.

    Raises:
        ValueError: The head is an 8-bit export.
        OSError: The folder exists or cannot be written.
    """
    if head.voxels.dtype == np.uint8:
        raise ValueError("an 8-bit export, expected HU or signal in int16: DICOM has these")
    shared = _shared(head, seed)
    offset = INTERCEPT_HU if head.modality == "CT" else 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=PARTIAL))
    try:
        for k, pixels in enumerate(head.voxels):
            stored = (pixels - offset).astype("<u2")
            content = object_bytes(_slice(shared, head, k, stored))
            (partial / f"{k + 1:04}.dcm").write_bytes(content)
        # mkdtemp makes folders private; give this one the mode that mkdir() would have.
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o777 & ~mask)
        partial.rename(folder)
    except OSError as error:
        # A full disk names no file, and nobody knows the temporary one.
        error.filename, error.filename2 = str(folder), None
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _shared(head: Head, seed: int) -> Dataset:
    """What all slices have in common."""
    is_ct = head.modality == "CT"
    content = hashlib.sha256(f"{seed} {head.sequence} {head.voxels.shape}".encode())
    content.update(head.affine.tobytes())
    content.update(np.ascontiguousarray(head.voxels).data)
    uids = {
        f"{what}UID": generate_uid(entropy_srcs=["hemaseg phantom", what, content.hexdigest()])
        for what in ("StudyInstance", "SeriesInstance", "FrameOfReference")
    }
    _, num_rows, num_columns = head.voxels.shape
    bits = 12 if is_ct else 16
    values = {
        **uids,
        "SOPClassUID": CTImageStorage if is_ct else MRImageStorage,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL" if is_ct else "OTHER"],
        "PatientName": f"PHANTOM^SEED {seed}",
        "PatientID": f"HEMASEG-PHANTOM-{seed}",
        "PatientBirthDate": "",
        "PatientSex": "",
        "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": "No patient",
        "PatientComments": "Synthetic head made by a program; no patient",
        "StudyDate": "20000101",
        "StudyTime": "000000",
        "StudyID": "1",
        "StudyDescription": "Synthetic head",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "SeriesNumber": 1,
        "SeriesDescription": f"Synthetic {head.sequence or head.modality}",
        "AcquisitionNumber": 1,
        "BodyPartExamined": "HEAD",
        "PatientPosition": "HFS",
        "PositionReferenceIndicator": "",
        "Manufacturer": "hemaseg",
        "ManufacturerModelName": "phantom",
        "SoftwareVersions": version("hemaseg"),
        "QualityControlImage": "YES",
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [_decimal(-head.affine[1, 1]), _decimal(-head.affine[0, 2])],
        "SliceThickness": _decimal(head.affine[2, 0]),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": num_rows,
        "Columns": num_columns,
        "BitsAllocated": 16,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
        **(_of_ct(head) if is_ct else _of_mri(head)),
    }
    shared = Dataset()
    for keyword, value in values.items():
        setattr(shared, keyword, value)
    return shared


def _of_ct(head: Head) -> dict[str, object]:
    return {
        "Modality": "CT",
        "KVP": "120",
        # The standard gives no sign; this is the one that dcm2niix finds in the positions.
        "GantryDetectorTilt": _decimal(-head.tilt_deg),
        "RescaleIntercept": INTERCEPT_HU,
        "RescaleSlope": 1,
        "RescaleType": "HU",
        "WindowCenter": 40,
        "WindowWidth": 80,
    }


def _of_mri(head: Head) -> dict[str, object]:
    sequence, variant = _SCANNING[head.sequence or "random"]
    low, high = np.percentile(head.voxels, [1, 99])
    return {
        "Modality": "MR",
        "ScanningSequence": sequence,
        "SequenceVariant": variant,
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "RepetitionTime": "",
        "EchoTime": "",
        "EchoTrainLength": "",
        **({"InversionTime": ""} if head.sequence == "FLAIR" else {}),
        "SpacingBetweenSlices": _decimal(head.affine[2, 0]),
        "WindowCenter": _decimal((low + high) / 2),
        "WindowWidth": _decimal(max(high - low, 1)),
    }


def _slice(shared: Dataset, head: Head, k: int, stored: NDArray[np.uint16]) -> Dataset:
    data_set = Dataset()
    data_set.update(shared)
    data_set.SOPInstanceUID = generate_uid(entropy_srcs=[shared.SeriesInstanceUID, str(k)])
    data_set.InstanceNumber = k + 1
    position = np.diag([-1.0, -1.0, 1.0, 1.0]) @ head.affine @ [k, 0, 0, 1]  # LPS
    data_set.ImagePositionPatient = [_decimal(value) for value in position[:3]]
    data_set.SliceLocation = _decimal(position[2])
    data_set.add_new("PixelData", "OW", stored.tobytes())
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set.file_meta.MediaStorageSOPClassUID = shared.SOPClassUID
    data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
    return data_set


def _decimal(value: float) -> str:
    """A number of mm, degrees or signal as a DS value: at most 16 characters."""
    return f"{value:.6f}"
