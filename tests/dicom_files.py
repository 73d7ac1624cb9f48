"""Synthetic DICOM series for tests: valid CT and MR instances, plain or compressed, and a head with
a bleed of known volume, tilted and unevenly spaced if wanted.

Positions and direction cosines are LPS mm, as DICOM has them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset
from pydicom import Sequence as ItemSequence
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

from hemaseg.dicom.reading import choose_series, find_series, read_series
from hemaseg.scans.scan import Scan
from hemaseg.scans.screening import ReadOptions

STUDY_UID = generate_uid(entropy_srcs=["hemaseg test study"])
FRAME_UID = generate_uid(entropy_srcs=["hemaseg test frame of reference"])

_NATIVE = (
    *(ImplicitVRLittleEndian, ExplicitVRLittleEndian),
    *(ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian),
)
_MODALITY: dict[str, dict[str, Any]] = {
    "CT": {
        "SOPClassUID": CTImageStorage,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "KVP": "120",
        "ConvolutionKernel": "H31s",
    },
    "MR": {
        "SOPClassUID": MRImageStorage,
        "ImageType": ["ORIGINAL", "PRIMARY", "M"],
        "ScanningSequence": "SE",
        "SequenceVariant": "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "RepetitionTime": "9000",
        "EchoTime": "90",
        "EchoTrainLength": "1",
        "MagneticFieldStrength": "3",
    },
}


def write_series(
    folder: Path,
    voxels: NDArray[Any],
    *,
    positions: Sequence[Sequence[float]] | NDArray[np.float64] | None = None,
    row_cosines: Sequence[float] = (1, 0, 0),
    column_cosines: Sequence[float] = (0, 1, 0),
    pixel_spacing: Sequence[float] = (0.5, 0.5),
    spacing_mm: float = 5.0,
    origin: Sequence[float] = (-60, -60, 0),
    modality: str = "CT",
    transfer_syntax: UID = ExplicitVRLittleEndian,
    slope: float = 1,
    intercept: float = 0,
    patient_name: str = "",
    patient_id: str = "",
    study_uid: str = STUDY_UID,
    series_uid: str | None = None,
    series_number: int = 1,
    **attributes: Any,
) -> list[Path]:
    """Write one instance for each slice, `001-0001.dcm` and so on (series and instance number).

    Args:
        folder: Made if needed.
        voxels: (slice, row, column) stored values, int16, uint16 or uint8.
        positions: (slice, 3) centre of the first pixel of each slice; None for `origin` and steps
            of `spacing_mm` along the normal.
        row_cosines: Direction of increasing column index, ImageOrientationPatient[:3].
        column_cosines: Direction of increasing row index, ImageOrientationPatient[3:].
        pixel_spacing: Between rows, between columns.
        spacing_mm: Between slices; also the SliceThickness.
        origin: Position of the first slice.
        modality: `CT` or `MR`.
        transfer_syntax: Also compressed ones.
        slope: RescaleSlope.
        intercept: RescaleIntercept.
        patient_name: PatientName.
        patient_id: PatientID.
        study_uid: StudyInstanceUID; the same for all series unless given.
        series_uid: SeriesInstanceUID; None for one made of folder and series number.
        series_number: SeriesNumber.
        **attributes: Further attributes by keyword. A function is called with the index of the
            slice; None leaves the attribute out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(row_cosines, column_cosines)
    if positions is None:
        positions = np.asarray(origin) + np.outer(np.arange(len(voxels)) * spacing_mm, normal)
    series_uid = series_uid or generate_uid(entropy_srcs=[str(folder), str(series_number)])
    paths = []
    for k, (pixels, position) in enumerate(zip(voxels, positions, strict=True)):
        data_set = Dataset()
        data_set.SOPInstanceUID = generate_uid(entropy_srcs=[series_uid, str(k)])
        values: dict[str, Any] = {
            **_plain_attributes(modality),
            "PatientName": patient_name,
            "PatientID": patient_id,
            "StudyInstanceUID": study_uid,
            "SeriesInstanceUID": series_uid,
            "SeriesNumber": series_number,
            "InstanceNumber": k + 1,
            "SliceThickness": decimal(spacing_mm),
            "PixelSpacing": [decimal(value) for value in pixel_spacing],
            "ImageOrientationPatient": [decimal(v) for v in (*row_cosines, *column_cosines)],
            "ImagePositionPatient": [decimal(value) for value in position],
            **({} if modality == "MR" and (slope, intercept) == (1, 0) else {
                "RescaleSlope": decimal(slope),
                "RescaleIntercept": decimal(intercept),
            }),
            **_pixel_attributes(pixels),
            **attributes,
        }  # fmt: skip
        for keyword, value in values.items():
            if (found := value(k) if callable(value) else value) is not None:
                setattr(data_set, keyword, found)
        set_pixels(data_set, pixels[np.newaxis], transfer_syntax)
        paths.append(folder / f"{series_number:03}-{k + 1:04}.dcm")
        paths[-1].write_bytes(file_bytes(data_set, transfer_syntax))
    return paths


def write_enhanced(
    path: Path,
    voxels: NDArray[Any],
    *,
    positions: Sequence[Sequence[float]] | NDArray[np.float64] | None = None,
    row_cosines: Sequence[float] = (1, 0, 0),
    column_cosines: Sequence[float] = (0, 1, 0),
    pixel_spacing: Sequence[float] = (0.5, 0.5),
    spacing_mm: float = 5.0,
    origin: Sequence[float] = (-60, -60, 0),
    modality: str = "CT",
    transfer_syntax: UID = ExplicitVRLittleEndian,
    slopes: Sequence[float] | None = None,
    intercept: float = 0,
    frame_groups: Sequence[str] = ("PlanePositionSequence", "PixelValueTransformationSequence"),
    **attributes: Any,
) -> Path:
    """Write one multi-frame object with functional groups; as `write_series` else.

    It has the groups that place frames and give their values a meaning, and none of the others
    that the standard asks of an enhanced object.

    Args:
        path: The file.
        voxels: (frame, row, column) stored values.
        positions: As in `write_series`.
        row_cosines: As in `write_series`.
        column_cosines: As in `write_series`.
        pixel_spacing: As in `write_series`.
        spacing_mm: As in `write_series`.
        origin: As in `write_series`.
        modality: As in `write_series`.
        transfer_syntax: As in `write_series`.
        slopes: (frame,) RescaleSlope of each; None for 1.
        intercept: Of all frames.
        frame_groups: What each frame has of its own; the first frame's other groups are shared.
        **attributes: Further attributes of the object by keyword.
    """
    normal = np.cross(row_cosines, column_cosines)
    if positions is None:
        positions = np.asarray(origin) + np.outer(np.arange(len(voxels)) * spacing_mm, normal)
    data_set = Dataset()
    values = {
        **_plain_attributes(modality),
        **_pixel_attributes(voxels),
        "SOPClassUID": EnhancedCTImageStorage if modality == "CT" else EnhancedMRImageStorage,
        "SOPInstanceUID": generate_uid(entropy_srcs=[str(path)]),
        "StudyInstanceUID": STUDY_UID,
        "SeriesInstanceUID": generate_uid(entropy_srcs=[str(path), "series"]),
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "NumberOfFrames": len(voxels),
        **attributes,
    }
    for keyword, value in values.items():
        setattr(data_set, keyword, value)
    frames = []
    for k, position in enumerate(positions):
        groups: dict[str, dict[str, Any]] = {
            "PlanePositionSequence": {"ImagePositionPatient": [decimal(v) for v in position]},
            "PlaneOrientationSequence": {
                "ImageOrientationPatient": [decimal(v) for v in (*row_cosines, *column_cosines)]
            },
            "PixelMeasuresSequence": {
                "PixelSpacing": [decimal(v) for v in pixel_spacing],
                "SliceThickness": decimal(spacing_mm),
            },
            "PixelValueTransformationSequence": {
                "RescaleSlope": decimal(slopes[k] if slopes else 1),
                "RescaleIntercept": decimal(intercept),
                "RescaleType": "HU" if modality == "CT" else "US",
            },
        }
        frames.append({name: _sequence(content) for name, content in groups.items()})
    shared = {name: one for name, one in frames[0].items() if name not in frame_groups}
    data_set.SharedFunctionalGroupsSequence = _sequence(shared)
    data_set.PerFrameFunctionalGroupsSequence = ItemSequence(
        [_item({name: frame[name] for name in frame_groups}) for frame in frames]
    )
    set_pixels(data_set, voxels, transfer_syntax)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file_bytes(data_set, transfer_syntax))
    return path


def _item(attributes: dict[str, Any]) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _sequence(attributes: dict[str, Any]) -> ItemSequence:
    """A sequence of one item."""
    return ItemSequence([_item(attributes)])


def decimal(value: float) -> str:
    """A number as a DS value: at most 16 characters."""
    return next(
        text for digits in range(16, 0, -1) if len(text := f"{float(value):.{digits}g}") <= 16
    )


def _plain_attributes(modality: str) -> dict[str, Any]:
    """What every instance has, so that it is valid."""
    return {
        "StudyDate": "20240102",
        "StudyTime": "101500",
        "StudyID": "1",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "PatientBirthDate": "",
        "PatientSex": "",
        "Modality": modality,
        "Manufacturer": "hemaseg tests",
        "ManufacturerModelName": "phantom",
        "DeviceSerialNumber": "1",
        "SoftwareVersions": "1",
        "FrameOfReferenceUID": FRAME_UID,
        "PositionReferenceIndicator": "",
        "PatientPosition": "HFS",
        "BodyPartExamined": "HEAD",
        "AcquisitionNumber": 1,
        "SeriesDescription": f"{modality} head",
        **_MODALITY[modality],
    }


def _pixel_attributes(pixels: NDArray[Any]) -> dict[str, Any]:
    bits = pixels.dtype.itemsize * 8
    return {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }


def set_pixels(data_set: Dataset, frames: NDArray[Any], transfer_syntax: UID) -> None:
    """Set PixelData to frames (frame, row, column), encoded as the transfer syntax says."""
    if transfer_syntax in _NATIVE:
        is_big = transfer_syntax == ExplicitVRBigEndian
        data = frames.astype(frames.dtype.newbyteorder(">" if is_big else "<")).tobytes()
        data_set.add_new("PixelData", "OW", data + b"\0" * (len(data) % 2))
        return
    encoded = [encode_frame(frame, transfer_syntax, data_set.BitsStored) for frame in frames]
    data_set.add_new("PixelData", "OB", encapsulate(encoded))
    data_set["PixelData"].is_undefined_length = True


def encode_frame(frame: NDArray[Any], transfer_syntax: UID, bits_stored: int) -> bytes:
    """One compressed frame; lossless unless the transfer syntax is not."""
    bits = frame.view(f"u{frame.dtype.itemsize}")  # The codecs but JPEG 2000 know no sign.
    if transfer_syntax == RLELossless:
        return _rle_frame(bits)
    if transfer_syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
        return bytes(imagecodecs.jpeg8_encode(bits, level=98, bitspersample=bits_stored))
    if transfer_syntax in (JPEGLossless, JPEGLosslessSV1):
        predictor = 1 if transfer_syntax == JPEGLosslessSV1 else 6
        return bytes(
            imagecodecs.jpeg8_encode(
                bits, lossless=True, predictor=predictor, bitspersample=bits_stored
            )
        )
    if transfer_syntax in (JPEGLSLossless, JPEGLSNearLossless):
        return bytes(imagecodecs.jpegls_encode(bits, int(transfer_syntax == JPEGLSNearLossless)))
    if transfer_syntax in (JPEG2000Lossless, JPEG2000):
        is_lossless = transfer_syntax == JPEG2000Lossless
        return bytes(
            imagecodecs.jpeg2k_encode(
                frame, level=0 if is_lossless else 90, reversible=is_lossless, codecformat="j2k"
            )
        )
    if transfer_syntax == HTJ2KLossless:
        return bytes(imagecodecs.htj2k_encode(frame, reversible=True))
    raise ValueError(f"no encoder for {transfer_syntax.name}")


def _rle_frame(frame: NDArray[Any]) -> bytes:
    """A frame in DICOM's RLE: the high bytes of all pixels first, each row packed by itself."""
    planes = frame.astype(frame.dtype.newbyteorder(">")).view(np.uint8).reshape(*frame.shape, -1)
    segments = []
    for plane in range(planes.shape[-1]):
        rows = (imagecodecs.packbits_encode(row.tobytes()) for row in planes[..., plane])
        segment = b"".join(rows)
        segments.append(segment + b"\0" * (len(segment) % 2))
    offsets = [64 + sum(map(len, segments[:n])) for n in range(len(segments))]
    header = [len(segments), *offsets, *[0] * (15 - len(segments))]
    return np.array(header, dtype="<u4").tobytes() + b"".join(segments)


def file_bytes(data_set: Dataset, transfer_syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """The data set as the bytes of a DICOM file; it is not changed but for its file meta group."""
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = transfer_syntax
    data_set.file_meta.MediaStorageSOPClassUID = data_set.SOPClassUID
    data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
    stream = BytesIO()
    data_set.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def read(path: Path, *accept: str, series: str | None = None) -> Scan:
    """The series at a path, with these kinds of refusals accepted."""
    options = ReadOptions(accept=frozenset(accept))
    return read_series(choose_series(find_series(path, options), series), options)


AIR_HU, SKULL_HU, BRAIN_HU, BLOOD_HU = -1000, 900, 34, 64


@dataclass(frozen=True, eq=False)
class PhantomSeries:
    """A head with a bleed.

    Attributes:
        paths: Its instances.
        voxels: (slice, row, column) HU, also the stored values.
        mask: (slice, row, column); voxels whose centre lies in the bleed.
        lesion_ml: 4/3 pi a b c of the bleed's semi-axes.
        center_mm: Of the bleed, LPS.
        positions: (slice, 3) of the first pixel of each slice, LPS mm.
        tilt_deg: Angle between the stack and the normal of its slices.
    """

    paths: list[Path]
    voxels: NDArray[np.int16]
    mask: NDArray[np.bool_]
    lesion_ml: float
    center_mm: NDArray[np.float64]
    positions: NDArray[np.float64]
    tilt_deg: float


def phantom_series(
    folder: Path,
    *,
    num_slices: int = 28,
    spacing_mm: float = 5.0,
    offsets_mm: Sequence[float] | NDArray[np.float64] | None = None,
    tilt_deg: float = 0.0,
    size: int = 64,
    pixel_mm: float = 3.2,
    semi_axes_mm: Sequence[float] = (18.0, 25.0, 21.0),
    row_cosines: Sequence[float] = (1, 0, 0),
    column_cosines: Sequence[float] = (0, 1, 0),
    **attributes: Any,
) -> PhantomSeries:
    """Write a head with an ellipsoid of blood; brain, skull and air around it.

    Head and bleed are made in mm and then cut by the slices, whatever their tilt and distances.

    Args:
        folder: Made if needed.
        num_slices: Number of slices.
        spacing_mm: Between slices, along the table.
        offsets_mm: (slice,) of the slices along the table, in place of `num_slices` even steps.
        tilt_deg: Gantry tilt: slices are turned about the row direction, the table is not.
        size: Rows and columns.
        pixel_mm: Distance of rows and of columns.
        semi_axes_mm: Of the bleed, along left, posterior, superior.
        row_cosines: As in `write_series`, before the tilt.
        column_cosines: As in `write_series`, before the tilt.
        **attributes: As in `write_series`.
    """
    row = np.asarray(row_cosines, dtype=np.float64)
    column = np.asarray(column_cosines, dtype=np.float64)
    table = np.cross(row, column)
    tilt = math.radians(tilt_deg)
    column = math.cos(tilt) * column - math.sin(tilt) * table
    offsets = np.arange(num_slices) * spacing_mm if offsets_mm is None else np.asarray(offsets_mm)
    # The middle of the grid lies at the origin of the patient.
    offsets = offsets - (offsets[0] + offsets[-1]) / 2
    corner = -(size - 1) / 2 * pixel_mm * (row + column)
    positions = corner + offsets[:, None] * table
    in_plane = np.arange(size) * pixel_mm
    points = (
        positions[:, None, None, :]
        + in_plane[None, :, None, None] * column
        + in_plane[None, None, :, None] * row
    )
    center = np.array([22.0, 8.0, 4.0])
    mask = _inside(points, center, np.asarray(semi_axes_mm, dtype=np.float64))
    voxels = np.full(mask.shape, AIR_HU, dtype=np.int16)
    voxels[_inside(points, np.zeros(3), np.array([72.0, 92.0, 62.0]))] = SKULL_HU
    voxels[_inside(points, np.zeros(3), np.array([66.0, 86.0, 56.0]))] = BRAIN_HU
    voxels[mask] = BLOOD_HU
    paths = write_series(
        folder,
        voxels,
        positions=positions,
        row_cosines=row.tolist(),
        column_cosines=column.tolist(),
        pixel_spacing=(pixel_mm, pixel_mm),
        spacing_mm=spacing_mm,
        **attributes,
    )
    lesion_ml = 4 / 3 * math.pi * math.prod(semi_axes_mm) / 1000
    return PhantomSeries(paths, voxels, mask, lesion_ml, center, positions, tilt_deg)


def _inside(
    points: NDArray[np.float64], center: NDArray[np.float64], semi_axes: NDArray[np.float64]
) -> NDArray[np.bool_]:
    return np.asarray((((points - center) / semi_axes) ** 2).sum(axis=-1) <= 1)
