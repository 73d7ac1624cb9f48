"""Stored values against what was encoded, against pydicom's decoders, and against closed forms."""

from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    JPEG2000,
    JPEG2000MC,
    MPEG2MPML,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from dicom_files import encode_frame, file_bytes, set_pixels
from hemaseg.dicom.attributes import quiet_pydicom
from hemaseg.dicom.pixels import PixelFormat, check_pixels, pixel_format, read_frames
from hemaseg.dicom.structure import Structure, read_header, read_structure
from hemaseg.errors import ScanError

LIMIT = 2**30
NATIVE = (
    *(ImplicitVRLittleEndian, ExplicitVRLittleEndian),
    *(ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian),
)
LOSSLESS = (
    *(RLELossless, JPEGLossless, JPEGLosslessSV1),
    *(JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless),
)
COMPRESSED = (*LOSSLESS, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000)


def smooth(shape: tuple[int, ...], low: int, high: int) -> NDArray[np.float64]:
    """Waves between two values, as lossy codecs like them."""
    waves = sum(np.sin(index / (4 + axis)) for axis, index in enumerate(np.indices(shape)))
    scaled = (waves - np.min(waves)) / np.ptp(waves)
    return np.asarray(low + scaled * (high - low))


def an_object(
    frames: NDArray[Any], syntax: UID = ExplicitVRLittleEndian, **attributes: Any
) -> Dataset:
    """A data set with frames (frame, row, column) and nothing that places them."""
    data_set = Dataset()
    bits = frames.dtype.itemsize * 8
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": "1.2.3",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "NumberOfFrames": len(frames),
        "Rows": frames.shape[1],
        "Columns": frames.shape[2],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(frames.dtype.kind == "i"),
        **attributes,
    }
    for keyword, value in values.items():
        if value is not None:
            setattr(data_set, keyword, value)
    set_pixels(data_set, frames, syntax)
    return data_set


def opened(data: bytes) -> tuple[Structure, Dataset, PixelFormat]:
    structure = read_structure(BytesIO(data), LIMIT)
    if structure.damage is not None:
        raise structure.damage
    header = read_header(structure)
    return structure, header, pixel_format(header)


def decoded(data: bytes) -> NDArray[Any]:
    with quiet_pydicom():
        structure, header, form = opened(data)
        check_pixels(structure, form, LIMIT)
        return np.stack(list(read_frames(BytesIO(data), structure, header, form, LIMIT)))


def refusal(data: bytes) -> tuple[str, str]:
    with pytest.raises(ScanError) as caught:
        decoded(data)
    return caught.value.kind, str(caught.value)


PIXELS = np.zeros((1, 4, 4), np.int16)
TYPES = ("i2", "u2", "u1")


@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS], ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("dtype", TYPES)
def test_lossless_frames_are_exact(syntax: UID, dtype: str) -> None:
    if dtype == "u1" and syntax == ExplicitVRBigEndian:
        pytest.skip("refused, see below")
    limits = np.iinfo(dtype)
    random = np.random.default_rng(2)
    frames = random.integers(limits.min, limits.max + 1, (3, 17, 15)).astype(dtype)
    found = decoded(file_bytes(an_object(frames, syntax), syntax))
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, frames)


@pytest.mark.parametrize("syntax", [*NATIVE, RLELossless], ids=lambda syntax: syntax.name)
def test_32_bits(syntax: UID) -> None:
    frames = np.random.default_rng(2).integers(-(2**31), 2**31, (2, 6, 5)).astype(np.int32)
    np.testing.assert_array_equal(decoded(file_bytes(an_object(frames, syntax), syntax)), frames)


@pytest.mark.parametrize(
    ("syntax", "bits", "tolerance"),
    [
        (JPEGBaseline8Bit, 8, 3),
        (JPEGExtended12Bit, 12, 12),
        (JPEGLSNearLossless, 12, 1),
        (JPEG2000, 12, 30),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_lossy_frames_are_close(syntax: UID, bits: int, tolerance: int) -> None:
    dtype = np.uint8 if bits == 8 else np.uint16
    frames = smooth((2, 32, 24), 5, 2**bits - 10).astype(dtype)
    data = file_bytes(an_object(frames, syntax, BitsStored=bits, HighBit=bits - 1), syntax)
    found = decoded(data)
    assert np.abs(found.astype(int) - frames).max() <= tolerance
    assert found.dtype == dtype


@pytest.mark.parametrize(
    "syntax",
    [*NATIVE, RLELossless, JPEGBaseline8Bit, JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless],
    ids=lambda syntax: syntax.name,
)
def test_pydicom_decodes_the_same(syntax: UID) -> None:
    dtype = np.uint8 if syntax == JPEGBaseline8Bit else np.int16
    frames = smooth((2, 32, 24), 5, 200).astype(dtype)
    data = file_bytes(an_object(frames, syntax), syntax)
    expected = dcmread(BytesIO(data)).pixel_array
    np.testing.assert_array_equal(decoded(data), expected)


@given(
    stored=st.integers(1, 16),
    is_signed=st.booleans(),
    raw=st.lists(st.integers(0, 2**16 - 1), min_size=4, max_size=4),
)
def test_bits_beyond_the_stored_ones_do_not_count(
    stored: int, is_signed: bool, raw: list[int]
) -> None:
    frames = np.array(raw, dtype=np.uint16).reshape(1, 2, 2)
    data_set = an_object(
        *(frames,), BitsStored=stored, HighBit=stored - 1, PixelRepresentation=int(is_signed)
    )
    found = decoded(file_bytes(data_set)).ravel().tolist()
    low = [value % 2**stored for value in raw]
    if is_signed:
        low = [value - 2**stored * (value >= 2 ** (stored - 1)) for value in low]
    assert found == low
    form = pixel_format(data_set)
    assert form.limits[0] <= min(found) <= max(found) <= form.limits[1]


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless])
def test_sign_of_12_stored_bits(syntax: UID) -> None:
    # The codec sees 12 bits without a sign.
    frames = np.array([[[-2048, -1, 0, 1, 2047, 5, -7, 9]]], np.int16)
    data_set = an_object(frames, ExplicitVRLittleEndian, BitsStored=12, HighBit=11)
    set_pixels(data_set, (frames & 0xFFF).view(np.uint16), syntax)
    np.testing.assert_array_equal(decoded(file_bytes(data_set, syntax)), frames)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, None),
        ({"PixelPaddingValue": -2000}, (-2000, -2000)),
        ({"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1990}, (-2000, -1990)),
        ({"PixelPaddingValue": -1990, "PixelPaddingRangeLimit": -2000}, (-2000, -1990)),
        ({"PixelPaddingRangeLimit": -2000}, None),
    ],
)
def test_padding(attributes: dict[str, int], expected: tuple[int, int] | None) -> None:
    data_set = an_object(PIXELS, ExplicitVRLittleEndian, **attributes)
    assert pixel_format(data_set).padding == expected


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize(("dtype", "value"), [("i2", -2000), ("u2", 63536)])
def test_padding_has_the_sign_of_the_pixels(syntax: UID, dtype: str, value: int) -> None:
    data_set = an_object(np.zeros((1, 2, 2), dtype), syntax, PixelPaddingValue=value)
    assert opened(file_bytes(data_set, syntax))[2].padding == (value, value)


def test_padding_written_with_the_wrong_sign() -> None:
    data_set = an_object(np.zeros((1, 2, 2), np.int16))
    data_set.add_new("PixelPaddingValue", "US", 63536)
    assert pixel_format(data_set).padding == (-2000, -2000)


@pytest.mark.parametrize(
    ("attributes", "kind", "shown"),
    [
        ({"Rows": None}, "missing-attribute", "Rows"),
        ({"Columns": None}, "missing-attribute", "Columns"),
        ({"SamplesPerPixel": None}, "missing-attribute", "SamplesPerPixel"),
        ({"PhotometricInterpretation": None}, "missing-attribute", "PhotometricInterpretation"),
        ({"HighBit": None}, "missing-attribute", "HighBit"),
        ({"Rows": 0}, "dicom-damaged", "0 x 4"),
        ({"NumberOfFrames": 0}, "dicom-damaged", "0 frames"),
        ({"NumberOfFrames": -1}, "dicom-damaged", "-1 frames"),
        ({"SamplesPerPixel": 3}, "photometric", "3 samples"),
        ({"PhotometricInterpretation": "RGB"}, "photometric", "RGB"),
        ({"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11}, "bits", "12 bits allocated"),
        ({"BitsAllocated": 64}, "bits", "64 bits allocated"),
        ({"BitsStored": 17, "HighBit": 16}, "bits", "17 stored"),
        ({"BitsStored": 0, "HighBit": 0}, "bits", "0 stored"),
        ({"BitsStored": 12, "HighBit": 15}, "bits", "high bit 15"),
        ({"PixelRepresentation": 2}, "bits", "representation 2"),
        ({"Rows": 5}, "dicom-truncated", "32 bytes of pixels, expected 40"),
        ({"NumberOfFrames": 2}, "dicom-truncated", "expected 64 for 2 frames"),
        ({"Rows": 3}, "dicom-surplus", "32 bytes of pixels, expected 24"),
        ({"Rows": 65535, "Columns": 65535}, "too-large", "8,589,672,450 bytes"),
        ({"NumberOfFrames": 2**40}, "too-large", "frames of 4 x 4"),
    ],
)
def test_formats_that_cannot_be(attributes: dict[str, Any], kind: str, shown: str) -> None:
    found = refusal(file_bytes(an_object(PIXELS, **attributes)))
    assert found[0] == kind
    assert shown in found[1]


def test_an_odd_number_of_bytes_may_be_padded() -> None:
    frames = np.arange(15, dtype=np.uint8).reshape(1, 3, 5)
    np.testing.assert_array_equal(decoded(file_bytes(an_object(frames))), frames)
    even = an_object(frames[:, :2])
    even.PixelData += b"\0\0"
    assert refusal(file_bytes(even))[0] == "dicom-surplus"


def test_monochrome_1_is_known() -> None:
    data_set = an_object(PIXELS, PhotometricInterpretation="MONOCHROME1")
    assert pixel_format(data_set).is_inverted


@pytest.mark.parametrize("syntax", [JPEG2000MC, MPEG2MPML], ids=lambda syntax: syntax.name)
def test_other_compressions_are_named(syntax: UID) -> None:
    kind, message = refusal(file_bytes(an_object(PIXELS, RLELossless), syntax))
    assert kind == "transfer-syntax"
    assert syntax.name in message


def test_a_compression_that_nobody_defined() -> None:
    data = file_bytes(an_object(PIXELS, RLELossless), RLELossless)
    kind, message = refusal(data.replace(RLELossless.encode(), b"1.2.840.10008.9.9.9"))
    assert kind == "transfer-syntax"
    assert "1.2.840.10008.9.9.9" in message


def test_8_bits_in_big_endian_words_are_not_read() -> None:
    data_set = an_object(np.zeros((1, 4, 4), np.uint8), ExplicitVRBigEndian)
    assert refusal(file_bytes(data_set, ExplicitVRBigEndian))[0] == "transfer-syntax"


def test_native_pixels_in_a_compressed_syntax_and_the_reverse() -> None:
    structure, _, form = opened(file_bytes(an_object(PIXELS)))
    with pytest.raises(ScanError, match="without fragments in transfer syntax RLE"):
        check_pixels(replace(structure, syntax=RLELossless), form, LIMIT)
    structure, _, form = opened(file_bytes(an_object(PIXELS, RLELossless), RLELossless))
    with pytest.raises(ScanError, match="with fragments in transfer syntax Explicit"):
        check_pixels(replace(structure, syntax=ExplicitVRLittleEndian), form, LIMIT)


# Fragments.

FRAMES = np.random.default_rng(3).integers(-500, 500, (3, 6, 5)).astype(np.int16)
ENCODED = [encode_frame(frame, RLELossless, 16) for frame in FRAMES]


def with_pixels(data: bytes, frames: NDArray[Any] = FRAMES, syntax: UID = RLELossless) -> bytes:
    data_set = an_object(frames, RLELossless)
    data_set["PixelData"].value = data
    return file_bytes(data_set, syntax)


@pytest.mark.parametrize("num_fragments", [1, 2, 3])
@pytest.mark.parametrize("has_table", [True, False])
def test_fragments_are_joined_to_frames(num_fragments: int, has_table: bool) -> None:
    data = with_pixels(encapsulate(ENCODED, fragments_per_frame=num_fragments, has_bot=has_table))
    if num_fragments > 1 and not has_table:
        kind, message = refusal(data)
        assert kind == "dicom-damaged"
        assert f"{3 * num_fragments} fragments" in message
    else:
        np.testing.assert_array_equal(decoded(data), FRAMES)


def test_one_frame_of_many_fragments_needs_no_table() -> None:
    data = with_pixels(encapsulate(ENCODED[:1], fragments_per_frame=3, has_bot=False), FRAMES[:1])
    np.testing.assert_array_equal(decoded(data), FRAMES[:1])


def test_extended_offsets() -> None:
    data_set = an_object(FRAMES, RLELossless)
    pixels, offsets, lengths = encapsulate_extended(ENCODED)
    data_set["PixelData"].value = pixels
    data_set.ExtendedOffsetTable, data_set.ExtendedOffsetTableLengths = offsets, lengths
    np.testing.assert_array_equal(decoded(file_bytes(data_set, RLELossless)), FRAMES)
    wrong = np.frombuffer(offsets, "<u8") + np.array([0, 0, 2], np.uint64)
    data_set.ExtendedOffsetTable = wrong.tobytes()
    assert refusal(file_bytes(data_set, RLELossless))[0] == "dicom-damaged"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_wrong_offsets_are_refused(place: int) -> None:
    data = bytearray(encapsulate(ENCODED))
    data[8 + 4 * place] ^= 2
    kind, message = refusal(with_pixels(bytes(data)))
    assert kind == "dicom-damaged"
    assert "3 frame offsets" in message


def test_a_frame_too_few_or_too_many() -> None:
    for encoded in (ENCODED[:2], [*ENCODED, ENCODED[0]]):
        kind, message = refusal(with_pixels(encapsulate(encoded)))
        assert kind == "dicom-damaged"
        assert "those of 3 frames" in message
