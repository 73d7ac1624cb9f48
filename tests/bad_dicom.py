"""DICOM files with one fault each; see `bad_inputs`."""

import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from pydicom import Dataset, Sequence, config, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from bad_inputs import BadInput, Inputs, write
from dicom_files import STUDY_UID, file_bytes, phantom_series, write_enhanced, write_series

INPUTS = Inputs()
NUM_SLICES = 14


def series(folder: Path, **options: Any) -> list[Path]:
    """A good series of 14 slices, 10 mm apart, unless the options say otherwise."""
    options = {"num_slices": NUM_SLICES, "spacing_mm": 10.0, **options}
    with config.disable_value_validation():
        return phantom_series(folder, **options).paths


def _only(k: int, wrong: Any, right: Any) -> Callable[[int], Any]:
    """An attribute that is wrong in slice k alone."""
    return lambda slice_number: wrong if slice_number == k else right


def edit(path: Path, change: Callable[[Dataset], None]) -> None:
    """Read a data set, change it, and write it back."""
    with config.disable_value_validation():
        data_set = dcmread(path)
        change(data_set)
        data_set.save_as(path)


# One wrong attribute in every slice, or in one.

ATTRIBUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "dicom_without_rows": ("missing-attribute", {"Rows": None}),
    "dicom_without_bits": ("missing-attribute", {"BitsAllocated": None}),
    "dicom_without_sign": ("missing-attribute", {"PixelRepresentation": None}),
    "dicom_without_photometric": ("missing-attribute", {"PhotometricInterpretation": None}),
    "dicom_slice_without_columns": ("missing-attribute", {"Columns": _only(3, None, 64)}),
    "dicom_ct_without_slope": ("missing-attribute", {"RescaleSlope": None}),
    "dicom_of_colour_numbers": ("photometric", {"PhotometricInterpretation": "PALETTE COLOR"}),
    "dicom_of_luminance": ("photometric", {"PhotometricInterpretation": "YBR_FULL"}),
    "dicom_of_unknown_photometric": ("photometric", {"PhotometricInterpretation": "GREYISH"}),
    "dicom_of_more_bits_than_there_are": ("bits", {"BitsStored": 17, "HighBit": 16}),
    "dicom_of_no_bits": ("bits", {"BitsStored": 0, "HighBit": 0}),
    "dicom_of_12_bits_allocated": ("bits", {"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11}),
    "dicom_with_its_high_bit_too_high": ("bits", {"BitsStored": 12, "HighBit": 20}),
    "dicom_with_long_cosines": (
        "bad-orientation",
        {"ImageOrientationPatient": ["2", "0", "0", "0", "2", "0"]},
    ),
    "dicom_with_parallel_cosines": (
        "bad-orientation",
        {"ImageOrientationPatient": ["1", "0", "0", "1", "0", "0"]},
    ),
    "dicom_with_cosines_askew": (
        "bad-orientation",
        {"ImageOrientationPatient": ["1", "0", "0", "0.5", "0.8660254", "0"]},
    ),
    "dicom_with_cosines_not_numbers": (
        "bad-orientation",
        {"ImageOrientationPatient": ["nan", "0", "0", "0", "1", "0"]},
    ),
    "dicom_with_five_cosines": (
        "bad-orientation",
        {"ImageOrientationPatient": ["1", "0", "0", "0", "1"]},
    ),
    "dicom_without_position": ("no-position", {"ImagePositionPatient": None}),
    "dicom_slice_without_position": (
        "no-position",
        {"ImagePositionPatient": _only(3, None, ["-100.8", "-100.8", "-35"])},
    ),
    "dicom_with_position_of_two_numbers": ("no-position", {"ImagePositionPatient": ["0", "0"]}),
    "dicom_with_position_not_a_number": (
        "no-position",
        {"ImagePositionPatient": ["nan", "0", "0"]},
    ),
    "dicom_without_orientation": ("no-position", {"ImageOrientationPatient": None}),
    "dicom_without_spacing": ("pixel-spacing", {"PixelSpacing": None}),
    "dicom_spacing_of_zero": ("pixel-spacing", {"PixelSpacing": ["0", "3.2"]}),
    "dicom_negative_spacing": ("pixel-spacing", {"PixelSpacing": ["3.2", "-3.2"]}),
    "dicom_spacing_not_a_number": ("pixel-spacing", {"PixelSpacing": ["nan", "3.2"]}),
    "dicom_one_spacing_for_two": ("pixel-spacing", {"PixelSpacing": "3.2"}),
    "dicom_slope_of_zero": ("rescale", {"RescaleSlope": "0"}),
    "dicom_infinite_slope": ("rescale", {"RescaleSlope": "inf"}),
    "dicom_intercept_not_a_number": ("rescale", {"RescaleIntercept": "nan"}),
    "dicom_ct_without_its_offset": ("not-hu", {"RescaleIntercept": "1024"}),
    "dicom_ct_with_its_offset_twice": ("not-hu", {"RescaleIntercept": "-1024"}),
    "dicom_ct_of_twice_the_slope": ("not-hu", {"RescaleSlope": "2", "RescaleIntercept": "1024"}),
    "dicom_with_another_rescale_in_a_slice": (
        "mixed-rescale",
        {"RescaleIntercept": _only(3, "-1024", "0")},
    ),
    "dicom_with_a_slice_of_another_patient": (
        "mixed-series",
        {"PatientID": _only(3, "4711", "4712")},
    ),
    "dicom_of_two_spacings": (
        "mixed-grids",
        {"PixelSpacing": _only(3, ["1.6", "1.6"], ["3.2", "3.2"])},
    ),
    "dicom_slice_that_faces_another_way": (
        "mixed-orientations",
        {
            "ImageOrientationPatient": _only(
                3, ["1", "0", "0", "0", "0", "-1"], ["1", "0", "0", "0", "1", "0"]
            )
        },
    ),
    "dicom_localizer": ("localizer", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
    "dicom_reformatted": ("derived", {"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED"]}),
    "dicom_with_burnt_in_text": ("secondary-capture", {"BurnedInAnnotation": "YES"}),
    "dicom_of_pet": ("wrong-modality", {"Modality": "PT"}),
}


def _attributes(attributes: dict[str, Any], folder: Path) -> Path:
    series(folder / "series", **attributes)
    return folder / "series"


for _name, (_kind, _wrong) in ATTRIBUTES.items():
    INPUTS[_name] = BadInput(_kind, partial(_attributes, _wrong))


# One damaged file among good ones.


@INPUTS.add("dicom-damaged")
def dicom_cut_in_its_header(folder: Path) -> Path:
    path = series(folder / "series")[3]
    path.write_bytes(path.read_bytes()[:700])
    return folder / "series"


@INPUTS.add("dicom-truncated")
def dicom_cut_in_its_pixels(folder: Path) -> Path:
    path = series(folder / "series")[3]
    path.write_bytes(path.read_bytes()[:-4000])
    return folder / "series"


@INPUTS.add("dicom-truncated")
def dicom_of_fewer_pixels_than_rows_and_columns(folder: Path) -> Path:
    def change(data_set: Dataset) -> None:
        data_set.PixelData = data_set.PixelData[:4000]

    edit(series(folder / "series")[3], change)
    return folder / "series"


@INPUTS.add("dicom-surplus")
def dicom_of_more_pixels_than_rows_and_columns(folder: Path) -> Path:
    def change(data_set: Dataset) -> None:
        data_set.PixelData += data_set.PixelData

    edit(series(folder / "series")[3], change)
    return folder / "series"


@INPUTS.add("dicom-damaged")
def dicom_with_a_damaged_compressed_frame(folder: Path) -> Path:
    path = series(folder / "series", transfer_syntax=JPEGLSLossless)[3]

    def change(data_set: Dataset) -> None:
        data = bytearray(data_set.PixelData)
        data[40:60] = bytes(20)
        data_set.PixelData = bytes(data)

    edit(path, change)
    return folder / "series"


@INPUTS.add("dicom-truncated")
def dicom_with_half_a_compressed_frame(folder: Path) -> Path:
    path = series(folder / "series", transfer_syntax=RLELossless)[3]

    def change(data_set: Dataset) -> None:
        (frame,) = generate_frames(data_set.PixelData, number_of_frames=1)
        data_set.PixelData = encapsulate([frame[: len(frame) // 4 * 2]])

    edit(path, change)
    return folder / "series"


@INPUTS.add("dicom-damaged")
def dicom_with_fields_that_are_no_numbers(folder: Path) -> Path:
    path = series(folder / "series")[3]
    data = path.read_bytes()
    assert data.count(b"DS\x08\x003.2\\3.2 ") == 1
    path.write_bytes(data.replace(b"DS\x08\x003.2\\3.2 ", b"DS\x08\x00wide\\far"))
    return folder / "series"


@INPUTS.add("empty-file")
def dicom_slice_of_no_bytes(folder: Path) -> Path:
    series(folder / "series")[3].write_bytes(b"")
    return folder / "series"


@INPUTS.add("transfer-syntax")
def dicom_of_unknown_compression(folder: Path) -> Path:
    for path in series(folder / "series"):
        data = path.read_bytes()
        # Explicit VR Little Endian becomes a UID of equal length that nobody defined.
        path.write_bytes(data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"))
    return folder / "series"


@INPUTS.add("transfer-syntax")
def dicom_of_video(folder: Path) -> Path:
    for path in series(folder / "series", transfer_syntax=JPEGLSLossless):
        data = path.read_bytes()
        path.write_bytes(data.replace(b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.4.99"))
    return folder / "series"


# Bombs.


@INPUTS.add("dicom-bomb")
def dicom_deflated_bomb(folder: Path) -> Path:
    paths = series(folder / "series", transfer_syntax=DeflatedExplicitVRLittleEndian)
    write_deflated_bomb(paths[3], num_mib=64)
    return folder / "series"


def write_deflated_bomb(path: Path, *, num_mib: int) -> None:
    """Add that many MiB of zeros to a deflated DICOM file, after its pixels."""
    data = path.read_bytes()
    # Preamble, "DICM", and the group length element (12 bytes) that counts what follows it.
    start = 132 + 12 + int.from_bytes(data[140:144], "little")
    padding = b"\xfc\xff\xfc\xffOB\0\0" + (num_mib * 2**20).to_bytes(4, "little")
    packer = zlib.compressobj(9, wbits=-15)
    begin = packer.compress(zlib.decompress(data[start:], wbits=-15) + padding)
    begin += packer.flush(zlib.Z_FULL_FLUSH)
    # A block after a full flush knows nothing of what came before, so it can be repeated.
    zeros = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    path.write_bytes(data[:start] + begin + zeros * num_mib + packer.flush())


@INPUTS.add("dicom-bomb")
def dicom_compressed_frame_larger_than_its_header(folder: Path) -> Path:
    path = series(folder / "series", transfer_syntax=JPEG2000Lossless)[3]
    frame = imagecodecs.jpeg2k_encode(
        np.zeros((4096, 4096), np.int16), level=0, reversible=True, codecformat="j2k"
    )

    def change(data_set: Dataset) -> None:
        data_set.PixelData = encapsulate([bytes(frame)])

    edit(path, change)
    return folder / "series"


@INPUTS.add("too-large")
def dicom_of_absurd_size(folder: Path) -> Path:
    series(folder / "series", Rows=65535, Columns=65535)
    return folder / "series"


@INPUTS.add("too-large", max_bytes=50_000)
def dicom_larger_than_the_limit(folder: Path) -> Path:
    series(folder / "series")
    return folder / "series"


@INPUTS.add("too-deep")
def dicom_nested_beyond_any_use(folder: Path) -> Path:
    path = series(folder / "series")[3]
    nested = b""
    for _ in range(5000):  # Items and sequences of undefined length, one within the other.
        nested = b"".join(
            (
                b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff",
                nested,
                b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0",
            )
        )
    data = path.read_bytes()
    place = data.index(b"\x10\x00\x10\x00PN")  # Before the patient's name.
    path.write_bytes(data[:place] + nested + data[place:])
    return folder / "series"


# Objects that are not images of a series.


@INPUTS.add("not-pixels")
def dicom_report(folder: Path) -> Path:
    report = Dataset()
    report.SOPClassUID = BasicTextSRStorage
    report.SOPInstanceUID = generate_uid()
    report.StudyInstanceUID = STUDY_UID
    report.SeriesInstanceUID = generate_uid()
    report.Modality = "SR"
    report.PatientName = "Doe^Jane"
    report.ContentSequence = Sequence()
    return write(folder / "report.dcm", file_bytes(report))


@INPUTS.add("empty-folder")
def dicom_directory_file(folder: Path) -> Path:
    """A DICOMDIR lists the files of a folder; it is passed over, and here nothing else is named."""
    directory = Dataset()
    directory.SOPClassUID = MediaStorageDirectoryStorage
    directory.SOPInstanceUID = generate_uid()
    directory.DirectoryRecordSequence = Sequence()
    return write(folder / "DICOMDIR", file_bytes(directory))


@INPUTS.add("secondary-capture")
def dicom_secondary_capture(folder: Path) -> Path:
    series(folder / "series", SOPClassUID=SecondaryCaptureImageStorage, Modality="OT")
    return folder / "series"


@INPUTS.add("photometric")
def dicom_in_colour(folder: Path) -> Path:
    def change(data_set: Dataset) -> None:
        data_set.SamplesPerPixel = 3
        data_set.PlanarConfiguration = 0
        data_set.PhotometricInterpretation = "RGB"
        data_set.BitsAllocated = data_set.BitsStored = 8
        data_set.HighBit = 7
        data_set.PixelRepresentation = 0
        data_set.PixelData = bytes(64 * 64 * 3)

    for path in series(folder / "series"):
        edit(path, change)
    return folder / "series"


@INPUTS.add("constant")
def dicom_of_zeros(folder: Path) -> Path:
    write_series(
        folder / "series",
        np.zeros((NUM_SLICES, 64, 64), np.int16),
        pixel_spacing=(3.2, 3.2),
        spacing_mm=10.0,
    )
    return folder / "series"


def _enhanced(folder: Path, change: Callable[[Dataset], None]) -> Path:
    """A good head as one multi-frame object, then changed."""
    voxels = phantom_series(folder / "series", num_slices=NUM_SLICES, spacing_mm=10.0).voxels
    path = write_enhanced(
        folder / "head.dcm",
        voxels,
        pixel_spacing=(3.2, 3.2),
        spacing_mm=10.0,
        origin=(-100, -100, 0),
    )
    edit(path, change)
    return path


@INPUTS.add("no-position")
def dicom_frames_without_position(folder: Path) -> Path:
    def change(data_set: Dataset) -> None:
        del data_set.PerFrameFunctionalGroupsSequence
        del data_set.SharedFunctionalGroupsSequence

    return _enhanced(folder, change)


@INPUTS.add("dicom-damaged")
def dicom_frames_fewer_than_their_positions(folder: Path) -> Path:
    def change(data_set: Dataset) -> None:
        data_set.NumberOfFrames = NUM_SLICES - 1
        data_set.PixelData = data_set.PixelData[: -64 * 64 * 2]

    return _enhanced(folder, change)


@INPUTS.add("dicom-truncated")
def dicom_frames_fewer_than_promised(folder: Path) -> Path:
    def change(data_set: Dataset) -> None:
        data_set.PixelData = data_set.PixelData[: -64 * 64 * 2]

    return _enhanced(folder, change)


@INPUTS.add("mixed-orientations")
def dicom_frame_that_is_tilted(folder: Path) -> Path:
    def change(data_set: Dataset) -> None:
        frame = data_set.PerFrameFunctionalGroupsSequence[3]
        orientation = Dataset()
        orientation.ImageOrientationPatient = ["1", "0", "0", "0", "0.9848078", "0.1736482"]
        frame.PlaneOrientationSequence = Sequence([orientation])

    return _enhanced(folder, change)
