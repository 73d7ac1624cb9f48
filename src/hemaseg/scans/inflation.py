"""Deflated bytes inflated with a limit: a few can stand for very many."""

import zlib

from hemaseg.errors import ScanError

BOMB_BYTES, BOMB_RATIO = 2**24, 100
"""Scans deflate to a half or a tenth of their bytes; only small blank ones to a hundredth."""

_CHUNK = 2**16


def is_bomb(unpacked: int, packed: int) -> bool:
    """Whether so many bytes cannot come from so few in any honest file.

    >>> is_bomb(2**30, 2**20), is_bomb(2**20, 2**10)
    (True, False)
    """
    return unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * packed


def inflated(data: bytes, max_bytes: int) -> bytes:
    """A deflated data set as it was (raw deflate, RFC 1951); counted before it is kept.

    Raises:
        ScanError: It is damaged, or grows beyond the limit or any honest ratio.
    """
    inflater, total, trailing = zlib.decompressobj(-zlib.MAX_WBITS), 0, b""
    try:
        for start in range(0, len(data), _CHUNK):
            rest, piece = data[start : start + _CHUNK], b" " * _CHUNK
            # At its end, the inflater calls bytes that follow unconsumed for ever.
            while not inflater.eof and (rest or len(piece) == _CHUNK):
                piece = inflater.decompress(rest, _CHUNK)
                rest = inflater.unconsumed_tail
                total += len(piece)
                _check_size(total, len(data), max_bytes)
            if inflater.eof:
                trailing = inflater.unused_data + data[start + _CHUNK :]
                break
        if not inflater.eof or trailing.strip(b"\0"):
            raise _damaged(len(data))
        return zlib.decompress(data, -zlib.MAX_WBITS, bufsize=total)
    except zlib.error:
        raise _damaged(len(data)) from None


def _check_size(total: int, packed: int, max_bytes: int) -> None:
    if total > max_bytes or is_bomb(total, packed):
        raise ScanError(
            f"{packed:,} deflated bytes that grow beyond {total:,}, expected at most {BOMB_RATIO} "
            f"times as many and {max_bytes:,} in all. Export the file again; do not trust where it "
            "came from.",
            kind="dicom-bomb",
        )


def _damaged(num_bytes: int) -> ScanError:
    return ScanError(
        f"{num_bytes:,} deflated bytes that cannot be inflated to their end, expected a complete "
        "data set. Export the file again.",
        kind="dicom-damaged",
    )
