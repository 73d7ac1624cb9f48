"""The tables of scores as CSV files and back, and what they say in short.

Columns are described in `docs/metrics.md`. An empty field means undefined, `inf` infinite.
"""

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd

from hemaseg.errors import EvaluationError
from hemaseg.files import write_text
from hemaseg.metrics.surfaces import percentile

OVERLAPS = ("dice", "iou", "sensitivity", "precision")
LESION_METRICS = (*OVERLAPS, "hd95_mm", "assd_mm", "surface_dice")
"""Metrics of how well a lesion was found: subjects without a lesion have none."""

SUBJECT_COLUMNS = (
    *("subject", "site", "num_slices"),
    *LESION_METRICS,
    "surface_tolerance_mm",
    *("prediction_ml", "reference_ml", "volume_error_ml", "absolute_volume_error_ml"),
    *("prediction_pixels", "reference_pixels"),
    *("num_reference_lesions", "num_detected_lesions"),
    *("num_predicted_lesions", "num_false_lesions"),
    *("num_slices_without_lesion", "num_false_alarm_slices"),
)
SLICE_COLUMNS = (
    *("subject", "scan", "slice"),
    *OVERLAPS,
    *("prediction_pixels", "reference_pixels", "overlap_pixels"),
    *("has_lesion", "false_alarm"),
)
BATCH_COLUMNS = ("batch", "num_slices", "dice", "pooled_dice")
SUMMARY_COLUMNS = (
    *("unit", "metric", "num", "num_undefined"),
    *("mean", "sd", "median", "q1", "q3"),
)
VOLUMES = ("prediction_ml", "reference_ml", "volume_error_ml", "absolute_volume_error_ml")
EMPTY_MASK_RULES = (
    "Empty masks: Dice, IoU and surface Dice are undefined if both masks are empty and 0 if one "
    "is; distances undefined if both, infinite if one; sensitivity is undefined without reference, "
    "precision without prediction. Undefined values are counted, never taken for 0 or 1."
)

_FRACTIONS = (*OVERLAPS, "surface_dice", "pooled_dice")
_TEXTS = ("subject", "site", "scan")
_STATEMENTS = ("has_lesion", "false_alarm")
_NEW = ("surface_tolerance_mm",)  # tables of earlier versions lack it: then undefined


@dataclass(frozen=True, eq=False)
class Scores:
    """The three tables of scores.

    Attributes:
        subjects: `SUBJECT_COLUMNS`, one row per subject.
        slices: `SLICE_COLUMNS`, one row per slice, in the order of subjects, scans and slices.
        batches: `BATCH_COLUMNS`, one row per batch of consecutive slices with a lesion.
    """

    subjects: pd.DataFrame
    slices: pd.DataFrame
    batches: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Summary:
    """What the tables of scores say in short.

    Attributes:
        metrics: `SUMMARY_COLUMNS`, one row per unit (`subject with lesion`, for volumes `subject`,
            `slice with lesion`, `batch`) and metric. `num` values are defined and `num_undefined`
            are not; the rest describes the defined ones. The mean is infinite as soon as one value
            is, and the SD then undefined. Subjects and slices without lesion have a score only
            where something was marked, so that they would count only if the tool errs.
        num_subjects: Subjects that were scored.
        num_subjects_with_lesion: Those with a lesion.
        num_missed_subjects: Those with a lesion of which not a voxel was found.
        num_falsely_marked_subjects: Those without lesion in whom one was predicted.
        num_subjects_with_several_scans: Whose volumes are means over their scans.
        num_slices: Slices that were scored.
        num_slices_with_lesion: Those with a lesion.
        num_missed_slices: Slices with a lesion of which not a pixel was found.
        num_false_alarm_slices: Slices without lesion where one was predicted.
        num_reference_lesions: Lesions in the references.
        num_detected_lesions: Those that were found.
        num_false_lesions: Predicted lesions where there is none.
    """

    metrics: pd.DataFrame
    num_subjects: int
    num_subjects_with_lesion: int
    num_missed_subjects: int
    num_falsely_marked_subjects: int
    num_subjects_with_several_scans: int
    num_slices: int
    num_slices_with_lesion: int
    num_missed_slices: int
    num_false_alarm_slices: int
    num_reference_lesions: int
    num_detected_lesions: int
    num_false_lesions: int

    @property
    def sentences(self) -> tuple[str, ...]:
        """The counts in words, and the rules for empty masks."""
        num_without = self.num_slices - self.num_slices_with_lesion
        several = (
            f"{self.num_subjects_with_several_scans} subjects have several scans: their volumes "
            "and errors of volume are means over scans, other scores pool them.",
        )
        return (
            f"{self.num_subjects_with_lesion} subjects with a lesion, {self.num_missed_subjects} "
            "missed (not a voxel of it was found); "
            f"{self.num_subjects - self.num_subjects_with_lesion} without, "
            f"{self.num_falsely_marked_subjects} of them falsely marked.",
            f"{self.num_slices_with_lesion} slices with a lesion, {self.num_missed_slices} missed; "
            f"{num_without} without, {self.num_false_alarm_slices} false alarms.",
            f"{self.num_reference_lesions} lesions, {self.num_detected_lesions} detected; "
            f"{self.num_false_lesions} false lesions.",
            *(several if self.num_subjects_with_several_scans else ()),
            EMPTY_MASK_RULES,
        )

    def to_json(self) -> str:
        """All of it as JSON: undefined is null, infinite the text "inf"."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["metrics"] = [
            {str(name): _json_value(value) for name, value in row.items()}
            for row in self.metrics.to_dict(orient="records")
        ]
        return json.dumps(values, indent=2, allow_nan=False)


def score_table(rows: Iterable[Mapping[str, object]], columns: tuple[str, ...]) -> pd.DataFrame:
    """Rows as a table with typed columns, also if there are none.

    Text is `str`, statements are `bool`, counts `int64`, `slice` is `Int64` (a missing number
    is `<NA>`), and all else `float64`.
    """
    rows = list(rows)
    return pd.DataFrame(
        {name: pd.Series([row[name] for row in rows], dtype=_dtype(name)) for name in columns}
    )


def write_scores(scores: Scores, path: Path) -> tuple[Path, Path, Path]:
    """Write the tables to `NAME.csv`, `NAME_slices.csv` and `NAME_batches.csv`.

    Args:
        scores: Tables of scores.
        path: `NAME.csv`.

    Returns:
        The three files.

    Raises:
        EvaluationError: The name does not end in `.csv`, or a file cannot be written.
    """
    files = _files(path)
    for file, table in zip(files, (scores.subjects, scores.slices, scores.batches), strict=True):
        try:
            write_text(file, table.to_csv(index=False, lineterminator="\n"))
        except OSError as error:
            raise EvaluationError(
                f"{file}: cannot be written ({error.strerror}). Check that the folder may be "
                "written to and has space."
            ) from error
    return files


def read_scores(path: Path) -> Scores:
    """The tables that `write_scores` wrote, with exactly the same numbers.

    Tables of earlier versions lack the tolerance of surface Dice, which is then undefined.

    Args:
        path: `NAME.csv`.

    Raises:
        EvaluationError: A file is missing or has other columns, or a field is not what its column
            holds.
    """
    subjects, slices, batches = _files(path)
    return Scores(
        subjects=_read_table(subjects, SUBJECT_COLUMNS),
        slices=_read_table(slices, SLICE_COLUMNS),
        batches=_read_table(batches, BATCH_COLUMNS),
    )


def summarize(scores: Scores) -> Summary:
    """Means, spreads and counts of a set of scores."""
    subjects, slices, batches = scores.subjects, scores.slices, scores.batches
    with_lesion = slices[slices["has_lesion"]]
    has_lesion = subjects["reference_pixels"] > 0
    num_scans = slices.groupby("subject")["scan"].nunique()
    subjects_with_lesion = subjects[has_lesion]
    rows = (
        [
            _describe("subject with lesion", name, subjects_with_lesion[name])
            for name in LESION_METRICS
        ]
        + [_describe("subject", name, subjects[name]) for name in VOLUMES]
        + [_describe("slice with lesion", name, with_lesion[name]) for name in OVERLAPS]
        + [_describe("batch", name, batches[name]) for name in ("dice", "pooled_dice")]
    )
    return Summary(
        metrics=pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS)),
        num_subjects=len(subjects),
        num_subjects_with_lesion=len(subjects_with_lesion),
        num_falsely_marked_subjects=int((subjects.loc[~has_lesion, "prediction_pixels"] > 0).sum()),
        num_missed_subjects=_num_missed(subjects),
        num_subjects_with_several_scans=int((num_scans > 1).sum()),
        num_slices=len(slices),
        num_slices_with_lesion=len(with_lesion),
        num_missed_slices=_num_missed(slices),
        num_false_alarm_slices=int(slices["false_alarm"].sum()),
        num_reference_lesions=int(subjects["num_reference_lesions"].sum()),
        num_detected_lesions=int(subjects["num_detected_lesions"].sum()),
        num_false_lesions=int(subjects["num_false_lesions"].sum()),
    )


def _num_missed(table: pd.DataFrame) -> int:
    return int(((table["reference_pixels"] > 0) & (table["dice"] == 0)).sum())


def _describe(unit: str, metric: str, column: pd.Series) -> tuple[object, ...]:
    values = column.to_numpy(dtype=np.float64)
    defined = values[~np.isnan(values)]
    counts = (unit, metric, len(defined), len(values) - len(defined))
    if not len(defined):
        return (*counts, *[math.nan] * 5)
    has_sd = len(defined) > 1 and np.isfinite(defined).all()
    return (
        *counts,
        float(defined.mean()),
        float(defined.std(ddof=1)) if has_sd else math.nan,
        *(percentile(defined, percent) for percent in (50, 25, 75)),
    )


def _json_value(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf"
    return value


def _dtype(column: str) -> str:
    if column in _TEXTS:
        return "str"
    if column in _STATEMENTS:
        return "bool"
    if column == "slice":
        return "Int64"
    is_count = column == "batch" or column.startswith("num_") or column.endswith("_pixels")
    return "int64" if is_count else "float64"


def _files(path: Path) -> tuple[Path, Path, Path]:
    if path.suffix != ".csv":
        raise EvaluationError(f"{path}: expected a name ending in .csv. Call it {path.name}.csv.")
    return (
        path,
        path.with_name(f"{path.stem}_slices.csv"),
        path.with_name(f"{path.stem}_batches.csv"),
    )


def _read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    remedy = "Score the masks again."
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file, strict=True)
    except (OSError, ValueError, csv.Error) as error:
        raise EvaluationError(
            f"{path}: cannot be read ({error}), expected a table of scores. {remedy}"
        ) from error
    found = tuple(header)
    if found not in (columns, tuple(name for name in columns if name not in _NEW)):
        raise EvaluationError(
            f"{path}: columns {', '.join(header)}, expected {', '.join(columns)}. {remedy}"
        )
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            if len(line) != len(found):
                raise ValueError(f"{len(line)} fields, expected {len(found)}")
            row = {name: _parsed(name, text) for name, text in zip(found, line, strict=True)}
            rows.append(dict.fromkeys(_NEW, math.nan) | row)
        except ValueError as error:
            raise EvaluationError(f"{path}: row {number}: {error}. {remedy}") from error
    return score_table(rows, columns)


def _parsed(column: str, text: str) -> object:
    """Value of a field; numbers are parsed by Python, which is exact where pandas rounds."""
    kind = _dtype(column)
    if kind == "str":
        return text
    if text in ("True", "False") and kind == "bool":
        return text == "True"
    if text == "" and kind in ("Int64", "float64"):
        return None if kind == "Int64" else math.nan
    lowest = -math.inf if column == "volume_error_ml" else 0.0
    highest = 1.0 if column in _FRACTIONS else math.inf
    try:
        if kind == "float64" and lowest <= (number := float(text)) <= highest:
            return number
        if kind in ("Int64", "int64") and 0 <= int(text) < 2**63:
            return int(text)
    except ValueError:
        pass
    expected = "0 to 1, or nothing" if column in _FRACTIONS else _EXPECTED[kind]
    raise ValueError(f"{column} {text!r}, expected {expected}")


_EXPECTED = {
    "bool": "True or False",
    "Int64": "a whole number from 0 upward, or nothing",
    "int64": "a whole number from 0 upward",
    "float64": "a number from 0 upward (of an error of volume any), inf, or nothing",
}
