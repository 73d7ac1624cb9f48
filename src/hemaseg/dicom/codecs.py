# mypy: allow-untyped-calls
# (imagecodecs' functions have no types.)
"""Compressed frames of DICOM objects, decoded one by one.

The decoders of imagecodecs (libjpeg-turbo, CharLS, OpenJPEG) are only given frames whose own header
promises the size that the object promises, and that have their end marker: without it, libjpeg
fills up with grey, and CharLS never returns. Its two other decoders of lossless JPEG crash on
damaged frames and are not used.

Source: DICOM PS3.5 annex G (RLE); ITU-T T.81 B.2.2, T.87 C.2.2 and T.800 A.4 to A.5.1 (JPEG,
JPEG-LS, JPEG 2000: sizes and parts of a frame).
"""

import struct
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
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

from hemaseg.errors import ScanError

if TYPE_CHECKING:
    from hemaseg.dicom.pixels import PixelFormat

_SEQUENTIAL, _LOSSLESS, _LS = b"\xc0\xc1", b"\xc3", b"\xf7"
"""Markers of frame headers: JPEG baseline and extended, JPEG lossless, JPEG-LS."""
_MAX_TILES = 1024
"""Of a JPEG 2000 frame; each costs memory before any pixel is decoded."""


def decoded_frame(data: bytes, syntax: UID, form: "PixelFormat") -> NDArray[Any]:
    """(row, column) whole numbers, whose low bits are the stored values.

    Args:
        data: One frame.
        syntax: One of `CODECS`.
        form: What the object says of its frames.

    Raises:
        ScanError: The frame is damaged, or of another size than the object's.
    """
    try:
        frame = _DECODERS[syntax](data, form)
    except ScanError:
        raise
    except Exception:  # The codecs raise many kinds.
        raise bad_frame("that its decoder gives up on") from None
    # A codec that finds colours, or another size than its frame header said.
    if frame.size != form.rows * form.columns or frame.dtype.kind not in "iu":
        raise bad_frame("that decodes to another size than it says")
    return frame.reshape(form.rows, form.columns)


def bad_frame(what: str, kind: str = "dicom-damaged") -> ScanError:
    """The error for a frame that is not complete."""
    return ScanError(f"{what}, expected a complete frame. Export the file again.", kind=kind)


def _check_size(rows: int, columns: int, bits: int, samples: int, form: "PixelFormat") -> None:
    """Refuse a frame whose own header promises something else than the object's."""
    if (rows, columns, samples) != (form.rows, form.columns, 1) or bits > form.bits_allocated:
        is_larger = rows * columns * samples > form.rows * form.columns
        raise ScanError(
            f"of {rows} x {columns} pixels with {samples} samples of {bits} bits, expected "
            f"{form.rows} x {form.columns} with 1 of at most {form.bits_allocated}. Export the "
            "file again.",
            kind="dicom-bomb" if is_larger else "dicom-damaged",
        )


def _ended(data: bytes) -> bytes:
    """A JPEG of any kind without the padding after its end marker."""
    data = data.rstrip(b"\0")
    if data[-2:] != b"\xff\xd9":
        raise bad_frame("without an end marker", "dicom-truncated")
    return data


def _check_jpeg(data: bytes, markers: bytes, form: "PixelFormat") -> None:
    """Find the frame header of a JPEG or JPEG-LS frame and check the size in it."""
    place = 2
    while data[:2] == b"\xff\xd8" and data[place : place + 1] == b"\xff":
        marker = data[place + 1 : place + 2]
        if marker == b"\xff":  # A fill byte.
            place += 1
            continue
        if marker == b"\xda" or len(data) < place + 10:
            break
        (length,) = struct.unpack(">H", data[place + 2 : place + 4])
        if marker in (b"\xc0", b"\xc1", b"\xc2", b"\xc3", b"\xf7"):
            if marker not in markers:
                break
            bits, rows, columns, samples = struct.unpack(">BHHB", data[place + 4 : place + 10])
            _check_size(rows, columns, bits, samples, form)
            return
        place += 2 + length
    raise bad_frame("without the frame header of its transfer syntax")


def _jpeg(markers: bytes) -> Callable[[bytes, "PixelFormat"], NDArray[Any]]:
    def decoded(data: bytes, form: "PixelFormat") -> NDArray[Any]:
        data = _ended(data)
        _check_jpeg(data, markers, form)
        frame = np.asarray(imagecodecs.jpeg8_decode(data))
        # Where bits are missing the decoder makes some up; of sound data it takes no more than
        # there are, whatever follows.
        longer = data[:-2] + b"\x55" * 64 + data[-2:]
        if not np.array_equal(frame, imagecodecs.jpeg8_decode(longer)):
            raise bad_frame("whose data end early", "dicom-truncated")
        return frame

    return decoded


def _jpeg_ls(data: bytes, form: "PixelFormat") -> NDArray[Any]:
    data = _ended(data)
    _check_jpeg(data, _LS, form)
    return np.asarray(imagecodecs.jpegls_decode(data))


def _jpeg_2000(data: bytes, form: "PixelFormat") -> NDArray[Any]:
    data = _ended(data)
    # Some writers wrap the code stream into a JP2 file.
    data = data[max(0, data.find(b"\xff\x4f\xff\x51", 0, 4096)) :]
    size = struct.unpack(">8IH3B", data[8:45])
    x_end, y_end, x_start, y_start, x_tile, y_tile, *_, samples, depth, x_step, y_step = size
    _check_size(y_end - y_start, x_end - x_start, (depth & 0x7F) + 1, samples, form)
    num_tiles = -(-x_end // x_tile) * -(-y_end // y_tile)
    if data[:4] != b"\xff\x4f\xff\x51" or (x_step, y_step) != (1, 1) or num_tiles > _MAX_TILES:
        raise bad_frame("that is no plain JPEG 2000 code stream")
    # The decoder leaves tiles that are not there black.
    if (found := len(_tiles(data))) != num_tiles:
        raise bad_frame(f"with {found} of {num_tiles} tiles")
    return np.asarray(imagecodecs.jpeg2k_decode(data))


def _tiles(data: bytes) -> set[int]:
    """Indices of the tiles of a JPEG 2000 code stream, whose parts must fill it."""
    place, tiles = 2, set()
    while data[place : place + 2] != b"\xff\x90":
        (length,) = struct.unpack(">H", data[place + 2 : place + 4])
        place += 2 + length
    while data[place : place + 2] == b"\xff\x90":
        index, length = struct.unpack(">HI", data[place + 4 : place + 10])
        tiles.add(index)
        place = place + length if length else len(data) - 2
    if place != len(data) - 2:
        raise bad_frame("whose tiles break off")
    return tiles


def _rle(data: bytes, form: "PixelFormat") -> NDArray[Any]:
    num_segments, *offsets = struct.unpack("<16I", data[:64].ljust(64, b"\0"))
    num_planes, num_pixels = form.bits_allocated // 8, form.rows * form.columns
    edges = [*offsets[:num_planes], len(data)]
    if num_segments != num_planes or edges[0] < 64:
        raise bad_frame(f"of {num_segments} RLE segments where {num_planes} belong")
    if edges != sorted(edges):
        raise bad_frame("whose RLE segments lie beyond its end", "dicom-truncated")
    planes = []
    for begin, end in pairwise(edges):
        try:
            plane = imagecodecs.packbits_decode(data[begin:end], out=num_pixels)
        except imagecodecs.PackbitsError as error:
            kind = "dicom-truncated" if "INPUT_CORRUPT" in str(error) else "dicom-surplus"
            raise bad_frame("whose RLE segments hold no whole plane", kind) from None
        if len(plane) < num_pixels:
            raise bad_frame("whose RLE segments hold no whole plane", "dicom-truncated")
        planes.append(np.frombuffer(plane, np.uint8))
    return np.stack(planes, axis=-1).view(f">u{num_planes}")


_DECODERS: dict[UID, Callable[[bytes, "PixelFormat"], NDArray[Any]]] = {
    RLELossless: _rle,
    JPEGBaseline8Bit: _jpeg(_SEQUENTIAL),
    JPEGExtended12Bit: _jpeg(_SEQUENTIAL),
    JPEGLossless: _jpeg(_LOSSLESS),
    JPEGLosslessSV1: _jpeg(_LOSSLESS),
    JPEGLSLossless: _jpeg_ls,
    JPEGLSNearLossless: _jpeg_ls,
    JPEG2000Lossless: _jpeg_2000,
    JPEG2000: _jpeg_2000,
    HTJ2KLossless: _jpeg_2000,
    HTJ2KLosslessRPCL: _jpeg_2000,
    HTJ2K: _jpeg_2000,
}
CODECS = frozenset(_DECODERS)
"""Transfer syntaxes of compressed frames that are read."""
