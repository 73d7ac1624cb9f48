import csv
import itertools
import json
import re
import shutil
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hemaseg.cohorts.split import Fold, Split, read_split, write_split
from hemaseg.comparison.paired import compare, paper_analysis, write_comparison
from hemaseg.comparison.provenance import write_provenance
from hemaseg.errors import ComparisonError, HemasegError, ScanError, SplitError
from hemaseg.reporting import figures
from hemaseg.reporting.report import FIGURE_NAMES, write_report

ARMS = ("DR-U-Net", "Dense-U-Net", "U-Net")
RUNS = ((0, 0), (0, 1), (1, 0), (1, 1))
SLICES = ("1", "2", "10")


def make_study(
    folder: Path, *, arms: tuple[str, ...] = ARMS, num_subjects: int = 6, size: int = 24
) -> Path:
    """A study folder with all its files: subjects in two folds, two seeds, three slices each."""
    rng = np.random.default_rng(20240501)
    subjects = [f"P{number:02d}" for number in range(num_subjects)]
    folder.mkdir()
    slices = _slices(rng, arms, subjects)
    scores = _scores(rng, slices)
    slices.to_csv(folder / "scores_slices.csv", index=False)
    scores.to_csv(folder / "scores.csv", index=False)
    _write_runs(folder, rng, arms, subjects, size)
    _training(rng, arms).to_csv(folder / "training.csv", index=False)
    _costs(rng, arms).to_csv(folder / "costs.csv", index=False)
    _write_comparison(folder, scores, arms)
    _write_json_files(folder, subjects)
    (folder / "study.toml").write_text(
        'name = "small"\n[cohort]\npath = "cohort.csv"\n[training]\nlearning_rate = 0.001\n'
    )
    return folder


def _slices(rng: np.random.Generator, arms: tuple[str, ...], subjects: list[str]) -> pd.DataFrame:
    rows = []
    for (place, subject), name in itertools.product(enumerate(subjects), SLICES):
        has_lesion = name != "1"
        area = int(rng.lognormal(5, 1)) if has_lesion else 0
        difficulty = rng.beta(6, 2)
        for (fold, seed), arm in itertools.product(RUNS, arms):
            if fold == place % 2:
                dice = float(np.clip(difficulty + rng.normal(0, 0.05), 0, 1))
                rows.append(
                    {
                        "arm": arm,
                        "fold": fold,
                        "seed": seed,
                        "subject": subject,
                        "scan": subject,
                        "slice": name,
                        "dice": dice if has_lesion else None,
                        "reference_pixels": area,
                        "has_lesion": has_lesion,
                        "false_alarm": not has_lesion and rng.random() < 0.3,
                    }
                )
    return pd.DataFrame(rows)


def _scores(rng: np.random.Generator, slices: pd.DataFrame) -> pd.DataFrame:
    groups = slices.groupby(["arm", "fold", "seed", "subject"], sort=False)
    scores = groups.agg(
        num_slices=("slice", "size"),
        dice=("dice", "mean"),
        reference_pixels=("reference_pixels", "sum"),
        num_slices_without_lesion=("has_lesion", lambda values: int((~values).sum())),
        num_false_alarm_slices=("false_alarm", "sum"),
    ).reset_index()
    scores["iou"] = scores["dice"] / (2 - scores["dice"])
    scores["hd95_mm"] = 5 + rng.gamma(2, 2, len(scores))
    scores["reference_ml"] = scores["reference_pixels"] / 1000
    scores["site"] = "A"
    return scores


def _training(rng: np.random.Generator, arms: tuple[str, ...]) -> pd.DataFrame:
    rows = []
    for place, (arm, (fold, seed)) in enumerate(itertools.product(arms, RUNS)):
        num_epochs = 8 + place % 3
        losses = 0.2 + 0.6 * np.exp(-np.arange(num_epochs) / 3) + rng.normal(0, 0.02, num_epochs)
        for epoch, loss in enumerate(losses, start=1):
            rows.append(
                {
                    "arm": arm,
                    "fold": fold,
                    "seed": seed,
                    "epoch": epoch,
                    "training_loss": loss - 0.05,
                    "validation_loss": loss,
                    "validation_dice": 1 - loss,
                    "learning_rate": 0.001,
                    "epoch_s": 30.0 + 10 * arms.index(arm),
                    "cumulative_s": epoch * (30.0 + 10 * arms.index(arm)),
                    "slices_per_s": 50.0,
                    "peak_memory_mib": 2000.0,
                }
            )
    return pd.DataFrame(rows)


def _costs(rng: np.random.Generator, arms: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "arm": arm,
            "fold": fold,
            "seed": seed,
            "model": f"model_{arms.index(arm)}",
            "num_parameters": 10_953_249 + 10_000_000 * arms.index(arm),
            "num_multiply_adds": 12_345_678_901,
            "num_epochs": 9,
            "best_epoch": 7,
            "epoch_s": 30.0 + rng.normal(),
            "training_s": 270.0 + rng.normal(),
            "inference_slices_per_s": 40.0 + 10 * arms.index(arm) + rng.normal(),
            "peak_memory_mib": 2000.0,
            "device": "cpu",
        }
        for arm, (fold, seed) in itertools.product(arms, RUNS)
    )


def _write_comparison(folder: Path, scores: pd.DataFrame, arms: tuple[str, ...]) -> None:
    """Tables of the right form; the intervals are plain normal ones."""
    summary, pairs, differences = [], [], []
    for metric in ("dice", "iou", "hd95_mm"):
        by_subject = scores.groupby(["arm", "subject"])[metric].mean()
        for arm in arms:
            own = by_subject[arm]
            half = 1.96 * own.std() / len(own) ** 0.5
            runs = scores[scores["arm"] == arm].groupby(["fold", "seed"])[metric].mean()
            summary.append(
                {
                    "metric": metric,
                    "arm": arm,
                    "num_subjects": len(own),
                    "num_undefined": 0,
                    "mean": own.mean(),
                    "sd": own.std(),
                    "median": own.median(),
                    "q1": own.quantile(0.25),
                    "q3": own.quantile(0.75),
                    "ci_low": own.mean() - half,
                    "ci_high": own.mean() + half,
                    "run_sd": runs.std(),
                }
            )
        for number, (arm_a, arm_b) in enumerate(itertools.combinations(arms, 2)):
            difference = by_subject[arm_a] - by_subject[arm_b]
            mean, half = difference.mean(), 1.96 * difference.std() / len(difference) ** 0.5
            pairs.append(
                {
                    "metric": metric,
                    "arm_a": arm_a,
                    "arm_b": arm_b,
                    "num_subjects": len(difference),
                    "num_undefined": 0,
                    "mean_difference": mean,
                    "ci_low": mean - half,
                    "ci_high": mean + half,
                    "p_holm": (0.0001234, 0.04321, 1.0)[number % 3],
                    "wilcoxon_p_holm": 0.2345,
                    "hedges_gz": mean / difference.std(),
                    "margin": 0.02 if metric == "dice" else None,
                    "tost_p_holm": 0.0345 if metric == "dice" else None,
                    "verdict": ("a_better", "equivalent", "undecided")[number % 3],
                    "sentence": f"{arm_a} and {arm_b} differ by {mean:.3f} in {metric}.",
                    "num_subjects_to_decide": (None, None, 321)[number % 3],
                }
            )
            differences.append(
                pd.DataFrame(
                    {
                        "metric": metric,
                        "arm_a": arm_a,
                        "arm_b": arm_b,
                        "subject": difference.index,
                        "score_a": by_subject[arm_a].to_numpy(),
                        "score_b": by_subject[arm_b].to_numpy(),
                        "difference": difference.to_numpy(),
                    }
                )
            )
    pd.DataFrame(summary).to_csv(folder / "summary.csv", index=False)
    pd.DataFrame(pairs).to_csv(folder / "pairs.csv", index=False)
    pd.concat(differences).to_csv(folder / "differences.csv", index=False)
    pd.DataFrame(
        {
            "arm": arm,
            "num_batches": 64,
            "mean": 0.8361 - 0.004 * place,
            "sd": 0.156,
        }
        for place, arm in enumerate(arms)
    ).to_csv(folder / "table1.csv", index=False)
    comparison = {
        "metric": "dice",
        "higher_is_better": True,
        "margin": 0.02,
        "alpha": 0.05,
        "verdict": f"{arms[0]} is better than {arms[1]}; the other pairs are undecided.",
        "anova": {"f": 0.0561, "p": 0.9455, "df_between": 2, "df_within": 189},
        "friedman": {"statistic": 5.25, "p": 0.0724},
        "notes": ["Four runs for each arm."],
        "paper_notes": ["It takes every batch as independent."],
    }
    (folder / "comparison.json").write_text(json.dumps(comparison))


def _write_json_files(folder: Path, subjects: list[str]) -> None:
    provenance = {
        "created": "2026-11-22T17:00:00+00:00",
        "hemaseg": "0.1.0",
        "command": "hemaseg compare small.toml",
        "python": "3.11.2",
        "torch": "2.15.0",
        "numpy": "2.4.6",
        "scipy": "1.17.1",
        "platform": "Linux",
        "processor": "x86_64",
        "device": "cpu",
        "num_threads": 2,
        "cohort": {
            "name": "phantoms",
            "num_subjects": len(subjects),
            "num_images": len(subjects) * len(SLICES),
            "num_images_with_lesion": len(subjects) * 2,
            "sites": {"A": len(subjects)},
            "modality": "MRI",
            "sha256": "c0ffee" * 10,
            "description": "Synthetic heads, no patient.",
        },
        "split": {"method": "folds", "unit": "subject", "seed": 5, "sha256": "5b", "num_folds": 2},
        "warnings": [],
    }
    (folder / "provenance.json").write_text(json.dumps(provenance))
    folds = tuple(
        Fold(
            train=tuple(subjects[1 - fold :: 2][1:]),
            validation=tuple(subjects[1 - fold :: 2][:1]),
            test=tuple(subjects[fold::2]),
        )
        for fold in (0, 1)
    )
    write_split(Split("folds", "subject", 5, "c0ffee" * 10, folds), folder / "split.json")


def _write_runs(
    folder: Path, rng: np.random.Generator, arms: tuple[str, ...], subjects: list[str], size: int
) -> None:
    """A bright square per slice as image; squares beside it as masks."""
    images = folder / "images"
    images.mkdir()
    for subject, name in itertools.product(subjects, SLICES):
        image = rng.integers(30, 90, (size, size), dtype=np.uint8)
        mask = np.zeros((size, size), dtype=np.uint8)
        if name != "1":
            mask[size // 4 : size // 2, size // 4 : size // 2] = 255
        Image.fromarray(np.maximum(image, mask // 255 * 200)).save(images / f"{subject}_{name}.png")
        Image.fromarray(mask).save(images / f"{subject}_{name}_mask.png")
    for (fold, seed), arm in itertools.product(RUNS, arms):
        run = folder / "runs" / arm / f"fold-{fold}_seed-{seed}"
        predictions = run / "predictions"
        predictions.mkdir(parents=True)
        (run / "config.toml").write_text(f'seed = {seed}\n[recipe]\ndescription = "of {arm}"\n')
        rows = []
        for subject, name in itertools.product(subjects[fold::2], SLICES):
            mask = np.zeros((size, size), dtype=np.uint8)
            if name != "1":
                mask[size // 4 + arms.index(arm) : size // 2, size // 4 : size // 2 + 1] = 255
            Image.fromarray(mask).save(predictions / f"{subject}_{name}.png")
            rows.append(
                {
                    "subject": subject,
                    "slice": name,
                    "image": f"../../../../images/{subject}_{name}.png",
                    "reference": f"../../../../images/{subject}_{name}_mask.png",
                    "prediction": f"{subject}_{name}.png",
                }
            )
        pd.DataFrame(rows).to_csv(predictions / "predictions.csv", index=False)


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


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def change_table(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(table).to_csv(path, index=False)


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def as_numbers(texts: list[str]) -> list[float]:
    return [float(text) for text in texts if text]


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
        columns = ("mean", "sd", "ci_low", "ci_high", "median", "q1", "q3", "run_sd")
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


def test_other_metrics_are_shown_with_their_own_digits(study: Path) -> None:
    page = read_page(study)
    summary = rows_of(study / "summary.csv")
    assert {float(row["mean"]) for row in summary} <= set(as_numbers(page.numbers["metrics"]))
    hd95 = next(float(row["mean"]) for row in summary if row["metric"] == "hd95_mm")
    assert f"HD95 (mm) DR-U-Net {hd95:.2f} \N{PLUS-MINUS SIGN}" in page.words


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
        "Equivalence margin: 0.020, stated before training.",
        "DR-U-Net and Dense-U-Net differ by",
        "Dice of each arm.",
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
            ["training.csv", "costs.csv"],
            ["There is no training.csv", "There is no costs.csv"],
            ["validation_loss", "training_time", "cost"],
        ),
        (
            ["scores_slices.csv", "table1.csv"],
            ["No predicted masks", "no table1.csv"],
            ["examples"],
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
    assert "Only IoU was compared." in words
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
    assert "DR-U-Net 0." in page.words
    assert "do not tell the size of any lesion" in page.words
    assert page.words.count("undefined undefined") == 3  # missed lesions and false alarms
    assert {path.stem for path in (copy / "figures").iterdir()} == {"differences", "paired_scores"}


def test_a_split_by_slices_is_said_at_the_top_and_at_every_source(copy: Path) -> None:
    write_split(
        Split("slices", "slice", 1, "c0ffee", (Fold(("a",), ("b",), ("c", "d")),)),
        copy / "split.json",
    )
    write_report(copy)
    html = (copy / "report.html").read_text(encoding="utf-8")
    warning = "slices of one subject lie in training and in test"
    assert Page(html).words.index(warning) < Page(html).words.index("Dice of each arm.")
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
    change_json(copy / "comparison.json", metric="hd95_mm", higher_is_better=False)
    write_report(copy)
    page = read_page(copy)
    assert "higher is worse" in page.words
    assert re.search(r"U-Net [0-9. \N{PLUS-MINUS SIGN}to()]+ 2 of 12 ", page.words)
    assert "scores of 1 subject are undefined or infinite" in page.words


def test_examples_are_chosen_by_the_stated_rule(study: Path) -> None:
    scores = [row for row in rows_of(study / "scores.csv") if float(row["reference_pixels"]) > 0]
    means = {
        subject: np.mean([float(row["dice"]) for row in scores if row["subject"] == subject])
        for subject in {row["subject"] for row in scores}
    }
    ranking = sorted(means, key=lambda subject: means[subject])
    words = []
    for role, subject in (("best", ranking[-1]), ("median", ranking[3]), ("worst", ranking[0])):
        areas = {
            row["slice"]: float(row["reference_pixels"])
            for row in rows_of(study / "scores_slices.csv")
            if row["subject"] == subject
        }
        words.append(f"{role} ({subject}, slice {max(areas, key=lambda name: areas[name])})")
    assert ", ".join(words) in read_page(study).words


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[figures.Example]:
    """The examples that a report draws, filled in when it does."""
    examples: list[figures.Example] = []
    draw = figures.examples_figure

    def draw_and_keep(drawn: Sequence[figures.Example], arms: Sequence[str]) -> Figure:
        examples.extend(drawn)
        return draw(drawn, arms)

    monkeypatch.setattr(figures, "examples_figure", draw_and_keep)
    return examples


@pytest.mark.parametrize(("modality", "black", "white"), [("CT", 0, 255), ("MRI", 30, 200)])
def test_pictures_are_shown_as_the_modality_asks(
    copy: Path, shown: list[figures.Example], modality: str, black: float, white: float
) -> None:
    cohort = json.loads((copy / "provenance.json").read_text())["cohort"]
    change_json(copy / "provenance.json", cohort=cohort | {"modality": modality})
    write_report(copy)
    assert [example.role for example in shown] == ["best", "median", "worst"]
    for example in shown:
        # The lesion is 200; of the other pixels, 30 to 89, one in a hundred may be below black.
        assert example.display_range == pytest.approx((black, white), abs=2)
        lesion = np.zeros((24, 24), dtype=bool)
        lesion[6:12, 6:12] = True
        np.testing.assert_array_equal(example.reference, lesion)
        np.testing.assert_array_equal(example.image >= 200, lesion)
        assert [int(mask.sum()) for mask in example.predictions] == [6 * 7, 5 * 7, 4 * 7]


def test_examples_of_volumes_are_taken_at_the_index_of_the_slice(
    copy: Path, shown: list[figures.Example]
) -> None:
    import nibabel as nib

    volume = np.zeros((16, 16, 3), dtype=np.int16)
    volume[4:9, 4:9, 2] = 1
    image = nib.Nifti1Image(volume, np.diag([1.0, 2.0, 5.0, 1.0]))
    nib.save(image, copy / "volume.nii.gz")
    for path in (copy / "runs").glob("*/*/predictions/predictions.csv"):
        change_table(
            path,
            lambda table: table.drop_duplicates("subject").assign(
                slice="",
                image="../../../../volume.nii.gz",
                reference="../../../../volume.nii.gz",
                prediction=[f"{name}.nii.gz" for name in table["subject"].unique()],
            ),
        )
        for name in pd.read_csv(path)["prediction"]:
            shutil.copy(copy / "volume.nii.gz", path.parent / name)
    cohort = json.loads((copy / "provenance.json").read_text())["cohort"]
    change_json(copy / "provenance.json", cohort=cohort | {"modality": "CT"})
    change_table(
        copy / "scores_slices.csv",
        lambda table: table.replace({"slice": {"1": "0", "2": "1", "10": "2"}}).assign(
            reference_pixels=lambda rows: rows["slice"]
        ),
    )
    write_report(copy)
    assert "slice 2)" in read_page(copy).words
    for example in shown:
        assert int(example.reference.sum()) == 5 * 5  # of three slices, the last is marked
        assert example.pixel_aspect == pytest.approx(2.0)  # rows 2 mm, columns 1 mm apart
        assert example.display_range == (0.0, 100.0)
    change_table(copy / "scores_slices.csv", lambda table: table.replace({"slice": {"2": "3"}}))
    with pytest.raises(ComparisonError, match=r"has slices 0 to 2, but .* names slice 3"):
        write_report(copy)


def test_subjects_with_several_scans_are_no_examples(copy: Path) -> None:
    change_table(
        copy / "scores_slices.csv",
        lambda table: table.assign(scan=table["subject"] + "_" + table["slice"]),
    )
    write_report(copy)
    assert "No predicted masks" in read_page(copy).words


def replace_text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def drop(name: str, column: str) -> Callable[[Path], None]:
    return lambda folder: change_table(folder / name, lambda table: table.drop(columns=column))


PREDICTIONS = "runs/U-Net/fold-0_seed-0/predictions/predictions.csv"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("scores.csv"), r"scores\.csv: cannot be read as CSV .*No such file"),
        (remove("summary.csv"), r"summary\.csv: cannot be read as CSV .*No such file"),
        (remove("comparison.json"), r"comparison\.json: cannot be read as text .*No such file"),
        (write("pairs.csv", b""), r"pairs\.csv: cannot be read as CSV .*expected at least 1"),
        (write("scores.csv", b"\xff\xfe\x00arm"), r"scores\.csv: cannot be read as CSV .*utf-8"),
        (write("summary.csv", b'metric,arm\n"dice,x'), r"summary\.csv: cannot be read as CSV"),
        (write("table1.csv", b"arm,num_batches,mean,sd\n"), r"table1\.csv: has no rows"),
        (
            write("table1.csv", b"arm,num_batches,mean,sd\nU-Net,2\n"),
            r"table1\.csv: row 2 has 2 fields, expected 4",
        ),
        (write("comparison.json", b"{"), r"comparison\.json: file: Invalid JSON"),
        (replace_text("comparison.json", "0.02", '"x"'), "margin: .* found 'x'"),
        (replace_text("provenance.json", '"num_images": 18', '"num_images": "many"'), "'many'"),
        (write("study.toml", b"\xff"), r"study\.toml: cannot be read as text .*utf-8"),
        (drop("scores.csv", "seed"), r"scores\.csv: lacks seed; found arm, fold"),
        (drop("pairs.csv", "p_holm"), r"pairs\.csv: lacks p_holm;"),
        (
            replace_text("table1.csv", "0.8361", "0,8361"),
            r"table1\.csv: row 2 has 5 fields, expected 4",
        ),
        (
            replace_text("table1.csv", "0.8361", "nan"),
            r"table1\.csv: row 2, mean: found 'nan', expected a number or an empty field",
        ),
        (
            replace_text("table1.csv", "Dense-U-Net", "DR-U-Net"),
            r"table1\.csv: row 3 repeats arm DR-U-Net",
        ),
        (
            replace_text("table1.csv", "Dense-U-Net", "V-Net"),
            r"table1\.csv: knows arm V-Net, but summary\.csv only DR-U-Net, Dense-U-Net, U-Net",
        ),
        (
            replace_text("comparison.json", '"dice"', '"reference_ml"'),
            r"summary\.csv: knows dice, hd95_mm, iou, but .* is reference_ml",
        ),
        (
            replace_text("comparison.json", '"dice"', '"jaccard"'),
            r"scores\.csv: lacks jaccard; found arm",
        ),
        (write("scores_slices.csv", b"arm\n"), r"scores_slices\.csv: lacks fold, seed, subject"),
        (
            lambda folder: change_table(
                folder / "scores_slices.csv", lambda table: table[table["arm"] != "U-Net"]
            ),
            r"has slices of DR-U-Net, Dense-U-Net, but scores\.csv knows it for .*, U-Net\.",
        ),
        (
            lambda folder: change_table(
                folder / PREDICTIONS, lambda table: table.assign(subject="P99")
            ),
            r"0 rows for subject P0., slice \d+, expected 1",
        ),
    ],
)
def test_damaged_studies_are_refused(
    copy: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(copy)
    with pytest.raises(ComparisonError, match=message):
        write_report(copy)


def test_an_edited_split_is_refused(copy: Path) -> None:
    change_json(copy / "split.json", seed=6)
    with pytest.raises(SplitError, match=r"split\.json: hash"):
        write_report(copy)


def test_missing_masks_and_other_grids_are_refused(copy: Path) -> None:
    for path in (copy / "runs" / "U-Net").glob("*/predictions/*.png"):
        Image.new("L", (7, 5)).save(path)
    with pytest.raises(ComparisonError, match=r"\(24, 24\) pixels, .* U-Net has \(5, 7\)"):
        write_report(copy)
    for path in (copy / "runs" / "U-Net").glob("*/predictions/*.png"):
        path.unlink()
    with pytest.raises(ScanError, match=r"\.png: no such file"):
        write_report(copy)


def test_wrong_folders_are_refused(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(ComparisonError, match="nowhere: no such folder"):
        write_report(tmp_path / "nowhere")
    shutil.rmtree(copy / "figures")
    (copy / "figures").write_text("in the way")
    with pytest.raises(HemasegError, match=r"small: the report cannot be written .*figures"):
        write_report(copy)
