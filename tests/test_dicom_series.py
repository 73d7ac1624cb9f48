from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hemaseg.dicom.series import Series, SeriesListing, choose_series
from hemaseg.errors import ScanError

PATH = Path("/data/study")


def series(uid: str, **attributes: Any) -> Series:
    values: dict[str, Any] = {
        "path": PATH,
        "study_uid": "1",
        "uid": uid,
        "number": 1,
        "modality": "CT",
        "description": "head",
        "num_images": 30,
        "role": "original",
        "plane": "axial",
        "spacing_mm": 5.0,
        "is_bone": False,
        "identity": (),
        "instances": (),
        **attributes,
    }
    return Series(**values)


SOFT = series("1.1")
THIN = series("1.2", num_images=200, spacing_mm=0.75)
BONE = series("1.3", is_bone=True, num_images=400)
CORONAL = series("1.4", plane="coronal", num_images=500)
SCOUT = series("1.5", role="localizer", num_images=2)
DERIVED = series("1.6", role="derived", num_images=600)
CAPTURE = series("1.7", role="secondary-capture", num_images=9, plane="", spacing_mm=None)
SINGLE = series("1.8", num_images=2)
PET = series("1.9", modality="PT", num_images=50)


def choose(*found: Series, wanted: str | None = None) -> str:
    return choose_series(SeriesListing(PATH, found), wanted).uid


def refusal(*found: Series, wanted: str | None = None) -> tuple[str, str]:
    with pytest.raises(ScanError) as caught:
        choose(*found, wanted=wanted)
    return caught.value.kind, str(caught.value)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ((SOFT,), SOFT),
        ((SCOUT, SOFT, DERIVED, CAPTURE, SINGLE, PET), SOFT),
        ((SCOUT, SINGLE, PET), SINGLE),
        ((SCOUT, PET), SCOUT),
        ((PET,), PET),
        ((CAPTURE,), CAPTURE),
    ],
)
def test_the_only_one_that_can_be_meant(found: tuple[Series, ...], expected: Series) -> None:
    assert choose(*found) == expected.uid


@pytest.mark.parametrize(
    "found",
    [(SOFT, THIN), (SOFT, BONE), (SCOUT, DERIVED), (SINGLE, replace(SINGLE, uid="2")), (PET, PET)],
)
def test_several_are_refused(found: tuple[Series, ...]) -> None:
    assert refusal(*found)[0] == "mixed-series"


def test_a_series_that_cannot_be_read_still_counts() -> None:
    damaged = replace(THIN, error=ScanError("why", kind="dicom-truncated"))
    kind, message = refusal(SOFT, damaged)
    assert kind == "mixed-series"
    assert "cannot be read (dicom-truncated)" in message
    assert choose(damaged, SCOUT) == damaged.uid


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ((SOFT, THIN), THIN),
        ((THIN, BONE), THIN),
        ((BONE, CORONAL), BONE),
        ((CORONAL, DERIVED, SCOUT), CORONAL),
        ((SOFT, replace(SOFT, uid="1.0")), SOFT),
    ],
)
def test_the_suggestion(found: tuple[Series, ...], expected: Series) -> None:
    for order in (found, found[::-1]) if expected != SOFT else (found,):
        assert choose(*order, wanted="suggested") == expected.uid


@pytest.mark.parametrize(
    ("wanted", "expected"), [("1", SOFT), ("2", THIN), ("1.2", THIN), ("1.5", SCOUT)]
)
def test_by_number_or_uid(wanted: str, expected: Series) -> None:
    assert choose(SOFT, THIN, SCOUT, wanted=wanted) == expected.uid


@pytest.mark.parametrize("wanted", ["0", "3", "-1", "1.22", "head", "", "\u00b2", "Suggested"])
def test_unknown_wishes(wanted: str) -> None:
    kind, message = refusal(SOFT, THIN, wanted=wanted)
    assert kind == ("unknown-series" if wanted else "mixed-series")
    assert f"{wanted} among 2" in message or not wanted


def test_the_list_says_what_can_be_chosen() -> None:
    _, message = refusal(replace(SOFT, description="head 5 mm"), THIN, SCOUT)
    assert message == (
        "/data/study: several series among 3, expected one of:\n"
        '  1. CT, "head 5 mm", 30 images, 5 mm apart, axial\n'
        '  2. CT, "head", 200 images, 0.75 mm apart, axial\n'
        '  3. CT, "head", localizer, 2 images, 5 mm apart, axial\n'
        "Suggested is 2 (original, axial, not bone, most images). Choose with --series and its "
        "number or UID, or with --series suggested."
    )


def test_a_wish_is_not_quoted_if_it_identifies() -> None:
    known = replace(SOFT, identity=("Jane",))
    assert "Jane" not in refusal(known, THIN, wanted="Jane")[1]


def test_what_is_left_out_goes_with_the_choice() -> None:
    listing = SeriesListing(PATH, (SCOUT, SOFT), ("files that are not DICOM: 1",))
    assert choose_series(listing, None).left_out == (
        "files that are not DICOM: 1",
        'series: CT, "head", localizer, 2 images, 5 mm apart, axial',
    )


def test_summary_of_a_series_of_which_little_is_known() -> None:
    found = replace(CAPTURE, description="", is_bone=True)
    assert found.summary == "CT, secondary-capture, 9 images, bone"
