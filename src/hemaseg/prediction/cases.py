"""Scans to masks, volumes, tables and pictures, one case after the other.

A case that fails does not stop the others, and a case that was done before is not done again.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemaseg.engines.engine import Engine, load_engine
from hemaseg.engines.options import EngineOptions
from hemaseg.errors import CheckpointError, ConfigError, ScanError
from hemaseg.files import file_sha256
from hemaseg.intake.checking import problem_of
from hemaseg.intake.sources import Source, Sources, read_source
from hemaseg.metrics.measurement import measure, measurement_columns
from hemaseg.prediction.cleanup import remove_small_lesions
from hemaseg.prediction.outputs import Case, Clock, Wanted, write_case
from hemaseg.prediction.places import Places, case_places, describe_dataset
from hemaseg.prediction.predict import probabilities
from hemaseg.prediction.records import (
    CaseRecord,
    FindingRecord,
    PredictionTable,
    Row,
    Task,
    done_row,
    failed_row,
    read_case_record,
    without_nan,
)
from hemaseg.scans.scan import Scan
from hemaseg.scans.screening import Finding, ReadOptions, Screen
from hemaseg.slices.appearance import unlike_training
from hemaseg.slices.intensity import intensity_range
from hemaseg.training.checkpoint import MODEL, ModelRecord, write_record
from hemaseg.training.device import is_out_of_memory

Progress = Callable[[str, int, int], None]
"""Called with the name of a case, and the numbers of cases done and to do."""


@dataclass(frozen=True)
class Predicted:
    """How the cases of one call ended.

    Attributes:
        rows: As in `predictions.csv`, one per case.
        num_done: Cases with a mask.
        num_before: Those of them that an earlier call had done.
        failures: Name and problem of each of the others.
    """

    rows: tuple[Row, ...]
    num_done: int
    num_before: int
    failures: tuple[tuple[str, Finding], ...]


def predict_scans(
    run_folders: Sequence[Path],
    sources: Sources,
    folder: Path,
    options: ReadOptions,
    wanted: Wanted,
    *,
    assume_modality: bool = True,
    engine: EngineOptions | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Predicted:
    """Predict scans, each into a folder of its own (see `places`), and list them in a table.

    A case of the same scan, model and options whose files are there is left as it is. Where other
    files are in its place, it fails.

    Args:
        run_folders: What `hemaseg train` wrote, or models that ship. Of several, the first that is
            of the modality of a scan predicts it.
        sources: As `find_sources` gives them.
        folder: Where results go; nothing is written elsewhere.
        options: How scans are read.
        wanted: What is written.
        assume_modality: Whether a scan whose modality nobody knows is taken for that of the only
            network. If not, or if there are several networks, 8-bit pictures are taken for that of
            the first one, and other such scans are refused: their units decide what is seen.
        engine: What computes, where and how exactly.
        force: Whether files in the place of a case are replaced.
        progress: Called before each case and at the end.

    Raises:
        CheckpointError: A run folder is incomplete or damaged, or its network gives no numbers.
        ConfigError: The device does not exist, or the folder holds another table or BIDS dataset.
        EngineError: The engine cannot run this network on this device.
        OSError: The table cannot be written.
        KeyboardInterrupt: The table lists the cases that were done; the same call goes on.
    """
    predictors = [
        _Predictor(
            *(run_folder, folder, options, wanted),
            engine=engine or EngineOptions(),
            force=force,
            assume_modality=assume_modality and len(run_folders) == 1,
        )
        for run_folder in run_folders
    ]
    predictors[0].load()
    table = PredictionTable(folder, force=force)
    if wanted.bids:
        describe_dataset(folder, sources.sources, force=force)
    rows: list[Row] = []
    failures: list[tuple[str, Finding]] = []
    num_before = 0

    def fail(source: Source, problem: Finding) -> None:
        failures.append((source.name, problem))
        rows.append(
            failed_row(
                source.name,
                source.shown,
                f"{problem.kind}: {problem.message}",
                model_sha256=predictors[0].model_sha256,
            )
        )

    for source in sources.failed:
        fail(source, problem_of(source.problem or ValueError(), source))
    table.put(rows)
    total = len(sources.sources)
    all_places = case_places(sources.sources, folder, bids=wanted.bids)
    for number, (source, places) in enumerate(zip(sources.sources, all_places, strict=True)):
        if progress is not None:
            progress(source.name, number, total)
        try:
            record, is_new = _predict_by_first(predictors, source, places)
        except CheckpointError:
            raise
        except Exception as error:  # Whatever it is, there are other cases.
            fail(source, problem_of(error, source))
        else:
            num_before += not is_new
            rows.append(done_row(record))
        table.put(rows[-1:])
    if progress is not None:
        progress("done", total, total)
    return Predicted(tuple(rows), len(rows) - len(failures), num_before, tuple(failures))


def _predict_by_first(
    predictors: Sequence["_Predictor"], source: Source, places: Places
) -> tuple[CaseRecord, bool]:
    """As `_Predictor.predict`, by the first one that is for the modality of the scan."""
    begun = [one for one in predictors if one.has_begun(source, places)]
    *others, last = begun or predictors
    for predictor in others:
        try:
            return predictor.predict(source, places)
        except ScanError as error:
            if error.kind != "wrong-modality":
                raise
    return last.predict(source, places)


class _Predictor:
    """A network, loaded when it is first needed, and what to do with it."""

    def __init__(
        self,
        run_folder: Path,
        folder: Path,
        options: ReadOptions,
        wanted: Wanted,
        *,
        engine: EngineOptions,
        force: bool,
        assume_modality: bool,
    ) -> None:
        self._assume_modality = assume_modality
        self._run_folder, self._engine = run_folder, engine
        self._folder, self._options, self._wanted, self._force = folder, options, wanted, force
        self._loaded: tuple[Engine, ModelRecord] | None = None

    @cached_property
    def model_sha256(self) -> str:
        """Hash of the model's record, which has that of its weights."""
        return file_sha256(self._run_folder / MODEL)

    def load(self) -> tuple[Engine, ModelRecord]:
        """What runs the network, and how to use it.

        Raises:
            CheckpointError: The run folder is incomplete or damaged.
            ConfigError: The device does not exist.
            EngineError: The engine cannot run this network on this device.
        """
        if self._loaded is None:
            self._loaded = load_engine(self._run_folder, self._engine)
        return self._loaded

    def has_begun(self, source: Source, places: Places) -> bool:
        """Whether there are results of this case by this network, complete or not.

        Raises:
            ScanError: The scan cannot be read.
        """
        before = read_case_record(places.record)
        return before is not None and before.task == self._task(source)

    def predict(self, source: Source, places: Places) -> tuple[CaseRecord, bool]:
        """Do what is to be done for a case.

        Returns:
            Its record, and whether anything was done.

        Raises:
            ScanError: The scan is refused, or there are other files in its place.
            CheckpointError: The network gives no numbers.
            OSError: A file cannot be written.
        """
        task = self._task(source)
        before = read_case_record(places.record)
        is_same = before is not None and before.task == task
        is_complete = is_same and before is not None and before.status == "complete"
        if before and is_complete and all((self._folder / f).is_file() for f in before.files):
            return before, False
        if not (is_same or self._force):
            _require_free(source, places)
        clock = Clock()
        case = self._segment(source, places, clock)
        record = CaseRecord(
            status="writing",
            name=source.name,
            input=source.shown,
            task=task,
            engine=self.load()[0].name,
            files=[],
            modality=case.scan.modality,
            findings=[],
            measurement=without_nan(measurement_columns(case.measurement)),
            confidence=_rounded(case.confidence),
            expected_ml=_rounded(case.expected_ml),
            num_removed_lesions=case.num_removed_lesions,
            removed_ml=float(f"{case.removed_ml:.4g}"),
            seconds={},
        )
        if not is_same:
            places.remove()
        write_record(record, places.record)
        try:
            files = write_case(case, self._wanted, self.load()[1], self._folder, clock)
            update = {
                "status": "complete",
                "files": [file.relative_to(self._folder).as_posix() for file in files],
                "findings": [FindingRecord(**asdict(finding)) for finding in case.findings],
                "seconds": clock.seconds,
            }
            record = record.model_copy(update=update)
            write_record(record, places.record)
        except Exception:
            with suppress(OSError):
                places.remove()
            raise
        return record, True

    def _segment(self, source: Source, places: Places, clock: Clock) -> Case:
        _, model = self.load()
        with clock.part("reading"):
            scan = self._read(source, model.modality)
            if self._wanted.min_lesion_ml:
                _require_geometry(source, scan)
        with clock.part("network"):
            try:
                shown = intensity_range(
                    scan.voxels, scan.modality, model.intensity, name=source.shown
                )
            except ConfigError as error:
                raise ScanError(str(error), kind="not-scalable") from None
            scaled = shown.scale(scan.voxels)
            found = self._probabilities(scaled)
            mask = found >= model.threshold
        with clock.part("measuring"):
            cleaned = remove_small_lesions(mask, scan.voxel_ml, self._wanted.min_lesion_ml)
            measurement = measure(cleaned.mask, scan.affine, scan.slice_coordinates)
            case = Case(
                *(source, places, scan, shown, found, cleaned.mask, measurement),
                num_removed_lesions=cleaned.num_removed_lesions,
                removed_ml=cleaned.removed_ml,
            )
            known = model.appearance
            if known and (reason := unlike_training(scaled, model.image_size, known)):
                case.findings.append(Finding("unlike-training", reason))
        return case

    def _read(self, source: Source, own: str) -> Scan:
        if self._assume_modality:
            return read_source(source, self._options, network_modality=own)
        scan = read_source(source, self._options)
        screen = Screen(source.shown, self._options)
        if scan.modality and own and scan.modality != own:
            screen.refuse(
                "wrong-modality",
                f"{scan.modality}, expected {own}, which the network was trained on. Take a "
                f"network for {scan.modality}.",
            )
        if own and not scan.modality and scan.voxels.dtype == np.uint8:
            screen.report(
                "modality-assumed",
                f"taken for {own}, which the network was trained on; --modality says what it is",
            )
        return replace(scan, findings=(*scan.findings, *screen.findings))

    def _task(self, source: Source) -> Task:
        return Task(
            input_sha256=source.sha256(),
            model_sha256=self.model_sha256,
            hemaseg=version("hemaseg"),
            options={
                **asdict(self._wanted),
                "accept": sorted(self._options.accept),
                "modality": source.modality or self._options.modality,
                "precision": self._engine.precision,
            },
        )

    def _probabilities(self, scaled: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            engine, model = self.load()
            found = probabilities(engine, scaled, model.image_size, model.temperature)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise MemoryError from error
            raise
        if not np.isfinite(found).all():
            raise CheckpointError(
                f"the network of {self._run_folder} gives probabilities that are not numbers, "
                "expected 0 to 1. Its training failed; train again."
            )
        return found


def _rounded(value: float) -> float | None:
    """4 significant digits, for JSON; None if undefined."""
    return None if math.isnan(value) else float(f"{value:.4g}")


def _require_geometry(source: Source, scan: Scan) -> None:
    if scan.affine is None:
        raise Screen(source.shown).error(
            "no-geometry",
            "pictures without geometry, in which no lesion has a volume in mL, expected a scan "
            "that has it. Leave out --min-lesion-ml.",
        )


def _require_free(source: Source, places: Places) -> None:
    there = next((path for path in places.possible() if path.exists()), None)
    if there is not None:
        raise Screen(source.shown).error(
            "exists",
            f"{there} is there, of another scan, model or option, expected nothing. Choose "
            "another output folder, or pass --force to replace it.",
        )
