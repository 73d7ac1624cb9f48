"""Places of predicted masks."""

from pathlib import Path

import pytest

from hemaseg.cohorts.table import CaseImage
from hemaseg.errors import CohortError
from hemaseg.prediction.paths import prediction_path, prediction_paths

FOLDER = Path("predictions")


def case(image: str, subject: str = "0007") -> CaseImage:
    return CaseImage(
        subject=subject,
        scan=Path(image).parent.name or "scan",
        site="",
        modality="CT",
        slice=None,
        image=Path(image),
        mask=None,
        num_rows=4,
        num_columns=4,
        num_slices=1,
        spacing_mm=None,
        lesion_pixels=None,
        lesion_ml=float("nan"),
        sha256="0" * 64,
    )


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("images/0007_12.png", "0007_12.png"),
        ("images/0007_12.JPEG", "0007_12.png"),
        ("images/0007.v2_12.tif", "0007.v2_12.png"),
        ("sub-01/anat/sub-01_FLAIR.nii.gz", "sub-01_FLAIR.nii.gz"),
        ("imagesTr/ich.1_0000.nii", "ich.1_0000.nii.gz"),
        ("imagesTr/ICH.NII.GZ", "ICH.nii.gz"),
    ],
)
def test_name_of_the_mask(image: str, expected: str) -> None:
    assert prediction_path(FOLDER, case(image)) == FOLDER / "0007" / expected


def test_several_in_their_order() -> None:
    images = [case("b/2.png"), case("b/1.png"), case("b/1.png", subject="0008")]
    assert prediction_paths(FOLDER, images) == (
        FOLDER / "0007" / "2.png",
        FOLDER / "0007" / "1.png",
        FOLDER / "0008" / "1.png",
    )


@pytest.mark.parametrize("other", ["day2/1.png", "day2/1.jpg", "DAY2/1.PNG"])
def test_refuses_two_images_with_one_prediction(other: str) -> None:
    with pytest.raises(CohortError, match=r"day1/1\.png; expected one file per image.*0007"):
        prediction_paths(FOLDER, [case("day1/1.png"), case(other)])


def test_names_that_differ_in_case_count_as_one() -> None:
    with pytest.raises(CohortError, match=r"predictions/0007/A\.png, which is also that of d/a"):
        prediction_paths(FOLDER, [case("d/a.png"), case("d/A.png")])
