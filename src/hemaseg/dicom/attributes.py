"""Values of a DICOM header, read safely: absent, undecodable or sound, and never quoted.

pydicom decodes a value when it is asked for, raises a dozen kinds of errors for damaged ones, and
quotes the value in errors and warnings. Headers name the patient, so none of that gets out.
"""

import logging
import math
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pydicom import Dataset, Sequence, config
from pydicom.multival import MultiValue

from hemaseg.dicom.identity import MIN_LETTERS, identifies
from hemaseg.errors import ScanError

_NAMES = (
    *("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName"),
    *("ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "RequestingPhysician"),
    *("PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "ResponsiblePerson"),
)
_NUMBERS = (
    *("PatientID", "OtherPatientIDs", "IssuerOfPatientID", "MedicalRecordLocator"),
    *("AccessionNumber", "AdmissionID", "PatientAddress", "PatientTelephoneNumbers"),
    *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName"),
    *("MilitaryRank",),
)


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """No checks, warnings and log records of pydicom: they quote values of headers."""
    logger = config.logger
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def values(header: Dataset, keyword: str) -> tuple[Any, ...]:
    """The values of an attribute; empty where it is absent or empty.

    Raises:
        ScanError: They cannot be decoded.
    """
    try:
        value = header.get(keyword)
    except Exception:  # Its converters raise many kinds, and quote the value.
        raise _undecodable(keyword) from None
    if value is None or value == "" or value == b"":
        return ()
    return tuple(value) if isinstance(value, MultiValue | Sequence | list) else (value,)


def text(header: Dataset, keyword: str) -> str:
    """The first value as text of printable characters; empty where there is none."""
    found = values(header, keyword)
    return "".join(c if c.isprintable() else "?" for c in str(found[0])).strip() if found else ""


def numbers(header: Dataset, keyword: str) -> tuple[float, ...]:
    """The values as numbers, which may be infinite or NaN; empty where there is none.

    Raises:
        ScanError: They are no numbers.
    """
    found = values(header, keyword)
    # Python would take bytes for digits, and 1_0 for 10.
    if any(isinstance(value, bytes) or "_" in str(value) for value in found):
        raise _undecodable(keyword)
    try:
        return tuple(float(value) for value in found)
    except (TypeError, ValueError, OverflowError):
        raise _undecodable(keyword) from None


def number(header: Dataset, keyword: str) -> float | None:
    """The one value as a finite number; None where there is none.

    Raises:
        ScanError: There are several, or it is no finite number.
    """
    found = numbers(header, keyword)
    if not found:
        return None
    if len(found) > 1 or not math.isfinite(found[0]):
        raise _undecodable(keyword)
    return found[0]


def integer(header: Dataset, keyword: str) -> int:
    """The one value as a whole number.

    Raises:
        ScanError: It is absent, or no whole number.
    """
    found = number(header, keyword)
    if found is None:
        raise missing(keyword)
    if not found.is_integer():
        raise _undecodable(keyword)
    return int(found)


def uid(header: Dataset, keyword: str) -> str:
    """The one value as a UID.

    Raises:
        ScanError: It is absent, or no UID.
    """
    found = text(header, keyword)
    if not found:
        raise missing(keyword)
    if not re.fullmatch(r"[0-9.]{1,64}", found):
        raise _undecodable(keyword)
    return found


def items(header: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """The items of a sequence; empty where it is absent or empty.

    Raises:
        ScanError: It cannot be decoded.
    """
    found = values(header, keyword)
    if not all(isinstance(item, Dataset) for item in found):
        raise _undecodable(keyword)
    return found


def missing(keyword: str) -> ScanError:
    """The error for an attribute without which the pixels have no meaning."""
    return ScanError(
        f"no {keyword}, expected one: the pixels have no meaning without. Export the original "
        "series again.",
        kind="missing-attribute",
    )


def _undecodable(keyword: str) -> ScanError:
    return ScanError(
        f"{keyword} that cannot be decoded, expected values as DICOM has them. Export the file "
        "again.",
        kind="dicom-damaged",
    )


def identity_words(header: Dataset) -> frozenset[str]:
    """Words by which the patient, or those who treat them, can be recognised.

    Where the header says that identity was removed, name and number are those of a study.

    >>> header = Dataset()
    >>> header.PatientName = "Doe^Jane"
    >>> sorted(identity_words(header))
    ['Doe', 'Jane']
    >>> header.PatientIdentityRemoved = "YES"
    >>> sorted(identity_words(header))
    []
    """
    words: set[str] = set()
    is_removed = _texts(header, "PatientIdentityRemoved") == ["YES"]
    pseudonyms = ("PatientName", "PatientID") if is_removed else ()
    for keyword in (keyword for keyword in _NAMES if keyword not in pseudonyms):
        for name in _texts(header, keyword):
            words.update(re.split(r"[\^=,;\s]+", name))
    for keyword in (keyword for keyword in _NUMBERS if keyword not in pseudonyms):
        words.update(_texts(header, keyword))
    for day in _texts(header, "PatientBirthDate"):
        words |= {day, f"{day[:4]}-{day[4:6]}-{day[6:]}", f"{day[6:]}.{day[4:6]}.{day[:4]}"}
    return frozenset(word for word in words if len(word) > 1)


def _texts(header: Dataset, keyword: str) -> list[str]:
    """The values as texts; none where they cannot be decoded."""
    try:
        return [str(value).strip() for value in values(header, keyword)]
    except ScanError:
        return []


def anonymous(text: str, words: Iterable[str]) -> str:
    """A text without those of its words that are in one of the given words, or have one in them.

    >>> anonymous("CT head, Jane 4711", ["Doe", "Jane", "PID4711"])
    'CT head, [...] [...]'
    """
    known = list(words)

    def shown(match: re.Match[str]) -> str:
        is_part = len(match[0]) >= MIN_LETTERS and any(identifies(w, [match[0]]) for w in known)
        return "[...]" if is_part or identifies(match[0], known) else match[0]

    return re.sub(r"[^\W_]+", shown, text)
