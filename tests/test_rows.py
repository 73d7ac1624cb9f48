"""Rows of CSV files: typed fields, and every fault of a table named with its row."""

import math
from pathlib import Path

import pytest

from hemaseg.cohorts.rows import MAX_PROBLEMS, Row, raise_problems, read_rows
from hemaseg.errors import CohortError

SPACING = ("row_spacing_mm", "column_spacing_mm", "slice_spacing_mm")


def row(**fields: str) -> Row:
    return Row(2, fields, Path("folder"))


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_fields_have_types() -> None:
    found = row(a="x y", b="012", c="1e-3", d="", e="sub/../z.png")
    assert found.text("a") == "x y"
    assert found.count("b") == 12
    assert found.count("d") is None
    assert found.decimal("c") == 0.001
    assert math.isnan(found.decimal("d"))
    assert found.file("e") == Path.cwd() / "folder/z.png"
    assert found.required_file("e") == Path.cwd() / "folder/z.png"
    assert found.file("d") is None


def test_spacing_is_slice_row_column() -> None:
    assert row(**dict(zip(SPACING, ("2", "3", "5"), strict=True))).spacing_mm() == (5, 2, 3)
    assert row(**dict.fromkeys(SPACING, "")).spacing_mm() is None
    some = row(**dict(zip(SPACING, ("2", "", "5"), strict=True))).spacing_mm()
    assert some is not None
    assert math.isnan(some[2])


@pytest.mark.parametrize("text", ["-1", "1.0", "x", " 1", "1" * 19])
def test_other_counts_are_refused(text: str) -> None:
    with pytest.raises(CohortError, match=f"a '{text}', expected a whole number"):
        row(a=text).count("a")


@pytest.mark.parametrize("text", ["nan", "inf", "1,5", "x", "1_0", "\u0663"])
def test_other_numbers_are_refused(text: str) -> None:
    with pytest.raises(CohortError, match=f"a '{text}', expected a finite number"):
        row(a=text).decimal("a")


def test_empty_file_name_is_refused() -> None:
    with pytest.raises(CohortError, match="image is empty, expected the name of a file"):
        row(image="").required_file("image")


def test_rows_have_their_line_and_optional_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '\ufeffb,a\r\n"x\ny",1\r\n\r\nz,2\r\n')
    rows = read_rows(path, required=("a",), optional=("b", "c"))
    assert [found.number for found in rows] == [3, 5]
    assert [found.text("b") for found in rows] == ["x\ny", "z"]
    assert [found.count("a") for found in rows] == [1, 2]
    assert [found.text("c") for found in rows] == ["", ""]
    assert rows[0].folder == tmp_path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", r"columns  \(missing: a, unknown: none\), expected a, b, each once"),
        ("a,x\n1,2\n", r"columns a, x \(missing: none, unknown: x\)"),
        ("a;b\n1;2\n", r"columns a;b \(missing: a, unknown: a;b\).*separated by commas"),
        ("a,a\n1,2\n", r"columns a, a \(missing: none, unknown: none\), expected a, b, each once"),
        ("a,b\n", "0 rows, expected at least one"),
        ("a,b\n1\n1,2\n1,2,3\n", r"2 problems(?s:.*)row 2: 1 fields, expected 2\s+row 4: 3 fields"),
        ('a,b\n"1,2\n', r"cannot be read \(unexpected end of data\)"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(CohortError, match=rf"a\.csv: {found}"):
        read_rows(write(tmp_path / "a.csv", text), required=("a",), optional=("b",))


def test_unreadable_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"a\.csv: cannot be read .*No such file"):
        read_rows(tmp_path / "a.csv", required=("a",))
    (tmp_path / "a.csv").write_bytes(b"a\n\xe4\n")
    with pytest.raises(CohortError, match=r"a\.csv: cannot be read .*byte 0xe4"):
        read_rows(tmp_path / "a.csv", required=("a",))
    # As a study can name its cohort, in TOML.
    with pytest.raises(CohortError, match=r"cannot be read .*null byte"):
        read_rows(tmp_path / "a\0.csv", required=("a",))


def test_problems_are_listed_up_to_a_limit() -> None:
    raise_problems("table", [], "Do so.")
    with pytest.raises(CohortError) as one:
        raise_problems("table", ["x"], "Do so.")
    assert str(one.value) == "table: 1 problem. Do so.\n  x"
    with pytest.raises(CohortError) as many:
        raise_problems("table", [f"p{number}" for number in range(MAX_PROBLEMS + 3)], "Do so.")
    lines = str(many.value).split("\n  ")
    assert lines[0] == f"table: {MAX_PROBLEMS + 3} problems. Do so."
    assert lines[-2:] == [f"p{MAX_PROBLEMS - 1}", "and 3 more"]
