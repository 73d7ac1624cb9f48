"""Who is marked wrongly and who is missed, arm by arm: what an overlap score does not say."""

import math

import pandas as pd

from hemaseg.comparison.description import subject_means
from hemaseg.comparison.score_tables import KEYS, score_cells
from hemaseg.statistics.proportions import wilson_interval

_COLUMNS = (
    *("dice", "prediction_pixels", "reference_pixels"),
    *("num_reference_lesions", "num_detected_lesions", "num_false_lesions"),
)


def detection(scores: pd.DataFrame, *, confidence: float = 0.95) -> pd.DataFrame:
    """One row per arm: subjects falsely marked and missed, lesions detected, false lesions.

    A subject counts once. One that was tested in several runs counts by its share of them, so that
    a number of subjects or lesions can be a fraction; one that is undefined in any run is left out.

    Args:
        scores: As for `hemaseg.comparison.paired.compare`.
        confidence: Of the intervals.

    Returns:
        Columns arm; num_without_lesion, num_marked (of these: anything was marked),
        marked_ci_low, marked_ci_high (Wilson, of the proportion); num_with_lesion, num_missed (of
        these: not a voxel was found), missed_ci_low, missed_ci_high; num_reference_lesions,
        num_detected_lesions; false_lesions_per_subject, over all subjects. Intervals are NaN where
        there is nobody to count, and everything is where the scores lack a column that it needs.

    Raises:
        ComparisonError: As `score_cells`, for the columns that are used.
    """
    known = scores.reindex(columns=[*KEYS, *_COLUMNS])
    cells = {name: score_cells(known, name) for name in _COLUMNS}
    size, marked, dice = (cells[name] for name in ("reference_pixels", "prediction_pixels", "dice"))
    false_mark = subject_means((marked > 0).where((size == 0) & marked.notna()).astype(float))
    miss = subject_means((dice == 0).where((size > 0) & dice.notna()).astype(float))
    lesions = {name: subject_means(cells[name]) for name in _COLUMNS if name.startswith("num_")}
    rows = []
    for arm in size.columns:
        knows_marks = bool((size[arm].notna() & marked[arm].notna()).any())
        knows_misses = bool((size[arm].notna() & dice[arm].notna()).any())
        counts = pd.DataFrame({name: table[arm] for name, table in lesions.items()})
        found = counts[["num_reference_lesions", "num_detected_lesions"]].dropna()
        num_lesions, num_detected = found.sum(min_count=1)
        rows.append(
            {"arm": arm}
            | _proportion(false_mark[arm], "without_lesion", "marked", knows_marks, confidence)
            | _proportion(miss[arm], "with_lesion", "missed", knows_misses, confidence)
            | {
                "num_reference_lesions": num_lesions,
                "num_detected_lesions": num_detected,
                "false_lesions_per_subject": counts["num_false_lesions"].mean(),
            }
        )
    return pd.DataFrame(rows)


def _proportion(
    shares: "pd.Series[float]", of: str, what: str, is_known: bool, confidence: float
) -> dict[str, float]:
    """How many subjects, and how many of them; NaN is not 0 where nobody knows."""
    defined = shares.dropna()
    num, total = float(defined.sum()), len(defined)
    interval = wilson_interval(num, total, confidence=confidence)
    return {
        f"num_{of}": total if is_known else math.nan,
        f"num_{what}": num if is_known else math.nan,
        f"{what}_ci_low": interval.low,
        f"{what}_ci_high": interval.high,
    }
