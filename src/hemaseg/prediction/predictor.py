"""One scan to its mask, volume and picture: the same wherever it is done.

What is sent to another machine for that, a `Job` and what comes back, an `Outcome`, are plain data.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemaseg.engines.engine import Engine, load_engine
from hemaseg.engines.options import EngineOptions
from hemaseg.errors import CheckpointError, ConfigError, ScanError
from hemaseg.files import file_sha256
from hemaseg.intake.checking import problem_of
from hemaseg.intake.sources import Source, read_source
from hemaseg.metrics.measurement import measure, measurement_columns
from hemaseg.metrics.volume_interval import volume_interval
from hemaseg.prediction.cleanup import remove_small_lesions
from hemaseg.prediction.outputs import Case, Clock, Wanted, write_case
from hemaseg.prediction.places import Places
from hemaseg.prediction.predict import begin_probabilities, slice_workers
from hemaseg.prediction.records import (
    CaseRecord,
    FindingRecord,
    Task,
    read_case_record,
    without_nan,
)
from hemaseg.scans.scan import Scan
from hemaseg.scans.screening import Finding, ReadOptions, Screen, kinds_of
from hemaseg.slices.appearance import unlike_training
from hemaseg.slices.intensity import Range, intensity_range
from hemaseg.training.checkpoint import MODEL, ModelRecord, write_record
from hemaseg.training.device import is_out_of_memory


@dataclass(frozen=True)
class Job:
    """What all cases of one call have in common: small and plain, so that it can be sent.

    Attributes:
        run_folders: Of several, the first that is of the modality of a scan predicts it.
        folder: Where results go.
        options: How scans are read.
        wanted: What is written.
        engine: What computes, where and how exactly.
        force: Whether files in the place of a case are replaced.
        assume_modality: As in `predict_scans`.
    """

    run_folders: tuple[Path, ...]
    folder: Path
    options: ReadOptions
    wanted: Wanted
    engine: EngineOptions
    force: bool
    assume_modality: bool


@dataclass(frozen=True)
class Done:
    """A case with its files.

    Attributes:
        record: As in its folder.
        is_new: Whether its files were not there before.
    """

    record: CaseRecord
    is_new: bool


Outcome = Done | Finding
"""How a case ended: done, or what is wrong with it."""


class CasePredictor:
    """The networks of a job, each loaded once, and how they do a case."""

    def __init__(self, job: Job) -> None:
        self._predictors = [_Predictor(run_folder, job) for run_folder in job.run_folders]

    def load(self) -> None:
        """Load the first network.

        Raises:
            CheckpointError, ConfigError, EngineError: As `load_engine` says.
        """
        self._predictors[0].load()

    @contextmanager
    def workers(self) -> Iterator[Executor]:
        """What the networks work with; no case ends after the block."""
        with slice_workers(self._predictors[0].load()[0].num_workers) as workers:
            yield workers

    def outcome(self, source: Source, places: Places) -> Outcome:
        """Do a case.

        Raises:
            CheckpointError: A run folder is damaged, or its network gives no numbers.
        """
        with self.workers() as workers:
            return self.begin(source, places, workers)()

    def begin(self, source: Source, places: Places, workers: Executor) -> Callable[[], Outcome]:
        """Read a case and give it to the network.

        Returns:
            What ends the case: waits for the network, measures and writes. All that goes wrong,
            with reading too, is said or raised there, as by `outcome`.
        """
        try:
            end = self._begin_by_first(source, places, workers)
        except Exception as error:
            end = partial(_fail, error)

        def outcome() -> Outcome:
            try:
                return end()
            except CheckpointError:
                raise
            except Exception as error:  # Whatever it is, there are other cases.
                return problem_of(error, source)

        return outcome

    def _begin_by_first(
        self, source: Source, places: Places, workers: Executor
    ) -> Callable[[], Done]:
        """As `_Predictor.begin`, by the first one that is for the modality of the scan."""
        begun = [one for one in self._predictors if one.has_begun(source, places)]
        *others, last = begun or self._predictors
        for predictor in others:
            try:
                return predictor.begin(source, places, workers)
            except ScanError as error:
                if error.kind != "wrong-modality":
                    raise
        return last.begin(source, places, workers)


def _fail(error: Exception) -> Done:
    raise error


@dataclass(frozen=True)
class _Begun:
    """A case on which the network works.

    Attributes:
        source: Where the scan is from.
        places: Where its files go.
        task: What is done.
        is_same: Whether what is in its place is of the same task, and incomplete.
        clock: Has the seconds until now.
        scan: As read.
        shown: Its values that the network sees as 0 and 1.
        unlike: In what the network sees it is unlike the training slices; empty if in nothing.
        probabilities: Waits for them.
    """

    source: Source
    places: Places
    task: Task
    is_same: bool
    clock: Clock
    scan: Scan
    shown: Range
    unlike: str
    probabilities: Callable[[], NDArray[np.float32]]


class _Predictor:
    """A network, loaded when it is first needed, and what to do with it."""

    def __init__(self, run_folder: Path, job: Job) -> None:
        self._run_folder, self._job = run_folder, job
        self._folder, self._wanted = job.folder, job.wanted
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
            self._loaded = load_engine(self._run_folder, self._job.engine)
        return self._loaded

    def has_begun(self, source: Source, places: Places) -> bool:
        """Whether there are results of this case by this network, complete or not.

        Raises:
            ScanError: The scan cannot be read.
        """
        before = read_case_record(places.record)
        return before is not None and before.task == self._task(source)

    def begin(self, source: Source, places: Places, workers: Executor) -> Callable[[], Done]:
        """Begin what is to be done for a case; what is returned does the rest.

        Raises:
            ScanError: The scan is refused, or there are other files in its place; when it ends
                also if a format cannot hold it.
            CheckpointError: The run folder is damaged; when it ends, the network gives no numbers.
            OSError: When it ends: a file cannot be written.
        """
        task = self._task(source)
        before = read_case_record(places.record)
        is_same = before is not None and before.task == task
        is_complete = is_same and before is not None and before.status == "complete"
        if before and is_complete and all((self._folder / f).is_file() for f in before.files):
            return partial(Done, before, is_new=False)
        if not (is_same or self._job.force):
            _require_free(source, places)
        engine, model = self.load()
        clock = Clock()
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
            found = begin_probabilities(
                engine, scaled, model.image_size, model.temperature, workers
            )
        with clock.part("measuring"):
            known = model.appearance
            unlike = unlike_training(scaled, model.image_size, known) if known else ""
        begun = _Begun(source, places, task, is_same, clock, scan, shown, unlike, found)
        return partial(self._end, begun)

    def _end(self, begun: _Begun) -> Done:
        places, clock = begun.places, begun.clock
        case = self._segmented(begun)
        record = CaseRecord(
            status="writing",
            name=begun.source.name,
            input=begun.source.shown,
            task=begun.task,
            engine=self.load()[0].name,
            files=[],
            modality=case.scan.modality,
            findings=[],
            measurement=without_nan(measurement_columns(case.measurement)),
            confidence=_rounded(case.confidence),
            expected_ml=_rounded(case.expected_ml),
            volume_low_ml=_rounded(case.interval_ml[0], ROUND_FLOOR),
            volume_high_ml=_rounded(case.interval_ml[1], ROUND_CEILING),
            num_removed_lesions=case.num_removed_lesions,
            removed_ml=float(f"{case.removed_ml:.4g}"),
            seconds={},
        )
        if not begun.is_same:
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
        return Done(record, is_new=True)

    def _segmented(self, begun: _Begun) -> Case:
        _, model = self.load()
        scan, clock = begun.scan, begun.clock
        with clock.part("network"):
            found = self._probabilities(begun)
            mask = found >= model.threshold
        with clock.part("measuring"):
            cleaned = remove_small_lesions(mask, scan.voxel_ml, self._wanted.min_lesion_ml)
            measurement = measure(cleaned.mask, scan.affine, scan.slice_coordinates)
            case = Case(
                *(begun.source, begun.places, scan, begun.shown, found, cleaned.mask, measurement),
                self._interval_ml(begun, measurement.volume_ml),
                num_removed_lesions=cleaned.num_removed_lesions,
                removed_ml=cleaned.removed_ml,
            )
            if begun.unlike:
                case.findings.append(Finding("unlike-training", begun.unlike))
        return case

    def _interval_ml(self, begun: _Begun, volume_ml: float) -> tuple[float, float]:
        _, model = self.load()
        # The errors are of scans like those of training, that nobody had to have read all the same,
        # and of masks with their small lesions.
        is_accepted = bool(self._job.options.accept & {*kinds_of(begun.scan.findings)})
        is_known = not (begun.unlike or is_accepted or self._wanted.min_lesion_ml)
        return volume_interval(volume_ml, model.volume_errors_cbrt_ml if is_known else ())

    def _read(self, source: Source, own: str) -> Scan:
        if self._job.assume_modality:
            return read_source(source, self._job.options, network_modality=own)
        scan = read_source(source, self._job.options)
        screen = Screen(source.shown, self._job.options)
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
                "accept": sorted(self._job.options.accept),
                "modality": source.modality or self._job.options.modality,
                "precision": self._job.engine.precision,
            },
        )

    def _probabilities(self, begun: _Begun) -> NDArray[np.float32]:
        try:
            found = begun.probabilities()
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


def _rounded(value: float, direction: str = ROUND_HALF_EVEN) -> float | None:
    """4 significant digits, for JSON; None if undefined."""
    if math.isnan(value):
        return None
    return float(Context(4, direction).create_decimal_from_float(value))


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
