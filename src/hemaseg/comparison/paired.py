"""Scores of several arms on the same subjects to differences, intervals, tests and a verdict.

The unit is the subject. Each arm's score of a subject is the mean over the runs (folds and seeds)
in which it was tested; the arms are then compared on the same subjects. Reasons, formulas and
limits: ``docs/statistics.md``; the rule of the verdict: `hemaseg.comparison.verdicts`.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from hemaseg.comparison.description import describe_all, run_means, subject_means, summary
from hemaseg.comparison.detection import detection
from hemaseg.comparison.notes import notes
from hemaseg.comparison.omissions import why_undefined, words_on_misses
from hemaseg.comparison.score_tables import score_cells
from hemaseg.comparison.sites import describe_sites
from hemaseg.comparison.verdicts import Pair, Rule, headline, with_verdict
from hemaseg.comparison.volumes import subject_volumes, volume_agreement
from hemaseg.errors import ComparisonError
from hemaseg.files import whole_file, write_text
from hemaseg.statistics.closed_forms import (
    Anova,
    Friedman,
    anova,
    cohen_dz,
    friedman,
    hedges_gz,
    holm,
    moments,
    paired_t,
    signed_rank,
    t_interval,
    tost,
    without_noise,
)
from hemaseg.statistics.resampling import sign_flip


@dataclass(frozen=True)
class Comparison:
    """Arms compared by one metric.

    Tables (NaN is undefined; arms in the order of the scores, subjects sorted by name):

    - ``summary``: metric, arm, num_subjects, num_undefined, mean, sd, median, q1, q3, ci_low,
      ci_high (bootstrap-t interval of the mean, cut at the metric's range), run_sd (SD of the means
      of the runs).
    - ``pairs``: the fields of `hemaseg.comparison.verdicts.Pair`.
    - ``differences``: metric, arm_a, arm_b, subject, score_a, score_b, difference.
    - ``all_metrics``: every known metric that the scores have, described but not tested; columns in
      `hemaseg.comparison.description.describe_all`.
    - ``volumes``, ``volume_agreement``: predicted and reference volume of each subject, and how
      they agree; columns in `hemaseg.comparison.volumes`.
    - ``detection``: who is marked wrongly and who is missed, see `hemaseg.comparison.detection`.
    - ``sites``: the metric by site, described, see `hemaseg.comparison.sites`.
    """

    metric: str
    higher_is_better: bool
    margin: float | None
    alpha: float
    seed: int
    num_bootstrap: int
    num_subjects: int
    """Subjects in the scores, with a defined score or not."""
    num_runs: int
    """Runs (combinations of fold and seed) per arm."""
    verdict: str
    friedman: Friedman
    notes: tuple[str, ...]
    """Caveats, a sentence or two each."""
    summary: pd.DataFrame
    pairs: pd.DataFrame
    differences: pd.DataFrame
    all_metrics: pd.DataFrame
    volumes: pd.DataFrame
    volume_agreement: pd.DataFrame
    detection: pd.DataFrame
    sites: pd.DataFrame


@dataclass(frozen=True)
class PaperAnalysis:
    """The analysis of the paper to the letter, and why not to rely on it."""

    table1: pd.DataFrame
    """Columns arm, num_batches, mean, sd: the batch scores of each arm."""
    anova: Anova
    notes: tuple[str, ...]


def compare(
    scores: pd.DataFrame,
    *,
    metric: str = "dice",
    margin: float | None,
    pairs: Sequence[tuple[str, str]] = (),
    alpha: float = 0.05,
    seed: int = 0,
    num_bootstrap: int = 9999,
    higher_is_better: bool = True,
) -> Comparison:
    """Compare arms pairwise by one metric.

    A subject whose metric is undefined (NaN) in any run of an arm is undefined for that arm; a pair
    leaves it out and counts it. Subjects without a lesion are undefined for metrics of lesions, see
    `hemaseg.comparison.score_tables.score_cells`. An infinite score (a distance to a missed lesion)
    stays infinite: means are then undefined, medians and ranks are not, and a subject that both
    arms miss is a tie.

    Args:
        scores: One row per arm, subject, fold and seed, with these columns and the metric's. All
            arms must have been tested on the same subjects in the same folds and seeds.
        metric: Column to compare by.
        margin: Largest difference that does not matter, in the unit of the metric, stated before
            training; None if none was, and then nothing can be called equivalent.
        pairs: Pairs of arms to test, stated before training; all pairs if empty.
        alpha: Level of the tests; intervals have confidence 1 - alpha.
        seed: Of sign flips and bootstrap.
        num_bootstrap: Number of sign flips, and of bootstrap resamples.
        higher_is_better: False for distances and errors.

    Raises:
        ComparisonError: The scores are incomplete, repeated or unsound, in the column of any known
            metric, of volumes or of counts; or a subject has two sites.
        ValueError: Margin, alpha or number of resamples is out of range, or a pair is none.
    """
    cells = score_cells(scores, metric)
    _require_sound_call(margin, alpha, num_bootstrap, pairs, list(cells.columns))
    arm_pairs = list(pairs) or list(combinations(cells.columns, 2))
    subjects = subject_means(cells)
    runs = run_means(cells, subjects)
    by_ranks = bool(np.isinf(subjects.to_numpy()).any())
    rule = Rule(metric, higher_is_better, margin, alpha, len(arm_pairs), by_ranks)
    tested = [_tested(subjects, pair, rule, seed, num_bootstrap) for pair in arm_pairs]
    reasons = why_undefined(scores, cells, subjects, metric)
    judged = [
        with_verdict(pair, rule, words_on_misses(reasons.loc[[pair.arm_a, pair.arm_b]], metric))
        for pair in _holm_adjusted(tested)
    ]
    volumes = subject_volumes(scores)
    return Comparison(
        metric=metric,
        higher_is_better=higher_is_better,
        margin=margin,
        alpha=alpha,
        seed=seed,
        num_bootstrap=num_bootstrap,
        num_subjects=len(subjects),
        num_runs=len(runs),
        verdict=headline(judged, rule) + words_on_misses(reasons, metric),
        friedman=friedman(without_noise(subjects.dropna())),
        notes=notes(cells, subjects, reasons, judged, rule),
        summary=summary(
            subjects, runs, metric=metric, alpha=alpha, seed=seed, num_bootstrap=num_bootstrap
        ),
        pairs=pd.DataFrame([asdict(pair) for pair in judged]),
        differences=pd.concat(
            [_differences(subjects, pair, metric) for pair in arm_pairs], ignore_index=True
        ),
        all_metrics=describe_all(scores),
        volumes=volumes,
        volume_agreement=volume_agreement(volumes, confidence=1 - alpha),
        detection=detection(scores, confidence=1 - alpha),
        sites=describe_sites(scores, metric),
    )


def _require_sound_call(
    margin: float | None,
    alpha: float,
    num_bootstrap: int,
    pairs: Sequence[tuple[str, str]],
    arms: Sequence[str],
) -> None:
    """Refuse arguments that `hemaseg.config.StudyConfig` would have refused."""
    distinct = {frozenset(pair) for pair in pairs if pair[0] != pair[1] and set(pair) <= set(arms)}
    has_margin = margin is None or 0 < margin < np.inf
    if not (has_margin and 0 < alpha < 0.5 and num_bootstrap >= 99 and len(distinct) == len(pairs)):
        raise ValueError(
            "margin above 0 or None, alpha between 0 and 0.5, num_bootstrap of 99 or more and "
            f"different pairs out of {list(arms)} needed, got {margin}, {alpha}, {num_bootstrap} "
            f"and {list(pairs)}"
        )


def _differences(subjects: pd.DataFrame, pair: tuple[str, str], metric: str) -> pd.DataFrame:
    """One row per subject with a defined score in both arms; differences without noise."""
    arm_a, arm_b = pair
    both = subjects[[arm_a, arm_b]].dropna()
    score_a, score_b = both[arm_a].to_numpy(), both[arm_b].to_numpy()
    difference = np.zeros(len(both))  # both infinite: a tie
    np.subtract(score_a, score_b, out=difference, where=score_a != score_b)
    return pd.DataFrame(
        {
            "metric": metric,
            "arm_a": arm_a,
            "arm_b": arm_b,
            "subject": both.index,
            "score_a": score_a,
            "score_b": score_b,
            "difference": without_noise(difference),
        }
    )


def _tested(
    subjects: pd.DataFrame, pair: tuple[str, str], rule: Rule, seed: int, num_bootstrap: int
) -> Pair:
    """Everything about one pair that does not depend on the other pairs."""
    table = _differences(subjects, pair, rule.metric)
    difference = table["difference"].to_numpy()
    # An infinite score has no mean: without values, whatever rests on means is NaN.
    finite = np.isfinite(table[["score_a", "score_b"]].to_numpy()).all()
    measured = difference if finite else difference[:0]
    t = paired_t(measured)
    t_limits = t_interval(measured, confidence=1 - rule.alpha)
    flips = sign_flip(measured, confidence=1 - rule.alpha, num_bootstrap=num_bootstrap, seed=seed)
    ranks = signed_rank(difference)
    return Pair(
        metric=rule.metric,
        arm_a=pair[0],
        arm_b=pair[1],
        num_subjects=len(table),
        num_undefined=len(subjects) - len(table),
        mean_difference=t.mean,
        ci_low=flips.interval.low,
        ci_high=flips.interval.high,
        t_ci_low=t_limits.low,
        t_ci_high=t_limits.high,
        sd_difference=t.sd,
        t=t.t,
        t_p=t.p,
        p=flips.p,
        p_holm=np.nan,
        wilcoxon_p=ranks.p,
        wilcoxon_p_holm=np.nan,
        cohen_dz=cohen_dz(measured),
        hedges_gz=hedges_gz(measured),
        rank_biserial=ranks.rank_biserial,
        margin=np.nan if rule.margin is None else rule.margin,
        tost_p=np.nan if rule.margin is None else tost(measured, margin=rule.margin).p,
        tost_p_holm=np.nan,
    )


def _holm_adjusted(pairs: list[Pair]) -> list[Pair]:
    """The pairs with their adjusted p-values; each test is its own family."""
    adjusted = zip(
        holm([pair.p for pair in pairs]).tolist(),
        holm([pair.wilcoxon_p for pair in pairs]).tolist(),
        holm([pair.tost_p for pair in pairs]).tolist(),
        strict=True,
    )
    return [
        replace(pair, p_holm=p, wilcoxon_p_holm=wilcoxon_p, tost_p_holm=tost_p)
        for pair, (p, wilcoxon_p, tost_p) in zip(pairs, adjusted, strict=True)
    ]


def paper_analysis(batches: pd.DataFrame) -> PaperAnalysis:
    """Mean and SD of the Dice per test batch, and a one-way ANOVA over the batches.

    This is what the paper did. Its flaws: batches are taken as independent, though those of one run
    share a network and may share a subject; arms are taken as independent groups, though they were
    tested on the same slices, so that the variation between slices drowns the difference between
    arms; and a large p is read as sameness. The batches of all folds and seeds are pooled.

    Args:
        batches: One row per arm, fold, seed and batch, with columns arm, fold, seed and dice.

    Returns:
        f and p are NaN with fewer than two arms, or with an arm of one batch, which has no SD.

    Raises:
        ComparisonError: A column is missing, or a Dice is undefined.
    """
    missing = [name for name in ("arm", "fold", "seed", "dice") if name not in batches.columns]
    if missing:
        raise ComparisonError(
            f"batches: columns {missing} are missing, found {list(batches.columns)}. Score again."
        )
    dice = pd.to_numeric(batches["dice"], errors="coerce")
    num_undefined = int((~np.isfinite(dice)).sum())
    if num_undefined:
        raise ComparisonError(
            f"batches: dice is undefined in {num_undefined} of {len(batches)} rows, expected none, "
            "since batches hold slices with a lesion. Score again."
        )
    groups = {
        str(arm): scores.to_numpy() for arm, scores in dice.groupby(batches["arm"], sort=False)
    }
    sizes = [len(scores) for scores in groups.values()]
    if len(sizes) < 2 or min(sizes) < 2:  # undefined, but no reason to refuse the comparison
        result = Anova(math.nan, math.nan, max(len(sizes) - 1, 0), sum(sizes) - len(sizes))
    else:
        result = anova(list(groups.values()))
    num_runs = batches.groupby(["fold", "seed"]).ngroups
    table1 = pd.DataFrame(
        {
            "arm": list(groups),
            "num_batches": sizes,
            "mean": [moments(scores)[0] for scores in groups.values()],
            "sd": [moments(scores)[1] for scores in groups.values()],
        }
    )
    notes = (
        "The analysis of variance takes every batch as independent; batches of one run share a "
        "network, and may share a subject.",
        "It takes the arms as separate groups, though all were tested on the same slices; without "
        "pairing, the differences between slices hide those between arms.",
        "A large p does not show that the arms are equal.",
        f"Runs (folds and seeds) per arm whose batches are pooled: {num_runs}.",
    )
    return PaperAnalysis(table1, result, notes)


def write_comparison(
    comparison: Comparison,
    folder: Path,
    *,
    paper: PaperAnalysis | None = None,
    warning: str | None = None,
) -> None:
    """Write comparison.json, the tables of `Comparison` as CSV files, and of paper, table1.

    comparison.json holds the fields of `Comparison` but its tables, and of `PaperAnalysis`:
    ``metric``, ``higher_is_better``, ``margin`` (null if none), ``alpha``, ``seed``,
    ``num_bootstrap``, ``num_subjects``, ``num_runs``, ``verdict``, ``notes`` (list of sentences),
    ``friedman`` {``num_subjects``, ``statistic``, ``p``}, ``anova`` {``f``, ``p``, ``df_between``,
    ``df_within``} (null without paper), ``paper_notes``. Undefined numbers are null.

    Args:
        comparison: What to write.
        folder: Where to.
        paper: The paper's analysis, if batches were scored.
        warning: Sentence that every table must carry.

    Raises:
        ComparisonError: The folder cannot be written.
    """
    record: dict[str, object] = {
        name: value
        for name, value in vars(comparison).items()
        if not isinstance(value, pd.DataFrame)
    }
    record["friedman"] = _without_nan(asdict(comparison.friedman))
    record["anova"] = None if paper is None else _without_nan(asdict(paper.anova))
    record["paper_notes"] = [] if paper is None else paper.notes
    tables = {
        name: value for name, value in vars(comparison).items() if isinstance(value, pd.DataFrame)
    }
    try:
        for name, table in tables.items():
            write_table(table, folder / f"{name}.csv", warning=warning)
        if paper is None:
            (folder / "table1.csv").unlink(missing_ok=True)  # of an earlier comparison
        else:
            write_table(paper.table1, folder / "table1.csv", warning=warning)
        write_text(folder / "comparison.json", json.dumps(record, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise ComparisonError(
            f"{folder}: cannot be written ({error}). Choose another output folder."
        ) from error


def write_table(table: pd.DataFrame, path: Path, *, warning: str | None = None) -> None:
    """Write a CSV file whole or not at all; undefined values become empty fields.

    A warning, such as that of a split by slices, stands in every row as the last column.
    """
    warned = table if warning is None else table.assign(warning=warning)
    with whole_file(path) as partial:
        warned.to_csv(partial, index=False, lineterminator="\n")


def _without_nan(record: dict[str, float]) -> dict[str, float | None]:
    """NaN as None."""
    return {name: None if math.isnan(value) else value for name, value in record.items()}
