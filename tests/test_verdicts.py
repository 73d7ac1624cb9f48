"""The rule of the verdict on hand-made numbers, and its words."""

import math
from dataclasses import replace

import pytest

from hemaseg.comparison.sample_size import (
    num_subjects_for_difference,
    num_subjects_for_equivalence,
)
from hemaseg.comparison.verdicts import Pair, Rule, statement, with_verdict

RULE = Rule("dice", True, margin=0.05, alpha=0.05, num_pairs=3, by_ranks=False)
PAIR = Pair(
    metric="dice",
    arm_a="unet",
    arm_b="dr",
    num_subjects=40,
    num_undefined=0,
    mean_difference=0.02,
    ci_low=0.001,
    ci_high=0.039,
    t_ci_low=0.001,
    t_ci_high=0.039,
    sd_difference=0.06,
    t=2.1,
    t_p=0.04,
    p=0.04,
    p_holm=0.2,
    wilcoxon_p=0.5,
    wilcoxon_p_holm=0.5,
    cohen_dz=0.33,
    hedges_gz=0.32,
    rank_biserial=-0.4,
    margin=0.05,
    tost_p=0.1,
    tost_p_holm=0.3,
)


@pytest.mark.parametrize(
    ("p_holm", "tost_p_holm", "difference", "higher_is_better", "verdict", "words"),
    [
        (0.049, 0.05, 0.02, True, "a_better", "unet is better than dr"),
        (0.049, 0.05, -0.02, True, "b_better", "dr is better than unet"),
        (0.049, 0.05, 0.02, False, "b_better", "dr is better than unet"),
        (0.05, 0.049, 0.02, True, "equivalent", "unet and dr are equivalent within the margin of"),
        (0.01, 0.01, -0.02, True, "different_within_margin", "dr is better than unet, but by less"),
        (0.05, 0.05, 0.02, True, "undecided", "unet against dr is undecided"),
    ],
)
def test_rule(
    p_holm: float,
    tost_p_holm: float,
    difference: float,
    higher_is_better: bool,
    verdict: str,
    words: str,
) -> None:
    pair = replace(PAIR, p_holm=p_holm, tost_p_holm=tost_p_holm, mean_difference=difference)
    rule = replace(RULE, higher_is_better=higher_is_better)
    judged = with_verdict(pair, rule)
    assert judged.verdict == verdict
    assert judged.sentence.startswith(words)
    assert statement(judged, rule) in judged.sentence
    assert (not math.isnan(judged.num_subjects_to_decide)) == (verdict == "undecided")


def test_sentence_holds_the_numbers() -> None:
    judged = with_verdict(replace(PAIR, p_holm=0.0004, num_undefined=2), RULE)
    assert judged.sentence == (
        "unet is better than dr: dice differs by 0.02 on average (unet minus dr, 95 % interval "
        "0.001 to 0.039, 40 subjects, difference p < 0.001, equivalence p = 0.3; Holm-adjusted). "
        "Subjects left out, undefined in one arm or both: 2."
    )


def test_undecided_says_how_many_subjects_would_decide_it_and_under_which_assumptions() -> None:
    judged = with_verdict(PAIR, RULE)
    different = num_subjects_for_difference(sd=0.06, difference=0.02, alpha=0.05 / 3)
    equivalent, equal = (
        num_subjects_for_equivalence(sd=0.06, difference=true, margin=0.05, alpha=0.05 / 3)
        for true in (0.02, 0.0)
    )
    assert judged.num_subjects_to_decide == min(different, equivalent)
    assert judged.sentence.endswith(
        "If observed difference and SD were the true ones, "
        f"about {different:.0f} subjects would show a difference and about {equivalent:.0f} "
        f"subjects equivalence; if the true difference were 0, about {equal:.0f} subjects would "
        "show equivalence (80 % power)."
    )


def test_without_a_margin_only_a_difference_can_decide() -> None:
    rule = replace(RULE, margin=None)
    judged = with_verdict(replace(PAIR, margin=math.nan, tost_p_holm=math.nan), rule)
    assert judged.verdict == "undecided"
    assert judged.num_subjects_to_decide == num_subjects_for_difference(
        sd=0.06, difference=0.02, alpha=0.05 / 3
    )
    assert "equivalence p" not in judged.sentence
    assert judged.sentence.endswith(
        "No equivalence margin was stated, so equivalence cannot be shown."
    )


def test_what_no_number_of_subjects_decides_has_none() -> None:
    pair = replace(PAIR, mean_difference=1e-7, t=0.001)
    judged = with_verdict(pair, replace(RULE, margin=None))
    assert math.isnan(judged.num_subjects_to_decide)
    assert "no practicable number would show a difference" in judged.sentence
    far = with_verdict(replace(PAIR, mean_difference=0.06), RULE)
    assert "no practicable number equivalence" in far.sentence


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_subjects": 1, "t": math.nan}, "subjects with a defined dice in both arms: 1"),
        ({"t": math.nan}, "differs by 0.02 in each of 40 subjects, and without spread nothing"),
        ({"ci_low": math.nan, "ci_high": math.nan}, "(unet minus dr, 40 subjects, difference p"),
    ],
)
def test_what_cannot_be_computed_is_said(changes: dict[str, float], words: str) -> None:
    undefined = {} if "ci_low" in changes else {"p_holm": math.nan, "tost_p_holm": math.nan}
    judged = with_verdict(replace(PAIR, **{**changes, **undefined}), RULE)  # type: ignore[arg-type]
    assert judged.verdict == "undecided"
    assert words in judged.sentence


def test_ranks_take_over_where_means_are_undefined() -> None:
    rule = replace(RULE, metric="hd95_mm", higher_is_better=False, by_ranks=True)
    pair = replace(PAIR, metric="hd95_mm", wilcoxon_p_holm=0.01, tost_p_holm=0.001, p_holm=0.9)
    judged = with_verdict(pair, rule)
    assert judged.verdict == "a_better"
    assert judged.sentence == (
        "unet is better than dr: means of hd95_mm are undefined because scores are infinite; by "
        "ranks the correlation with unet minus dr is -0.4 (40 subjects, Wilcoxon p = 0.01; "
        "Holm-adjusted)."
    )
    undecided = with_verdict(replace(pair, wilcoxon_p_holm=0.2), rule)
    assert undecided.verdict == "undecided"
    assert math.isnan(undecided.num_subjects_to_decide)
    same = with_verdict(replace(pair, wilcoxon_p_holm=math.nan, rank_biserial=math.nan), rule)
    assert "hd95_mm is the same in each of 40 subjects" in same.sentence
