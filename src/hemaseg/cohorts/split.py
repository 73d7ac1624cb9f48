"""Training, validation and test parts of a cohort, by subject, and the file that keeps them.

Only marked images count: subjects without any are in no part. Subjects are put in order of site and
lesion size, at random within each stratum, and the parts are taken at even distances along that
order, so that each part has its share of every site and size. Strata of size are the subjects
without lesion and the terciles, by lesion pixels, of the others.
"""

import hashlib
import json
import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hemaseg.cohorts.table import Cohort
from hemaseg.config import SplitConfig
from hemaseg.errors import SplitError
from hemaseg.files import natural, write_text

Method = Literal["holdout", "folds", "site", "slices"]
Unit = Literal["subject", "slice"]

_SLICES_WARNING = (
    "Split by slices: slices of one subject lie in training and in test, so the scores are "
    "optimistic (Yagis et al. 2021, doi 10.1038/s41598-021-01681-w)."
)


@dataclass(frozen=True)
class Fold:
    """Names of what is trained on, validated on and tested on: subjects, or ids of slices."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """One or several folds of one cohort.

    Attributes:
        method: How the parts were drawn.
        unit: What the names in the folds are: of subjects, or ids of slices (`CaseImage.id`).
        seed: Of the random choices.
        cohort_sha256: Hash of the cohort that was split.
        folds: One fold, or k that test every subject once.
    """

    method: Method
    unit: Unit
    seed: int
    cohort_sha256: str
    folds: tuple[Fold, ...]

    @property
    def warning(self) -> str | None:
        """What every result from this split must say; None for splits by subject."""
        return _SLICES_WARNING if self.unit == "slice" else None

    @cached_property
    def sha256(self) -> str:
        """Hash of all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Parts:
    """The images of one fold. A subject's unmarked images come with it; see `Cohort.marked`."""

    train: Cohort
    validation: Cohort
    test: Cohort


def make_split(cohort: Cohort, config: SplitConfig) -> Split:
    """The split that a `[split]` section describes.

    Raises:
        SplitError: The cohort is too small for it, or has no such site.
    """
    validation, seed = config.validation_share, config.seed
    if config.method == "folds":
        return split_folds(cohort, num_folds=config.num_folds, validation=validation, seed=seed)
    if config.method == "site":
        return split_site(cohort, site=config.site, validation=validation, seed=seed)
    method = split_holdout if config.method == "holdout" else split_slices
    return method(cohort, validation=validation, test=config.test_share, seed=seed)


def split_holdout(
    cohort: Cohort, *, validation: float = 0.15, test: float = 0.15, seed: int
) -> Split:
    """One fold with a share of the subjects held out for test and one for validation.

    Args:
        cohort: What is split.
        validation: Share of the subjects, between 0 and 1; at least one subject.
        test: Share of the subjects, between 0 and 1; at least one subject.
        seed: Of the random order.

    Raises:
        SplitError: A share is not between 0 and 1, or a part would be empty.
    """
    rng = _generator(seed)
    subjects = _stratified(cohort, rng)
    num_test = _num_of(test, len(subjects), "test")
    num_validation = _num_of(validation, len(subjects), "validation")
    tested = _spread(subjects, num_test, rng)
    fold = _fold(subjects, tested, num_validation, rng)
    return Split("holdout", "subject", seed, cohort.sha256, (fold,))


def split_folds(cohort: Cohort, *, num_folds: int, validation: float = 0.15, seed: int) -> Split:
    """Folds that test every subject exactly once.

    Args:
        cohort: What is split.
        num_folds: From 2 to the number of subjects.
        validation: Share of each fold's subjects outside its test part; at least one subject.
        seed: Of the random order.

    Raises:
        SplitError: There are fewer subjects than folds, or a part would be empty.
    """
    rng = _generator(seed)
    subjects = _stratified(cohort, rng)
    if not 2 <= num_folds <= len(subjects):
        raise SplitError(
            f"cohort: {num_folds} folds, expected 2 to {len(subjects)}, the number of subjects "
            "with marked images. Choose another number of folds."
        )
    folds = []
    for first in range(num_folds):
        tested = subjects[first::num_folds]
        num_validation = _num_of(validation, len(subjects) - len(tested), "validation")
        folds.append(_fold(subjects, tested, num_validation, rng))
    return Split("folds", "subject", seed, cohort.sha256, tuple(folds))


def split_site(cohort: Cohort, *, site: str, validation: float = 0.15, seed: int) -> Split:
    """One fold that tests on all subjects of one site and trains on those of all others.

    Args:
        cohort: What is split.
        site: Name of the site, as in the cohort.
        validation: Share of the other sites' subjects; at least one subject.
        seed: Of the random order.

    Raises:
        SplitError: No marked subject is of that site, or a part would be empty.
    """
    rng = _generator(seed)
    subjects = _stratified(cohort, rng)
    sites = {image.subject: image.site for image in cohort.images}
    tested = [subject for subject in subjects if sites[subject] == site]
    if not tested or not site:
        known = sorted({sites[subject] for subject in subjects} - {""}, key=natural)
        raise SplitError(
            f"cohort: site {site!r} has 0 subjects, expected one of the sites "
            f"{', '.join(known) or '(none known)'}. Name one of them, or index with a site pattern."
        )
    num_validation = _num_of(validation, len(subjects) - len(tested), "validation")
    fold = _fold(subjects, tested, num_validation, rng)
    return Split("site", "subject", seed, cohort.sha256, (fold,))


def split_slices(
    cohort: Cohort, *, validation: float = 0.15, test: float = 0.15, seed: int
) -> Split:
    """One fold of single slices with lesion, whoever they are of: only to repeat published work.

    Slices of one subject lie on all sides; `Split.warning` says what that does.

    Args:
        cohort: What is split; its marked images are pictures.
        validation: Share of the slices with lesion, between 0 and 1.
        test: Share of the slices with lesion, between 0 and 1.
        seed: Of the random order.

    Raises:
        SplitError: The cohort has volumes, or a part would be empty.
    """
    rng = _generator(seed)
    slices = [image for image in cohort.images if image.has_lesion]
    if volumes := [image.id for image in slices if image.num_slices > 1]:
        raise SplitError(
            f"cohort: {len(volumes)} volumes ({', '.join(volumes[:3])}), expected single slices. "
            "Split by subject."
        )
    ids = [slices[index].id for index in rng.permutation(len(slices))]
    num_test = _num_of(test, len(ids), "test")
    num_validation = _num_of(validation, len(ids), "validation")
    parts = ids[num_test + num_validation :], ids[num_test:][:num_validation], ids[:num_test]
    fold = Fold(*(tuple(sorted(part, key=natural)) for part in parts))
    _check_not_empty(fold)
    return Split("slices", "slice", seed, cohort.sha256, (fold,))


def write_split(split: Split, path: Path) -> None:
    """Write `split.json`.

    Raises:
        OSError: The file cannot be written.
    """
    content = asdict(split) | {"warning": split.warning, "sha256": split.sha256}
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_split(path: Path) -> Split:
    """The split in `split.json`.

    Raises:
        SplitError: The file is missing, no split, or was changed after it was written.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        split = _parsed(content)
        stored = content["sha256"]
    except (OSError, UnicodeDecodeError) as error:
        raise SplitError(f"{path}: cannot be read ({error}). Check the name and folder.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SplitError(
            f"{path}: not a split ({type(error).__name__}: {error}), expected a file written by "
            "hemaseg. Split the cohort again."
        ) from error
    if stored != split.sha256:
        raise SplitError(
            f"{path}: hash {split.sha256}, expected {stored} as stored in it: it was edited. "
            "Split the cohort again."
        )
    return split


def parts(split: Split, cohort: Cohort, fold_index: int) -> Parts:
    """The images of one fold, after checks that the split is of this cohort and does not leak.

    Raises:
        SplitError: The cohort is another one, there is no such fold, or `check_leakage` fails.
    """
    if split.cohort_sha256 != cohort.sha256:
        raise SplitError(
            f"split: made for the cohort {split.cohort_sha256}, found {cohort.sha256}. "
            "Use that cohort, or split this one."
        )
    if not 0 <= fold_index < len(split.folds):
        raise SplitError(
            f"split: fold {fold_index}, expected 0 to {len(split.folds) - 1}. Choose one of these."
        )
    fold = split.folds[fold_index]
    check_leakage(fold, cohort, unit=split.unit)
    select = cohort.select if split.unit == "subject" else cohort.select_images
    return Parts(select(fold.train), select(fold.validation), select(fold.test))


def check_leakage(fold: Fold, cohort: Cohort, *, unit: Unit) -> None:
    """Check that nothing lies in two parts of a fold.

    That is: no subject (or slice, if that is the unit), and no pixels of an image with lesion, by
    their hash. Images without lesion may be equal, as the blank slices at the ends of stacks are.

    Raises:
        SplitError: Something does; it is named.
    """
    sides: defaultdict[str, set[str]] = defaultdict(set)
    for side, names in asdict(fold).items():
        for name in names:
            sides[name].add(side)
    _refuse_shared(sides, f"the {unit}")
    pixels: defaultdict[str, set[str]] = defaultdict(set)
    owners: defaultdict[str, list[str]] = defaultdict(list)
    for image in cohort.images:
        if image.has_lesion:
            pixels[image.sha256] |= sides[image.subject if unit == "subject" else image.id]
            owners[image.sha256].append(image.id)
    equal = {" = ".join(owners[sha256]): found for sha256, found in pixels.items()}
    _refuse_shared(equal, "equal pixels")


def _refuse_shared(sides: dict[str, set[str]], what: str) -> None:
    shared = [
        f"{name} in {' and '.join(sorted(found))}"
        for name, found in sides.items()
        if len(found) > 1
    ]
    if shared:
        more = f" and {len(shared) - 5} more" * (len(shared) > 5)
        raise SplitError(
            f"split: {what} {'; '.join(shared[:5])}{more}, expected each in one part. "
            "Split the cohort again, or leave duplicates out of it."
        )


def _generator(seed: int) -> np.random.Generator:
    if seed < 0:
        raise SplitError(f"split: seed {seed}, expected a whole number from 0 upward. Choose one.")
    return np.random.Generator(np.random.PCG64(seed))


def _stratified(cohort: Cohort, rng: np.random.Generator) -> list[str]:
    """Subjects with marked images, ordered by site and size, at random within each stratum."""
    sizes: defaultdict[str, int] = defaultdict(int)
    sites: dict[str, str] = {}
    for image in cohort.marked().images:
        sizes[image.subject] += image.lesion_pixels or 0
        sites[image.subject] = image.site
    with_lesion = sorted(
        (subject for subject in sizes if sizes[subject]),
        key=lambda subject: (sizes[subject], natural(subject)),
    )
    tercile = {
        subject: 1 + 3 * rank // len(with_lesion) for rank, subject in enumerate(with_lesion)
    }
    shuffled = [list(sizes)[index] for index in rng.permutation(len(sizes))]
    return sorted(shuffled, key=lambda name: (natural(sites[name]), tercile.get(name, 0)))


def _spread(names: list[str], count: int, rng: np.random.Generator) -> list[str]:
    """So many of the names, at even distances from a random start (systematic sampling)."""
    start, count = rng.random(), min(count, len(names))
    return [names[math.floor((index + start) * len(names) / count)] for index in range(count)]


def _fold(
    subjects: list[str], tested: list[str], num_validation: int, rng: np.random.Generator
) -> Fold:
    rest = [subject for subject in subjects if subject not in tested]
    validated = _spread(rest, num_validation, rng)
    trained = [subject for subject in rest if subject not in validated]
    fold = Fold(*(tuple(sorted(part, key=natural)) for part in (trained, validated, tested)))
    _check_not_empty(fold)
    return fold


def _num_of(share: float, total: int, part: str) -> int:
    """Nearest number to a share of the total, at least 1."""
    if not 0 < share < 1:
        raise SplitError(f"split: {part} share {share}, expected between 0 and 1. Choose another.")
    return max(1, math.floor(share * total + 0.5))


def _check_not_empty(fold: Fold) -> None:
    if not (fold.train and fold.validation and fold.test):
        raise SplitError(
            f"cohort: {len(fold.train)} for training, {len(fold.validation)} for validation, "
            f"{len(fold.test)} for test, expected at least 1 each. Choose smaller shares, or add "
            "marked subjects."
        )


def _parsed(content: Any) -> Split:
    expected = {"method", "unit", "seed", "cohort_sha256", "folds", "warning", "sha256"}
    if set(content) != expected:
        raise ValueError(f"keys {sorted(content)}, expected {sorted(expected)}")
    folds = tuple(
        Fold(tuple(fold["train"]), tuple(fold["validation"]), tuple(fold["test"]))
        for fold in content["folds"]
    )
    return Split(
        content["method"], content["unit"], content["seed"], content["cohort_sha256"], folds
    )
