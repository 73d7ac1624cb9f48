import os
from pathlib import Path

import pytest

from hemaseg.errors import ScanError
from hemaseg.scans.folders import MAX_DEPTH, files_below
from hemaseg.scans.screening import Screen


def names(folder: Path) -> list[str]:
    return [str(file.relative_to(folder)) for file in files_below(folder, Screen(str(folder)))]


def refusal(folder: Path) -> ScanError:
    with pytest.raises(ScanError) as caught:
        names(folder)
    return caught.value


def test_files_come_in_natural_order_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b/10", "b/9", "a", ".hidden", ".git/x", "c/.x"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    assert names(tmp_path) == ["a", "b/9", "b/10"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1").write_bytes(b"")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert names(tmp_path) == ["a/1", "b/1"]
    (tmp_path / "a/up").symlink_to(tmp_path)
    error = refusal(tmp_path)
    assert error.kind == "folder-loop"
    assert "a/up" in str(error)


def test_depth_is_limited(tmp_path: Path) -> None:
    path = tmp_path
    for _ in range(MAX_DEPTH - 1):
        path /= "d"
    path.mkdir(parents=True)
    (path / "x").write_bytes(b"")
    assert len(names(tmp_path)) == 1
    (path / "d").mkdir()
    error = refusal(tmp_path)
    assert error.kind == "folder-loop"
    assert f"{MAX_DEPTH} folders" in str(error)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_are_left_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    error = refusal(tmp_path)
    assert error.kind == "no-permission"
    assert "locked" in str(error)
