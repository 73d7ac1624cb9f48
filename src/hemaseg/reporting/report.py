"""A study folder to one self-contained HTML page that can be mailed, printed and archived.

Everything on the page is read from the CSV, JSON and TOML files of the study folder. Intervals,
tests and verdicts are those of `hemaseg.comparison`; added here are only counts (subjects, runs,
missed subjects, falsely marked slices), quartiles of the reference volumes, and means of costs,
thresholds and calibration over the runs of an arm.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from hemaseg.comparison.wording import format_p, metric_label, num_decimals
from hemaseg.errors import ComparisonError
from hemaseg.files import write_text
from hemaseg.reporting import figures
from hemaseg.reporting.examples import Example, read_examples
from hemaseg.reporting.study_folder import RUN, StudyFolder, read_study_folder
from hemaseg.reporting.style import number_text, save_figure

FIGURE_NAMES = (
    "differences",
    "paired_scores",
    "lesion_size",
    "volume_agreement",
    "examples",
    "validation_loss",
    "training_time",
    "time_to_dice",
    "cost",
)


@dataclass(frozen=True)
class _Counts:
    """How many of what the scores are about; 0 slices where the tables do not tell."""

    subjects: int
    slices: int
    folds: int
    seeds: int
    runs: int
    with_lesion: int
    not_joined: int
    """Subjects that lack a finite score in a pair of arms: not all of their scores can be drawn."""
    with_lesion_without_score: int
    """Subjects with a lesion, but an undefined or infinite score in some run."""
    are_repeated: bool
    """Some subject was tested in several runs of an arm."""


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
        ConfigError: `runs/study.toml` is damaged.
        ComparisonError: A file is missing, damaged, lacks a column, or speaks of an arm or metric
            that the others do not know; or the report cannot be written.
        ScanError: An image or mask of an example cannot be read.
    """
    study = read_study_folder(study_folder)
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
    known_metrics, undefined_metrics = _known_metrics(study.all_metrics)
    examples = read_examples(study)
    drawn = _draw(study, tables, costs, examples)
    try:
        svgs = _save_figures(drawn, study_folder / "figures")
        template = _environment().get_template("report.html")
        page = template.render(
            study=study,
            **tables,
            key_table=_key_table(study, tables["summary"], costs),
            costs=costs,
            all_metrics=known_metrics,
            undefined_metrics=undefined_metrics,
            examples=examples,
            figures=svgs,
            counts=_count(study, tables["differences"], len(tables["pairs"])),
            reference_volumes=_reference_volumes(study.scores),
            tolerance_mm=_tolerances(study.scores),
            size_column=figures.size_column(study.scores),
        )
        write_text(study_folder / "report.html", page)
    except OSError as error:
        raise ComparisonError(
            f"{study_folder}: the report cannot be written ({error}). Check that the folder may be"
            " written to and that the disk has space."
        ) from error
    return study_folder / "report.html"


def _draw(
    study: StudyFolder,
    tables: dict[str, pd.DataFrame],
    costs: pd.DataFrame | None,
    examples: Sequence[Example],
) -> dict[str, Figure]:
    """The figures of `FIGURE_NAMES` whose tables are there; `tables` are those of the metric."""
    metric, arms = study.comparison.metric, study.arms
    drawn = {
        "differences": figures.forest_figure(tables["pairs"]),
        "paired_scores": figures.paired_figure(**tables, arms=arms),
    }
    if (study.scores["reference_pixels"] > 0).any():
        drawn["lesion_size"] = figures.lesion_size_figure(study.scores, metric, arms)
    volumes, agreement = study.volumes, study.volume_agreement
    if volumes is not None and agreement is not None and agreement["num_subjects"].any():
        drawn["volume_agreement"] = figures.volume_agreement_figure(volumes, agreement, arms)
    if examples:
        drawn["examples"] = figures.examples_figure(examples, arms)
    if study.training is not None:
        drawn["validation_loss"] = figures.validation_loss_figure(study.training, arms)
        drawn["training_time"] = figures.training_time_figure(study.training, arms)
    if study.time_to_dice is not None:
        drawn["time_to_dice"] = figures.time_to_dice_figure(study.time_to_dice, arms)
    if costs is not None:
        drawn["cost"] = figures.cost_figure(costs, tables["summary"], arms)
    return drawn


def _cost_table(costs: pd.DataFrame) -> pd.DataFrame:
    """One row per arm: means over its runs, range of epochs, devices, milliseconds per slice."""
    rows = costs.assign(
        inference_ms_per_slice=1000 / costs["inference_slices_per_s"],
        # Older tables do not say it: their runs came one after another.
        num_beside=costs["ran_alone"].ne("True") if "ran_alone" in costs else False,
    )
    by_arm = rows.groupby("arm", sort=False)
    table = by_arm.mean(numeric_only=True)
    # The mean of the rates is not the rate of the mean time, and a page gives one of both.
    table["inference_slices_per_s"] = 1000 / table["inference_ms_per_slice"]
    table["num_runs"] = by_arm.size()
    table["num_beside"] = by_arm["num_beside"].sum()
    for column in ("num_epochs", "best_epoch"):
        table[f"{column}_low"] = by_arm[column].min()
        table[f"{column}_high"] = by_arm[column].max()
    for column in ("model", "device"):
        table[column] = by_arm[column].agg(lambda values: ", ".join(dict.fromkeys(values)))
    return table.reset_index()


def _known_metrics(metrics: pd.DataFrame | None) -> tuple[pd.DataFrame | None, list[str]]:
    """Rows of the metrics that some subject has, None without any; and the other metrics."""
    if metrics is None:
        return None, []
    most = metrics.groupby("metric", sort=False)["num_subjects"].max()
    undefined = list(most.index[most == 0])
    known = metrics[~metrics["metric"].isin(undefined)]
    return None if known.empty else known, undefined


def _count(study: StudyFolder, differences: pd.DataFrame, num_pairs: int) -> _Counts:
    scores = study.scores
    has_lesion = scores["reference_pixels"] > 0
    lacks_score = ~np.isfinite(scores[study.comparison.metric])
    finite = differences[np.isfinite(differences["score_a"] + differences["score_b"])]
    num_subjects = scores["subject"].nunique()
    return _Counts(
        subjects=num_subjects,
        slices=int(scores.drop_duplicates("subject")["num_slices"].sum()),
        folds=scores["fold"].nunique(),
        seeds=scores["seed"].nunique(),
        runs=len(scores[[*RUN]].drop_duplicates()),
        with_lesion=scores.loc[has_lesion, "subject"].nunique(),
        not_joined=num_subjects - int((finite["subject"].value_counts() == num_pairs).sum()),
        with_lesion_without_score=scores.loc[has_lesion & lacks_score, "subject"].nunique(),
        are_repeated=bool(scores.duplicated(["arm", "subject"]).any()),
    )


def _reference_volumes(scores: pd.DataFrame) -> list[float] | None:
    """Minimum, quartiles and maximum in mL over subjects with a lesion; None if one is unknown."""
    own = scores[scores["reference_pixels"] > 0]
    volumes = own.groupby("subject")["reference_ml"].mean()
    if volumes.empty or own["reference_ml"].isna().any():
        return None
    return [float(volumes.quantile(part)) for part in (0, 0.25, 0.5, 0.75, 1)]


def _tolerances(scores: pd.DataFrame) -> list[str]:
    """Of the surface Dice, in mm; none in tables of earlier versions or other tools."""
    if "surface_tolerance_mm" not in scores:
        return []
    return [f"{float(text):g}" for text in scores["surface_tolerance_mm"].unique() if text]


def _key_table(
    study: StudyFolder, summary: pd.DataFrame, costs: pd.DataFrame | None
) -> pd.DataFrame:
    """`summary` with costs, and with counts of missed subjects and falsely marked slices."""
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
        p=_p,
        dash=_number_or_dash,
        decimals=num_decimals,
        metric=metric_label,
        unbroken=lambda text: re.sub(r" (?=[%<=])|(?<=[<=]) ", "\N{NO-BREAK SPACE}", text),
    )
    return environment


def _number(value: float | None, decimals: int = 0, *, signed: bool = False) -> Markup:
    """A rounded number that carries the exact one, as it is in the table, in its markup."""
    exact = float("nan") if value is None else float(value)
    text = number_text(exact, decimals, signed=signed)
    return _traceable(exact, text)


def _number_or_dash(value: float, decimals: int = 0, *, signed: bool = False) -> Markup:
    """As `_number`, for tables in which much may be undefined: a dash leaves the rest readable.

    A number of subjects can be a fraction, which a share of their runs makes it; it keeps a digit.
    """
    if np.isnan(value):
        return _traceable(value, "\N{EN DASH}")
    return _number(value, decimals or int(round(value, 6) % 1 != 0), signed=signed)


def _p(value: float | None, decimals: int = 3, *, equals: str = "") -> Markup:
    """A p value that carries the exact one; `equals` stands before it if nothing else does."""
    exact = float("nan") if value is None else float(value)
    text = format_p(exact, decimals)
    before = equals if text.startswith("= ") else ""
    return before + _traceable(exact, text.removeprefix("= "))


def _traceable(exact: float, text: str) -> Markup:
    return Markup('<data value="{}">{}</data>').format("" if np.isnan(exact) else exact, text)


def _save_figures(drawn: dict[str, Figure], folder: Path) -> dict[str, Markup]:
    """SVG of each figure for the page; files of figures that are not drawn now are removed."""
    for name in FIGURE_NAMES:
        if name not in drawn:
            (folder / f"{name}.svg").unlink(missing_ok=True)
            (folder / f"{name}.png").unlink(missing_ok=True)
    return {
        name: _inline_svg(save_figure(figure, folder / name)[0].read_text("utf-8"), name)
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
