"""Mask files of any tool to a table of measurements. What each number is: `docs/metrics.md`."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hemaseg.errors import ScanError
from hemaseg.evaluation.mask_files import is_mask_file, read_mask_file
from hemaseg.intake.names import path_parts, unique_names
from hemaseg.metrics.measurement import MEASUREMENT_COLUMNS, measure, measurement_columns
from hemaseg.scans.folders import files_below
from hemaseg.scans.images import stem
from hemaseg.scans.mask_size import oversize
from hemaseg.scans.pictures import is_picture, read_stack
from hemaseg.scans.scan import Scan, mask_of_label
from hemaseg.scans.screening import ReadOptions, Screen, kinds_of

COLUMNS = ("name", "file", *MEASUREMENT_COLUMNS, "findings")
"""Of the table of measurements."""

_ENDING = "(mask|seg|dseg|label|roi)"
# `NAME_mask.nii.gz`, `NAME_seg.dcm`, `mask.nii.gz`, and the names of BIDS derivatives.
_IS_MASK_NAME = re.compile(f"(.*[-_. ])?{_ENDING}", re.IGNORECASE)
_NUMBERED = re.compile(f"(.*?)[-_. ]*[0-9]{{1,9}}([-_. ]{_ENDING})?", re.IGNORECASE)


@dataclass(frozen=True)
class Measured:
    """The measurements of some masks.

    Attributes:
        rows: One per mask that could be read, with the keys `COLUMNS`. The `file` of a stack of
            pictures is its first one.
        failures: One per mask that could not, and per folder without any.
    """

    rows: tuple[dict[str, object], ...]
    failures: tuple[ScanError, ...]

    def to_csv(self) -> str:
        """The rows as a CSV table; what is undefined is an empty field."""
        return pd.DataFrame(self.rows, columns=COLUMNS).to_csv(index=False, lineterminator="\n")


@dataclass(frozen=True)
class _Mask:
    """A mask that was found: what its name is made of, and its file or the pictures of a stack."""

    parts: tuple[str, ...]
    files: tuple[Path, ...]


def measure_files(
    paths: Iterable[Path],
    options: ReadOptions,
    *,
    label: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Measure masks; one that cannot be read does not stop the others.

    Args:
        paths: NIfTI, PNG, TIFF or DICOM SEG files, or folders of them. In a folder, hidden files
            and those of other kinds are left aside; and where some files or their folders are
            called `mask`, `seg`, `dseg`, `label` or `roi`, or end so, all others are. Pictures
            in one folder whose names differ by a number are the slices of one mask.
        options: How files are read.
        label: Which label of a map of labels, or segment of a DICOM SEG. None for masks of two
            values; several labels or segments are then refused.
        progress: Called with the numbers of masks done and to do.

    Raises:
        ValueError: The label is below 1.
    """
    if label is not None and label < 1:
        raise ValueError(f"label is {label}, expected 1 or more; 0 is the background")
    rows, failures = [], []
    masks: dict[_Mask, None] = {}  # Each once, also where a folder and a file in it are named.
    for path in paths:
        try:
            masks |= dict.fromkeys(_masks(path, options))
        except ScanError as error:
            failures.append(error)
    names = unique_names([mask.parts for mask in masks])
    for num_done, (name, mask) in enumerate(zip(names, masks, strict=True), start=1):
        try:
            rows.append(_row(name, mask, _read(mask.files, options, label)))
        except ScanError as error:
            failures.append(error)
        if progress is not None:
            progress(num_done, len(masks))
    return Measured(tuple(rows), tuple(failures))


def _masks(path: Path, options: ReadOptions) -> list[_Mask]:
    """The file at a path, or the masks in a folder in natural order.

    Raises:
        ScanError: A folder without any, or one that cannot be read.
    """
    if not path.is_dir():
        return [_Mask(path_parts(path), (path,))]
    screen = Screen(str(path), options)
    inside = files_below(path, screen)
    images = [file for file in inside if is_mask_file(file)]
    if not images:
        raise screen.error(
            "empty-folder",
            f"0 masks among {len(inside)} files, expected NIfTI, PNG, TIFF or DICOM SEG files. "
            "Give the folder that holds them.",
        )
    stacks: defaultdict[tuple[Path, str], list[Path]] = defaultdict(list)
    for file in [f for f in images if _is_called_mask(f)] or images:
        number = _NUMBERED.fullmatch(file.stem) if is_picture(file) else None
        stacks[file.parent, number[1] if number else file.name].append(file)
    return [
        _Mask(path_parts(files[0]) if len(files) == 1 else _stack_parts(*place), tuple(files))
        for place, files in stacks.items()
    ]


def _stack_parts(folder: Path, beginning: str) -> tuple[str, ...]:
    parts = path_parts(folder)
    return (beginning, *parts) if beginning else parts


def _is_called_mask(file: Path) -> bool:
    return any(_IS_MASK_NAME.fullmatch(name) for name in (stem(file), file.parent.name))


def _read(files: tuple[Path, ...], options: ReadOptions, label: int | None) -> Scan:
    """A mask, or one label of it."""
    if len(files) > 1:
        return mask_of_label(read_stack(files, options), label)
    return read_mask_file(files[0], options, label=label)


def _row(name: str, mask: _Mask, scan: Scan) -> dict[str, object]:
    measurement = measure(scan.voxels, scan.affine, scan.slice_coordinates)
    is_large = oversize(measurement.num_voxels, scan.voxels.size, measurement.volume_ml)
    kinds = (*kinds_of(scan.findings), *(["large-mask"] if is_large else []))
    return {
        "name": name,
        "file": str(mask.files[0]),
        **measurement_columns(measurement),
        "findings": ";".join(kinds),
    }
