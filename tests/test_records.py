import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from hemaseg.errors import ConfigError
from hemaseg.metrics.measurement import MEASUREMENT_COLUMNS
from hemaseg.prediction.records import (
    COLUMNS,
    CaseRecord,
    FindingRecord,
    PredictionTable,
    Row,
    Task,
    done_row,
    failed_row,
    read_case_record,
    rows_json,
    without_nan,
)
from hemaseg.training.checkpoint import write_record

RECORD = CaseRecord(
    status="complete",
    name="a",
    input="scans/a.nii",
    task=Task(input_sha256="1" * 64, model_sha256="2" * 64, hemaseg="0", options={"accept": []}),
    files=["a/a_mask.nii.gz"],
    modality="CT",
    findings=[
        FindingRecord(kind="gantry-tilt", message="tilted 18 degrees"),
        FindingRecord(kind="left-out", message="1 file"),
        FindingRecord(kind="left-out", message="1 series"),
    ],
    measurement={
        **dict.fromkeys(MEASUREMENT_COLUMNS),
        **{"volume_ml": 1.5, "slice_areas_mm2": "0;3"},
    },
    seconds={"reading": 1.0, "network": 2.004},
)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_record_comes_back(tmp_path: Path) -> None:
    write_record(RECORD, tmp_path / "a.json")
    assert read_case_record(tmp_path / "a.json") == RECORD


@pytest.mark.parametrize("text", ["", "{}", '{"format": "hemaseg-case-1"', '{"format": "other"}'])
def test_what_is_no_record_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert read_case_record(tmp_path / "a.json") is None
    assert read_case_record(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    "change",
    [
        {"name": "b"},
        {"measurement": {}},
        {"measurement": RECORD.measurement | {"status": "failed"}},
        {"measurement": RECORD.measurement | {"volume_ml": "1.5"}},
        {"measurement": RECORD.measurement | {"volume_ml": -1.5}},
        {"measurement": RECORD.measurement | {"slice_areas_mm2": None}},
    ],
)
def test_a_record_whose_row_would_be_wrong_is_none(
    tmp_path: Path, change: dict[str, object]
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(RECORD.model_dump() | change))
    assert read_case_record(tmp_path / "a.json") is None


def test_rows_have_the_columns_and_undefined_is_empty(tmp_path: Path) -> None:
    failed = failed_row("b", "b.nii", "constant: b.nii: all 0")
    PredictionTable(tmp_path, [], force=False).put([done_row(RECORD), failed])
    done, bad = rows_of(tmp_path)
    assert tuple(done) == COLUMNS
    assert {k: v for k, v in done.items() if v} == {
        "name": "a",
        "input": "scans/a.nii",
        "status": "done",
        "modality": "CT",
        "volume_ml": "1.5",
        "slice_areas_mm2": "0;3",
        "findings": "gantry-tilt;left-out",
        "model": "222222222222",
        "seconds": "3.0",
    }
    assert {k: v for k, v in bad.items() if v} == {
        "name": "b",
        "input": "b.nii",
        "status": "failed",
        "problem": "constant: b.nii: all 0",
    }


def test_rows_of_earlier_commands_stay_and_those_of_one_name_are_replaced(tmp_path: Path) -> None:
    PredictionTable(tmp_path, [], force=False).put(
        [failed_row(name, name, "") for name in ("a", "b")]
    )
    PredictionTable(tmp_path, [], force=False).put([done_row(RECORD)])
    assert [(row["name"], row["status"]) for row in rows_of(tmp_path)] == [
        ("a", "done"),
        ("b", "failed"),
    ]


def test_rows_are_in_the_order_of_the_names_whenever_they_come(tmp_path: Path) -> None:
    def row(name: str) -> Row:
        return failed_row(name, name, "")

    PredictionTable(tmp_path, [], force=False).put([row("old"), row("c")])
    table = PredictionTable(tmp_path, ["a", "b", "c", "d"], force=False)
    for coming, expected in (("d", "old c d"), ("a", "old c a d"), ("b", "old c a b d")):
        table.put([row(coming)])
        assert [found["name"] for found in rows_of(tmp_path)] == expected.split()


def test_a_failure_does_not_replace_a_result_unasked(tmp_path: Path) -> None:
    failed = failed_row("a", "a.nii", "exists: a.json")
    PredictionTable(tmp_path, [], force=False).put([done_row(RECORD)])
    PredictionTable(tmp_path, [], force=False).put([failed])
    assert [row["status"] for row in rows_of(tmp_path)] == ["done"]
    PredictionTable(tmp_path, [], force=True).put([failed])
    assert [row["status"] for row in rows_of(tmp_path)] == ["failed"]


@pytest.mark.parametrize("text", ["subject,slice\n1,2\n", "", "name,\xff\n"])
def test_another_table_is_not_replaced_unasked(tmp_path: Path, text: str) -> None:
    (tmp_path / "predictions.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"predictions\.csv: exists with other columns"):
        PredictionTable(tmp_path, [], force=False)
    PredictionTable(tmp_path, [], force=True).put([done_row(RECORD)])
    assert [row["name"] for row in rows_of(tmp_path)] == ["a"]


@pytest.mark.parametrize("damage", [lambda text: text[:-9], lambda text: text[:-1] + ",7\n"])
def test_a_table_with_a_row_cut_or_too_long_is_not_added_to(
    tmp_path: Path, damage: Callable[[str], str]
) -> None:
    PredictionTable(tmp_path, [], force=False).put([done_row(RECORD)])
    path = tmp_path / "predictions.csv"
    path.write_text(damage(path.read_text()))
    with pytest.raises(ConfigError, match=r"predictions\.csv: exists .* or damaged"):
        PredictionTable(tmp_path, [], force=False)
    PredictionTable(tmp_path, [], force=True).put([failed_row("b", "b", "")])
    assert [row["name"] for row in rows_of(tmp_path)] == ["b"]


def test_names_that_are_not_utf_8_can_be_written(tmp_path: Path) -> None:
    row = failed_row("M_ller", "M\udcfcller.nii", "missing")
    PredictionTable(tmp_path, [], force=False).put([row])
    assert rows_of(tmp_path)[0]["input"] == "M?ller.nii"


def test_json_has_null_for_what_is_undefined() -> None:
    row = {"name": "a", "volume_ml": math.nan, "num_lesions": 0, "a_mm": None}
    expected = {"name": "a", "volume_ml": None, "num_lesions": 0, "a_mm": None}
    assert json.loads(rows_json([row])) == [expected]
    assert without_nan(row) == expected
