"""Simple synthetic CT heads with a hematoma of known volume, for the demo and for tests.

An ellipsoidal skull around brain and two ventricles, noise, and one ellipsoid of blood that may
have a calcified neighbour as bright as bone. They are made to be simple, not real: what a network
scores on them says nothing about patients.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hemaseg.files import whole_file

AIR_HU, SKULL_HU, BRAIN_HU, CSF_HU, BLOOD_HU = -1000.0, 900.0, 34.0, 8.0, 64.0
SITES = {"A": 3.0, "B": 6.0}
"""Site -> standard deviation of its scanner's noise in HU."""


@dataclass(frozen=True, eq=False)
class Phantom:
    """One head.

    Attributes:
        voxels: `(K, H, W)` int16 in HU.
        mask: `(K, H, W)` bool; voxels whose centre lies in the hematoma.
        affine: `(4, 4)`, takes (k, h, w, 1) to RAS mm.
        lesion_ml: 4/3 pi a b c of the hematoma's semi-axes; 0 without one.
        site: Key of `SITES`.
    """

    voxels: NDArray[np.int16]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    lesion_ml: float
    site: str


def phantom(
    seed: int,
    *,
    shape: tuple[int, int, int] = (16, 64, 64),
    spacing_mm: tuple[float, float, float] = (8.0, 3.5, 3.5),
    has_lesion: bool = True,
) -> Phantom:
    """A head from a seed; equal seeds give equal voxels.

    Args:
        seed: 0 or more.
        shape: Slices, rows, columns.
        spacing_mm: Slice, row, column.
        has_lesion: Whether there is a hematoma.

    >>> head = phantom(1)
    >>> voxel_ml = 8.0 * 3.5 * 3.5 / 1000
    >>> bool(abs(head.mask.sum() * voxel_ml - head.lesion_ml) < 0.1 * head.lesion_ml)
    True
    """
    random = np.random.default_rng(seed)
    # Millimetres from the head's centre toward superior, posterior, left, at each voxel's centre.
    offsets = np.indices(shape, dtype=np.float64)
    steps = np.array(spacing_mm)
    middle = (np.array(shape) - 1) / 2
    position = (offsets - middle[:, None, None, None]) * steps[:, None, None, None]

    def inside(center: NDArray[np.float64], semi_axes: NDArray[np.float64]) -> NDArray[np.bool_]:
        scaled = (position - center[:, None, None, None]) / semi_axes[:, None, None, None]
        return np.asarray((scaled**2).sum(axis=0) <= 1)

    head = np.array([62.0, 92.0, 72.0]) * random.uniform(0.93, 1.05, 3)
    brain = head - 7.0
    origin = np.zeros(3)
    voxels = np.full(shape, AIR_HU)
    voxels[inside(origin, head)] = SKULL_HU
    voxels[inside(origin, brain)] = BRAIN_HU
    ventricle = np.array([12.0, 24.0, 6.0]) * random.uniform(0.7, 1.3, 3)
    for side in (-1, 1):
        voxels[inside(np.array([6.0, 0.0, side * 11.0]), ventricle)] = CSF_HU
    mask = np.zeros(shape, dtype=bool)
    lesion_ml = 0.0
    if has_lesion:
        radius = random.uniform(11.0, 25.0)
        semi_axes = radius * random.uniform(0.75, 1.3, 3)
        # At a random place within the ellipsoid that keeps the hematoma inside the brain.
        direction = random.normal(size=3)
        direction *= random.uniform(0.2, 0.85) ** (1 / 3) / np.linalg.norm(direction)
        center = direction * (brain - semi_axes)
        mask = inside(center, semi_axes) & inside(origin, brain)
        voxels[mask] = BLOOD_HU + random.uniform(-6, 6)
        lesion_ml = 4 / 3 * math.pi * float(np.prod(semi_axes)) / 1000
    calcification = random.uniform(-0.4, 0.4, 3) * brain
    voxels[inside(calcification, np.full(3, 4.5)) & ~mask] = 300.0
    site = list(SITES)[seed % len(SITES)]
    voxels += random.normal(scale=SITES[site], size=shape)
    # Display order runs toward superior, posterior and left; RAS counts right and anterior as
    # positive.
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = steps[0], -steps[1], -steps[2], 1
    affine[:3, 3] = -affine[:3, :3] @ middle
    return Phantom(np.rint(voxels).astype(np.int16), mask, affine, lesion_ml, site)


def write_phantoms(
    folder: Path,
    *,
    num_subjects: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a cohort of heads with their masks, `folder/A_002/A_002.nii.gz`, and `phantoms.csv`.

    Every eighth head has no hematoma. `phantoms.csv` has the columns `subject`, `site`,
    `lesion_ml`.

    Args:
        folder: Made if needed; files of the same names are replaced.
        num_subjects: Number of heads.
        seed: Of the first head; the next one has the next seed.
        progress: Called with the numbers of heads done and to do.
    """
    rows: list[dict[str, object]] = []
    for number in range(1, num_subjects + 1):
        head = phantom(seed + number, has_lesion=number % 8 != 0)
        subject = f"{head.site}_{number:03}"
        (folder / subject).mkdir(parents=True, exist_ok=True)
        # As scanners' converters write it: columns, rows, slices.
        affine = head.affine[:, [2, 1, 0, 3]]
        for suffix, array in (("", head.voxels), ("_mask", head.mask.astype(np.uint8))):
            image = nib.Nifti1Image(np.ascontiguousarray(array.transpose()), affine)
            with whole_file(folder / subject / f"{subject}{suffix}.nii.gz") as partial:
                nib.save(image, partial)
        rows.append({"subject": subject, "site": head.site, "lesion_ml": round(head.lesion_ml, 3)})
        if progress is not None:
            progress(number, num_subjects)
    with whole_file(folder / "phantoms.csv") as partial:
        pd.DataFrame(rows).to_csv(partial, index=False, lineterminator="\n")
