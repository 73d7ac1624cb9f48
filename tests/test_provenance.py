import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hemaseg.cohorts.index import index_folder
from hemaseg.cohorts.split import split_folds
from hemaseg.cohorts.table import CaseImage, Cohort
from hemaseg.config import StudyConfig
from hemaseg.studies.provenance import write_provenance
from hemaseg.versions import versions
from small_heads import write_heads


def written(folder: Path, **parts: Any) -> dict[str, Any]:
    write_provenance(folder, **parts)
    content: dict[str, Any] = json.loads((folder / "provenance.json").read_text())
    return content


def test_without_cohort_there_are_time_command_and_versions(tmp_path: Path) -> None:
    content = written(tmp_path)
    assert datetime.now(UTC) - datetime.fromisoformat(content["created"]) < timedelta(minutes=1)
    assert set(versions()) <= set(content)
    assert content["warnings"] == []
    assert not {"cohort", "split"} & set(content)


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/opt/venv/bin/hemaseg", "compare", "my study.toml"], "hemaseg compare 'my study.toml'"),
        (["/opt/src/hemaseg/__main__.py", "demo"], "hemaseg demo"),
        (["scripts/mine.py", "-x"], "mine.py -x"),
    ],
)
def test_the_command_can_be_typed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], command: str
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert written(tmp_path)["command"] == command


def test_cohort_and_split_are_described(tmp_path: Path) -> None:
    write_heads(tmp_path / "scans", num_subjects=8, seed=1)  # every eighth has no lesion
    cohort = index_folder(tmp_path / "scans", modality="CT", site_pattern="^([AB])_")
    split = split_folds(cohort, num_folds=2, seed=3)
    arm = {"model": "unet", "recipe": "recipe.toml"}
    config = StudyConfig.model_validate(
        {
            "name": "heads",
            "description": "x",
            "cohort": "cohort.csv",
            "data_notice": "Synthetic.",
            "arms": [arm | {"name": "a"}, arm | {"name": "b"}],
        }
    )
    content = written(tmp_path, cohort=cohort, split=split, config=config)
    assert content["cohort"] == {
        "name": "heads",
        "num_subjects": 8,
        "num_images": 8,
        "num_marked_subjects": 8,
        "num_marked_images": 8,
        "num_images_with_lesion": 7,
        "sites": {"A": 4, "B": 4},
        "modality": "CT",
        "sha256": cohort.sha256,
        "description": "Synthetic.",
    }
    assert content["split"] == {
        "method": "folds",
        "unit": "subject",
        "seed": 3,
        "sha256": split.sha256,
        "num_folds": 2,
    }
    assert content["warnings"] == []


def test_what_is_not_known_of_a_cohort_is_called_unknown(tmp_path: Path) -> None:
    image = CaseImage(
        subject="p1", scan="p1", site="", modality="", slice=1,
        image=Path("p1_1.png"), mask=None, num_rows=4, num_columns=4, num_slices=1,
        spacing_mm=None, lesion_pixels=None, lesion_ml=float("nan"), sha256="0" * 64,
    )  # fmt: skip
    cohort = written(tmp_path, cohort=Cohort((image,)))["cohort"]
    assert (cohort["sites"], cohort["modality"]) == ({"unknown": 1}, "unknown")
    assert (cohort["name"], cohort["description"]) == ("", "")
    assert (cohort["num_images"], cohort["num_marked_images"]) == (1, 0)
    assert (cohort["num_subjects"], cohort["num_marked_subjects"]) == (1, 0)
