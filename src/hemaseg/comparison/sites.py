"""Scores by site, described: whether a mean hides a hospital where an arm does badly."""

import pandas as pd

from hemaseg.comparison.description import subject_means
from hemaseg.comparison.score_tables import score_cells
from hemaseg.errors import ComparisonError
from hemaseg.statistics.closed_forms import as_vector, moments

UNKNOWN = "unknown"
"""Subjects whose site is empty, where others have one."""


def describe_sites(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean and SD of each arm in each site, each subject with its mean over its runs.

    This is description: nothing is tested, and sites with few subjects scatter by chance.

    Args:
        scores: As for `hemaseg.comparison.paired.compare`.
        metric: Column to describe.

    Returns:
        Columns metric, site, arm, num_subjects (defined), num_undefined, mean, sd; sites sorted,
        arms in the order of the scores. Mean and SD are NaN as in `moments`. No rows without a
        column site, or if it names fewer than two sites.

    Raises:
        ComparisonError: A subject has several sites; or as `score_cells`.
    """
    sites = _sites(scores)
    rows = []
    if len(set(sites.values())) >= 2:
        subjects = subject_means(score_cells(scores, metric))
        for site, own in subjects.groupby(lambda subject: sites.get(subject, UNKNOWN)):
            for arm in subjects.columns:
                defined = as_vector(own[arm].dropna())
                mean, sd, _ = moments(defined)
                rows.append(
                    {
                        "metric": metric,
                        "site": site,
                        "arm": arm,
                        "num_subjects": len(defined),
                        "num_undefined": len(own) - len(defined),
                        "mean": mean,
                        "sd": sd,
                    }
                )
    columns = ["metric", "site", "arm", "num_subjects", "num_undefined", "mean", "sd"]
    return pd.DataFrame(rows, columns=columns)


def _sites(scores: pd.DataFrame) -> dict[str, str]:
    """Site of each subject that has one, both as text."""
    sites: dict[str, str] = {}
    if "site" in scores.columns:
        for subject, site in scores[["subject", "site"]].dropna().itertuples(index=False):
            # Sites that are numbers were read as such, and 1 is not 1.0.
            name = f"{site:.15g}" if isinstance(site, float) else str(site).strip()
            if name and sites.setdefault(str(subject), name) != name:
                raise ComparisonError(
                    f"scores: subject {subject} has sites {sites[str(subject)]} and {name}, "
                    "expected one. Correct it, or take the column site out."
                )
    return sites
