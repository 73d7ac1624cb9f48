"""Two sets of mask files to tables of scores: per subject, per slice, and per batch of slices.

The subject is the unit of analysis: all slices and scans of a person make one row. Definitions and
empty cases are in `docs/metrics.md`.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from hemaseg.cohorts.table import Cohort
from hemaseg.errors import EvaluationError, ScanError
from hemaseg.evaluation.grids import MAX_VOXELS, by, check_shape, on_one_grid
from hemaseg.evaluation.mask_files import read_mask_file
from hemaseg.evaluation.matching import MaskPair, match_cohort, match_folders, raise_problems
from hemaseg.evaluation.tables import (
    BATCH_COLUMNS,
    SLICE_COLUMNS,
    SUBJECT_COLUMNS,
    Scores,
    score_table,
)
from hemaseg.metrics.lesions import LesionCounts, lesion_counts
from hemaseg.metrics.overlap import OverlapCounts, overlap_counts
from hemaseg.metrics.surfaces import (
    SurfaceDistances,
    assd_mm,
    hd95_mm,
    surface_dice,
    surface_distances,
)
from hemaseg.scans.scan import slice_shares
from hemaseg.scans.screening import ReadOptions

Progress = Callable[[int, int], None]

TOLERANCE_MM = 2.0
BATCH_SIZE = 8
# What a DICOM SEG leaves out, the other mask can say; `on_one_grid` refuses it where not.
_OPTIONS = ReadOptions(accept=frozenset({"missing-slices"}))


@dataclass(frozen=True, eq=False)
class _Masks:
    """The two masks of one pair, (K, H, W), and the step in mm along each axis, None if unknown.

    `coordinates` are the places of unevenly spaced slices in such steps.
    """

    pair: MaskPair
    prediction: np.ndarray
    reference: np.ndarray
    steps_mm: np.ndarray | None
    coordinates: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class _ScanScore:
    """What is counted in one scan; `surfaces` is None and mL are NaN without spacing."""

    numbers: list[int | None]
    slices: list[OverlapCounts]
    surfaces: SurfaceDistances | None
    lesions: LesionCounts
    prediction_ml: float
    reference_ml: float

    @property
    def overlap(self) -> OverlapCounts:
        return sum(self.slices, OverlapCounts())


def evaluate(
    predictions: Path,
    references: Path,
    *,
    subject_pattern: str | None = None,
    label: int | None = None,
    reference_label: int | None = None,
    tolerance_mm: float = TOLERANCE_MM,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Scores:
    """Scores of the masks in one folder against those in another, made by any tool.

    Args:
        predictions: Folder of predicted masks.
        references: Folder of reference masks; see `matching.match_folders` for the names.
        subject_pattern: Regular expression with one group: the subject in the reference's path.
        label: Which label of maps of labels, or segment of DICOM SEG, counts in both folders; None
            for masks of two values or one segment.
        reference_label: The same for the references, if it is another than for the predictions,
            which then are masks without `label`.
        tolerance_mm: Tolerance of the surface Dice.
        batch_size: Number of slices with a lesion in a batch.
        progress: Called with the numbers of files done and in total.

    Raises:
        ConfigError: The pattern is not a regular expression with one group.
        EvaluationError: Files do not match, cannot be read, or lie on different grids (all such
            files are listed); or one of the folders has the label nowhere.
        ValueError: Tolerance, batch size or label is out of range.
    """
    labels = label, label if reference_label is None else reference_label
    _check_labels(*labels)
    matched = match_folders(predictions, references, subject_pattern=subject_pattern)
    pairs = tuple(replace(pair, label=labels[0], reference_label=labels[1]) for pair in matched)
    scores = _scores(pairs, tolerance_mm, batch_size, progress)
    _check_found(scores, "prediction", predictions, labels[0])
    _check_found(scores, "reference", references, labels[1])
    return scores


def evaluate_cohort(
    predictions: Path,
    cohort: Cohort,
    *,
    label: int | None = None,
    tolerance_mm: float = TOLERANCE_MM,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Scores:
    """Scores of predicted masks against the references of a cohort; unmarked images are left out.

    Args:
        predictions: Folder of predicted masks, named as `prediction_path` says.
        cohort: Table of cases, whose spacing is used where the mask files have none, and which says
            the label of each reference.
        label: Which label of predictions that are maps of labels counts; None for masks.
        tolerance_mm: Tolerance of the surface Dice.
        batch_size: Number of slices with a lesion in a batch.
        progress: Called with the numbers of files done and in total.

    Raises:
        CohortError: Two images would share a prediction.
        EvaluationError: Predictions are missing, files cannot be read, lie on different grids, or
            changed since the cohort was indexed (all such files are listed); or no prediction has
            the label.
        ValueError: Tolerance, batch size or label is out of range.
    """
    _check_labels(label)
    pairs = tuple(replace(pair, label=label) for pair in match_cohort(predictions, cohort))
    scores = _scores(pairs, tolerance_mm, batch_size, progress)
    _check_found(scores, "prediction", predictions, label)
    return scores


def _check_labels(*labels: int | None) -> None:
    for number in labels:
        if number is not None and number < 1:
            raise ValueError(f"label is {number}, expected 1 or more; 0 is the background")


def _check_found(scores: Scores, side: str, folder: Path, label: int | None) -> None:
    """Refuse a label that is nowhere."""
    if label is not None and not scores.slices[f"{side}_pixels"].any():
        raise EvaluationError(
            f"{folder}: label {label} in no mask, expected it in some. Check its number; "
            "--reference-label gives references in a folder one of their own."
        )


def _scores(
    pairs: tuple[MaskPair, ...], tolerance_mm: float, batch_size: int, progress: Progress | None
) -> Scores:
    """Scores of matched files, those of one subject and of one scan next to each other."""
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise ValueError(f"tolerance_mm is {tolerance_mm}, expected 0 or more; give it in mm")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more; the paper has 8")
    num_done = 0
    subjects, slices, problems = [], [], []
    for subject, own in groupby(pairs, key=lambda pair: pair.subject):
        site, scans = "", []
        for scan, stack in groupby(own, key=lambda pair: pair.scan):
            files = list(stack)
            site = files[0].case.site if files[0].case else ""
            try:
                scans.append(_scan_score(_read(files)))
                slices += _slice_rows(subject, scan, scans[-1])
            except EvaluationError as error:
                problems += str(error).splitlines()
            num_done += len(files)
            if progress:
                progress(num_done, len(pairs))
        if not problems:
            subjects.append(_subject_row(subject, site, scans, tolerance_mm))
    raise_problems("masks", problems, "cannot be scored. Correct the files, then score again.")
    by_slice = score_table(slices, SLICE_COLUMNS)
    return Scores(
        subjects=score_table(subjects, SUBJECT_COLUMNS),
        slices=by_slice,
        batches=_batch_scores(by_slice, batch_size),
    )


def _read(files: Iterable[MaskPair]) -> list[_Masks]:
    """The masks of one scan; an error has a line for each file that is wrong."""
    masks, problems = [], []
    for pair in files:
        try:
            masks.append(_read_pair(pair))
        except (EvaluationError, ScanError) as error:
            problems.append(str(error))
    if problems:
        raise EvaluationError("\n".join(problems))
    return masks


def _read_pair(pair: MaskPair) -> _Masks:
    predicted, case = read_mask_file(pair.prediction, _OPTIONS, label=pair.label), pair.case
    if case is not None:
        shape = case.num_slices, case.num_rows, case.num_columns
        check_shape(predicted, shape, str(pair.reference or "in the cohort table"))
    if pair.reference is None:
        reference = np.zeros_like(predicted.voxels)
        affine, coordinates = predicted.affine, predicted.slice_coordinates
    else:
        scan = read_mask_file(pair.reference, _OPTIONS, label=pair.reference_label)
        predicted, scan = on_one_grid(predicted, scan)
        reference, coordinates = scan.voxels, scan.slice_coordinates
        affine = predicted.affine if scan.affine is None else scan.affine
    num_pixels = int(np.count_nonzero(reference))
    if case is not None and num_pixels != case.lesion_pixels:
        raise EvaluationError(
            f"{pair.reference}: {num_pixels} lesion pixels, expected {case.lesion_pixels} as in "
            "the cohort table. It has changed since it was indexed: index the folder again."
        )
    if affine is not None:
        return _Masks(pair, predicted.voxels, reference, affine[:3, :3], coordinates)
    spacing_mm = None if case is None else case.spacing_mm
    steps_mm = None if spacing_mm is None else np.diag(spacing_mm)
    return _Masks(pair, predicted.voxels, reference, steps_mm)


def _scan_score(masks: list[_Masks]) -> _ScanScore:
    """Counts of one scan: of a volume, or of a stack put together from its slices."""
    first = masks[0]
    if len(masks) > 1:
        numbers = _stack_numbers(masks)
        places = [number - numbers[0] for number in numbers]
    else:
        places = list(range(len(first.prediction)))
        numbers = places
    shape = (places[-1] + 1, *first.prediction.shape[1:])
    if math.prod(shape) > MAX_VOXELS:
        raise EvaluationError(
            f"{first.pair.prediction}: slices {numbers[0]} to {numbers[-1]} of scan "
            f"{first.pair.scan} make a grid {by(shape)}, expected at most {MAX_VOXELS:,} voxels. "
            "Correct the slice numbers in the names."
        )
    # Slices without a reference stay empty, so that lesions do not join across the gap.
    prediction, reference = np.zeros((2, *shape), dtype=np.bool_)
    prediction[places] = np.concatenate([mask.prediction for mask in masks])
    reference[places] = np.concatenate([mask.reference for mask in masks])
    surfaces, voxel_ml = None, math.nan
    if first.steps_mm is not None:
        surfaces = _surfaces(prediction, reference, first.steps_mm, first.coordinates)
        voxel_ml = float(abs(np.linalg.det(first.steps_mm))) / 1000
    slices = [overlap_counts(prediction[place], reference[place]) for place in places]
    shares = slice_shares(first.coordinates, len(slices))
    return _ScanScore(
        numbers=[first.pair.slice] if len(places) == 1 else list(numbers),
        slices=slices,
        surfaces=surfaces,
        lesions=lesion_counts(prediction, reference),
        prediction_ml=float(shares @ [one.prediction_size for one in slices]) * voxel_ml,
        reference_ml=float(shares @ [one.reference_size for one in slices]) * voxel_ml,
    )


def _stack_numbers(masks: list[_Masks]) -> list[int]:
    """Numbers of the slices of a stack, all on the grid of the first."""
    first = masks[0]
    shape = (1, *first.prediction.shape[1:])
    numbers, problems = [], []
    for mask in masks:
        name, as_first = mask.pair.prediction, f"as {first.pair.prediction} of the same scan"
        if mask.prediction.shape != shape:
            problems.append(
                f"{name}: grid {by(mask.prediction.shape)}, expected {by(shape)} {as_first}. "
                "Put files of other sizes into a folder of their own."
            )
        if not _is_same(mask.steps_mm, first.steps_mm):
            problems.append(
                f"{name}: steps {_shown(mask.steps_mm)} mm along the axes, expected "
                f"{_shown(first.steps_mm)} {as_first}. Correct the spacing."
            )
        if mask.pair.slice is None:
            problems.append(f"{name}: no slice number, expected one in a scan of several files.")
        else:
            numbers.append(mask.pair.slice)
    if problems:
        raise EvaluationError("\n".join(problems))
    return numbers


def _surfaces(
    prediction: np.ndarray,
    reference: np.ndarray,
    steps_mm: np.ndarray,
    coordinates: np.ndarray | None,
) -> SurfaceDistances:
    if len(prediction) == 1:  # In 3-D, all voxels of a single slice would be border.
        return surface_distances(prediction[0], reference[0], spacing_mm=steps_mm[:, 1:])
    return surface_distances(
        prediction, reference, spacing_mm=steps_mm, slice_coordinates=coordinates
    )


def _overlap_columns(counts: OverlapCounts) -> dict[str, object]:
    return {
        "dice": counts.dice,
        "iou": counts.iou,
        "sensitivity": counts.sensitivity,
        "precision": counts.precision,
        "prediction_pixels": counts.prediction_size,
        "reference_pixels": counts.reference_size,
    }


def _surface_columns(distances: SurfaceDistances | None, tolerance_mm: float) -> dict[str, float]:
    if distances is None:
        return dict.fromkeys(("hd95_mm", "assd_mm", "surface_dice"), math.nan)
    return {
        "hd95_mm": hd95_mm(distances),
        "assd_mm": assd_mm(distances),
        "surface_dice": surface_dice(distances, tolerance_mm=tolerance_mm),
    }


def _slice_rows(subject: str, scan: str, score: _ScanScore) -> list[dict[str, object]]:
    return [
        {
            "subject": subject,
            "scan": scan,
            "slice": number,
            "overlap_pixels": counts.true_positives,
            "has_lesion": counts.reference_size > 0,
            "false_alarm": counts.reference_size == 0 < counts.prediction_size,
            **_overlap_columns(counts),
        }
        for number, counts in zip(score.numbers, score.slices, strict=True)
    ]


def _subject_row(
    subject: str, site: str, scans: list[_ScanScore], tolerance_mm: float
) -> dict[str, object]:
    """Row of a subject: its scans pooled, as if they were one, but for volumes, which are means.

    A sum would be a volume that no scan has, and errors of scans would cancel in it.
    """
    overlap = sum((scan.overlap for scan in scans), OverlapCounts())
    surfaces = [scan.surfaces for scan in scans if scan.surfaces is not None]
    distances = sum(surfaces[1:], surfaces[0]) if len(surfaces) == len(scans) else None
    lesions = sum((scan.lesions for scan in scans[1:]), scans[0].lesions)
    predictions_ml = np.array([scan.prediction_ml for scan in scans])
    references_ml = np.array([scan.reference_ml for scan in scans])
    errors_ml = predictions_ml - references_ml
    without_lesion = [
        counts for scan in scans for counts in scan.slices if counts.reference_size == 0
    ]
    return {
        "subject": subject,
        "site": site,
        "num_slices": sum(len(scan.slices) for scan in scans),
        **_overlap_columns(overlap),
        **_surface_columns(distances, tolerance_mm),
        "surface_tolerance_mm": tolerance_mm,
        "prediction_ml": predictions_ml.mean(),
        "reference_ml": references_ml.mean(),
        "volume_error_ml": errors_ml.mean(),
        "absolute_volume_error_ml": np.abs(errors_ml).mean(),
        "num_reference_lesions": lesions.num_reference_lesions,
        "num_detected_lesions": lesions.num_detected_lesions,
        "num_predicted_lesions": lesions.num_predicted_lesions,
        "num_false_lesions": lesions.num_false_lesions,
        "num_slices_without_lesion": len(without_lesion),
        "num_false_alarm_slices": sum(counts.prediction_size > 0 for counts in without_lesion),
    }


def _batch_scores(slices: pd.DataFrame, batch_size: int) -> pd.DataFrame:
    """Scores of batches as the paper has them: only slices with a lesion, in their order."""
    with_lesion = slices[slices["has_lesion"]]
    rows: list[dict[str, object]] = []
    for start in range(0, len(with_lesion), batch_size):
        batch = with_lesion.iloc[start : start + batch_size]
        sizes = batch["prediction_pixels"].sum() + batch["reference_pixels"].sum()
        rows.append(
            {
                "batch": len(rows) + 1,
                "num_slices": len(batch),
                "dice": batch["dice"].mean(),
                "pooled_dice": 2 * batch["overlap_pixels"].sum() / sizes,
            }
        )
    return score_table(rows, BATCH_COLUMNS)


def _is_same(steps_mm: np.ndarray | None, other: np.ndarray | None) -> bool:
    if steps_mm is None or other is None:
        return steps_mm is other
    return bool(np.allclose(steps_mm, other, rtol=1e-3, atol=1e-6))


def _shown(steps_mm: np.ndarray | None) -> str:
    if steps_mm is None:
        return "unknown"
    return " x ".join(f"{step:.4g}" for step in np.linalg.norm(steps_mm, axis=0))
