import html
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest

from hemaseg.cli import main
from hemaseg.cohorts.split import make_split, parts
from hemaseg.cohorts.table import read_cohort
from hemaseg.config import Recipe, StudyConfig, read_config
from hemaseg.demo import prepare_demo
from hemaseg.errors import ConfigError
from hemaseg.models.catalogue import MODELS
from hemaseg.phantoms import writing
from hemaseg.phantoms.heads import synthesise

MADE = cache(synthesise)


@pytest.fixture(autouse=True, scope="module")
def _each_head_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "synthesise", MADE)
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    progress: list[tuple[int, int]] = []
    path = prepare_demo(folder, num_subjects=12, progress=lambda *done: progress.append(done))
    assert path == folder / "study.toml"
    assert progress == [(number, 12) for number in range(1, 13)]
    return folder


def test_files_are_in_the_package_and_valid(prepared: Path) -> None:
    for name in ("recipe.toml", "study.toml"):
        packaged = files("hemaseg.demo").joinpath(name).read_text(encoding="utf-8")
        assert (prepared / name).read_text(encoding="utf-8") == packaged
    read_config(prepared / "recipe.toml", Recipe)
    study = read_config(prepared / "study.toml", StudyConfig)
    assert [arm.model for arm in study.arms] == [*MODELS][:3]
    assert study.comparison.margin is not None
    assert study.split.method == "folds"
    assert "say nothing about patients" in study.data_notice


@pytest.mark.parametrize("num_subjects", [12, 13, 16, 17, 24, 33])
def test_every_fold_can_be_trained_and_validated(tmp_path: Path, num_subjects: int) -> None:
    study = read_config(prepare_demo(tmp_path, num_subjects=num_subjects), StudyConfig)
    cohort = read_cohort(tmp_path / "cohort.csv")
    assert len(cohort.subjects) == num_subjects
    assert sum(not image.has_lesion for image in cohort.images) == num_subjects // 8
    split = make_split(cohort, study.split)
    for fold in range(len(split.folds)):
        selected = parts(split, cohort, fold)
        for part in (selected.train, selected.validation, selected.test):
            assert any(image.has_lesion for image in part.images)


def test_demo_runs_from_heads_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_demo(tmp_path, num_subjects=12)
    # Files that were edited are kept, which makes a short test of this.
    for name, key, value in (
        ("recipe.toml", "num_epochs", 1),
        ("study.toml", "num_folds", 2),
        ("study.toml", "validation_share", 0.34),
    ):
        text, num_found = re.subn(f"{key} = .*", f"{key} = {value}", (tmp_path / name).read_text())
        assert num_found == 1
        (tmp_path / name).write_text(text)
    arguments = ["demo", "--output", str(tmp_path), "--num-subjects", "12"]
    monkeypatch.setattr(sys, "argv", ["hemaseg", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert f"Report: {tmp_path / 'study' / 'report.html'}" in printed
    assert printed.endswith("these scores say nothing about patients.\n")
    costs = pd.read_csv(tmp_path / "study" / "costs.csv")
    assert sorted(costs["model"].unique()) == ["dense_unet", "dr_unet", "unet"]
    assert (len(costs), set(costs["num_epochs"])) == (6, {1})
    page = (tmp_path / "study" / "report.html").read_text(encoding="utf-8")
    for words in ("U-Net", "DR_U-Net", "Dense_U-Net", "Not a medical device", "patients"):
        assert words in page
    verdict = re.search("^Verdict: (.*)$", printed, re.MULTILINE)
    assert verdict is not None
    assert verdict[1] in html.unescape(page)


def test_a_demo_of_another_size_is_refused(prepared: Path) -> None:
    with pytest.raises(ConfigError, match="holds a demo of 12 heads, expected 24"):
        prepare_demo(prepared, num_subjects=24)


def test_files_of_others_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "cohort.csv").write_text("mine")
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path}: holds files")):
        prepare_demo(tmp_path, num_subjects=12)
    assert [path.name for path in tmp_path.iterdir()] == ["cohort.csv"]
    assert (tmp_path / "cohort.csv").read_text() == "mine"
