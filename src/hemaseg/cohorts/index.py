"""From a folder, or a CSV file, of images and masks to a checked cohort.

Every file is read, and all that is wrong is reported at once. What is understood and what is
refused is in `docs/cohorts.md`.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hemaseg.cohorts.layouts import find_layout, modality_of, place_of
from hemaseg.cohorts.patterns import compiled, searched, subject_place
from hemaseg.cohorts.rows import Row, raise_problems, read_rows
from hemaseg.cohorts.table import MODALITIES, CaseImage, Cohort, conflicts
from hemaseg.errors import CohortError, ConfigError, ScanError
from hemaseg.scans.images import read_scan, stem
from hemaseg.scans.mask_size import oversize
from hemaseg.scans.nifti import is_nifti
from hemaseg.scans.scan import GRID_TOLERANCE, Scan, content_sha256, corners_apart, mask_of_label

Progress = Callable[[int, int], None]
"""Called with the numbers of images done and to do."""

_TCGA = re.compile("TCGA[-_]([A-Z0-9]{2})[-_]")


@dataclass(frozen=True)
class _Found:
    """An image file and what names and tables say of it, before it is read."""

    image: Path
    mask: Path | None
    subject: str
    scan: str
    slice: int | None
    site: str
    modality: str
    spacing_mm: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class _Read:
    """An image that was read, with what only comparing files can judge."""

    case: CaseImage
    is_constant: bool
    mask_value: float | None


def index_folder(
    folder: Path,
    *,
    masks: str | None = None,
    site_pattern: str | None = None,
    subject_pattern: str | None = None,
    modality: str | None = None,
    label: int | None = None,
    unmarked_as_negative: bool = False,
    progress: Progress | None = None,
) -> Cohort:
    r"""The cohort in a folder of images and masks.

    Args:
        folder: In one of the layouts of `docs/cohorts.md`. Hidden files are ignored.
        masks: Which masks, where there are several kinds: a folder, or an ending of names.
        site_pattern: Regular expression with one group, found in the subject's name or else in
            the image's path within `folder`, such as `^([A-Z]+)-`. Without it only the names of
            TCGA subjects give a site.
        subject_pattern: Regular expression with one group, found in the image's path within
            `folder`, such as `(P\d+)`; a `/` in it becomes `_`. Without it the layout gives the
            subject.
        modality: `CT` or `MRI`. Without it names such as `sub-01_FLAIR` may give it.
        label: Which label counts in mask files that are maps of labels; the cohort keeps it.
        unmarked_as_negative: Whether images without mask file are known to be without lesion.
        progress: Called after each image.

    Raises:
        ConfigError: A pattern is not a regular expression with one group; unknown modality.
        CohortError: There is no such folder, no known layout, no mask, or more than one kind of
            mask to choose from; or files are wrong, which are listed all.
    """
    if modality not in (None, *MODALITIES):
        raise ConfigError(f"modality {modality!r}, expected {' or '.join(MODALITIES)}. Correct it.")
    find_site, find_subject = compiled(site_pattern), compiled(subject_pattern)
    layout = find_layout(folder, masks=masks, one_class=label is None)
    problems = list(layout.problems)
    found: list[_Found] = []
    homes: defaultdict[str, set[str]] = defaultdict(set)
    for pair in layout.pairs:
        path = pair.image.relative_to(folder).as_posix()
        is_stack = not is_nifti(pair.image)
        place = subject_place(pair.key, path, is_stack=is_stack, find_subject=find_subject)
        subject = place.subject
        if subject and not find_subject:
            homes[subject].add(place.folder)
        site = searched(find_site, subject, path) if find_site else _tcga_site(subject)
        if not subject or (find_site and not site):
            what = "site" if subject else "subject"
            problems.append(f"{pair.image}: no {what} in {path}, expected a name. Give a pattern")
            continue
        kind = modality or layout.modality or modality_of(pair.key)
        found.append(_Found(pair.image, pair.mask, subject, place.scan, place.slice, site, kind))
    problems += [
        f"subject {subject}: {len(places)} folders of that name ({', '.join(sorted(places)[:3])}), "
        "expected one. Give a subject pattern, which may take in several folders: '(site./[0-9]+)'"
        for subject, places in homes.items()
        if len(places) > 1
    ]
    return _read_all(str(folder), found, problems, label, unmarked_as_negative, progress)


def index_table(
    table: Path,
    *,
    label: int | None = None,
    unmarked_as_negative: bool = False,
    progress: Progress | None = None,
) -> Cohort:
    """The cohort of the images listed in a CSV file.

    Args:
        table: With a column `image` and, at will, `mask` (empty if unmarked), `subject`, `scan`,
            `site`, `modality`, and for pictures `slice`, `row_spacing_mm`, `column_spacing_mm`
            and `slice_spacing_mm`. Files are relative to the table's folder. Where `subject`,
            `scan` or `slice` is empty, the file's name gives it.
        label: As for `index_folder`.
        unmarked_as_negative: Whether images without mask are known to be without lesion.
        progress: Called after each image.

    Raises:
        CohortError: The table or files are wrong, which are listed all.
    """
    optional = (
        *("mask", "subject", "scan", "site", "modality", "slice"),
        *("row_spacing_mm", "column_spacing_mm", "slice_spacing_mm"),
    )
    found, problems = [], []
    for row in read_rows(table, required=("image",), optional=optional):
        try:
            found.append(_listed(row))
        except CohortError as error:
            problems.append(f"row {row.number}: {error}")
    return _read_all(str(table), found, problems, label, unmarked_as_negative, progress)


def _listed(row: Row) -> _Found:
    image = row.required_file("image")
    place = place_of(stem(image), is_stack=not is_nifti(image))
    subject = row.text("subject") or place.subject
    number, spacing_mm = row.count("slice"), row.spacing_mm()
    if is_nifti(image) and (spacing_mm or number is not None):
        raise CohortError(f"{image}: slice or spacing given, expected none: the volume knows them")
    return _Found(
        image=image,
        mask=row.file("mask"),
        subject=subject,
        scan=row.text("scan") or place.scan or subject,
        slice=place.slice if number is None else number,
        site=row.text("site") or _tcga_site(subject),
        modality=row.text("modality"),
        spacing_mm=spacing_mm,
    )


def _tcga_site(subject: str) -> str:
    """Tissue source site in the barcode of a TCGA subject; empty for other subjects."""
    match = _TCGA.match(subject)
    return match[1] if match else ""


def _read_all(
    what: str,
    found: list[_Found],
    problems: list[str],
    label: int | None,
    unmarked_as_negative: bool,
    progress: Progress | None,
) -> Cohort:
    """Read every file, and raise all that is wrong with files or between them."""
    read = []
    for number, item in enumerate(found, 1):
        try:
            read.append(_read(item, label, unmarked_as_negative))
        except (ScanError, CohortError) as error:
            problems.append(str(error))
        if progress is not None:
            progress(number, len(found))
    problems += [*conflicts(item.case for item in read), *_copies(read), *_classes(read)]
    if label is not None and read and not any(item.case.has_lesion for item in read):
        problems.append(
            f"label {label} in none of the masks, expected it in some. Check its number"
        )
    raise_problems(what, problems, "Correct these, or leave the files out, and index again.")
    return Cohort(tuple(item.case for item in read))


def _read(found: _Found, label: int | None, unmarked_as_negative: bool) -> _Read:
    scan = read_scan(found.image)
    if scan.affine is None and (num_pages := len(scan.voxels)) > 1:
        raise CohortError(
            f"{found.image}: {num_pages} pages, expected 1 picture for each row of a cohort. "
            "Save each slice as a file of its own"
        )
    spacing_mm, voxel_ml = scan.spacing_mm, float(scan.voxel_ml[0])
    if spacing_mm is None and found.spacing_mm is not None:
        spacing_mm, voxel_ml = found.spacing_mm, math.prod(found.spacing_mm) / 1000
    lesion_pixels, mask_value = (0 if unmarked_as_negative else None), None
    if found.mask is not None:
        lesion_pixels, mask_value = _lesion(scan, found.mask, label)
    is_measured = spacing_mm is not None and lesion_pixels is not None
    num_slices, num_rows, num_columns = scan.voxels.shape
    case = CaseImage(
        subject=found.subject,
        scan=found.scan,
        site=found.site,
        modality=found.modality,
        slice=found.slice,
        image=found.image.absolute(),
        mask=None if found.mask is None else found.mask.absolute(),
        num_rows=num_rows,
        num_columns=num_columns,
        num_slices=num_slices,
        spacing_mm=spacing_mm,
        lesion_pixels=lesion_pixels,
        lesion_ml=(lesion_pixels or 0) * voxel_ml if is_measured else math.nan,
        sha256=content_sha256(scan),
        label=None if found.mask is None else label,
    )
    return _Read(case, bool(scan.voxels.min() == scan.voxels.max()), mask_value)


def _lesion(scan: Scan, file: Path, label: int | None) -> tuple[int, float | None]:
    """Number of lesion pixels in a mask, and the value that marks them; None if it is empty."""
    stored = read_scan(file)
    mask = mask_of_label(stored, label).voxels
    if mask.shape != scan.voxels.shape or (stored.affine is None) != (scan.affine is None):
        raise CohortError(
            f"{file}: mask grid {_grid(stored)}, expected {_grid(scan)} as {scan.path}. "
            "Resample the mask onto the image"
        )
    if scan.affine is not None and stored.affine is not None:
        distance = corners_apart(scan.affine, stored.affine, mask.shape)
        if distance > GRID_TOLERANCE:
            raise CohortError(
                f"{file}: mask lies {distance:.3g} voxels off the image {scan.path}, expected at "
                f"most {GRID_TOLERANCE}. Resample the mask onto the image"
            )
    if mask.all():
        raise CohortError(
            f"{file}: all {mask.size} pixels are lesion, expected some background. Correct the mask"
        )
    num_pixels = int(mask.sum())
    reasons = oversize(num_pixels, mask.size, num_pixels * float(scan.voxel_ml[0]))
    if len(reasons) == 2:
        raise CohortError(
            f"{file}: {' and '.join(reasons)} are lesion, expected less of both. The mask looks "
            "inverted: save it with lesion other than 0 and background 0"
        )
    return num_pixels, round(float(stored.voxels[mask][0]), 2) if num_pixels else None


def _grid(scan: Scan) -> str:
    """Size of a scan in words: slices x rows x columns."""
    size = "x".join(map(str, scan.voxels.shape))
    return size if scan.affine is not None else f"{size} (without geometry)"


def _copies(read: Iterable[_Read]) -> list[str]:
    """Images with the same pixels under two subjects. Blank slices are alike in everybody."""
    first: dict[str, CaseImage] = {}
    problems = []
    for item in read:
        case = item.case
        other = first.setdefault(case.sha256, case)
        if other.subject != case.subject and not item.is_constant:
            problems.append(
                f"{case.image}: the same pixels as {other.image}, expected other pixels of subject "
                f"{case.subject} than of {other.subject}. Correct the names, or leave one out"
            )
    return problems


def _classes(read: Iterable[_Read]) -> list[str]:
    """Masks that mark with another value than the first: probably another class of lesion."""
    marking = [item for item in read if item.mask_value is not None]
    return [
        f"{item.case.mask}: marks with the value {item.mask_value:g}, expected "
        f"{marking[0].mask_value:g} as {marking[0].case.mask}. Save masks of one class, all alike"
        for item in marking
        if item.mask_value != marking[0].mask_value
    ]
