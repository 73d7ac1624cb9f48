"""What is kept of each predicted case: its record, and its row of `predictions.csv`.

A record is first written with the status "writing", before any other file of the case, and last
with the status "complete". So an interrupted case is known as such, and is done again; and a
complete one whose scan, model and options are the same is not.
"""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError, model_validator

from hemaseg.config import Section
from hemaseg.errors import ConfigError
from hemaseg.files import csv_text, write_text
from hemaseg.metrics.measurement import MEASUREMENT_COLUMNS

PREDICTIONS = "predictions.csv"
COLUMNS = (
    *("name", "input", "status", "problem", "modality"),
    *MEASUREMENT_COLUMNS,
    *("confidence", "expected_ml", "volume_low_ml", "volume_high_ml"),
    *("findings", "model", "seconds"),
)
"""Of `predictions.csv`."""

_AREAS = "slice_areas_mm2"
"""The one column of a measurement that is text."""

Row = dict[str, object]
"""A row of `predictions.csv`; undefined values are None."""


class FindingRecord(Section):
    """A finding of screening."""

    kind: str
    message: str


class Task(Section):
    """What decides the result of a case: two that are equal give the same files."""

    input_sha256: str
    model_sha256: str
    """Of `model.json`, which has the hash of the weights."""
    hemaseg: str
    """Version."""
    options: dict[str, str | bool | float | list[str]]


class CaseRecord(Section):
    """One case; undefined measurements are null."""

    format: Literal["hemaseg-case-1"] = "hemaseg-case-1"
    status: Literal["writing", "complete"]
    name: str
    input: str
    task: Task
    engine: str = ""
    """What ran the network: torch or openvino."""
    files: list[str]
    """Relative to the output folder, the record itself left out."""
    modality: str
    findings: list[FindingRecord]
    measurement: dict[str, str | int | float | None]
    """As in `predictions.csv`."""
    confidence: float | None = None
    """The Dice that the network expects of the mask; null if that is empty."""
    expected_ml: float | None = None
    """Volume that the probabilities add up to, removed lesions included."""
    volume_low_ml: float | None = None
    """Ends of `metrics.volume_interval.volume_interval`."""
    volume_high_ml: float | None = None
    num_removed_lesions: int = 0
    """Lesions below `min_lesion_ml` that were removed from the mask."""
    removed_ml: float = 0.0
    """Their volume together."""
    seconds: dict[str, float]
    """By part of the work."""

    @model_validator(mode="after")
    def _check_measurement(self) -> Self:
        if self.measurement.keys() != set(MEASUREMENT_COLUMNS):
            raise ValueError(f"measurement has {list(self.measurement)}, expected other columns")
        for name, value in self.measurement.items():
            is_negative = isinstance(value, int | float) and value < 0
            if is_negative or isinstance(value, str) != (name == _AREAS):
                raise ValueError(f"{name} is {value!r}, expected what is measured")
        return self


def read_case_record(path: Path) -> CaseRecord | None:
    """The record in a file `NAME.json`; None if there is none, or the file is something else."""
    try:
        record = CaseRecord.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return record if f"{record.name}.json" == path.name else None


def done_row(record: CaseRecord) -> Row:
    """The row of a complete case."""
    return {
        "name": record.name,
        "input": record.input,
        "status": "done",
        "problem": "",
        "modality": record.modality,
        **record.measurement,
        "confidence": record.confidence,
        "expected_ml": record.expected_ml,
        "volume_low_ml": record.volume_low_ml,
        "volume_high_ml": record.volume_high_ml,
        "findings": ";".join(dict.fromkeys(finding.kind for finding in record.findings)),
        "model": record.task.model_sha256[:12],
        "seconds": round(sum(record.seconds.values()), 2),
    }


def failed_row(name: str, shown: str, problem: str) -> Row:
    """The row of a case that failed; what it would have measured is undefined."""
    row: Row = dict.fromkeys(COLUMNS)
    return row | {"name": name, "input": shown, "status": "failed", "problem": problem}


def without_nan(columns: Mapping[str, object]) -> dict[str, str | int | float | None]:
    """Columns of a measurement as JSON can hold them, with None where a value is undefined.

    >>> without_nan({"volume_ml": math.nan, "num_lesions": 1})
    {'volume_ml': None, 'num_lesions': 1}
    """
    kept: dict[str, str | int | float | None] = {}
    for name, value in columns.items():
        assert isinstance(value, str | int | float | None)
        kept[name] = None if isinstance(value, float) and math.isnan(value) else value
    return kept


class PredictionTable:
    """`predictions.csv` of an output folder, with the rows that earlier commands left in it.

    Args:
        folder: The output folder.
        names: Of the cases to come. Their rows are in this order, whatever the order in which they
            are put; rows of earlier commands keep their place.
        force: Whether a file of other columns is replaced, and results by failures.

    Raises:
        ConfigError: There is a file of this name with other columns, such as the list of masks that
            predicting a cohort writes.
    """

    def __init__(self, folder: Path, names: Sequence[str], *, force: bool) -> None:
        self._path = folder / PREDICTIONS
        self._force = force
        # A name without a row has its place already.
        self._rows = self._read()
        for name in names:
            self._rows.setdefault(name, None)

    def _read(self) -> dict[str, Mapping[str, object] | None]:
        if not self._path.exists():
            return {}
        try:
            with self._path.open(encoding="utf-8", newline="") as file:
                columns, *lines = csv.reader(file, strict=True)
            rows = [dict(zip(COLUMNS, line, strict=True)) for line in lines if line]
        except (ValueError, csv.Error):  # Of which a wrong encoding and a row that was cut are two.
            columns, rows = [], []
        if tuple(columns) == COLUMNS:
            return {row["name"]: row for row in rows}
        if not self._force:
            raise ConfigError(
                f"{self._path}: exists with other columns than predicted scans have, or damaged. "
                "Choose another place, or pass --force to replace it."
            )
        return {}

    def put(self, rows: Iterable[Row]) -> None:
        """Add rows, or replace those of the same name, and write the file anew.

        A case that failed does not replace its row of an earlier command: the files are still
        there.

        Raises:
            OSError: The file cannot be written.
        """
        for row in rows:
            before = self._rows.get(name := str(row["name"])) or {"status": "failed"}
            if row["status"] == "done" or before["status"] == "failed" or self._force:
                self._rows[name] = row
        text = csv_text(COLUMNS, (row for row in self._rows.values() if row is not None))
        # Names that are not UTF-8 were decoded with surrogates, which no file can hold.
        write_text(self._path, text.encode("utf-8", "replace").decode("utf-8"))


def rows_json(rows: Iterable[Row]) -> str:
    """Rows as JSON, undefined values null.

    >>> rows_json([{"volume_ml": math.nan}])
    '[{"volume_ml": null}]'
    """
    return json.dumps([without_nan(row) for row in rows])
