"""Heads small enough for tests, each made once: 16 slices of 64x64 pixels with acute blood."""

from functools import cache
from pathlib import Path

import numpy as np

from hemaseg.phantoms.heads import Head, HeadOptions, synthesise
from hemaseg.phantoms.writing import write_nifti

NUM_SLICES, SLICE_MM, WIDTH_MM = 16, 8.0, 224.0
VOLUMES_ML = (12.0, 20.0, 32.0, 50.0)


@cache
def small_head(seed: int, *, has_lesion: bool = True, size: int = 64) -> Head:
    """A CT without tilt, with one hematoma of `VOLUMES_ML` or none; nobody may change it."""
    head = synthesise(
        seed,
        HeadOptions(
            num_slices=NUM_SLICES,
            image_size=size,
            slice_mm=SLICE_MM,
            pixel_mm=WIDTH_MM / size,
            tilt_deg=0.0,
            num_hematomas=int(has_lesion),
            volume_ml=VOLUMES_ML[seed % len(VOLUMES_ML)],
            age="acute",
        ),
    )
    for array in (head.voxels, head.mask, head.affine):
        array.flags.writeable = False
    return head


def write_heads(folder: Path, *, num_subjects: int, seed: int) -> None:
    """Heads with masks as `A_002/A_002.nii.gz` of sites A and B in turn; every eighth no lesion."""
    for number in range(1, num_subjects + 1):
        head = small_head(seed + number, has_lesion=number % 8 != 0)
        subject = f"{'AB'[(seed + number) % 2]}_{number:03}"
        write_nifti(head.voxels, head.affine, folder / subject / f"{subject}.nii.gz")
        mask = head.mask.astype(np.uint8)
        write_nifti(mask, head.affine, folder / subject / f"{subject}_mask.nii.gz")
