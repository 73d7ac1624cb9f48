"""Rows of a CSV file, of which every field is asked for by name and type."""

import csv
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from hemaseg.errors import CohortError

MAX_PROBLEMS = 50
"""So many problems are listed in an error; the others are counted."""


def raise_problems(what: str, problems: list[str], remedy: str) -> None:
    """Raise one `CohortError` that lists all problems, if there are any."""
    if not problems:
        return
    more = len(problems) - MAX_PROBLEMS
    lines = problems[:MAX_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
    count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
    raise CohortError("\n  ".join([f"{what}: {count}. {remedy}", *lines]))


@dataclass(frozen=True)
class Row:
    """One row of a CSV file.

    The methods raise `CohortError` for a field that is not of the type asked for.

    Attributes:
        number: Its line in the file; the header is line 1.
        fields: The texts, by column; empty for a column that the file does not have.
        folder: Where the file lies.
    """

    number: int
    fields: dict[str, str]
    folder: Path

    def text(self, column: str) -> str:
        """The text in a field."""
        return self.fields[column]

    def count(self, column: str) -> int | None:
        """The whole number in a field; None if it is empty."""
        text = self.fields[column]
        if not text:
            return None
        if not re.fullmatch("[0-9]{1,18}", text):
            raise CohortError(f"{column} {text!r}, expected a whole number from 0 upward")
        return int(text)

    def decimal(self, column: str) -> float:
        """The finite number in a field; NaN if it is empty."""
        text = self.fields[column]
        if not text:
            return math.nan
        try:
            # Python takes 1_0 for 10, and digits of any script.
            number = float(text) if text.isascii() and "_" not in text else math.nan
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise CohortError(f"{column} {text!r}, expected a finite number")
        return number

    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Slice, row and column spacing; None if the three fields are empty, NaN where one is."""
        slice_mm = self.decimal("slice_spacing_mm")
        row_mm, column_mm = self.decimal("row_spacing_mm"), self.decimal("column_spacing_mm")
        if all(math.isnan(spacing) for spacing in (slice_mm, row_mm, column_mm)):
            return None
        return slice_mm, row_mm, column_mm

    def file(self, column: str) -> Path | None:
        """The file named in a field, relative to the table's folder; None if it is empty."""
        text = self.fields[column]
        return Path(os.path.normpath(self.folder.absolute() / text)) if text else None

    def required_file(self, column: str) -> Path:
        """The file named in a field that must not be empty."""
        file = self.file(column)
        if file is None:
            raise CohortError(f"{column} is empty, expected the name of a file")
        return file


def read_rows(
    path: Path, *, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> tuple[Row, ...]:
    """The rows of a CSV file with certain columns, of which optional ones may be missing.

    Raises:
        CohortError: The file is missing, not UTF-8 text, without rows, or has other columns.
    """
    remedy = "Save it as CSV (UTF-8, separated by commas, with a header)."
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            rows = [(lines.line_num, fields) for fields in lines if fields]
    except (OSError, ValueError, csv.Error) as error:
        raise CohortError(
            f"{path}: cannot be read ({error}), expected a table. {remedy}"
        ) from error
    missing = ", ".join(name for name in required if name not in header) or "none"
    unknown = ", ".join(name for name in header if name not in required + optional) or "none"
    if missing != "none" or unknown != "none" or len(set(header)) != len(header):
        raise CohortError(
            f"{path}: columns {', '.join(header)} (missing: {missing}, unknown: {unknown}), "
            f"expected {', '.join(required + optional)}, each once. {remedy}"
        )
    if not rows:
        raise CohortError(f"{path}: 0 rows, expected at least one image. {remedy}")
    widths = [(number, len(fields)) for number, fields in rows if len(fields) != len(header)]
    problems = [f"row {number}: {width} fields, expected {len(header)}" for number, width in widths]
    raise_problems(str(path), problems, remedy)
    blank = dict.fromkeys(optional, "")
    return tuple(
        Row(number, blank | dict(zip(header, fields, strict=True)), path.parent)
        for number, fields in rows
    )
