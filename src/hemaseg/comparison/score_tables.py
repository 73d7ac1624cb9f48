"""Score tables of any tool, read and checked so that arms can be compared cell by cell."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from hemaseg.errors import ComparisonError
from hemaseg.evaluation.tables import LESION_METRICS, OVERLAPS

KEYS = ["arm", "subject", "fold", "seed"]
"""Columns that, together, name one row of the scores."""

FRACTIONS = (*OVERLAPS, "surface_dice")
"""Metrics that lie in [0, 1]."""

ERRORS = ("hd95_mm", "assd_mm", "absolute_volume_error_ml")
"""Metrics from 0 up of which less is better; more is of `FRACTIONS`."""

AMOUNTS = (
    *("prediction_ml", "reference_ml", "prediction_pixels", "reference_pixels"),
    *("num_reference_lesions", "num_detected_lesions", "num_false_lesions"),
)
"""Volumes and counts of a subject, from 0 up."""

METRICS = (*LESION_METRICS, "volume_error_ml", "absolute_volume_error_ml")
"""All metrics that have one value per subject, as columns of a score table."""

_ALWAYS_DEFINED = ("dice", "iou", "sensitivity", "surface_dice")
"""Metrics that every mask has, an empty one too, where the reference is not empty."""

UNDEFINED = ("", "NA", "N/A", "n/a", "NaN", "nan")
"""Fields of a number column that mean undefined; ``inf`` is a number."""

_SUMMARIES = ("mean", "average", "median", "sd", "std", "total")
_LAYOUT = "separated by commas, with a point as decimal mark"
_NUM_LISTED = 5  # offending rows that a message names


def read_score_tables(paths: Mapping[str, Path]) -> pd.DataFrame:
    """Join one CSV file per arm into the scores that `hemaseg.comparison.paired.compare` takes.

    Each file needs a column subject and at least one metric; columns fold and seed are 0 where they
    are missing. Columns in which every field is a number or undefined become numbers, the others
    stay text. Subjects are text: 007 is not 7.

    Args:
        paths: Name of the arm to its file, two or more.

    Raises:
        ComparisonError: A file cannot be read, has no row or no column subject, names an arm, or
            has a row that summarises the others.
    """
    return pd.concat([_arm_table(arm, path) for arm, path in paths.items()], ignore_index=True)


def _arm_table(arm: str, path: Path) -> pd.DataFrame:
    """The scores of one arm."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, row) for row in reader if row]
    except (OSError, ValueError, csv.Error) as error:
        raise ComparisonError(
            f"{path}: cannot be read as a CSV table ({error}). Give a UTF-8 file with a header."
        ) from error
    header, *rows = [row for _, row in lines] or [[]]
    if header.count("subject") != 1 or len(set(header)) < len(header) or not rows:
        raise ComparisonError(
            f"{path}: found columns {header} and {len(rows)} rows, expected a column subject, each "
            f"name once, and a row per subject. Give a table of scores per subject, {_LAYOUT}."
            f"{_words_on_case('subject', header)}"
        )
    for number, row in lines:
        if len(row) != len(header):
            raise ComparisonError(
                f"{path}: line {number} has {len(row)} fields ({','.join(row)}), expected "
                f"{len(header)} as in the header. Correct the file; it may be cut off."
            )
    text = pd.DataFrame(rows, columns=header, dtype=str)
    if "arm" in text.columns:
        raise ComparisonError(
            f"{path}: has a column arm, expected the scores of one arm, {arm}. Split it into "
            "one file per arm."
        )
    summaries = [name for name in text["subject"] if name.strip().lower() in _SUMMARIES]
    if summaries:
        raise ComparisonError(
            f"{path}: found subject {', '.join(summaries)}, expected subjects alone and no summary "
            "of them. Take the row out, or give this subject another name."
        )
    table = text.apply(_numbers)
    table["subject"] = text["subject"].where(text["subject"] != "")
    table.insert(0, "arm", arm)
    for key in ("fold", "seed"):
        if key not in table.columns:
            table[key] = 0
    return table


def score_cells(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One metric as a table of (subject, fold, seed) x arm, after all checks.

    A subject without a lesion (``reference_pixels`` is 0) has no score by `LESION_METRICS`: a mask
    that is rightly empty is undefined there, so that counting false alarms as 0 would give each arm
    a mean over other subjects. False alarms have columns of their own.

    Args:
        scores: One row per arm, subject, fold and seed, with these columns and the metric's. Where
            arms state ``reference_pixels``, ``reference_ml`` or (for surface Dice)
            ``surface_tolerance_mm``, they must agree; where only some arms state the first, it
            holds for all, and where none does, a subject counts as having a lesion. Overlap but
            precision must not be undefined where another arm's is above 0.
        metric: Name of the column.

    Returns:
        Scores as float, NaN only where undefined; arms in the order of the scores, the index
        sorted, all keys as text.

    Raises:
        ComparisonError: A column or key is missing, a row is repeated, a value is no number or not
            a value of the metric, there are fewer than two arms, or the arms were not all tested on
            the same subjects in the same folds and seeds against the same reference.
    """
    _require_all_cells(scores, metric)
    sizes = number_cells(scores, "reference_pixels")
    same_masks = "Score all arms against the same reference masks"
    _require_agreement(sizes, "reference_pixels", same_masks)
    _require_agreement(number_cells(scores, "reference_ml"), "reference_ml", same_masks)
    if metric == "surface_dice":
        tolerances = number_cells(scores, "surface_tolerance_mm")
        _require_agreement(tolerances, "surface_tolerance_mm", "Score all arms with one tolerance")
    cells = number_cells(scores, metric)
    if metric not in LESION_METRICS:
        return cells
    cells = cells.mask((sizes == 0).any(axis=1), axis=0)
    if metric in _ALWAYS_DEFINED:
        # Where Dice is known, it is only the spacing that a surface Dice lacks.
        is_known = number_cells(scores, "dice").notna() & (metric == "surface_dice")
        _require_failures_scored(cells, cells.isna() & ~is_known, metric)
    return cells


def number_cells(scores: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column as a table of (subject, fold, seed) x arm; NaN where it is missing or no number.

    Args:
        scores: As for `score_cells`, without repeated rows.
        column: Its name; may be missing.
    """
    numbers = pd.to_numeric(scores[column], errors="coerce") if column in scores.columns else np.nan
    table = scores[KEYS].astype(str).assign(number=numbers)
    cells = table.pivot(index=KEYS[1:], columns="arm", values="number").astype(float)
    return cells[table["arm"].unique()]


def _require_all_cells(scores: pd.DataFrame, metric: str) -> None:
    """Refuse what is no sound value for each subject and run in each of several arms."""
    missing = [name for name in [*KEYS, metric] if name not in scores.columns]
    if missing:
        raise ComparisonError(
            f"scores: columns {missing} are missing, found {list(scores.columns)}. Add them, or "
            f"name another metric.{_words_on_case(missing[0], scores.columns)}"
        )
    blank = scores[KEYS].isna().any(axis=1).to_numpy()
    if blank.any():
        raise ComparisonError(
            f"scores: {blank.sum()} rows lack arm, subject, fold or seed, the first is row "
            f"{blank.argmax() + 1}. Fill them in."
        )
    _require_sound_values(scores, metric)
    table = scores[KEYS].astype(str)
    arms = list(dict.fromkeys(table["arm"]))
    if len(arms) < 2:
        raise ComparisonError(f"scores: found the arms {arms}, expected two or more. Add an arm.")
    repeated = table[table.duplicated(KEYS)]
    if len(repeated):
        raise ComparisonError(
            f"scores: {len(repeated)} rows repeat the arm, subject, fold and seed of another: "
            f"{_listed(repeated[KEYS].to_numpy().tolist())}. Give one row per subject and run."
        )
    arms_of = table.groupby(KEYS[1:])["arm"].agg(set)
    lacking = [
        [*cell, "not in", *sorted(set(arms) - present)]
        for cell, present in zip(arms_of.index.tolist(), arms_of, strict=True)
        if len(present) < len(arms)
    ]
    if lacking:
        raise ComparisonError(
            f"scores: {len(lacking)} of {len(arms_of)} combinations of subject, fold and seed were "
            f"not tested in every arm: {_listed(lacking)}. Test all arms on the same subjects in "
            "the same runs; or take these subjects out of all arms, and report it."
            f"{_words_on_zeros(table)}"
        )


def _require_agreement(cells: pd.DataFrame, column: str, remedy: str) -> None:
    """Refuse a column in which arms state unequal numbers of a subject."""
    low, high = cells.min(axis=1), cells.max(axis=1)
    # Tools round volumes; counts and tolerances are exact.
    slack = 0.01 + 0.001 * high if column.endswith("_ml") else 0.0
    unequal = high - low > slack
    if unequal.any():
        place = int(unequal.to_numpy().argmax())
        subject, found = cells.index.tolist()[place][0], cells.iloc[place]
        raise ComparisonError(
            f"scores: {column} of subject {subject} is {found.min():g} in arm {found.idxmin()} and "
            f"{found.max():g} in arm {found.idxmax()}, expected the same in all arms; so it "
            f"is in {(~unequal).sum()} of {len(cells)} combinations of subject, fold and seed. "
            f"{remedy}, or take the column out."
        )


def _require_failures_scored(cells: pd.DataFrame, lacks_score: pd.DataFrame, metric: str) -> None:
    """Refuse a subject of whom one arm has marked the lesion, and another arm has no score."""
    wrong = (cells > 0).any(axis=1) & lacks_score.any(axis=1)
    if wrong.any():
        place = int(wrong.to_numpy().argmax())
        subject, found = cells.index.tolist()[place][0], cells.iloc[place]
        raise ComparisonError(
            f"scores: {metric} of subject {subject} is {found.max():g} in arm {found.idxmax()} and "
            f"undefined in arm {lacks_score.iloc[place].idxmax()}, expected a number, since there "
            f"is a lesion; so it is in {wrong.sum()} of {len(cells)} combinations of subject, fold "
            "and seed. Give 0 if nothing was marked, or take the subject out of all arms, and "
            "report it."
        )


def _require_sound_values(scores: pd.DataFrame, metric: str) -> None:
    """Refuse scores that are no numbers or cannot be values of the metric."""
    column = scores[metric]
    is_numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if not is_numeric and column.notna().any():
        numbers = pd.to_numeric(column, errors="coerce")
        wrong = column[numbers.isna() & column.notna()]
        found = repr(wrong.iloc[0]) if len(wrong) else f"values of type {column.dtype}"
        raise ComparisonError(
            f"scores: {metric} must hold numbers, with a point as decimal mark, found {found}. "
            f"Correct it (undefined: empty or {', '.join(filter(None, UNDEFINED))}), take the "
            "column out, or name another metric."
        )
    low, high = metric_range(metric)
    outside = scores[(column < low) | (column > high) | (column == -np.inf)]
    if len(outside):
        first = outside.iloc[0]
        if metric in FRACTIONS:
            expected = "0 to 1. Correct it (divide a percentage by 100)"
        elif metric in AMOUNTS:
            expected = "0 or more. Correct it (empty if undefined)"
        elif metric in ERRORS:
            expected = "0 or more. Correct it (empty if undefined, inf if missed)"
        else:
            expected = "a number or inf. Correct it"
        raise ComparisonError(
            f"scores: {metric} of arm {first['arm']}, subject {first['subject']} is "
            f"{first[metric]:g}, expected {expected}, or take the column out."
        )


def metric_range(metric: str) -> tuple[float, float]:
    """Smallest and largest value that the metric can have; infinite where nothing is known.

    Example:
        >>> metric_range("dice"), metric_range("hd95_mm"), metric_range("volume_error_ml")
        ((0.0, 1.0), (0.0, inf), (-inf, inf))
    """
    if metric in FRACTIONS:
        return 0.0, 1.0
    return (0.0 if metric in (*ERRORS, *AMOUNTS) else -np.inf), np.inf


def _words_on_case(column: str, found: Iterable[str]) -> str:
    """The hint that a column is there but for its case, else nothing."""
    alike = [name for name in found if name != column and name.strip().lower() == column]
    return f' Rename "{alike[0]}" to "{column}".' if alike else ""


def _words_on_zeros(table: pd.DataFrame) -> str:
    """The hint that subjects would agree without leading zeros, else nothing.

    Args:
        table: The keys, as text.
    """
    bare = table.assign(subject=table["subject"].str.lstrip("0"))
    arms = bare.groupby(KEYS[1:])["arm"].nunique()
    if bare.duplicated(KEYS).any() or (arms < bare["arm"].nunique()).any():
        return ""
    return (
        " Without the zeros that they begin with, subjects agree: a spreadsheet may have taken "
        "001 for 1. Write them alike."
    )


def _listed(rows: list[list[str]]) -> str:
    """The first rows as text."""
    more = f" and {len(rows) - _NUM_LISTED} more" if len(rows) > _NUM_LISTED else ""
    return "; ".join(" ".join(row) for row in rows[:_NUM_LISTED]) + more


def _numbers(column: "pd.Series[str]") -> "pd.Series[float] | pd.Series[str]":
    """The column as numbers, or as it is where a field is neither number nor undefined."""
    defined = column[~column.isin(UNDEFINED)]
    if pd.to_numeric(defined, errors="coerce").isna().any():
        return column
    # float() is exact; to_numeric of pandas before 3.0 is not, in the last digit.
    numbers = pd.Series([float(text) for text in defined], defined.index, dtype=float)
    return numbers.reindex(column.index)
