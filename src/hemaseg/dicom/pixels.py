"""Pixel data of DICOM objects: stored values, exactly, of native and compressed frames.

Source: DICOM PS3.3 C.7.6.3 (image pixel), PS3.5 section 8 and annex A.4 (encapsulation).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from hemaseg.dicom.attributes import integer, missing, number, text, values
from hemaseg.dicom.codecs import CODECS, bad_frame, decoded_frame
from hemaseg.dicom.structure import Structure, body, shown_uid
from hemaseg.errors import ScanError

NATIVE = frozenset(
    {
        *(ImplicitVRLittleEndian, ExplicitVRLittleEndian),
        *(ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian),
    }
)


@dataclass(frozen=True)
class PixelFormat:
    """How pixels are stored.

    Attributes:
        rows: Of each frame.
        columns: Of each frame.
        num_frames: One unless the object says otherwise.
        bits_allocated: 8, 16 or 32.
        bits_stored: Of these, the low ones that count.
        is_signed: Two's complement.
        is_inverted: High values are dark (MONOCHROME1).
        padding: Lowest and highest stored value that is padding; None without.
    """

    rows: int
    columns: int
    num_frames: int
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    is_inverted: bool
    padding: tuple[int, int] | None

    @property
    def frame_bytes(self) -> int:
        """Bytes of a decoded frame."""
        return self.rows * self.columns * self.bits_allocated // 8

    @property
    def limits(self) -> tuple[int, int]:
        """Lowest and highest value that can be stored.

        >>> PixelFormat(1, 1, 1, 16, 12, True, False, None).limits
        (-2048, 2047)
        """
        span = 2**self.bits_stored
        return (-span // 2, span // 2 - 1) if self.is_signed else (0, span - 1)


def pixel_format(header: Dataset) -> PixelFormat:
    """How an object stores its pixels.

    Raises:
        ScanError: An attribute is missing, or the pixels are not grey whole numbers.
    """
    rows, columns = integer(header, "Rows"), integer(header, "Columns")
    num_frames = integer(header, "NumberOfFrames") if values(header, "NumberOfFrames") else 1
    if min(rows, columns, num_frames) < 1:
        raise ScanError(
            f"{num_frames} frames of {rows} x {columns} pixels, expected at least one. Export the "
            "original series again.",
            kind="dicom-damaged",
        )
    photometric = text(header, "PhotometricInterpretation")
    if not photometric:
        raise missing("PhotometricInterpretation")
    samples = integer(header, "SamplesPerPixel")
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or samples != 1:
        raise ScanError(
            f"pixels of {samples} samples that are {photometric[:16]}, expected 1 that is "
            "MONOCHROME2 or MONOCHROME1. Export the original grey series.",
            kind="photometric",
        )
    allocated, stored = integer(header, "BitsAllocated"), integer(header, "BitsStored")
    high, sign = integer(header, "HighBit"), integer(header, "PixelRepresentation")
    is_possible = allocated in (8, 16, 32) and 1 <= stored <= allocated and sign in (0, 1)
    if not is_possible or high != stored - 1:
        raise ScanError(
            f"{allocated} bits allocated, {stored} stored, high bit {high}, representation {sign}; "
            "expected 8, 16 or 32 allocated, as many or fewer stored, the high bit one less, and "
            "representation 0 or 1. Export the original series again.",
            kind="bits",
        )
    return PixelFormat(
        *(rows, columns, num_frames, allocated, stored, sign == 1, photometric == "MONOCHROME1"),
        padding=_padding(header, allocated, sign == 1),
    )


def _padding(header: Dataset, bits: int, is_signed: bool) -> tuple[int, int] | None:
    """The padding's range; values written with the wrong sign are read as the bits they are."""
    keywords = "PixelPaddingValue", "PixelPaddingRangeLimit"
    found = [value for keyword in keywords if (value := number(header, keyword)) is not None]
    if not values(header, "PixelPaddingValue"):
        return None
    stored = [int(value) % 2**bits for value in found]
    if is_signed:
        stored = [value - 2**bits * (value >= 2 ** (bits - 1)) for value in stored]
    return min(stored), max(stored)


def check_pixels(structure: Structure, form: PixelFormat, max_bytes: int) -> None:
    """Refuse pixel data that cannot be what the header says, before anything is decoded.

    Raises:
        ScanError: A compression that is not read, too many bytes, or too few or too many.
    """
    syntax = structure.syntax
    expected = form.frame_bytes * form.num_frames
    if expected > max_bytes:
        raise ScanError(
            f"{form.num_frames} frames of {form.rows} x {form.columns} pixels, {expected:,} bytes, "
            f"expected at most {max_bytes:,}. Crop it, or raise the limit.",
            kind="too-large",
        )
    is_swapped = syntax == ExplicitVRBigEndian and form.bits_allocated == 8
    if is_swapped or (syntax not in NATIVE and syntax not in CODECS):
        raise ScanError(
            f"transfer syntax {shown_uid(syntax)}{' of 8 bits' * is_swapped}, expected one that "
            "is read: plain, RLE, JPEG, JPEG-LS, JPEG 2000. Convert it, for example with dcmconv.",
            kind="transfer-syntax",
        )
    assert structure.pixels is not None
    if (syntax in NATIVE) != (not structure.fragments):
        raise ScanError(
            f"pixel data {'with' if structure.fragments else 'without'} fragments in transfer "
            f"syntax {shown_uid(syntax)}, expected the opposite. Export the file again.",
            kind="dicom-damaged",
        )
    found = structure.pixels[1]
    if syntax in NATIVE and found not in (expected, expected + expected % 2):
        raise ScanError(
            f"{found:,} bytes of pixels, expected {expected:,} for {form.num_frames} frames of "
            f"{form.rows} x {form.columns} pixels. Export the file again.",
            kind="dicom-truncated" if found < expected else "dicom-surplus",
        )


def read_frames(
    stream: BinaryIO, structure: Structure, header: Dataset, form: PixelFormat, max_bytes: int
) -> Iterator[NDArray[Any]]:
    """The frames in order, each (row, column) stored values.

    Args:
        stream: The file.
        structure: Of the file, checked by `check_pixels`.
        header: Of the file.
        form: Of the file.
        max_bytes: Limit of a deflated data set.

    Raises:
        ScanError: A frame is damaged, or of another size than the header promises.
    """
    stream = body(stream, structure, max_bytes)
    for index, data in enumerate(_encoded(stream, structure, header, form), start=1):
        try:
            if structure.syntax in NATIVE:
                frame = _native(data, structure, form)
            else:
                frame = decoded_frame(data, structure.syntax, form)
        except ScanError as error:
            raise ScanError(f"frame {index} {error}", kind=error.kind) from None
        yield _exact(frame, form)


def _native(data: bytes, structure: Structure, form: PixelFormat) -> NDArray[Any]:
    """(row, column) raw pixels of a frame that is not compressed."""
    if len(data) < form.frame_bytes:
        raise bad_frame("that breaks off", "dicom-truncated")
    order = "<" if structure.is_little else ">"
    pixels: NDArray[Any] = np.frombuffer(data, f"{order}u{form.bits_allocated // 8}")
    return pixels.reshape(form.rows, form.columns)


def _exact(frame: NDArray[Any], form: PixelFormat) -> NDArray[Any]:
    """Stored values of raw pixels: the stored bits alone, with their sign.

    Bits above are overlays or the codec's idea of a sign.
    """
    bits: NDArray[Any] = frame.astype(f"u{form.bits_allocated // 8}")
    if form.bits_stored < form.bits_allocated:
        bits &= bits.dtype.type(2**form.bits_stored - 1)
    if not form.is_signed:
        return bits
    signed = bits.view(f"i{form.bits_allocated // 8}")
    if form.bits_stored < form.bits_allocated:
        sign = signed.dtype.type(2 ** (form.bits_stored - 1))
        signed = (signed ^ sign) - sign
    return signed


def _encoded(
    stream: BinaryIO, structure: Structure, header: Dataset, form: PixelFormat
) -> Iterator[bytes]:
    """Bytes of each frame, as they are stored."""
    assert structure.pixels is not None
    if not structure.fragments:
        stream.seek(structure.pixels[0])
        for _ in range(form.num_frames):
            yield stream.read(form.frame_bytes)
        return
    table, *fragments = structure.fragments
    # Offsets count from the first fragment's item tag, 8 bytes before its value.
    starts = [offset - fragments[0][0] for offset, _ in fragments]
    if form.num_frames == 1:
        firsts = starts[:1]
    elif extended := values(header, "ExtendedOffsetTable"):
        firsts = np.frombuffer(extended[0], "<u8").tolist()
    elif table[1]:
        stream.seek(table[0])
        firsts = np.frombuffer(stream.read(table[1]), "<u4").tolist()
    else:
        firsts = starts
    is_known = set(firsts) <= set(starts) and firsts == sorted(set(firsts))
    if len(firsts) != form.num_frames or not is_known or firsts[0] != 0:
        raise ScanError(
            f"{len(fragments)} fragments and {len(firsts)} frame offsets, expected those of "
            f"{form.num_frames} frames. Export the file again.",
            kind="dicom-damaged",
        )
    place = {start: index for index, start in enumerate(starts)}
    edges = [*(place[first] for first in firsts), len(fragments)]
    for begin, end in pairwise(edges):
        parts = []
        for offset, length in fragments[begin:end]:
            stream.seek(offset)
            parts.append(stream.read(length))
        yield b"".join(parts)
