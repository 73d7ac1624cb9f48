"""Synthetic heads from seeds: voxels, masks, and volumes in mL that are known.

Equal seeds and options give equal heads, bit by bit, on one machine and version of NumPy.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hemaseg.phantoms.anatomy import HEMATOMA, Labels, Tissue, head_tissues
from hemaseg.phantoms.atlas import atlas
from hemaseg.phantoms.ct import BLOOD_HU, Age, draw_scanner, render_ct
from hemaseg.phantoms.hematomas import (
    Hematoma,
    Volume,
    add_hematoma,
    add_masses,
    draw_site,
    fill_ventricles,
    flat_indices,
)
from hemaseg.phantoms.mri import SEQUENCES, Sequence, render_mri
from hemaseg.phantoms.warping import atlas_positions, rotation

AGES: tuple[Age, ...] = tuple(BLOOD_HU)
_AGE_SHARES = {
    "CT": (0.2, 0.55, 0.17, 0.06, 0.02),
    "MRI": (0.2, 0.2, 0.2, 0.2, 0.2),
}

BOUNDS = {
    "num_slices": (2, 512),
    "image_size": (32, 1024),
    "pixel_mm": (0.1, 10.0),
    "slice_mm": (0.3, 20.0),
    "tilt_deg": (-30.0, 30.0),
    "num_hematomas": (0, 10),
    "num_masses": (0, 10),
    "volume_ml": (0.01, 200.0),
}
"""Least and largest value of options that are numbers."""
NUM_PLANES = 3
"""Planes that a slice is the mean of."""
MAX_VOXELS = 2**25
"""Of one head: 128 slices of 512x512, which take 6 GiB while they are made."""
_THINNEST_MM, _LONGEST_MM = 4.0, 165.0


@dataclass(frozen=True)
class HeadOptions:
    """What is asked of a head; None leaves it to the seed.

    Attributes:
        modality: "CT" or "MRI".
        num_slices: From the skull base to the vertex if None.
        image_size: Rows and columns.
        pixel_mm: Edge of a pixel.
        slice_mm: Distance and thickness of slices.
        tilt_deg: Gantry tilt of CT; slices are sheared against each other by it.
        num_hematomas: Their number.
        num_masses: Tumours, cysts and swellings without blood, which must not be marked.
        volume_ml: Of each hematoma; there is at least one then, unless their number is 0.
        age: Of the blood.
        sequence: Of MRI.
        turned: Whether the head may lie on its side or anyhow, not nearly upright.
        is_export: Whether voxels are 8-bit, as pictures are saved from a viewer under a window of
            somebody's choice.
    """

    modality: Literal["CT", "MRI"] = "CT"
    num_slices: int | None = None
    image_size: int = 256
    pixel_mm: float | None = None
    slice_mm: float | None = None
    tilt_deg: float | None = None
    num_hematomas: int | None = None
    num_masses: int = 0
    volume_ml: float | None = None
    age: Age | None = None
    sequence: Sequence | None = None
    turned: bool = False
    is_export: bool = False


@dataclass(frozen=True, eq=False)
class Head:
    """One head.

    Attributes:
        voxels: `(K, H, W)` int16, HU of CT, signal of MRI; uint8 if exported.
        mask: `(K, H, W)` bool: at least half of the voxel is hematoma.
        ventricular_mask: `(K, H, W)` bool: likewise blood in the ventricles.
        affine: `(4, 4)`, takes (k, h, w, 1) to RAS mm.
        modality: "CT" or "MRI".
        sequence: Of MRI, empty for CT.
        age: Of the blood.
        tilt_deg: Of the gantry.
        hematomas: As they were made, the first first; a later one can have taken room from them.
        hematoma_ml: All hematomas, on planes finer than slices; the mask's own volume differs
            from it by what rounding to voxels does.
        ventricular_ml: Blood in the ventricles, likewise.
    """

    voxels: NDArray[np.int16] | NDArray[np.uint8]
    mask: NDArray[np.bool_]
    ventricular_mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    modality: Literal["CT", "MRI"]
    sequence: Sequence | Literal[""]
    age: Age
    tilt_deg: float
    hematomas: tuple[Hematoma, ...]
    hematoma_ml: float
    ventricular_ml: float


def synthesise(seed: int, options: HeadOptions | None = None) -> Head:
    """A head from a seed.

    Args:
        seed: 0 or more.
        options: What is not left to the seed; heads of one seed and other options are no relatives.

    Raises:
        ValueError: An option has a value that no head can have.

    >>> head = synthesise(1, HeadOptions(num_slices=12, image_size=64))
    >>> head.voxels.shape
    (12, 64, 64)
    """
    options = options or HeadOptions()
    check_options(options)
    if seed < 0:
        raise ValueError(f"seed {seed}, expected 0 or more")
    random = np.random.default_rng([seed, 20261125])
    grid = _Grid(options, random)
    template = atlas()
    tissues = head_tissues(template, random)
    # What lies beyond the atlas is air, but for the neck.
    for border in (tissues[-1], tissues[:, 0], tissues[:, -1], tissues[..., 0], tissues[..., -1]):
        border[...] = Tissue.AIR
    positions = atlas_positions(
        grid.axes_mm, grid.shear, grid.to_atlas, random.uniform(0.5, 4.0), random
    )
    labels = tissues.reshape(-1)[flat_indices(positions, template)]
    volume = Volume(labels, positions, tissues, template, grid.spacing_mm)
    if options.modality == "CT" and random.random() < 0.8:
        _add_holder(labels, grid, random)
    hematomas = []
    for _ in range(_num_hematomas(options, random)):
        site = draw_site(random, options.volume_ml or 0.0)
        volume_ml = options.volume_ml or _draw_volume_ml(site.max_ml, random)
        hematomas.append(add_hematoma(volume, site, volume_ml, random))
    if hematomas and options.num_hematomas is None and random.random() < 0.2:
        fill_ventricles(volume, random)
    # Of their own generator, so that a head with masses is the same head otherwise.
    add_masses(volume, options.num_masses, np.random.default_rng([seed, 20261126]))
    age = options.age or AGES[int(random.choice(len(AGES), p=_AGE_SHARES[options.modality]))]
    voxels, sequence = _render(volume.labels, age, options, random)
    is_clot = np.isin(volume.labels, HEMATOMA)
    is_ventricular = volume.labels == Tissue.VENTRICULAR_BLOOD
    return Head(
        voxels=voxels,
        mask=_of_slices(is_clot),
        ventricular_mask=_of_slices(is_ventricular),
        affine=grid.affine,
        modality=options.modality,
        sequence=sequence,
        age=age,
        tilt_deg=grid.tilt_deg,
        hematomas=tuple(hematomas),
        hematoma_ml=float(is_clot.sum()) * volume.voxel_ml,
        ventricular_ml=float(is_ventricular.sum()) * volume.voxel_ml,
    )


def _render(
    labels: Labels, age: Age, options: HeadOptions, random: np.random.Generator
) -> tuple[NDArray[np.int16] | NDArray[np.uint8], Sequence | Literal[""]]:
    """Voxels, and the sequence of MRI."""
    sequence: Sequence | Literal[""] = ""
    if options.modality == "CT":
        voxels = render_ct(labels, NUM_PLANES, age, draw_scanner(random), random)
    else:
        sequence = options.sequence or SEQUENCES[int(random.integers(len(SEQUENCES)))]
        voxels = render_mri(labels, NUM_PLANES, sequence, age, random)
    if options.is_export:
        return _export(voxels, options.modality, random), sequence
    return voxels, sequence


class _Grid:
    """Where planes, rows and columns lie, and how the head lies among them."""

    def __init__(self, options: HeadOptions, random: np.random.Generator) -> None:
        size = options.image_size
        head_mm = random.uniform(0.92, 1.08, 3)  # against the template, superior, posterior, left
        slice_mm = options.slice_mm or random.uniform(_THINNEST_MM, 6.5)
        pixel_mm = options.pixel_mm or random.uniform(190.0, 280.0) / size
        num_slices = options.num_slices or int(random.uniform(130.0, _LONGEST_MM) / slice_mm)
        is_tilted = options.modality == "CT" and random.random() < 0.4
        drawn_deg = random.uniform(-25.0, 25.0) if is_tilted else 0.0
        self.tilt_deg = drawn_deg if options.tilt_deg is None else options.tilt_deg
        self.shear = float(np.tan(np.radians(self.tilt_deg)))
        num_planes = num_slices * NUM_PLANES
        steps = (slice_mm / NUM_PLANES, pixel_mm, pixel_mm)
        counts = (num_planes, size, size)
        planes_mm, rows_mm, columns_mm = (
            (np.arange(n) - (n - 1) / 2) * step for n, step in zip(counts, steps, strict=True)
        )
        self.axes_mm = (planes_mm, rows_mm, columns_mm)
        self.spacing_mm = steps
        # Slices of a tilted gantry follow the skull base; without tilt the chin is up or down.
        nod_deg = random.normal(0.0, 8.0)
        spin_deg = random.normal(0.0, 6.0)
        if options.turned:
            spin_deg = random.choice(
                (
                    spin_deg,
                    90 + 2 * spin_deg,
                    -90 + 2 * spin_deg,
                    180 + spin_deg,
                    random.uniform(-180, 180),
                ),
                p=(0.35, 0.25, 0.25, 0.05, 0.1),
            )
        turn = rotation(np.array([0.0, random.normal(0.0, 4.0), nod_deg]))
        turn = turn @ rotation(np.array([spin_deg, 0.0, 0.0]))
        matrix = np.diag(1 / head_mm) @ turn
        middle_mm = np.array(
            [random.normal(12.0, 6.0), random.normal(10.0, 6.0), random.normal(0.0, 5.0)]
        )
        self.to_atlas = np.column_stack([matrix, middle_mm])
        # (k, h, w) to RAS: superior is up, rows run backward (and with k under tilt), columns left.
        affine = np.zeros((4, 4))
        affine[2, 0], affine[1, 0] = slice_mm, -self.shear * slice_mm
        affine[1, 1] = affine[0, 2] = -pixel_mm
        affine[3, 3] = 1
        middle = (np.array([num_slices, size, size]) - 1) / 2
        affine[:3, 3] = -affine[:3, :3] @ middle
        self.affine = affine


def check_options(options: HeadOptions) -> None:
    """Refuse what no head can have.

    Raises:
        ValueError: An option is out of range or no known word, or there would be more voxels than
            `MAX_VOXELS`.
    """
    for name, (low, high) in BOUNDS.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            shown = f"{value:g}" if isinstance(value, float) else value  # no float has all integers
            raise ValueError(f"{name} {shown}, expected {low:g} to {high:g}")
    for name, words in (("modality", _AGE_SHARES), ("age", AGES), ("sequence", SEQUENCES)):
        word = getattr(options, name)
        if word is not None and word not in words:
            raise ValueError(f"{name} {word!r}, expected {', '.join(words)}")
    num_slices = options.num_slices or int(_LONGEST_MM / (options.slice_mm or _THINNEST_MM))
    num_voxels = num_slices * options.image_size**2
    if num_voxels > MAX_VOXELS:
        raise ValueError(
            f"{num_slices} slices of {options.image_size}x{options.image_size}, {num_voxels:,} "
            f"voxels, expected at most {MAX_VOXELS:,}"
        )


def _num_hematomas(options: HeadOptions, random: np.random.Generator) -> int:
    drawn = int(random.choice(4, p=(0.2, 0.68, 0.09, 0.03)))
    if options.num_hematomas is not None:
        return options.num_hematomas
    return drawn if options.volume_ml is None else max(drawn, 1)


def _draw_volume_ml(largest_ml: float, random: np.random.Generator) -> float:
    """0.1 mL to the largest, most of them 2 to 40 mL as in the large trials."""
    drawn = np.exp(random.normal(np.log(9.0), 1.3))
    return float(np.clip(drawn, 0.1, largest_ml))


def _export(
    voxels: NDArray[np.int16], modality: str, random: np.random.Generator
) -> NDArray[np.uint8]:
    """8-bit under a window: of the brain on CT, about the range of values on MRI."""
    if modality == "CT":
        level, width = random.uniform(30.0, 52.0), random.uniform(65.0, 150.0)
        low, high = level - width / 2, level + width / 2
    else:
        tissue = voxels[voxels > 0][::7]
        low, high = np.percentile(tissue, [random.uniform(0, 3), random.uniform(97.5, 100)])
    scaled = (voxels - np.float32(low)) * np.float32(255 / max(high - low, 1))
    return np.asarray(np.rint(np.clip(scaled, 0, 255)), np.uint8)


def _of_slices(planes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """True where at least half of a slice's planes are."""
    counts = planes.reshape(-1, NUM_PLANES, *planes.shape[1:]).sum(axis=1, dtype=np.uint8)
    return np.asarray(2 * counts >= NUM_PLANES)


def _add_holder(labels: Labels, grid: _Grid, random: np.random.Generator) -> None:
    """A head holder behind the head, in place: an arc, or the table's flat top."""
    _, rows_mm, columns_mm = grid.axes_mm
    behind_mm, curve_mm = random.uniform(85.0, 125.0), random.uniform(100.0, 200.0)
    thick_mm = random.uniform(1.5, 7.0)
    down, across = rows_mm[:, None], columns_mm[None, :]
    turns = int(random.integers(4)) if random.random() < 0.5 else 0
    radius = np.hypot(down - (behind_mm - curve_mm), across)
    arc = (np.abs(radius - curve_mm) < thick_mm / 2) & (down > random.uniform(-40, 60))
    arc = np.rot90(arc, turns)
    labels[:, arc] = np.where(labels[:, arc] == Tissue.AIR, Tissue.HOLDER, labels[:, arc])
