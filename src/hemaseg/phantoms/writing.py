"""Heads to files: NIfTI with masks, and the table of what is known of each."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hemaseg.files import whole_file
from hemaseg.phantoms.heads import Head, HeadOptions, synthesise

TABLE = "phantoms.csv"


def write_nifti(voxels: NDArray[np.generic], affine: NDArray[np.float64], path: Path) -> None:
    """Voxels `(K, H, W)` as scanners' converters write them: columns, rows, slices."""
    stored = np.ascontiguousarray(voxels.transpose())
    image = nib.Nifti1Image(stored, affine[:, [2, 1, 0, 3]])
    image.header.set_xyzt_units("mm")
    # The default level takes ten times as long as making the head.
    content = gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)
    with whole_file(path) as partial:
        partial.write_bytes(content)


def write_heads(
    folder: Path,
    seeds: range,
    options_of: Callable[[int], HeadOptions],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """A cohort of heads with their masks, and two tables.

    `SUBJECT/SUBJECT.nii.gz` and `SUBJECT_mask.nii.gz` for each head; `heads.csv` lists them as
    `hemaseg index` reads it, `phantoms.csv` has what is known of each.

    Args:
        folder: Made if needed; files of the same names are replaced.
        seeds: One for each head.
        options_of: The options of a seed.
        progress: Called with the numbers of heads done and to do.
    """
    rows, files = [], []
    for number, seed in enumerate(seeds, 1):
        options = options_of(seed)
        head = synthesise(seed, options)
        subject = f"head_{seed:05}"
        image, mask = (Path(subject, f"{subject}{end}.nii.gz") for end in ("", "_mask"))
        (folder / subject).mkdir(parents=True, exist_ok=True)
        write_nifti(head.voxels, head.affine, folder / image)
        write_nifti(head.mask.astype(np.uint8), head.affine, folder / mask)
        files.append(
            {
                "image": image.as_posix(),
                "mask": mask.as_posix(),
                "subject": subject,
                "modality": head.modality,
            }
        )
        rows.append({"subject": subject, "seed": seed, **describe(head)})
        if progress is not None:
            progress(number, len(seeds))
    for name, table in (("heads.csv", files), (TABLE, rows)):
        with whole_file(folder / name) as partial:
            pd.DataFrame(table).to_csv(partial, index=False, lineterminator="\n")


def describe(head: Head) -> dict[str, object]:
    """What is known of a head, for a row of a table."""
    return {
        "hematoma_ml": round(head.hematoma_ml, 4),
        "ventricular_ml": round(head.ventricular_ml, 4),
        "mask_ml": round(
            float(head.mask.sum() * abs(np.linalg.det(head.affine[:3, :3])) / 1000), 4
        ),
        "modality": head.modality,
        "is_export": head.voxels.dtype == np.uint8,
        "num_hematomas": len(head.hematomas),
        "sites": "; ".join(hematoma.site for hematoma in head.hematomas),
        "age_of_blood": head.age,
        "scan_sequence": head.sequence,
        "gantry_tilt_deg": round(head.tilt_deg, 2),
    }
