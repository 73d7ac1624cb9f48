"""What a study folder may lack, and every reason to refuse one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hemaseg.errors import ComparisonError, SplitError
from hemaseg.reporting.study_folder import read_study_folder, read_table
from small_study import ARMS, change_json, change_table, make_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete study; tests do not change it."""
    return make_study(tmp_path_factory.mktemp("study") / "small")


@pytest.fixture
def copy(study: Path, tmp_path: Path) -> Path:
    """A copy of the study, to be changed."""
    shutil.copytree(study, tmp_path / "small")
    return tmp_path / "small"


def test_all_files_are_read(study: Path) -> None:
    read = read_study_folder(study)
    assert read.name == "small"
    assert read.arms == ARMS
    assert (read.comparison.metric, read.comparison.margin) == ("dice", 0.02)
    assert read.provenance is not None
    assert read.provenance.cohort is not None
    assert read.provenance.cohort.num_subjects == 6
    assert read.split is not None
    assert len(read.split.folds) == 2
    assert [path for path, _ in read.settings] == [
        "study.toml", *(f"runs/{arm}/fold-0_seed-0/config.toml" for arm in ARMS),
    ]  # fmt: skip
    for table in (
        *(read.slices, read.training, read.costs, read.all_metrics, read.table1),
        *(read.volumes, read.volume_agreement, read.detection, read.sites),
    ):
        assert table is not None
        assert set(table["arm"]) == set(ARMS)


def test_what_may_be_absent_is_none(copy: Path) -> None:
    for path in copy.iterdir():
        if path.name not in (
            "scores.csv", "summary.csv", "pairs.csv", "differences.csv", "comparison.json",
        ):  # fmt: skip
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    read = read_study_folder(copy)
    optional = (read.provenance, read.split, read.slices, read.training, read.costs)
    assert (*optional, read.all_metrics, read.table1) == (None,) * 7
    assert (read.volumes, read.volume_agreement, read.detection, read.sites) == (None,) * 4
    assert read.settings == ()


def test_names_stay_text_and_numbers_may_be_undefined_or_infinite(copy: Path) -> None:
    """A subject called NA is a subject; an empty field is undefined, and inf is a number."""
    path = copy / "differences.csv"
    change_table(
        path,
        lambda table: table[:2].assign(
            subject=["NA", "007"], score_a=["inf", "0.5"], difference=["", "-0.1"]
        ),
    )
    table = read_table(path)
    assert table["subject"].tolist() == ["NA", "007"]
    np.testing.assert_equal(table["score_a"].to_numpy(), [np.inf, 0.5])
    np.testing.assert_equal(table["difference"].to_numpy(), [np.nan, -0.1])


def test_differences_metrics_and_sites_may_be_without_rows(copy: Path) -> None:
    for name in ("differences.csv", "all_metrics.csv", "sites.csv"):
        change_table(copy / name, lambda table: table[:0])
    read = read_study_folder(copy)
    assert read.differences.empty
    assert read.all_metrics is not None
    assert read.all_metrics.empty


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


def set_field(name: str, column: str, value: str) -> Callable[[Path], None]:
    """Set the field of a column in the first row."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(**{column: [value, *table[column][1:]]})

    return lambda folder: change_table(folder / name, change)


def drop(name: str, column: str) -> Callable[[Path], None]:
    return lambda folder: change_table(folder / name, lambda table: table.drop(columns=column))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("scores.csv"), r"scores\.csv: cannot be read as CSV .*No such file"),
        (remove("summary.csv"), r"summary\.csv: cannot be read as CSV .*No such file"),
        (remove("comparison.json"), r"comparison\.json: cannot be read as text .*No such file"),
        (write("pairs.csv", b""), r"pairs\.csv: cannot be read as CSV .*expected at least 1"),
        (write("scores.csv", b"\xff\xfe\x00arm"), r"scores\.csv: cannot be read as CSV .*utf-8"),
        (write("summary.csv", b'metric,arm\n"dice,x'), r"summary\.csv: cannot be read as CSV"),
        (
            write("table1.csv", b"arm,num_batches,mean,sd,sd\nU-Net,1,0.5,0.1,0.2\n"),
            r"table1\.csv: columns arm, num_batches, mean, sd, sd, expected each name once",
        ),
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
        *(
            (
                set_field("pairs.csv", "num_subjects", value),
                rf"pairs\.csv: row 2, num_subjects: found '{value}', expected a finite number from",
            )
            for value in ("", "inf", "-1", "1e400")
        ),
        (
            set_field("costs.csv", "num_epochs", "inf"),
            r"costs\.csv: row 2, num_epochs: found 'inf', expected a finite .*, or an empty field",
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
        (drop("all_metrics.csv", "num_infinite"), r"all_metrics\.csv: lacks num_infinite; found"),
        (
            replace_text("all_metrics.csv", "Dense-U-Net", "V-Net"),
            r"all_metrics\.csv: knows arm V-Net, but summary\.csv only DR-U-Net",
        ),
        (drop("volume_agreement.csv", "slope"), r"volume_agreement\.csv: lacks slope; found"),
        (
            replace_text("detection.csv", "Dense-U-Net", "V-Net"),
            r"detection\.csv: knows arm V-Net, but summary\.csv only DR-U-Net",
        ),
        (
            lambda folder: change_table(
                folder / "sites.csv", lambda table: table.assign(metric="iou")
            ),
            r"sites\.csv: knows iou, but the metric of .* is dice",
        ),
    ],
)
def test_damaged_studies_are_refused(
    copy: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(copy)
    with pytest.raises(ComparisonError, match=message):
        read_study_folder(copy)


def test_an_edited_split_is_refused(copy: Path) -> None:
    change_json(copy / "split.json", seed=6)
    with pytest.raises(SplitError, match=r"split\.json: hash"):
        read_study_folder(copy)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match="nowhere: no such folder"):
        read_study_folder(tmp_path / "nowhere")
