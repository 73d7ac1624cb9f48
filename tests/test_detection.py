"""Subjects and lesions counted by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from hemaseg.comparison.detection import detection
from hemaseg.statistics.proportions import wilson_interval

NAN = math.nan

# Subjects with a lesion: s0, s1, s2; without: s3, s4. In two runs: s0 and s3.
_ROWS = [
    # subject, seed, dice, prediction_pixels, reference_pixels, lesions, detected, false
    ("s0", 0, 0.0, 4, 9, 2, 0, 1),
    ("s0", 1, 0.5, 4, 9, 2, 1, 0),
    ("s1", 0, 0.0, 0, 5, 1, 0, 0),
    ("s2", 0, 0.8, 7, 6, 3, 3, 2),
    ("s3", 0, NAN, 0, 0, 0, 0, 0),
    ("s3", 1, 0.0, 3, 0, 0, 0, 2),
    ("s4", 0, NAN, 0, 0, 0, 0, 0),
]
_COLUMNS = [
    *("subject", "seed", "dice", "prediction_pixels", "reference_pixels"),
    *("num_reference_lesions", "num_detected_lesions", "num_false_lesions"),
]


def table() -> pd.DataFrame:
    own = pd.DataFrame(_ROWS, columns=_COLUMNS).assign(fold=0)
    # Arm b marks nothing.
    nothing = own.assign(
        dice=own["dice"].where(own["reference_pixels"] == 0, 0.0).where(own["dice"].notna()),
        prediction_pixels=0,
        num_detected_lesions=0,
        num_false_lesions=0,
    )
    nothing.loc[nothing["reference_pixels"] == 0, "dice"] = NAN
    return pd.concat([own.assign(arm="a"), nothing.assign(arm="b")], ignore_index=True)


def test_a_subject_counts_once_and_by_its_share_of_runs() -> None:
    a, b = detection(table(), confidence=0.9).to_dict(orient="records")
    assert a["arm"] == "a"
    assert (a["num_marked"], a["num_without_lesion"]) == (0.5, 2)
    assert (a["num_missed"], a["num_with_lesion"]) == (1.5, 3)
    # s0: 0 and 1 of 2 lesions detected, 1 and 0 false; s3: 0 and 2 false.
    assert (a["num_detected_lesions"], a["num_reference_lesions"]) == (3.5, 6)
    assert a["false_lesions_per_subject"] == pytest.approx((0.5 + 0 + 2 + 1 + 0) / 5)
    for what, num, total in (("marked", 0.5, 2), ("missed", 1.5, 3)):
        interval = wilson_interval(num, total, confidence=0.9)
        assert (a[f"{what}_ci_low"], a[f"{what}_ci_high"]) == (interval.low, interval.high)
    assert (b["num_marked"], b["num_missed"]) == (0, 3)
    assert (b["num_detected_lesions"], b["false_lesions_per_subject"]) == (0, 0)


@pytest.mark.parametrize(
    ("missing", "undefined"),
    [
        ("reference_pixels", "without_lesion marked with_lesion missed"),
        ("prediction_pixels", "without_lesion marked"),
        ("dice", "with_lesion missed"),
        ("num_detected_lesions", "detected_lesions reference_lesions"),
    ],
)
def test_what_a_missing_column_would_tell_is_undefined_and_not_0(
    missing: str, undefined: str
) -> None:
    whole, found = detection(table()), detection(table().drop(columns=missing))
    names = [f"num_{name}" for name in undefined.split()]
    assert found[names].isna().all(axis=None)
    rest = [name for name in found if name not in names and "_ci_" not in str(name)]
    pd.testing.assert_frame_equal(found[rest], whole[rest])


def test_nobody_without_a_lesion_is_0_of_0_without_an_interval() -> None:
    scores = table()
    found = detection(scores[scores["reference_pixels"] > 0]).iloc[0]
    assert (found["num_without_lesion"], found["num_marked"]) == (0, 0)
    assert np.isnan(found["marked_ci_high"])


def test_a_subject_that_is_undefined_in_a_run_is_left_out() -> None:
    scores = table()
    scores.loc[0, ["dice", "num_false_lesions"]] = NAN
    found = detection(scores).iloc[0]
    assert (found["num_missed"], found["num_with_lesion"]) == (1, 2)
    assert found["false_lesions_per_subject"] == pytest.approx((0 + 2 + 1 + 0) / 4)


def test_a_subject_whose_marks_are_unknown_in_a_run_is_left_out() -> None:
    scores = table()
    scores.loc[5, "prediction_pixels"] = NAN
    found = detection(scores).iloc[0]
    assert (found["num_marked"], found["num_without_lesion"]) == (0, 1)
