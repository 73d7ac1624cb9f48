"""Comparisons by hand, against the plain functions, and under changes that must not matter."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from scipy import stats
from statsmodels.stats.anova import AnovaRM

from hemaseg.comparison.detection import detection
from hemaseg.comparison.paired import (
    Comparison,
    compare,
    paper_analysis,
    write_comparison,
)
from hemaseg.comparison.score_tables import read_score_tables
from hemaseg.comparison.sites import describe_sites
from hemaseg.comparison.volumes import subject_volumes, volume_agreement
from hemaseg.errors import ComparisonError
from hemaseg.statistics.closed_forms import holm, paired_t, signed_rank, t_interval, tost
from hemaseg.statistics.resampling import cluster_bootstrap_interval, sign_flip

ARMS = {"unet": 0.0, "dr_unet": 0.0, "dense_unet": -0.05}
SUMMARY = [
    *("metric", "arm", "num_subjects", "num_undefined", "mean", "sd", "median", "q1", "q3"),
    *("ci_low", "ci_high", "run_sd"),
]
PAIRS = [
    *("metric", "arm_a", "arm_b", "num_subjects", "num_undefined", "mean_difference"),
    *("ci_low", "ci_high", "t_ci_low", "t_ci_high", "sd_difference", "t", "t_p", "p", "p_holm"),
    *("wilcoxon_p", "wilcoxon_p_holm", "cohen_dz", "hedges_gz", "rank_biserial", "margin"),
    *("tost_p", "tost_p_holm", "verdict", "sentence", "num_subjects_to_decide"),
]
DIFFERENCES = ["metric", "arm_a", "arm_b", "subject", "score_a", "score_b", "difference"]


def study(num_subjects: int = 30, num_folds: int = 3, num_seeds: int = 2) -> pd.DataFrame:
    """Scores of three arms; each subject is in one fold, tested with every seed."""
    generator = np.random.default_rng(1)
    rows = []
    for number in range(num_subjects):
        quality = generator.beta(16, 4)
        for seed in range(num_seeds):
            for arm, gain in ARMS.items():
                dice = float(np.clip(quality + gain + generator.normal(0, 0.02), 0, 1))
                rows.append((arm, f"s{number:02d}", number % num_folds, seed, dice))
    return pd.DataFrame(rows, columns=["arm", "subject", "fold", "seed", "dice"])


def two_arms(a: list[float], b: list[float], metric: str = "dice") -> pd.DataFrame:
    """One run, subjects s0, s1, ..."""
    subjects = [f"s{number}" for number in range(len(a))]
    tables = [
        pd.DataFrame({"arm": arm, "subject": subjects, "fold": 0, "seed": 0, metric: scores})
        for arm, scores in (("a", a), ("b", b))
    ]
    return pd.concat(tables, ignore_index=True)


def subject_means(scores: pd.DataFrame) -> pd.DataFrame:
    return scores.pivot_table(index="subject", columns="arm", values="dice")


def test_tables_have_the_documented_columns() -> None:
    result = compare(study(), margin=0.02, num_bootstrap=999)
    assert list(result.summary) == SUMMARY
    assert list(result.pairs) == PAIRS
    assert list(result.differences) == DIFFERENCES
    assert result.summary["arm"].tolist() == list(ARMS)
    assert list(zip(result.pairs["arm_a"], result.pairs["arm_b"], strict=True)) == [
        ("unet", "dr_unet"),
        ("unet", "dense_unet"),
        ("dr_unet", "dense_unet"),
    ]
    assert len(result.differences) == 3 * 30
    assert (result.num_subjects, result.num_runs) == (30, 6)


def test_every_number_of_a_pair_comes_from_the_subject_means() -> None:
    scores = study()
    means = subject_means(scores)
    result = compare(scores, margin=0.02, seed=3)
    differences = {
        (a, b): (means[a] - means[b]).to_numpy()
        for a, b in [("unet", "dr_unet"), ("unet", "dense_unet"), ("dr_unet", "dense_unet")]
    }
    for row, difference in zip(result.pairs.to_dict("records"), differences.values(), strict=True):
        t, flips = paired_t(difference), sign_flip(difference, seed=3)
        limits, ranks = t_interval(difference), signed_rank(difference)
        expected = {
            "mean_difference": t.mean,
            "sd_difference": t.sd,
            "t": t.t,
            "t_p": t.p,
            "p": flips.p,
            "ci_low": flips.interval.low,
            "ci_high": flips.interval.high,
            "t_ci_low": limits.low,
            "t_ci_high": limits.high,
            "wilcoxon_p": ranks.p,
            "rank_biserial": ranks.rank_biserial,
            "tost_p": tost(difference, margin=0.02).p,
            "num_subjects": 30,
            "num_undefined": 0,
        }
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-6), name
    for name in ("p", "wilcoxon_p", "tost_p"):
        assert result.pairs[f"{name}_holm"].tolist() == holm(result.pairs[name]).tolist()
    assert result.friedman.p == pytest.approx(stats.friedmanchisquare(*means.to_numpy().T).pvalue)


def test_intervals_have_the_confidence_of_the_tests() -> None:
    scores = study()
    found = compare(scores, margin=0.02, alpha=0.1, num_bootstrap=99)
    own = found.differences.query("arm_a == 'unet' and arm_b == 'dr_unet'")["difference"]
    pair, limits = found.pairs.iloc[0], t_interval(own, confidence=0.9)
    flips = sign_flip(own, confidence=0.9, num_bootstrap=99).interval
    assert (pair["ci_low"], pair["ci_high"]) == (flips.low, flips.high)
    assert (pair["t_ci_low"], pair["t_ci_high"]) == (limits.low, limits.high)
    means = subject_means(scores)["unet"]
    whole = cluster_bootstrap_interval(means, list(means.index), confidence=0.9, num_bootstrap=99)
    row = found.summary.iloc[0]
    assert [row["ci_low"], row["ci_high"]] == pytest.approx([whole.low, whole.high])


def test_paired_t_is_the_repeated_measures_analysis_of_variance() -> None:
    """What docs/statistics.md says instead of a mixed model: for balanced data they are one."""
    scores = study(num_folds=1, num_seeds=3).query("arm != 'dense_unet'")
    pair = compare(scores, margin=None, num_bootstrap=99).pairs.iloc[0]
    table = AnovaRM(scores, "dice", "subject", ["arm"], aggregate_func="mean").fit().anova_table
    assert pair["t"] ** 2 == pytest.approx(table["F Value"].iloc[0], rel=1e-8)
    assert pair["t_p"] == pytest.approx(table["Pr > F"].iloc[0], rel=1e-8)


def test_clear_results_get_the_clear_verdicts() -> None:
    result = compare(study(), margin=0.02)
    assert result.pairs["verdict"].tolist() == ["equivalent", "a_better", "a_better"]
    assert result.verdict == (
        "By mean Dice per subject, unet and dr_unet are better than dense_unet; unet and dr_unet "
        "are equivalent within the margin of 0.02."
    )
    assert result.pairs["num_subjects_to_decide"].isna().all()


def test_order_of_rows_and_type_of_keys_do_not_matter() -> None:
    scores = study()
    result = compare(scores, margin=0.02, num_bootstrap=999)
    shuffled = scores.sample(frac=1, random_state=1)
    shuffled["arm"] = pd.Categorical(shuffled["arm"], list(ARMS))
    shuffled = shuffled.sort_values("arm").assign(fold=lambda table: table["fold"].astype(str))
    again = compare(shuffled, margin=0.02, num_bootstrap=999)
    assert_frame_equal(result.pairs, again.pairs)
    assert_frame_equal(result.summary, again.summary)
    assert_frame_equal(result.differences, again.differences)


def test_swapping_the_arms_swaps_the_verdict() -> None:
    scores = two_arms([0.9, 0.8, 0.85, 0.7, 0.95, 0.9, 0.8, 0.6], [0.5] * 8)
    forward = compare(scores, margin=0.1).pairs.iloc[0]
    backward = compare(scores, margin=0.1, pairs=[("b", "a")]).pairs.iloc[0]
    assert (forward["verdict"], backward["verdict"]) == ("a_better", "b_better")
    assert forward["mean_difference"] == -backward["mean_difference"]
    assert forward["ci_low"] == pytest.approx(-backward["ci_high"])
    assert compare(scores, margin=0.1, higher_is_better=False).pairs["verdict"][0] == "b_better"


def test_only_the_chosen_pairs_are_tested_and_corrected_for() -> None:
    chosen = [("dense_unet", "unet")]
    result = compare(study(), margin=0.02, pairs=chosen, num_bootstrap=999)
    assert result.pairs[["arm_a", "arm_b"]].to_numpy().tolist() == [["dense_unet", "unet"]]
    assert (result.pairs["p_holm"] == result.pairs["p"]).all()
    assert result.summary["arm"].tolist() == list(ARMS)


def test_undefined_scores_are_left_out_pairwise_and_counted() -> None:
    scores = study().rename(columns={"dice": "precision"})
    # Undefined in one of two runs is undefined: no mean over the run that happens to be defined.
    hole = (scores["arm"] == "unet") & (scores["subject"] == "s03") & (scores["seed"] == 1)
    holed = scores.assign(precision=scores["precision"].mask(hole))
    result = compare(holed, metric="precision", margin=0.02)
    assert result.pairs["num_subjects"].tolist() == [29, 29, 30]
    assert result.pairs["num_undefined"].tolist() == [1, 1, 0]
    assert result.summary["num_undefined"].tolist() == [1, 0, 0]
    assert result.friedman.num_subjects == 29
    pair = result.differences.query("arm_a == 'unet' and arm_b == 'dr_unet'")
    assert "s03" not in set(pair["subject"])
    complete = compare(scores[scores["subject"] != "s03"], metric="precision", margin=0.02)
    assert result.pairs["p"][0] == complete.pairs["p"][0]
    assert any(
        note == "Precision is undefined for 1 of 30 subjects in unet, and left out: 1 for reasons "
        "that the tables do not tell."
        for note in result.notes
    )
    # The other arm's mean difference of its runs is over the same 29 subjects.
    assert [note for note in result.notes if note.startswith("unet minus dr_unet")] == [
        note for note in complete.notes if note.startswith("unet minus dr_unet")
    ]


def test_subjects_without_lesion_change_nothing_but_their_count() -> None:
    """Neither a correct empty mask (undefined) nor a false alarm (0) tells of lesions."""
    scores = study().assign(reference_pixels=50)
    healthy = scores[scores["subject"] == "s00"].assign(subject="healthy", reference_pixels=0)
    healthy["dice"] = [0.0, math.nan, 0.0] * 2
    result = compare(pd.concat([scores, healthy]), margin=0.02, num_bootstrap=999)
    without = compare(scores, margin=0.02, num_bootstrap=999)
    counted = {"num_undefined": 0}
    assert result.pairs["num_undefined"].tolist() == [1, 1, 1]
    assert_frame_equal(
        result.pairs.drop(columns="sentence").assign(**counted),
        without.pairs.drop(columns="sentence"),
    )
    assert_frame_equal(result.summary.assign(**counted), without.summary)
    assert_frame_equal(result.differences, without.differences)
    assert any(
        note == "Dice is undefined for 1 of 31 subjects in every arm, and left out: 1 without a "
        "lesion."
        for note in result.notes
    )


def precision_scores() -> pd.DataFrame:
    """Subject s0 has no lesion; a predicted nothing in s1 and s2, b nothing in s1."""
    nan = math.nan
    a, b = [nan, nan, nan, *[0.9, 0.8, 0.95] * 6], [0.0, nan, 0.5, *[0.7, 0.7, 0.8] * 6]
    scores = two_arms(a, b, "precision")
    return scores.assign(reference_pixels=[0, *[50] * 20] * 2)


def test_a_verdict_that_leaves_out_misses_says_so() -> None:
    """Precision knows nothing of lesions in which nothing was predicted."""
    result = compare(precision_scores(), metric="precision", margin=0.02, num_bootstrap=999)
    warning = (
        " Misses do not count here: Precision is undefined, and left out, for subjects with a "
        "lesion that was missed (a: 2, b: 1)."
    )
    few = " Subjects: 18; how often such verdicts err was checked from 20 on."
    assert result.verdict == "By mean Precision per subject, a is better than b." + few + warning
    assert result.pairs["sentence"][0].endswith(warning)
    undefined = [note for note in result.notes if "is undefined for" in note]
    assert undefined == [
        f"Precision is undefined for {num + 1} of 21 subjects in {arm}, and left out: 1 without a "
        f"lesion and {num} with a lesion that was missed."
        for num, arm in ((1, "b"), (2, "a"))
    ]


def test_reasons_are_told_as_far_as_columns_tell() -> None:
    """HD95 is empty in three subjects: one missed by its Dice or empty mask, one unknown."""
    scores = two_arms([math.nan, math.nan, *range(1, 7)], list(range(8)), "hd95_mm")
    for known in ({"dice": [0.0, *[0.5] * 7] * 2}, {"prediction_pixels": [0, *[5] * 7] * 2}):
        told = compare(
            scores.assign(reference_pixels=9, **known),
            metric="hd95_mm",
            margin=None,
            num_bootstrap=99,
            higher_is_better=False,
        )
        assert "lesion that was missed (a: 1)." in told.verdict
        assert any(
            "1 with a lesion that was missed and 1 for reasons that" in note for note in told.notes
        )
    blind = compare(scores, metric="hd95_mm", margin=None, num_bootstrap=99, higher_is_better=False)
    assert "missed" not in blind.verdict
    assert any("left out: 2 for reasons that the tables" in note for note in blind.notes)


def test_all_metrics_are_described_beside_the_one_that_is_compared() -> None:
    scores = study().assign(hd95_mm=lambda table: 10 * table["dice"], site="A")
    described = compare(scores, margin=0.02, num_bootstrap=99).all_metrics
    assert described["metric"].tolist() == ["dice"] * 3 + ["hd95_mm"] * 3
    assert described["mean"].tolist()[3:] == pytest.approx(
        [10 * value for value in described["mean"].tolist()[:3]]
    )


def test_infinite_scores_leave_ranks_and_medians() -> None:
    inf = math.inf
    a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, inf, inf, 3.0]
    b = [2.0, 4.0, 6.0, 8.0, 9.0, 8.0, 9.5, inf, 4.0, inf]
    result = compare(two_arms(a, b, "hd95_mm"), metric="hd95_mm", margin=1, higher_is_better=False)
    pair = result.pairs.iloc[0]
    undefined = ["mean_difference", "ci_low", "t", "t_p", "p", "p_holm", "tost_p", "cohen_dz"]
    assert pair[undefined].isna().all()
    # Differences -1 -2 -3 -4 -4 -2 -2.5, a tie for both missed, one infinite to either side.
    ranks = signed_rank([-1, -2, -3, -4, -4, -2, -2.5, 0, 99, -99])
    assert (pair["wilcoxon_p"], pair["rank_biserial"]) == (ranks.p, ranks.rank_biserial)
    assert result.differences["difference"].tolist()[7:] == [0, inf, -inf]
    summary = result.summary.iloc[0]
    assert summary[["mean", "sd", "ci_low", "run_sd"]].isna().all()
    assert (summary["q1"], summary["median"], summary["q3"]) == (3.0, 4.5, 6.75)
    assert any("a: HD95 (mm) is infinite for 2 of 10 subjects" in note for note in result.notes)
    assert "HD95 (mm) has no mean because some scores are infinite" in pair["sentence"]


def test_identical_arms_cannot_be_tested_and_are_not_called_equivalent() -> None:
    result = compare(two_arms([0.5, 0.6, 0.7], [0.5, 0.6, 0.7]), margin=0.1)
    pair = result.pairs.iloc[0]
    assert pair["verdict"] == "undecided"
    assert pair[["p", "t", "wilcoxon_p", "tost_p", "ci_low", "rank_biserial"]].isna().all()
    assert pair["mean_difference"] == 0
    assert "differs by 0.000 in each of 3 subjects" in pair["sentence"]


def test_rounding_noise_is_no_difference() -> None:
    """Differences of 1e-17, all of one sign, are those of identical files."""
    a = np.random.default_rng(2).beta(8, 2, 20)
    b = np.nextafter(a, 2)
    result = compare(two_arms(list(a), list(b)), margin=0.1)
    assert (result.differences["difference"] == 0).all()
    assert result.pairs["verdict"].tolist() == ["undecided"]
    assert result.pairs[["p", "tost_p", "wilcoxon_p"]].isna().all(axis=None)
    c = two_arms(list(a), list(b)).query("arm == 'a'").assign(arm="c")
    three = compare(pd.concat([two_arms(list(a), list(b)), c]), margin=0.1, num_bootstrap=99)
    assert math.isnan(three.friedman.p)


def test_a_pair_that_cannot_be_tested_does_not_ease_the_others() -> None:
    """Three pairs were planned: the one that has a p is corrected for three."""
    scores = study(20, 1, 1)
    precision = scores["dice"].mask(scores["arm"] == "dense_unet")
    scores = scores.drop(columns="dice").assign(precision=precision)
    result = compare(scores, metric="precision", margin=0.02)
    pair = result.pairs.iloc[0]
    assert result.pairs["p"].isna().tolist() == [False, True, True]
    for name in ("p", "wilcoxon_p", "tost_p"):
        assert pair[f"{name}_holm"] == pytest.approx(min(3 * pair[name], 1))


@pytest.mark.parametrize(
    ("a", "b", "num"), [([0.5], [0.6], 1), ([math.nan, 0.5], [0.4, math.nan], 0)]
)
def test_without_two_subjects_nothing_is_claimed(a: list[float], b: list[float], num: int) -> None:
    result = compare(two_arms(a, b, "precision"), metric="precision", margin=0.1)
    assert result.pairs["num_subjects"][0] == num
    assert result.pairs["verdict"][0] == "undecided"
    assert f"subjects with a defined Precision in both arms: {num}" in result.pairs["sentence"][0]
    assert result.summary["ci_low"].isna().all()


def test_notes_tell_what_limits_the_verdict() -> None:
    notes = compare(study(), margin=None, num_bootstrap=99).notes
    assert notes[0].startswith("Runs per arm: 6 (folds: 3, seeds: 2).")
    assert notes[1].startswith("The subjects of a fold share their networks")
    assert "No margin was stated, so that nothing can be called equivalent." in notes
    assert not any("error rates" in note for note in notes)
    few = compare(study(12, 1, 1), margin=0.1, num_bootstrap=99).notes
    assert few[0].startswith("Runs per arm: 1 (folds: 1, seeds: 1).")
    assert few[1].startswith("With one run per arm, what another training would give is unknown")
    assert any("in every arm: 12; the error rates of the tests and" in note for note in few)
    uneven = study().query("seed == 0 or fold == 0")
    assert any("tested in 1 to 2 runs" in note for note in compare(uneven, margin=0.1).notes)


def test_note_on_the_runs_holds_their_mean_differences() -> None:
    scores = study()
    runs = scores.pivot_table(index=["fold", "seed"], columns="arm", values="dice")
    gain = runs["unet"] - runs["dr_unet"]
    assert (
        f"unet minus dr_unet: mean difference of a run {gain.min():.3f} to {gain.max():.3f}, "
        f"above 0 in {(gain > 0).sum()} of 6."
    ) in compare(scores, margin=0.1, num_bootstrap=99).notes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": 0.0}, r"margin above 0 or None, .* got 0\.0, 0\.05, 9999 and \[\]"),
        ({"margin": math.nan}, r"got nan, 0\.05"),
        ({"margin": 0.1, "alpha": 5}, r"got 0\.1, 5, 9999"),
        ({"margin": 0.1, "num_bootstrap": 9}, r"got 0\.1, 0\.05, 9 and"),
        ({"margin": 0.1, "pairs": [("unet", "x")]}, r"and \[\('unet', 'x'\)\]"),
        ({"margin": 0.1, "pairs": [("unet", "unet")]}, r"and \[\('unet', 'unet'\)\]"),
        (
            {"margin": 0.1, "pairs": [("unet", "dr_unet"), ("dr_unet", "unet")]},
            r"different pairs out of .* and \[\('unet', 'dr_unet'\), \('dr_unet', 'unet'\)\]",
        ),
    ],
)
def test_impossible_plans_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(study(), **arguments)  # type: ignore[arg-type]


def batches() -> pd.DataFrame:
    """Two arms, two runs, the batches of which have Dice 1, 2, 3 and 2, 3, 4 tenths."""
    table = pd.DataFrame({"arm": ["b"] * 3 + ["a"] * 3, "fold": 0, "batch": [0, 1, 2] * 2})
    table["seed"] = [0, 0, 1, 0, 0, 1]
    return table.assign(dice=[0.1, 0.2, 0.3, 0.2, 0.3, 0.4], pooled_dice=0.5, num_slices=8)


def test_paper_analysis_by_hand() -> None:
    paper = paper_analysis(batches())
    assert paper.table1["arm"].tolist() == ["b", "a"]
    assert paper.table1["num_batches"].tolist() == [3, 3]
    assert paper.table1["mean"].tolist() == pytest.approx([0.2, 0.3])
    assert paper.table1["sd"].tolist() == pytest.approx([0.1, 0.1])
    assert paper.anova.f == pytest.approx(1.5)
    assert (paper.anova.df_between, paper.anova.df_within) == (1, 4)
    assert paper.notes[-1] == "Runs (folds and seeds) per arm whose batches are pooled: 2."


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (batches().drop(columns="dice"), r"columns \['dice'\] are missing, found \['arm', 'fold'"),
        (batches().assign(dice=[0.1, math.nan, 0.3, 0.2, 0.3, 0.4]), "undefined in 1 of 6 rows"),
        (batches().assign(dice="x"), "undefined in 6 of 6 rows"),
    ],
)
def test_bad_batches_are_refused(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(ComparisonError, match=message):
        paper_analysis(table)


@pytest.mark.parametrize(("num", "df"), [(0, (0, 0)), (3, (0, 2)), (4, (1, 2))])
def test_too_few_batches_leave_the_analysis_undefined(num: int, df: tuple[int, int]) -> None:
    paper = paper_analysis(batches()[:num])
    assert math.isnan(paper.anova.f)
    assert math.isnan(paper.anova.p)
    assert (paper.anova.df_between, paper.anova.df_within) == df
    assert paper.table1["sd"].isna().tolist() == [False, True][: len(paper.table1)]


def written(comparison: Comparison, folder: Path) -> dict[str, object]:
    text = (folder / "comparison.json").read_text(encoding="utf-8")
    record: dict[str, object] = json.loads(text)
    assert record["verdict"] == comparison.verdict
    return record


def test_files_hold_the_tables_and_the_record(tmp_path: Path) -> None:
    comparison = compare(study(), margin=0.02, num_bootstrap=999)
    paper = paper_analysis(batches())
    write_comparison(comparison, tmp_path / "study", paper=paper)
    folder = tmp_path / "study"
    for name, table in (
        ("summary", comparison.summary),
        ("pairs", comparison.pairs),
        ("differences", comparison.differences),
        ("all_metrics", comparison.all_metrics),
        ("volumes", comparison.volumes),
        ("volume_agreement", comparison.volume_agreement),
        ("detection", comparison.detection),
        ("table1", paper.table1),
    ):
        assert_frame_equal(pd.read_csv(folder / f"{name}.csv"), table, check_dtype=False)
    record = written(comparison, folder)
    assert set(record) == {
        *("metric", "higher_is_better", "margin", "alpha", "seed", "num_bootstrap", "num_subjects"),
        *("num_runs", "verdict", "friedman", "notes", "anova", "paper_notes"),
    }
    assert record["anova"] == {"f": paper.anova.f, "p": paper.anova.p} | {
        "df_between": 1,
        "df_within": 4,
    }
    assert record["notes"] == list(comparison.notes)


def test_volumes_detection_and_sites_are_described_at_the_same_confidence() -> None:
    scores = study().assign(reference_pixels=9.0, prediction_pixels=9.0, reference_ml=4.0)
    scores["prediction_ml"] = 8 * scores["dice"]
    scores["site"] = np.where(scores["subject"] < "s12", "A", "B")
    found = compare(scores, margin=0.02, alpha=0.1, num_bootstrap=99)
    assert_frame_equal(found.volumes, subject_volumes(scores))
    assert_frame_equal(
        found.volume_agreement, volume_agreement(subject_volumes(scores), confidence=0.9)
    )
    assert_frame_equal(found.detection, detection(scores, confidence=0.9))
    assert_frame_equal(found.sites, describe_sites(scores, "dice"))
    assert not found.sites.empty


def test_undefined_is_an_empty_field_and_null(tmp_path: Path) -> None:
    comparison = compare(two_arms([0.5, 0.6], [0.5, 0.6]), margin=None)
    write_comparison(comparison, tmp_path, paper=paper_analysis(batches()))
    write_comparison(comparison, tmp_path)
    assert not (tmp_path / "table1.csv").exists()
    record = written(comparison, tmp_path)
    assert record["margin"] is None
    assert record["anova"] is None
    assert record["paper_notes"] == []
    assert record["friedman"] == {"num_subjects": 2, "statistic": None, "p": None}
    header, row = (tmp_path / "pairs.csv").read_text(encoding="utf-8").splitlines()
    fields = dict(zip(header.split(","), row.split(","), strict=False))
    assert fields["p"] == fields["margin"] == fields["tost_p_holm"] == ""


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    comparison = compare(two_arms([0.5, 0.6], [0.5, 0.7]), margin=None)
    with pytest.raises(ComparisonError, match=r"file/study: cannot be written"):
        write_comparison(comparison, tmp_path / "file" / "study")


def test_tables_of_other_tools_are_compared_without_training(tmp_path: Path) -> None:
    for name, shift in (("one", 0.0), ("two", -0.1)):
        rows = [f"p{number},{0.9 + shift - number / 100:.3f}" for number in range(8)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["subject,dice", *rows]), encoding="utf-8")
    scores = read_score_tables({name: tmp_path / f"{name}.csv" for name in ("one", "two")})
    scores.loc[0, "dice"] = 0.88  # some spread
    result = compare(scores, margin=None)
    assert result.pairs["verdict"][0] == "a_better"
    assert result.pairs["p"][0] == 2 / 2**8
