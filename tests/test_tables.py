"""Tables of scores written and read back, and their summary."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemaseg.errors import EvaluationError
from hemaseg.evaluation.tables import (
    BATCH_COLUMNS,
    SLICE_COLUMNS,
    SUBJECT_COLUMNS,
    Scores,
    read_scores,
    score_table,
    summarize,
    write_scores,
)


def subject_row(subject: str, **values: object) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(SUBJECT_COLUMNS, 0)
    return row | {"subject": subject, "site": ""} | values


def slice_row(number: int | None, **values: object) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(SLICE_COLUMNS, 0)
    row |= {"subject": "p", "scan": "p", "slice": number, "has_lesion": False, "false_alarm": False}
    return row | values


def make_scores() -> Scores:
    """Three subjects (one without lesion, one missed) with four slices and one batch."""
    subjects = [
        subject_row("0001", dice=0.8, hd95_mm=1 / 3, reference_pixels=9, num_reference_lesions=2),
        subject_row("NA", site="None", dice=math.nan, hd95_mm=math.nan),
        subject_row('a,"b', dice=0.0, hd95_mm=math.inf, reference_pixels=4, num_false_lesions=1),
    ]
    slices = [
        slice_row(1, dice=0.6, reference_pixels=5, has_lesion=True),
        slice_row(2, dice=0.0, reference_pixels=4, has_lesion=True),
        slice_row(None, dice=math.nan),
        slice_row(4, dice=0.0, prediction_pixels=3, false_alarm=True),
    ]
    batches = [{"batch": 1, "num_slices": 2, "dice": 0.3, "pooled_dice": 0.25}]
    return Scores(
        score_table(subjects, SUBJECT_COLUMNS),
        score_table(slices, SLICE_COLUMNS),
        score_table(batches, BATCH_COLUMNS),
    )


def assert_equal(found: Scores, expected: Scores) -> None:
    pd.testing.assert_frame_equal(found.subjects, expected.subjects, check_exact=True)
    pd.testing.assert_frame_equal(found.slices, expected.slices, check_exact=True)
    pd.testing.assert_frame_equal(found.batches, expected.batches, check_exact=True)


def test_written_tables_read_back_the_same(tmp_path: Path) -> None:
    files = write_scores(make_scores(), tmp_path / "new" / "metrics.csv")
    assert [path.name for path in files] == [
        "metrics.csv",
        "metrics_slices.csv",
        "metrics_batches.csv",
    ]
    assert_equal(read_scores(files[0]), make_scores())


def test_undefined_is_an_empty_field_and_not_zero(tmp_path: Path) -> None:
    subjects, slices, _ = write_scores(make_scores(), tmp_path / "metrics.csv")
    lines = subjects.read_text(encoding="utf-8").splitlines()
    assert lines[0] == ",".join(SUBJECT_COLUMNS)
    assert lines[2].startswith("NA,None,0,,0.0,0.0,0.0,,")
    assert lines[3].startswith('"a,""b",,0,0.0,0.0,0.0,0.0,inf,')
    assert slices.read_text(encoding="utf-8").splitlines()[3].startswith("p,p,,,")


def test_tables_without_rows_keep_their_types(tmp_path: Path) -> None:
    empty = Scores(
        *(score_table([], columns) for columns in (SUBJECT_COLUMNS, SLICE_COLUMNS, BATCH_COLUMNS))
    )
    write_scores(empty, tmp_path / "metrics.csv")
    assert_equal(read_scores(tmp_path / "metrics.csv"), empty)
    assert empty.slices["has_lesion"].dtype == bool


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0) | st.just(math.nan), min_size=1, max_size=5))
def test_numbers_survive_exactly(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    path = tmp_path_factory.getbasetemp() / "exact" / "metrics.csv"
    subjects = score_table(
        [subject_row("p", assd_mm=value, volume_error_ml=value) for value in values],
        SUBJECT_COLUMNS,
    )
    scores = Scores(subjects, score_table([], SLICE_COLUMNS), score_table([], BATCH_COLUMNS))
    write_scores(scores, path)
    assert_equal(read_scores(path), scores)


def test_refuses_a_name_that_is_no_csv(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"scores\.txt: expected a name ending in \.csv"):
        write_scores(make_scores(), tmp_path / "scores.txt")


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EvaluationError, match=r"metrics\.csv: cannot be written"):
        write_scores(make_scores(), tmp_path / "file" / "metrics.csv")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("metrics.csv", "subject,site", "person,site", "columns person, site, .*expected subject"),
        ("metrics.csv", "0.8,", "high,", "row 2: dice 'high', expected 0 to 1, or nothing"),
        ("metrics.csv", "0.8,", "nan,", "row 2: dice 'nan', expected 0 to 1"),
        ("metrics.csv", "0.8,", "inf,", "row 2: dice 'inf', expected 0 to 1"),
        ("metrics.csv", "0.8,", "1.1,", "row 2: dice '1.1', expected 0 to 1"),
        (
            "metrics.csv",
            "0.3333333333333333,",
            "-2.0,",
            "row 2: hd95_mm '-2.0', exp",
        ),
        ("metrics.csv", "NA,None,0,", "NA,None,,", "row 3: num_slices '', expected a whole"),
        ("metrics.csv", "NA,None,0,", f"NA,None,{2**63},", "row 3: num_slices '9223.*, expected"),
        ("metrics.csv", "NA,None,0,", "NA,None,", "row 3: 22 fields, expected 23"),
        ("metrics_slices.csv", "True,False", "yes,False", "row 2: has_lesion 'yes', expected True"),
        ("metrics_slices.csv", "p,p,4,", "p,p,-4,", "row 5: slice '-4', expected a whole number"),
        ("metrics_batches.csv", "1,2,0.3", "1,2.5,0.3", r"row 2: num_slices '2\.5', expected"),
        ("metrics_batches.csv", "batch", '"batch', "metrics_batches.csv: cannot be read"),
    ],
)
def test_refuses_tables_that_were_damaged(
    tmp_path: Path, file: str, old: str, new: str, message: str
) -> None:
    write_scores(make_scores(), tmp_path / "metrics.csv")
    path = tmp_path / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(EvaluationError, match=message):
        read_scores(tmp_path / "metrics.csv")


def test_tables_without_the_tolerance_of_earlier_versions_are_read(tmp_path: Path) -> None:
    scores = make_scores()
    for table in (scores.subjects.drop(columns="surface_tolerance_mm"), scores.subjects):
        files = write_scores(Scores(table, scores.slices, scores.batches), tmp_path / "m.csv")
        found = read_scores(files[0]).subjects
        assert list(found) == list(SUBJECT_COLUMNS)
        assert found["surface_tolerance_mm"].isna().all() == (table is not scores.subjects)
        assert found["surface_tolerance_mm"].dtype == "float64"


def test_refuses_what_is_missing_empty_or_no_text(tmp_path: Path) -> None:
    files = write_scores(make_scores(), tmp_path / "metrics.csv")
    files[2].write_bytes(b"")
    with pytest.raises(EvaluationError, match=r"metrics_batches\.csv: cannot be read"):
        read_scores(files[0])
    files[2].write_bytes(b"\xff\xfe")
    with pytest.raises(EvaluationError, match=r"metrics_batches\.csv: cannot be read .*utf-8"):
        read_scores(files[0])
    files[1].unlink()
    with pytest.raises(EvaluationError, match=r"metrics_slices\.csv: cannot be read .*No such"):
        read_scores(files[0])


def test_summary_counts_what_is_undefined_missed_and_invented() -> None:
    summary = summarize(make_scores())
    assert summary.num_subjects == 3
    assert summary.num_missed_subjects == 1
    assert (summary.num_slices, summary.num_slices_with_lesion) == (4, 2)
    assert (summary.num_missed_slices, summary.num_false_alarm_slices) == (1, 1)
    assert (summary.num_reference_lesions, summary.num_false_lesions) == (2, 1)
    assert "2 subjects with a lesion, 1 missed" in summary.sentences[0]
    assert "1 without, 0 of them falsely marked." in summary.sentences[0]
    assert "2 slices with a lesion, 1 missed; 2 without, 1 false alarms" in summary.sentences[1]
    assert "2 lesions, 0 detected; 1 false lesions" in summary.sentences[2]
    assert "undefined if both masks are empty" in summary.sentences[3]


def summary_row(unit: str, metric: str, scores: Scores | None = None) -> list[float]:
    table = summarize(make_scores() if scores is None else scores).metrics
    chosen = table[(table["unit"] == unit) & (table["metric"] == metric)]
    return [float(value) for value in chosen.iloc[0, 2:]]


def test_summary_statistics() -> None:
    # num, num_undefined, mean, SD, median, quartiles
    expected = [2, 0, 0.4, np.std([0.8, 0], ddof=1), 0.4, 0.2, 0.6]
    assert summary_row("subject with lesion", "dice") == pytest.approx(expected)
    assert summary_row("subject", "volume_error_ml")[:3] == [3, 0, 0]
    assert summary_row("slice with lesion", "dice")[:3] == pytest.approx([2, 0, 0.3])
    np.testing.assert_equal(
        summary_row("batch", "pooled_dice"), [1, 0, 0.25, math.nan, 0.25, 0.25, 0.25]
    )


def test_an_infinite_distance_makes_the_mean_infinite() -> None:
    np.testing.assert_equal(
        summary_row("subject with lesion", "hd95_mm"), [2, 0, math.inf, math.nan, *[math.inf] * 3]
    )


def test_a_metric_that_is_never_defined() -> None:
    scores = make_scores()
    scores.subjects["assd_mm"] = math.nan
    np.testing.assert_equal(
        summary_row("subject with lesion", "assd_mm", scores), [0, 2, *[math.nan] * 5]
    )


def test_a_false_alarm_does_not_change_the_mean_over_lesions() -> None:
    """A subject without lesion counts 0 if the tool errs, and not at all if it does not."""
    scores = make_scores()
    right = summarize(scores)
    scores.subjects.loc[1, ["dice", "hd95_mm", "prediction_pixels"]] = [0.0, math.inf, 7]
    wrong = summarize(scores)
    pd.testing.assert_frame_equal(right.metrics, wrong.metrics)
    assert (right.num_falsely_marked_subjects, wrong.num_falsely_marked_subjects) == (0, 1)
    assert (wrong.num_subjects, wrong.num_subjects_with_lesion) == (3, 2)


def test_summary_as_json_knows_undefined_from_infinite() -> None:
    content = json.loads(summarize(make_scores()).to_json())
    assert content["num_missed_subjects"] == 1
    (row,) = (
        row
        for row in content["metrics"]
        if (row["unit"], row["metric"]) == ("subject with lesion", "hd95_mm")
    )
    assert (row["num"], row["mean"], row["sd"], row["median"]) == (2, "inf", None, "inf")
