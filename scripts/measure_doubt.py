"""Whether a network's confidence tells its good masks from its bad ones, where references exist.

    hemaseg predict others.csv --model run -o masks       # a cohort table of other subjects
    hemaseg evaluate masks others.csv -o metrics.csv
    python scripts/measure_doubt.py masks/predictions.csv metrics.csv

A run folder of a study has both tables, `predictions/predictions.csv` and `metrics.csv`.
Printed are Spearman's rank correlation of `confidence` and Dice over subjects, with a 95 % interval
by bootstrap, and the mean Dice of the half of the subjects that the network trusts less and of the
other half. Cases of `hemaseg predict SCAN...` are joined by their name, which must then be that of
the subject. A subject without confidence (an empty mask) or Dice is counted and left out.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from hemaseg.errors import EvaluationError

NUM_RESAMPLES = 2000
MIN_SUBJECTS = 5


@dataclass(frozen=True)
class Agreement:
    """How confidence and Dice go together.

    Attributes:
        num_subjects: With both.
        num_undefined: In both tables, without one of them.
        correlation: Spearman's, -1 to 1; NaN if all confidences or all Dice are equal.
        interval: 95 %, by percentiles over resampled subjects.
        less_trusted: Mean Dice of the half with the lower confidence; the middle one is left out.
        more_trusted: Of the other half.
    """

    num_subjects: int
    num_undefined: int
    correlation: float
    interval: tuple[float, float]
    less_trusted: float
    more_trusted: float


def read_pairs(predictions: Path, metrics: Path) -> pd.DataFrame:
    """`confidence` and `dice` of each subject that is in both tables.

    Raises:
        EvaluationError: A table lacks a column, a subject has several confidences, or there is no
            subject in both.
    """
    predicted, scored = (
        pd.read_csv(path, dtype={"subject": str, "name": str}) for path in (predictions, metrics)
    )
    if "subject" not in predicted and "name" in predicted:
        predicted = predicted.rename(columns={"name": "subject"})
    for path, table, column in ((predictions, predicted, "confidence"), (metrics, scored, "dice")):
        if missing := {"subject", column} - set(table):
            raise EvaluationError(
                f"{path}: no column {', '.join(sorted(missing))}, expected a table of hemaseg "
                "predict and then one of hemaseg evaluate. Predict and evaluate again."
            )
    trusted = predicted[["subject", "confidence"]].drop_duplicates()
    pairs = trusted.merge(scored[["subject", "dice"]], on="subject")
    if pairs.empty or pairs["subject"].duplicated().any():
        raise EvaluationError(
            f"{predictions} and {metrics}: {len(pairs)} rows for {pairs['subject'].nunique()} "
            "subjects in both, expected one each. Give the tables of one set of masks."
        )
    return pairs


def agreement(pairs: pd.DataFrame, *, seed: int = 0) -> Agreement:
    """How confidence and Dice go together over subjects.

    Args:
        pairs: `confidence` and `dice`, a row per subject.
        seed: Of the bootstrap.

    Raises:
        EvaluationError: Fewer than `MIN_SUBJECTS` subjects have both.
    """
    known = pairs.dropna(subset=["confidence", "dice"])
    if len(known) < MIN_SUBJECTS:
        raise EvaluationError(
            f"{len(known)} subjects with confidence and Dice, expected at least {MIN_SUBJECTS}. "
            "Predict and evaluate more."
        )
    values = known[["confidence", "dice"]].to_numpy()
    random = np.random.default_rng(seed)
    resampled = [
        rank_correlation(values[random.integers(0, len(values), len(values))])
        for _ in range(NUM_RESAMPLES)
    ]
    low, high = np.nanpercentile(resampled, (2.5, 97.5)).tolist()
    by_trust, half = values[np.argsort(values[:, 0], kind="stable"), 1], len(values) // 2
    return Agreement(
        num_subjects=len(known),
        num_undefined=len(pairs) - len(known),
        correlation=rank_correlation(values),
        interval=(low, high),
        less_trusted=float(by_trust[:half].mean()),
        more_trusted=float(by_trust[-half:].mean()),
    )


def rank_correlation(values: np.ndarray) -> float:
    """Spearman's of (N, 2) values; NaN if one column is constant."""
    if (np.ptp(values, axis=0) == 0).any():
        return math.nan
    return float(spearmanr(values[:, 0], values[:, 1]).statistic)


def main() -> None:
    """Print the agreement of two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("metrics", type=Path)
    options = parser.parse_args()
    found = agreement(read_pairs(options.predictions, options.metrics))
    low, high = found.interval
    print(f"{found.num_subjects} subjects; {found.num_undefined} without confidence or Dice")
    print(f"Spearman's rank correlation of confidence and Dice: {found.correlation:.2f}", end=" ")
    print(f"(95 % interval {low:.2f} to {high:.2f})")
    print(f"mean Dice of the half that is trusted less: {found.less_trusted:.3f}")
    print(f"mean Dice of the half that is trusted more: {found.more_trusted:.3f}")


if __name__ == "__main__":
    main()
