"""Lists of scans as CSV files, in which a user says more about each than its path."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from hemaseg.scans.screening import ReadOptions, Screen, reading

COLUMNS = ("image", "name", "modality", "series")
"""Of a list; only `image`, a path relative to the list, must be there."""


@dataclass(frozen=True)
class Wish:
    """A path where a user wants scans to be found, and what the user says about them.

    Attributes:
        path: A file, folder or archive.
        name: Of the scan; empty if it is to be that of the path.
        modality: `CT` or `MRI`; empty if that is not said.
        series: Which series of a study; None if that is not said.
    """

    path: Path
    name: str = ""
    modality: str = ""
    series: str | None = None


def read_scan_list(path: Path, options: ReadOptions) -> list[Wish]:
    """The scans of a CSV list with some of `COLUMNS`.

    Raises:
        ScanError: The file cannot be read, has other columns or no rows (kind `scan-list`), or a
            row has no image or another modality, or a name that a row before it has.
    """
    screen = Screen(str(path), options)
    remedy = f"Save a CSV file in UTF-8 with the columns {', '.join(COLUMNS)}, or only the first."
    with reading(path, screen):
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                lines = csv.reader(file, strict=True)
                columns = next(lines, [])
                rows = [dict(zip(columns, line, strict=True)) for line in lines if line]
        except (csv.Error, ValueError):  # of which a wrong encoding is one
            raise screen.error(
                "scan-list", f"cannot be read as a table, expected one. {remedy}"
            ) from None
    if "image" not in columns or not set(columns) <= set(COLUMNS) or not rows:
        raise screen.error(
            "scan-list",
            f"{len(rows)} rows with the columns {', '.join(columns)}, expected at least one row "
            f"and the column image. {remedy} The cohort.csv of hemaseg index is named alone.",
        )
    wishes: list[Wish] = []
    names: set[str] = set()
    for number, row in enumerate(rows, start=2):
        image, name = row["image"], row.get("name", "")
        modality = row.get("modality", "")
        if not image or name in names or modality not in ("", "CT", "MRI"):
            raise screen.error(
                "scan-list",
                f"row {number} has image {image!r}, name {name!r} and modality {modality!r}, "
                "expected a path, a name of its own, and CT, MRI or nothing. Correct the row.",
            )
        names |= {name} - {""}
        place = Path(os.path.normpath(path.parent / image))
        wishes.append(Wish(place, name, modality, row.get("series") or None))
    return wishes
