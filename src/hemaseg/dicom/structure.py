"""The bytes of a DICOM file, walked before any value is decoded.

pydicom reads a file that breaks off as if nothing were missing, inflates without a limit and
recurses as deep as a file asks for. Every file is therefore walked first: each element must lie
within what holds it, and only bytes that passed are handed to pydicom.

Source: DICOM PS3.5 section 7 (elements, sequences), annex A (transfer syntaxes), PS3.10 section 7
(the file meta group).
"""

import re
import struct
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO

from pydicom import Dataset, FileMetaDataset
from pydicom.datadict import dictionary_VR
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

from hemaseg.errors import ScanError
from hemaseg.scans.inflation import inflated

MAX_DEPTH = 32
"""Sequences within sequences; real objects have fewer than ten."""
MAX_ELEMENTS = 300_000
"""Elements of one file; an enhanced object of 2,000 frames has some 120,000."""
HEAD_BYTES = 132
"""Bytes from the start of a file that `starts_like_dicom` looks at."""

_LONG_VRS = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)
_VRS = frozenset(vr.encode() for vr in STANDARD_VR)
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_FLOAT_PIXELS, _PIXELS = (0x7FE00008, 0x7FE00009), 0x7FE00010
_CHUNK = 2**16


@dataclass
class Structure:
    """Where the parts of a DICOM file lie.

    Attributes:
        syntax: Transfer syntax; guessed from the first element where the file does not say it.
        size: Of the file.
        start: Of the data set in the file.
        header: Bytes of the data set up to its pixels, as far as they are sound.
        meta: Bytes of the file meta group.
        is_implicit: No value representations.
        is_little: Little endian.
        pixels: Offset and length of the pixel data in the body; None without. The body is the
            file, or, in the deflated syntax, the data set that it inflates to.
        fragments: Offset and length of each item of encapsulated pixel data, offset table first;
            empty for native pixels.
        damage: Why the file is refused; None if it is sound.
    """

    syntax: UID
    size: int = 0
    start: int = 0
    header: bytes = b""
    meta: bytes = b""
    is_implicit: bool = False
    is_little: bool = True
    pixels: tuple[int, int] | None = None
    fragments: list[tuple[int, int]] = field(default_factory=list)
    damage: ScanError | None = None

    @property
    def is_deflated(self) -> bool:
        """Whether the body has to be inflated."""
        return self.syntax == DeflatedExplicitVRLittleEndian


def starts_like_dicom(head: bytes) -> bool:
    """Whether a file may be DICOM by its first `HEAD_BYTES` bytes.

    It has the preamble, or none but a first element as DICOM files have it.

    >>> starts_like_dicom(bytes(128) + b"DICM"), starts_like_dicom(b"%PDF-1.7")
    (True, False)
    """
    if head[128:132] == b"DICM":
        return True
    if len(head) < 8:
        return False
    for order in "<>":
        group, element, vr = struct.unpack(f"{order}HH2s", head[:6])
        (length,) = struct.unpack(f"{order}I", head[4:8])
        is_first = (group == 0x0002 and element <= 0x0010) or (group == 0x0008 and element <= 0x20)
        if is_first and (vr in _VRS or (order == "<" and group == 0x0008 and length <= 256)):
            return True
    return False


def read_structure(stream: BinaryIO, max_bytes: int) -> Structure:
    """Walk a file. What is wrong with it is in `damage`; nothing is raised.

    Args:
        stream: The file, seekable.
        max_bytes: Limit of a deflated data set.
    """
    size = stream.seek(0, 2)
    stream.seek(0)
    structure = Structure(syntax=ExplicitVRLittleEndian, size=size)
    try:
        structure.start = 132 if stream.read(HEAD_BYTES)[128:] == b"DICM" else 0
        _read_meta(stream, size, structure)
        stream.seek(structure.start)
        if structure.is_deflated:
            check_size(size, max_bytes)
            data = inflated(stream.read(), max_bytes)
            _Walk(BytesIO(data), 0, len(data), structure).run()
        else:
            _Walk(stream, structure.start, size, structure).run()
    except ScanError as error:
        structure.damage = error
    return structure


def body(stream: BinaryIO, structure: Structure, max_bytes: int) -> BinaryIO:
    """The stream that the offsets of a sound structure count in."""
    if not structure.is_deflated:
        return stream
    stream.seek(structure.start)
    return BytesIO(inflated(stream.read(), max_bytes))


def read_header(structure: Structure) -> Dataset:
    """The data set without its pixels; of a damaged file what comes before the damage.

    Private elements and overlays, which nothing here reads, are left out.

    Raises:
        ScanError: pydicom cannot make sense of the bytes.
    """
    try:
        data_set = read_dataset(
            BytesIO(structure.header), structure.is_implicit, structure.is_little
        )
        data_set.file_meta = FileMetaDataset(read_dataset(BytesIO(structure.meta), False, True))
        data_set.file_meta.TransferSyntaxUID = structure.syntax
        for tag in list(data_set.keys()):
            if tag.is_private or tag.group >> 8 in (0x50, 0x60):
                del data_set[tag]
    except Exception:  # Its decoders raise a dozen kinds, and quote values.
        raise _damaged("a header that cannot be parsed") from None
    return data_set


def _read_meta(stream: BinaryIO, size: int, structure: Structure) -> None:
    """Find the file meta group and with it the transfer syntax and the start of the data set."""
    meta_start = structure.start
    walk = _Walk(stream, meta_start, size, Structure(syntax=ExplicitVRLittleEndian))
    syntax = b""
    while (element := walk.next_of_group(0x0002)) is not None:
        tag, offset, length = element
        if tag == 0x00020010:
            stream.seek(offset)
            syntax = stream.read(length).rstrip(b"\0 ")
            stream.seek(offset + length)
    structure.start = stream.tell()
    stream.seek(meta_start)
    structure.meta = stream.read(structure.start - meta_start)
    first = stream.read(8)
    has_vr = _is_vr(first[4:6])
    is_big = has_vr and first[:1] == b"\0" and first[1:2] != b"\0"
    if syntax:
        structure.syntax = UID(syntax.decode("ascii", "replace"))
    elif structure.start > 0:
        if not first:
            raise _damaged("a file that breaks off before its data set")
        raise ScanError(
            "no TransferSyntaxUID, expected one: how pixels are stored is unknown. Export the file "
            "again.",
            kind="missing-attribute",
        )
    elif has_vr:
        structure.syntax = ExplicitVRBigEndian if is_big else ExplicitVRLittleEndian
    else:
        structure.syntax = ImplicitVRLittleEndian
    structure.is_implicit = structure.syntax == ImplicitVRLittleEndian
    structure.is_little = structure.syntax != ExplicitVRBigEndian
    if not structure.is_deflated and len(first) == 8 and has_vr == structure.is_implicit:
        raise _damaged(
            f"transfer syntax {shown_uid(structure.syntax)}, but a first element "
            f"{'with' if has_vr else 'without'} value representation"
        )


def _damaged(found: str, kind: str = "dicom-damaged") -> ScanError:
    return ScanError(f"{found}, expected a complete DICOM file. Export the file again.", kind=kind)


def check_size(size: int, max_bytes: int) -> None:
    """Refuse a file of too many bytes.

    Raises:
        ScanError: It is larger than the limit.
    """
    if size > max_bytes:
        raise ScanError(
            f"a file of {size:,} bytes, expected at most {max_bytes:,}. Take a smaller series, or "
            "raise the limit.",
            kind="too-large",
        )


def shown_uid(found: str) -> str:
    """Name of a registered UID, else its digits; nothing of what is no UID."""
    return UID(found).name if re.fullmatch(r"[0-9.]{1,64}", found) else "that is no UID"


class _Walk:
    """A walk over the elements of a data set, which fills the structure as it goes.

    It follows the same rules as pydicom, so that both see the same elements: an element without a
    value representation is implicit, and so is an item that begins with one.
    """

    def __init__(self, stream: BinaryIO, start: int, size: int, structure: Structure) -> None:
        self._stream = stream
        self._start = start
        self._size = size
        self._structure = structure
        self._order = "<" if structure.is_little else ">"
        self._num_elements = 0
        stream.seek(start)

    def run(self) -> None:
        """Walk all elements of the data set.

        Raises:
            ScanError: Elements break off, contradict each other or are nested too deep.
        """
        structure, stream, last = self._structure, self._stream, -1
        header_end = self._start
        try:
            while stream.tell() < self._size and not (structure.pixels and self._rest_is_zero()):
                tag, vr, length = self._element(structure.is_implicit)
                if tag <= last or tag >> 16 == _ITEM >> 16:
                    raise _damaged(f"element {_shown(tag)} after {_shown(last)}, not in order")
                last = tag
                if not structure.is_implicit and vr not in _VRS:
                    raise _damaged(f"element {_shown(tag)} without a value representation")
                if tag in _FLOAT_PIXELS:
                    raise ScanError(
                        "pixels that are real numbers, expected whole numbers of 8, 16 or 32 bits. "
                        "Export the original series.",
                        kind="bits",
                    )
                value = stream.tell()
                fragments = self._value(tag, vr, length, self._size, structure.is_implicit, 0)
                if tag == _PIXELS:
                    structure.pixels = (value, stream.tell() - value)
                    structure.fragments = fragments
                elif tag < _PIXELS:
                    header_end = stream.tell()
        finally:
            stream.seek(self._start)
            structure.header = stream.read(header_end - self._start)

    def next_of_group(self, group: int) -> tuple[int, int, int] | None:
        """Tag, offset and length of the next element if it is of this group, and step over it."""
        position = self._stream.tell()
        head = self._stream.read(2)
        self._stream.seek(position)
        if head != struct.pack(f"{self._order}H", group):
            return None
        tag, vr, length = self._element(is_implicit=False)
        if vr not in _VRS:
            raise _damaged(f"element {_shown(tag)} without a value representation")
        offset = self._stream.tell()
        self._value(tag, vr, length, self._size, is_implicit=False, depth=0)
        return tag, offset, self._stream.tell() - offset

    def _take(self, num_bytes: int) -> bytes:
        data = self._stream.read(num_bytes)
        if len(data) < num_bytes:
            raise _damaged("a data set that breaks off in the middle of an element")
        return data

    def _element(self, is_implicit: bool) -> tuple[int, bytes, int]:
        """Tag, value representation (empty if implicit) and length of the next element."""
        self._num_elements += 1
        if self._num_elements > MAX_ELEMENTS:
            raise _damaged(f"more than {MAX_ELEMENTS:,} elements")
        head = self._take(8)
        group, number, vr, length = struct.unpack(f"{self._order}HH2sH", head)
        if is_implicit or not b"AA" <= vr <= b"ZZ":
            vr = b""
            (length,) = struct.unpack(f"{self._order}I", head[4:])
        elif vr in _LONG_VRS:
            (length,) = struct.unpack(f"{self._order}I", self._take(4))
        return group << 16 | number, vr, length

    def _value(
        self, tag: int, vr: bytes, length: int, end: int, is_implicit: bool, depth: int
    ) -> list[tuple[int, int]]:
        """Step over a value that must end by `end`; the items of encapsulated pixels."""
        position = self._stream.tell()
        if length == _UNDEFINED:
            if tag == _PIXELS:
                return self._fragments(end)
            self._items(end, False, is_implicit, depth)
        elif length > end - position:
            kind = "dicom-truncated" if tag == _PIXELS else "dicom-damaged"
            raise _damaged(
                f"element {_shown(tag)} of {length:,} bytes where {end - position:,} are left", kind
            )
        elif vr == b"SQ" or (not vr and _is_sequence(tag)):
            self._items(position + length, True, is_implicit, depth)
        else:
            self._stream.seek(position + length)
        return []

    def _items(self, end: int, is_defined: bool, is_implicit: bool, depth: int) -> None:
        """Step over the items of a sequence."""
        if depth >= MAX_DEPTH:
            raise ScanError(
                f"sequences nested deeper than {MAX_DEPTH}, expected at most that. Export the file "
                "again; do not trust where it came from.",
                kind="too-deep",
            )
        stream = self._stream
        while not (is_defined and stream.tell() == end):
            tag, length = self._delimiter()
            if tag == _SEQUENCE_END and not is_defined:
                return
            item_end = end if length == _UNDEFINED else stream.tell() + length
            if tag != _ITEM or item_end > end:
                raise _damaged("a sequence whose items do not fit into it")
            self._item(item_end, length != _UNDEFINED, is_implicit, depth)

    def _item(self, end: int, is_defined: bool, is_implicit: bool, depth: int) -> None:
        """Step over the elements of one item."""
        stream = self._stream
        if not is_implicit:
            position = stream.tell()
            vr = stream.read(6)[4:]
            stream.seek(position)
            is_implicit = not _is_vr(vr)
        while not (is_defined and stream.tell() == end):
            tag, vr, length = self._element(is_implicit)
            if tag == _ITEM_END and not is_defined:
                return
            if tag >> 16 == _ITEM >> 16 or stream.tell() > end:
                raise _damaged("an item whose elements do not fit into it")
            self._value(tag, vr, length, end, is_implicit, depth + 1)

    def _fragments(self, end: int) -> list[tuple[int, int]]:
        """Offset and length of the items of encapsulated pixel data."""
        fragments: list[tuple[int, int]] = []
        while True:
            if self._stream.tell() + 8 > end:
                raise _damaged("compressed pixels that break off", "dicom-truncated")
            tag, length = self._delimiter()
            if tag == _SEQUENCE_END:
                return fragments
            offset = self._stream.tell()
            if tag != _ITEM or length > end - offset:
                raise _damaged("compressed pixels that break off", "dicom-truncated")
            fragments.append((offset, length))
            self._stream.seek(offset + length)

    def _delimiter(self) -> tuple[int, int]:
        """Tag and length of an item or a delimiter."""
        group, number, length = struct.unpack(f"{self._order}HHI", self._take(8))
        return group << 16 | number, length

    def _rest_is_zero(self) -> bool:
        """Whether nothing but padding follows: some archives fill the last block of a file."""
        position, is_zero = self._stream.tell(), True
        while is_zero and (chunk := self._stream.read(_CHUNK)):
            is_zero = not chunk.strip(b"\0")
        self._stream.seek(position)
        return is_zero


def _is_vr(letters: bytes) -> bool:
    """Whether bytes are capital letters, as a value representation is; True if there are none."""
    return all(0x40 < letter < 0x5B for letter in letters)


def _is_sequence(tag: int) -> bool:
    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:
        return False


def _shown(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
