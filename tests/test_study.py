import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hemaseg.cohorts.index import index_folder
from hemaseg.cohorts.table import Cohort, read_cohort, write_cohort
from hemaseg.comparison.paired import Comparison
from hemaseg.config import StudyConfig, read_config
from hemaseg.errors import (
    CheckpointError,
    CohortError,
    ComparisonError,
    ConfigError,
    SplitError,
    TrainingError,
)
from hemaseg.models.cost import model_cost
from hemaseg.reporting.report import write_report
from hemaseg.studies.running import run_study
from hemaseg.studies.study import Study, compare_tables, open_study
from hemaseg.training import memory
from hemaseg.training.progress import Epoch
from small_heads import small_head
from small_runs import STUDY, write_cohort_of_heads, write_study

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cohort, a study file and, in `out`, the finished study."""
    folder = tmp_path_factory.mktemp("original")
    write_cohort_of_heads(folder)
    run_study(open_study(write_study(folder), folder / "out"))
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of it to work in."""
    shutil.copytree(original, tmp_path / "copy")
    return tmp_path / "copy"


def again(folder: Path, labels: list[str] | None = None) -> tuple[Study, Comparison]:
    """Open and run the study of a folder; with what was reported."""
    study = open_study(folder / "study.toml", folder / "out")

    def progress(label: str, done: float, total: int) -> None:
        assert 0 <= done <= total
        if labels is not None:
            labels.append(label)

    return study, run_study(study, progress)


def trees(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_study_folder_holds_what_the_architecture_says(original: Path) -> None:
    text = (DOCS / "architecture.md").read_text()
    paragraph = text[text.index("Study folder:") : text.index("## Deliberately absent")]
    named = set(re.findall(r"`([a-z0-9_]+\.(?:csv|json|toml))`", paragraph))
    assert {"study.toml", "scores.csv", "costs.csv", "comparison.json", "pairs.csv"} <= named
    assert named <= {path.name for path in (original / "out").iterdir()}
    runs = sorted((original / "out" / "runs").glob("*/*"))
    assert ["/".join(run.parts[-2:]) for run in runs] == [
        f"{arm}/fold-{fold}_seed-0" for arm in ("one", "two") for fold in (0, 1)
    ]


def test_gathered_tables_have_the_columns_that_the_architecture_says(original: Path) -> None:
    text = (DOCS / "architecture.md").read_text()
    paragraph = text[text.index("`metrics.csv`, one row") : text.index("Study folder:")]
    of_subjects = re.findall(r"`([a-z0-9_]+)`", paragraph)
    assert of_subjects[:2] == ["subject", "site"]
    header = {
        path.stem: path.read_text().splitlines()[0].split(",")
        for path in (original / "out").glob("*.csv")
    }
    gathered = ("scores", "scores_slices", "scores_batches", "training", "costs")
    assert all(header[name][:3] == ["arm", "fold", "seed"] for name in gathered)
    assert header["scores"][3:] == of_subjects
    assert header["training"][3:] == list(Epoch.__dataclass_fields__)


def test_gathered_tables_are_those_of_the_runs(original: Path) -> None:
    scores = pd.read_csv(original / "out" / "scores.csv")
    subjects = read_cohort(original / "cohort.csv").subjects
    for arm in ("one", "two"):
        own = scores[scores["arm"] == arm]
        assert sorted(own["subject"]) == sorted(subjects)
        for fold in (0, 1):
            run = pd.read_csv(original / "out" / "runs" / arm / f"fold-{fold}_seed-0/metrics.csv")
            part = own[own["fold"] == fold].reset_index(drop=True)
            pd.testing.assert_frame_equal(part[run.columns], run)
    costs = pd.read_csv(original / "out" / "costs.csv")
    assert len(costs) == len(pd.read_csv(original / "out" / "training.csv")) == 4
    size = model_cost("dr_unet", {"base_width": 4}, image_size=32)
    two = costs[costs["arm"] == "two"]
    assert set(two["num_parameters"]) == {size.num_parameters}
    assert set(two["num_multiply_adds"]) == {size.num_multiply_adds}
    assert (costs[["training_s", "inference_slices_per_s"]] > 0).all(axis=None)


def test_a_complete_study_is_compared_again_but_not_run(folder: Path) -> None:
    before, labels = trees(folder / "out"), list[str]()
    study, comparison = again(folder, labels)
    after = trees(folder / "out")
    assert labels == []
    runs = {name for name in before if name.startswith("runs/")}
    assert {name for name in after if name.startswith("runs/")} == runs
    assert all(after[name] == before[name] for name in runs)
    for name in ("scores.csv", "pairs.csv", "summary.csv", "split.json", "study.toml"):
        assert after[name][1] == before[name][1]
    assert comparison.num_subjects == 12
    assert (comparison.num_runs, comparison.margin, comparison.num_bootstrap) == (2, 0.05, 199)
    record = json.loads(after["comparison.json"][1])
    assert record["verdict"] == comparison.verdict
    assert list(comparison.summary["arm"]) == ["one", "two"] == [a.name for a in study.config.arms]


def test_an_interrupted_study_goes_on_where_it_stopped(folder: Path) -> None:
    before = trees(folder / "out")
    run = folder / "out" / "runs" / "two" / "fold-0_seed-0"
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    shutil.rmtree(folder / "out" / "runs" / "two" / "fold-1_seed-0")
    labels: list[str] = []
    again(folder, labels)
    starts = list(dict.fromkeys(label.partition(":")[0] for label in labels))
    assert starts == ["run 2, two, fold 0, seed 0", "run 4, two, fold 1, seed 0"]
    assert any(": training, epoch 1/1" in label for label in labels)
    after = trees(folder / "out")
    for fold in (0, 1):
        weights = f"runs/one/fold-{fold}_seed-0/weights.safetensors"
        assert after[weights] == before[weights]
        weights = f"runs/two/fold-{fold}_seed-0/weights.safetensors"
        assert after[weights][0] > before[weights][0]
        assert after[weights][1] == before[weights][1]
    assert after["scores.csv"][1] == before["scores.csv"][1]


@pytest.mark.parametrize(
    ("study", "recipe", "words"),
    [
        ({"comparison": {"margin": 0.1}}, {}, ["comparison.margin 0.05, asked for now 0.1"]),
        ({"seeds": [0, 1]}, {}, ["study.toml: ", "seeds.1 nothing, asked for now 1"]),
        (
            {"arms": [*STUDY["arms"], STUDY["arms"][0] | {"name": "three"}]},
            {},
            ["arms.2.name nothing, asked for now three"],
        ),
        (
            {},
            {"training": {"num_epochs": 2, "batch_size": 4}},
            ["fold-0_seed-0/config.toml: ", "recipe.training.num_epochs 1, asked for now 2"],
        ),
    ],
)
def test_other_settings_are_refused_once_the_study_has_begun(
    folder: Path, study: dict[str, Any], recipe: dict[str, Any], words: list[str]
) -> None:
    write_study(folder, study, **recipe)
    with pytest.raises(ConfigError) as caught:
        open_study(folder / "study.toml", folder / "out")
    message = str(caught.value)
    assert all(word in message for word in words)
    assert message.endswith("Choose another output folder, or delete this one.")


def test_the_plan_cannot_change_in_the_study_file_itself_or_without_its_copy(folder: Path) -> None:
    shutil.copytree(folder / "out" / "runs", folder / "runs")
    shutil.copy(folder / "out" / "split.json", folder)
    open_study(folder / "study.toml", folder)
    (folder / "out" / "study.toml").unlink()
    write_study(folder, {"comparison": {"margin": 0.1}})
    for out in (folder, folder / "out"):
        with pytest.raises(ConfigError, match=r"runs/study\.toml: .*margin 0\.05, asked for"):
            open_study(folder / "study.toml", out)
        with pytest.raises(ComparisonError, match="holds a study with runs of its own"):
            compare_tables(write_scores(folder, "dice"), out)


def test_the_report_says_fixed_before_the_first_run_only_if_it_was(folder: Path) -> None:
    out, sentence = folder / "out", "fixed in study.toml before the first run"
    assert sentence in write_report(out).read_text()
    record = json.loads((out / "comparison.json").read_text())
    (out / "comparison.json").write_text(json.dumps(record | {"margin": 0.1}))
    assert sentence not in write_report(out).read_text()
    # A plan that is gone is not written anew by a run that is not the first.
    (out / "runs" / "study.toml").unlink()
    shutil.rmtree(out / "runs" / "two" / "fold-1_seed-0")
    again(folder)
    assert not (out / "runs" / "study.toml").exists()
    assert sentence not in write_report(out).read_text()


def test_texts_and_the_place_of_the_cohort_may_change(folder: Path) -> None:
    (folder / "moved").mkdir()
    (folder / "cohort.csv").rename(folder / "moved" / "cohort.csv")
    (folder / "scans").rename(folder / "moved" / "scans")
    write_study(
        folder,
        {"name": "better", "data_notice": "CC0", "cohort": "moved/cohort.csv"},
        description="better",
    )
    labels: list[str] = []
    study, _ = again(folder, labels)
    assert labels == []
    assert read_config(folder / "out" / "study.toml", StudyConfig) == study.config
    assert study.config.data_notice == "CC0"


def test_settings_may_change_before_the_first_run(folder: Path) -> None:
    open_study(folder / "study.toml", folder / "new")
    write_study(folder, {"split": {"method": "holdout", "seed": 5, "validation_share": 0.3}})
    study = open_study(folder / "study.toml", folder / "new")
    assert (study.split.method, study.split.seed) == ("holdout", 5)
    assert read_config(folder / "new" / "study.toml", StudyConfig).split.seed == 5
    assert json.loads((folder / "new" / "split.json").read_text())["sha256"] == study.split.sha256


def test_another_cohort_is_refused(folder: Path) -> None:
    old = read_cohort(folder / "cohort.csv").sha256[:12]
    lines = (folder / "cohort.csv").read_text().splitlines(keepends=True)
    (folder / "cohort.csv").write_text("".join(lines[:-1]))
    new = read_cohort(folder / "cohort.csv").sha256[:12]
    with pytest.raises(SplitError, match=f"made for cohort {old}, found {new}"):
        open_study(folder / "study.toml", folder / "out")


def test_scans_whose_predictions_would_share_a_file_are_refused_before_any_training(
    folder: Path,
) -> None:
    """Two days of a subject, each with a file of the same name."""
    first, *others = read_cohort(folder / "cohort.csv").images
    (folder / "day2").mkdir()
    day2 = Path(shutil.copy(first.image, folder / "day2" / first.image.name))
    cohort = Cohort((first, replace(first, scan="day2", image=day2), *others))
    write_cohort(cohort, folder / "cohort.csv")
    with pytest.raises(CohortError, match=r"day2.*expected one file per image"):
        open_study(folder / "study.toml", folder / "new")
    assert not (folder / "new" / "runs").exists()


def test_runs_of_another_split_are_not_taken_for_those_of_this(folder: Path) -> None:
    for name in ("study.toml", "runs/study.toml", "split.json"):
        (folder / "out" / name).unlink()
    write_study(folder, {"split": STUDY["split"] | {"seed": 7}})
    study = open_study(folder / "study.toml", folder / "out")
    with pytest.raises(CheckpointError, match=f"of split {study.split.sha256[:12]}"):
        run_study(study)


def test_the_study_file_itself_is_never_written_over(folder: Path) -> None:
    text = (folder / "study.toml").read_text() + "# why: nobody knows\n"
    (folder / "study.toml").write_text(text)
    open_study(folder / "study.toml", folder)
    assert (folder / "study.toml").read_text() == text


@pytest.mark.parametrize(
    ("study", "recipe", "words"),
    [
        ({"arms": [STUDY["arms"][0], STUDY["arms"][1] | {"model": "net"}]}, {}, 'model "net"'),
        (
            {"arms": [STUDY["arms"][0], STUDY["arms"][1] | {"options": {"width": 4}}]},
            {},
            'model "dr_unet" has no option "width"',
        ),
        ({}, {"slices": {"image_size": 72}}, "image size 72x72"),
        (
            {"split": {"method": "folds", "num_folds": 3, "seed": 1, "validation_share": 0.1}},
            {},
            "no lesion among the 1 subjects for validation of fold 1",
        ),
        ({"arms": [*STUDY["arms"], STUDY["arms"][0]]}, {}, "arms one stand twice"),
        (
            {"comparison": {"pairs": [["one", "two"], ["two", "one"]]}},
            {},
            r"comparison\.pairs are .*, expected two different arms in each, and each pair once",
        ),
        ({"comparison": {"pairs": [["one", "one"]]}}, {}, r"are \[\('one', 'one'\)\], expected"),
        (
            {"comparison": {"margin": 2}},
            {},
            "comparison: margin is 2, expected less than 1, .* 0.02 for 2 %",
        ),
        ({"cohort": "nowhere.csv"}, {}, "nowhere.csv: cannot be read"),
        ({"cohort": "."}, {}, "cannot be read"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    folder: Path, study: dict[str, Any], recipe: dict[str, Any], words: str
) -> None:
    write_study(folder, study, **recipe)
    with pytest.raises(Exception, match=words) as caught:
        open_study(folder / "study.toml", folder / "new")
    assert type(caught.value).__module__ == "hemaseg.errors"
    assert not (folder / "new").exists()


def test_an_arm_that_does_not_fit_is_refused_before_another_is_trained(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second network takes more than the first."""
    write_study(folder, {"arms": STUDY["arms"][::-1]})
    study = open_study(folder / "study.toml", folder / "new")
    needed = [
        memory.training_mib(run.config.model, run.config.recipe, batch_size=64, precision="fp32")
        for run in study.runs[:2]
    ]
    assert needed[0] < needed[1] - 1
    monkeypatch.setattr(memory, "available_memory_mib", lambda device: needed[1] - 1)
    with pytest.raises(TrainingError, match="training unet with 64 slices"):
        run_study(study)
    assert not (folder / "new" / "runs").exists()
    # What is trained already needs no memory.
    write_study(folder)
    run_study(open_study(folder / "study.toml", folder / "out"))


def test_a_prediction_that_is_gone_is_named(folder: Path) -> None:
    run = folder / "out" / "runs" / "one" / "fold-0_seed-0"
    (run / "metrics.csv").unlink()
    gone = sorted(run.glob("predictions/*/*.nii.gz"))[0]
    gone.unlink()
    with pytest.raises(Exception, match=f"{gone.name}: no such file"):
        again(folder)


def write_pictures(folder: Path, num_subjects: int) -> None:
    for number in range(1, num_subjects + 1):
        head = small_head(number)
        grey = (np.clip((head.voxels - 30.0) / 70.0, 0, 1) * 255).astype(np.uint8)
        for name, stack in (("images", grey), ("masks", head.mask * np.uint8(255))):
            (folder / "scans" / name).mkdir(parents=True, exist_ok=True)
            for k, picture in enumerate(stack):
                Image.fromarray(picture).save(folder / "scans" / name / f"{number:03}_{k}.png")
    write_cohort(index_folder(folder / "scans"), folder / "cohort.csv")


@pytest.mark.parametrize(
    "metric", ["surface_dice", "hd95_mm", "assd_mm", "absolute_volume_error_ml"]
)
def test_a_metric_in_mm_is_refused_where_spacing_is_unknown(tmp_path: Path, metric: str) -> None:
    write_pictures(tmp_path, 1)
    path = write_study(tmp_path, {"comparison": {"metric": metric}})
    with pytest.raises(ConfigError, match=f"{metric} is undefined .* 16 of 16 images lack"):
        open_study(path, tmp_path / "out")


def test_split_by_slices_warns_in_provenance_and_report(tmp_path: Path) -> None:
    write_pictures(tmp_path, 6)
    write_study(tmp_path, {"split": {"method": "slices"}})
    study, _ = again(tmp_path)
    assert study.split.warning is not None
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["warnings"] == [study.split.warning]
    assert provenance["split"]["unit"] == "slice"
    tables = list((tmp_path / "out").glob("*.csv"))
    assert len(tables) == 15
    for table in tables:
        if table.name != "sites.csv":  # It has no row of one site.
            assert set(pd.read_csv(table)["warning"]) == {study.split.warning}, table.name
    page = write_report(tmp_path / "out").read_text()
    assert page.count("Split by slices: slices of one subject lie in training and in test") > 3


def tables_of(study: Path, folder: Path) -> dict[str, Path]:
    """The scores of each arm as another tool would give them."""
    scores = pd.read_csv(study / "scores.csv", dtype=str, keep_default_na=False)
    paths = {}
    for arm, table in scores.groupby("arm"):
        paths[str(arm)] = folder / f"{arm}.csv"
        table.drop(columns="arm").to_csv(paths[str(arm)], index=False)
    return paths


def test_tables_of_a_study_compare_as_the_study_did(original: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compare_tables(tables_of(original / "out", tmp_path), out, margin=0.05)
    for name in ("pairs", "differences", "summary"):
        pair = (pd.read_csv(folder / f"{name}.csv") for folder in (out, original / "out"))
        ours, theirs = (
            table.drop(columns=["ci_low", "ci_high", "p", "p_holm", "sentence"], errors="ignore")
            for table in pair
        )
        pd.testing.assert_frame_equal(ours, theirs)
    provenance = json.loads((out / "provenance.json").read_text())
    assert "cohort" not in provenance
    assert "split" not in provenance
    assert not (out / "table1.csv").exists()
    assert write_report(out) == out / "report.html"


def test_comparing_tables_loads_no_torch(original: Path, tmp_path: Path) -> None:
    paths = tables_of(original / "out", tmp_path)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from hemaseg.studies.study import compare_tables\n"
        f"tables = {{name: Path(path) for name, path in {[(k, str(v)) for k, v in paths.items()]}}}"
        f"\nfolder = Path({str(tmp_path / 'out')!r})\n"
        "compare_tables(tables, folder, margin=0.05)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "out" / "comparison.json").exists()


def write_scores(folder: Path, column: str, subjects: list[str] | None = None) -> dict[str, Path]:
    """Arm B has 1 more than arm A, give or take a little, in each of 20 subjects."""
    paths = {}
    for arm, mean in (("A", 0.2), ("B", 0.5)):
        values = mean + 0.01 * np.random.default_rng(int(10 * mean)).random(20)
        names = subjects or [f"s{number}" for number in range(20)]
        paths[arm] = folder / f"{arm}.csv"
        pd.DataFrame({"subject": names, column: values}).to_csv(paths[arm], index=False)
    return paths


@pytest.mark.parametrize(
    ("metric", "said", "better"),
    [
        ("dice", None, "B"),
        ("hd95_mm", None, "A"),
        ("absolute_volume_error_ml", None, "A"),
        ("hd95_mm", False, "A"),
        ("kappa", True, "B"),
        ("minutes", False, "A"),
    ],
)
def test_better_is_higher_or_lower_as_the_metric_has_it(
    tmp_path: Path, metric: str, said: bool | None, better: str
) -> None:
    comparison = compare_tables(
        write_scores(tmp_path, metric), tmp_path / "out", metric=metric, higher_is_better=said
    )
    assert f"{better} is better than" in comparison.verdict


@pytest.mark.parametrize(
    ("metric", "margin", "is_refused"),
    [
        ("dice", 0.99, False),
        ("precision", 1.0, True),
        ("surface_dice", 2.0, True),
        ("hd95_mm", 2.0, False),
        ("absolute_volume_error_ml", 2.0, False),
    ],
)
def test_a_margin_beyond_the_range_of_the_metric_is_refused(
    tmp_path: Path, metric: str, margin: float, is_refused: bool
) -> None:
    """2 was meant as 2 %, and everything would be equivalent."""
    paths, out = write_scores(tmp_path, metric), tmp_path / "out"
    if is_refused:
        with pytest.raises(ConfigError, match=f"--margin: margin is {margin:g}, expected less "):
            compare_tables(paths, out, metric=metric, margin=margin)
    else:
        assert compare_tables(paths, out, metric=metric, margin=margin).margin == margin


@pytest.mark.parametrize(
    ("metric", "said", "words"),
    [
        ("kappa", None, "metric kappa: unknown whether higher is better, known for dice, iou"),
        ("hd95_mm", True, "metric hd95_mm: lower is better, found the opposite"),
        ("dice", False, "metric dice: higher is better, found the opposite"),
        ("volume_error_ml", False, "neither higher nor .* Compare absolute_volume_error_ml"),
        ("volume_error_ml", None, "metric volume_error_ml: has a sign"),
    ],
)
def test_an_unknown_or_wrong_direction_is_refused(
    tmp_path: Path, metric: str, said: bool | None, words: str
) -> None:
    paths = write_scores(tmp_path, metric)
    with pytest.raises(ComparisonError, match=words):
        compare_tables(paths, tmp_path / "out", metric=metric, higher_is_better=said)
    assert not (tmp_path / "out").exists()


def test_subjects_may_have_any_name(tmp_path: Path) -> None:
    names = ["NA", "nan", "null", "None", "007", "7", "1e3", "\u00c4 b", *map(str, range(8, 20))]
    comparison = compare_tables(write_scores(tmp_path, "dice", names), tmp_path / "out")
    assert comparison.num_subjects == 20
    assert set(comparison.differences["subject"]) == set(names)


def test_tables_are_not_compared_into_a_study_or_over_themselves(
    original: Path, tmp_path: Path
) -> None:
    paths = write_scores(tmp_path, "dice")
    with pytest.raises(ComparisonError, match="out: holds a study with runs of its own"):
        compare_tables(paths, original / "out")
    paths["A"] = paths["A"].rename(tmp_path / "scores.csv")
    before = paths["A"].read_bytes()
    with pytest.raises(ComparisonError, match=r"scores\.csv: is one of the tables to compare"):
        compare_tables(paths, tmp_path)
    assert paths["A"].read_bytes() == before
