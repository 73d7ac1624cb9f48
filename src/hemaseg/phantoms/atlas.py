"""The template that every synthetic head is a variation of.

Made by `scripts/make_atlas.py` from the MNI152 template (its notice: `ATLAS-LICENCE.txt`). Arrays
run toward superior, posterior, left in steps of 1 mm.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray


class Part(IntEnum):
    """What is drawn around the brain in the atlas."""

    NONE = 0
    SOFT = 1
    BONE = 2
    ORBIT = 3
    EYE = 4
    LENS = 5
    AIR = 6
    FRONTAL_SINUS = 7
    PETROUS = 8
    FALX = 9
    SINUS = 10


@dataclass(frozen=True, eq=False)
class Atlas:
    """Maps of one head; all arrays `(S, P, L)` of one shape.

    Attributes:
        low_mm: Position of the first voxel toward superior, posterior, left of the anterior
            commissure.
        grey, white: Share of grey and white matter, 0 to 15.
        parts: `Part` around the brain and of the dura.
        hull_half_mm: Distance from the inside of the skull in half millimetres, negative within.
        ventricle_half_mm: Distance from the ventricles in half millimetres, negative within.
    """

    low_mm: NDArray[np.float64]
    grey: NDArray[np.uint8]
    white: NDArray[np.uint8]
    parts: NDArray[np.uint8]
    hull_half_mm: NDArray[np.int8]
    ventricle_half_mm: NDArray[np.int8]


@cache
def atlas() -> Atlas:
    """The atlas of the package, read once."""
    with files("hemaseg.phantoms").joinpath("atlas.npz").open("rb") as file:
        stored = np.load(file, allow_pickle=False)
        parts = stored["parts"]
        coarse = {name: stored[name] for name in ("hull_half_mm", "ventricle_half_mm")}
        return Atlas(
            stored["low_mm"].astype(np.float64),
            stored["grey"],
            stored["white"],
            parts,
            **{name: _twice(values, parts.shape) for name, values in coarse.items()},
        )


def _twice(coarse: NDArray[np.int8], shape: tuple[int, ...]) -> NDArray[np.int8]:
    """Values at every second voxel to values at each, the mean of neighbours between them."""
    values = coarse.astype(np.int16)
    for axis, size in enumerate(shape):
        between = (values + np.roll(values, -1, axis)) // 2
        index = np.arange(size) // 2
        is_between = (np.arange(size) % 2 == 1) & (index + 1 < values.shape[axis])
        values = np.take(values, index, axis)
        at = [slice(None)] * 3
        at[axis] = np.flatnonzero(is_between)  # type: ignore[call-overload]
        values[tuple(at)] = np.take(between, index[is_between], axis)
    return values.astype(np.int8)
