"""Predicted against reference volumes, arm by arm: how far the mL of a mask can be relied on."""

import pandas as pd

from hemaseg.comparison.description import subject_means
from hemaseg.comparison.score_tables import KEYS, score_cells
from hemaseg.statistics.agreement import concordance, limits_of_agreement, proportional_bias

VOLUMES = ("prediction_ml", "reference_ml")
"""Columns of a score table; without one of them nothing here is defined."""


def subject_volumes(scores: pd.DataFrame) -> pd.DataFrame:
    """The volumes of each subject in each arm, means over its runs.

    A subject without a lesion has a reference volume, 0 mL, and counts.

    Args:
        scores: As for `hemaseg.comparison.paired.compare`.

    Returns:
        Columns arm, subject, prediction_ml, reference_ml, mean_ml (of the two), difference_ml
        (predicted minus reference); arms in the order of the scores, subjects sorted. NaN where a
        volume is undefined in any run or the scores have none.

    Raises:
        ComparisonError: As `score_cells`, for the two columns.
    """
    known = scores.reindex(columns=[*KEYS, *VOLUMES])
    prediction, reference = (subject_means(score_cells(known, name)) for name in VOLUMES)
    return pd.concat(
        pd.DataFrame(
            {
                "arm": arm,
                "subject": prediction.index,
                "prediction_ml": prediction[arm].to_numpy(),
                "reference_ml": reference[arm].to_numpy(),
                "mean_ml": ((prediction[arm] + reference[arm]) / 2).to_numpy(),
                "difference_ml": (prediction[arm] - reference[arm]).to_numpy(),
            }
        )
        for arm in prediction.columns
    ).reset_index(drop=True)


def volume_agreement(volumes: pd.DataFrame, *, confidence: float = 0.95) -> pd.DataFrame:
    """One row per arm: how predicted and reference volumes agree, a subject counting once.

    Args:
        volumes: As `subject_volumes` returns them.
        confidence: Of the intervals.

    Returns:
        Columns arm, num_subjects (defined), num_undefined, num_without_lesion (of the defined),
        bias_ml, sd_ml, lower_limit_ml, upper_limit_ml, concordance, each but the SD with its
        interval, slope (mL per mL) and slope_p. NaN as in `hemaseg.statistics.agreement`.
    """
    rows = []
    for arm, own in volumes.groupby("arm", sort=False):
        defined = own.dropna(subset=["difference_ml"])
        limits = limits_of_agreement(defined["difference_ml"], confidence=confidence)
        pair = (defined["prediction_ml"], defined["reference_ml"])
        agreement = concordance(*pair, confidence=confidence)
        trend = proportional_bias(*pair)
        rows.append(
            {
                "arm": arm,
                "num_subjects": len(defined),
                "num_undefined": len(own) - len(defined),
                "num_without_lesion": int((defined["reference_ml"] == 0).sum()),
                "bias_ml": limits.bias,
                "bias_ci_low_ml": limits.bias_interval.low,
                "bias_ci_high_ml": limits.bias_interval.high,
                "sd_ml": limits.sd,
                "lower_limit_ml": limits.low,
                "lower_limit_ci_low_ml": limits.low_interval.low,
                "lower_limit_ci_high_ml": limits.low_interval.high,
                "upper_limit_ml": limits.high,
                "upper_limit_ci_low_ml": limits.high_interval.low,
                "upper_limit_ci_high_ml": limits.high_interval.high,
                "concordance": agreement.coefficient,
                "concordance_ci_low": agreement.interval.low,
                "concordance_ci_high": agreement.interval.high,
                "slope": trend.slope,
                "slope_p": trend.p,
            }
        )
    return pd.DataFrame(rows)
