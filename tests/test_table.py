"""The cohort: order, selection, hash, the file and back, and every field that cannot be right."""

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hemaseg.cohorts.index import index_folder
from hemaseg.cohorts.table import (
    COLUMNS,
    OPTIONAL,
    CaseImage,
    Cohort,
    conflicts,
    read_case,
    read_cohort,
    write_cohort,
)
from hemaseg.errors import CohortError


def case(**changes: Any) -> CaseImage:
    """A slice of 4 x 6 pixels, 5 of them lesion, with voxels of 5 x 0.5 x 0.5 mm."""
    one = CaseImage(
        subject="P1",
        scan="ct",
        site="A",
        modality="CT",
        slice=1,
        image=Path("/data/P1_1.png"),
        mask=Path("/data/P1_1_mask.png"),
        num_rows=4,
        num_columns=6,
        num_slices=1,
        spacing_mm=(5.0, 0.5, 0.5),
        lesion_pixels=5,
        lesion_ml=0.00625,
        sha256="0" * 64,
    )
    return replace(one, **changes)


def unmarked(**changes: Any) -> CaseImage:
    return case(mask=None, lesion_pixels=None, lesion_ml=math.nan, **changes)


def negative(**changes: Any) -> CaseImage:
    return case(lesion_pixels=0, lesion_ml=0.0, **changes)


def save(folder: Path, subject: str, number: int, lesion: int = 2) -> None:
    pixels = np.full((4, 6), number, dtype=np.uint8)
    pixels[0, 0] = len(subject)
    mask = np.zeros((4, 6), dtype=np.uint8)
    mask.flat[:lesion] = 255
    (folder / subject).mkdir(exist_ok=True, parents=True)
    Image.fromarray(pixels).save(folder / subject / f"{number}.png")
    Image.fromarray(mask).save(folder / subject / f"{number}_mask.png")


def test_marked_is_not_the_same_as_having_a_lesion() -> None:
    images = (case(), negative(), unmarked())
    assert [image.is_marked for image in images] == [True, True, False]
    assert [image.has_lesion for image in images] == [True, False, False]


def test_ids_name_subject_scan_and_slice() -> None:
    assert case(slice=12).id == "P1/ct/12"
    assert case(slice=None).id == "P1/ct/"


def test_images_are_ordered_by_subject_scan_and_slice() -> None:
    wanted = [("P2", "a", 9), ("P2", "a", 10), ("P2", "b", 1), ("P10", "a", 2)]
    images = [case(subject=one, scan=scan, slice=number) for one, scan, number in wanted]
    cohort = Cohort(tuple(reversed(images)))
    assert cohort.images == tuple(images)
    assert cohort.subjects == ("P2", "P10")
    assert cohort == Cohort(tuple(images))


def test_selections() -> None:
    cohort = Cohort((case(), unmarked(slice=2), case(subject="P2"), negative(subject="P3")))
    assert [image.id for image in cohort.select(["P1"]).images] == ["P1/ct/1", "P1/ct/2"]
    assert cohort.select(["P3", "P2"]).subjects == ("P2", "P3")
    assert [image.id for image in cohort.select_images(["P1/ct/2"]).images] == ["P1/ct/2"]
    assert [image.id for image in cohort.marked().images] == ["P1/ct/1", "P2/ct/1", "P3/ct/1"]
    with pytest.raises(CohortError, match=r"1 subjects not in it \(P7\), expected some of its 3"):
        cohort.select(["P2", "P7"])
    with pytest.raises(
        CohortError, match=r"1 images not in it \(P1/ct/7\), expected some of its 4"
    ):
        cohort.select_images(["P1/ct/7"])
    with pytest.raises(CohortError, match=r"7 subjects not in it \(0, 1, 2, 3, 4, \.\.\.\)"):
        cohort.select("6543210")


def test_hash_is_of_content_alone() -> None:
    images = (case(), case(slice=2))
    cohort = Cohort(images)
    moved = replace(images[0], image=Path("/x.png"), mask=Path("/y.png"), site="A", modality="")
    assert Cohort((images[1], moved)).sha256 == cohort.sha256
    others = [
        (images[0],),
        (images[0], replace(images[1], subject="P2")),
        (images[0], replace(images[1], scan="mri")),
        (images[0], replace(images[1], slice=3)),
        (images[0], replace(images[1], sha256="1" * 64)),
        (images[0], replace(images[1], lesion_pixels=4, lesion_ml=0.005)),
        (images[0], unmarked(slice=2)),
        (images[0], negative(slice=2)),
    ]
    assert len({cohort.sha256, *(Cohort(other).sha256 for other in others)}) == 9


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"subject": ""}, "subject '', scan 'ct', expected names"),
        ({"scan": ".."}, r"subject 'P1', scan '\.\.', expected names"),
        ({"subject": "a/b"}, "subject 'a/b', expected a name without slashes"),
        ({"scan": "a\\b"}, "scan .*, expected a name without slashes"),
        ({"site": " A"}, "site ' A', expected a name without slashes or outer blanks"),
        ({"subject": "a\nb"}, r"subject 'a\\nb', expected a name"),
        ({"modality": "PET"}, "modality 'PET', expected CT, MRI or nothing"),
        ({"num_rows": 0}, r"\(1, 0, 6\) slices, rows and columns, expected at least 1"),
        (
            {"spacing_mm": (5.0, 0.0, 0.5)},
            r"slice, row and column spacing \(5\.0, 0\.0, 0\.5\), expected 3 positive",
        ),
        (
            {"spacing_mm": (5.0, math.nan, 0.5)},
            r"slice, row and column spacing \(5\.0, nan, 0\.5\), expected 3 positive",
        ),
        (
            {"spacing_mm": (math.inf, 0.5, 0.5)},
            r"slice, row and column spacing \(inf, 0\.5, 0\.5\), expected 3 positive",
        ),
        ({"sha256": "0"}, "sha256 '0', expected 64 hexadecimal digits"),
        ({"lesion_pixels": None}, "lesion_pixels is empty, expected a number for mask /data"),
        ({"mask": None}, "lesion_pixels 5 without mask, expected 0 or nothing"),
        ({"lesion_pixels": 25}, "lesion_pixels 25, expected at most 24"),
        ({"spacing_mm": None}, "lesion_ml 0.00625 without spacing or mask, expected nothing"),
        ({"lesion_ml": 0.0}, r"lesion_ml 0\.0, expected 0\.00625 by the spacing"),
        ({"lesion_ml": 0.007}, r"lesion_ml 0\.007, expected 0\.00625 by the spacing"),
        ({"lesion_ml": math.nan}, r"lesion_ml nan, expected 0\.00625 by the spacing"),
        ({"lesion_pixels": 0}, r"lesion_ml 0\.00625, expected 0 by the spacing"),
    ],
)
def test_impossible_cases_are_refused(changes: dict[str, Any], found: str) -> None:
    with pytest.raises(CohortError, match=rf"P1_1\.png: {found}.*Correct"):
        case(**changes)


def test_sheared_voxels_may_be_smaller_than_their_edges_say() -> None:
    assert case(lesion_ml=0.006).lesion_ml == 0.006


def test_images_that_contradict_each_other_are_refused() -> None:
    twice = (case(), case(image=Path("/data/other.png")))
    with pytest.raises(
        CohortError, match=r"P1_1\.png, .*other\.png: 2 files for the image P1/ct/1"
    ):
        Cohort(twice)
    sizes = (case(), case(slice=2, num_rows=5, image=Path("/data/large.png")))
    with pytest.raises(CohortError, match=r"large\.png: grid \(1, 5, 6\), expected \(1, 4, 6\) as"):
        Cohort(sizes)
    sites = (case(), case(slice=2, site="B"))
    with pytest.raises(CohortError, match="subject P1: sites A, B, expected one site"):
        Cohort(sites)
    assert conflicts((case(), case(scan="mri", num_rows=5), case(subject="P2", site="B"))) == []


@pytest.mark.parametrize("place", ["cohort.csv", "data/cohort.csv", "tables/of/cohort.csv"])
def test_file_and_back(tmp_path: Path, place: str) -> None:
    save(tmp_path / "data", "P10", 1)
    save(tmp_path / "data", "P9", 2)
    cohort = index_folder(tmp_path / "data")
    more = (
        replace(cohort.images[0], subject="a, b", scan='"c"', slice=None, modality="MRI", site="S"),
        replace(cohort.images[0], subject="u", mask=None, lesion_pixels=None),
        replace(cohort.images[0], subject="n", mask=None, lesion_pixels=0),
        replace(cohort.images[0], subject="v", spacing_mm=(1 / 3, 0.1, 1e-9), lesion_ml=1e-14),
    )
    cohort = Cohort(cohort.images + more)
    path = tmp_path / place
    write_cohort(cohort, path)
    assert repr(read_cohort(path)) == repr(
        cohort
    )  # `==` says that NaN differs, from Python 3.13 on
    assert read_cohort(path).sha256 == cohort.sha256
    with path.open(encoding="utf-8", newline="") as file:
        header, first, *_ = csv.reader(file)
    assert tuple(header) == COLUMNS + OPTIONAL
    assert not Path(first[COLUMNS.index("image")]).is_absolute()


def table(folder: Path, **fields: str) -> Path:
    """A cohort of one image, with some fields overwritten."""
    save(folder, "P1", 1)
    write_cohort(index_folder(folder), folder / "cohort.csv")
    with (folder / "cohort.csv").open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file)) | fields
    with (folder / "cohort.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    return folder / "cohort.csv"


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"subject": ""}, "row 2: .*subject '', scan"),
        ({"slice": "one"}, "row 2: slice 'one', expected a whole number"),
        ({"image": ""}, "row 2: image is empty"),
        ({"num_rows": ""}, r"row 2: .*\(1, 0, 6\) slices, rows and columns"),
        ({"num_columns": "-6"}, "row 2: num_columns '-6', expected a whole number"),
        ({"num_slices": "1.5"}, "row 2: num_slices '1.5', expected a whole number"),
        ({"row_spacing_mm": "1"}, r"row 2: .*spacing \(nan, 1\.0, nan\), expected 3 positive"),
        ({"row_spacing_mm": "1 mm"}, "row 2: row_spacing_mm '1 mm', expected a finite number"),
        ({"lesion_pixels": ""}, "row 2: .*lesion_pixels is empty"),
        ({"lesion_ml": "3"}, "row 2: .*lesion_ml 3.0 without spacing"),
        ({"sha256": "x"}, "row 2: .*sha256 'x'"),
    ],
)
def test_wrong_fields_are_refused(tmp_path: Path, fields: dict[str, str], found: str) -> None:
    with pytest.raises(CohortError, match=rf"cohort\.csv: 1 problem.*\n  {found}"):
        read_cohort(table(tmp_path, **fields))


def test_missing_files_are_listed_all(tmp_path: Path) -> None:
    path = table(tmp_path)
    for file in (tmp_path / "P1").iterdir():
        file.unlink()
    with pytest.raises(CohortError) as error:
        read_cohort(path)
    assert [line.strip() for line in str(error.value).splitlines()] == [
        f"{path}: 2 problems. Put the files back, or index the folder again.",
        f"{tmp_path / 'P1' / '1.png'}: no such file",
        f"{tmp_path / 'P1' / '1_mask.png'}: no such file",
    ]


def test_cases_are_read_with_their_reference(tmp_path: Path) -> None:
    save(tmp_path, "P1", 1, lesion=3)
    image = index_folder(tmp_path).images[0]
    scan, mask = read_case(image)
    assert scan.voxels.shape == (1, 4, 6)
    assert mask is not None
    assert mask.sum() == 3
    _, empty = read_case(replace(image, mask=None, lesion_pixels=0))
    assert empty is not None
    assert empty.shape == (1, 4, 6)
    assert not empty.any()
    assert read_case(replace(image, mask=None, lesion_pixels=None))[1] is None


def test_files_that_changed_are_refused(tmp_path: Path) -> None:
    save(tmp_path, "P1", 1, lesion=3)
    image = index_folder(tmp_path).images[0]
    save(tmp_path, "P1", 1, lesion=4)
    with pytest.raises(
        CohortError, match=r"1_mask\.png: 4 lesion pixels .*expected 3 on \(1, 4, 6\)"
    ):
        read_case(image)
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "P1" / "1.png")
    with pytest.raises(CohortError, match=rf"1\.png: hash [0-9a-f]+, expected {image.sha256}"):
        read_case(image)


def test_a_cohort_has_a_modality_if_all_its_images_do() -> None:
    other = case(subject="P2", modality="MRI")
    assert Cohort((case(),)).modality == "CT"
    assert Cohort((case(), other)).modality == ""
    assert Cohort((case(), replace(other, modality=""))).modality == ""
