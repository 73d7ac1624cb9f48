"""Where DICOM files lie: a file, a folder, or a zip file, which is read in memory."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from hemaseg.dicom.identity import without_words
from hemaseg.errors import ScanError
from hemaseg.scans.archives import is_archive, open_archive
from hemaseg.scans.folders import files_below
from hemaseg.scans.screening import Screen


@dataclass(frozen=True)
class Place:
    """Where an object lies.

    Attributes:
        file: The file or archive.
        member: In the archive; empty for a file.
    """

    file: Path
    member: str = ""

    @property
    def folder(self) -> str:
        """The folder that it lies in."""
        return str(PurePosixPath(self.member).parent if self.member else self.file.parent)

    @property
    def suffix(self) -> str:
        """Of the name; empty for names that end in numbers, as those made of UIDs do."""
        suffix = Path(self.member or self.file).suffix.lower()
        return "" if suffix[1:].isdigit() else suffix

    def shown(self, path: Path, words: Iterable[str]) -> str:
        """For messages: the path as the user named it, and below it no word that identifies."""
        below = self.member or str(self.file.relative_to(path))
        return str(path if below == "." else path / without_words(below, words))


@contextmanager
def one_family(screen: Screen) -> Iterator[None]:
    """Whatever fails within is a `ScanError`, without the words of other errors.

    Raises:
        ScanError: Something failed.
    """
    try:
        yield
    except ScanError:
        raise
    except FileNotFoundError:
        raise screen.error("missing", "no such file or folder. Check the name.") from None
    except PermissionError:
        raise screen.error(
            "no-permission",
            "a file that may not be read, expected one that can. Give yourself the permission.",
        ) from None
    except Exception as error:  # Which can quote a header that identifies the patient.
        reason = getattr(error, "strerror", None) or "its content makes no sense"
        raise screen.error(
            "unreadable", f"{reason}, expected complete DICOM files. Export them again."
        ) from None


@contextmanager
def opener(
    path: Path, screen: Screen
) -> Iterator[tuple[Iterable[Place], Callable[[Place], BinaryIO]]]:
    """The places of all files at a path, and the function that opens one.

    Raises:
        ScanError: A folder or archive that cannot be read.
        OSError: The path cannot be opened.
    """

    def open_file(place: Place) -> BinaryIO:
        return place.file.open("rb")

    def below() -> Iterator[Place]:
        # Not before they are asked for: whoever knows its places need not search a whole cohort.
        yield from map(Place, files_below(path, screen))

    if path.is_dir():
        yield below(), open_file
        return
    with path.open("rb") as file:
        head = file.read(4)
    if not is_archive(head):
        yield [Place(path)], open_file
        return
    with open_archive(path, screen) as archive:
        yield (
            map(partial(Place, path), archive.members),
            lambda place: BytesIO(archive.read(place.member)),
        )
