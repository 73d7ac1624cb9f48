"""What the scores of each arm are like, one arm at a time: means, spread, quartiles, intervals."""

import numpy as np
import pandas as pd

from hemaseg.comparison.score_tables import METRICS, metric_range, score_cells
from hemaseg.metrics.surfaces import percentile
from hemaseg.statistics.closed_forms import as_vector, moments
from hemaseg.statistics.resampling import cluster_bootstrap_interval


def subject_means(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean score of each subject over its runs, subject x arm.

    NaN and infinity propagate: never a mean over the runs that happen to be defined.

    Args:
        cells: Scores, (subject, fold, seed) x arm, as `score_cells` returns them.
    """
    return cells.groupby(level="subject").agg(_mean)


def run_means(cells: pd.DataFrame, subjects: pd.DataFrame) -> pd.DataFrame:
    """Mean score of each run, (fold, seed) x arm; NaN if infinite.

    Subjects that are undefined for the arm are left out of all its runs.

    Args:
        cells: Scores, (subject, fold, seed) x arm.
        subjects: Their `subject_means`.
    """
    defined = subjects.notna().loc[cells.index.get_level_values("subject")].to_numpy()
    means = cells.where(defined).groupby(level=["fold", "seed"]).mean()
    return means.where(np.isfinite(means))


def summary(
    subjects: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    metric: str,
    alpha: float,
    seed: int,
    num_bootstrap: int,
) -> pd.DataFrame:
    """One row per arm: the columns of ``summary.csv``, see `hemaseg.comparison.paired.Comparison`.

    The interval of the mean is cut at the range of the metric.

    Args:
        subjects: Scores, subject x arm.
        runs: Means of the runs, run x arm.
        metric: What the scores are.
        alpha: Intervals have confidence 1 - alpha.
        seed: Of the bootstrap.
        num_bootstrap: Number of resamples.
    """
    # Not skipping: without one run's mean there is no spread of the runs.
    run_sds = runs.std(ddof=1, skipna=False)
    rows = []
    for arm in subjects.columns:
        defined = subjects[arm].dropna()
        # An infinite score has no mean: without values, the interval is NaN.
        finite = defined if np.isfinite(defined.to_numpy()).all() else defined[:0]
        interval = cluster_bootstrap_interval(
            finite.to_numpy(),
            finite.index.to_numpy(),
            confidence=1 - alpha,
            num_bootstrap=num_bootstrap,
            seed=seed,
        )
        # In few subjects with one miss, the bootstrap's limits lie far outside what a mean can be.
        ci_low, ci_high = np.clip([interval.low, interval.high], *metric_range(metric))
        rows.append(
            {"metric": metric, "arm": arm}
            | _description(subjects[arm])
            | {"ci_low": ci_low, "ci_high": ci_high, "run_sd": run_sds[arm]}
        )
    return pd.DataFrame(rows)


def describe_all(scores: pd.DataFrame) -> pd.DataFrame:
    """Every known metric that the scores have, for each arm over its subjects.

    A subject counts once, with its mean over its runs. This is description: nothing is tested, and
    the verdict does not use it.

    Args:
        scores: As for `hemaseg.comparison.paired.compare`.

    Returns:
        Columns metric, arm, num_subjects (defined, infinite ones included), num_undefined,
        num_infinite, mean, sd, median, q1, q3. NaN is undefined; mean and SD are so as soon as one
        subject's score is infinite, median and quartiles may then be infinite. Metrics in the order
        of `METRICS`, arms in that of the scores.

    Raises:
        ComparisonError: As `score_cells`, for any of these metrics.
    """
    rows = []
    for metric in METRICS:
        if metric in scores.columns:
            subjects = subject_means(score_cells(scores, metric))
            for arm in subjects.columns:
                num_infinite = int(np.isinf(subjects[arm]).sum())
                rows.append(
                    {"metric": metric, "arm": arm, "num_infinite": num_infinite}
                    | _description(subjects[arm])
                )
    columns = [
        *("metric", "arm", "num_subjects", "num_undefined", "num_infinite"),
        *("mean", "sd", "median", "q1", "q3"),
    ]
    return pd.DataFrame(rows, columns=columns)


def _mean(scores: "pd.Series[float]") -> float:
    return float(scores.to_numpy().mean())


def _description(scores: "pd.Series[float]") -> dict[str, float]:
    """Counts, mean, SD and quartiles of one arm."""
    defined = as_vector(scores.dropna())
    mean, sd, _ = moments(defined)
    q1, median, q3 = (
        percentile(defined, percent) if len(defined) else np.nan for percent in (25, 50, 75)
    )
    return {
        "num_subjects": len(defined),
        "num_undefined": len(scores) - len(defined),
        "mean": mean,
        "sd": sd,
        "median": median,
        "q1": q1,
        "q3": q3,
    }
