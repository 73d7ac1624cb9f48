"""Studies whose runs take a second or two."""

from pathlib import Path
from typing import Any

import tomli_w

from hemaseg.cohorts.index import index_folder
from hemaseg.cohorts.table import write_cohort
from small_heads import write_heads

RECIPE: dict[str, Any] = {
    "description": "test",
    "slices": {"image_size": 32},
    "optimiser": {"learning_rate": 0.01},
    "training": {"num_epochs": 1, "batch_size": 64},
}
STUDY: dict[str, Any] = {
    "name": "test",
    "description": "two small networks",
    "cohort": "cohort.csv",
    "data_notice": "Synthetic heads.",
    "device": "cpu",
    "split": {"method": "folds", "num_folds": 2, "validation_share": 0.3},
    "comparison": {"margin": 0.05, "num_bootstrap": 199},
    "arms": [
        {"name": "one", "model": "unet", "recipe": "recipe.toml", "options": {"base_width": 8}},
        {"name": "two", "model": "dr_unet", "recipe": "recipe.toml", "options": {"base_width": 4}},
    ],
}


def write_study(folder: Path, study: dict[str, Any] | None = None, **recipe: Any) -> Path:
    """Study file and recipe beside a cohort; sections of the recipe may differ from `RECIPE`."""
    (folder / "recipe.toml").write_text(tomli_w.dumps(RECIPE | recipe))
    (folder / "study.toml").write_text(tomli_w.dumps(STUDY | (study or {})))
    return folder / "study.toml"


def write_cohort_of_heads(folder: Path) -> None:
    """Scans of 12 subjects, and their table."""
    write_heads(folder / "scans", num_subjects=12, seed=1)
    cohort = index_folder(folder / "scans", modality="CT", site_pattern="^([AB])_")
    write_cohort(cohort, folder / "cohort.csv")
