"""What a DICOM object made from a series takes from it: references, and identity if asked for."""

import re
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID, generate_uid

from hemaseg.scans.scan import DicomSource
from hemaseg.scans.screening import Screen

_IDENTITY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName"),
)
"""What an archive files an object by, beside its UIDs: they must be there, but may be empty."""

_UID = re.compile(r"[0-9.]{1,64}")

_GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "ReferencedSegmentNumber": "SegmentIdentificationSequence",
}
"""Where multi-frame objects have the attributes of a frame."""


def frame_value(header: Dataset, number: int, keyword: str) -> Any:
    """An attribute of one frame; None if it is absent or empty.

    Args:
        header: Of a single-frame or a multi-frame object.
        number: Of the frame, from 1.
        keyword: A key of `_GROUPS`.
    """
    candidates = [header]
    if "PerFrameFunctionalGroupsSequence" in header:
        own = header.PerFrameFunctionalGroupsSequence[number - 1]
        candidates = [own, *header.get("SharedFunctionalGroupsSequence", ()), header]
    for groups in candidates:
        for item in (*groups.get(_GROUPS[keyword], ()), groups):
            if value := item.get(keyword):
                return value
    return None


def source_references(source: DicomSource, path: Path) -> list[Dataset]:
    """A reference to the instance, and in multi-frame objects the frame, of each stored slice.

    Args:
        source: The series.
        path: The file that is to have the references, for the message.

    Raises:
        ScanError: A UID is absent, or is none, without which nothing can refer to the series.
    """
    for header in source.headers:
        for keyword in (
            *("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
            *("SOPClassUID", "SOPInstanceUID"),
        ):
            # A name may stand where a UID belongs: it must not get out.
            if not _UID.fullmatch(str(header.get(keyword) or "")):
                raise Screen(str(path)).error(
                    "missing-attribute",
                    f"the series has no {keyword}, expected one: nothing can refer to it without. "
                    "Export it again, or write the mask as NIfTI.",
                )
    references = []
    for index, number in source.frames:
        header = source.headers[index]
        reference = Dataset()
        reference.ReferencedSOPClassUID = header.SOPClassUID
        reference.ReferencedSOPInstanceUID = header.SOPInstanceUID
        if "PerFrameFunctionalGroupsSequence" in header:
            reference.ReferencedFrameNumber = number
        references.append(reference)
    return references


def content_uid(what: str, references: list[Dataset], content: str, *more: object) -> UID:
    """A UID that is the same for the same thing made of the same."""
    sources = [
        (item.ReferencedSOPInstanceUID, item.get("ReferencedFrameNumber")) for item in references
    ]
    return generate_uid(entropy_srcs=[repr((version("hemaseg"), what, sources, content, more))])


def blank_identity(target: Dataset) -> None:
    """Say nothing where the standard wants an attribute of patient or study, which may be empty."""
    for keyword in _IDENTITY:
        setattr(target, keyword, "")


def copy_identity(source: DicomSource, target: Dataset, path: Path) -> None:
    """Copy what identifies the patient and the study, with its character set.

    Args:
        source: The series.
        target: Has no text but ASCII, which any character set holds.
        path: The file of the target, for the message.

    Raises:
        ScanError: It cannot be decoded, or not encoded again.
    """
    header, identity = source.headers[0], Dataset()
    try:
        for keyword in ("SpecificCharacterSet", "IssuerOfPatientID", *_IDENTITY):
            if keyword in header:
                identity[keyword] = header[keyword]
        identity.save_as(BytesIO(), implicit_vr=False, little_endian=True)
    except Exception as error:  # pydicom raises many kinds, and quotes the values.
        raise Screen(str(path)).error(
            "dicom-damaged",
            f"an attribute of patient or study of the series cannot be decoded "
            f"({type(error).__name__}), expected text. Write without identity.",
        ) from None
    target.update(identity)
