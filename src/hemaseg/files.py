"""Files written whole or not at all, tables as text, hashes, and the order of names."""

import csv
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path

PARTIAL = ".partial-"
"""How names of files begin that are being written, or that a kill left half written."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block ends without an error.

    The content reaches the disk before the name does, so that `path` holds the old content or the
    new one, never half of either. On an error the temporary file is removed.

    Raises:
        OSError: If the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept because some writers choose the format by it.
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=PARTIAL, suffix="".join(path.suffixes[-2:])
    )
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; give this one the mode that open() would have.
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        # A full disk names no file, and nobody knows the temporary one.
        if error.filename in (None, name):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring names to the disk; where folders cannot be opened (Windows), the system does it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def csv_text(columns: Iterable[str], rows: Iterable[Mapping[str, object]]) -> str:
    """A table with a header; what is undefined, None or NaN, is an empty field.

    >>> print(csv_text(["a", "b"], [{"a": 1, "b": float("nan")}]), end="")
    a,b
    1,
    """
    text = StringIO()
    table = csv.DictWriter(text, list(columns), lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({key: "" if value != value else value for key, value in row.items()})
    return text.getvalue()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def natural(text: str) -> tuple[tuple[str | tuple[int, str], ...], str]:
    """Sorting key under which numbers in names come in numeric order.

    Example:
        >>> sorted(["p10", "p9", "P1"], key=natural)
        ['P1', 'p9', 'p10']
    """
    parts = re.split("0*([0-9]+)", text.casefold())
    # Python makes no number of more than 4,300 digits; the longer one is the larger one.
    return tuple((len(p), p) if index % 2 else p for index, p in enumerate(parts)), text
