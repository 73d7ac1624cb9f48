"""What is said of a cohort that is not wrong, and what is not said."""

from pathlib import Path

import pytest

from hemaseg.cohorts.doubts import large_masks
from hemaseg.cohorts.table import CaseImage, Cohort


def case(subject: str, number: int = 1, *, site: str = "", lesion_pixels: int = 0) -> CaseImage:
    """A slice of 4 x 5 pixels; each has 100 mL."""
    return CaseImage(
        subject=subject,
        scan="s",
        site=site,
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
