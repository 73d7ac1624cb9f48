"""The files below a folder, found without following links for ever."""

from pathlib import Path

from hemaseg.files import natural
from hemaseg.scans.screening import Screen

MAX_DEPTH = 64
"""Folders within folders; exports of archives have about six."""


def files_below(folder: Path, screen: Screen) -> list[Path]:
    """All files in a folder and those in it, hidden ones left out, in natural order.

    Links are followed. Pipes, sockets and devices are left out: opening one could wait for ever.

    Raises:
        ScanError: A folder may not be read, is a link to one above it, or is nested too deep.
    """
    files: list[Path] = []

    def visit(here: Path, above: tuple[tuple[int, int], ...]) -> None:
        try:
            status = here.stat()
            entries = sorted(here.iterdir(), key=lambda path: natural(path.name))
        except OSError as error:
            raise screen.error(
                "no-permission",
                f"{here.relative_to(folder)} cannot be read ({error.strerror}), expected a folder "
                "that can. Give yourself the permission, or name the scans one by one.",
            ) from None
        inode = status.st_dev, status.st_ino
        if inode in above or len(above) >= MAX_DEPTH:
            raise screen.error(
                "folder-loop",
                f"{str(here.relative_to(folder))[:100]} leads back to a folder above it, or is "
                f"nested deeper than {MAX_DEPTH} folders, expected neither. Remove the link, or "
                "name the scans one by one.",
            )
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                visit(entry, (*above, inode))
            elif entry.is_file():
                files.append(entry)

    visit(folder, ())
    return files
