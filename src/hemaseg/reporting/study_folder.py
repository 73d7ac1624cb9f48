"""The files of a study folder, read and checked against each other."""

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from pydantic import BaseModel, ValidationError

from hemaseg.cohorts.split import Split, read_split
from hemaseg.config import StudyConfig, read_config
from hemaseg.errors import ComparisonError
from hemaseg.studies.runs import run_path
from hemaseg.studies.study import PLAN

ReadT = TypeVar("ReadT")
ModelT = TypeVar("ModelT", bound=BaseModel)

RUN = ("arm", "fold", "seed")
"""Columns that name a run."""

REMEDY = "Run 'hemaseg compare' on the study again."

# Columns that are read of each table; others may stand beside them. First those that together
# identify a row, then the rest. Columns named in _TEXT are text, all others numbers.
_COLUMNS = {
    "scores.csv": (
        "arm fold seed subject",
        "num_slices dice reference_ml reference_pixels"
        " num_slices_without_lesion num_false_alarm_slices",
    ),
    "scores_slices.csv": ("arm fold seed subject scan slice", "dice reference_pixels"),
    "training.csv": ("arm fold seed epoch", "validation_loss cumulative_s"),
    "time_to_dice.csv": ("arm validation_dice", "num_runs num_reached median_s"),
    "costs.csv": (
        "arm fold seed",
        "model num_parameters num_multiply_adds num_epochs best_epoch epoch_s training_s"
        " inference_slices_per_s peak_memory_mib device",
    ),
    "summary.csv": (
        "metric arm",
        "num_subjects num_undefined mean sd median q1 q3 ci_low ci_high run_sd",
    ),
    "pairs.csv": (
        "metric arm_a arm_b",
        "num_subjects num_undefined mean_difference ci_low ci_high p_holm wilcoxon_p_holm"
        " hedges_gz margin tost_p_holm verdict sentence num_subjects_to_decide",
    ),
    "differences.csv": ("metric arm_a arm_b subject", "score_a score_b difference"),
    "all_metrics.csv": (
        "metric arm",
        "num_subjects num_undefined num_infinite mean sd median q1 q3",
    ),
    "volumes.csv": ("arm subject", "reference_ml mean_ml difference_ml"),
    "volume_agreement.csv": (
        "arm",
        "num_subjects num_undefined num_without_lesion bias_ml bias_ci_low_ml bias_ci_high_ml sd_ml"
        " lower_limit_ml lower_limit_ci_low_ml lower_limit_ci_high_ml"
        " upper_limit_ml upper_limit_ci_low_ml upper_limit_ci_high_ml"
        " concordance concordance_ci_low concordance_ci_high slope slope_p",
    ),
    "detection.csv": (
        "arm",
        "num_without_lesion num_marked marked_ci_low marked_ci_high"
        " num_with_lesion num_missed missed_ci_low missed_ci_high"
        " num_reference_lesions num_detected_lesions false_lesions_per_subject",
    ),
    "sites.csv": ("metric site arm", "num_subjects num_undefined mean sd"),
    "table1.csv": ("arm", "num_batches mean sd"),
    "predictions.csv": ("prediction", "subject slice image reference"),
}
_TEXT = (
    *("arm", "arm_a", "arm_b", "device", "fold", "image", "metric", "model", "prediction"),
    *("reference", "scan", "seed", "sentence", "site", "slice", "subject", "verdict"),
)
# Without a subject that two arms have a score of, a metric with a known name, or two sites.
_MAY_BE_EMPTY = ("differences.csv", "all_metrics.csv", "sites.csv")
_MAY_BE_INFINITE = "num_subjects_to_decide"
# Score tables of other tools need not have these; all their fields are then undefined.
_OPTIONAL = tuple(_COLUMNS["scores.csv"][1].split())


class CohortRecord(BaseModel):
    """The data as `provenance.json` describes them."""

    name: str
    num_subjects: int
    num_images: int
    num_marked_subjects: int | None = None
    """With a reference mask, of one image at least; None in studies of earlier versions."""
    num_marked_images: int | None = None
    num_images_with_lesion: int
    sites: dict[str, int]
    modality: str
    sha256: str
    description: str


class Provenance(BaseModel, extra="allow"):
    """`provenance.json`; further keys, such as versions, are printed as they are."""

    cohort: CohortRecord | None = None
    warnings: tuple[str, ...] = ()


class ModelRecord(BaseModel):
    """What the report shows of a run's `model.json`."""

    threshold: float
    temperature: float = 1.0


class CalibrationRecord(BaseModel):
    """Expected calibration error of all validation pixels, before and after."""

    ece: float
    calibrated_ece: float


class RunRecord(BaseModel):
    """What the report shows of a run's `run.json`."""

    calibration: CalibrationRecord | None = None


class AnovaRecord(BaseModel):
    """The analysis of variance in `comparison.json`; None is undefined."""

    f: float | None
    p: float | None
    df_between: float
    df_within: float


class FriedmanRecord(BaseModel):
    """Friedman's test in `comparison.json`; None is undefined."""

    statistic: float | None
    p: float | None


class ComparisonRecord(BaseModel):
    """What the report shows of `comparison.json`."""

    metric: str
    higher_is_better: bool
    margin: float | None
    alpha: float
    verdict: str
    anova: AnovaRecord | None = None
    friedman: FriedmanRecord | None = None
    notes: tuple[str, ...] = ()
    paper_notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyFolder:
    """The files of a study folder; None stands for those that it may lack and does.

    Attributes:
        path: The folder.
        arms: All arms, in the order of `summary.csv`.
        settings: Path in the study folder and content of `study.toml` and of one `config.toml` per
            arm.
        is_as_planned: Whether the comparison is that of the settings which were kept before the
            first run; false where none were.
    """

    path: Path
    arms: tuple[str, ...]
    comparison: ComparisonRecord
    provenance: Provenance | None
    split: Split | None
    settings: tuple[tuple[str, str], ...]
    is_as_planned: bool
    scores: pd.DataFrame
    slices: pd.DataFrame | None
    training: pd.DataFrame | None
    time_to_dice: pd.DataFrame | None
    costs: pd.DataFrame | None
    summary: pd.DataFrame
    pairs: pd.DataFrame
    differences: pd.DataFrame
    all_metrics: pd.DataFrame | None
    volumes: pd.DataFrame | None
    volume_agreement: pd.DataFrame | None
    detection: pd.DataFrame | None
    sites: pd.DataFrame | None
    table1: pd.DataFrame | None
    probabilities: pd.DataFrame | None
    """Of each run: arm, folder, threshold, temperature, ece, calibrated_ece; NaN is undefined."""

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name


def read_study_folder(folder: Path) -> StudyFolder:
    """All files of a study folder, checked against each other.

    Raises:
        ComparisonError: A file is missing, damaged, lacks a column, or speaks of an arm or metric
            that the others do not know.
        SplitError: `split.json` is damaged or edited.
        ConfigError: `runs/study.toml` is damaged.
    """
    if not folder.is_dir():
        raise ComparisonError(f"{folder}: no such folder, expected a study. Check the path.")
    comparison = _read_json(folder / "comparison.json", ComparisonRecord)
    summary = read_table(folder / "summary.csv")
    of_metric = summary["metric"] == comparison.metric
    scores = read_table(folder / "scores.csv", comparison.metric)
    pairs = read_table(folder / "pairs.csv")
    study = StudyFolder(
        path=folder,
        arms=tuple(summary.loc[of_metric, "arm"]),
        comparison=comparison,
        provenance=_if_there(_read_json, folder / "provenance.json", Provenance),
        split=_if_there(read_split, folder / "split.json"),
        settings=_read_settings(folder, scores),
        is_as_planned=_is_as_planned(folder / PLAN, comparison, pairs),
        scores=scores,
        slices=_if_there(read_table, folder / "scores_slices.csv"),
        training=_if_there(read_table, folder / "training.csv"),
        time_to_dice=_if_there(read_table, folder / "time_to_dice.csv"),
        costs=_if_there(read_table, folder / "costs.csv"),
        summary=summary,
        pairs=pairs,
        differences=read_table(folder / "differences.csv"),
        all_metrics=_if_there(read_table, folder / "all_metrics.csv"),
        volumes=_if_there(read_table, folder / "volumes.csv"),
        volume_agreement=_if_there(read_table, folder / "volume_agreement.csv"),
        detection=_if_there(read_table, folder / "detection.csv"),
        sites=_if_there(read_table, folder / "sites.csv"),
        table1=_if_there(read_table, folder / "table1.csv"),
        probabilities=_read_probabilities(folder, scores),
    )
    _check_agreement(study)
    return study


def _if_there(read: Callable[..., ReadT], path: Path, *arguments: Any) -> ReadT | None:
    """What `read` makes of a file, None if there is no such file."""
    return read(path, *arguments) if path.exists() else None


def _read_settings(folder: Path, scores: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    """The study's settings, and those of the first run of each arm, as far as they are there."""
    first_runs = scores.drop_duplicates("arm")
    paths = ["study.toml"] + [
        f"{run_path(*run)}/config.toml" for run in first_runs[[*RUN]].to_numpy()
    ]
    return tuple((path, _read_text(folder / path)) for path in paths if (folder / path).exists())


def _read_probabilities(folder: Path, scores: pd.DataFrame) -> pd.DataFrame | None:
    """How each run makes masks of probabilities, as far as its records are there."""
    rows = []
    for run in scores[[*RUN]].drop_duplicates().to_numpy():
        path = run_path(*run)
        model = _if_there(_read_json, folder / path / "model.json", ModelRecord)
        record = _if_there(_read_json, folder / path / "run.json", RunRecord)
        if model is not None and record is not None:
            error = {} if record.calibration is None else record.calibration.model_dump()
            rows.append({"arm": run[0], "folder": path, **model.model_dump(), **error})
    columns = ["arm", "folder", "threshold", "temperature", "ece", "calibrated_ece"]
    return pd.DataFrame(rows).reindex(columns=columns) if rows else None


def _is_as_planned(path: Path, comparison: ComparisonRecord, pairs: pd.DataFrame) -> bool:
    """Whether metric, margin, level and pairs are those of the plan, if there is one."""
    if not path.exists():
        return False
    study = read_config(path, StudyConfig)
    plan = study.comparison
    planned = plan.pairs or list(combinations([arm.name for arm in study.arms], 2))
    tested = pairs[pairs["metric"] == comparison.metric]
    return (plan.metric, plan.margin, plan.alpha, set(planned)) == (
        comparison.metric,
        comparison.margin,
        comparison.alpha,
        set(zip(tested["arm_a"], tested["arm_b"], strict=True)),
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ComparisonError(f"{path}: cannot be read as text ({error}). {REMEDY}") from error


def _read_json(path: Path, kind: type[ModelT]) -> ModelT:
    try:
        return kind.model_validate_json(_read_text(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise ComparisonError(
            f"{path}: {where}: {first['msg']}, found {str(first['input'])[:80]!r}. {REMEDY}"
        ) from error


def read_table(path: Path, *more: str) -> pd.DataFrame:
    """A CSV table with the columns that a report needs, of a file that it knows by its name.

    Args:
        path: Such as `FOLDER/pairs.csv`.
        more: Further columns of numbers that are needed.

    Returns:
        Names as text, numbers as float, empty number fields as NaN.

    Raises:
        ComparisonError: The file is missing or damaged, or lacks a column, or repeats one or a row.
    """
    key, others = (columns.split() for columns in _COLUMNS[path.name])
    others = list(dict.fromkeys([*others, *more]))
    try:
        # Not by pandas, which takes the fields that a row lacks for empty ones.
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = csv.reader(file, strict=True)
    except (OSError, ValueError, csv.Error) as error:
        raise ComparisonError(f"{path}: cannot be read as CSV ({error}). {REMEDY}") from error
    if len(set(header)) != len(header):
        raise ComparisonError(
            f"{path}: columns {', '.join(header)}, expected each name once. {REMEDY}"
        )
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ComparisonError(
                f"{path}: row {number} has {len(row)} fields, expected {len(header)}. {REMEDY}"
            )
    table = pd.DataFrame(rows, columns=header, dtype=str)
    if path.name == "scores.csv":
        table = table.assign(**{column: "" for column in _OPTIONAL if column not in table})
    if missing := [column for column in (*key, *others) if column not in table]:
        raise ComparisonError(
            f"{path}: lacks {', '.join(missing)}; found {', '.join(table.columns)}. {REMEDY}"
        )
    if table.empty and path.name not in _MAY_BE_EMPTY:
        raise ComparisonError(f"{path}: has no rows, expected at least one. {REMEDY}")
    for column in (*key, *others):
        if column in _TEXT:
            continue
        _require_numbers(table[column], path)
        # float() is exact; to_numeric of pandas before 3.0 is not, in the last digit.
        table[column] = [float(text) if text else math.nan for text in table[column]]
    if (repeated := table.duplicated(key)).any():
        place = int(repeated.argmax())
        values = ", ".join(f"{column} {table[column][place]}" for column in key)
        raise ComparisonError(f"{path}: row {place + 2} repeats {values}. {REMEDY}")
    return table


def _require_numbers(column: "pd.Series[str]", path: Path) -> None:
    """Refuse fields that are no number; of counts also negative and infinite ones."""
    name, number, is_empty = str(column.name), pd.to_numeric(column, errors="coerce"), column == ""
    wrong, expected = number.isna() & ~is_empty, "a number or an empty field"
    if name.startswith("num_") and name != _MAY_BE_INFINITE:
        wrong |= (number < 0) | (number == math.inf)
        expected = "a finite number from 0 upward, or an empty field"
    if name == "num_subjects":
        wrong, expected = wrong | is_empty, "a finite number from 0 upward"
    if wrong.any():
        place = int(wrong.argmax())
        raise ComparisonError(
            f"{path}: row {place + 2}, {name}: found {column[place]!r}, expected {expected}."
            f" {REMEDY}"
        )


def _check_agreement(study: StudyFolder) -> None:
    """Refuse tables of another metric or of other arms than `summary.csv`."""
    folder, metric = study.path, study.comparison.metric
    for name, found in (
        ("summary.csv", set(study.summary["metric"])),
        ("pairs.csv", set(study.pairs["metric"])),
        ("differences.csv", set(study.differences["metric"])),
        ("sites.csv", set() if study.sites is None else set(study.sites["metric"])),
    ):
        if found and metric not in found:
            raise ComparisonError(
                f"{folder / name}: knows {', '.join(sorted(found))}, but the metric of"
                f" comparison.json is {metric}. {REMEDY}"
            )
    for name, table, column in (
        ("scores.csv", study.scores, "arm"),
        ("scores_slices.csv", study.slices, "arm"),
        ("training.csv", study.training, "arm"),
        ("costs.csv", study.costs, "arm"),
        ("pairs.csv", study.pairs, "arm_a"),
        ("pairs.csv", study.pairs, "arm_b"),
        ("differences.csv", study.differences, "arm_a"),
        ("differences.csv", study.differences, "arm_b"),
        ("all_metrics.csv", study.all_metrics, "arm"),
        ("volumes.csv", study.volumes, "arm"),
        ("volume_agreement.csv", study.volume_agreement, "arm"),
        ("detection.csv", study.detection, "arm"),
        ("sites.csv", study.sites, "arm"),
        ("table1.csv", study.table1, "arm"),
    ):
        if table is not None and (strange := sorted(set(table[column]) - set(study.arms))):
            raise ComparisonError(
                f"{folder / name}: knows arm {', '.join(strange)}, but summary.csv only"
                f" {', '.join(study.arms)}. {REMEDY}"
            )
