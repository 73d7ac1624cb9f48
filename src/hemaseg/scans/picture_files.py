"""What Pillow reads of damaged or unusual PNG, JPEG and TIFF files without a word, refused.

Where pixels are missing Pillow makes them black or grey, and some types it reads as other numbers.

Source: PNG specification (third edition) sections 8 and 11; TIFF 6.0; ITU-T T.81.
"""

import re
import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
    STRIPBYTECOUNTS,
    TILEBYTECOUNTS,
    TILELENGTH,
    TILEWIDTH,
    TiffImageFile,
)

from hemaseg.errors import ScanError
from hemaseg.scans.screening import Screen

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Numbers in a pixel of a PNG, by its colour type."""
_ADAM7 = (
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
    *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
)
"""First row, first column, and the steps of both, of each pass of an interlaced PNG."""
_CHUNK = 2**16


def check_whole(kind: str, data: bytes, screen: Screen) -> None:
    """Refuse a file of fewer pixels than it promises, which Pillow would fill up, or of more.

    Args:
        kind: `PNG`, `JPEG`, or another that is left to `check_page`.
        data: All bytes, which Pillow has verified.
        screen: Of the file.

    Raises:
        ScanError: It is not whole.
    """
    if kind == "PNG":
        _check_png(data, screen)
    elif kind == "JPEG":
        _check_jpeg(data, screen)


def check_page(page: TiffImageFile, stored: str, screen: Screen) -> None:
    """Refuse a page of a TIFF that Pillow would read as other numbers, or fill up.

    Args:
        page: Opened, and not decoded yet.
        stored: How it stores pixels, in Pillow's words.
        screen: Of the file.

    Raises:
        ScanError: It is of such a type, or not whole.
    """
    tags, mode, codec = page.tag_v2, page.mode, page.tile[0].codec_name
    if mode == "L" and 2 in tags.get(SAMPLEFORMAT, ()):
        raise wrong_type("signed 8 bits", screen)
    if mode not in ("1", "L") and tags.get(PHOTOMETRIC_INTERPRETATION) == 0:
        raise wrong_type(f"{stored} in which 0 is white", screen)
    if codec == "libtiff" and re.search(r";[0-9]+B", stored):
        # The library has swapped the bytes when Pillow swaps them again.
        raise wrong_type(f"{stored}, big endian and compressed", screen)
    bits = tags.get(BITSPERSAMPLE, (1,))
    if codec != "raw" or mode not in ("1", "L", "I", "F", "I;16", "I;16B"):
        return
    if STRIPBYTECOUNTS in tags:
        row_bytes = -(-page.width * sum(bits) // 8)
        found = sum(count // row_bytes for count in tags[STRIPBYTECOUNTS])
        what, expected = "rows", page.height
    elif TILEBYTECOUNTS in tags:
        size = tags[TILEWIDTH], tags[TILELENGTH]
        found = sum(
            count >= -(-size[0] * sum(bits) // 8) * size[1] for count in tags[TILEBYTECOUNTS]
        )
        what, expected = "tiles", -(-page.width // size[0]) * -(-page.height // size[1])
    else:
        return
    if found != expected:
        raise damaged(f"{found} {what} of pixels where {expected} belong", screen)


def wrong_type(found: str, screen: Screen) -> ScanError:
    """The error for pixels of a type that is not read."""
    return screen.error(
        "voxel-type",
        f"pixels of type {found}, expected grey values of 8 or 16 bits. Save it as a grey picture.",
    )


def damaged(found: str, screen: Screen) -> ScanError:
    """The error for a picture that is not whole."""
    return screen.error(
        "picture-damaged",
        f"{found}, expected a complete picture. Copy or export the file again.",
    )


def _check_png(data: bytes, screen: Screen) -> None:
    """Refuse pixels that inflate to fewer or more bytes than the header promises."""
    columns, rows, bits, colour, _, _, is_interlaced = struct.unpack(">IIBBBBB", data[16:29])
    expected = 0
    for row, column, row_step, column_step in _ADAM7 if is_interlaced else ((0, 0, 1, 1),):
        num_rows, num_columns = -(-(rows - row) // row_step), -(-(columns - column) // column_step)
        if num_columns > 0:  # A row begins with a byte that names its filter.
            expected += num_rows * (1 + -(-num_columns * _CHANNELS[colour] * bits // 8))
    place, inflater, found = 8, zlib.decompressobj(), 0
    while (kind := data[place + 4 : place + 8]) and kind != b"IEND":
        (length,) = struct.unpack(">I", data[place : place + 4])
        end = place + 8 + length
        # In pieces, since what an inflater does not take at once is copied each time.
        for start in range(place + 8, end if kind == b"IDAT" else 0, _CHUNK):
            rest = data[start : min(start + _CHUNK, end)]
            while rest and not inflater.eof and found <= expected:
                found += len(inflater.decompress(rest, _CHUNK))
                rest = inflater.unconsumed_tail
        place = end + 4
    if found != expected:
        raise damaged(f"{found:,} bytes of pixels where {expected:,} belong", screen)


def _check_jpeg(data: bytes, screen: Screen) -> None:
    """Refuse data that end early: the decoder goes on with what follows, here some bytes more.

    Of sound data it takes no more than there are.
    """
    # Before the end marker, and the bytes that may fill up the space in front of a marker.
    end = len(data[: data.rfind(b"\xff\xd9")].rstrip(b"\xff"))
    pixels = []
    for stream in (data, data[:end] + b"\x55" * 64 + data[end:]):
        with Image.open(BytesIO(stream), formats=("JPEG",)) as picture:
            pixels.append(np.array(picture))
    if not np.array_equal(pixels[0], pixels[1]):
        raise damaged("pixels whose data end early", screen)
