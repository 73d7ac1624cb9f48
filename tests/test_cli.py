import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from command_line import Verb, child, files
from hemaseg import cli
from hemaseg.cli import program
from hemaseg.cohorts.index import index_folder
from hemaseg.cohorts.split import split_holdout, write_split
from hemaseg.cohorts.table import write_cohort
from hemaseg.config import IntensityConfig, ModelConfig
from hemaseg.models.catalogue import build_model
from hemaseg.training.checkpoint import load_model, save_model
from small_heads import write_heads

README = Path(__file__).resolve().parents[1] / "README.md"
VERBS = [command.callback.__name__ for command in cli.app.registered_commands if command.callback]
TABLE_I = "--mean 0.8361 --mean 0.8281 --mean 0.8359 --sd 0.156 --sd 0.1727 --sd 0.131"
RECIPE = """
description = "test"
slices = { image_size = 32 }
training = { num_epochs = 1, batch_size = 64 }
"""
STUDY = """
name = "test"
description = "two arms"
cohort = "cohort.csv"
device = "cpu"
split = { method = "holdout" }
comparison = { margin = 0.05, num_bootstrap = 199 }
arms = [
    { name = "a", model = "unet", recipe = "recipe.toml", options = { base_width = 4 } },
    { name = "b", model = "dr_unet", recipe = "recipe.toml", options = { base_width = 4 } },
]
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans, their table and split, a recipe, a study file, a run, and some that are damaged."""
    folder = tmp_path_factory.mktemp("original")
    write_heads(folder / "scans", num_subjects=12, seed=1)
    cohort = index_folder(folder / "scans", modality="CT", site_pattern="^([AB])_")
    write_cohort(cohort, folder / "cohort.csv")
    write_split(split_holdout(cohort, seed=0), folder / "split.json")
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "study.toml").write_text(STUDY)
    torch.manual_seed(0)
    model = ModelConfig(name="unet", options={"base_width": 4})
    (folder / "run").mkdir()
    network = build_model(model.name, model.options)
    save_model(
        folder / "run",
        network,
        model,
        image_size=32,
        intensity=IntensityConfig(),
        threshold=0.5,
    )
    (folder / "empty").mkdir()
    (folder / "typo.toml").write_text(RECIPE.replace("num_epochs", "num_epoch"))
    for number in range(20):
        (folder / f"scores{number % 2}.csv").write_text("subject,dice\n")
    for name, base in (("one.csv", 0.7), ("two.csv", 0.75)):
        dice = base + 0.1 * np.random.default_rng(int(100 * base)).random(20)
        table = pd.DataFrame({"subject": [f"p{k}" for k in range(20)], "dice": dice})
        table.to_csv(folder / name, index=False)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the verbs run."""
    shutil.copytree(original, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_readme_and_help_name_the_same_verbs(hemaseg: Verb) -> None:
    table = README.read_text().partition("## The verbs")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `hemaseg (\w+)", table, re.MULTILINE)) == set(VERBS)
    listed = hemaseg("--help").out
    for verb in VERBS:
        line = re.search(rf"^  {verb} .*", listed, re.MULTILINE)
        assert line is not None
        assert not line[0].endswith("...")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(hemaseg: Verb, verb: str) -> None:
    ended = hemaseg(verb, "--help")
    assert ended.status == 0
    assert "Usage: " in ended.out


def test_version(hemaseg: Verb) -> None:
    assert re.fullmatch(r"hemaseg \d+\.\d+\.\d+\n", hemaseg("--version").out)


def test_module_can_be_run() -> None:
    command = [sys.executable, "-m", "hemaseg", "anova", *TABLE_I.split(), "-n", "64"]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    assert ended.stdout.startswith("F(2, 189) = 0.0560, p = 0.9455\n")
    assert ended.stderr == ""


@pytest.mark.parametrize(("size", "p"), [(64, "p = 0.9455"), (497, "p = 0.647")])
def test_anova_replays_table_1_of_the_paper(hemaseg: Verb, size: int, p: str) -> None:
    ended = hemaseg("anova", *TABLE_I.split(), "-n", size)
    assert p in ended.out
    assert "does not show that the groups are equal" in ended.out
    result = json.loads(hemaseg("anova", *TABLE_I.split(), "-n", size, "--json").out)
    assert f"p = {result['p']:.4f}".startswith(p)
    assert (result["df_between"], result["df_within"]) == (2, 3 * (size - 1))


def test_anova_says_what_the_table_leaves_open(hemaseg: Verb) -> None:
    lines = hemaseg("anova", *TABLE_I.split(), "-n", "64").out.splitlines()
    assert lines[1:3] == [
        "Rounded to 4 decimals, such means and SDs give this p with n = 63 to 65.",
        "Group 1 minus group 2: 0.0080, 95 % interval -0.0496 to 0.0656",
    ]
    result = json.loads(hemaseg("anova", *TABLE_I.split(), "-n", "64", "--json").out)
    assert result["num_consistent"] == [63, 65]
    pairs = [(one["first"], one["second"]) for one in result["differences"]]
    assert pairs == [(1, 2), (1, 3), (2, 3)]
    # Of groups of several sizes, nobody knows which of them to look for.
    sizes = ["-n", "63", "-n", "64", "-n", "65"]
    assert "Rounded" not in hemaseg("anova", *TABLE_I.split(), *sizes).out


def test_anova_prints_no_p_of_zero(hemaseg: Verb) -> None:
    ended = hemaseg("anova", "--mean=0.5", "--mean=0.9", "--sd=0.1", "--sd=0.1", "-n64")
    # Means 0.4 apart with SD 0.1 and n 64: F = 64 * 0.08 / 0.01.
    assert ended.out.startswith("F(1, 126) = 512.0000, p < 0.0001\n")


def test_models_as_text_and_json(hemaseg: Verb) -> None:
    costs = json.loads(hemaseg("models", "--json").out)["networks"]
    assert {cost["name"]: cost["num_parameters"] for cost in costs}["unet"] == 31_114_305
    assert "31,114,305" in hemaseg("models").out


def test_from_scans_to_report(hemaseg: Verb, folder: Path) -> None:
    index = ["index", "scans", "-o", "new/cohort.csv", "--site-pattern", "^([AB])_"]
    assert "Modality is unknown" in hemaseg(*index).out
    ended = hemaseg(*index, "--force", "--modality", "CT")
    assert ended.out == (
        "new/cohort.csv: 12 subjects of 2 sites (A, B), 12 images, 12 with a reference mask, "
        "11 with a lesion\n"
    )
    ended = hemaseg("split", "new/cohort.csv", "-o", "new/split.json", "--seed", 3)
    assert ended.out == "fold 0: subjects: training 8, validation 2, test 2\n"
    train = ["train", "new/cohort.csv", "--split", "new/split.json", "--recipe", "recipe.toml"]
    ended = hemaseg(*train, "--model", "dr_unet", "-o", "new/run", "--device", "cpu")
    assert ended.out.startswith("new/run: best epoch 1 of 1, validation Dice per subject ")
    ended = hemaseg(
        *(*train, "--model", "unet", "-o", "new/tuned", "--device", "cpu"),
        *("--start", "run"),
    )
    assert ended.out.startswith("new/tuned: best epoch 1 of 1, ")
    started = json.loads(Path("new/tuned/run.json").read_text())["start_weights_sha256"]
    begun, tuned = (json.loads(Path(f, "model.json").read_text()) for f in ("run", "new/tuned"))
    assert started == begun["weights_sha256"]
    # Options that no verb can say come with the weights.
    assert begun["model"] == tuned["model"] == {"name": "unet", "options": {"base_width": 4}}
    predict = [
        "predict",
        "new/cohort.csv",
        "--model",
        "new/run",
        "-o",
        "new/masks",
        "--device",
        "cpu",
    ]
    assert "expected " in hemaseg(*predict, "--split", "split.json").err  # Another split leaks.
    assert not Path("new/masks").exists()
    ended = hemaseg(*predict, "--split", "new/split.json")
    assert ended.out.startswith("new/masks: 32 slices, ")  # 2 subjects of 16 slices
    assert ended.out.endswith("not a medical device.\n")
    ended = hemaseg(*predict, "--force")
    assert ended.out.startswith("new/masks: 192 slices, ")
    ended = hemaseg("evaluate", "new/masks", "new/cohort.csv", "-o", "new/metrics.csv")
    counted = re.search(r"(\d+) subjects with a lesion, \d+ missed .*; (\d+) without", ended.out)
    assert counted is not None
    assert int(counted[1]) + int(counted[2]) == 12
    assert len(pd.read_csv("new/metrics.csv")) == 12
    named = ["--scores", "one=one.csv", "--scores", "two=two.csv"]
    ended = hemaseg("compare", *named, "--margin", 0.2, "-o", "new/study")
    assert "Verdict: " in ended.out
    assert "two is better than one" in ended.out
    page = Path("new/study/report.html")
    assert ended.out.endswith(f"Report: {page}\n")
    text = page.read_text()
    page.unlink()
    assert hemaseg("report", "new/study").out == f"{page}\n"
    assert page.read_text() == text


def test_compare_runs_a_study(hemaseg: Verb, folder: Path) -> None:
    ended = hemaseg("compare", "study.toml", "-o", "study")
    assert (ended.status, ended.err) == (0, "")
    assert "Verdict: " in ended.out
    assert ended.out.endswith(f"Report: {Path('study/report.html')}\n")
    provenance = json.loads((folder / "study" / "provenance.json").read_text())
    assert provenance["command"] == "hemaseg compare study.toml -o study"


def test_compare_lists_what_is_missing_and_does_one_run(hemaseg: Verb, folder: Path) -> None:
    listed = hemaseg("compare", "study.toml", "-o", "study", "--missing")
    assert listed.out.splitlines() == [
        "run 1, a, fold 0, seed 0: missing",
        "run 2, b, fold 0, seed 0: missing",
        "2 runs: 2 missing",
        "To do: --array=1-2",
    ]
    assert not (folder / "study" / "runs").exists()
    ended = hemaseg("compare", "study.toml", "-o", "study", "--run", 2)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == "run 2, b, fold 0, seed 0, of 2: complete\n"
    assert not (folder / "study" / "scores.csv").exists()
    listed = hemaseg("compare", "study.toml", "-o", "study", "--missing", "--json")
    content = json.loads(listed.out)
    assert content["array"] == "1"
    assert [row["status"] for row in content["runs"]] == ["missing", "complete"]
    assert content["runs"][1] == {
        "number": 2,
        "arm": "b",
        "fold": 0,
        "seed": 0,
        "status": "complete",
        "message": "",
        "folder": str(Path("study/runs/b/fold-0_seed-0")),
    }
    assert (
        "no such run, expected 1 to 2"
        in hemaseg("compare", "study.toml", "-o", "study", "--run", 3).err
    )
    assert hemaseg("compare", "study.toml", "-o", "study").status == 0
    listed = hemaseg("compare", "study.toml", "-o", "study", "--missing")
    assert listed.out.endswith("\n2 runs: 2 complete\n")


def test_evaluate_two_folders_of_pictures(hemaseg: Verb, tmp_path: Path) -> None:
    square = np.zeros((8, 8), np.uint8)
    square[2:6, 2:6] = 255  # 16 pixels
    half = np.zeros((8, 8), np.uint8)
    half[2:6, 2:4] = 255  # 8 of them
    for name, mask in (("predictions", half), ("references", square)):
        (tmp_path / name).mkdir()
        Image.fromarray(mask).save(tmp_path / name / "p1_1.png")
    output = tmp_path / "m.csv"
    ended = hemaseg(
        "evaluate", tmp_path / "predictions", tmp_path / "references", "-o", output, "--json"
    )
    summary = json.loads(ended.out)
    rows = [row for row in summary["metrics"] if row["unit"] == "subject with lesion"]
    of_subjects = {row["metric"]: row for row in rows}
    assert of_subjects["dice"]["mean"] == pytest.approx(2 * 8 / (16 + 8))
    assert of_subjects["hd95_mm"]["num_undefined"] == 1  # pictures know no mm
    assert pd.read_csv(output)["dice"].tolist() == [pytest.approx(2 / 3)]
    assert (tmp_path / "m_slices.csv").exists()
    assert (tmp_path / "m_batches.csv").exists()


TRAIN = "train cohort.csv --split split.json --recipe recipe.toml --model unet -o new"
SCORES = "compare --scores a=one.csv --scores b=two.csv -o new"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        # Names that do not exist, or are of the wrong kind.
        ("index nowhere -o new.csv", "nowhere: no such folder"),
        ("index empty -o new.csv", "empty: no image among 0 files"),
        ("index recipe.toml -o new.csv", "recipe.toml: columns"),
        ("index cohort.csv -o new.csv", "unknown: num_rows"),
        ("split nowhere.csv -o new.json", "nowhere.csv: cannot be read"),
        ("split scans -o new.json", "scans: cannot be read"),
        ("split scans/A_001/A_001.nii.gz -o new.json", "cannot be read"),
        (TRAIN.replace("cohort.csv", "scans"), "scans: cannot be read"),
        (TRAIN.replace("split.json", "cohort.csv"), "cohort.csv: not a split"),
        (TRAIN.replace("recipe.toml", "nowhere.toml"), "nowhere.toml: no such file"),
        (TRAIN.replace("recipe.toml", "split.json"), "split.json: not valid TOML"),
        ("predict cohort.csv --model nowhere -o new", "nowhere: no such folder"),
        ("predict cohort.csv --model empty -o new", "model.json: no such file"),
        (
            "predict cohort.csv --model recipe.toml -o new",
            "recipe.toml: is a file, expected the folder of a model",
        ),
        ("evaluate nowhere scans -o new.csv", "nowhere: found nothing"),
        ("evaluate scans nowhere -o new.csv", "nowhere: found nothing"),
        ("evaluate empty cohort.csv -o new.csv", "empty: 0 predictions, expected 12"),
        ("evaluate scans recipe.toml -o new.csv", "recipe.toml: columns"),
        ("compare nowhere.toml -o new", "nowhere.toml: no such file"),
        ("compare scans -o new", "scans: cannot be read"),
        ("compare recipe.toml -o new", 'key "arms" is missing'),
        ("compare --scores a=one.csv --scores b=nowhere.csv -o new", "nowhere.csv: cannot be read"),
        ("compare --scores a=one.csv --scores b=scans -o new", "scans: cannot be read"),
        ("compare --scores a=one.csv --scores b=scores0.csv -o new", "scores0.csv: found columns"),
        ("report nowhere", "nowhere: no such folder"),
        ("report empty", "comparison.json"),
        # Unknown words.
        ("dance", "No such command 'dance'"),
        (TRAIN.replace("unet", "vnet"), 'model "vnet" is unknown, expected one of unet, dr_unet'),
        (TRAIN.replace("recipe.toml", "typo.toml"), 'did you mean "num_epochs"?'),
        (f"{TRAIN} --device gpu", 'device "gpu" cannot be used'),
        ("split cohort.csv -o new.json --method dice", "method is 'dice'"),
        ("index scans -o new.csv --modality PET", "modality 'PET', expected CT or MRI"),
        ("index scans -o new.csv --site-pattern (", "pattern '('"),
        (f"{SCORES} --metric kappa", "metric kappa: unknown whether higher is better"),
        # Numbers out of range.
        (f"{TRAIN} --fold 9", "fold 9, expected 0 to 0"),
        (f"{TRAIN} --seed -1", "'--seed'"),
        (f"{TRAIN} --start nowhere", "nowhere: no such folder, and no"),
        (
            f"{TRAIN.replace('unet', 'dr_unet')} --start run",
            "weights of unet with base_width = 4, expected dr_unet",
        ),
        (f"{TRAIN.replace('-o new', '-o run')} --start run --force", "would replace the weights"),
        (TRAIN.replace("--model unet ", ""), "no network to train, expected --model, or --start"),
        (f"{TRAIN} --start empty", "model.json: no such file"),
        (f"{TRAIN} --seed 99999999999999999999", "'--seed'"),
        ("split cohort.csv -o new.json --validation-share 1.5", "validation_share is 1.5"),
        ("split cohort.csv -o new.json --validation-share nan", "validation_share is nan"),
        ("split cohort.csv -o new.json --method folds --num-folds 99", "99 folds, expected 2 to"),
        ("split cohort.csv -o new.json --method site --site Q", "site 'Q' has 0 subjects"),
        ("evaluate scans scans -o new.csv --tolerance-mm inf", "'--tolerance-mm'"),
        ("evaluate scans scans -o new.csv --tolerance-mm -1", "'--tolerance-mm'"),
        (f"{SCORES} --margin -1", "--margin: margin is -1.0: input should be greater than 0"),
        (f"{SCORES} --margin nan", "margin is nan"),
        ("anova --mean 1 --sd 1 -n 9", "found 1 means"),
        ("anova --mean 1 --mean 2 --sd 1 --sd 1 -n 1", "group sizes [1, 1]"),
        ("demo -o new --num-subjects 3", "'--num-subjects'"),
        # Options that would have no effect.
        ("index one.csv -o new.csv --modality CT", "--modality: only for folders"),
        (
            "evaluate scans cohort.csv -o new.csv --reference-label 1",
            "only for folders; cohort.csv",
        ),
        ("split cohort.csv -o new.json --site A", "--site: not for --method holdout"),
        (
            "split cohort.csv -o new.json --method site --site A --num-folds 3 --test-share 0.2",
            "--num-folds, --test-share: not for --method site",
        ),
        ("compare study.toml -o new --margin 0.1 --force", "--margin, --force: only with --scores"),
        ("compare study.toml -o new --jobs 2 --run 1", "--jobs, --run: not together"),
        ("compare study.toml -o new --run 1 --missing", "--run, --missing: not together"),
        ("compare study.toml -o new --json", "--json: only with --missing"),
        ("compare study.toml -o new --missing --track mlflow", "--track: not with --missing"),
        ("compare study.toml -o new --track wandb", "tracker wandb is unknown"),
        (f"{SCORES} --jobs 2 --missing", "--jobs, --missing: only with a study file"),
        ("compare study.toml -o new --jobs 0", "'--jobs'"),
        ("compare study.toml -o new --run 0", "'--run'"),
        ("compare -o new", "either a study file or --scores"),
        ("compare study.toml --scores a=one.csv -o new", "either a study file or --scores"),
        ("compare --scores one.csv -o new", '--scores "one.csv": expected NAME=FILE'),
        ("compare --scores a=one.csv --scores a=two.csv -o new", '--scores "a=two.csv"'),
        (f"{SCORES} --lower-is-better", "metric dice: higher is better, found the opposite"),
        # Output that exists or cannot be.
        ("index scans -o cohort.csv", "cohort.csv: exists"),
        ("index scans -o empty --force", "empty: is a folder"),
        ("index scans -o recipe.toml/new.csv", "recipe.toml: is a file, expected a folder"),
        ("split cohort.csv -o split.json", "split.json: exists"),
        (f"{TRAIN}/../recipe.toml".replace("new/../", ""), "recipe.toml: is a file"),
        ("predict cohort.csv --model run -o recipe.toml", "recipe.toml: is a file"),
        ("evaluate scans scans -o one.csv", "one.csv: exists"),
        ("evaluate scans scans -o new.txt", "new.txt: expected a name that ends in .csv"),
        ("compare study.toml -o recipe.toml", "recipe.toml: is a file"),
        (f"{SCORES}/../recipe.toml/x".replace("new/../", ""), "recipe.toml: is a file"),
        ("demo -o recipe.toml", "recipe.toml: is a file"),
        ("demo -o scans", "scans: holds files"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    hemaseg: Verb, folder: Path, arguments: str, words: str
) -> None:
    before = files(folder)
    ended = hemaseg(*arguments.split())
    assert ended.status == 2
    assert ended.out == ""
    assert words in ended.err
    assert ended.err.startswith(("hemaseg: ", "Usage: "))
    assert files(folder) == before
    assert not (folder / "new").exists()


def test_force_replaces_what_exists(hemaseg: Verb, folder: Path) -> None:
    (folder / "old.csv").write_text("old")
    (folder / "old.json").write_text("old")
    for arguments in (
        ["index", "scans", "-o", "old.csv"],
        ["split", "cohort.csv", "-o", "old.json"],
        ["evaluate", "scans", "scans", "-o", "one.csv"],
        ["predict", "cohort.csv", "--model", "run", "-o", "masks"],
    ):
        if arguments[0] == "predict":
            assert hemaseg(*arguments).status == 0
        assert "exists" in hemaseg(*arguments).err
        assert hemaseg(*arguments, "--force").status == 0
    assert (folder / "old.csv").read_text().startswith("subject,scan")
    assert json.loads((folder / "old.json").read_text())["unit"] == "subject"


def test_a_comparison_is_not_replaced_unasked(hemaseg: Verb, folder: Path) -> None:
    assert hemaseg(*SCORES.split()).status == 0
    before = files(folder / "new")
    ended = hemaseg(*SCORES.replace("two.csv", "one.csv").split())
    assert (ended.status, files(folder / "new")) == (2, before)
    assert "new/scores.csv: exists" in ended.err
    assert hemaseg(*SCORES.split(), "--force").status == 0


def test_own_table_is_not_written_over_by_the_joined_one(hemaseg: Verb, folder: Path) -> None:
    (folder / "one.csv").rename(folder / "scores.csv")
    (folder / "study.toml").unlink()
    arguments = SCORES.replace("one", "scores").replace("new", ".").split()
    before = files(folder)
    assert "scores.csv: is one of the tables to compare" in hemaseg(*arguments, "--force").err
    assert files(folder) == before


def damaged(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-20])
    return path


@pytest.mark.skipif(os.name == "nt", reason="links need a right that few have on Windows")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("predict scans --model run -o loop", "loop: "),
        (
            "train cohort.csv --split split.json --recipe recipe.toml --start run -o loop",
            "loop: ",
        ),
        ("compare --scores A=one.csv --scores B=two.csv --margin 0.05 -o loop", "loop: "),
        (
            "compare --scores A=loop --scores B=two.csv --margin 0.05 -o out",
            "Too many levels of symbolic links",
        ),
    ],
)
def test_a_link_to_itself_gives_a_message(
    hemaseg: Verb, folder: Path, arguments: str, words: str
) -> None:
    (folder / "loop").symlink_to("loop")
    ended = hemaseg(*arguments.split())
    assert ended.status == 2
    assert words in ended.err


def test_damaged_and_wrong_files_are_all_named(hemaseg: Verb, folder: Path) -> None:
    damaged(folder / "scans" / "A_001" / "A_001.nii.gz")
    (folder / "scans" / "B_002" / "B_002.nii.gz").write_text("not a volume")
    mask = folder / "scans" / "A_003" / "A_003_mask.nii.gz"
    image = nib.Nifti1Image.from_filename(mask)
    voxels = np.asarray(image.dataobj).copy()
    voxels[0, 0, :3] = (1, 2, 3)
    nib.save(nib.Nifti1Image(voxels, image.affine), mask)
    ended = hemaseg("index", "scans", "-o", "new.csv")
    assert (ended.status, (folder / "new.csv").exists()) == (2, False)
    assert "scans: 3 problems" in ended.err
    for name in ("A_001.nii.gz", "B_002.nii.gz", "A_003_mask.nii.gz"):
        assert f"{name}: " in ended.err


def test_a_damaged_picture_is_named(hemaseg: Verb, folder: Path) -> None:
    (folder / "pictures").mkdir()
    for name in ("a_1", "a_1_mask", "a_2", "a_2_mask"):
        picture = np.zeros((16, 16), np.uint8)
        picture[4:8, 4:8] = 255
        Image.fromarray(picture).save(folder / "pictures" / f"{name}.png")
    damaged(folder / "pictures" / "a_2.png")
    ended = hemaseg("index", "pictures", "-o", "new.csv")
    assert ended.status == 2
    assert "pictures: 1 problem" in ended.err
    assert "a_2.png: " in ended.err


def test_scans_that_moved_or_changed_are_noticed(hemaseg: Verb, folder: Path) -> None:
    head = folder / "scans" / "A_001" / "A_001.nii.gz"
    shutil.copy(folder / "scans" / "A_003" / "A_003.nii.gz", head)
    ended = hemaseg("predict", "cohort.csv", "--model", "run", "-o", "new")
    assert ended.status == 2
    assert "A_001.nii.gz: hash " in ended.err
    assert "index the folder again" in ended.err
    assert not (folder / "new" / "predictions.csv").exists()
    (folder / "scans").rename(folder / "elsewhere")
    ended = hemaseg("predict", "cohort.csv", "--model", "run", "-o", "new")
    assert ended.status == 2
    assert "cohort.csv: 24 problems" in ended.err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("A_001,A_001,A,CT", "A_001,A_001,A,XR", "row 2: "),
        (",64,64,16,", ",64,64,many,", "num_slices 'many'"),
        ("subject,", "patient,", "missing: subject"),
        ("\nA_003,A_003,A", "\nA_003,A_003,A\nA_003,A_003,A", "fields"),
        ("\n", "\r\x00\n", "cohort.csv"),
    ],
)
def test_a_table_that_was_edited_wrongly_is_refused(
    hemaseg: Verb, folder: Path, old: str, new: str, words: str
) -> None:
    path = folder / "cohort.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    ended = hemaseg("split", "cohort.csv", "-o", "new.json")
    assert ended.status == 2
    assert words in ended.err


def test_names_may_have_blanks_and_any_letters(hemaseg: Verb, folder: Path) -> None:
    place = folder / "Klinik f\u00fcr \u00c4rzte (neu)" / "\u5934 1"
    place.parent.mkdir()
    (folder / "scans").rename(place)
    table = place.parent / "F\u00e4lle & Co.csv"
    assert hemaseg("index", place, "-o", table, "--modality", "CT").status == 0
    assert hemaseg("split", table, "-o", place.parent / "x y.json").status == 0
    masks, scores = place.parent / "\u043c\u0430\u0441\u043a\u0438", place.parent / "r\u00e9s.csv"
    assert hemaseg("predict", table, "--model", "run", "-o", masks).status == 0
    assert hemaseg("evaluate", masks, table, "-o", scores).status == 0
    named = ["--scores", f"\u00c4 <b>&={scores}", "--scores", f"b={scores}"]
    metric = ["--metric", "absolute_volume_error_ml"]
    ended = hemaseg("compare", *named, *metric, "-o", place.parent / "\u00dc")
    assert ended.status == 0
    assert "\u00c4 &lt;b&gt;&amp;" in (place.parent / "\u00dc" / "report.html").read_text()


@pytest.mark.parametrize("is_subject", [True, False])
def test_names_that_are_not_utf_8_give_a_message(folder: Path, is_subject: bool) -> None:
    name = os.fsdecode(b"M\xfcller")  # Latin-1, from an old archive
    try:
        (folder / "scans" / name).mkdir()
    except OSError as error:
        pytest.skip(f"this file system has no such names: {error}")
    for path in sorted((folder / "scans" / "A_001").iterdir()):
        parent = folder / "scans" / name / ("" if is_subject else "A_001")
        parent.mkdir(exist_ok=True)
        path.rename(parent / path.name)
    command = child("", *["index", "scans", "-o", "new.csv"])
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("hemaseg: ")
    assert "M\\udcfcller" in ended.stderr
    assert not (folder / "new.csv").exists()


@pytest.mark.parametrize(
    ("kind", "status", "word"),
    [(signal.SIGINT, 130, "stopped"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_while_training_leaves_a_run_that_goes_on(
    folder: Path, hemaseg: Verb, kind: int, status: int, word: str
) -> None:
    (folder / "recipe.toml").write_text(RECIPE.replace("num_epochs = 1", "num_epochs = 9999"))
    # A shell may start its background jobs with interruptions ignored.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    arguments = TRAIN.replace("unet", "dr_unet").split()
    with subprocess.Popen(
        child(code, *arguments, "--device", "cpu"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        table = folder / "new" / "training.csv"
        until = time.monotonic() + 300
        while not (table.exists() and table.read_text().count("\n") >= 2):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(kind)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (status, "", f"hemaseg: {word}\n")
    record = json.loads((folder / "new" / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert "weights of the best epoch kept" in record["message"]
    load_model(folder / "new")
    # On its own again, to an end that comes soon.
    config = folder / "new" / "config.toml"
    for wrong, words in (
        (f"{TRAIN.replace('unet', 'dr_unet')} --device cpu", "Pass --resume to go on"),
        ("train new --resume --model unet", "--model: not with --resume and a run folder"),
        ("train nowhere --resume", "nowhere/run.json: no such file"),
        ("train cohort.csv", "train needs --split, --recipe and --output"),
        ("train cohort.csv --resume", "train needs --split, --recipe and --output"),
        ("train new --resume --seed 1 --fold 2", "--fold, --seed: not with --resume and a run"),
        ("train new --resume --force", "--force: not with --resume, which replaces nothing"),
        (
            f"{TRAIN.replace('unet', 'dr_unet')} --device cpu --resume --seed 5",
            "begun with config.seed 0, asked for now 5",
        ),
    ):
        ended = hemaseg(*wrong.split())
        assert ended.status == 2
        assert words in ended.err
    config.write_text(config.read_text().replace("num_epochs = 9999", "num_epochs = 1"))
    ended = hemaseg("train", "new", "--resume")
    assert ended.status == 2
    assert "of another run than the others" in ended.err


def test_a_killed_training_resumes_to_the_bits_of_an_unbroken_one(
    folder: Path, hemaseg: Verb
) -> None:
    (folder / "recipe.toml").write_text(RECIPE.replace("num_epochs = 1", "num_epochs = 12"))
    arguments = [*TRAIN.replace("unet", "dr_unet").split(), "--device", "cpu"]
    assert hemaseg(*arguments).status == 0
    (folder / "new").rename(folder / "unbroken")
    with subprocess.Popen(
        child("", *arguments, "--checkpoint-every-s", "0"), stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 300
        while len(list(folder.glob("new/checkpoints/*.safetensors"))) < 2:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        process.kill()
    assert json.loads((folder / "new" / "run.json").read_text())["status"] == "running"
    ended = hemaseg("train", "new", "--resume", "--device", "cpu")
    assert ended.status == 0
    assert "The training went on from epoch " in ended.out
    for name in ("weights.safetensors", "model.json"):
        assert (folder / "new" / name).read_bytes() == (folder / "unbroken" / name).read_bytes()
    times = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    ended = hemaseg("train", "new", "--resume")
    assert (ended.status, ended.out) == (0, "new: complete already, nothing to do\n")
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == times


def test_a_run_folder_behind_a_link_resumes(folder: Path, hemaseg: Verb) -> None:
    """On clusters, run folders often lie on a scratch disk."""
    (folder / "scratch" / "deep").mkdir(parents=True)
    (folder / "new").symlink_to("scratch/deep", target_is_directory=True)
    arguments = [*TRAIN.replace("unet", "dr_unet").split(), "--device", "cpu"]
    assert hemaseg(*arguments).status == 0
    record = folder / "new" / "run.json"
    record.write_text(record.read_text().replace('"complete"', '"running"'))
    assert hemaseg("train", "new", "--resume").status == 0
    assert 'device = "cpu"' in (folder / "new" / "config.toml").read_text()
    record.write_text(record.read_text().replace('"complete"', '"running"'))
    (folder / "split.json").unlink()
    ended = hemaseg("train", "new", "--resume")
    assert ended.status == 2
    assert "split.json: no such file, from which new was begun" in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        "index scans -o new.csv",
        "split cohort.csv -o new.json",
        "evaluate scans scans -o new.csv",
        "compare --scores a=one.csv --scores b=two.csv -o new",
    ],
)
def test_a_full_disk_gives_a_message_and_no_half_file(folder: Path, arguments: str) -> None:
    pytest.importorskip("resource")
    before = set(files(folder))
    # To a program, a limit on the size of files is a disk that is full.
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
    ended = subprocess.run(child(code, *arguments.split()), capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("hemaseg: ")
    assert "File too large" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert set(files(folder)) == before


def test_a_disk_too_full_for_a_checkpoint_ends_training_and_it_goes_on_later(
    folder: Path, hemaseg: Verb
) -> None:
    pytest.importorskip("resource")
    # Weights of 44 MB fit, a checkpoint of three times that does not.
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10**8, 10**8))"
    arguments = [*TRAIN.replace("unet", "dr_unet").split(), "--device", "cpu"]
    ended = subprocess.run(
        child(code, *arguments, "--checkpoint-every-s", "0"), capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "a checkpoint of 125 MiB cannot be written (" in ended.stderr
    assert "File too large" in ended.stderr
    assert not list(folder.glob("new/checkpoints/*"))
    assert json.loads((folder / "new" / "run.json").read_text())["status"] == "failed"
    assert hemaseg("train", "new", "--resume", "--device", "cpu").status == 0


def test_unforeseen_errors_of_the_file_system_name_the_file(
    hemaseg: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(folder: Path) -> Path:
        raise OSError(13, "Permission denied", ".partial-1", None, "report.html")

    monkeypatch.setattr("hemaseg.reporting.report.write_report", refused)
    ended = hemaseg("report", "study")
    assert (ended.status, ended.err) == (2, "hemaseg: report.html: Permission denied\n")


def test_a_log_gets_a_line_of_progress_now_and_then(
    hemaseg: Verb, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hemaseg("index", "scans", "-o", "1.csv").err == ""
    monkeypatch.setattr(program, "LOG_EVERY_S", 0.0)
    lines = hemaseg("index", "scans", "-o", "2.csv").err.splitlines()
    assert lines == [f"reading ({number / 12:.0%})" for number in range(1, 13)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar(
    hemaseg: Verb, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert hemaseg("index", "scans", "-o", "new.csv").status == 0
    assert "reading" in terminal.getvalue()
    assert "100 %" in terminal.getvalue()
