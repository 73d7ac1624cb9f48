"""What is wrong with scans, one line each: the verdict of reading and screening them."""

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hemaseg.errors import HemasegError, ScanError
from hemaseg.intake.sources import Source, read_source
from hemaseg.scans.scan import Scan
from hemaseg.scans.screening import KINDS, Finding, ReadOptions


@dataclass(frozen=True)
class Checked:
    """What was found out about one scan.

    Attributes:
        name: As predicting would name it.
        input: The path, as tables may show it.
        verdict: Whether it can be used, and after a repair.
        scan: What it is, in a few words; empty if refused.
        findings: Why it is refused, or what was repaired or noted.
    """

    name: str
    input: str
    verdict: Literal["usable", "repaired", "refused"]
    scan: str
    findings: tuple[Finding, ...]


def check_source(source: Source, options: ReadOptions) -> Checked:
    """Read and screen a scan as predicting would."""
    try:
        scan = read_source(source, options)
    except Exception as error:  # Whatever it is, there are other scans.
        return Checked(source.name, source.shown, "refused", "", (problem_of(error, source),))
    is_repaired = any(KINDS[finding.kind].action == "repaired" for finding in scan.findings)
    verdict: Literal["usable", "repaired"] = "repaired" if is_repaired else "usable"
    return Checked(source.name, source.shown, verdict, _described(scan), scan.findings)


def problem_of(error: Exception, source: Source) -> Finding:
    """Why a scan cannot be read or predicted, without what identifies its patient."""
    message, kind = str(error), "unforeseen"
    if isinstance(error, ScanError):
        kind = error.kind
    elif isinstance(error, MemoryError):
        kind = "no-memory"
        message = f"{source.shown}: out of memory. Close other programs, or crop the scan."
    elif isinstance(error, OSError):
        kind = "not-writable"
        file = error.filename2 or error.filename or source.shown
        message = (
            f"{file}: {error.strerror or type(error).__name__}. Make room there, or choose another "
            "output folder, and give the command again."
        )
    elif not isinstance(error, HemasegError):
        # Not the error's own words, which could quote a header that identifies the patient.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        message = (
            f"{source.shown}: {type(error).__name__} in line {frame.lineno} of "
            f"{Path(frame.filename).name}, which hemaseg did not foresee. Please report it."
        )
    return Finding(kind, source.anonymous(message))


def _described(scan: Scan) -> str:
    num_slices, num_rows, num_columns = scan.voxels.shape
    grid = f"{num_slices} slices of {num_rows} x {num_columns}"
    modality = scan.modality or "unknown modality (say --modality)"
    if scan.spacing_mm is None:
        return f"{modality}, {grid}, no geometry"
    slice_mm, row_mm, column_mm = scan.spacing_mm
    spacing = f"{slice_mm:.4g} x {row_mm:.4g} x {column_mm:.4g} mm"
    return f"{modality}, {grid}, {spacing}"
