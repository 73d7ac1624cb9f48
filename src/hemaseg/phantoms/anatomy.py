"""The atlas to the tissues of one head: the same anatomy, never twice the same head."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from hemaseg.phantoms.atlas import Atlas, Part

Labels = NDArray[np.uint8]


class Tissue(IntEnum):
    """What a voxel is of."""

    AIR = 0
    WHITE = 1
    GREY = 2
    FLUID = 3
    VENTRICLE = 4
    BONE = 5
    MARROW = 6
    FAT = 7
    SOFT = 8
    EYE = 9
    LENS = 10
    DENSE_BONE = 11
    DURA = 12
    VENOUS = 13
    CALCIUM = 14
    EDEMA = 15
    BLOOD = 16
    """Clot within the brain."""
    BLOOD_RIM = 17
    """Its outer layer, which ages first."""
    PLASMA = 18
    """The upper part of a hematoma with a fluid level."""
    VENTRICULAR_BLOOD = 19
    HOLDER = 20
    SCAR = 21
    """Brain lost long ago, or softened by small vessel disease."""


HEMATOMA = (Tissue.BLOOD, Tissue.BLOOD_RIM, Tissue.PLASMA)
"""What a mask of an intracerebral hematoma holds; blood in the ventricles is told apart."""

_OF_PART = {
    Part.SOFT: Tissue.SOFT,
    Part.BONE: Tissue.BONE,
    Part.ORBIT: Tissue.FAT,
    Part.EYE: Tissue.EYE,
    Part.LENS: Tissue.LENS,
    Part.AIR: Tissue.AIR,
    Part.PETROUS: Tissue.DENSE_BONE,
    Part.FALX: Tissue.DURA,
    Part.SINUS: Tissue.VENOUS,
}

_CALCIFIED = (
    # Chance, then centre toward superior, posterior, left and largest radius, all in mm.
    (0.6, (1.0, 31.0, 0.0), 3.5),  # pineal gland
    (0.6, (9.0, 40.0, 21.0), 4.5),  # choroid plexus, both sides
    (0.6, (9.0, 40.0, -21.0), 4.5),
    (0.12, (-1.0, 4.0, 19.0), 4.0),  # globus pallidus
    (0.12, (-1.0, 4.0, -19.0), 4.0),
    (0.25, (35.0, -30.0, 0.0), 3.0),  # falx
    (0.25, (60.0, 20.0, 0.0), 3.0),
    (0.3, (-22.0, 2.0, 11.0), 2.0),  # carotid arteries
    (0.3, (-22.0, 2.0, -11.0), 2.0),
    (0.15, (-48.0, 22.0, 9.0), 2.0),  # vertebral arteries
    (0.15, (-48.0, 22.0, -9.0), 2.0),
)


def head_tissues(atlas: Atlas, random: np.random.Generator) -> Labels:
    """`Tissue` of one head on the atlas grid.

    Varied are the width of furrows and ventricles (atrophy), thickness of skull and scalp, air in
    the sinuses, calcifications, and old scars. Blood is not yet there.
    """
    # The hull leaves 2 mm around the brain; in most heads the skull is closer.
    hull = atlas.hull_half_mm + np.int8(random.integers(0, 5))
    np.maximum(hull, atlas.hull_half_mm, out=hull)  # where that went beyond 127
    ventricle = atlas.ventricle_half_mm
    tissues = np.zeros(hull.shape, np.uint8)
    age = random.beta(2, 1.6)  # 0: young and full, 1: old and shrunken
    _add_skull(tissues, atlas, hull, random)
    brain = atlas.grey + atlas.white
    is_inside = hull <= 0
    least = round(3 + 6 * age * random.uniform(0.5, 1.2))
    shrunken = round(1 + 10 * age**3 * random.uniform(0, 1))
    is_brain = (brain >= least) & (hull < -shrunken)
    tissues[is_inside] = Tissue.FLUID
    lean = random.uniform(0.8, 1.2)
    grey_like = (atlas.grey * np.float32(lean) >= atlas.white) & is_brain
    tissues[is_brain] = Tissue.WHITE
    tissues[grey_like] = Tissue.GREY
    widened = round(random.normal(0, 1.5) + 10 * age * random.uniform(0, 1))
    near = (ventricle <= widened) & (hull < -16)
    if random.random() < 0.35 * age:
        # White matter around the ventricles softens with age.
        reach = widened + round(random.uniform(4, 16))
        tissues[(ventricle <= reach) & (tissues == Tissue.WHITE)] = Tissue.SCAR
    tissues[near] = Tissue.VENTRICLE
    parts = atlas.parts
    tissues[(parts == Part.FALX) & (brain < 14)] = Tissue.DURA
    tissues[parts == Part.SINUS] = Tissue.VENOUS
    for chance, center_mm, largest_mm in _CALCIFIED:
        if random.random() < chance:
            center = np.array(center_mm) + random.normal(0, 1.5, 3)
            radius_mm = random.uniform(0.7, largest_mm)
            _paint_ball(tissues, atlas, center, radius_mm, Tissue.CALCIUM)
    for _ in range(random.poisson(0.25)):
        center = random.uniform((-20, -50, -50), (55, 80, 50))
        tissue = Tissue.SCAR if random.random() < 0.7 else Tissue.FLUID
        _paint_ball(tissues, atlas, center, random.uniform(2, 14), tissue, brain_only=True)
    return tissues


def _add_skull(
    tissues: Labels, atlas: Atlas, hull: NDArray[np.int8], random: np.random.Generator
) -> None:
    """Skull and scalp around the hull, then what the atlas draws beyond them."""
    parts = atlas.parts
    num_s, num_p, _ = hull.shape
    # Thickness in half millimetres; it waves slowly from top to bottom and front to back.
    phase = random.uniform(0, 2 * np.pi, 2)
    wave = np.cos(np.linspace(0, 4, num_s) + phase[0])[:, None] * np.cos(
        np.linspace(0, 5, num_p) + phase[1]
    )
    skull = 2 * random.uniform(3.5, 8.5) * (1 + 0.3 * wave)[..., None]
    skin = skull + 2 * random.uniform(3.0, 9.0) * (1 + 0.3 * wave[::-1, ::-1])[..., None]
    marrow = random.uniform(0.0, 0.5)
    muscle = random.uniform(0.2, 0.8)
    skull8, skin8 = (np.minimum(edge, 127).astype(np.int8) for edge in (skull, skin))
    is_out = hull > 0
    is_skull = is_out & (hull <= skull8)
    is_skin = is_out & ~is_skull & (hull <= skin8)
    tissues[parts == Part.SOFT] = Tissue.SOFT
    tissues[is_skin] = Tissue.SOFT
    inner, outer = (skull + muscle * (skin - skull)).astype(np.int8), skin8 - 4
    tissues[is_skin & (hull > inner) & (hull <= outer)] = Tissue.FAT
    tissues[is_skull] = Tissue.BONE
    low, high = ((skull * (0.5 + side * marrow / 1.4)).astype(np.int8) for side in (-1, 1))
    tissues[is_skull & (hull > low) & (hull <= high)] = Tissue.MARROW
    for part, tissue in _OF_PART.items():
        if part not in (Part.SOFT, Part.FALX, Part.SINUS):
            tissues[(parts == part) & is_out] = tissue
    has_air = random.random() < 0.6
    tissues[parts == Part.FRONTAL_SINUS] = Tissue.AIR if has_air else Tissue.MARROW


def _paint_ball(
    tissues: Labels,
    atlas: Atlas,
    center_mm: NDArray[np.float64],
    radius_mm: float,
    tissue: Tissue,
    *,
    brain_only: bool = False,
) -> None:
    first = np.floor(center_mm - radius_mm - atlas.low_mm).astype(int)
    last = np.ceil(center_mm + radius_mm - atlas.low_mm).astype(int) + 1
    box = tuple(slice(max(0, a), max(0, b)) for a, b in zip(first, last, strict=True))
    offsets = [
        np.arange(s.start, min(s.stop, size)) + low - center
        for s, size, low, center in zip(box, tissues.shape, atlas.low_mm, center_mm, strict=True)
    ]
    squares = [o.astype(np.float32) ** 2 for o in offsets]
    inside = squares[0][:, None, None] + squares[1][:, None] + squares[2] <= radius_mm**2
    if brain_only:
        inside &= (tissues[box] == Tissue.WHITE) | (tissues[box] == Tissue.GREY)
    tissues[box][inside] = tissue
