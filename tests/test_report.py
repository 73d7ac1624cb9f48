import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from hemaseg.cohorts.split import Fold, Split, read_split, write_split
from hemaseg.comparison.paired import compare, paper_analysis, write_comparison
from hemaseg.errors import ComparisonError, HemasegError
from hemaseg.reporting.examples import read_examples
from hemaseg.reporting.report import FIGURE_NAMES, write_report
from hemaseg.reporting.study_folder import read_study_folder
from hemaseg.studies.provenance import write_provenance
from small_study import change_json, change_table, make_study, rows_of


class Page(HTMLParser):
    """What a test asks of a page: its tags, its text, and the numbers of each section."""

    VOID = ("meta", "br", "link", "img", "input", "hr", "!doctype")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.numbers: dict[str, list[str]] = {}
        self.text = ""
        self.unclosed: list[str] = []
        self._section = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        if tag == "section":
            self._section = attributes["aria-labelledby"]
        if tag == "data":
            self.numbers.setdefault(self._section, []).append(attributes["value"])
        if tag not in self.VOID:
            self.unclosed.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def attribute(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete study with its report; tests do not change it."""
    folder = make_study(tmp_path_factory.mktemp("report") / "small")
    write_report(folder)
    return folder


@pytest.fixture
def copy(study: Path, tmp_path: Path) -> Path:
    """A copy of the study, its report included, to be changed."""
    shutil.copytree(study, tmp_path / "small")
    return tmp_path / "small"


def read_page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def words_of(folder: Path) -> str:
    """Of the report, made anew."""
    write_report(folder)
    return read_page(folder).words


def as_numbers(texts: list[str]) -> list[float]:
    return [float(text) for text in texts if text]


@pytest.mark.parametrize("num_beside", [0, 1, 3])
def test_times_of_runs_that_others_ran_beside_are_not_to_be_compared(
    copy: Path, num_beside: int
) -> None:
    num_runs = len(rows_of(copy / "costs.csv"))
    ran_alone = ["False"] * num_beside + ["True"] * (num_runs - num_beside)
    change_table(copy / "costs.csv", lambda table: table.assign(ran_alone=ran_alone))
    write_report(copy)
    text = " ".join(re.sub("<[^>]*>", "", (copy / "report.html").read_text()).split())
    counts = re.findall(r"may have run beside (\d) of its (\d+) runs: times of runs cannot", text)
    # Beside the milliseconds of the key table, both figures of training times, the cost figure and
    # its table.
    assert counts == [(str(num_beside), "12")] * (5 if num_beside else 0)


def test_report_lies_in_the_study_with_its_figures(study: Path) -> None:
    assert (study / "report.html").is_file()
    found = sorted(path.name for path in (study / "figures").iterdir())
    assert found == sorted(f"{name}.{kind}" for name in FIGURE_NAMES for kind in ("svg", "png"))


def test_key_table_holds_the_exact_numbers_of_the_tables(study: Path) -> None:
    expected: list[float] = []
    scores = rows_of(study / "scores.csv")
    costs = rows_of(study / "costs.csv")
    for row in rows_of(study / "summary.csv"):
        if row["metric"] != "dice":
            continue
        columns = (
            "num_subjects",
            "mean",
            "sd",
            "ci_low",
            "ci_high",
            "median",
            "q1",
            "q3",
            "run_sd",
        )
        expected += [float(row[column]) for column in columns]
        own = [score for score in scores if score["arm"] == row["arm"]]
        with_lesion = [score for score in own if float(score["reference_pixels"]) > 0]
        expected += [sum(float(score["dice"]) == 0 for score in with_lesion), len(with_lesion)]
        expected += [sum(int(score["num_false_alarm_slices"]) for score in own)]
        expected += [sum(int(score["num_slices_without_lesion"]) for score in own)]
        runs = [cost for cost in costs if cost["arm"] == row["arm"]]
        expected += [float(runs[0]["num_parameters"])]
        expected += [sum(1000 / float(run["inference_slices_per_s"]) for run in runs) / len(runs)]
    shown = as_numbers(read_page(study).numbers["scores"])
    assert shown[0] == 6  # subjects, in the caption
    assert shown[1:] == pytest.approx(expected, rel=1e-12)


def test_pairs_and_table_one_hold_the_exact_numbers_of_the_tables(study: Path) -> None:
    numbers = read_page(study).numbers
    pairs = [row for row in rows_of(study / "pairs.csv") if row["metric"] == "dice"]
    columns = ("mean_difference", "ci_low", "ci_high", "hedges_gz", "p_holm", "wilcoxon_p_holm")
    expected = [float(row[column]) for row in pairs for column in (*columns, "tost_p_holm")]
    assert set(expected) <= set(as_numbers(numbers["differences"]))
    assert 321.0 in as_numbers(numbers["differences"])
    table1 = rows_of(study / "table1.csv")
    expected = [float(row[column]) for row in table1 for column in ("num_batches", "mean", "sd")]
    assert as_numbers(numbers["published"]) == [*expected, 2.0, 189.0, 0.0561, 0.9455]


def test_all_metrics_are_shown_with_their_own_digits(study: Path) -> None:
    page = read_page(study)
    rows = rows_of(study / "all_metrics.csv")
    columns = ("mean", "sd", "median", "q1", "q3", "num_subjects", "num_undefined", "num_infinite")
    expected = [float(row[column]) for row in rows for column in columns]
    assert as_numbers(page.numbers["metrics"]) == expected
    hd95 = next(float(row["mean"]) for row in rows if row["metric"] == "hd95_mm")
    assert f"HD95 (mm) DR-U-Net {hd95:.2f} \N{PLUS-MINUS SIGN}" in page.words
    assert "the verdict uses only Dice" in page.words


def test_volumes_detection_and_sites_hold_the_exact_numbers_of_their_tables(study: Path) -> None:
    page = read_page(study)
    expected: list[float] = []
    for row in rows_of(study / "volume_agreement.csv"):
        expected += [float(row["num_subjects"])]
        expected += [float(row[f"bias{part}_ml"]) for part in ("", "_ci_low", "_ci_high")]
        expected += [float(row["sd_ml"])]
        for limit in ("lower_limit", "upper_limit"):
            expected += [float(row[f"{limit}{part}_ml"]) for part in ("", "_ci_low", "_ci_high")]
        expected += [float(row[f"concordance{part}"]) for part in ("", "_ci_low", "_ci_high")]
        expected += [float(row["slope"]), float(row["slope_p"])]
    assert as_numbers(page.numbers["volumes"]) == pytest.approx(expected, rel=1e-12)
    columns = [
        *("num_missed", "num_with_lesion", "missed_ci_low", "missed_ci_high"),
        *("num_detected_lesions", "num_reference_lesions", "false_lesions_per_subject"),
    ]
    detected = rows_of(study / "detection.csv")
    assert as_numbers(page.numbers["detection"]) == pytest.approx(
        [float(row[column]) for row in detected for column in columns], rel=1e-12
    )
    sites = rows_of(study / "sites.csv")
    assert as_numbers(page.numbers["sites"]) == pytest.approx(
        [float(row[column]) for row in sites for column in ("mean", "sd", "num_subjects")],
        rel=1e-12,
    )
    assert "U-Net \N{EN DASH} 0 of 6 (0.00 to 0.39) 6 of 12" in page.words
    assert "nothing is tested, and the means of small sites differ by chance" in page.words
    assert "A subject tested in several runs counts once" in page.words


def test_undefined_agreement_is_a_dash_and_without_volumes_a_sentence(copy: Path) -> None:
    def thin(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[0, list(table.columns[4:])] = ""
        return table

    change_table(copy / "volume_agreement.csv", thin)
    change_table(
        copy / "detection.csv", lambda table: table.assign(num_missed="0.5", num_with_lesion="3")
    )
    write_report(copy)
    words = read_page(copy).words
    assert "DR-U-Net n = 6 \N{EN DASH} \N{EN DASH} \N{EN DASH}" in words
    assert "0.5 of 3 (" in words
    change_table(copy / "volume_agreement.csv", lambda table: table.assign(num_subjects="0"))
    change_table(copy / "sites.csv", lambda table: table[:0])
    write_report(copy)
    words = read_page(copy).words
    assert "No volumes are defined: the scores lack them" in words
    assert "do not name two sites or more" in words
    assert not (copy / "figures" / "volume_agreement.svg").exists()


def test_metrics_that_no_subject_has_are_left_out_with_the_reason(copy: Path) -> None:
    def empty(table: pd.DataFrame) -> pd.DataFrame:
        of_distance = table["metric"] == "hd95_mm"
        table.loc[of_distance, ["mean", "sd", "median", "q1", "q3"]] = ""
        table.loc[of_distance, ["num_subjects", "num_undefined"]] = ["0", "6"]
        return table

    change_table(copy / "all_metrics.csv", empty)
    write_report(copy)
    page = read_page(copy)
    assert "undefined for every subject: HD95 (mm)." in page.words
    assert "need the spacing of the images" not in page.words
    assert "HD95 (mm) DR-U-Net" not in page.words
    change_table(copy / "scores.csv", lambda table: table.assign(reference_ml=""))
    write_report(copy)
    assert "need the spacing of the images, which their files do not" in read_page(copy).words
    (copy / "all_metrics.csv").unlink()
    write_report(copy)
    assert "There is no all_metrics.csv" in read_page(copy).words


def test_infinite_distances_have_no_mean_but_a_median(copy: Path) -> None:
    def miss(table: pd.DataFrame) -> pd.DataFrame:
        place = (table["metric"] == "hd95_mm") & (table["arm"] == "U-Net")
        table.loc[place, ["num_infinite", "mean", "sd", "median", "q3"]] = ["2", "", "", "7", "inf"]
        return table

    change_table(copy / "all_metrics.csv", miss)
    write_report(copy)
    undefined = "U-Net undefined \N{PLUS-MINUS SIGN} undefined 7.00 ("
    assert undefined in read_page(copy).words
    assert "to infinite) 6 0 2" in read_page(copy).words


def test_intervals_and_tests_are_named(study: Path) -> None:
    words = read_page(study).words
    assert "Intervals are bootstrap-t over subjects." in words
    assert "first minus second, with its 95 % sign-flip interval" in words
    assert "Mean difference (95 % sign-flip interval)" in words
    assert "the mean with its 95 % bootstrap-t interval." in words
    assert "Holm's method, intervals are not" in words
    assert "p 0." not in words  # neither equals nor below
    assert "(Friedman): chi-squared 5.25 with 2 degrees of freedom, p = 0.072" in words
    assert "called different if the sign-flip test of their mean difference" in words
    assert "has p below 0.05, equivalent if two one-sided t tests against the margin have" in words
    assert "different within the margin if both hold, and undecided otherwise" in words
    assert "corrected for the number of pairs by Holm's method. The verdict" in words
    assert "in parentheses the epoch with the best validation Dice, whose weights" in words


def test_p_values_are_never_zero(copy: Path) -> None:
    anova = {"f": 23.4564, "p": 4.6e-7, "df_between": 2, "df_within": 33}
    change_json(copy / "comparison.json", anova=anova)
    write_report(copy)
    html = (copy / "report.html").read_text(encoding="utf-8")
    assert 'p <data value="4.6e-07">&lt; 0.0001</data>' in html
    assert "F(2, 33) = 23.4564, p < 0.0001" in Page(html).words


@pytest.mark.parametrize(
    ("seconds", "head", "shown"), [("90.5", "Training (s)", "90.5"), ("3600", "(min)", "60.0")]
)
def test_costs_have_fitting_units_and_whole_epochs(
    copy: Path, seconds: str, head: str, shown: str
) -> None:
    best = [str(6 + number % 3) for number in range(12)]
    change_table(
        copy / "costs.csv",
        lambda table: table.assign(training_s=seconds, epoch_s="30", best_epoch=best),
    )
    write_report(copy)
    words = read_page(copy).words
    assert head in words
    assert f" 9 (6 to 8) 30.0 {shown} " in words


def test_images_without_reference_are_not_taken_for_images_without_lesion(copy: Path) -> None:
    """Studies of earlier versions do not say how many are marked."""
    assert "Size 6 subjects, 18 images (3.0 per subject), 12 of them with a lesion" in words_of(
        copy
    )
    cohort = json.loads((copy / "provenance.json").read_text())["cohort"]
    for num_subjects, num_images, words in (
        (6, 18, "18 images (3.0 per subject), 12 of them with a lesion"),
        (5, 15, "; with a reference mask 5 subjects, 15 images, 12 of these images with a lesion"),
    ):
        marked = {"num_marked_subjects": num_subjects, "num_marked_images": num_images}
        change_json(copy / "provenance.json", cohort=cohort | marked)
        assert words in words_of(copy)


def test_reference_volumes_are_described_where_all_are_known(copy: Path) -> None:
    volumes = ["1", "2", "3", "4", "10", "0"]

    def give(table: pd.DataFrame) -> pd.DataFrame:
        table["reference_ml"] = table["subject"].map(lambda name: volumes[int(name[1:])])
        return table.assign(reference_pixels=1000 * table["reference_ml"].astype(int))

    change_table(copy / "scores.csv", give)
    assert (
        "median 3.00 mL (quartiles 2.00 to 4.00; range 1.00 to 10.00), 5 tested subjects with"
    ) in words_of(copy)
    change_table(copy / "scores.csv", lambda table: table.replace({"reference_ml": {"3": ""}}))
    assert "Reference volume" not in words_of(copy)


def test_scores_are_defined_with_the_tolerance_of_their_table(copy: Path) -> None:
    words = words_of(copy)
    assert "HD95 is the larger 95th percentile" in words
    assert "Sensitivity and precision are" not in words
    for metric, sentence in (
        ("sensitivity", "Sensitivity and precision are of voxels"),
        ("surface_dice", "both surfaces that lies within the tolerance of the other."),
    ):
        table = pd.read_csv(copy / "all_metrics.csv")
        more = table[table["metric"] == "iou"].assign(metric=metric)
        pd.concat([table, more]).to_csv(copy / "all_metrics.csv", index=False)
        assert sentence in words_of(copy)
    change_table(copy / "scores.csv", lambda table: table.assign(surface_tolerance_mm="2.0"))
    assert "both surfaces that lies within 2 mm of the other." in words_of(copy)


def test_thresholds_and_calibration_are_means_over_runs(copy: Path) -> None:
    words = read_page(copy).words
    assert (
        "DR-U-Net 0.50 2.000 \N{EN DASH} \N{EN DASH} Dense-U-Net 0.50 2.000 0.0200 0.0100" in words
    )
    for path in copy.rglob("run.json"):
        path.unlink()
    assert "From probabilities to masks" not in words_of(copy)


def test_speed_is_one_number_in_both_tables(copy: Path) -> None:
    """Runs of 5 and 20 slices/s take 200 and 50 ms, in the mean 125 ms: 8 slices/s, not 12.5."""
    change_table(
        copy / "costs.csv",
        lambda table: table.assign(inference_slices_per_s=["5", "20"] * (len(table) // 2)),
    )
    write_report(copy)
    numbers = read_page(copy).numbers
    assert as_numbers(numbers["scores"]).count(125.0) == 3
    assert as_numbers(numbers["costs"]).count(8.0) == 3


def test_costs_are_of_the_subjects_with_a_score(copy: Path) -> None:
    def leave_out(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(num_subjects="5", num_undefined="1")

    change_table(copy / "summary.csv", leave_out)
    write_report(copy)
    assert "bootstrap-t interval (5 subjects) against" in read_page(copy).words


def test_an_undefined_interval_is_said_once_and_why(copy: Path, study: Path) -> None:
    for name in ("summary.csv", "pairs.csv"):
        change_table(copy / name, lambda table: table.assign(ci_low="", ci_high=""))
    write_report(copy)
    words = read_page(copy).words
    assert "undefined to undefined" not in words
    assert "An interval is undefined where there are no more than three subjects" in words
    assert "An interval is undefined where there are too few subjects" in words
    assert "An interval is undefined" not in read_page(study).words


def test_rounded_numbers_stand_for_the_exact_ones(study: Path) -> None:
    html = (study / "report.html").read_text(encoding="utf-8")
    assert '<data value="0.0001234">&lt; 0.001</data>' in html
    assert '<data value="0.04321">0.043</data>' in html
    assert '<data value="0.9455">0.9455</data>' in html
    assert '<data value="10953249.0">10,953,249</data>' in html


def test_verdict_comes_first_and_provenance_is_complete(study: Path) -> None:
    words = read_page(study).words
    order = [
        "Research use only. Not a medical device.",
        "DR-U-Net is better than Dense-U-Net; the other pairs are undecided.",
        "6 subjects, 18 slices, 12 runs (3 arms, 2 folds, 2 seeds)",
        "Equivalence margin: 0.02, fixed in study.toml before the first run.",
        "The verdict is about these trained networks (4 runs per arm), on subjects like these",
        "DR-U-Net and Dense-U-Net differ by",
        "Dice of each arm",
        "Mean difference of each pair of arms",
        "The same slices under every arm.",
        "Validation loss by epoch.",
        "Cumulative training time by epoch,",
        "Costs of each arm.",
        "Why not to rely on it.",
        "Synthetic heads, no patient.",
        "c0ffee" * 10,
        "learning_rate = 0.001",
        'description = "of DR-U-Net"',
        "hemaseg compare small.toml",
        "Number of threads 2",
    ]
    places = [words.index(sentence) for sentence in order]
    assert places == sorted(places)


def test_page_is_one_offline_file_with_working_links(study: Path) -> None:
    html = (study / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not page.unclosed
    assert {tag for tag, _ in page.tags}.isdisjoint(
        {"script", "link", "iframe", "img", "object", "embed", "base", "form"}
    )
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    identifiers = page.attribute("id")
    assert len(identifiers) == len(set(identifiers))
    assert "src" not in {name for _, attributes in page.tags for name in attributes}
    for target in page.attribute("href") + page.attribute("xlink:href"):
        if target.startswith("#"):
            assert target[1:] in identifiers
        elif not target.startswith("data:image/png;base64,"):
            assert target == "scores_batches.csv" or (study / target).is_file(), target


def test_page_is_accessible(study: Path) -> None:
    page = read_page(study)
    assert ("html", {"lang": "en"}) in page.tags
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    drawings = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(drawings) == len(FIGURE_NAMES)
    assert all(len(attributes["aria-label"]) > 20 for attributes in drawings)
    assert {attributes.get("scope") for tag, attributes in page.tags if tag == "th"} <= {
        "col", "row", "rowgroup",
    }  # fmt: skip
    num_tables = sum(tag == "table" for tag, _ in page.tags)
    assert sum(tag == "caption" for tag, _ in page.tags) == num_tables


def test_every_table_and_figure_names_its_source(study: Path) -> None:
    html = (study / "report.html").read_text(encoding="utf-8")
    for figure in re.findall(r"<figure>.*?</figure>", html, re.DOTALL):
        assert re.search(r'<p class="source">Source: <a href="[a-z0-9_]+\.(csv|json)">', figure)
    for after in re.split(r"</table>", html)[1:]:
        assert re.match(r'\s*</div>\s*<p class="source">Source: <a href="', after)


def test_equal_studies_give_equal_bytes(study: Path, copy: Path) -> None:
    before = {path.name: path.read_bytes() for path in (study / "figures").iterdir()}
    (copy / "report.html").unlink()
    shutil.rmtree(copy / "figures")
    write_report(copy)
    assert (copy / "report.html").read_bytes() == (study / "report.html").read_bytes()
    assert {path.name: path.read_bytes() for path in (copy / "figures").iterdir()} == before


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>&\"'"
    folder = make_study(tmp_path / "evil", arms=(evil, "$B$_{2}"))
    change_json(folder / "comparison.json", verdict=f"<script>1</script>{evil}", notes=[evil])
    change_json(folder / "provenance.json", warnings=[evil], command=evil)
    change_table(folder / "costs.csv", lambda table: table.assign(device=evil, model=evil))
    (folder / "study.toml").write_text("# </code></pre><script>alert(2)</script>\n")
    (folder / "runs" / "study.toml").unlink()  # No plan can have such names.
    write_report(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not page.unclosed
    assert {tag for tag, _ in page.tags}.isdisjoint({"img", "script"})
    assert not [name for _, attributes in page.tags for name in attributes if name[:2] == "on"]
    assert page.text.count(evil) > 10
    assert "</code></pre><script>alert(2)</script>" in page.text


@pytest.mark.parametrize(
    ("names", "sentences", "absent"),
    [
        (
            ["training.csv", "time_to_dice.csv", "costs.csv"],
            ["There is no training.csv", "There is no costs.csv"],
            ["validation_loss", "training_time", "time_to_dice", "cost"],
        ),
        (
            ["scores_slices.csv", "table1.csv"],
            ["No predicted masks", "no table1.csv"],
            ["examples"],
        ),
        (
            ["volumes.csv", "detection.csv", "sites.csv"],
            ["There is no volumes.csv", "There is no detection.csv", "not split by site"],
            ["volume_agreement"],
        ),
        (["split.json", "provenance.json"], ["is no split.json", "is no provenance.json"], []),
        (["study.toml", "runs"], ["There is no study.toml", "No predicted masks"], ["examples"]),
    ],
)
def test_missing_parts_are_left_out_in_words(
    copy: Path, names: list[str], sentences: list[str], absent: list[str]
) -> None:
    for name in names:
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_report(copy)
    page = read_page(copy)
    assert [sentence for sentence in sentences if sentence not in page.words] == []
    found = {path.stem for path in (copy / "figures").iterdir()}
    assert found == set(FIGURE_NAMES) - set(absent)
    for target in page.attribute("href"):
        assert target.startswith("#") or target == "scores_batches.csv" or (copy / target).exists()


def test_what_the_comparison_writes_is_read(copy: Path) -> None:
    scores = pd.read_csv(copy / "scores.csv", dtype={"subject": str})
    comparison = compare(scores, metric="iou", margin=0.02, num_bootstrap=99)
    scores["batch"] = 1
    write_comparison(comparison, copy, paper=paper_analysis(scores))
    write_provenance(copy, split=read_split(copy / "split.json"))
    write_report(copy)
    words = read_page(copy).words
    assert comparison.verdict in words
    for sentence in [*comparison.pairs["sentence"], *comparison.notes]:
        assert sentence in words
    assert "Primary score: IoU" in words
    assert "the verdict uses only IoU" in words
    for row in rows_of(copy / "all_metrics.csv"):
        assert f"{float(row['median']):.2f}" in words
    assert "a large p does not show".casefold() in words.casefold()


def test_score_tables_of_other_tools_are_enough(copy: Path) -> None:
    for path in copy.iterdir():
        if path.name not in (
            "scores.csv", "summary.csv", "pairs.csv", "differences.csv", "comparison.json",
        ):  # fmt: skip
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    columns = ["arm", "fold", "seed", "subject", "dice"]
    change_table(copy / "scores.csv", lambda table: table[columns])
    write_report(copy)
    page = read_page(copy)
    assert "6 subjects, 12 runs" in page.words
    assert "DR-U-Net n = 6 0." in page.words
    assert "The verdict is about what was scored (4 runs per arm)" in page.words
    assert "do not tell the size of any lesion" in page.words
    assert page.words.count("undefined undefined") == 3  # subjects missed, slices falsely marked
    assert {path.stem for path in (copy / "figures").iterdir()} == {"differences", "paired_scores"}


def test_a_split_by_slices_is_said_at_the_top_and_at_every_source(copy: Path) -> None:
    write_split(
        Split("slices", "slice", 1, "c0ffee", (Fold(("a",), ("b",), ("c", "d")),)),
        copy / "split.json",
    )
    write_report(copy)
    html = (copy / "report.html").read_text(encoding="utf-8")
    warning = "slices of one subject lie in training and in test"
    assert Page(html).words.index(warning) < Page(html).words.index("Dice of each arm")
    sources = re.findall(r'<p class="source">.*?</p>', html, re.DOTALL)
    of_scores = [source for source in sources if "config.toml" not in source]
    of_scores = [source for source in of_scores if "study.toml" not in source]
    assert len(of_scores) > 12
    assert all(warning in source for source in of_scores)
    assert "Slices in each part of the split" in Page(html).words


def test_no_margin_no_equivalence_and_no_spacing_no_volume(copy: Path, study: Path) -> None:
    assert "Size is in pixels" not in read_page(study).words
    change_json(copy / "comparison.json", margin=None)
    change_table(copy / "pairs.csv", lambda table: table.assign(margin="", tost_p_holm=""))
    change_table(copy / "scores.csv", lambda table: table.assign(reference_ml=""))
    write_report(copy)
    words = read_page(copy).words
    assert "no arms can be called equivalent" in words
    assert "Shaded" not in words
    assert "Size is in pixels" in words


def test_missed_lesions_and_infinite_distances_are_counted(copy: Path) -> None:
    def miss(table: pd.DataFrame) -> pd.DataFrame:
        is_missed = (table["arm"] == "U-Net") & (table["subject"] == "P01")
        table.loc[is_missed, "dice"] = "0.0"
        table.loc[is_missed, "hd95_mm"] = "inf"
        return table

    change_table(copy / "scores.csv", miss)
    change_table(copy / "sites.csv", lambda table: table.assign(metric="hd95_mm"))
    change_json(copy / "comparison.json", metric="hd95_mm", higher_is_better=False)
    write_report(copy)
    page = read_page(copy)
    assert "higher is worse" in page.words
    assert re.search(r" U-Net n = 6 [0-9. \N{PLUS-MINUS SIGN}to()]+ 2 of 12 ", page.words)
    # In scores.csv only: what is drawn of the differences are still all six subjects.
    assert "scores of 1 subject are undefined or infinite" in page.words
    assert "not drawn there" not in page.words


def test_false_alarms_are_no_missed_lesions(copy: Path) -> None:
    def mark_wrongly(table: pd.DataFrame) -> pd.DataFrame:
        is_healthy = (table["arm"] == "U-Net") & (table["subject"] == "P01")
        table.loc[is_healthy, ["dice", "reference_pixels"]] = "0"
        return table

    change_table(copy / "scores.csv", mark_wrongly)
    assert re.search(r" U-Net n = 6 [0-9. \N{PLUS-MINUS SIGN}to()]+ 0 of 10 ", words_of(copy))


def test_subjects_that_are_not_drawn_are_counted(copy: Path) -> None:
    def leave_out(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table["subject"] == "P03", ["score_a", "difference"]] = "inf"
        return table[(table["subject"] != "P01") | (table["arm_b"] == "Dense-U-Net")]

    change_table(copy / "differences.csv", leave_out)
    write_report(copy)
    sentence = "2 subjects without a finite score in some pair of arms are not drawn there"
    assert sentence in read_page(copy).words


def test_examples_are_named_in_their_caption(study: Path) -> None:
    named = ", ".join(
        f"{example.role} ({example.subject}, slice {example.slice})"
        for example in read_examples(read_study_folder(study))
    )
    assert f"the subjects with the {named} mean Dice" in read_page(study).words


def test_wrong_folders_are_refused(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(ComparisonError, match="nowhere: no such folder"):
        write_report(tmp_path / "nowhere")
    shutil.rmtree(copy / "figures")
    (copy / "figures").write_text("in the way")
    with pytest.raises(HemasegError, match=r"small: the report cannot be written .*figures"):
        write_report(copy)
