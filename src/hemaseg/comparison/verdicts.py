"""The result of one pair of arms, the rule that makes it a verdict, and the words for both.

The rule, for arms A and B and level alpha (0.05):

1. *Different* if the Holm-adjusted p of the sign-flip test is below alpha.
2. *Equivalent* if a margin was stated and the Holm-adjusted p of the TOST is below alpha.
3. Different only: the arm with the better mean is better. Equivalent only: equivalent. Both:
   better, but by less than the margin. Neither: undecided.

Where a score is infinite (a missed lesion has no distance), no mean exists: Wilcoxon's signed-rank
test takes the place of 1 for all pairs of the metric, and equivalence is not claimed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from hemaseg.comparison.sample_size import (
    MAX_SUBJECTS,
    num_subjects_for_difference,
    num_subjects_for_equivalence,
)

_NUM_SIMULATED = 20  # smallest number of subjects in the simulation of docs/statistics.md


@dataclass(frozen=True)
class Rule:
    """What was fixed before looking at the scores, and whether ranks have to replace means."""

    metric: str
    higher_is_better: bool
    margin: float | None
    alpha: float
    num_pairs: int
    by_ranks: bool


@dataclass(frozen=True)
class Pair:
    """One row of pairs.csv. Differences are a minus b; NaN is undefined."""

    metric: str
    arm_a: str
    arm_b: str
    num_subjects: int
    """Subjects with a defined score in both arms."""
    num_undefined: int
    """Subjects left out because the metric is undefined for them in one arm or both."""
    mean_difference: float
    ci_low: float
    ci_high: float
    """Interval of the mean difference from sign flips, at confidence 1 - alpha."""
    t_ci_low: float
    t_ci_high: float
    """Student's interval of the mean difference, at confidence 1 - alpha."""
    sd_difference: float
    t: float
    """Paired t statistic, ``num_subjects - 1`` degrees of freedom."""
    t_p: float
    """Its p under Student's distribution, unadjusted, for checking with other software."""
    p: float
    """Its p under sign flips (paired permutation), unadjusted."""
    p_holm: float
    """The same, Holm-adjusted over all pairs: what the verdict uses."""
    wilcoxon_p: float
    wilcoxon_p_holm: float
    cohen_dz: float
    hedges_gz: float
    rank_biserial: float
    margin: float
    tost_p: float
    tost_p_holm: float
    verdict: str = ""
    """``a_better``, ``b_better``, ``equivalent``, ``different_within_margin`` or ``undecided``."""
    sentence: str = ""
    num_subjects_to_decide: float = math.nan
    """For undecided pairs: subjects for 80 % power to show a difference or equivalence, whichever
    takes fewer, if observed difference and SD were the true ones; NaN if more than a million."""


def with_verdict(pair: Pair, rule: Rule) -> Pair:
    """The pair with verdict, sentence and number of subjects to decide filled in."""
    p, direction = (
        (pair.wilcoxon_p_holm, pair.rank_biserial)
        if rule.by_ranks
        else (pair.p_holm, pair.mean_difference)
    )
    different = p < rule.alpha
    equivalent = not rule.by_ranks and pair.tost_p_holm < rule.alpha
    if different and equivalent:
        verdict = "different_within_margin"
    elif different:
        verdict = "a_better" if (direction > 0) == rule.higher_is_better else "b_better"
    else:
        verdict = "equivalent" if equivalent else "undecided"
    pair = replace(pair, verdict=verdict)
    numbers = _rank_numbers(pair) if rule.by_ranks else _mean_numbers(pair, rule)
    sentence = f"{statement(pair, rule)}: {numbers}."
    if verdict == "undecided" and not (rule.by_ranks or math.isnan(pair.t)):
        num_to_decide, advice = _subjects_to_decide(pair, rule)
        pair = replace(pair, num_subjects_to_decide=num_to_decide)
        sentence = f"{sentence} {advice}"
    if pair.num_undefined:
        sentence += f" Subjects left out, undefined in one arm or both: {pair.num_undefined}."
    return replace(pair, sentence=sentence)


def statement(pair: Pair, rule: Rule) -> str:
    """The verdict in words, without numbers."""
    better, worse = _ordered(pair, rule)
    if pair.verdict in ("a_better", "b_better"):
        return f"{better} is better than {worse}"
    if pair.verdict == "different_within_margin":
        return f"{better} is better than {worse}, but by less than the margin of {rule.margin:g}"
    if pair.verdict == "equivalent":
        return f"{pair.arm_a} and {pair.arm_b} are equivalent within the margin of {rule.margin:g}"
    return f"{pair.arm_a} against {pair.arm_b} is undecided"


def notes(
    cells: pd.DataFrame,
    subjects: pd.DataFrame,
    pairs: Sequence[Pair],
    rule: Rule,
) -> tuple[str, ...]:
    """What a reader of the verdict has to know, a sentence or two each.

    Args:
        cells: Scores, (subject, fold, seed) x arm.
        subjects: Means over the runs, subject x arm.
        pairs: The pairs that were tested.
        rule: Of the verdict.
    """
    num_folds, num_seeds = (cells.index.unique(level).size for level in ("fold", "seed"))
    num_runs = cells.groupby(level=["fold", "seed"]).ngroups
    found = [
        f"Runs per arm: {num_runs} (folds: {num_folds}, seeds: {num_seeds}). "
        "Intervals and tests hold for new subjects like these, scored by these trained networks; "
        "how much another training would differ is shown by run_sd and not part of them."
    ]
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
    for arm, num_undefined in subjects.isna().sum().items():
        if num_undefined:
            found.append(
                f"{arm}: {rule.metric} is undefined for {num_undefined} of {len(subjects)} "
                "subjects, which are left out."
            )
    for arm, num_infinite in np.isinf(subjects).sum().items():
        if num_infinite:
            found.append(
                f"{arm}: {rule.metric} is infinite for {num_infinite} of {len(subjects)} subjects "
                "(a missed lesion); means are undefined and the verdict rests on ranks."
            )
    if rule.margin is None:
        found.append("No margin was stated, so that nothing can be called equivalent.")
    if len(subjects.dropna()) < _NUM_SIMULATED:
        found.append(
            f"Subjects with a score in every arm: {len(subjects.dropna())}; the error rates of the "
            f"tests were checked from {_NUM_SIMULATED} on."
        )
    if num_runs > 1 and not rule.by_ranks:
        for pair in pairs:
            both = subjects[[pair.arm_a, pair.arm_b]].dropna().index
            rows = cells[cells.index.isin(both, level="subject")]
            gain = (rows[pair.arm_a] - rows[pair.arm_b]).groupby(level=["fold", "seed"]).mean()
            found.append(
                f"{pair.arm_a} minus {pair.arm_b}: the mean differences of the {len(gain)} runs go "
                f"from {gain.min():.3g} to {gain.max():.3g}, above 0 in {(gain > 0).sum()}."
            )
    return tuple(found)


def _ordered(pair: Pair, rule: Rule) -> tuple[str, str]:
    """Better arm first."""
    direction = pair.rank_biserial if rule.by_ranks else pair.mean_difference
    a_is_better = (direction > 0) == rule.higher_is_better
    return (pair.arm_a, pair.arm_b) if a_is_better else (pair.arm_b, pair.arm_a)


def _mean_numbers(pair: Pair, rule: Rule) -> str:
    """Difference, interval, n and p; or why there is none."""
    if pair.num_subjects < 2:
        return f"subjects with a defined {pair.metric} in both arms: {pair.num_subjects}"
    if math.isnan(pair.t):
        return (
            f"{pair.metric} differs by {pair.mean_difference:.3g} in each of {pair.num_subjects} "
            "subjects, and without spread nothing can be tested"
        )
    interval = (
        f"{100 * (1 - rule.alpha):g} % interval {pair.ci_low:.3g} to {pair.ci_high:.3g}, "
        if pair.ci_low <= pair.ci_high
        else ""
    )
    tost = "" if rule.margin is None else f", equivalence {_p_text(pair.tost_p_holm)}"
    return (
        f"{pair.metric} differs by {pair.mean_difference:.3g} on average ({pair.arm_a} minus "
        f"{pair.arm_b}, {interval}{pair.num_subjects} subjects, difference "
        f"{_p_text(pair.p_holm)}{tost}; Holm-adjusted)"
    )


def _rank_numbers(pair: Pair) -> str:
    """Rank correlation, n and p."""
    if math.isnan(pair.rank_biserial):
        return f"{pair.metric} is the same in each of {pair.num_subjects} subjects"
    return (
        f"means of {pair.metric} are undefined because scores are infinite; by ranks the "
        f"correlation with {pair.arm_a} minus {pair.arm_b} is {pair.rank_biserial:.3g} "
        f"({pair.num_subjects} subjects, Wilcoxon {_p_text(pair.wilcoxon_p_holm)}; Holm-adjusted)"
    )


def _subjects_to_decide(pair: Pair, rule: Rule) -> tuple[float, str]:
    """How many subjects would decide, and the sentence that states the assumptions.

    Each test is sized at alpha divided by the number of pairs, the hardest step of Holm's rule.
    """
    alpha = rule.alpha / rule.num_pairs
    sd, difference = pair.sd_difference, pair.mean_difference
    num_different = num_subjects_for_difference(sd=sd, difference=difference, alpha=alpha)
    if rule.margin is None:
        advice = (
            "If observed difference and SD were the true ones, "
            f"{_about(num_different)} would show a difference (80 % power). "
            "No equivalence margin was stated, so equivalence cannot be shown."
        )
        return _finite(num_different), advice
    num_equivalent, num_equal = (
        num_subjects_for_equivalence(sd=sd, difference=true, margin=rule.margin, alpha=alpha)
        for true in (difference, 0.0)
    )
    advice = (
        f"If observed difference and SD were the true ones, {_about(num_different)} would show a "
        f"difference and {_about(num_equivalent)} equivalence; if the true difference were 0, "
        f"{_about(num_equal)} would show equivalence (80 % power)."
    )
    return _finite(min(num_different, num_equivalent)), advice


def _about(num: float) -> str:
    """The number of subjects in words."""
    return f"about {num:.0f} subjects" if num <= MAX_SUBJECTS else "no practicable number"


def _finite(num: float) -> float:
    """NaN in place of infinity."""
    return num if math.isfinite(num) else math.nan


def _p_text(p: float) -> str:
    """The p-value to three digits."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3g}"
