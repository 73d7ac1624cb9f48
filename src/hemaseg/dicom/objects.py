"""One DICOM object: header and structure checked, and where its frames lie in the patient.

Source: DICOM PS3.3 C.7.6.2 (image plane), C.7.6.16 (multi-frame functional groups), C.7.6.1.1.2
(image type), C.11.1 (modality LUT).
"""

import math
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import (
    MediaStorageDirectoryStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from hemaseg.dicom.attributes import items, missing, number, numbers, text, uid, values
from hemaseg.dicom.pixels import PixelFormat, check_pixels, pixel_format
from hemaseg.dicom.structure import Structure, check_size, read_header, read_structure, shown_uid
from hemaseg.errors import ScanError

Role = Literal["original", "derived", "localizer", "secondary-capture"]

MODALITIES = {"CT": "CT", "MR": "MRI"}
"""Modality of DICOM -> modality of a scan."""
COSINE_TOLERANCE = 5e-3
"""Of the length of direction cosines and of their product; some writers round to three digits."""

_CAPTURES = frozenset(
    {
        SecondaryCaptureImageStorage,
        MultiFrameSingleBitSecondaryCaptureImageStorage,
        MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        MultiFrameTrueColorSecondaryCaptureImageStorage,
    }
)
_REFORMATTED = frozenset({"MPR", "REFORMATTED", "PROJECTION IMAGE", "MIP", "MINIP", "CSA MPR"})


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice: its place and the meaning of its values.

    Attributes:
        number: Of the frame in its object, from 1.
        instance: InstanceNumber; None in multi-frame objects, or if absent.
        position: (3,) centre of the first pixel, LPS mm.
        across: (3,) unit vector of increasing column index, LPS.
        down: (3,) unit vector of increasing row index, LPS.
        spacing: Distance of rows and of columns in mm.
        thickness: SliceThickness in mm; None if absent.
        distance: SpacingBetweenSlices in mm; None if absent.
        slope: RescaleSlope; 1 if absent.
        intercept: RescaleIntercept; 0 if absent.
    """

    number: int
    instance: int | None
    position: NDArray[np.float64]
    across: NDArray[np.float64]
    down: NDArray[np.float64]
    spacing: tuple[float, float]
    thickness: float | None
    distance: float | None
    slope: float
    intercept: float


@dataclass(eq=False)
class DicomObject:
    """One DICOM object; what could not be read of a damaged one is empty.

    Attributes:
        header: Without pixels; of a damaged file what comes before the damage.
        structure: Where its pixels lie.
        modality: As DICOM has it; empty if unknown.
        role: What the image is.
        form: How the pixels are stored; None without.
        frames: Its slices, in order.
        frame_of_reference: UID of the space of the positions; empty if absent.
        is_directory: It is a DICOMDIR: a list of files, and no object.
        error: Why it cannot be read; None if it can.
    """

    header: Dataset
    structure: Structure
    modality: str = ""
    role: Role = "original"
    form: PixelFormat | None = None
    frames: tuple[Frame, ...] = ()
    frame_of_reference: str = ""
    is_directory: bool = False
    error: ScanError | None = None


def read_object(stream: BinaryIO, max_bytes: int) -> DicomObject:
    """Read all of an object but its pixels. What is wrong with it is in `error`; nothing is raised.

    Args:
        stream: The file, seekable.
        max_bytes: Limit of its size, and of what it decodes to.
    """
    structure = read_structure(stream, max_bytes)
    try:
        found = DicomObject(read_header(structure), structure)
    except ScanError as error:
        structure.damage = structure.damage or error
        found = DicomObject(Dataset(), structure)
        found.header.file_meta = FileMetaDataset()
    structure.header = structure.meta = b""
    try:
        _fill(found, max_bytes)
    except ScanError as error:
        found.error = structure.damage or error
    return found


def _fill(found: DicomObject, max_bytes: int) -> None:
    """Fill in what the header says, as far as it is sound.

    Raises:
        ScanError: The file is damaged, or has no image, or one that has no meaning.
    """
    header, structure = found.header, found.structure
    media_class = text(header.file_meta, "MediaStorageSOPClassUID")
    found.is_directory = media_class == MediaStorageDirectoryStorage
    found.modality, found.role = text(header, "Modality"), _role(header)
    found.frame_of_reference = text(header, "FrameOfReferenceUID")
    if structure.damage is not None:
        raise structure.damage
    check_size(structure.size, max_bytes)
    if structure.pixels is None:
        raise _no_pixels(header)
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        uid(header, keyword)
    if not found.modality:
        raise missing("Modality")
    found.form = pixel_format(header)
    check_pixels(structure, found.form, max_bytes)
    found.frames = object_frames(header, found.form, found.modality)


def _no_pixels(header: Dataset) -> ScanError:
    """Why there are no pixels."""
    name = shown_uid(text(header, "SOPClassUID"))
    if "SOPClassUID" not in header or "Rows" in header or "Image Storage" in name:
        return ScanError(
            "an image without pixels, expected pixels. Export the file again.",
            kind="dicom-damaged",
        )
    return ScanError(
        f"an object {name} without pixels, expected an image. Name the images.",
        kind="not-pixels",
    )


def _role(header: Dataset) -> Role:
    """What an image is, by its class and its ImageType."""
    kinds = [str(value).strip().upper() for value in values(header, "ImageType")]
    is_burned_in = text(header, "BurnedInAnnotation").upper() == "YES"
    if is_burned_in or text(header, "SOPClassUID") in _CAPTURES:
        return "secondary-capture"
    if "LOCALIZER" in kinds:
        return "localizer"
    # The first value of a lossily compressed original must be DERIVED too.
    is_lossy = text(header, "LossyImageCompression") == "01" and kinds[1:2] == ["PRIMARY"]
    is_derived = kinds[:1] == ["DERIVED"] and not is_lossy
    if is_derived or kinds[1:2] == ["SECONDARY"] or _REFORMATTED.intersection(kinds):
        return "derived"
    return "original"


def object_frames(header: Dataset, form: PixelFormat, modality: str) -> tuple[Frame, ...]:
    """The frames of an object, by its functional groups if it has them.

    Raises:
        ScanError: A frame has no place in the patient, or values without meaning.
    """
    own = items(header, "PerFrameFunctionalGroupsSequence")
    if not own:
        if form.num_frames > 1:
            raise ScanError(
                f"{form.num_frames} frames without a position of each, expected positions. Export "
                "the series as single slices, or as an enhanced object.",
                kind="no-position",
            )
        found = numbers(header, "InstanceNumber")
        instance = int(found[0]) if found and math.isfinite(found[0]) else None
        return (_frame((header,), 1, instance, modality),)
    if len(own) != form.num_frames:
        raise ScanError(
            f"{len(own)} functional groups, expected one for each of {form.num_frames} frames. "
            "Export the file again.",
            kind="dicom-damaged",
        )
    shared = items(header, "SharedFunctionalGroupsSequence")[:1]
    return tuple(
        _frame((group, *shared, header), index, None, modality)
        for index, group in enumerate(own, start=1)
    )


def _plane(groups: tuple[Dataset, ...], sequence: str, keyword: str) -> Dataset:
    """The data set that has an attribute: a functional group, own before shared, or the header."""
    for group in groups:
        for item in (*items(group, sequence)[:1], group):
            if values(item, keyword):
                return item
    return Dataset()


def _frame(groups: tuple[Dataset, ...], index: int, instance: int | None, modality: str) -> Frame:
    """One frame from the data sets that may describe it."""
    position = numbers(
        _plane(groups, "PlanePositionSequence", "ImagePositionPatient"), "ImagePositionPatient"
    )
    cosines = numbers(
        _plane(groups, "PlaneOrientationSequence", "ImageOrientationPatient"),
        "ImageOrientationPatient",
    )
    # A kilometre: numbers, but no place in a scanner.
    if len(position) != 3 or not all(abs(value) < 1e6 for value in position) or not cosines:
        raise ScanError(
            f"position {list(position)} and {len(cosines)} direction cosines, expected three "
            "numbers of mm and six cosines: where the slice lies is unknown. Export the original "
            "series again.",
            kind="no-position",
        )
    measures = _plane(groups, "PixelMeasuresSequence", "PixelSpacing")
    spacing = numbers(measures, "PixelSpacing")
    if len(spacing) != 2 or not all(1e-4 < value < 1e4 for value in spacing):
        raise ScanError(
            f"pixel spacing {list(spacing)}, expected two positive numbers of mm. Export the "
            "original series again.",
            kind="pixel-spacing",
        )
    across, down = _directions(cosines)
    slope, intercept = _rescale(groups, modality)
    return Frame(
        number=index,
        instance=instance,
        position=np.array(position),
        across=across,
        down=down,
        spacing=(spacing[0], spacing[1]),
        thickness=number(measures, "SliceThickness"),
        distance=number(measures, "SpacingBetweenSlices"),
        slope=slope,
        intercept=intercept,
    )


def _directions(
    cosines: tuple[float, ...],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors along a row and down a column."""
    if len(cosines) == 6 and np.isfinite(cosines).all():
        across, down = np.array(cosines[:3]), np.array(cosines[3:])
        lengths = float(np.linalg.norm(across)), float(np.linalg.norm(down))
        errors = lengths[0] - 1, lengths[1] - 1, float(across @ down)
        if max(map(abs, errors)) <= COSINE_TOLERANCE:
            return across / lengths[0], down / lengths[1]
    shown = ", ".join(f"{value:g}" for value in cosines[:6])
    raise ScanError(
        f"direction cosines {shown}, expected six: two perpendicular unit vectors. Export the "
        "original series again.",
        kind="bad-orientation",
    )


def _rescale(groups: tuple[Dataset, ...], modality: str) -> tuple[float, float]:
    """Slope and intercept."""
    keywords = "RescaleSlope", "RescaleIntercept"
    sequence = "PixelValueTransformationSequence"
    sources = [_plane(groups, sequence, keyword) for keyword in keywords]
    slope, intercept = (
        numbers(source, keyword) for source, keyword in zip(sources, keywords, strict=True)
    )
    has_table = bool(items(groups[-1], "ModalityLUTSequence"))
    if not slope and not intercept and modality != "CT" and not has_table:
        return 1.0, 0.0
    for keyword, found in zip(keywords, (slope, intercept), strict=True):
        if not found and not has_table:
            raise missing(keyword)
    if len(slope) != 1 or len(intercept) != 1 or not _is_rescale(slope[0], intercept[0]):
        raise ScanError(
            f"rescale slope {list(slope)} and intercept {list(intercept)}, expected one finite "
            "number each, the slope not 0 and no lookup table. Export the original series again.",
            kind="rescale",
        )
    unit = text(sources[0], "RescaleType")
    if modality == "CT" and unit not in ("", "HU", "US"):
        raise ScanError(
            f"CT values in {unit[:16]}, expected HU. Take the series in HU.", kind="not-hu"
        )
    return slope[0], intercept[0]


def _is_rescale(slope: float, intercept: float) -> bool:
    return bool(np.isfinite((slope, intercept)).all()) and slope != 0


def object_bytes(data_set: Dataset) -> bytes:
    """A data set with its file meta information as the bytes of a file.

    To be written at once: pydicom turns the reason why writing failed into a text of many lines.
    """
    buffer = BytesIO()
    data_set.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
