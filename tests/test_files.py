import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemaseg.files import csv_text, file_sha256, natural, whole_file, write_text


def test_an_error_leaves_the_old_content_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_text(path, "old")

    def fail_halfway() -> None:
        with whole_file(path) as partial:
            partial.write_text("half")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        fail_halfway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_reaches_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    replace = Path.replace

    def move(partial: Path, path: Path) -> Path:
        order.append("move")
        return replace(partial, path)

    monkeypatch.setattr(os, "fsync", lambda _: order.append("sync"))
    monkeypatch.setattr(Path, "replace", move)
    write_text(tmp_path / "a", "x")
    assert order[:2] == ["sync", "move"]


def test_the_partial_file_keeps_the_suffix(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.nii.gz") as partial:
        assert partial.name.endswith(".nii.gz")


def test_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a/b.txt", "x")
    assert (tmp_path / "a/b.txt").read_text() == "x"


def test_file_is_readable_like_any_other(tmp_path: Path) -> None:
    plain, whole = tmp_path / "plain", tmp_path / "whole"
    plain.write_text("x")
    write_text(whole, "x")
    assert plain.stat().st_mode == whole.stat().st_mode


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "abc")
    assert file_sha256(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223b00361a3")


@given(st.lists(st.integers(0, 10**6), min_size=1))
def test_natural_order_is_numeric(numbers: list[int]) -> None:
    names = [f"P{number}_x" for number in numbers]
    assert sorted(names, key=natural) == [f"P{number}_x" for number in sorted(numbers)]


def test_natural_order_of_more_digits_than_python_makes_numbers_of() -> None:
    long = "9" * 5000
    assert sorted([f"P1{long}", f"P{long}", "P08", "P7"], key=natural) == [
        *("P7", "P08", f"P{long}", f"P1{long}")
    ]


@given(st.text(), st.text())
def test_natural_order_is_total(first: str, second: str) -> None:
    assert (natural(first) == natural(second)) == (first == second)
    assert (natural(first) < natural(second)) == (not natural(second) <= natural(first))


def test_a_table_has_its_columns_in_order_and_undefined_values_empty() -> None:
    rows: list[dict[str, object]] = [{"b": None, "a": math.nan}, {"a": "x,y", "b": 0.5}]
    assert csv_text(["a", "b"], rows) == 'a,b\n,\n"x,y",0.5\n'
    assert csv_text(("a",), []) == "a\n"
