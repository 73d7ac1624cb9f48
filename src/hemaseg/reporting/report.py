"""A study folder to one self-contained HTML page that can be mailed, printed and archived.

Everything on the page is read from the CSV, JSON and TOML files of the study folder. Intervals,
tests and verdicts are those of `hemaseg.comparison`; added here are only counts (subjects, runs,
missed lesions, false alarms) and means of costs over the runs of an arm.
"""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from hemaseg.cohorts.split import Split, read_split
from hemaseg.errors import ComparisonError
from hemaseg.files import write_text
from hemaseg.reporting import figures
from hemaseg.scans.images import Scan, read_mask, read_scan

ReadT = TypeVar("ReadT")
ModelT = TypeVar("ModelT", bound=BaseModel)

FIGURE_NAMES = (
    "differences",
    "paired_scores",
    "lesion_size",
    "examples",
    "validation_loss",
    "training_time",
    "cost",
)

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
    "table1.csv": ("arm", "num_batches mean sd"),
    "predictions.csv": ("prediction", "subject slice image reference"),
}
_RUN = ("arm", "fold", "seed")
_TEXT = (
    *("arm", "arm_a", "arm_b", "device", "fold", "image", "metric", "model", "prediction"),
    *("reference", "scan", "seed", "sentence", "slice", "subject", "verdict"),
)
# Score tables of other tools need not have these; all their fields are then undefined.
_OPTIONAL = tuple(_COLUMNS["scores.csv"][1].split())
_REMEDY = "Run 'hemaseg compare' on the study again."


class _Cohort(BaseModel):
    name: str
    num_subjects: int
    num_images: int
    num_images_with_lesion: int
    sites: dict[str, int]
    modality: str
    sha256: str
    description: str


class _Provenance(BaseModel, extra="allow"):
    """`provenance.json`; further keys, such as versions, are printed as they are."""

    cohort: _Cohort | None = None
    warnings: tuple[str, ...] = ()


class _Anova(BaseModel):
    f: float | None
    p: float | None
    df_between: float
    df_within: float


class _Friedman(BaseModel):
    statistic: float | None
    p: float | None


class _Comparison(BaseModel):
    """What the report shows of `comparison.json`."""

    metric: str
    higher_is_better: bool
    margin: float | None
    alpha: float
    verdict: str
    anova: _Anova | None = None
    friedman: _Friedman | None = None
    notes: tuple[str, ...] = ()
    paper_notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Study:
    """The files of a study folder; None stands for those that it may lack and does."""

    name: str
    arms: tuple[str, ...]
    comparison: _Comparison
    provenance: _Provenance | None
    split: Split | None
    settings: tuple[tuple[str, str], ...]
    """Path in the study folder and content of `study.toml` and of one `config.toml` per arm."""
    scores: pd.DataFrame
    slices: pd.DataFrame | None
    training: pd.DataFrame | None
    costs: pd.DataFrame | None
    summary: pd.DataFrame
    pairs: pd.DataFrame
    differences: pd.DataFrame
    table1: pd.DataFrame | None


@dataclass(frozen=True)
class _Counts:
    """How many of what the scores are about; 0 slices where the tables do not tell."""

    subjects: int
    slices: int
    folds: int
    seeds: int
    runs: int
    with_lesion: int
    without_score: int
    """Subjects with an undefined or infinite score in some run: they cannot be drawn."""
    with_lesion_without_score: int


def write_report(study_folder: Path) -> Path:
    """Path of `report.html`, written into the study folder together with `figures/`.

    Equal study folders give equal bytes, and each file is replaced whole. A section whose tables
    are not in the folder is left out with a sentence that says so; a figure that an older report
    has drawn there is removed.

    Args:
        study_folder: Folder with at least `scores.csv`, `summary.csv`, `pairs.csv`,
            `differences.csv` and `comparison.json`; see `docs/report.md`.

    Raises:
        SplitError: `split.json` is damaged or edited.
        ComparisonError: A file is missing, damaged, lacks a column, or speaks of an arm or metric
            that the others do not know; or the report cannot be written.
        ScanError: An image or mask of an example cannot be read.
    """
    study = _read_study(study_folder)
    metric = study.comparison.metric
    tables = {
        name: table[table["metric"] == metric]
        for name, table in (
            ("summary", study.summary),
            ("pairs", study.pairs),
            ("differences", study.differences),
        )
    }
    costs = None if study.costs is None else _cost_table(study.costs)
    examples = _read_examples(study, study_folder)
    drawn = {
        "differences": figures.forest_figure(tables["pairs"]),
        "paired_scores": figures.paired_figure(**tables, arms=study.arms),
    }
    has_lesion = study.scores["reference_pixels"] > 0
    if has_lesion.any():
        drawn["lesion_size"] = figures.lesion_size_figure(study.scores, metric, study.arms)
    if examples:
        drawn["examples"] = figures.examples_figure(examples, study.arms)
    if study.training is not None:
        drawn["validation_loss"] = figures.validation_loss_figure(study.training, study.arms)
        drawn["training_time"] = figures.training_time_figure(study.training, study.arms)
    if costs is not None:
        drawn["cost"] = figures.cost_figure(costs, tables["summary"], study.arms)
    try:
        svgs = _save_figures(drawn, study_folder / "figures")
        page = (
            _environment()
            .get_template("report.html")
            .render(
                study=study,
                **tables,
                key_table=_key_table(study, tables["summary"], costs),
                costs=costs,
                examples=examples,
                figures=svgs,
                counts=_count(study),
                size_column=figures.size_column(study.scores),
            )
        )
        write_text(study_folder / "report.html", page)
    except OSError as error:
        raise ComparisonError(
            f"{study_folder}: the report cannot be written ({error}). Check that the folder may be"
            " written to and that the disk has space."
        ) from error
    return study_folder / "report.html"


def _read_study(folder: Path) -> _Study:
    """All files of a study folder, checked against each other."""
    if not folder.is_dir():
        raise ComparisonError(f"{folder}: no such folder, expected a study. Check the path.")
    comparison = _read_json(folder / "comparison.json", _Comparison)
    summary = _read_table(folder / "summary.csv")
    of_metric = summary["metric"] == comparison.metric
    scores = _read_table(folder / "scores.csv", comparison.metric)
    study = _Study(
        name=folder.resolve().name,
        arms=tuple(summary.loc[of_metric, "arm"]),
        comparison=comparison,
        provenance=_if_there(_read_json, folder / "provenance.json", _Provenance),
        split=_if_there(read_split, folder / "split.json"),
        settings=_read_settings(folder, scores),
        scores=scores,
        slices=_if_there(_read_table, folder / "scores_slices.csv"),
        training=_if_there(_read_table, folder / "training.csv"),
        costs=_if_there(_read_table, folder / "costs.csv"),
        summary=summary,
        pairs=_read_table(folder / "pairs.csv"),
        differences=_read_table(folder / "differences.csv"),
        table1=_if_there(_read_table, folder / "table1.csv"),
    )
    _check_agreement(study, folder)
    return study


def _if_there(read: Callable[..., ReadT], path: Path, *arguments: Any) -> ReadT | None:
    """What `read` makes of a file, None if there is no such file."""
    return read(path, *arguments) if path.exists() else None


def _read_settings(folder: Path, scores: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    """The study's settings, and those of the first run of each arm, as far as they are there."""
    first_runs = scores.drop_duplicates("arm")
    paths = ["study.toml"] + [
        f"{_run_path(*run)}/config.toml" for run in first_runs[[*_RUN]].to_numpy()
    ]
    return tuple((path, _read_text(folder / path)) for path in paths if (folder / path).exists())


def _run_path(arm: str, fold: str, seed: str) -> str:
    """A run folder within the study folder."""
    return f"runs/{arm}/fold-{fold}_seed-{seed}"


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ComparisonError(f"{path}: cannot be read as text ({error}). {_REMEDY}") from error


def _read_json(path: Path, kind: type[ModelT]) -> ModelT:
    try:
        return kind.model_validate_json(_read_text(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise ComparisonError(
            f"{path}: {where}: {first['msg']}, found {str(first['input'])[:80]!r}. {_REMEDY}"
        ) from error


def _read_table(path: Path, *more: str) -> pd.DataFrame:
    """A CSV table with its columns and `more`, numbers as float; empty number fields are NaN."""
    key, others = (columns.split() for columns in _COLUMNS[path.name])
    others = list(dict.fromkeys([*others, *more]))
    try:
        # Not by pandas, which takes the fields that a row lacks for empty ones.
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = csv.reader(file, strict=True)
    except (OSError, ValueError, csv.Error) as error:
        raise ComparisonError(f"{path}: cannot be read as CSV ({error}). {_REMEDY}") from error
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ComparisonError(
                f"{path}: row {number} has {len(row)} fields, expected {len(header)}. {_REMEDY}"
            )
    table = pd.DataFrame(rows, columns=header, dtype=str)
    if path.name == "scores.csv":
        table = table.assign(**{column: "" for column in _OPTIONAL if column not in table})
    if missing := [column for column in (*key, *others) if column not in table]:
        raise ComparisonError(
            f"{path}: lacks {', '.join(missing)}; found {', '.join(table.columns)}. {_REMEDY}"
        )
    # If no subject has a defined score in two arms there are no differences.
    if table.empty and path.name != "differences.csv":
        raise ComparisonError(f"{path}: has no rows, expected at least one. {_REMEDY}")
    for column in (*key, *others):
        if column in _TEXT:
            continue
        is_empty = table[column] == ""
        numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
        wrong = numbers.isna() & ~is_empty
        if wrong.any():
            place = int(wrong.argmax())
            raise ComparisonError(
                f"{path}: row {place + 2}, {column}: found {table[column][place]!r}, expected a"
                f" number or an empty field. {_REMEDY}"
            )
        table[column] = numbers
    if (repeated := table.duplicated(key)).any():
        place = int(repeated.argmax())
        values = ", ".join(f"{column} {table[column][place]}" for column in key)
        raise ComparisonError(f"{path}: row {place + 2} repeats {values}. {_REMEDY}")
    return table


def _check_agreement(study: _Study, folder: Path) -> None:
    """Refuse tables of another metric or of other arms than `summary.csv`."""
    metric = study.comparison.metric
    for name, found in (
        ("summary.csv", set(study.summary["metric"])),
        ("pairs.csv", set(study.pairs["metric"])),
        ("differences.csv", set(study.differences["metric"])),
    ):
        if found and metric not in found:
            raise ComparisonError(
                f"{folder / name}: knows {', '.join(sorted(found))}, but the metric of"
                f" comparison.json is {metric}. {_REMEDY}"
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
        ("table1.csv", study.table1, "arm"),
    ):
        if table is not None and (strange := sorted(set(table[column]) - set(study.arms))):
            raise ComparisonError(
                f"{folder / name}: knows arm {', '.join(strange)}, but summary.csv only"
                f" {', '.join(study.arms)}. {_REMEDY}"
            )


def _cost_table(costs: pd.DataFrame) -> pd.DataFrame:
    """One row per arm: means over its runs, the devices, and milliseconds per slice."""
    rows = costs.assign(inference_ms_per_slice=1000 / costs["inference_slices_per_s"])
    by_arm = rows.groupby("arm", sort=False)
    table = by_arm.mean(numeric_only=True)
    table["num_runs"] = by_arm.size()
    for column in ("model", "device"):
        table[column] = by_arm[column].agg(lambda values: ", ".join(dict.fromkeys(values)))
    return table.reset_index()


def _count(study: _Study) -> _Counts:
    scores = study.scores
    has_lesion = scores["reference_pixels"] > 0
    lacks_score = ~np.isfinite(scores[study.comparison.metric])
    return _Counts(
        subjects=scores["subject"].nunique(),
        slices=int(scores.drop_duplicates("subject")["num_slices"].sum()),
        folds=scores["fold"].nunique(),
        seeds=scores["seed"].nunique(),
        runs=len(scores[[*_RUN]].drop_duplicates()),
        with_lesion=scores.loc[has_lesion, "subject"].nunique(),
        without_score=scores.loc[lacks_score, "subject"].nunique(),
        with_lesion_without_score=scores.loc[has_lesion & lacks_score, "subject"].nunique(),
    )


def _key_table(study: _Study, summary: pd.DataFrame, costs: pd.DataFrame | None) -> pd.DataFrame:
    """`summary` with counts of missed lesions and false alarms over all runs, and with costs."""
    scores = study.scores
    with_lesion = (scores["reference_pixels"] > 0) & scores["dice"].notna()
    counts = pd.DataFrame(
        {
            "arm": scores["arm"],
            "num_with_lesion": with_lesion,
            "num_missed": with_lesion & (scores["dice"] == 0),
            "num_slices_without_lesion": scores["num_slices_without_lesion"],
            "num_false_alarm_slices": scores["num_false_alarm_slices"],
        }
    )
    table = summary.merge(counts.groupby("arm", as_index=False).sum(), on="arm", how="left")
    if costs is not None:
        columns = ["arm", "num_parameters", "inference_ms_per_slice"]
        table = table.merge(costs[columns], on="arm", how="left")
    return table


def _read_examples(study: _Study, folder: Path) -> tuple[figures.Example, ...]:
    """The largest slice of the best, the median and the worst subject; () without predictions.

    Subjects are ranked by their mean Dice over arms and runs. Ranked are those with a lesion and
    with one scan, because `predictions.csv` does not tell scans of one subject apart.
    """
    if study.slices is None or not any((folder / "runs").glob("*/*/predictions/predictions.csv")):
        return ()
    num_scans = study.slices.groupby("subject")["scan"].nunique()
    ranked = study.scores[
        (study.scores["reference_pixels"] > 0)
        & study.scores["subject"].isin(num_scans.index[num_scans == 1])
    ]
    cells = ranked.pivot(index=["subject", "fold", "seed"], columns="arm", values="dice")
    cells = cells.reindex(columns=list(study.arms)).dropna()
    means = cells.mean(axis="columns").groupby("subject").mean().sort_values(kind="stable")
    ranking = list(means.index)
    roles: dict[str, str] = {}
    for role, place in (("best", -1), ("median", len(ranking) // 2), ("worst", 0)):
        if ranking:
            roles.setdefault(ranking[place], role)
    return tuple(
        _read_example(study, folder, role, next(cell for cell in cells.index if cell[0] == subject))
        for subject, role in roles.items()
    )


def _read_example(
    study: _Study, folder: Path, role: str, cell: tuple[str, str, str]
) -> figures.Example:
    """The slice with the largest reference area of one subject in one fold and seed."""
    assert study.slices is not None
    subject, fold, seed = cell
    slices = study.slices
    in_cell = (slices["subject"] == subject) & (slices["fold"] == fold) & (slices["seed"] == seed)
    rows = slices[in_cell].sort_values("reference_pixels", ascending=False, kind="stable")
    if set(rows["arm"]) != set(study.arms):
        raise ComparisonError(
            f"{folder / 'scores_slices.csv'}: subject {subject}, fold {fold}, seed {seed} has"
            f" slices of {', '.join(rows['arm'].unique()) or 'no arm'}, but scores.csv knows it"
            f" for {', '.join(study.arms)}. {_REMEDY}"
        )
    slice_name = rows["slice"].iloc[0]
    dice = rows[rows["slice"] == slice_name].set_index("arm")["dice"].reindex(study.arms)
    predictions = []
    for arm in study.arms:
        path = folder / _run_path(arm, fold, seed) / "predictions" / "predictions.csv"
        table = _read_table(path)
        # A volume is one row with an empty slice, a stack is one row for each slice.
        shown = table[(table["subject"] == subject) & table["slice"].isin(["", slice_name])]
        if len(shown) != 1:
            raise ComparisonError(
                f"{path}: {len(shown)} rows for subject {subject}, slice {slice_name}, expected 1."
                " Predict with this run again."
            )
        files = {
            column: path.parent / shown[column].iloc[0]
            for column in ("image", "reference", "prediction")
        }
        predictions.append(_plane(read_mask(files["prediction"]), slice_name))
    scan = read_scan(files["image"])
    image = _plane(scan, slice_name)
    reference = _plane(read_mask(files["reference"]), slice_name)
    for name, mask in (("reference", reference), *zip(study.arms, predictions, strict=True)):
        if mask.shape != image.shape:
            raise ComparisonError(
                f"{scan.path}: {image.shape} pixels, but the mask of {name} has {mask.shape}."
                " Predict with this run again."
            )
    cohort = None if study.provenance is None else study.provenance.cohort
    _, row_mm, column_mm = scan.spacing_mm or (1.0, 1.0, 1.0)
    return figures.Example(
        role=role,
        subject=subject,
        slice=slice_name,
        image=image,
        display_range=_display_range(image, "" if cohort is None else cohort.modality),
        pixel_aspect=row_mm / column_mm,
        reference=reference,
        predictions=tuple(predictions),
        dice=tuple(dice),
    )


def _plane(scan: Scan, slice_name: str) -> NDArray[Any]:
    """(H, W), the slice of a volume whose index is its name, or the one slice of a picture."""
    num_slices = len(scan.voxels)
    index = 0
    if num_slices > 1:
        index = int(slice_name) if slice_name.isdecimal() else num_slices
    if index >= num_slices:
        raise ComparisonError(
            f"{scan.path}: has slices 0 to {num_slices - 1}, but scores_slices.csv names slice"
            f" {slice_name}. {_REMEDY}"
        )
    plane: NDArray[Any] = scan.voxels[index]
    return plane


def _display_range(image: NDArray[Any], modality: str) -> tuple[float, float]:
    """Values shown black and white: percentiles; for CT 0 to 100 HU, or all of an 8-bit picture."""
    if modality == "CT":
        return (0.0, 255.0) if image.dtype == np.uint8 else (0.0, 100.0)
    black, white = np.percentile(image, (1, 99.5))
    return float(black), float(white)


def _environment() -> Environment:
    """Templates, with names from the user escaped and misspelt variables refused."""
    environment = Environment(
        loader=PackageLoader("hemaseg", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_number,
        p_value=_p_value,
        decimals=figures.num_decimals,
        metric=figures.metric_label,
    )
    return environment


def _number(value: float | None, decimals: int = 0, *, signed: bool = False) -> Markup:
    """A rounded number that carries the exact one, as it is in the table, in its markup."""
    exact = float("nan") if value is None else float(value)
    text = figures.format_number(exact, decimals, signed=signed)
    return Markup('<data value="{}">{}</data>').format("" if np.isnan(exact) else exact, text)


def _p_value(value: float | None) -> Markup:
    """A p value with three decimals, or that it is below 0.001."""
    if value is None or np.isnan(value) or value >= 0.001:
        return _number(value, 3)
    return Markup('<data value="{}">&lt; 0.001</data>').format(float(value))


def _save_figures(drawn: dict[str, Figure], folder: Path) -> dict[str, Markup]:
    """SVG of each figure for the page; files of figures that are not drawn now are removed."""
    for name in FIGURE_NAMES:
        if name not in drawn:
            (folder / f"{name}.svg").unlink(missing_ok=True)
            (folder / f"{name}.png").unlink(missing_ok=True)
    return {
        name: _inline_svg(figures.save_figure(figure, folder / name)[0].read_text("utf-8"), name)
        for name, figure in drawn.items()
    }


def _inline_svg(svg: str, name: str) -> Markup:
    """The `svg` element of a file; its identifiers are unique on a page with several figures.

    Example:
        >>> print(_inline_svg('<?xml?><svg><g id="a"/><g id="b"/><use href="#b"/></svg>', "cost"))
        <svg><g/><g id="cost-b"/><use href="#cost-b"/></svg>
    """
    used = re.findall(r'(?:href="|url\()#([^")]*)', svg)

    def rename(match: re.Match[str]) -> str:
        before, identifier = match.groups()
        is_idle = before == ' id="' and identifier not in used
        return "" if is_idle else f"{before}{name}-{identifier}{match.group()[-1]}"

    # Within tags only: matplotlib escapes < and > everywhere else.
    return Markup(
        re.sub(
            r"<[^>]*>",
            lambda tag: re.sub(r'( id="|href="#|url\(#)([^")]*)[")]', rename, tag.group()),
            svg[svg.index("<svg") :],
        )
    )
