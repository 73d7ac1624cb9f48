from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemaseg.intake.names import path_parts, safe_name, unique_names


def test_parts_of_files_folders_and_relative_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.7").mkdir()
    assert path_parts(tmp_path / "p.7" / "ct.nii.gz")[:3] == ("ct", "p.7", tmp_path.name)
    assert path_parts(tmp_path / "p.7")[:2] == ("p.7", tmp_path.name)
    monkeypatch.chdir(tmp_path / "p.7")
    assert path_parts(Path())[0] == path_parts(Path("../p.7"))[0] == "p.7"


def test_only_names_that_clash_get_longer() -> None:
    parts = [("ct", "a", "x"), ("ct", "a", "y"), ("CT", "b", "x"), ("flair", "a", "x")]
    assert unique_names(parts) == ["x_a_ct", "y_a_ct", "b_CT", "flair"]


def test_what_no_folder_tells_apart_is_numbered() -> None:
    assert unique_names([("a",), ("A",), ("a",), ("a-2",)]) == ["a", "A-2", "a-3", "a-2-2"]


@given(st.lists(st.lists(st.text(max_size=3), min_size=1, max_size=3).map(tuple), max_size=8))
def test_names_are_unique_and_safe(parts: list[tuple[str, ...]]) -> None:
    names = unique_names(parts)
    assert len({name.casefold() for name in names}) == len(parts)
    assert all(name == safe_name(name) for name in names)


@given(st.text())
def test_a_safe_name_is_a_file_in_its_folder(text: str) -> None:
    name = safe_name(text)
    assert Path("folder", name).parts == ("folder", name)
    assert not name.startswith((".", "-"))
    assert len(name.encode()) <= 120
    assert safe_name(name) == name


def test_names_that_are_not_utf_8_become_safe() -> None:
    assert safe_name("M\udcfcller") == "M_ller"
