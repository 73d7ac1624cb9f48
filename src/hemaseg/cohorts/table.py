"""The table of cases, `cohort.csv`: one row per image file, checked whenever it is read.

The columns are described in `docs/architecture.md`. An image is *marked* if its lesion pixels are
known, which is not the same as having a lesion: `lesion_pixels` is empty for an unmarked image, and
0 for a marked one without lesion. A marked image without a mask file is one that was declared
negative while indexing; its mask is empty.
"""

import hashlib
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemaseg.cohorts.rows import Row, raise_problems, read_rows
from hemaseg.errors import CohortError
from hemaseg.files import csv_text, natural, write_text
from hemaseg.scans.images import read_mask, read_scan
from hemaseg.scans.scan import Scan, content_sha256

MODALITIES = ("CT", "MRI")
COLUMNS = (
    *("subject", "scan", "site", "modality", "slice", "image", "mask"),
    *("num_rows", "num_columns", "num_slices"),
    *("row_spacing_mm", "column_spacing_mm", "slice_spacing_mm"),
    *("lesion_pixels", "lesion_ml", "sha256"),
)
OPTIONAL = ("label",)
"""Columns that tables of earlier versions lack."""


@dataclass(frozen=True)
class CaseImage:
    """One image file with its reference mask: a slice of a stack of pictures, or a whole volume.

    Raises `CohortError` where its values cannot be right.

    Attributes:
        subject: The person.
        scan: One volume of the subject; the slices of one stack share it.
        site: Institution; empty if unknown.
        modality: `CT`, `MRI`, or empty if unknown.
        slice: Number of the slice in its stack; None for a volume or a picture without number.
        image: The file.
        mask: The file of the reference; None if unmarked or declared negative.
        num_rows: Size of the grid.
        num_columns: Size of the grid.
        num_slices: Size of the grid; 1 for a picture.
        spacing_mm: Distance of neighbouring slices, rows and columns; None if unknown.
        lesion_pixels: Number of lesion pixels or voxels; None if unmarked.
        lesion_ml: Lesion volume; NaN if unmarked or if the spacing is unknown.
        sha256: Hash of the image's decoded pixels.
        label: Which label of the mask file counts, if that is a map of labels; None if it is a
            mask of two values.
    """

    subject: str
    scan: str
    site: str
    modality: str
    slice: int | None
    image: Path
    mask: Path | None
    num_rows: int
    num_columns: int
    num_slices: int
    spacing_mm: tuple[float, float, float] | None
    lesion_pixels: int | None
    lesion_ml: float
    sha256: str
    label: int | None = None

    def __post_init__(self) -> None:
        if fault := _fault(self):
            raise CohortError(f"{self.image}: {fault}. Correct the table or the file's name.")

    @property
    def is_marked(self) -> bool:
        """True if there is a reference, be it a mask file or the declaration that it is empty."""
        return self.lesion_pixels is not None

    @property
    def has_lesion(self) -> bool:
        """True if there is a reference and it has a lesion."""
        return bool(self.lesion_pixels)

    @property
    def id(self) -> str:
        """Name of the image that does not depend on where it lies: subject/scan/slice."""
        number = "" if self.slice is None else str(self.slice)
        return f"{self.subject}/{self.scan}/{number}"


@dataclass(frozen=True)
class Cohort:
    """Images ordered by subject, scan and slice, with numbers in names in numeric order.

    Raises:
        CohortError: Two images have one id, a stack has slices of several sizes, or a subject has
            several sites.
    """

    images: tuple[CaseImage, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", tuple(sorted(self.images, key=_order)))
        raise_problems("cohort", conflicts(self.images), "Correct the names or leave files out.")

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """Names of the subjects in order."""
        return tuple(dict.fromkeys(image.subject for image in self.images))

    @cached_property
    def sha256(self) -> str:
        """Hash of the content: ids, pixels and lesion sizes, not order and places of the files."""
        rows = sorted(f"{image.id}\t{image.sha256}\t{image.lesion_pixels}" for image in self.images)
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()

    @property
    def modality(self) -> str:
        """`CT` or `MRI` if all images are; empty if they are mixed or one is unknown."""
        found = {image.modality for image in self.images}
        return found.pop() if len(found) == 1 else ""

    def select(self, subjects: Iterable[str]) -> "Cohort":
        """The images of some subjects.

        Raises:
            CohortError: A subject is not in the cohort.
        """
        wanted = set(subjects)
        _check_known("subjects", wanted, set(self.subjects))
        return Cohort(tuple(image for image in self.images if image.subject in wanted))

    def select_images(self, ids: Iterable[str]) -> "Cohort":
        """The images with some ids (`CaseImage.id`).

        Raises:
            CohortError: An id is not in the cohort.
        """
        wanted = set(ids)
        _check_known("images", wanted, {image.id for image in self.images})
        return Cohort(tuple(image for image in self.images if image.id in wanted))

    def marked(self) -> "Cohort":
        """The images that have a reference."""
        return Cohort(tuple(image for image in self.images if image.is_marked))


def conflicts(images: Iterable[CaseImage]) -> list[str]:
    """What is wrong between images that are each right: ids, sizes and sites; empty if nothing."""
    by_id, by_scan = defaultdict(list), defaultdict(list)
    sites: defaultdict[str, set[str]] = defaultdict(set)
    for image in images:
        by_id[image.id].append(image)
        by_scan[image.subject, image.scan].append(image)
        sites[image.subject].add(image.site)
    problems = [
        f"{', '.join(str(image.image) for image in same)}: {len(same)} files for the image "
        f"{name}, expected one for each subject, scan and slice number"
        for name, same in by_id.items()
        if len(same) > 1
    ]
    for (subject, scan), stack in by_scan.items():
        grids = [(image.num_slices, image.num_rows, image.num_columns) for image in stack]
        problems += [
            f"{image.image}: grid {grid}, expected {grids[0]} as {stack[0].image} of the same "
            f"subject {subject} and scan {scan}"
            for image, grid in zip(stack, grids, strict=True)
            if grid != grids[0]
        ]
    problems += [
        f"subject {subject}: sites {', '.join(sorted(found))}, expected one site"
        for subject, found in sites.items()
        if len(found) > 1
    ]
    return problems


def read_case(case: CaseImage) -> tuple[Scan, NDArray[np.bool_] | None]:
    """Image and reference mask, checked to be those that were indexed.

    Returns:
        The scan, and its (K, H, W) mask: None if unmarked, all False if declared negative.

    Raises:
        ScanError: A file cannot be read.
        CohortError: A file has changed since the cohort was indexed.
    """
    remedy = "The file has changed since it was indexed: index the folder again."
    scan = read_scan(case.image)
    if (found := content_sha256(scan)) != case.sha256:
        raise CohortError(f"{case.image}: hash {found}, expected {case.sha256}. {remedy}")
    if case.mask is None:
        return scan, np.zeros(scan.voxels.shape, dtype=np.bool_) if case.is_marked else None
    mask = read_mask(case.mask, label=case.label).voxels
    if mask.shape != scan.voxels.shape or int(mask.sum()) != case.lesion_pixels:
        raise CohortError(
            f"{case.mask}: {int(mask.sum())} lesion pixels on a grid {mask.shape}, expected "
            f"{case.lesion_pixels} on {scan.voxels.shape}. {remedy}"
        )
    return scan, mask


def write_cohort(cohort: Cohort, path: Path) -> None:
    """Write `cohort.csv`, with file names relative to its folder.

    Raises:
        OSError: The file cannot be written.
    """
    folder = path.absolute().parent
    write_text(
        path, csv_text(COLUMNS + OPTIONAL, (_fields(image, folder) for image in cohort.images))
    )


def _fields(image: CaseImage, folder: Path) -> dict[str, object]:
    """A row of `cohort.csv`."""
    slice_mm, row_mm, column_mm = image.spacing_mm or (None, None, None)
    mask = None if image.mask is None else _relative(image.mask, folder)
    values = (
        *(image.subject, image.scan, image.site, image.modality, image.slice),
        *(_relative(image.image, folder), mask),
        *(image.num_rows, image.num_columns, image.num_slices),
        *(row_mm, column_mm, slice_mm, image.lesion_pixels, image.lesion_ml, image.sha256),
        image.label,
    )
    return dict(zip(COLUMNS + OPTIONAL, values, strict=True))


def is_cohort(path: Path) -> bool:
    """Whether a CSV file names its columns as a cohort does, rightly or wrongly."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            columns = file.readline(2**12).strip().split(",")
    except (OSError, ValueError):
        return False
    return path.suffix.lower() == ".csv" and "image" in columns and len(columns) > len(COLUMNS) / 2


def read_cohort(path: Path) -> Cohort:
    """The cohort in `cohort.csv`; the image files must exist but are not opened.

    Raises:
        CohortError: The file is missing or empty, its columns are others, fields have wrong values
            (all are listed, with their rows), or image files are missing (all are listed).
    """
    images, problems = [], []
    for row in read_rows(path, required=COLUMNS, optional=OPTIONAL):
        try:
            images.append(_parsed(row))
        except CohortError as error:
            problems.append(f"row {row.number}: {error}")
    raise_problems(str(path), problems, "Correct the rows, or index the folder again.")
    files = [file for image in images for file in (image.image, image.mask) if file is not None]
    missing = [f"{file}: no such file" for file in files if not file.is_file()]
    raise_problems(str(path), missing, "Put the files back, or index the folder again.")
    return Cohort(tuple(images))


def _parsed(row: Row) -> CaseImage:
    """The image in a row of `cohort.csv`."""
    return CaseImage(
        subject=row.text("subject"),
        scan=row.text("scan"),
        site=row.text("site"),
        modality=row.text("modality"),
        slice=row.count("slice"),
        image=row.required_file("image"),
        mask=row.file("mask"),
        num_rows=row.count("num_rows") or 0,
        num_columns=row.count("num_columns") or 0,
        num_slices=row.count("num_slices") or 0,
        spacing_mm=row.spacing_mm(),
        lesion_pixels=row.count("lesion_pixels"),
        lesion_ml=row.decimal("lesion_ml"),
        sha256=row.text("sha256"),
        label=row.count("label"),
    )


def _fault(case: CaseImage) -> str:
    """What is wrong with a case, found against expected; empty if nothing."""
    for column in ("subject", "scan", "site"):
        name = getattr(case, column)
        if re.search(r"[/\\]", name) or not name.isprintable() or name != name.strip(" "):
            return f"{column} {name!r}, expected a name without slashes or outer blanks"
    if {case.subject, case.scan} & {"", ".", ".."}:
        return f"subject {case.subject!r}, scan {case.scan!r}, expected names"
    if case.modality not in ("", *MODALITIES):
        return f"modality {case.modality!r}, expected {', '.join(MODALITIES)} or nothing"
    grid = case.num_slices, case.num_rows, case.num_columns
    if min(grid) < 1:
        return f"{grid} slices, rows and columns, expected at least 1 each"
    if case.spacing_mm and not all(0 < edge < math.inf for edge in case.spacing_mm):
        return (
            f"slice, row and column spacing {case.spacing_mm}, expected 3 positive numbers or none"
        )
    if case.label == 0:
        return "label 0, expected 1 or more, or nothing; 0 is the background"
    if not re.fullmatch("[0-9a-f]{64}", case.sha256):
        return f"sha256 {case.sha256!r}, expected 64 hexadecimal digits"
    return _lesion_fault(case, math.prod(grid))


def _lesion_fault(case: CaseImage, num_pixels: int) -> str:
    if case.lesion_pixels is None and case.mask is not None:
        return f"lesion_pixels is empty, expected a number for mask {case.mask}"
    if case.mask is None and case.has_lesion:
        return f"lesion_pixels {case.lesion_pixels} without mask, expected 0 or nothing"
    if (case.lesion_pixels or 0) > num_pixels:
        return f"lesion_pixels {case.lesion_pixels}, expected at most {num_pixels}"
    if case.spacing_mm is None or case.lesion_pixels is None:
        is_defined = not math.isnan(case.lesion_ml)
        return f"lesion_ml {case.lesion_ml} without spacing or mask, expected nothing" * is_defined
    # Voxels of a sheared grid are smaller than the product of their edges, never larger.
    box_ml = case.lesion_pixels * math.prod(case.spacing_mm) / 1000
    if not 0 <= case.lesion_ml <= box_ml * (1 + 1e-6) or (case.lesion_ml == 0) != (box_ml == 0):
        return f"lesion_ml {case.lesion_ml}, expected {box_ml:g} by the spacing, less if sheared"
    return ""


def _order(image: CaseImage) -> tuple[object, ...]:
    number = -1 if image.slice is None else image.slice
    return natural(image.subject), natural(image.scan), number, str(image.image)


def _check_known(what: str, wanted: set[str], known: set[str]) -> None:
    if unknown := sorted(wanted - known, key=natural):
        shown = ", ".join(unknown[:5]) + ", ..." * (len(unknown) > 5)
        raise CohortError(
            f"cohort: {len(unknown)} {what} not in it ({shown}), expected some of its {len(known)} "
            f"{what}. Use the cohort that they were taken from."
        )


def _relative(file: Path, folder: Path) -> str:
    return Path(os.path.relpath(file.absolute(), folder)).as_posix()
