"""Why subjects have no score by a metric, and the warning where a score leaves out misses."""

import pandas as pd

from hemaseg.comparison.score_tables import number_cells
from hemaseg.comparison.wording import metric_label
from hemaseg.evaluation.tables import LESION_METRICS

REASONS = {
    "without_lesion": "without a lesion",
    "missed": "with a lesion that was missed",
    "unknown": "for reasons that the tables do not tell",
}
"""Columns of `why_undefined`, and how they are said of a number of subjects."""


def why_undefined(
    scores: pd.DataFrame, cells: pd.DataFrame, subjects: pd.DataFrame, metric: str
) -> pd.DataFrame:
    """Numbers of subjects that are undefined in each arm, by reason: arm x `REASONS`.

    A lesion is missed if ``reference_pixels`` is above 0 and ``prediction_pixels`` or ``dice`` is 0
    in a run without score; precision is undefined only where nothing was predicted. Columns that
    are missing tell nothing.

    Args:
        scores: As for `hemaseg.comparison.score_tables.score_cells`.
        cells: Its result.
        subjects: Means over the runs, subject x arm.
        metric: What the scores are.
    """
    sizes = number_cells(scores, "reference_pixels")
    found_nothing = number_cells(scores, "prediction_pixels").eq(0)
    found_nothing |= number_cells(scores, "dice").eq(0) | (metric == "precision")
    in_run = (cells.isna() & found_nothing).where(sizes.gt(0).any(axis=1), False)
    missed = in_run.groupby(level="subject").any()
    is_healthy = sizes.eq(0).any(axis=1).groupby(level="subject").any()
    healthy = subjects.isna() & ~missed
    healthy = healthy.where(is_healthy & (metric in LESION_METRICS), False)
    rest = subjects.isna() & ~missed & ~healthy
    return pd.DataFrame(
        {"without_lesion": healthy.sum(), "missed": missed.sum(), "unknown": rest.sum()}
    )


def words_on_misses(reasons: pd.DataFrame, metric: str) -> str:
    """The sentence that a verdict must carry where misses are left out of it, else nothing.

    Args:
        reasons: Rows of `why_undefined`, of the arms that the verdict is about.
        metric: What the scores are.
    """
    missed = reasons["missed"][reasons["missed"] > 0]
    if missed.empty:
        return ""
    counts = ", ".join(f"{arm}: {num}" for arm, num in missed.items())
    return (
        f" Misses do not count here: {metric_label(metric)} is undefined, and left out, for "
        f"subjects with a lesion that was missed ({counts})."
    )
