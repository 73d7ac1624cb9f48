"""What is said of a cohort that is not wrong, and what is not said."""

from pathlib import Path

import pytest

from hemaseg.cohorts.doubts import large_masks, shared_beginnings
from hemaseg.cohorts.table import CaseImage, Cohort


def case(subject: str, number: int = 1, *, lesion_pixels: int = 0) -> CaseImage:
    """A slice of 4 x 5 pixels; each has 100 mL."""
    return CaseImage(
        subject=subject,
        scan="s",
        site="",
        modality="",
        slice=number,
        image=Path(f"{subject}_{number}.png"),
        mask=Path("mask.png"),
        num_rows=4,
        num_columns=5,
        num_slices=1,
        spacing_mm=(10, 100, 100),
        lesion_pixels=lesion_pixels,
        lesion_ml=lesion_pixels * 100.0,
        sha256="0" * 64,
    )


@pytest.mark.parametrize(
    ("lesion_pixels", "found"),
    [([2, 3], ""), ([3, 3], "a/s: 600 mL"), ([15, 6], "a/s: 52 % of the voxels and 2,100 mL")],
)
def test_masks_larger_than_lesions_are_named(lesion_pixels: list[int], found: str) -> None:
    images = [case("a", number, lesion_pixels=num) for number, num in enumerate(lesion_pixels)]
    text = large_masks(Cohort((*images, case("b"))))
    assert text.startswith(
        f"Of 1 scans more is marked than lesions usually are ({found})." * bool(found)
    )
    assert bool(text) == bool(found)


def test_names_of_time_points_are_shown() -> None:
    names = ["p1_bl", "p1_fu", "p2_bl", "p2_fu", "p3_bl", "x"]
    text = shared_beginnings((name, "") for name in names)
    assert text.startswith(
        "4 subjects share the beginning of their names with others (p1_bl, p1_fu; p2_bl, p2_fu). "
    )


@pytest.mark.parametrize(
    ("names", "is_doubtful"),
    [
        (["p1_20200101", "p1_20200103", "p2_20190101", "p2_20190109", "p3_20180101"], True),
        (["p1-2020-01-01", "p1-2020-11-03", "p2-2019-01-01", "p2-2018-01-09", "q-1"], True),
        ([f"ICH_{number:03}" for number in range(50)], False),
        ([f"{site}_{number:03}" for site in "AB" for number in range(1, 40)], False),
        (["p1_bl", "p2_bl", "p3_bl"], False),
        (["p1", "p2", "p1x"], False),
    ],
)
def test_names_of_time_points_are_told_from_others(names: list[str], is_doubtful: bool) -> None:
    assert bool(shared_beginnings((name, "") for name in names)) == is_doubtful


def test_beginnings_that_are_sites_are_no_time_points() -> None:
    names = [f"TCGA-{site}-{number}" for site in ("CS", "HT", "DU") for number in (1, 2)]
    assert shared_beginnings((name, "") for name in names)
    assert not shared_beginnings((name, name[5:7]) for name in names)
