"""The rule of the verdict on hand-made numbers, and its words."""

import math
from dataclasses import replace

import pytest

from hemaseg.comparison.verdicts import Pair, Rule, headline, statement, with_verdict
from hemaseg.statistics.sample_size import (
    num_subjects_for_difference,
    num_subjects_for_equivalence,
)

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
        "unet is better than dr: mean difference in Dice 0.020 (unet minus dr; 95 % sign-flip "
        "interval 0.001 to 0.039; 40 subjects; Holm-adjusted p < 0.001 for a difference). "
        "Subjects left out, undefined in one arm or both: 2."
    )


def test_numbers_are_rounded_alike_and_have_the_digits_and_unit_of_their_metric() -> None:
    """0.000231 beside -0.0293 would look like an accuracy that nobody has."""
    changes = {"mean_difference": -0.014353, "ci_low": -0.0293, "ci_high": 0.000231}
    pair = replace(PAIR, **changes, tost_p_holm=0.0001)  # type: ignore[arg-type]
    assert with_verdict(pair, RULE).sentence == (
        "unet and dr are equivalent within the margin of 0.05: mean difference in Dice -0.014 "
        "(unet minus dr; 95 % sign-flip interval -0.029 to 0.000; 40 subjects; Holm-adjusted p = "
        "0.200 for a difference, p < 0.001 for equivalence)."
    )
    in_mm = with_verdict(
        replace(pair, metric="hd95_mm", mean_difference=1.5), replace(RULE, metric="hd95_mm")
    )
    assert "within the margin of 0.05 mm: mean difference in HD95 (mm) 1.50" in in_mm.sentence


def test_undecided_says_how_many_subjects_would_decide_it_and_under_which_assumptions() -> None:
    judged = with_verdict(PAIR, RULE)
    different = num_subjects_for_difference(sd=0.06, difference=0.02, alpha=0.05 / 3)
    equivalent, equal = (
        num_subjects_for_equivalence(sd=0.06, difference=true, margin=0.05, alpha=0.05 / 3)
        for true in (0.02, 0.0)
    )
    assert judged.num_subjects_to_decide == min(different, equivalent)
    assert equivalent < different
    assert judged.sentence.endswith(
        f"If the observed difference and SD are the true ones, about {equivalent:.0f} subjects "
        f"would show equivalence with 80 % power; if the true difference is 0, about {equal:.0f} "
        "subjects would show equivalence."
    )
    far = with_verdict(replace(PAIR, mean_difference=0.04), RULE)
    different = num_subjects_for_difference(sd=0.06, difference=0.04, alpha=0.05 / 3)
    assert far.num_subjects_to_decide == different
    assert f"about {different:.0f} subjects would show a difference with 80" in far.sentence
    close = with_verdict(replace(PAIR, mean_difference=0.001, sd_difference=1.0), RULE)
    sizes = [
        num_subjects_for_equivalence(sd=1.0, difference=true, margin=0.05, alpha=0.05 / 3)
        for true in (0.001, 0.0)
    ]
    assert close.num_subjects_to_decide == sizes[0]
    assert f"about {sizes[0]:,.0f} subjects would show equivalence with" in close.sentence
    assert f"about {sizes[1]:,.0f} subjects would show equivalence." in close.sentence


def test_nothing_is_equivalent_where_sign_flips_could_not_have_shown_a_difference() -> None:
    """Of 6 subjects the smallest p is 2/64: Holm's first step over 3 pairs asks for 7."""
    pair = replace(PAIR, p_holm=0.6, tost_p_holm=0.001)
    for num, pairs, verdict in (
        (5, 1, "undecided"),
        (6, 1, "equivalent"),
        (6, 3, "undecided"),
        (7, 3, "equivalent"),
    ):
        rule = replace(RULE, num_pairs=pairs)
        assert with_verdict(replace(pair, num_subjects=num), rule).verdict == verdict


def test_never_fewer_subjects_would_decide_than_can() -> None:
    """The t tests alone would ask for 2 subjects, or 3 without a difference."""
    pair = replace(PAIR, num_subjects=5, mean_difference=0.101, sd_difference=0.005)
    judged = with_verdict(pair, replace(RULE, num_pairs=1))
    assert judged.num_subjects_to_decide == 6
    assert judged.sentence.endswith(
        "With fewer than 6 subjects no verdict can be reached. If the observed difference and SD "
        "are the true ones, about 6 subjects would show a difference with 80 % power; if the true "
        "difference is 0, about 6 subjects would show equivalence."
    )
    enough = with_verdict(replace(pair, num_subjects=6), replace(RULE, num_pairs=1, margin=None))
    assert enough.num_subjects_to_decide == 6
    assert "no verdict can be reached" not in enough.sentence


def test_headline_says_where_it_rests_on_few_subjects() -> None:
    pairs = judged(("u", "r", "equivalent", 0))
    enough = [replace(pair, num_subjects=20) for pair in pairs]
    few = [replace(pair, num_subjects=19) for pair in pairs]
    assert headline(few, RULE) == headline(enough, RULE) + (
        " Subjects: 19; how often such verdicts err was checked from 20 on."
    )
    many = [*enough * 4, *few]
    assert headline(many, RULE).endswith("checked from 20 on.")


def test_without_a_margin_only_a_difference_can_decide() -> None:
    rule = replace(RULE, margin=None)
    judged = with_verdict(replace(PAIR, margin=math.nan, tost_p_holm=math.nan), rule)
    assert judged.verdict == "undecided"
    assert judged.num_subjects_to_decide == num_subjects_for_difference(
        sd=0.06, difference=0.02, alpha=0.05 / 3
    )
    assert "for equivalence" not in judged.sentence
    assert judged.sentence.endswith(
        "No equivalence margin was stated, so equivalence cannot be shown."
    )


def test_what_no_number_of_subjects_decides_has_none() -> None:
    pair = replace(PAIR, mean_difference=1e-7, t=0.001)
    judged = with_verdict(pair, replace(RULE, margin=None))
    assert math.isnan(judged.num_subjects_to_decide)
    assert "no practicable number of subjects would show a difference" in judged.sentence
    neither = replace(PAIR, mean_difference=1e-6, sd_difference=1.0)
    with_margin = with_verdict(neither, replace(RULE, margin=1e-3))
    assert math.isnan(with_margin.num_subjects_to_decide)
    assert "no practicable number of subjects would show either" in with_margin.sentence


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_subjects": 1, "t": math.nan}, "subjects with a defined Dice in both arms: 1"),
        ({"t": math.nan}, "differs by 0.020 in each of 40 subjects, and without spread nothing"),
        (
            {"ci_low": math.nan, "ci_high": math.nan},
            "0.020 (unet minus dr; 40 subjects; Holm-adjusted p",
        ),
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
        "unet is better than dr: HD95 (mm) has no mean because some scores are infinite, so ranks "
        "decide; rank-biserial correlation -0.400 (unet minus dr; 40 subjects; Holm-adjusted "
        "Wilcoxon p = 0.010)."
    )
    undecided = with_verdict(replace(pair, wilcoxon_p_holm=0.2), rule)
    assert undecided.verdict == "undecided"
    assert math.isnan(undecided.num_subjects_to_decide)
    assert undecided.sentence.endswith("would decide it cannot be told from ranks.")
    same = with_verdict(replace(pair, wilcoxon_p_holm=math.nan, rank_biserial=math.nan), rule)
    assert "HD95 (mm) is the same in each of 40 subjects" in same.sentence


def judged(*verdicts: tuple[str, str, str, float]) -> list[Pair]:
    """Pairs of (arm a, arm b, verdict, mean difference)."""
    return [
        replace(PAIR, arm_a=a, arm_b=b, verdict=verdict, mean_difference=difference)
        for a, b, verdict, difference in verdicts
    ]


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (
            [
                ("u", "r", "a_better", 0.4),
                ("u", "d", "equivalent", 0),
                ("r", "d", "b_better", -0.5),
            ],
            "d and u are better than r; u and d are equivalent within the margin of 0.05.",
        ),
        (
            [("u", "r", "a_better", 0.3), ("u", "d", "a_better", 0.4), ("r", "d", "a_better", 0.1)],
            "u is better than d and r; r is better than d.",
        ),
        (
            [("u", "r", "equivalent", 0), ("u", "d", "equivalent", 0), ("r", "d", "equivalent", 0)],
            "u, r and d are equivalent within the margin of 0.05.",
        ),
        (
            [("u", "r", "undecided", 0), ("u", "d", "undecided", 0), ("r", "d", "undecided", 0)],
            "the comparison of u, r and d is undecided: no difference and no equivalence was "
            "shown.",
        ),
        (
            [("u", "r", "different_within_margin", -0.01), ("u", "d", "undecided", 0.02)],
            "r is better than u, but by less than the margin of 0.05; the comparison of u and d is "
            "undecided.",
        ),
        (
            [("u", "r", "equivalent", 0), ("u", "d", "equivalent", 0), ("r", "d", "undecided", 0)],
            "u and r are equivalent within the margin of 0.05; u and d are equivalent within the "
            "margin of 0.05; the comparison of r and d is undecided.",
        ),
    ],
)
def test_headline_tells_all_about_few_pairs(
    pairs: list[tuple[str, str, str, float]], words: str
) -> None:
    assert headline(judged(*pairs), RULE) == f"By mean Dice per subject, {words}"


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (
            [("u", "r", "undecided", 0)] * 9,
            "9 are undecided.",
        ),
        (
            [("u", "r", "undecided", 0)] * 7
            + [("u2", "r2", "b_better", -0.1), ("u", "u2", "different_within_margin", 0.01)],
            "1 differs, 1 differs by less than the margin and 7 are undecided. r2 is better than "
            "u2; u is better than u2, but by less than the margin of 0.05.",
        ),
        (
            [("u", "r", "equivalent", 0)] + [("u", "d", "undecided", 0)] * 8,
            "1 is equivalent within the margin of 0.05 and 8 are undecided. u and r are equivalent "
            "within the margin of 0.05.",
        ),
        (
            [(f"a{k}", f"b{k}", "a_better", k / 10) for k in range(9)],
            "9 differ. Among them: a8 is better than b8; a7 is better than b7; a6 is better than "
            "b6.",
        ),
    ],
)
def test_headline_counts_many_pairs_and_names_the_largest_differences(
    pairs: list[tuple[str, str, str, float]], words: str
) -> None:
    expected = f"Of 9 pairs compared by mean Dice per subject, {words}"
    assert headline(judged(*pairs), RULE) == expected
    assert len(expected) < 250


def test_headline_without_margin_and_by_ranks() -> None:
    pairs = judged(("u", "r", "undecided", 0))
    without = replace(RULE, margin=None)
    assert headline(pairs, without) == (
        "By mean Dice per subject, the comparison of u and r is undecided: no difference was shown."
    )
    by_ranks = replace(RULE, metric="hd95_mm", higher_is_better=False, by_ranks=True)
    better = [replace(pairs[0], verdict="a_better", rank_biserial=-0.5)]
    assert headline(better, by_ranks) == "By HD95 (mm) per subject, u is better than r."
