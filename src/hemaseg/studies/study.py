"""A study: several arms on the same folds and seeds; its file read and checked, its runs planned.

    OUT/
      study.toml  split.json  provenance.json
      runs/study.toml               the settings, kept when the first run began
      runs/ARM/fold-F_seed-S/       one run folder each, with predictions/ and metrics*.csv
                                    (and run.lock, log.txt; see `running`)
      slices/                       decoded slices, until all runs are complete
      scores.csv  scores_slices.csv  scores_batches.csv  training.csv  costs.csv
      time_to_dice.csv
      summary.csv  pairs.csv  differences.csv  all_metrics.csv  table1.csv  comparison.json
      figures/  report.html         by `reporting`

Score tables that exist are compared without runs, and without loading PyTorch.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from hemaseg.cohorts.split import Split, make_split, parts, read_split, write_split
from hemaseg.cohorts.table import Cohort, read_cohort
from hemaseg.comparison.paired import Comparison, compare, write_comparison, write_table
from hemaseg.comparison.score_tables import ERRORS, FRACTIONS, read_score_tables
from hemaseg.config import (
    ComparisonConfig,
    ModelConfig,
    Recipe,
    RunConfig,
    Section,
    StudyConfig,
    differences,
    parse_config,
    read_config,
    write_config,
)
from hemaseg.errors import ComparisonError, ConfigError, SplitError
from hemaseg.prediction.paths import prediction_paths
from hemaseg.studies.provenance import write_provenance
from hemaseg.studies.runs import PlannedRun, run_path

PLAN = "runs/study.toml"
"""In a study folder: its settings, as they were before the first run; written once."""

MAY_CHANGE = {"name", "description", "data_notice", "cohort", "recipe.description"}
"""Settings that decide no number (the cohort's content has a hash), so a study may have others when
it goes on."""


@dataclass(frozen=True)
class Study:
    """A study that is ready to run: everything read, checked and decided.

    Attributes:
        file: What it was read from.
        config: As resolved into `OUT/study.toml`.
        cohort: All cases.
        split: The folds.
        runs: The plan, in the order in which they will run: seed, fold, arm.
        folder: OUT.
    """

    file: Path
    config: StudyConfig
    cohort: Cohort
    split: Split
    runs: tuple[PlannedRun, ...]
    folder: Path


def open_study(path: Path, folder: Path) -> Study:
    """Read a study file, its cohort and recipes; make its split, or read the one made before.

    Everything that can be known to fail is refused here, before hours of training. A study has
    begun with its first run folder; from then on its settings are fixed.

    Args:
        path: Study file (TOML).
        folder: OUT; made if needed.

    Raises:
        ConfigError: A file is wrong, a network cannot be built, or OUT holds another study.
        CohortError, SplitError: The cohort is wrong, or cannot be split as asked; or predictions of
            two images would share a file.
    """
    from hemaseg.training.requirements import require_trainable

    config = read_config(path, StudyConfig)
    cohort = read_cohort(path.parent / config.cohort)
    recipes = {arm.recipe: read_config(path.parent / arm.recipe, Recipe) for arm in config.arms}
    _require_comparable(config, cohort, path)
    has_begun, stored = (folder / "runs").exists(), folder / "study.toml"
    # Studies of earlier versions kept no plan.
    for kept in (folder / PLAN, stored) if has_begun else ():
        if kept.exists():
            _require_same(config, kept)
    split = _kept_split(folder, cohort) if has_begun else None
    split = split or make_split(cohort, config.split)
    _require_sound_folds(split, cohort, folder)
    plan = product(config.seeds, range(len(split.folds)), config.arms)
    runs = tuple(
        PlannedRun(
            number=number,
            arm=arm,
            config=RunConfig(
                model=ModelConfig(name=arm.model, options=arm.options),
                seed=seed,
                device=config.device,
                recipe=recipes[arm.recipe],
            ),
            fold=fold,
            folder=folder / run_path(arm.name, fold, seed),
        )
        for number, (seed, fold, arm) in enumerate(plan, 1)
    )
    for run in runs[: len(config.arms)]:  # the first fold and seed of every arm
        require_trainable(run.config)
    for run in runs:
        if (run.folder / "config.toml").exists():
            _require_same(run.config, run.folder / "config.toml")
    write_split(split, folder / "split.json")
    # OUT may be the folder of the study file: it is not written anew for nothing.
    if path.resolve() != stored.resolve():
        write_config(config, stored)
    return Study(path, config, cohort, split, runs, folder)


def keep_plan(study: Study) -> None:
    """Write the settings where nobody edits them, before the first run of all."""
    if not any(run.folder.exists() for run in study.runs):
        write_config(study.config, study.folder / PLAN)


def _require_comparable(config: StudyConfig, cohort: Cohort, path: Path) -> None:
    """Refuse a comparison that no training can make possible."""
    metric, marked = config.comparison.metric, cohort.marked().images
    num_unknown = sum(image.spacing_mm is None for image in marked)
    if num_unknown and metric not in ("dice", "iou"):
        raise ConfigError(
            f"{path}: comparison.metric {metric} is undefined without spacing, which {num_unknown} "
            f"of {len(marked)} images lack. Give their spacing when indexing, or choose dice."
        )


def _kept_split(folder: Path, cohort: Cohort) -> Split | None:
    """The split of a study that has begun; None if its file is gone."""
    if not (folder / "split.json").exists():
        return None
    split = read_split(folder / "split.json")
    if split.cohort_sha256 != cohort.sha256:
        raise SplitError(
            f"{folder / 'split.json'}: made for cohort {split.cohort_sha256[:12]}, found "
            f"{cohort.sha256[:12]}. Choose an empty output folder."
        )
    return split


def _require_sound_folds(split: Split, cohort: Cohort, folder: Path) -> None:
    """Refuse folds that cannot be trained or validated on, or whose predictions share a file."""
    for fold in range(len(split.folds)):
        selected = parts(split, cohort, fold)
        for name, part in (("training", selected.train), ("validation", selected.validation)):
            if not any(image.has_lesion for image in part.images):
                raise SplitError(
                    f"split: no lesion among the {len(part.subjects)} subjects for {name} of fold "
                    f"{fold}, expected at least one. Choose another seed, fewer folds or a larger "
                    "share for validation."
                )
        prediction_paths(folder, [image for image in selected.test.images if image.is_marked])


def compare_tables(
    tables: Mapping[str, Path],
    folder: Path,
    *,
    metric: str = "dice",
    margin: float | None = None,
    higher_is_better: bool | None = None,
) -> Comparison:
    """Compare score tables that exist, of any tools, and write a study folder without runs.

    Args:
        tables: Name of each arm to its table; see `score_tables.read_score_tables`.
        folder: Study folder; made if needed.
        metric: Column to compare by.
        margin: As in `[comparison]`.
        higher_is_better: Needed for metrics that hemaseg does not write; False for distances and
            errors.

    Raises:
        ConfigError: The margin is not above 0, or not below 1 for a metric between 0 and 1.
        ComparisonError: A table is wrong, the tables do not match, the folder holds runs or one of
            the tables, or the direction of the metric is unknown, wrong, or there is none.
    """
    if (folder / "study.toml").exists() or (folder / "runs").exists():
        raise ComparisonError(
            f"{folder}: holds a study with runs of its own, expected a folder without. "
            "Choose another output folder."
        )
    joined = folder / "scores.csv"
    # Path.resolve raises RuntimeError at a link to itself, before Python 3.13.
    if os.path.realpath(joined) in map(os.path.realpath, tables.values()):
        raise ComparisonError(
            f"{joined}: is one of the tables to compare, expected a name that is free for all of "
            "them together. Choose another output folder."
        )
    if margin is not None:
        # Of the same range as the metric, which a study may not know.
        alike = "dice" if metric in FRACTIONS else "hd95_mm"
        parse_config({"metric": alike, "margin": margin}, ComparisonConfig, source="--margin")
    scores = read_score_tables(tables)
    direction = is_higher_better(metric, higher_is_better)
    comparison = compare(scores, metric=metric, margin=margin, higher_is_better=direction)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(scores, joined)
    write_comparison(comparison, folder)
    write_provenance(folder)
    return comparison


def is_higher_better(metric: str, said: bool | None) -> bool:
    """Whether a higher value is better: known for metrics that hemaseg writes, else as said."""
    if metric == "volume_error_ml":
        raise ComparisonError(
            f"metric {metric}: has a sign, so that neither higher nor lower is better, expected a "
            "metric that has a better direction. Compare absolute_volume_error_ml."
        )
    known = True if metric in FRACTIONS else False if metric in ERRORS else said
    if known is None:
        raise ComparisonError(
            f"metric {metric}: unknown whether higher is better, known for "
            f"{', '.join((*FRACTIONS, *ERRORS))}. Say --higher-is-better or --lower-is-better, or "
            "correct the name."
        )
    if said not in (None, known):
        word = "higher" if known else "lower"
        raise ComparisonError(
            f"metric {metric}: {word} is better, found the opposite. Leave the option out."
        )
    return known


def _require_same(asked: Section, path: Path) -> None:
    """Refuse settings that differ from those in a file of this output folder."""
    changed = differences(read_config(path, type(asked)), asked, apart_from=MAY_CHANGE)
    if changed:
        raise ConfigError(
            f"{path}: {'; '.join(changed)}; expected the same settings for all runs in one output "
            "folder. Choose another output folder, or delete this one."
        )
