import os
import zipfile
from pathlib import Path

import pytest

from hemaseg.dicom.places import Place, one_family, opener
from hemaseg.errors import ScanError
from hemaseg.scans.screening import Screen


def contents(path: Path) -> dict[str, bytes]:
    screen = Screen(str(path))
    found = {}
    with opener(path, screen) as (places, open_place):
        for place in places:
            with open_place(place) as stream:
                found[place.member or str(place.file.relative_to(path))] = stream.read()
    return found


def test_files_of_a_file_a_folder_and_an_archive(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1").write_bytes(b"one")
    (tmp_path / "a/2").write_bytes(b"two")
    with zipfile.ZipFile(tmp_path / "b", "w") as archive:
        archive.write(tmp_path / "a/1", "c/1")
    assert contents(tmp_path / "a/1") == {".": b"one"}
    assert contents(tmp_path / "a") == {"1": b"one", "2": b"two"}
    assert contents(tmp_path / "b") == {"c/1": b"one"}
    # An archive among files is a file.
    assert contents(tmp_path).keys() == {"a/1", "a/2", "b"}


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.dcm", ".dcm"), ("a.DCM", ".dcm"), ("IM0001", ""), ("1.2.840.7", ""), ("a.b/c", "")],
)
def test_suffixes(name: str, suffix: str) -> None:
    assert Place(Path(name)).suffix == suffix
    assert Place(Path("x.zip"), name).suffix == suffix


def test_folders() -> None:
    assert Place(Path("a/b")).folder == Place(Path("a/c")).folder != Place(Path("a/b/c")).folder
    assert Place(Path("x.zip"), "a/b").folder == "a"


def test_what_messages_show() -> None:
    path = Path("/data/Doe")
    assert Place(path).shown(path, ["Doe"]) == "/data/Doe"
    assert Place(path / "DOE/1.dcm").shown(path, ["Doe"]) == "/data/Doe/[...]/1.dcm"
    assert Place(path, "doe_1.dcm").shown(path, ["Doe"]) == "/data/Doe/[...]_1.dcm"


@pytest.mark.parametrize(
    ("error", "kind", "shown"),
    [
        (FileNotFoundError(2, "gone", "Doe"), "missing", "no such file"),
        (PermissionError(13, "locked", "Doe"), "no-permission", "may not be read"),
        (OSError(5, "Input/output error", "Doe"), "unreadable", "Input/output error, expected"),
        (ValueError("Doe"), "unreadable", "its content makes no sense"),
        (RecursionError("Doe"), "unreadable", "its content makes no sense"),
        (MemoryError(), "unreadable", "its content makes no sense"),
        (ScanError("as it is", kind="bits"), "bits", "as it is"),
    ],
)
def test_one_family_of_errors(error: Exception, kind: str, shown: str) -> None:
    with pytest.raises(ScanError) as caught, one_family(Screen("scan")):
        raise error
    assert caught.value.kind == kind
    assert shown in str(caught.value)
    assert "Doe" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        contents(tmp_path / "nothing")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a").touch(mode=0)
    with pytest.raises(PermissionError):
        contents(tmp_path)
