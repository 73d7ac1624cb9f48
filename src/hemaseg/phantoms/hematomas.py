"""Blood in a head: where it is, how large and how ragged, what it pushes away and breaks into.

What grows likewise without blood (`add_masses`) is here too.

Sites and their shares follow the large series of spontaneous hemorrhage (Qureshi et al., N Engl J
Med 2001, 344:1450): about half deep, a third lobar, the rest in cerebellum and brainstem.

Shape legend: planes J (several for each slice), rows H, columns W.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemaseg.phantoms.anatomy import HEMATOMA, Labels, Tissue
from hemaseg.phantoms.atlas import Atlas
from hemaseg.phantoms.warping import Positions, rotation, smooth_noise


@dataclass(frozen=True)
class Site:
    """Where hematomas arise.

    Attributes:
        name: As in tables.
        share: Of all hematomas.
        center_mm: Toward superior, posterior, and left or right in the atlas.
        spread_mm: Standard deviation of the center along each.
        max_ml: Larger ones are not survived, or would be named after the neighbouring site.
    """

    name: str
    share: float
    center_mm: tuple[float, float, float]
    spread_mm: tuple[float, float, float]
    max_ml: float


SITES = (
    Site("putamen", 0.34, (4.0, 0.0, 27.0), (6.0, 8.0, 4.0), 120.0),
    Site("caudate", 0.05, (10.0, -10.0, 15.0), (4.0, 5.0, 2.0), 25.0),
    Site("thalamus", 0.14, (7.0, 18.0, 13.0), (3.0, 4.0, 3.0), 45.0),
    Site("frontal lobe", 0.09, (25.0, -40.0, 25.0), (15.0, 14.0, 10.0), 120.0),
    Site("parietal lobe", 0.09, (38.0, 40.0, 28.0), (12.0, 12.0, 10.0), 120.0),
    Site("temporal lobe", 0.08, (-12.0, 15.0, 45.0), (8.0, 18.0, 6.0), 90.0),
    Site("occipital lobe", 0.06, (8.0, 75.0, 22.0), (10.0, 10.0, 8.0), 90.0),
    Site("cerebellum", 0.1, (-36.0, 60.0, 22.0), (6.0, 9.0, 11.0), 40.0),
    Site("pons", 0.05, (-30.0, 25.0, 0.0), (5.0, 3.0, 3.0), 15.0),
)
MASSES = (
    (Tissue.SCAR, Tissue.SCAR),
    (Tissue.EDEMA, Tissue.EDEMA),
    (Tissue.FLUID, Tissue.SCAR),
)
"""Core and rim of look-alikes: solid, swollen, with a cyst."""


@dataclass(frozen=True)
class Hematoma:
    """One hematoma, as it was made.

    Attributes:
        site: Name of a `Site`.
        volume_ml: Of the shape, sampled on planes finer than slices; 0 if no tissue could hold it.
        ventricular_ml: Blood that broke into the ventricles, not part of `volume_ml`.
    """

    site: str
    volume_ml: float
    ventricular_ml: float


@dataclass(frozen=True, eq=False)
class Volume:
    """A head before it is imaged.

    Attributes:
        labels: `(J, H, W)` of `Tissue`.
        positions: `(3, J, H, W)` in the atlas in mm toward superior, posterior, left.
        tissues: Of this head on the atlas grid.
        atlas: The atlas.
        spacing_mm: Of planes, rows and columns.
    """

    labels: Labels
    positions: Positions
    tissues: Labels
    atlas: Atlas
    spacing_mm: tuple[float, float, float]

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel of `labels`; tilt shears slices and changes none."""
        return float(np.prod(self.spacing_mm)) / 1000


def flat_indices(positions: Positions, atlas: Atlas) -> NDArray[np.int32]:
    """Index into a flattened map of the atlas of the voxel nearest to each position.

    Positions outside get the nearest voxel at the border.
    """
    flat = np.zeros(positions.shape[1:], np.int32)
    for axis, size in enumerate(atlas.grey.shape):
        index = (positions[axis] - np.float32(atlas.low_mm[axis] - 0.5)).astype(np.int32)
        np.clip(index, 0, size - 1, out=index)
        flat *= size
        flat += index
    return flat


def draw_site(random: np.random.Generator, least_ml: float = 0.0) -> Site:
    """A site at random, by share, of those that can hold `least_ml`; the largest ones if none."""
    largest_ml = min(least_ml, max(site.max_ml for site in SITES))
    shares = np.array([site.share * (site.max_ml >= largest_ml) for site in SITES])
    return SITES[int(random.choice(len(SITES), p=shares / shares.sum()))]


def add_hematoma(
    volume: Volume, site: Site, volume_ml: float, random: np.random.Generator
) -> Hematoma:
    """Put blood into a head, in place.

    The tissue around it moves outward so that part of the blood finds room, less near the skull;
    the rest of the blood replaces tissue. Within reach of the shape, blood in ventricles is
    `VENTRICULAR_BLOOD`.

    Args:
        volume: The head; labels change, and positions where tissue moved.
        site: Where.
        volume_ml: How much; the shape gets it as exactly as planes and pixels allow, unless the
            site lacks tissue.
        random: Draws place, shape and what is around.
    """
    grown = _grow(volume, site, volume_ml, random)
    if grown is None:
        return Hematoma(site.name, 0.0, 0.0)
    here, is_clot = grown.here, grown.is_within
    rim = random.uniform(0.5, 3.0)
    halo = random.exponential(4.0) if random.random() < 0.85 else 0.0
    here[grown.around(halo)] = Tissue.EDEMA
    here[is_clot] = Tissue.BLOOD
    here[is_clot & (grown.reach > grown.edge - rim)] = Tissue.BLOOD_RIM
    if volume_ml > 5 and random.random() < 0.1:
        # The patient lies on the back: plasma stands in front.
        front = np.quantile(grown.near[1][is_clot], random.uniform(0.2, 0.6))
        here[is_clot & (grown.near[1] < front)] = Tissue.PLASMA
    here[grown.in_ventricle] = Tissue.VENTRICULAR_BLOOD
    ventricular_ml = float(grown.in_ventricle.sum()) * volume.voxel_ml
    clot_ml = float(is_clot.sum()) * volume.voxel_ml
    return Hematoma(site.name, clot_ml, ventricular_ml)


def add_masses(volume: Volume, num: int, random: np.random.Generator) -> None:
    """Put look-alikes without blood into a head, in place: tumours, cysts, swollen tissue, foci.

    Each grows where and as a hematoma does, but is mostly larger (median 20 mL); half of them seep
    into the tissue around, a third are mottled. One in six is a scatter of small foci instead.

    Args:
        volume: The head, after its hematomas; labels change, and positions where tissue moved.
        num: How many.
        random: Draws all of them.
    """
    held = np.zeros(volume.labels.shape if num else 0, np.bool_)
    for _ in range(num):
        if random.random() < 1 / 6:
            _add_foci(volume, held, random)
            continue
        site = draw_site(random)
        volume_ml = float(np.clip(np.exp(random.normal(np.log(20.0), 0.9)), 1.0, site.max_ml))
        grown = _grow(volume, site, volume_ml, random, held)
        if grown is None:
            continue
        core, rim = MASSES[int(random.choice(len(MASSES), p=(0.55, 0.25, 0.2)))]
        rim_mm = random.uniform(1.0, 5.0)
        halo = random.exponential(6.0) if random.random() < 0.5 else 0.0
        grown.here[grown.around(halo)] = Tissue.EDEMA
        is_mass, depth_mm = grown.is_within, grown.edge - grown.reach
        # Of the size of fingers and clots of cells, a few millimetres.
        sizes_mm = np.multiply(is_mass.shape, volume.spacing_mm)
        counts = [int(np.clip(size / 4, 4, 40)) for size in sizes_mm]
        if random.random() < 0.5:
            fingers = smooth_noise(is_mass.shape, counts, random)
            is_mass = is_mass & (depth_mm / random.uniform(2.0, 12.0) + fingers > 0.5)
        grown.here[is_mass] = core
        grown.here[is_mass & (depth_mm < rim_mm)] = rim
        if random.random() < 0.35:
            is_patch = smooth_noise(is_mass.shape, counts, random) > random.uniform(0.0, 0.5)
            grown.here[is_mass & is_patch] = random.choice(
                (Tissue.FLUID, Tissue.EDEMA, Tissue.SCAR)
            )
        held[grown.box] |= is_mass


def _add_foci(volume: Volume, held: NDArray[np.bool_], random: np.random.Generator) -> None:
    """Some scars of a few millimetres in white matter, as of multiple sclerosis, in place."""
    labels = volume.labels
    white = np.flatnonzero(labels == Tissue.WHITE)
    if not len(white):
        return
    for index in random.choice(white, int(random.integers(5, 41))):
        middle = np.unravel_index(index, labels.shape)
        radii_mm = np.exp(random.normal(np.log(2.5), 0.4, 3))
        radii = np.maximum(radii_mm / volume.spacing_mm, 0.5)
        first = np.maximum(middle - np.ceil(radii), 0).astype(int)
        last = np.minimum(middle + np.ceil(radii), np.subtract(labels.shape, 1)).astype(int)
        box = tuple(slice(low, high + 1) for low, high in zip(first, last, strict=True))
        offsets = np.ogrid[box]
        squares = sum(((o - m) / r) ** 2 for o, m, r in zip(offsets, middle, radii, strict=True))
        is_focus = (squares <= 1) & (labels[box] == Tissue.WHITE)
        labels[box][is_focus] = Tissue.SCAR
        held[box] |= is_focus


@dataclass(frozen=True, eq=False)
class _Grown:
    """A shape within a head, after tissue has made room for it.

    Attributes:
        box: Where it can be in the head.
        here: Labels there, a view of the head's.
        near: Their positions.
        reach: Distance from the center under the shape's measure.
        edge: Reach up to which the shape goes.
        can_hold: Where tissue is that it can replace.
        is_within: The shape.
        in_ventricle: What of a ventricle is within its reach.
        ripple: Unevenness of its border.
    """

    box: tuple[slice, slice, slice]
    here: Labels
    near: Positions
    reach: NDArray[np.float32]
    edge: float
    can_hold: NDArray[np.bool_]
    is_within: NDArray[np.bool_]
    in_ventricle: NDArray[np.bool_]
    ripple: NDArray[np.float32]

    def around(self, halo: float) -> NDArray[np.bool_]:
        """Tissue beyond it as far as a halo."""
        beyond = self.reach > self.edge
        return self.can_hold & beyond & (self.reach <= self.edge + halo * (1 + self.ripple))


def _grow(
    volume: Volume,
    site: Site,
    volume_ml: float,
    random: np.random.Generator,
    held: NDArray[np.bool_] | None = None,
) -> _Grown | None:
    """A shape at a site, which moves tissue away and marks none; None if nothing can hold it.

    Besides blood and edema, what is `held` stays where it is.
    """
    labels, positions, atlas = volume.labels, volume.positions, volume.atlas
    side = random.choice((-1, 1))
    center_mm = np.array(site.center_mm) * (1, 1, side) + random.normal(size=3) * site.spread_mm
    radius_mm = (volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    box = _box(positions, center_mm, radius_mm, volume.spacing_mm)
    near, here = positions[:, *box], labels[box]
    depth_mm = -atlas.hull_half_mm.reshape(-1)[flat_indices(near, atlas)] * np.float32(0.5)
    _push(near, center_mm, radius_mm, depth_mm, random.uniform(0.2, 0.95))
    moved = flat_indices(near, atlas)
    # Tissue moves; what an earlier hematoma brought stays where it is.
    brought = (*HEMATOMA, Tissue.VENTRICULAR_BLOOD, Tissue.EDEMA, Tissue.HOLDER)
    moves = ~np.isin(here, brought)
    if held is not None:
        moves &= ~held[box]
    here[moves] = volume.tissues.reshape(-1)[moved][moves]
    irregularity = float(random.choice((0.2, 0.5, 0.9), p=(0.3, 0.4, 0.3)))
    reach, ripple = _reach(near, center_mm, radius_mm, irregularity, random)
    can_hold = np.isin(here, (Tissue.WHITE, Tissue.GREY, Tissue.SCAR, Tissue.EDEMA))
    can_hold &= depth_mm > 2
    wanted = min(round(volume_ml / volume.voxel_ml), int(can_hold.sum()))
    if wanted == 0:
        return None
    edge = np.partition(reach[can_hold], wanted - 1)[wanted - 1]
    return _Grown(
        box=box,
        here=here,
        near=near,
        reach=reach,
        edge=edge,
        can_hold=can_hold,
        is_within=can_hold & (reach <= edge),
        in_ventricle=(here == Tissue.VENTRICLE) & (reach <= edge),
        ripple=ripple,
    )


def fill_ventricles(volume: Volume, random: np.random.Generator) -> None:
    """Blood in the ventricles, in place.

    It lies at the back, where the patient lies, or fills them as a cast.
    """
    labels, positions = volume.labels, volume.positions
    fluid = labels == Tissue.VENTRICLE
    if not fluid.any():
        return
    backward = positions[1][fluid]
    if random.random() < 0.7:
        # Layers at the back of each horn: the last few millimetres.
        filled = backward > np.quantile(backward, random.uniform(0.6, 0.97))
    else:
        sideways = positions[2][fluid] * random.choice((-1, 1))
        filled = sideways > np.quantile(sideways, random.uniform(0.1, 0.9))
    labels[fluid] = np.where(filled, Tissue.VENTRICULAR_BLOOD, Tissue.VENTRICLE)


def _box(
    positions: Positions,
    center_mm: NDArray[np.float64],
    radius_mm: float,
    spacing_mm: tuple[float, float, float],
) -> tuple[slice, slice, slice]:
    """Where a hematoma and what it moves can be."""
    coarse = positions[:, ::2, ::4, ::4]
    squares = ((coarse - center_mm.astype(np.float32)[:, None, None, None]) ** 2).sum(axis=0)
    nearest = np.unravel_index(int(squares.argmin()), squares.shape)
    reach_mm = 2.5 * radius_mm + 18
    slices = []
    for index, step, size, spacing in zip(
        nearest, (2, 4, 4), positions.shape[1:], spacing_mm, strict=True
    ):
        middle, half = int(index) * step, round(reach_mm / spacing) + step
        slices.append(slice(max(0, middle - half), min(size, middle + half + 1)))
    return slices[0], slices[1], slices[2]


def _push(
    near: Positions,
    center_mm: NDArray[np.float64],
    radius_mm: float,
    depth_mm: NDArray[np.float32],
    share: float,
) -> None:
    """Move positions toward the center, in place, so that tissue appears moved away from it.

    A sphere that grows from a point within an incompressible medium moves what was at radius q to
    r with q^3 = r^3 - R^3. Here only a `share` of R^3 is displaced, it fades with distance, and
    nothing moves at the skull.
    """
    offset = near - center_mm.astype(np.float32)[:, None, None, None]
    ratio = np.sqrt((offset**2).sum(axis=0)) / np.float32(radius_mm)
    np.maximum(ratio, 1e-3, out=ratio)
    cube = ratio**3
    outside = np.maximum(ratio - 1, 0)
    firm = np.clip(depth_mm / 12, 0, 1)
    displaced = np.minimum(cube, 1) * share * np.exp(-outside * np.float32(0.8)) * firm
    factor = np.cbrt(np.maximum(cube - displaced, 0)) / ratio
    near -= offset * (1 - factor)


def _reach(
    near: Positions,
    center_mm: NDArray[np.float64],
    radius_mm: float,
    irregularity: float,
    random: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Distance from the center in mm under an uneven measure, and the ripple in it."""
    stretch = np.exp(random.normal(0, 0.35, 3))
    stretch /= np.prod(stretch) ** (1 / 3)
    turn = (rotation(random.uniform(-90, 90, 3)) / stretch[:, None]).astype(np.float32)
    offset = near - center_mm.astype(np.float32)[:, None, None, None]

    def length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        turned = np.tensordot(turn, vectors, axes=1)
        return np.asarray(np.sqrt((turned**2).sum(axis=0)), np.float32)

    distance = length(offset)
    # Waves of about a centimetre and more make lobes; smaller ones fray the border.
    counts = [min(14, 4 + round(size / 12)) for size in near.shape[1:]]
    ripple = smooth_noise(near.shape[1:], counts, random)
    ripple += 0.5 * smooth_noise(near.shape[1:], [2 * count - 3 for count in counts], random)
    reach = distance * np.exp(-np.float32(irregularity) * ripple)
    if irregularity > 0.3:
        for _ in range(random.poisson(1.0)):
            away = random.normal(size=3)
            away *= radius_mm * random.uniform(1.0, 1.5) / np.linalg.norm(away)
            size = random.uniform(0.15, 0.5)
            apart = length(offset - away.astype(np.float32)[:, None, None, None])
            np.minimum(reach, apart / np.float32(size), out=reach)
    return reach, ripple
