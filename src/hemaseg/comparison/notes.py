"""What a reader of a verdict has to know, beside the verdict itself."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hemaseg.comparison.omissions import REASONS
from hemaseg.comparison.verdicts import NUM_SIMULATED, Pair, Rule, rounded
from hemaseg.comparison.wording import enumeration, metric_label
from hemaseg.statistics.closed_forms import without_noise


def notes(
    cells: pd.DataFrame,
    subjects: pd.DataFrame,
    reasons: pd.DataFrame,
    pairs: Sequence[Pair],
    rule: Rule,
) -> tuple[str, ...]:
    """What a reader of the verdict has to know, a sentence or two each.

    Args:
        cells: Scores, (subject, fold, seed) x arm.
        subjects: Means over the runs, subject x arm.
        reasons: Why subjects are undefined, of `hemaseg.comparison.omissions.why_undefined`.
        pairs: The pairs that were tested.
        rule: Of the verdict.
    """
    num_folds, num_seeds = (cells.index.unique(level).size for level in ("fold", "seed"))
    num_runs = cells.groupby(level=["fold", "seed"]).ngroups
    found = [
        f"Runs per arm: {num_runs} (folds: {num_folds}, seeds: {num_seeds}). "
        "Intervals and tests hold for new subjects like these, scored by these trained networks; "
        "how much another training would differ is not part of them, but shown by the SD between "
        "runs (run_sd)."
    ]
    if num_runs == 1:
        found.append(
            "With one run per arm, what another training would give is unknown: this compares two "
            "sets of weights rather than two networks."
        )
    if num_folds > 1:
        found.append(
            "The subjects of a fold share their networks, so that a lucky or unlucky training "
            f"touches all of them: there are {num_runs} trainings per arm, however many "
            "subjects."
        )
    runs_per_subject = cells.groupby(level="subject").size()
    if runs_per_subject.min() < runs_per_subject.max():
        found.append(
            f"Subjects were tested in {runs_per_subject.min()} to {runs_per_subject.max()} runs; "
            "each subject counts once, as the mean over its runs."
        )
    label = metric_label(rule.metric)
    for _, rows in reasons.groupby(list(REASONS)):
        arms, counts = list(rows.index), rows.iloc[0].tolist()
        where = "every arm" if len(arms) == len(subjects.columns) else enumeration(arms)
        told = [
            f"{num} {words}" for num, words in zip(counts, REASONS.values(), strict=True) if num
        ]
        if told:
            found.append(
                f"{label} is undefined for {sum(counts)} of {len(subjects)} subjects in {where}, "
                f"and left out: {enumeration(told)}."
            )
    for arm, num_infinite in np.isinf(subjects).sum().items():
        if num_infinite:
            found.append(
                f"{arm}: {label} is infinite for {num_infinite} of {len(subjects)} subjects "
                "(a missed lesion); means are undefined and the verdict rests on ranks."
            )
    if rule.margin is None:
        found.append("No margin was stated, so that nothing can be called equivalent.")
    if len(subjects.dropna()) < NUM_SIMULATED:
        found.append(
            f"Subjects with a score in every arm: {len(subjects.dropna())}; the error rates of the "
            f"tests and intervals were checked from {NUM_SIMULATED} on. In fewer, one missed "
            "lesion makes the interval of an arm's mean so wide that it tells little."
        )
    if num_runs > 1 and not rule.by_ranks:
        for pair in pairs:
            both = subjects[[pair.arm_a, pair.arm_b]].dropna().index
            rows = cells[cells.index.isin(both, level="subject")]
            by_run = (rows[pair.arm_a] - rows[pair.arm_b]).groupby(level=["fold", "seed"])
            gain = without_noise(by_run.mean())
            found.append(
                f"{pair.arm_a} minus {pair.arm_b}: mean difference of a run "
                f"{rounded(gain.min(), rule)} to {rounded(gain.max(), rule)}, above 0 in "
                f"{(gain > 0).sum()} of {len(gain)}."
            )
    return tuple(found)
