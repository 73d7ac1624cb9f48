"""Which predicted mask file belongs to which reference: from names, or from a cohort.

Nothing is left out in silence: a prediction without reference, or a reference without prediction,
is an error that lists all of them.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hemaseg.cohorts.layouts import MASK_ENDINGS
from hemaseg.cohorts.patterns import compiled, subject_place
from hemaseg.cohorts.table import CaseImage, Cohort
from hemaseg.errors import EvaluationError
from hemaseg.evaluation.mask_files import is_mask_file
from hemaseg.files import natural
from hemaseg.prediction.paths import prediction_paths
from hemaseg.scans.images import stem
from hemaseg.scans.pictures import is_picture

MAX_LISTED = 50
"""So many problems are listed in an error; the others are counted."""

_MASK_ENDING = re.compile(f"_({'|'.join(MASK_ENDINGS)})$", re.IGNORECASE)


@dataclass(frozen=True)
class MaskPair:
    """The two mask files of one image: a slice of a stack of pictures, or a whole volume.

    Attributes:
        subject: The person.
        scan: One volume of the subject; the slices of one stack share it.
        slice: Number of the slice in its stack; None for a volume or a picture without number.
        prediction: The predicted mask.
        reference: The reference mask; None if the case declares it to be empty.
        case: The row of the cohort; None if the files were matched by name.
        label: Which label or segment of the prediction counts; None for masks of two values.
        reference_label: The same for the reference.
    """

    subject: str
    scan: str
    slice: int | None
    prediction: Path
    reference: Path | None
    case: CaseImage | None = None
    label: int | None = None
    reference_label: int | None = None


def match_folders(
    predictions: Path, references: Path, *, subject_pattern: str | None = None
) -> tuple[MaskPair, ...]:
    """Pairs of masks from two folders of PNG, TIFF, NIfTI or DICOM SEG files, in natural order.

    Files match if their paths inside the folders are equal without suffix and without a last
    `_mask`, `_seg` or `_label`; if one folder is flat, it is enough that their names are. Where
    some names end in one of these, the other images of that folder are taken for the images that
    the masks belong to and left aside. So are hidden files and files of other kinds, and of the two
    that `hemaseg predict` writes of one mask, `NAME_seg.dcm` beside `NAME_mask.nii.gz`. A DICOM SEG
    is known by its content, whatever its name.

    Subject and slice are read from the reference's path: `SUBJECT/NAME_12.png`, `SUBJECT/12.png`
    or `SUBJECT_12.png` for a slice, `SUBJECT/NAME.nii.gz` or `SUBJECT.nii.gz` for a volume,
    which a DICOM SEG is too.

    Args:
        predictions: Folder of predicted masks.
        references: Folder of reference masks.
        subject_pattern: Regular expression with one group: the subject in the reference's path,
            without its last `_mask`, `_seg` or `_label`.

    Raises:
        ConfigError: The pattern is not a regular expression with one group.
        EvaluationError: A folder is missing or has no masks, two files have one name, some file
            has no counterpart, or a name does not say which subject it is (all are listed).
    """
    predicted, expected = _mask_files(predictions), _mask_files(references)
    if predicted.keys() != expected.keys() and (_is_flat(predicted) or _is_flat(expected)):
        predicted, expected = _by_name(predicted, predictions), _by_name(expected, references)
    problems = [
        f"{path}: no prediction" for name, path in expected.items() if name not in predicted
    ] + [f"{path}: no reference" for name, path in predicted.items() if name not in expected]
    raise_problems(
        f"{predictions} against {references}",
        problems,
        f"{len(predicted)} predictions and {len(expected)} references, expected one for each with "
        "the same name. Predict what is missing, or move away what shall not be scored.",
    )
    find_subject = compiled(subject_pattern)
    pairs = _named_pairs(references, predicted, expected, find_subject)
    return tuple(sorted(pairs, key=_order))


def match_cohort(predictions: Path, cohort: Cohort) -> tuple[MaskPair, ...]:
    """Pairs of masks for the marked images of a cohort, in its order.

    The predictions lie where `prediction_path` says. The cohort decides what is scored: other
    files in the folder are not looked at.

    Raises:
        CohortError: Two images would share a prediction.
        EvaluationError: The folder is missing, the cohort has no marked image, or predictions are
            missing (all are listed).
    """
    _check_folder(predictions)
    images = [image for image in cohort.images if image.is_marked]
    if not images:
        raise EvaluationError(
            f"cohort: 0 of {len(cohort.images)} images have a reference mask, expected at least "
            "one. Index a folder with masks."
        )
    paths = prediction_paths(predictions, images)
    missing = [f"{path}: no such file" for path in paths if not path.is_file()]
    raise_problems(
        str(predictions),
        missing,
        f"{len(images) - len(missing)} predictions, expected {len(images)}, one for each image "
        "with a reference. Predict the whole cohort, or score the part that was predicted.",
    )
    return tuple(
        MaskPair(
            *(image.subject, image.scan, image.slice, path, image.mask, image),
            reference_label=image.label,
        )
        for image, path in zip(images, paths, strict=True)
    )


def raise_problems(what: str, problems: list[str], remedy: str) -> None:
    """Raise one `EvaluationError` that lists all problems, if there are any."""
    if not problems:
        return
    more = len(problems) - MAX_LISTED
    lines = problems[:MAX_LISTED] + ([f"and {more} more"] if more > 0 else [])
    raise EvaluationError("\n  ".join([f"{what}: {remedy}", *lines]))


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise EvaluationError(f"{folder}: found {found}, expected a folder of masks. Correct it.")


def _mask_files(folder: Path) -> dict[str, Path]:
    """Mask files by their path inside the folder, without suffix and without `_mask`."""
    _check_folder(folder)
    inside = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    # There `hemaseg predict --bids` keeps what has no name in BIDS, a DICOM SEG of each mask too.
    is_bids = (folder / "dataset_description.json").is_file()
    images = [
        path
        for path in inside
        if not any(part.startswith(".") for part in path.parts)
        and not (is_bids and path.parts[0] == "cases")
        and not _is_nifti_beside(folder / path)
        and is_mask_file(folder / path)
    ]
    masks = [path for path in images if _MASK_ENDING.search(stem(path))] or images
    if not masks:
        raise EvaluationError(
            f"{folder}: 0 masks among {len(inside)} files, expected PNG, TIFF, NIfTI or DICOM "
            "SEG files. Give the folder that holds them."
        )
    return _unique(((path.with_name(_bare_name(path)).as_posix(), path) for path in masks), folder)


def _is_nifti_beside(path: Path) -> bool:
    """Whether a file is a DICOM SEG whose mask `hemaseg predict` has written as NIfTI too."""
    name = path.name.removesuffix("_seg.dcm")
    return name != path.name and path.with_name(f"{name}_mask.nii.gz").is_file()


def _by_name(files: dict[str, Path], folder: Path) -> dict[str, Path]:
    """The same files by their names alone."""
    return _unique(
        ((_bare_name(path), path.relative_to(folder)) for path in files.values()), folder
    )


def _unique(named: Iterable[tuple[str, Path]], folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    problems = []
    for name, inside in named:
        if name in files:
            problems.append(f"{folder / inside}: same name as {files[name]}")
        files.setdefault(name, folder / inside)
    raise_problems(
        str(folder), problems, "expected one mask for each name. Keep one of them in the folder."
    )
    return files


def _is_flat(files: dict[str, Path]) -> bool:
    return not any("/" in name for name in files)


def _bare_name(path: Path) -> str:
    return _MASK_ENDING.sub("", stem(path))


def _named_pairs(
    references: Path,
    predicted: dict[str, Path],
    expected: dict[str, Path],
    find_subject: re.Pattern[str] | None,
) -> list[MaskPair]:
    homes: defaultdict[str, set[str]] = defaultdict(set)
    owners: dict[tuple[str, str, int | None], Path] = {}
    pairs, problems = [], []
    for name, path in expected.items():
        inside = path.relative_to(references)
        key = (inside.parent / _bare_name(inside)).as_posix()
        whole = key + inside.name.removeprefix(stem(inside))
        place = subject_place(key, whole, is_stack=is_picture(inside), find_subject=find_subject)
        subject, scan, number = place.subject, place.scan, place.slice
        pairs.append(MaskPair(subject, scan, number, predicted[name], path))
        if not find_subject:
            homes[subject].add(str(path.parent))
        owner = owners.setdefault((subject, scan, number), path)
        if not subject:
            problems.append(f"{path}: no subject in its name")
        elif owner != path:
            problems.append(f"{path}: slice {number} of subject {subject}, as {owner}")
    problems += [
        f"subject {subject}: masks in {len(places)} folders ({', '.join(sorted(places)[:3])})"
        for subject, places in homes.items()
        if len(places) > 1
    ]
    raise_problems(
        str(references),
        problems,
        "expected SUBJECT_SLICE.png, SUBJECT.nii.gz, or one folder per subject. Rename the files, "
        "or index the scans and score against the cohort table.",
    )
    return pairs


def _order(pair: MaskPair) -> tuple[object, ...]:
    number = -1 if pair.slice is None else pair.slice
    return natural(pair.subject), natural(pair.scan), number
