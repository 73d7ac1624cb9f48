"""What a study was made from and with, for the report: data, split, seeds, versions, machine."""

import json
import os
import platform
import shlex
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from hemaseg.cohorts.split import Split
from hemaseg.cohorts.table import Cohort
from hemaseg.config import StudyConfig
from hemaseg.files import write_text
from hemaseg.versions import versions


def write_provenance(
    folder: Path,
    *,
    cohort: Cohort | None = None,
    split: Split | None = None,
    config: StudyConfig | None = None,
) -> None:
    """Write `provenance.json` into a study folder.

    Args:
        folder: The study folder.
        cohort: The cases, if the study trained on some.
        split: Its split; a split by slices adds its warning.
        config: Its settings, for the name and the notice of the data.
    """
    content: dict[str, object] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([_program(), *sys.argv[1:]]),
        **versions(),
        "platform": platform.platform(),
        "processor": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    }
    if cohort is not None:
        marked = cohort.marked()
        sites = {image.subject: image.site or "unknown" for image in cohort.images}
        content["cohort"] = {
            "name": config.name if config else "",
            "num_subjects": len(cohort.subjects),
            "num_images": len(cohort.images),
            "num_marked_subjects": len(marked.subjects),
            "num_marked_images": len(marked.images),
            "num_images_with_lesion": sum(image.has_lesion for image in cohort.images),
            "sites": Counter(sites.values()),
            "modality": ", ".join(sorted({image.modality or "unknown" for image in cohort.images})),
            "sha256": cohort.sha256,
            "description": config.data_notice if config else "",
        }
    if split is not None:
        content["split"] = {
            "method": split.method,
            "unit": split.unit,
            "seed": split.seed,
            "sha256": split.sha256,
            "num_folds": len(split.folds),
        }
    content["warnings"] = [split.warning] if split is not None and split.warning else []
    write_text(folder / "provenance.json", json.dumps(content, indent=2) + "\n")


def _program() -> str:
    name = Path(sys.argv[0]).name
    return "hemaseg" if name == "__main__.py" else name
