from pathlib import Path

import pytest

from hemaseg.errors import ScanError
from hemaseg.intake.scan_lists import Wish, read_scan_list
from hemaseg.scans.screening import ReadOptions


def read(folder: Path, text: str | bytes) -> list[Wish]:
    path = folder / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_scan_list(path, ReadOptions())


def test_paths_are_relative_to_the_list(tmp_path: Path) -> None:
    rows = "name,image,series,modality\na,scans/1.nii,,CT\n,../2,suggested,\n,/x/3.nii,2,MRI\n"
    assert read(tmp_path, "\ufeff" + rows.replace("\n", "\r\n")) == [
        Wish(tmp_path / "scans/1.nii", "a", "CT", None),
        Wish(tmp_path.parent / "2", "", "", "suggested"),
        Wish(Path("/x/3.nii"), "", "MRI", "2"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"0 rows with the columns , expected at least one row and the column image"),
        ("image\n", "0 rows with the columns image"),
        ("file\na.nii\n", "1 rows with the columns file"),
        ("image,subject\na.nii,p1\n", "columns image, subject.* cohort.csv"),
        ("image,name\na.nii\n", "cannot be read as a table"),
        (b"image\n\xff\xfe\n", "cannot be read as a table"),
        ('image\n"a', "cannot be read as a table"),
        ("image,name\n,a\n", "row 2 has image '', name 'a'"),
        ("image,modality\na.nii,CT\nb.nii,PET\n", "row 3 has .* modality 'PET', expected"),
        ("image,name\na.nii,x\nb.nii,x\n", "row 3 has image 'b.nii', name 'x'"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    if text == "":
        text = "\n"
    with pytest.raises(ScanError, match=words) as caught:
        read(tmp_path, text)
    assert caught.value.kind == "scan-list"
    assert str(caught.value).startswith(str(tmp_path / "list.csv"))


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="no such file") as caught:
        read_scan_list(tmp_path / "none.csv", ReadOptions())
    assert caught.value.kind == "missing"
