import io
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hemaseg.errors import ScanError
from hemaseg.scans.archives import MAX_MEMBERS, is_archive, open_archive
from hemaseg.scans.screening import ReadOptions, Screen

MEMBERS = {"a/1.dcm": b"one", "a/2.dcm": b"two" * 1000, "b/": b""}


def packed(
    path: Path, *others: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED
) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for member, data in (*MEMBERS.items(), *others):
            archive.writestr(member, data)
    return path


def read_all(path: Path, max_bytes: int = 2**30) -> dict[str, bytes]:
    with open_archive(path, Screen(str(path), ReadOptions(max_bytes=max_bytes))) as archive:
        return {member: archive.read(member) for member in archive.members}


def info(name: str, mode: int = 0) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.create_system = 3
    member.external_attr = mode << 16
    return member


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read_exactly(tmp_path: Path, method: int) -> None:
    path = packed(tmp_path / "scan.zip", (info("c", stat.S_IFREG | 0o644), b"3"), method=method)
    assert read_all(path) == {"a/1.dcm": b"one", "a/2.dcm": b"two" * 1000, "c": b"3"}
    assert is_archive(path.read_bytes())


def test_a_member_that_would_lie_before_the_file(tmp_path: Path) -> None:
    path = packed(tmp_path / "scan.zip")
    data = bytearray(path.read_bytes())
    data[-6:-2] = (2**30).to_bytes(4, "little")  # Where the directory says that it begins.
    path.write_bytes(data)
    error = refusal(path)
    assert error.kind == "archive-damaged"
    assert "before the file begins" in str(error)


def test_an_empty_archive_has_no_members(tmp_path: Path) -> None:
    zipfile.ZipFile(tmp_path / "scan.zip", "w").close()
    assert is_archive((tmp_path / "scan.zip").read_bytes())
    assert read_all(tmp_path / "scan.zip") == {}


def refusal(path: Path, max_bytes: int = 2**30) -> ScanError:
    with pytest.raises(ScanError) as caught:
        read_all(path, max_bytes)
    assert str(path) in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "a/../../x", "/etc/x", "C:/x", "C:x", "\\x", "a\\..\\..\\x", "//host/share/x"),
        *("..", "a/..", "x\0y"),
    ],
)
def test_names_that_point_outside(tmp_path: Path, name: str) -> None:
    member = zipfile.ZipInfo("x")
    member.filename = name  # Its constructor would tidy the name up.
    path = packed(tmp_path / "scan.zip", (member, b"0"))
    assert refusal(path).kind == "archive-outside"


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO])
def test_links_and_devices(tmp_path: Path, kind: int) -> None:
    path = packed(tmp_path / "scan.zip", (info("link", kind | 0o777), b"/etc/passwd"))
    assert refusal(path).kind == "archive-link"


def flip(path: Path, place: int) -> Path:
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)
    return path


def encrypted(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.find(signature) + place] |= 1
    path.write_bytes(data)
    return path


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-30])
    return path


def wrong_size(path: Path) -> Path:
    """The directory promises fewer bytes than there are."""
    data = bytearray(path.read_bytes())
    place = data.find(b"a/2.dcm", data.find(b"PK\x01\x02")) - 46
    data[place + 24 : place + 28] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    return path


DAMAGE: dict[str, Callable[[Path], Path]] = {
    "checksum": lambda folder: flip(
        packed(folder / "scan.zip", method=zipfile.ZIP_STORED), 30 + len("a/1.dcm")
    ),
    "deflated bytes": lambda folder: flip(packed(folder / "scan.zip"), 90),
    "cut": lambda folder: cut(packed(folder / "scan.zip")),
    "encrypted": lambda folder: encrypted(packed(folder / "scan.zip")),
    "bzip2": lambda folder: packed(folder / "scan.zip", method=zipfile.ZIP_BZIP2),
    "lzma": lambda folder: packed(folder / "scan.zip", method=zipfile.ZIP_LZMA),
    "size": lambda folder: wrong_size(packed(folder / "scan.zip")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage(tmp_path: Path, damage: str) -> None:
    assert refusal(DAMAGE[damage](tmp_path)).kind == "archive-damaged"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_taken_twice(tmp_path: Path) -> None:
    path = packed(tmp_path / "scan.zip", ("a/1.dcm", b"other"))
    error = refusal(path)
    assert error.kind == "archive-damaged"
    assert "1 members whose names are taken" in str(error)


def test_too_many_members(tmp_path: Path) -> None:
    path = tmp_path / "scan.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(3):
            archive.writestr(str(number), b"")
    # Entries of a directory that is never read.
    path.write_bytes(b"PK\x01\x02" * (MAX_MEMBERS - 2) + path.read_bytes())
    error = refusal(path)
    assert error.kind == "archive-too-many"
    assert "100,001 members, expected at most 100,000" in str(error)


def test_entries_are_counted_across_chunks(tmp_path: Path) -> None:
    path = tmp_path / "scan.zip"
    path.write_bytes(b"PK\x05\x06" + b"PK\x01\x02x" * (MAX_MEMBERS + 1))
    assert "100,001 members" in str(refusal(path))


def test_total_is_counted_over_members(tmp_path: Path) -> None:
    path = packed(tmp_path / "scan.zip", ("c", b"c" * 1000))
    assert len(read_all(path, max_bytes=4003)) == 3
    error = refusal(path, max_bytes=4002)
    assert error.kind == "archive-bomb"
    assert "4,003 bytes" in str(error)
    assert "4,002 in all" in str(error)


def test_a_member_read_again_counts_once(tmp_path: Path) -> None:
    path = packed(tmp_path / "scan.zip")
    screen = Screen(str(path), ReadOptions(max_bytes=3003))
    with open_archive(path, screen) as archive:
        for _ in range(5):
            assert archive.read("a/2.dcm") == b"two" * 1000


def test_a_bomb_is_known_by_its_ratio(tmp_path: Path) -> None:
    path = packed(tmp_path / "scan.zip", ("zeros", bytes(2**25)))
    error = refusal(path)
    assert error.kind == "archive-bomb"
    assert "100 times" in str(error)


def test_an_archive_in_the_archive(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a", b"0")
    tar = bytes(257) + b"ustar" + bytes(250)
    for data in (inner.getvalue(), b"\x1f\x8b\x08\0", b"7z\xbc\xaf\x27\x1c", tar):
        path = packed(tmp_path / "scan.zip", ("inner", data))
        assert refusal(path).kind == "archive-nested"


def test_an_archive_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = packed(tmp_path / "scan.zip")
    error = refusal(path, max_bytes=path.stat().st_size - 1)
    assert error.kind == "too-large"
