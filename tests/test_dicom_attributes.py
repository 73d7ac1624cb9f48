import logging
import warnings
from io import BytesIO

import pytest
from pydicom import Dataset, Sequence
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from hemaseg.dicom.attributes import (
    anonymous,
    identity_words,
    integer,
    items,
    missing,
    number,
    numbers,
    quiet_pydicom,
    text,
    uid,
    values,
)
from hemaseg.errors import ScanError


def header(tag: int, vr: str, value: bytes) -> Dataset:
    """A data set with one element as it comes from a file."""
    data_set = Dataset()
    data_set[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
    return data_set


SPACING, ROWS, SERIES, UID_TAG = 0x00280030, 0x00280010, 0x0008103E, 0x0020000E


def refusal(error: pytest.ExceptionInfo[ScanError]) -> tuple[str, str]:
    return error.value.kind, str(error.value)


def test_absent_and_empty_values_are_none() -> None:
    for data_set in (Dataset(), header(SPACING, "DS", b"")):
        assert values(data_set, "PixelSpacing") == ()
        assert numbers(data_set, "PixelSpacing") == ()
        assert number(data_set, "PixelSpacing") is None
        assert text(data_set, "PixelSpacing") == ""
        assert items(data_set, "PixelSpacing") == ()


def test_sound_values() -> None:
    assert numbers(header(SPACING, "DS", b"0.5\\1e2 "), "PixelSpacing") == (0.5, 100.0)
    assert integer(header(ROWS, "US", b"\x02\x01"), "Rows") == 258
    with quiet_pydicom():
        escape = header(SERIES, "LO", b" a\x1b[31mb ")
        assert text(escape, "SeriesDescription") == "a?[31mb"
    assert uid(header(UID_TAG, "UI", b"1.2.3\0"), "SeriesInstanceUID") == "1.2.3"


@pytest.mark.parametrize(
    ("tag", "vr", "value", "read", "keyword"),
    [
        (SPACING, "DS", b"Doe^Jane", numbers, "PixelSpacing"),
        (SPACING, "DS", b"0.5\\1_0", numbers, "PixelSpacing"),
        (SPACING, "DS", b"1\\2", number, "PixelSpacing"),
        (SPACING, "DS", b"inf ", number, "PixelSpacing"),
        (ROWS, "US", b"\1", integer, "Rows"),
        (ROWS, "DS", b"1.5 ", integer, "Rows"),
        (ROWS, "OB", b"1234", integer, "Rows"),
        (ROWS, "QQ", b"1234", integer, "Rows"),
        (UID_TAG, "UI", b"../../x", uid, "SeriesInstanceUID"),
        (UID_TAG, "UI", b"1." * 33, uid, "SeriesInstanceUID"),
        (UID_TAG, "UI", b"1.2 ", items, "SeriesInstanceUID"),
    ],
)
def test_undecodable_values_are_not_quoted(
    tag: int, vr: str, value: bytes, read: object, keyword: str
) -> None:
    with quiet_pydicom(), pytest.raises(ScanError) as caught:
        read(header(tag, vr, value), keyword)  # type: ignore[operator]
    kind, message = refusal(caught)
    assert kind == "dicom-damaged"
    assert message.startswith(f"{keyword} that cannot be decoded")
    assert "Doe" not in message
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("read", [integer, uid])
def test_missing_values(read: object) -> None:
    with pytest.raises(ScanError) as caught:
        read(Dataset(), "Rows")  # type: ignore[operator]
    assert refusal(caught) == ("missing-attribute", str(missing("Rows")))
    assert "no Rows" in str(caught.value)


def test_items_of_a_sequence() -> None:
    data_set = Dataset()
    data_set.OtherPatientIDsSequence = Sequence([Dataset(), Dataset()])
    assert len(items(data_set, "OtherPatientIDsSequence")) == 2


def test_pydicom_is_silent_and_then_as_before(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("pydicom")
    level = logger.level
    with warnings.catch_warnings(record=True) as caught, quiet_pydicom():
        warnings.warn("Doe^Jane", UserWarning, stacklevel=1)
        logger.warning("Doe^Jane")
        data_set = Dataset()
        data_set.PatientID = "x" * 100
        data_set.save_as(BytesIO(), implicit_vr=True, little_endian=True)
    assert not caught
    assert not caplog.records
    assert logger.level == level


def test_identity_words() -> None:
    data_set = Dataset()
    data_set.PatientName = "Doe^Jane^X=Yamada"
    data_set.PatientID = "PID-4711"
    data_set.PatientBirthDate = "19310417"
    data_set.ReferringPhysicianName = "House Gregory"
    data_set.InstitutionName = "St. Elsewhere"
    assert identity_words(data_set) == {
        *("Doe", "Jane", "Yamada", "PID-4711", "19310417", "1931-04-17", "17.04.1931"),
        *("House", "Gregory", "St. Elsewhere"),
    }
    data_set[0x00100010] = RawDataElement(Tag(0x00100010), "QQ", 4, b"Doe^", 0, False, True)
    assert "Doe" not in identity_words(data_set)


def test_descriptions_lose_words_that_identify() -> None:
    words = ["M\u00fcller", "PID4711XQ", "Jo"]
    assert anonymous("CT Mueller 4711XQ, head 5mm", words) == "CT [...] [...], head 5mm"
    assert anonymous("MULLER_Jo ct-jo", words) == "[...]_[...] ct-[...]"
    assert anonymous("Head Join 5", words) == "Head Join 5"
