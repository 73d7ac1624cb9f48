"""CT or MRI from the values of voxels alone, for files that do not say it.

A wrong guess would scale a scan wrongly, and a network would then see no blood where there is some.
So only what no scan of the other modality has counts, and nothing is guessed otherwise. Limits are
ours; `tests/test_modality.py` has what they are meant to keep apart.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

AIR_HU, BONE_HU = -900, 300
SOFT_TISSUE_HU = -100, 150
MIN_AIR, MIN_BONE, MIN_SOFT_TISSUE = 0.05, 0.001, 0.05
"""Shares of all voxels of a CT. Air is around every head that was not cut out."""

MIN_BACKGROUND = 0.1
"""Share of voxels around a head in MRI, up to 2 % of the brightest, either side of 0."""

MAX_NEGATIVE = 0.001
"""Share of voxels below that: resampling leaves a few, normalising makes many."""

MIN_TISSUE = 0.2
"""Median of the other voxels over the brightest; a CT clipped at 0 has brain at a fiftieth of its
bone."""

MIN_TISSUE_VALUE = 60
"""Median of the other voxels; brain in HU has 20 to 45. Matters where a clip is the brightest."""

MAX_PICTURE = 255
"""Values up to this can be those of a picture, a windowed CT too."""

MAX_AT_TOP = 0.001
"""Share of the other voxels with the highest value; more, and they were clipped to a window."""

MAX_ALIKE = 0.35
"""Share of what is above a tenth of the brightest, within 5 % of its median. In a CT shifted or
scaled so that air is 0, soft tissue is one narrow peak (0.57 in the real head of the tests); MRI
sets tissues apart (0.08 to 0.16 in theirs)."""


def guess_modality(voxels: NDArray[Any]) -> tuple[str, str]:
    """Modality of a scan, and from what it was guessed; both empty if nothing can be said.

    CT: at least 5 % of voxels at or below -900 HU (air), 0.1 % at or above 300 (bone) and 5 % from
    -100 to 150 (soft tissue).

    MRI, where "the brightest" is the 99.5th percentile of voxels other than 0, "background" what
    lies within 2 % of it around 0, and "tissue" what is above: at least 10 % background; at most
    0.1 % of voxels below it; the median of tissue at least 60, and a fifth of the brightest; a
    maximum beyond 255; at most 0.1 % of tissue at that maximum; and no narrow peak, such as HU
    have: of what is above a tenth of the brightest, less than 35 % within 5 % of its median.

    Args:
        voxels: Of any shape, finite; scaled values. Those of 8-bit pictures fit neither.
    """
    air, bone = _share(voxels <= AIR_HU), _share(voxels >= BONE_HU)
    soft_tissue = _share((voxels >= SOFT_TISSUE_HU[0]) & (voxels <= SOFT_TISSUE_HU[1]))
    if air >= MIN_AIR and bone >= MIN_BONE and soft_tissue >= MIN_SOFT_TISSUE:
        return "CT", f"{air:.0%} of voxels are air in HU and {bone:.1%} are bone"
    if _is_mri(voxels):
        return "MRI", f"values from 0 to {voxels.max():g} with a background of 0 are no HU"
    return "", ""


def _is_mri(voxels: NDArray[Any]) -> bool:
    if voxels.max() <= MAX_PICTURE:
        return False
    brightest = float(np.percentile(voxels[voxels != 0], 99.5))
    near_zero = 0.02 * brightest
    if brightest <= 0 or _share(voxels < -near_zero) > MAX_NEGATIVE:
        return False
    tissue = voxels[voxels > near_zero]
    if tissue.size > (1 - MIN_BACKGROUND) * voxels.size:
        return False
    bright = tissue[tissue > 0.1 * brightest]
    median = np.median(bright)
    return (
        bool(np.median(tissue) >= max(MIN_TISSUE_VALUE, MIN_TISSUE * brightest))
        and _share(tissue == tissue.max()) <= MAX_AT_TOP
        and _share((bright >= 0.95 * median) & (bright <= 1.05 * median)) < MAX_ALIKE
    )


def _share(where: NDArray[np.bool_]) -> float:
    return float(np.count_nonzero(where) / where.size)
