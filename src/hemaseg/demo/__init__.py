"""The study of `hemaseg demo`: synthetic heads, and TOML files that lie beside this one."""

import csv
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from hemaseg.cohorts.index import index_folder
from hemaseg.cohorts.table import write_cohort
from hemaseg.errors import ConfigError
from hemaseg.files import write_text
from hemaseg.scans.phantoms import write_phantoms


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
    heads = folder / "scans" / "phantoms.csv"  # written last, so the heads are complete
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
        write_phantoms(folder / "scans", num_subjects=num_subjects, seed=1, progress=progress)
    cohort = index_folder(folder / "scans", site_pattern="^([AB])_", modality="CT")
    write_cohort(cohort, folder / "cohort.csv")
    for name in ("recipe.toml", "study.toml"):
        if not (folder / name).exists():
            text = files("hemaseg.demo").joinpath(name).read_text(encoding="utf-8")
            write_text(folder / name, text)
    return folder / "study.toml"
