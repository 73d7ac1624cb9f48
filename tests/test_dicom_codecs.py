"""Frames that are not what they promise; sound ones are in `test_dicom_pixels`."""

import struct
from functools import partial
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from dicom_files import encode_frame
from hemaseg.dicom.codecs import CODECS, decoded_frame
from hemaseg.dicom.pixels import PixelFormat
from hemaseg.errors import ScanError

COMPRESSED = (
    *(RLELossless, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1),
    *(JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless, JPEG2000, HTJ2KLossless),
)


def picture(rows: int, columns: int) -> NDArray[np.uint8]:
    """Waves, as lossy codecs like them."""
    row, column = np.indices((rows, columns))
    waves: NDArray[np.uint8] = (127 + 60 * np.sin(row / 4) + 60 * np.cos(column / 5)).astype("u1")
    return waves


PICTURE = picture(32, 24)


def form(pixels: NDArray[Any]) -> PixelFormat:
    """What an object says of a frame."""
    bits = pixels.dtype.itemsize * 8
    rows, columns = pixels.shape
    return PixelFormat(
        *(rows, columns, 1, bits, bits), is_signed=False, is_inverted=False, padding=None
    )


def refusal(frame: bytes, syntax: UID, pixels: NDArray[Any]) -> tuple[str, str]:
    with pytest.raises(ScanError) as caught:
        decoded_frame(frame, syntax, form(pixels))
    return caught.value.kind, str(caught.value)


def test_all_are_tested() -> None:
    assert {*COMPRESSED, HTJ2K, HTJ2KLosslessRPCL} == CODECS


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda syntax: syntax.name)
def test_truncated_frames_are_refused(syntax: UID) -> None:
    frame = encode_frame(PICTURE, syntax, 8)
    for size in range(2, len(frame) - 2, max(1, len(frame) // 25)):
        kind, _ = refusal(frame[:size], syntax, PICTURE)
        assert kind in ("dicom-truncated", "dicom-damaged")


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize(("shape", "kind"), [((64, 24), "dicom-bomb"), ((32, 23), "dicom-damaged")])
def test_frames_of_another_size_are_not_decoded(
    syntax: UID, shape: tuple[int, int], kind: str
) -> None:
    frame = encode_frame(picture(*shape), syntax, 8)
    found, message = refusal(frame, syntax, PICTURE)
    if syntax == RLELossless:  # Has no size of its own.
        assert found == ("dicom-surplus" if kind == "dicom-bomb" else "dicom-truncated")
    else:
        assert found == kind
        assert f"{shape[0]} x {shape[1]} pixels" in message
        assert "expected 32 x 24" in message


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLSLossless, JPEG2000])
def test_colours_in_a_frame_are_refused(syntax: UID) -> None:
    colours = np.stack([PICTURE] * 3, axis=-1)
    encode: Any = {
        JPEGBaseline8Bit: imagecodecs.jpeg8_encode,
        JPEGLSLossless: imagecodecs.jpegls_encode,
        JPEG2000: partial(imagecodecs.jpeg2k_encode, codecformat="j2k"),
    }[syntax]
    kind, message = refusal(bytes(encode(colours)), syntax, PICTURE)
    assert kind == "dicom-bomb"
    assert "3 samples" in message


def test_more_bits_than_are_allocated() -> None:
    frame = encode_frame(PICTURE.astype(np.uint16) * 16, JPEGLosslessSV1, 12)
    kind, message = refusal(frame, JPEGLosslessSV1, PICTURE)
    assert kind == "dicom-damaged"
    assert "12 bits" in message


@pytest.mark.parametrize(
    ("syntax", "other"),
    [
        (JPEGBaseline8Bit, JPEGLosslessSV1),
        (JPEGLosslessSV1, JPEGBaseline8Bit),
        (JPEGLSLossless, JPEGBaseline8Bit),
        (JPEG2000, JPEGLSLossless),
        (JPEGBaseline8Bit, JPEG2000),
    ],
)
def test_frames_of_another_codec_are_refused(syntax: UID, other: UID) -> None:
    assert refusal(encode_frame(PICTURE, other, 8), syntax, PICTURE)[0] == "dicom-damaged"


def test_a_jp2_file_around_the_code_stream() -> None:
    frame = bytes(imagecodecs.jpeg2k_encode(PICTURE, level=0, reversible=True, codecformat="jp2"))
    assert frame[4:8] == b"jP  "
    np.testing.assert_array_equal(decoded_frame(frame, JPEG2000Lossless, form(PICTURE)), PICTURE)


def tiled(rows: int, columns: int) -> bytes:
    """A JPEG 2000 frame whose header speaks of smaller tiles than it has."""
    frame = bytearray(encode_frame(PICTURE, JPEG2000, 8))
    assert struct.unpack(">II", frame[24:32]) == (24, 32)
    frame[24:32] = struct.pack(">II", columns, rows)
    return bytes(frame)


def test_tiles_must_be_there_and_few() -> None:
    kind, message = refusal(tiled(16, 24), JPEG2000, PICTURE)
    assert kind == "dicom-damaged"
    assert "1 of 2 tiles" in message
    for rows, columns in ((1, 1), (0, 24)):
        assert refusal(tiled(rows, columns), JPEG2000, PICTURE)[0] == "dicom-damaged"


def test_a_tile_that_breaks_off() -> None:
    frame = bytearray(encode_frame(PICTURE, JPEG2000, 8))
    place = frame.index(b"\xff\x90")
    (length,) = struct.unpack(">I", frame[place + 6 : place + 10])
    for wrong in (length + 1, length - 1, 11, 2**31):
        frame[place + 6 : place + 10] = struct.pack(">I", wrong)
        assert refusal(bytes(frame), JPEG2000, PICTURE)[0] == "dicom-damaged"
    # Zero stands for all that is left.
    frame[place + 6 : place + 10] = bytes(4)
    found = decoded_frame(bytes(frame), JPEG2000, form(PICTURE))
    assert np.abs(found.astype(int) - PICTURE).max() < 4


def test_several_tiles() -> None:
    stream = BytesIO()
    Image.fromarray(PICTURE).save(stream, "JPEG2000", tile_size=(16, 16), no_jp2=True)
    frame = stream.getvalue()
    assert frame.count(b"\xff\x90") == 4
    np.testing.assert_array_equal(decoded_frame(frame, JPEG2000Lossless, form(PICTURE)), PICTURE)


@pytest.mark.parametrize("num_segments", [0, 1, 3, 15, 2**32 - 1])
def test_a_wrong_number_of_rle_segments(num_segments: int) -> None:
    pixels = PICTURE.astype(np.uint16)
    frame = struct.pack("<I", num_segments) + encode_frame(pixels, RLELossless, 16)[4:]
    kind, message = refusal(frame, RLELossless, pixels)
    assert kind == "dicom-damaged"
    assert f"{num_segments} RLE segments where 2 belong" in message


@pytest.mark.parametrize("syntax", [HTJ2K, HTJ2KLosslessRPCL])
def test_other_names_of_high_throughput_jpeg_2000(syntax: UID) -> None:
    frame = encode_frame(PICTURE, HTJ2KLossless, 8)
    np.testing.assert_array_equal(decoded_frame(frame, syntax, form(PICTURE)), PICTURE)


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1])
def test_lossless_jpeg_that_ends_early_before_its_end_marker(syntax: UID) -> None:
    # The decoder itself makes the missing bits up, and says nothing.
    noise = np.random.default_rng(5).integers(0, 2000, (32, 24)).astype(np.uint16)
    frame = encode_frame(noise, syntax, 12)
    for size in range(len(frame) // 2, len(frame) - 8, 20):
        cut = frame[:size].rstrip(b"\xff") + b"\xff\xd9"
        assert refusal(cut, syntax, noise)[0] == "dicom-truncated"
