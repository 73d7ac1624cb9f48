"""Bytes of DICOM files, made element by element, walked."""

import struct
import time
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from hemaseg.dicom.structure import (
    MAX_DEPTH,
    MAX_ELEMENTS,
    Structure,
    body,
    read_header,
    read_structure,
    shown_uid,
    starts_like_dicom,
)

LIMIT = 2**30
LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")
UNDEFINED = 0xFFFFFFFF


def element(
    tag: int, vr: bytes, value: bytes, *, syntax: UID = ExplicitVRLittleEndian, length: int = -1
) -> bytes:
    """One element; its length is that of the value unless given."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    length = len(value) if length < 0 else length
    start = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if syntax == ImplicitVRLittleEndian or tag >> 16 == 0xFFFE:
        return start + struct.pack(f"{order}I", length) + value
    if vr in LONG:
        return start + vr + b"\0\0" + struct.pack(f"{order}I", length) + value
    return start + vr + struct.pack(f"{order}H", length) + value


def meta(syntax: UID) -> bytes:
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    return bytes(128) + b"DICM" + element(0x00020010, b"UI", value)


PIXELS = element(0x7FE00010, b"OW", b"12345678")
CLASS = element(0x00080016, b"UI", b"1.2\0")


def file(*elements: bytes, syntax: UID = ExplicitVRLittleEndian) -> bytes:
    return meta(syntax) + b"".join(elements)


def walked(data: bytes, max_bytes: int = LIMIT) -> Structure:
    return read_structure(BytesIO(data), max_bytes)


def damage(data: bytes, max_bytes: int = LIMIT) -> tuple[str, str]:
    """Kind and message."""
    found = walked(data, max_bytes).damage
    assert found is not None
    return found.kind, str(found)


def sequence(tag: int, *items: bytes, is_defined: bool) -> bytes:
    """A sequence, it and its items of defined or undefined length."""
    if is_defined:
        whole = b"".join(element(0xFFFEE000, b"", item) for item in items)
        return element(tag, b"SQ", whole)
    ended = b"".join(
        element(0xFFFEE000, b"", item + element(0xFFFEE00D, b"", b""), length=UNDEFINED)
        for item in items
    )
    return element(tag, b"SQ", ended + element(0xFFFEE0DD, b"", b""), length=UNDEFINED)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
@pytest.mark.parametrize("has_meta", [True, False])
def test_pixels_are_found_in_every_encoding(syntax: UID, has_meta: bool) -> None:
    elements = [
        element(0x00080016, b"UI", b"1.2\0", syntax=syntax),
        element(0x00080060, b"CS", b"CT", syntax=syntax),
        element(0x7FE00010, b"OW", b"12345678", syntax=syntax),
    ]
    data = b"".join(elements)
    if has_meta:
        data = meta(syntax) + data
    found = walked(data)
    assert found.damage is None
    assert found.syntax == syntax
    assert found.pixels is not None
    offset, length = found.pixels
    assert data[offset : offset + length] == b"12345678"
    assert found.fragments == []
    assert data[found.start :].startswith(elements[0])
    assert found.header == b"".join(elements[:2])
    header = read_header(found)
    assert header.Modality == "CT"
    assert header.file_meta.TransferSyntaxUID == syntax


def test_the_deflated_body_is_inflated() -> None:
    packer = zlib.compressobj(wbits=-15)
    data = meta(DeflatedExplicitVRLittleEndian) + packer.compress(CLASS + PIXELS) + packer.flush()
    found = walked(data)
    assert found.damage is None
    assert found.pixels == (len(CLASS) + 12, 8)
    stream = body(BytesIO(data), found, LIMIT)
    stream.seek(found.pixels[0])
    assert stream.read() == b"12345678"
    kind, message = damage(data, max_bytes=len(data) - 1)
    assert kind == "too-large"
    assert f"a file of {len(data):,} bytes" in message


def test_fragments_are_found() -> None:
    items = [b"", b"abcd", b"ef"]
    value = b"".join(element(0xFFFEE000, b"", item) for item in items)
    end = element(0xFFFEE0DD, b"", b"")
    data = file(
        CLASS, element(0x7FE00010, b"OB", value + end, length=UNDEFINED), syntax=RLELossless
    )
    found = walked(data)
    assert found.damage is None
    assert [data[offset : offset + length] for offset, length in found.fragments] == items
    for size in range(data.index(b"\xe0\x7f\x10\x00") + 12, len(data)):
        assert damage(data[:size])[0] == "dicom-truncated"
    assert damage(data.replace(end, element(0x00080018, b"UI", b"")))[0] == "dicom-truncated"


@pytest.mark.parametrize("is_defined", [True, False])
def test_sequences_are_walked(is_defined: bool) -> None:
    inner = sequence(0x00081140, CLASS, CLASS, is_defined=is_defined)
    outer = sequence(0x00081115, inner, b"", is_defined=is_defined)
    data = file(CLASS, outer, PIXELS)
    assert walked(data).damage is None
    header = read_header(walked(data))
    assert len(header.ReferencedSeriesSequence) == 2
    assert len(header.ReferencedSeriesSequence[0].ReferencedImageSequence) == 2
    for size in range(data.index(CLASS) + 1, data.index(PIXELS)):
        if size != data.index(outer):
            assert damage(data[:size])[0] == "dicom-damaged"


def test_implicit_sequences_are_known_by_their_tag() -> None:
    syntax = ImplicitVRLittleEndian
    item = element(0x00080016, b"", b"1.2\0", syntax=syntax, length=400)
    data = element(0x00081115, b"", element(0xFFFEE000, b"", item), syntax=syntax)
    kind, _ = damage(file(element(0x00080016, b"", b"1.2\0", syntax=syntax), data, syntax=syntax))
    assert kind == "dicom-damaged"


def test_an_implicit_item_in_an_explicit_file() -> None:
    # Some writers do so; pydicom reads it.
    item = element(0x00080016, b"", b"1.2\0", syntax=ImplicitVRLittleEndian)
    data = file(CLASS, sequence(0x00081115, item, is_defined=True), PIXELS)
    assert walked(data).damage is None
    assert read_header(walked(data)).ReferencedSeriesSequence[0].SOPClassUID == "1.2"


@pytest.mark.parametrize("is_defined", [True, False])
def test_depth_is_limited(is_defined: bool) -> None:
    nested = CLASS
    for _ in range(MAX_DEPTH):
        nested = sequence(0x00081115, nested, is_defined=is_defined)
    assert walked(file(CLASS, nested, PIXELS)).damage is None
    nested = sequence(0x00081115, nested, is_defined=is_defined)
    kind, message = damage(file(CLASS, nested, PIXELS))
    assert kind == "too-deep"
    assert f"deeper than {MAX_DEPTH}" in message


def test_the_number_of_elements_is_limited() -> None:
    many = element(0x00081115, b"SQ", element(0xFFFEE000, b"", CLASS * (MAX_ELEMENTS + 1)))
    start = time.perf_counter()
    kind, message = damage(file(CLASS, many, PIXELS))
    assert kind == "dicom-damaged"
    assert f"{MAX_ELEMENTS:,} elements" in message
    assert time.perf_counter() - start < 10


DAMAGE = {
    "element beyond the end": (
        file(CLASS, element(0x00080060, b"CS", b"CT", length=20)),
        "(0008,0060) of 20 bytes where 2 are left",
    ),
    "header beyond the end": (file(CLASS, b"\x08\0\x60\0C"), "in the middle of an element"),
    "same element twice": (file(CLASS, CLASS), "(0008,0016) after (0008,0016)"),
    "elements out of order": (
        file(element(0x00080060, b"CS", b"CT"), CLASS),
        "(0008,0016) after (0008,0060)",
    ),
    "unknown value representation": (
        file(CLASS, element(0x00080060, b"QQ", b"CT")),
        "(0008,0060) without a value representation",
    ),
    "in the meta group": (
        bytes(128) + b"DICM" + element(0x00020010, b"QQ", b"1.2\0") + CLASS,
        "(0002,0010) without a value representation",
    ),
    "item of an undefined sequence": (
        file(CLASS, element(0x00081115, b"SQ", CLASS, length=UNDEFINED)),
        "items do not fit",
    ),
    "item longer than its sequence": (
        file(CLASS, element(0x00081115, b"SQ", element(0xFFFEE000, b"", CLASS, length=99)), PIXELS),
        "items do not fit",
    ),
    "element longer than its item": (
        file(
            CLASS,
            sequence(0x00081115, element(0x00080060, b"CS", b"CT", length=9), is_defined=True),
            PIXELS,
        ),
        "of 9 bytes where 2 are left",
    ),
    "delimiter on its own": (file(CLASS, element(0xFFFEE000, b"", b"")), "not in order"),
    "garbage after the pixels": (file(CLASS, PIXELS, b"\0\0\0\0\0\0\0\0\1"), "not in order"),
    "a letter after the pixels": (file(CLASS, PIXELS, b"a"), "in the middle of an element"),
    "explicit by its name alone": (
        file(element(0x00080016, b"", b"1.2\0", syntax=ImplicitVRLittleEndian)),
        "without value representation",
    ),
    "implicit by its name alone": (
        file(CLASS, syntax=ImplicitVRLittleEndian),
        "with value representation",
    ),
    "nothing after the preamble": (bytes(128) + b"DICM", "breaks off before its data set"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage(name: str) -> None:
    data, shown = DAMAGE[name]
    kind, message = damage(data)
    assert kind == "dicom-damaged"
    assert shown in message


def test_pixels_beyond_the_end_are_truncated() -> None:
    kind, message = damage(file(CLASS, PIXELS)[:-3])
    assert kind == "dicom-truncated"
    assert "(7FE0,0010) of 8 bytes where 5 are left" in message


def test_pixels_that_are_real_numbers() -> None:
    data = file(CLASS, element(0x7FE00008, b"OW", b"12345678"))
    assert damage(data)[0] == "bits"


def test_no_transfer_syntax() -> None:
    other = element(0x00020003, b"UI", b"1.2\0")
    kind, message = damage(bytes(128) + b"DICM" + other + CLASS + PIXELS)
    assert kind == "missing-attribute"
    assert "TransferSyntaxUID" in message


def test_zeros_after_the_pixels_are_padding() -> None:
    assert walked(file(CLASS, PIXELS, bytes(100_000))).damage is None
    trailing = element(0xFFFCFFFC, b"OB", bytes(20))
    assert walked(file(CLASS, PIXELS, trailing)).damage is None


def test_a_damaged_file_gives_the_header_before_the_damage() -> None:
    series = element(0x0020000E, b"UI", b"1.2.3\0")
    found = walked(file(CLASS, series, element(0x00200013, b"IS", b"1 ", length=50)))
    assert found.damage is not None
    assert read_header(found).SeriesInstanceUID == "1.2.3"


def test_the_header_agrees_with_pydicom(tmp_path: Path) -> None:
    data = file(CLASS, sequence(0x00081115, CLASS, is_defined=False), PIXELS)
    (tmp_path / "x.dcm").write_bytes(data)
    expected = dcmread(tmp_path / "x.dcm", stop_before_pixels=True)
    assert read_header(walked(data)).to_json_dict() == expected.to_json_dict()


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (bytes(128) + b"DICM", True),
        (b"\x08\0\x05\0CS\x0a\0ISO_IR 100", True),
        (b"\x08\0\x16\0\x1a\0\0\0", True),
        (b"\0\x08\0\x05CS\0\x0a", True),
        (b"\x02\0\0\0UL\x04\0", True),
        (b"\x08\0\x16\0\xff\xff\xff\x7f", False),
        (b"\x5c\x01\0\0" + bytes(128), False),
        (b"Dear colleague", False),
        (b"DICM", False),
        (b"", False),
    ],
)
def test_first_bytes(head: bytes, expected: bool) -> None:
    assert starts_like_dicom(head) == expected


def test_uids_are_shown_by_name_or_not_quoted() -> None:
    assert shown_uid("1.2.840.10008.1.2") == "Implicit VR Little Endian"
    assert shown_uid("1.2.3") == "1.2.3"
    assert shown_uid("Doe^Jane") == "that is no UID"
