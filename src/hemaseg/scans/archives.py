"""Members of a zip file, read into memory one by one; nothing is ever unpacked to disk.

An archive is refused as a whole if anything about it is evil, even in a member that is not wanted:
whoever unpacks it next may be hurt.
"""

import errno
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from hemaseg.errors import ScanError
from hemaseg.scans.inflation import BOMB_RATIO, is_bomb
from hemaseg.scans.screening import Screen

MAX_MEMBERS = 100_000
_CHUNK = 2**20
_ENTRY = b"PK\x01\x02"
_PACKED = (
    *(b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b\x08", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07"),
    *(b"\xfd7zXZ\x00", b"BZh", b"\x28\xb5\x2f\xfd"),
)
"""First bytes of zip, gzip, 7z, RAR, xz, bzip2 and zstd; tar has its mark at byte 257."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def is_archive(head: bytes) -> bool:
    """Whether a file is a zip file by its first bytes."""
    return head[:4] in _PACKED[:2]


class Archive:
    """An open zip file whose members were checked.

    Attributes:
        members: Names of the files in it, in the order of its directory.
    """

    def __init__(self, archive: zipfile.ZipFile, screen: Screen) -> None:
        self._archive = archive
        self._screen = screen
        self._sizes: dict[str, int] = {}
        files = [info for info in archive.infolist() if not info.is_dir()]
        self._infos = {info.filename: info for info in files}
        self.members = tuple(self._infos)
        for info in archive.infolist():
            self._check(info)
        if len(files) > len(self.members):
            raise self._damaged(f"{len(files) - len(self.members)} members whose names are taken")

    def read(self, member: str) -> bytes:
        """The bytes of a member, counted while they are inflated.

        Raises:
            ScanError: It is damaged, itself an archive, or inflates beyond the limit.
        """
        info, chunks = self._infos[member], []
        self._sizes[member] = 0
        try:
            with self._archive.open(info) as stream:
                while chunk := stream.read(_CHUNK):
                    self._sizes[member] += len(chunk)
                    self._check_sizes(info)
                    chunks.append(chunk)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
            raise self._damaged("a member that breaks off or fails its checksum") from None
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise self._damaged("a member that would lie before the file begins") from None
        data = b"".join(chunks)
        if data.startswith(_PACKED) or data[257:262] == b"ustar":
            raise self._screen.error(
                "archive-nested",
                "an archive inside the archive, expected none. Unpack it, and give the folder.",
            )
        return data

    def _check_sizes(self, info: zipfile.ZipInfo) -> None:
        """Refuse what was inflated so far if it is too much."""
        total, limit = sum(self._sizes.values()), self._screen.options.max_bytes
        if total > limit or is_bomb(self._sizes[info.filename], info.compress_size):
            raise self._screen.error(
                "archive-bomb",
                f"members that inflate to more than {total:,} bytes, one of them from "
                f"{info.compress_size:,}; expected at most {limit:,} in all and {BOMB_RATIO} times "
                "as many. If it can be trusted, unpack it, or raise the limit.",
            )

    def _check(self, info: zipfile.ZipInfo) -> None:
        """Refuse a member that is dangerous or cannot be read."""
        # ZipInfo cuts names at a zero byte and turns backslashes on Windows alone.
        name = info.orig_filename
        parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
        is_absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor != ""
        if is_absolute or ".." in parts or "\0" in name:
            raise self._screen.error(
                "archive-outside",
                "a member that points outside the archive, expected names below it. Do not unpack "
                "it; ask where it came from.",
            )
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise self._screen.error(
                "archive-link",
                "a member that is a link or a device, expected files. Do not unpack it; ask where "
                "it came from.",
            )
        if info.flag_bits & 1:
            raise self._damaged("a member that is encrypted")
        if info.compress_type not in _METHODS:
            raise self._damaged(f"a member of compression method {info.compress_type}")

    def _damaged(self, found: str) -> ScanError:
        return self._screen.error(
            "archive-damaged",
            f"{found}, expected a complete zip file without password, stored or deflated. Unpack "
            "it, and give the folder, or export it again.",
        )


@contextmanager
def open_archive(path: Path, screen: Screen) -> Iterator[Archive]:
    """Open a zip file and check its directory.

    Raises:
        ScanError: It is damaged, encrypted or too large, has too many members, or one that points
            outside or is a link.
        OSError: It cannot be opened.
    """
    with path.open("rb") as file:
        screen.check_size(file.seek(0, 2))
        if (num_members := _num_entries(file)) > MAX_MEMBERS:
            raise screen.error(
                "archive-too-many",
                f"{num_members:,} members, expected at most {MAX_MEMBERS:,}. Unpack what is wanted "
                "and give its folder.",
            )
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError):
            raise screen.error(
                "archive-damaged",
                "a zip file whose directory is damaged, expected a complete one. Copy or export "
                "it again.",
            ) from None
        with archive:
            yield Archive(archive, screen)


def _num_entries(file: BinaryIO) -> int:
    """An upper limit of the entries of the directory, before it is read into memory."""
    count, overlap = 0, b""
    file.seek(0)
    while chunk := file.read(_CHUNK):
        count += (overlap + chunk).count(_ENTRY)
        overlap = chunk[-len(_ENTRY) + 1 :]
    return count
