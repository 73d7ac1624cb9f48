"""The files of one predicted case: mask, probability, DICOM objects, picture."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemaseg.errors import ConfigError
from hemaseg.files import write_text
from hemaseg.intake.sources import Source
from hemaseg.metrics.confidence import expected_ml, soft_overlap
from hemaseg.metrics.measurement import Measurement
from hemaseg.metrics.volume_interval import COVERAGE_PERCENT
from hemaseg.prediction.overview import write_overview
from hemaseg.prediction.places import Places, sidecar_json
from hemaseg.scans.images import write_mask, write_probability
from hemaseg.scans.scan import Scan
from hemaseg.scans.screening import Finding, Screen, kinds_of
from hemaseg.slices.intensity import Range
from hemaseg.training.checkpoint import ModelRecord


@dataclass(frozen=True)
class Wanted:
    """What is written of each case, beside mask, picture and record.

    Attributes:
        probability: The map of probabilities.
        bids: Names of BIDS derivatives.
        dicom: SEG and structured report of scans from DICOM.
        keep_identity: What identifies the patient, into SEG and report.
        min_lesion_ml: Lesions below this volume are removed from the mask, before it is measured
            and written; with 0 none is.

    Raises:
        ConfigError: `min_lesion_ml` is negative or no finite number.
    """

    probability: bool = False
    bids: bool = False
    dicom: bool = True
    keep_identity: bool = False
    min_lesion_ml: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_lesion_ml < math.inf:
            raise ConfigError(
                f"min-lesion-ml {self.min_lesion_ml}, expected a number of mL from 0 (nothing is "
                "removed) upward. Correct it."
            )


class Clock:
    """Seconds by part of the work, in `seconds`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block as this part, beside others of that name."""
        start = time.perf_counter()
        yield
        taken = time.perf_counter() - start
        self.seconds[name] = round(self.seconds.get(name, 0.0) + taken, 4)


@dataclass(eq=False)
class Case:
    """What is known of a case when it is written.

    Attributes:
        source: Where the scan is from.
        places: Where its files go.
        scan: As read.
        shown: Its values that the network saw as 0 and 1.
        probabilities: (K, H, W) in [0, 1].
        mask: (K, H, W), without the lesions that were removed.
        measurement: Of the mask.
        interval_ml: As `volume_interval` gives it; NaN where nothing is known.
        num_removed_lesions: As in `Cleaned`.
        removed_ml: As in `Cleaned`.
        confidence: Dice that the network expects of the mask; NaN if that is empty.
        expected_ml: Volume that the probabilities add up to, removed lesions included; NaN
            without geometry.
        findings: Of reading, of comparing with training, and of writing.
    """

    source: Source
    places: Places
    scan: Scan
    shown: Range
    probabilities: NDArray[np.float32]
    mask: NDArray[np.bool_]
    measurement: Measurement
    interval_ml: tuple[float, float] = (math.nan, math.nan)
    num_removed_lesions: int = 0
    removed_ml: float = 0.0
    confidence: float = field(init=False)
    expected_ml: float = field(init=False)
    findings: list[Finding] = field(init=False)

    def __post_init__(self) -> None:
        self.confidence = soft_overlap(self.probabilities, self.mask).confidence
        self.expected_ml = expected_ml(self.probabilities, self.scan.voxel_ml)
        self.findings = list(self.scan.findings)


def write_case(
    case: Case, wanted: Wanted, model: ModelRecord, folder: Path, clock: Clock
) -> list[Path]:
    """Write the files of a case but its record.

    Args:
        case: The case; a finding of writing is added to its own.
        wanted: Which files.
        model: What made the mask.
        folder: The output folder, to which paths in BIDS sidecars are relative.
        clock: Gets the seconds.

    Returns:
        The files.

    Raises:
        ScanError: A format cannot hold the scan.
        OSError: A file cannot be written.
    """
    wants_dicom = wanted.dicom and case.scan.dicom is not None
    files = []
    if case.scan.is_even or not wants_dicom:
        files += _write_images(case, wanted, folder, clock)
    else:
        case.findings.append(
            Finding(
                "uneven-nifti",
                "slices at uneven distances, which NIfTI cannot hold; the mask is written as DICOM "
                "SEG alone",
            )
        )
    if wants_dicom:
        files += _write_dicom(case, wanted, model, clock)
    with clock.part("overview"):
        files.append(_write_overview(case, wanted.min_lesion_ml))
    return files


def _write_images(case: Case, wanted: Wanted, folder: Path, clock: Clock) -> list[Path]:
    if wanted.bids and case.scan.affine is None:
        raise Screen(case.source.shown).error(
            "no-geometry",
            "pictures without geometry, expected a scan that NIfTI can hold, as BIDS derivatives "
            "are. Leave out --bids.",
        )
    paths = [case.places.mask(case.scan)]
    with clock.part("mask"):
        write_mask(case.mask, case.scan, paths[0])
    if wanted.probability:
        paths.append(case.places.probability(case.scan))
        with clock.part("probability"):
            write_probability(case.probabilities, case.scan, paths[1])
    files = []
    for path in paths:
        # A stack of pictures gives a folder of pictures.
        files += sorted(path.iterdir()) if path.is_dir() else [path]
        if wanted.bids:
            files.append(case.places.sidecar(path))
            write_text(files[-1], sidecar_json(case.source, folder))
    return files


def _write_dicom(case: Case, wanted: Wanted, model: ModelRecord, clock: Clock) -> list[Path]:
    # highdicom is slow to load, and most scans are no DICOM files.
    from hemaseg.dicom.seg import Algorithm, write_seg
    from hemaseg.prediction.dicom_sr import write_sr

    algorithm = Algorithm(model.model.name, version("hemaseg"), model.weights_sha256)
    seg, report = case.places.own("seg.dcm"), case.places.own("sr.dcm")
    keep = wanted.keep_identity
    with clock.part("seg"):
        write_seg(case.mask, case.scan, seg, algorithm=algorithm, keep_identity=keep)
    with clock.part("report"):
        write_sr(case.measurement, case.scan, seg, report, algorithm=algorithm, keep_identity=keep)
    return [seg, report]


def _write_overview(case: Case, min_lesion_ml: float) -> Path:
    path, measured = case.places.own("overview.png"), case.measurement
    spacing_mm = case.scan.spacing_mm
    volume = f"{measured.volume_ml:.1f} mL" if spacing_mm else f"{measured.num_voxels} pixels"
    order = "counted from the lowest" if spacing_mm else "in stored order"
    write_overview(
        case.shown.scale(case.scan.voxels),
        case.mask,
        path,
        pixel_mm=spacing_mm and spacing_mm[1:],
        caption=(
            f"{case.source.name}: {volume} in {measured.num_lesion_slices} slices",
            *_removed(case, min_lesion_ml),
            *_interval(case),
            *_doubts(case),
            f"Values {case.shown.low:g} to {case.shown.high:g} from black to white; slices {order}",
            "Research use only; not a medical device.",
        ),
    )
    return path


def _removed(case: Case, min_lesion_ml: float) -> list[str]:
    """A line of the picture that says what the mask does not show any more."""
    if not case.num_removed_lesions:
        return []
    return [
        f"Removed from the mask: {case.num_removed_lesions} lesions below {min_lesion_ml:g} mL, "
        f"{case.removed_ml:.2g} mL together"
    ]


def _interval(case: Case) -> list[str]:
    """A line of the picture that says how far the volume may be off."""
    low_ml, high_ml = case.interval_ml
    if math.isnan(high_ml):
        return []
    # Away from each other: rounded, the ends of a small volume would meet.
    ends = f"{math.floor(10 * low_ml) / 10:.1f} to {math.ceil(10 * high_ml) / 10:.1f} mL"
    return [
        f"Interval of the volume: {ends}, for {COVERAGE_PERCENT} of 100 scans like those of the "
        "test subjects"
    ]


def _doubts(case: Case) -> list[str]:
    """Lines of the picture that say how much the network trusts its mask, and whether it may."""
    if case.measurement.num_voxels:
        lines = [f"Dice that the network itself expects of this mask: {case.confidence:.2f}"]
    elif math.isnan(case.expected_ml):
        lines = ["Nothing marked"]
    else:
        lines = [f"Nothing marked; the probabilities add up to {case.expected_ml:.1f} mL"]
    if "unlike-training" in kinds_of(case.findings):
        lines.append("Unlike the scans that the network was trained on: the mask may mean nothing")
    return lines
