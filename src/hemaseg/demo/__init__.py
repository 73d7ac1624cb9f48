"""The study of `hemaseg demo`: synthetic heads, and TOML files that lie beside this one."""

import csv
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from hemaseg.cohorts.index import index_table
from hemaseg.cohorts.table import write_cohort
from hemaseg.errors import ConfigError
from hemaseg.files import write_text
from hemaseg.phantoms.heads import HeadOptions
from hemaseg.phantoms.writing import CASES, FACTS, write_heads

VOLUMES_ML = (10.0, 20.0, 35.0, 60.0)
"""Of the hematomas of the demo, in turn: large enough for its coarse slices."""


def prepare_demo(
    folder: Path, *, num_subjects: int, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Make heads in `scans/`, `cohort.csv`, `recipe.toml` and `study.toml`.

    A folder of an earlier demo is completed; its TOML files, which may have been edited, are kept.

    Args:
        folder: Made if needed; empty, or of an earlier demo of as many heads.
        num_subjects: Number of heads.
        progress: Called with the numbers of heads done and to do.

    Returns:
        The study file.

    Raises:
        ConfigError: The folder holds something else.
    """
    heads = folder / "scans" / FACTS  # written last, so the heads are complete
    if heads.exists():
        num_found = len(list(csv.DictReader(heads.read_text(encoding="utf-8").splitlines())))
        if num_found != num_subjects:
            raise ConfigError(
                f"{folder}: holds a demo of {num_found} heads, expected {num_subjects}. Choose "
                "another output folder, or delete this one."
            )
    elif folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"{folder}: holds files, none of them a finished {heads.relative_to(folder)}; expected "
            "an empty folder or an earlier demo. Choose another output folder, or delete this one."
        )
    else:
        write_heads(folder / "scans", range(1, num_subjects + 1), _options, progress=progress)
    cohort = index_table(folder / "scans" / CASES)
    write_cohort(cohort, folder / "cohort.csv")
    for name in ("recipe.toml", "study.toml"):
        if not (folder / name).exists():
            text = files("hemaseg.demo").joinpath(name).read_text(encoding="utf-8")
            write_text(folder / name, text)
    return folder / "study.toml"


def _options(seed: int) -> HeadOptions:
    """A CT of few pixels, so that networks learn in minutes; every eighth has no hematoma."""
    return HeadOptions(
        num_slices=16,
        image_size=64,
        slice_mm=8.0,
        pixel_mm=3.5,
        num_hematomas=int(seed % 8 != 0),
        volume_ml=VOLUMES_ML[seed % len(VOLUMES_ML)],
        age="acute",
    )
