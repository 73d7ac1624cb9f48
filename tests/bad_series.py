"""DICOM series of good files with one fault each, and those that are read; see `bad_inputs`."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from bad_dicom import NUM_SLICES, dicom_report, edit, series
from bad_inputs import Inputs, write

INPUTS = Inputs()

# Refused.


@INPUTS.add("missing-slices")
def dicom_with_two_slices_missing(folder: Path) -> Path:
    for path in series(folder / "series")[5:7]:
        path.unlink()
    return folder / "series"


@INPUTS.add("duplicate-slices")
def dicom_with_two_slices_at_one_place(folder: Path) -> Path:
    series(
        folder / "series",
        ImagePositionPatient=lambda k: ["-100.8", "-100.8", str(-65 + 10 * (k - (k == 6)))],
    )
    return folder / "series"


@INPUTS.add("slices-off-line")
def dicom_with_a_slice_beside_the_others(folder: Path) -> Path:
    series(
        folder / "series",
        ImagePositionPatient=lambda k: [str(-100.8 + 9 * (k == 6)), "-100.8", str(-65 + 10 * k)],
    )
    return folder / "series"


@INPUTS.add("mixed-grids")
def dicom_with_a_slice_of_another_size(folder: Path) -> Path:
    def change(data_set: Dataset) -> None:
        data_set.Rows = 32
        data_set.PixelData = data_set.PixelData[: 32 * 64 * 2]

    edit(series(folder / "series")[3], change)
    return folder / "series"


@INPUTS.add("mixed-series")
def dicom_of_two_series(folder: Path) -> Path:
    series(folder / "series", series_number=1)
    series(folder / "series", series_number=2, SeriesDescription="CT head bone")
    return folder / "series"


@INPUTS.add("unknown-series", series="7")
def dicom_without_the_series_asked_for(folder: Path) -> Path:
    return dicom_of_two_series(folder)


@INPUTS.add("non-axial")
def dicom_of_coronal_slices(folder: Path) -> Path:
    series(folder / "series", row_cosines=(1, 0, 0), column_cosines=(0, 0, -1), num_slices=18)
    return folder / "series"


@INPUTS.add("uneven-not-axial", accept=frozenset({"non-axial"}))
def dicom_of_uneven_coronal_slices(folder: Path) -> Path:
    offsets = np.r_[np.arange(0, 90, 10), np.arange(90, 180, 5)]
    cosines: dict[str, Any] = {"row_cosines": (1, 0, 0), "column_cosines": (0, 0, -1)}
    series(folder / "series", offsets_mm=offsets, **cosines)
    return folder / "series"


@INPUTS.add("few-slices")
def dicom_of_two_slices(folder: Path) -> Path:
    series(folder / "series", num_slices=2)
    return folder / "series"


@INPUTS.add("not-a-head")
def dicom_of_a_finger(folder: Path) -> Path:
    series(folder / "series", PixelSpacing=["0.32", "0.32"])
    return folder / "series"


# Repaired and noted.


@INPUTS.add("duplicates-dropped")
def dicom_with_a_file_twice(folder: Path) -> Path:
    path = series(folder / "series")[3]
    (folder / "series/copy.dcm").write_bytes(path.read_bytes())
    return folder / "series"


@INPUTS.add("padding-replaced")
def dicom_with_padding(folder: Path) -> Path:
    def change(data_set: Dataset) -> None:
        pixels = np.frombuffer(data_set.PixelData, np.int16).reshape(64, 64).copy()
        rows, columns = np.ogrid[-31.5:32, -31.5:32]
        pixels[rows**2 + columns**2 > 31**2] = -2000
        data_set.PixelData = pixels.tobytes()

    for path in series(folder / "series", PixelPaddingValue=-2000):
        edit(path, change)
    return folder / "series"


@INPUTS.add("slices-sorted")
def dicom_named_in_another_order(folder: Path) -> Path:
    paths = series(folder / "series", InstanceNumber=lambda k: (k * 5) % NUM_SLICES + 1)
    for k, path in enumerate(paths):
        path.rename(path.with_name(f"slice-{(k * 5) % NUM_SLICES:02}.dcm"))
    return folder / "series"


@INPUTS.add("inverted")
def dicom_of_dark_bones(folder: Path) -> Path:
    def change(data_set: Dataset) -> None:
        data_set.PhotometricInterpretation = "MONOCHROME1"
        pixels = np.frombuffer(data_set.PixelData, np.int16)
        data_set.PixelData = (-1 - pixels).astype(np.int16).tobytes()

    for path in series(folder / "series", modality="MR"):
        edit(path, change)
    return folder / "series"


@INPUTS.add("uneven-spacing")
def dicom_of_uneven_slices(folder: Path) -> Path:
    series(folder / "series", offsets_mm=np.r_[np.arange(0, 60, 5), np.arange(60, 140, 10)])
    return folder / "series"


@INPUTS.add("gantry-tilt")
def dicom_with_gantry_tilt(folder: Path) -> Path:
    series(folder / "series", tilt_deg=8.0)  # At 10 they would be oblique too.
    return folder / "series"


@INPUTS.add("wide-gaps")
def dicom_of_every_second_slice(folder: Path) -> Path:
    for path in series(folder / "series", num_slices=30, spacing_mm=5.0)[1::2]:
        path.unlink()
    return folder / "series"


@INPUTS.add("bone-kernel")
def dicom_for_bone(folder: Path) -> Path:
    series(folder / "series", SeriesDescription="Head bone 5 mm")
    return folder / "series"


@INPUTS.add("oblique")
def dicom_of_oblique_slices(folder: Path) -> Path:
    turn = np.radians(15)
    cosines = (0.0, float(np.cos(turn)), float(np.sin(turn)))
    series(folder / "series", column_cosines=cosines)
    return folder / "series"


@INPUTS.add("left-out")
def dicom_with_a_letter_beside_it(folder: Path) -> Path:
    series(folder / "series")
    write(folder / "series/letter.txt", b"Dear colleague")
    return folder / "series"


@INPUTS.add("left-out")
def dicom_with_a_report_beside_it(folder: Path) -> Path:
    series(folder / "series")
    dicom_report(folder / "series")
    return folder / "series"
