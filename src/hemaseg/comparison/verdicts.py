"""The result of one pair of arms, the rule that makes it a verdict, and the words for both.

The rule, for arms A and B and level alpha (0.05):

1. *Different* if the Holm-adjusted p of the sign-flip test is below alpha.
2. *Equivalent* if a margin was stated, the Holm-adjusted p of the TOST is below alpha, and there
   are subjects enough that sign flips could have shown a difference.
3. Different only: the arm with the better mean is better. Equivalent only: equivalent. Both:
   better, but by less than the margin. Neither: undecided.

Where a score is infinite (a missed lesion has no distance), no mean exists: Wilcoxon's signed-rank
test takes the place of 1 for all pairs of the metric, and equivalence is not claimed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from hemaseg.comparison.wording import (
    enumeration,
    format_number,
    format_p,
    metric_label,
    metric_unit,
    num_decimals,
)
from hemaseg.statistics.sample_size import (
    MAX_SUBJECTS,
    min_subjects_for_sign_flips,
    num_subjects_for_difference,
    num_subjects_for_equivalence,
)

NUM_SIMULATED = 20
"""Smallest number of subjects in the simulation of ``docs/statistics.md``."""

_VERDICTS = ("a_better", "b_better", "different_within_margin", "equivalent", "undecided")
_NUM_TOLD = 3  # pairs, or statements about more pairs, that a headline can hold


@dataclass(frozen=True)
class Rule:
    """What was fixed before looking at the scores, and whether ranks have to replace means."""

    metric: str
    higher_is_better: bool
    margin: float | None
    alpha: float
    num_pairs: int
    by_ranks: bool

    @property
    def alpha_of_pair(self) -> float:
        """Level of a pair at the hardest step of Holm's correction."""
        return self.alpha / self.num_pairs

    @property
    def min_subjects(self) -> int:
        """Fewest subjects of a pair with which sign flips can show a difference."""
        return min_subjects_for_sign_flips(self.alpha_of_pair)


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


def with_verdict(pair: Pair, rule: Rule, warning: str = "") -> Pair:
    """The pair with verdict, sentence and number of subjects to decide filled in.

    Args:
        pair: Tested.
        rule: Of the verdict.
        warning: Ends the sentence; see `hemaseg.comparison.omissions.words_on_misses`.
    """
    p = pair.wilcoxon_p_holm if rule.by_ranks else pair.p_holm
    different = p < rule.alpha
    # A rule that could not have called the arms different must not call them equivalent.
    can_tell = not rule.by_ranks and pair.num_subjects >= rule.min_subjects
    equivalent = can_tell and pair.tost_p_holm < rule.alpha
    if different and equivalent:
        verdict = "different_within_margin"
    elif different:
        verdict = "a_better" if _ordered(pair, rule)[0] == pair.arm_a else "b_better"
    else:
        verdict = "equivalent" if equivalent else "undecided"
    pair = replace(pair, verdict=verdict)
    numbers = _rank_numbers(pair) if rule.by_ranks else _mean_numbers(pair, rule)
    sentence = f"{statement(pair, rule)}: {numbers}."
    if verdict == "undecided" and rule.by_ranks:
        sentence += " How many subjects would decide it cannot be told from ranks."
    elif verdict == "undecided" and not math.isnan(pair.t):
        num_to_decide, advice = _subjects_to_decide(pair, rule)
        pair = replace(pair, num_subjects_to_decide=num_to_decide)
        sentence = f"{sentence} {advice}"
    if pair.num_undefined:
        sentence += f" Subjects left out, undefined in one arm or both: {pair.num_undefined}."
    return replace(pair, sentence=sentence + warning)


def statement(pair: Pair, rule: Rule) -> str:
    """The verdict on one pair in words, without numbers."""
    better, worse = _ordered(pair, rule)
    if pair.verdict in ("a_better", "b_better"):
        return f"{better} is better than {worse}"
    if pair.verdict == "different_within_margin":
        return f"{better} is better than {worse}, but by less than the margin of {_margin(rule)}"
    if pair.verdict == "equivalent":
        return f"{pair.arm_a} and {pair.arm_b} are equivalent within the margin of {_margin(rule)}"
    return f"{pair.arm_a} against {pair.arm_b} is undecided"


def headline(pairs: Sequence[Pair], rule: Rule) -> str:
    """The verdict on all pairs, short enough to stand above everything else.

    All is told about up to three pairs, arms of the same fate in one breath. More pairs are
    counted, followed by up to three statements: the largest differences, or what is equivalent if
    nothing differs. The rest is in the sentences of the pairs.

    Args:
        pairs: Pairs with their verdicts.
        rule: Of the verdicts.
    """
    measure = f"{'' if rule.by_ranks else 'mean '}{metric_label(rule.metric)} per subject"
    of = {verdict: [pair for pair in pairs if pair.verdict == verdict] for verdict in _VERDICTS}
    differences = [
        *_who_is_better([*of["a_better"], *of["b_better"]], rule),
        *(
            f"{words}, but by less than the margin of {_margin(rule)}"
            for words in _who_is_better(of["different_within_margin"], rule)
        ),
    ]
    equivalent = _all_together(
        of["equivalent"], rule, f"{{arms}} are equivalent within the margin of {_margin(rule)}"
    )
    if len(pairs) > _NUM_TOLD:
        told = f"Of {len(pairs)} pairs compared by {measure}, {_counted(pairs, rule)}."
        if named := differences or equivalent:
            first = "" if len(named) <= _NUM_TOLD else "Among them: "
            told += f" {first}{'; '.join(named[:_NUM_TOLD])}."
        return told + _words_on_few(pairs)
    undecided = _all_together(of["undecided"], rule, "the comparison of {arms} is undecided")
    told = f"By {measure}, {'; '.join([*differences, *equivalent, *undecided])}"
    if not (differences or equivalent):
        also = "" if rule.margin is None or rule.by_ranks else " and no equivalence"
        told += f": no difference{also} was shown"
    return f"{told}.{_words_on_few(pairs)}"


def rounded(value: float, rule: Rule) -> str:
    """A score or difference with the digits of the metric."""
    return format_number(value, num_decimals(rule.metric))


def _words_on_few(pairs: Sequence[Pair]) -> str:
    """The sentence of a headline that rests on few subjects, else nothing."""
    fewest = min(pair.num_subjects for pair in pairs)
    if fewest >= NUM_SIMULATED:
        return ""
    return f" Subjects: {fewest}; how often such verdicts err was checked from {NUM_SIMULATED} on."


def _counted(pairs: Sequence[Pair], rule: Rule) -> str:
    """How many pairs got which verdict."""
    counts = []
    for verdicts, singular, plural, more in (
        (("a_better", "b_better"), "differs", "differ", ""),
        (("different_within_margin",), "differs", "differ", " by less than the margin"),
        (("equivalent",), "is", "are", f" equivalent within the margin of {_margin(rule)}"),
        (("undecided",), "is", "are", " undecided"),
    ):
        if num := sum(pair.verdict in verdicts for pair in pairs):
            counts.append(f"{num} {singular if num == 1 else plural}{more}")
    return enumeration(counts)


def _who_is_better(pairs: Sequence[Pair], rule: Rule) -> list[str]:
    """Statements about pairs that differ, the largest difference first.

    Arms that are better than the same arms share a statement.
    """
    worse_than: dict[str, list[str]] = {}
    for pair in sorted(pairs, key=lambda pair: -abs(_direction(pair, rule))):
        better, worse = _ordered(pair, rule)
        worse_than.setdefault(better, []).append(worse)
    better_than: dict[tuple[str, ...], list[str]] = {}
    for better, losers in worse_than.items():
        better_than.setdefault(tuple(losers), []).append(better)
    return [
        f"{enumeration(better)} {'is' if len(better) == 1 else 'are'} better than "
        f"{enumeration(losers)}"
        for losers, better in better_than.items()
    ]


def _all_together(pairs: Sequence[Pair], rule: Rule, words: str) -> list[str]:
    """One statement with `words` if the pairs are all those of some arms, else one for each."""
    arms = list(dict.fromkeys(chain.from_iterable((pair.arm_a, pair.arm_b) for pair in pairs)))
    if pairs and len(pairs) == math.comb(len(arms), 2):
        return [words.replace("{arms}", enumeration(arms))]
    return [statement(pair, rule) for pair in pairs]


def _direction(pair: Pair, rule: Rule) -> float:
    """Above 0 if the scores of arm A are the larger ones."""
    return pair.rank_biserial if rule.by_ranks else pair.mean_difference


def _ordered(pair: Pair, rule: Rule) -> tuple[str, str]:
    """Better arm first."""
    a_is_better = (_direction(pair, rule) > 0) == rule.higher_is_better
    return (pair.arm_a, pair.arm_b) if a_is_better else (pair.arm_b, pair.arm_a)


def _margin(rule: Rule) -> str:
    """The margin with its unit; nothing without a margin, when no verdict speaks of it."""
    return "" if rule.margin is None else f"{rule.margin:g} {metric_unit(rule.metric)}".strip()


def _mean_numbers(pair: Pair, rule: Rule) -> str:
    """Difference, interval, n and p; or why there is none."""
    label = metric_label(pair.metric)
    difference = rounded(pair.mean_difference, rule)
    if pair.num_subjects < 2:
        return f"subjects with a defined {label} in both arms: {pair.num_subjects}"
    if math.isnan(pair.t):
        return (
            f"{label} differs by {difference} in each of {pair.num_subjects} subjects, and without "
            "spread nothing can be tested"
        )
    interval = (
        f"{100 * (1 - rule.alpha):g} % sign-flip interval {rounded(pair.ci_low, rule)} to "
        f"{rounded(pair.ci_high, rule)}; "
        if pair.ci_low <= pair.ci_high
        else ""
    )
    # That a clear difference is not also an equivalence goes without saying.
    is_clear = rule.margin is None or pair.verdict in ("a_better", "b_better")
    tost = "" if is_clear else f", p {format_p(pair.tost_p_holm)} for equivalence"
    return (
        f"mean difference in {label} {difference} ({pair.arm_a} minus {pair.arm_b}; {interval}"
        f"{pair.num_subjects} subjects; Holm-adjusted p {format_p(pair.p_holm)} for a "
        f"difference{tost})"
    )


def _rank_numbers(pair: Pair) -> str:
    """Rank correlation, n and p."""
    label = metric_label(pair.metric)
    if math.isnan(pair.rank_biserial):
        return f"{label} is the same in each of {pair.num_subjects} subjects"
    return (
        f"{label} has no mean because some scores are infinite, so ranks decide; rank-biserial "
        f"correlation {format_number(pair.rank_biserial, 3)} ({pair.arm_a} minus {pair.arm_b}; "
        f"{pair.num_subjects} subjects; Holm-adjusted Wilcoxon p "
        f"{format_p(pair.wilcoxon_p_holm)})"
    )


def _subjects_to_decide(pair: Pair, rule: Rule) -> tuple[float, str]:
    """How many subjects would decide, and the sentence that states the assumptions.

    Each test is sized at alpha divided by the number of pairs, the hardest step of Holm's rule.
    Both numbers are of t tests, and never below what the sign flips need.
    """
    alpha, sd, difference = rule.alpha_of_pair, pair.sd_difference, pair.mean_difference
    num_different = max(
        num_subjects_for_difference(sd=sd, difference=difference, alpha=alpha), rule.min_subjects
    )
    assumption = "If the observed difference and SD are the true ones,"
    if pair.num_subjects < rule.min_subjects:
        assumption = (
            f"With fewer than {rule.min_subjects} subjects no verdict can be reached. {assumption}"
        )
    if rule.margin is None:
        advice = (
            f"{assumption} {_about(num_different)} would show a difference with 80 % power. "
            "No equivalence margin was stated, so equivalence cannot be shown."
        )
        return _finite(num_different), advice
    num_equivalent, num_equal = (
        max(
            num_subjects_for_equivalence(sd=sd, difference=true, margin=rule.margin, alpha=alpha),
            rule.min_subjects,
        )
        for true in (difference, 0.0)
    )
    num, aim = min((num_different, "a difference"), (num_equivalent, "equivalence"))
    advice = (
        f"{assumption} {_about(num)} would show {aim if math.isfinite(num) else 'either'} with "
        f"80 % power; if the true difference is 0, {_about(num_equal)} would show equivalence."
    )
    return _finite(num), advice


def _about(num: float) -> str:
    """The number of subjects in words."""
    return (
        f"about {format_number(num, 0)} subjects"
        if num <= MAX_SUBJECTS
        else "no practicable number of subjects"
    )


def _finite(num: float) -> float:
    """NaN in place of infinity."""
    return num if math.isfinite(num) else math.nan
