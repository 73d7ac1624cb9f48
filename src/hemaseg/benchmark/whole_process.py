"""`hemaseg predict` as a user waits for it: from the start of its process to files on disk."""

import json
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Literal

from hemaseg.benchmark.inputs import modality_of_head
from hemaseg.errors import EngineError
from hemaseg.phantoms.dicom_writing import write_series
from hemaseg.phantoms.heads import HeadOptions, synthesise
from hemaseg.phantoms.writing import write_nifti
from hemaseg.prediction.records import read_case_record

NUM_SLICES, IMAGE_SIZE = 32, 512
"""Of a study."""

Format = Literal["DICOM", "NIfTI"]

_HEAD_MM, _SLICED_MM = 230.0, 160.0
"""Edge of a slice, and length of a stack: of the same head whatever its slices."""


@dataclass(frozen=True)
class StudyResult:
    """Processes that each predict the same studies in one call.

    Attributes:
        model: As the user named it.
        engine: What ran it.
        file_format: Of the studies.
        num_studies: In the call.
        num_slices, image_size: Of each study.
        num_turns: Processes.
        whole_s: Median of their seconds.
        fastest_s, slowest_s: Of them.
        peak_mib: The largest of their peaks; None where it is unknown.
        parts_s: Medians of the seconds that parts of the work took, over all studies of a call:
            those of the case records, and all that is before and between them.
    """

    model: str
    engine: str
    file_format: Format
    num_studies: int
    num_slices: int
    image_size: int
    num_turns: int
    whole_s: float
    fastest_s: float
    slowest_s: float
    peak_mib: float | None
    parts_s: dict[str, float]


@dataclass(frozen=True)
class PredictProcess:
    """A process that ended.

    Attributes:
        taken_s: From its start to its end.
        peak_mib: Of its memory; None where that is unknown.
        engine: What ran the network.
        parts_s: As in `StudyResult`, of this process.
    """

    taken_s: float
    peak_mib: float | None
    engine: str
    parts_s: dict[str, float]


def write_study(
    place: Path, file_format: Format, modality: str, *, num_slices: int, image_size: int
) -> Path:
    """Write a synthetic head with a hematoma.

    Args:
        place: Name of the DICOM folder, or of the NIfTI file without its ending.
        file_format: What to write.
        modality: Of the network that it is for.
        num_slices: Of the stack, which has the same length in mm whatever their number.
        image_size: Rows and columns, of the same field of view whatever their number.

    Returns:
        What was written.
    """
    options = HeadOptions(
        modality_of_head(modality),
        num_slices=num_slices,
        image_size=image_size,
        slice_mm=_SLICED_MM / num_slices,
        pixel_mm=_HEAD_MM / image_size,
        num_hematomas=1,
    )
    head = synthesise(1, options)
    if file_format == "DICOM":
        write_series(head, 1, place)
        return place
    path = place.with_name(f"{place.name}.nii.gz")
    write_nifti(head.voxels, head.affine, path)
    return path


def write_copies(study: Path, num_studies: int, folder: Path) -> Path:
    """A folder of as many NIfTI files of one study, which take no more room than one."""
    folder.mkdir()
    for number in range(num_studies):
        (folder / f"study{number:04}.nii.gz").hardlink_to(study)
    return folder


def predict_process(scans: Path, run_folder: Path, output: Path) -> PredictProcess:
    """Predict scans on the CPU, by a new process of `hemaseg predict`.

    Args:
        scans: A scan, or a folder of scans.
        run_folder: Of the network.
        output: Folder for the results, which must not exist.

    Raises:
        EngineError: It failed, or not all scans were predicted.
    """
    words = ["predict", str(scans), "--model", str(run_folder), "--output", str(output)]
    launched = subprocess.run(
        [sys.executable, "-m", "hemaseg.benchmark.launcher", *words, "--device", "cpu"],
        capture_output=True,
        text=True,
    )
    ended = json.loads(launched.stdout) if launched.stdout else {"status": launched.returncode}
    if ended["status"]:
        lines = launched.stderr.strip().splitlines()
        raise EngineError(
            f"hemaseg predict with the network of {run_folder} ended with status "
            f"{ended['status']}, expected 0: {shorten(lines[-1] if lines else 'no word', 200)}. "
            "Mend that first."
        )
    parts_s: Counter[str] = Counter()
    engine = ""
    for path in output.glob("*/*.json"):
        if record := read_case_record(path):
            parts_s.update(record.seconds)
            engine = record.engine
    rest_s = ended["taken_s"] - sum(parts_s.values())
    return PredictProcess(
        ended["taken_s"], ended["peak_mib"], engine, {"start and loading": rest_s, **parts_s}
    )


def measure_studies(
    model: str,
    run_folder: Path,
    modality: str,
    folder: Path,
    *,
    num_studies: int,
    num_turns: int,
    num_slices: int = NUM_SLICES,
    image_size: int = IMAGE_SIZE,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[StudyResult, ...]:
    """Time one study as DICOM, the same as NIfTI, and a call with many of these.

    Processes of one study take turns. Many studies are predicted once: their number does the
    averaging.

    Args:
        model: Name for the results.
        run_folder: Of the network.
        modality: Of the network.
        folder: To write into.
        num_studies: Of the call with many.
        num_turns: Processes of each of the others.
        num_slices: Of a study.
        image_size: Rows and columns of a study.
        progress: Called with what is done, and the numbers of processes done and to do.

    Raises:
        EngineError: A process failed.
    """
    size = {"num_slices": num_slices, "image_size": image_size}
    formats: tuple[Format, ...] = ("DICOM", "NIfTI")
    studies = {kind: write_study(folder / kind, kind, modality, **size) for kind in formats}
    many = write_copies(studies["NIfTI"], num_studies, folder / "many")
    calls = [(kind, 1, studies[kind]) for kind in formats] * num_turns
    calls.append(("NIfTI", num_studies, many))
    taken: dict[tuple[Format, int], list[PredictProcess]] = {}
    for number, (kind, num, scans) in enumerate(calls, 1):
        process = predict_process(scans, run_folder, folder / f"output{number}")
        taken.setdefault((kind, num), []).append(process)
        if progress is not None:
            progress("whole predictions", number, len(calls))
    return tuple(
        _result(model, kind, num, num_slices, image_size, processes)
        for (kind, num), processes in taken.items()
    )


def _result(
    model: str,
    kind: Format,
    num_studies: int,
    num_slices: int,
    image_size: int,
    processes: list[PredictProcess],
) -> StudyResult:
    seconds = [process.taken_s for process in processes]
    peaks = [process.peak_mib for process in processes if process.peak_mib is not None]
    return StudyResult(
        model,
        processes[0].engine,
        kind,
        num_studies,
        num_slices,
        image_size,
        len(processes),
        whole_s=statistics.median(seconds),
        fastest_s=min(seconds),
        slowest_s=max(seconds),
        peak_mib=max(peaks, default=None),
        parts_s={
            part: statistics.median(process.parts_s[part] for process in processes)
            for part in processes[0].parts_s
        },
    )
