"""Volumes of subjects by hand, and that their agreement is that of `statistics.agreement`."""

import math

import numpy as np
import pandas as pd
import pytest

from hemaseg.comparison.volumes import subject_volumes, volume_agreement
from hemaseg.errors import ComparisonError
from hemaseg.statistics.agreement import concordance, limits_of_agreement, proportional_bias

NAN = math.nan


def table(prediction_ml: list[float], reference_ml: list[float]) -> pd.DataFrame:
    """Arms b and a; subjects s0, s1, s2, s3; s0 in two runs. Values of b, then of a."""
    return pd.DataFrame(
        {
            "arm": ["b"] * 5 + ["a"] * 5,
            "subject": ["s0", "s0", "s1", "s2", "s3"] * 2,
            "fold": 0,
            "seed": [0, 1, 0, 0, 0] * 2,
            "prediction_ml": prediction_ml,
            "reference_ml": reference_ml,
        }
    )


REFERENCES = [10.0, 10.0, 4.0, 0.0, 30.0]
SCORES = table([8, 10, 5, 1, 24, 8, NAN, 5, 0, 33], REFERENCES * 2)


def test_a_subject_counts_once_with_its_mean_and_a_subject_without_lesion_with_0_ml() -> None:
    volumes = subject_volumes(SCORES)
    assert volumes["arm"].tolist() == ["b"] * 4 + ["a"] * 4
    assert volumes["subject"].tolist() == ["s0", "s1", "s2", "s3"] * 2
    own = volumes[:4]
    assert own["prediction_ml"].tolist() == [9, 5, 1, 24]
    assert own["reference_ml"].tolist() == [10, 4, 0, 30]
    assert own["mean_ml"].tolist() == [9.5, 4.5, 0.5, 27]
    assert own["difference_ml"].tolist() == [-1, 1, 1, -6]
    # One run of s0 is undefined in arm a.
    np.testing.assert_equal(volumes["difference_ml"].to_numpy()[4:], [NAN, 1, 0, 3])


def test_agreement_of_each_arm_is_that_of_its_defined_subjects() -> None:
    found = volume_agreement(subject_volumes(SCORES), confidence=0.9).set_index("arm")
    assert found.index.tolist() == ["b", "a"]
    assert found["num_subjects"].tolist() == [4, 3]
    assert found["num_undefined"].tolist() == [0, 1]
    assert found["num_without_lesion"].tolist() == [1, 1]
    limits = limits_of_agreement([-1, 1, 1, -6], confidence=0.9)
    predictions, references = [9, 5, 1, 24], [10, 4, 0, 30]
    agreement = concordance(predictions, references, confidence=0.9)
    trend = proportional_bias(predictions, references)
    expected = [
        *(limits.bias, limits.bias_interval.low, limits.bias_interval.high, limits.sd),
        *(limits.low, limits.low_interval.low, limits.low_interval.high),
        *(limits.high, limits.high_interval.low, limits.high_interval.high),
        *(agreement.coefficient, agreement.interval.low, agreement.interval.high),
        *(trend.slope, trend.p),
    ]
    assert found.iloc[0].to_list()[3:] == expected
    assert not np.isnan(expected).any()


@pytest.mark.parametrize("column", ["prediction_ml", "reference_ml"])
def test_without_volumes_all_is_undefined_and_counted(column: str) -> None:
    for scores in (SCORES.drop(columns=column), SCORES.assign(**{column: NAN})):
        found = volume_agreement(subject_volumes(scores))
        assert found["num_subjects"].tolist() == [0, 0]
        assert found["num_undefined"].tolist() == [4, 4]
        assert found.iloc[:, 4:].isna().all(axis=None)


def test_a_volume_that_is_no_number_is_refused() -> None:
    with pytest.raises(ComparisonError, match=r"reference_ml must hold numbers, .* found 'none'"):
        subject_volumes(SCORES.assign(reference_ml="none"))


@pytest.mark.parametrize("column", ["prediction_ml", "reference_ml"])
def test_a_volume_below_0_is_refused_and_not_averaged(column: str) -> None:
    """Such as -1 for a mask that a tool could not make."""
    scores = SCORES.assign(**{column: SCORES[column].where(SCORES["subject"] != "s1", -1.0)})
    with pytest.raises(
        ComparisonError, match=rf"{column} of arm b, subject s1 is -1, .* 0 or more"
    ):
        subject_volumes(scores)
