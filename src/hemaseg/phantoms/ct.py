"""Tissues to Hounsfield units: attenuation, beam hardening, streaks, kernel and noise.

Attenuation: brain, fluid, fat, bone and blood as in textbooks of head CT (brain 25 to 45 HU with
grey matter 5 to 10 above white; fluid 0 to 15; fat -100 to -60). Blood by age (Parizel et al., Eur
Radiol 2001, 11:1770; New and Aronow, Radiology 1976, 121:635): 40 to 60 HU while liquid, 60 to 90
as the clot retracts, then about 1.5 HU less each day, like brain after one to four weeks, like
fluid after months; with anemia clots stay near brain.

Shape legend: slices K, rows H, columns W.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hemaseg.phantoms.anatomy import Labels, Tissue
from hemaseg.phantoms.warping import smooth_noise

Age = Literal["hyperacute", "acute", "early subacute", "late subacute", "chronic"]
BLOOD_HU: dict[Age, tuple[float, float]] = {
    "hyperacute": (48.0, 66.0),
    "acute": (56.0, 86.0),
    "early subacute": (48.0, 72.0),
    "late subacute": (38.0, 52.0),
    "chronic": (8.0, 24.0),
}
"""Range of the mean of a hematoma by age: hours, 1 to 3 days, to a week, to a month, later."""


@dataclass(frozen=True)
class Scanner:
    """What a scanner and its kernel do to a head.

    Attributes:
        noise_hu: Standard deviation within the head, before the kernel; in air 0.4 of it.
        blur_pixels: Standard deviation of the kernel.
        sharpening: Overshoot of sharp kernels, 0 for soft ones.
        cupping_hu: What beam hardening leaves below the skull.
        num_streaks: Dark and bright bands between dense bones.
    """

    noise_hu: float
    blur_pixels: float
    sharpening: float
    cupping_hu: float
    num_streaks: int


def draw_scanner(random: np.random.Generator) -> Scanner:
    """Any scanner and protocol that heads are scanned with."""
    blur = random.uniform(0.45, 1.1)
    # Slices of 5 mm are an average; those of 1 mm, as some archives keep them, are not.
    noise = random.uniform(6.0, 16.0) if random.random() < 0.2 else random.uniform(1.2, 7.0)
    return Scanner(
        noise_hu=noise * (1 + 2 * blur) / 1.5,
        blur_pixels=blur,
        sharpening=random.uniform(0.0, 0.8) * (random.random() < 0.4),
        cupping_hu=random.exponential(3.0),
        num_streaks=int(random.poisson(1.0)),
    )


def attenuation_hu(age: Age, random: np.random.Generator) -> NDArray[np.float32]:
    """HU of each `Tissue`, by its number, for one patient."""
    values = np.zeros(max(Tissue) + 1, np.float32)
    brain = random.normal(31.0, 3.0)
    contrast = random.uniform(3.0, 10.0)
    fluid = random.uniform(0.0, 14.0)
    low, high = BLOOD_HU[age]
    blood = random.uniform(low, high)
    venous = random.uniform(42.0, 62.0)
    of_tissue = {
        Tissue.AIR: -1000.0,
        Tissue.WHITE: brain - contrast / 2,
        Tissue.GREY: brain + contrast / 2,
        Tissue.FLUID: fluid,
        Tissue.VENTRICLE: fluid + random.normal(0, 1),
        Tissue.BONE: random.uniform(900.0, 1600.0),
        Tissue.MARROW: random.uniform(250.0, 900.0),
        Tissue.FAT: random.uniform(-110.0, -60.0),
        Tissue.SOFT: random.uniform(20.0, 65.0),
        Tissue.EYE: random.uniform(5.0, 18.0),
        Tissue.LENS: random.uniform(60.0, 90.0),
        Tissue.DENSE_BONE: random.uniform(1200.0, 2200.0),
        Tissue.DURA: random.uniform(40.0, 75.0),
        Tissue.VENOUS: venous,
        Tissue.CALCIUM: random.choice((random.uniform(70.0, 160.0), random.uniform(150.0, 700.0))),
        Tissue.EDEMA: brain - random.uniform(5.0, 14.0),
        Tissue.BLOOD: blood,
        Tissue.BLOOD_RIM: blood - random.uniform(0.0, 6.0),
        Tissue.PLASMA: random.uniform(28.0, 46.0),
        Tissue.VENTRICULAR_BLOOD: blood - random.uniform(0.0, 15.0),
        Tissue.HOLDER: random.uniform(-200.0, 400.0),
        Tissue.SCAR: random.uniform(fluid, brain - 4.0),
    }
    for tissue, value in of_tissue.items():
        values[tissue] = value
    return values


def render_ct(
    labels: Labels, num_planes: int, age: Age, scanner: Scanner, random: np.random.Generator
) -> NDArray[np.int16]:
    """`(K, H, W)` in HU.

    Args:
        labels: `(K * num_planes, H, W)` of `Tissue`.
        num_planes: Planes of a slice; their mean is its partial volume.
        age: Of the blood.
        scanner: What it was scanned with.
        random: Draws texture and noise.
    """
    values = attenuation_hu(age, random)
    hu = values[labels]
    _mottle(hu, labels, random)
    slices = hu.reshape(-1, num_planes, *hu.shape[1:]).mean(axis=1)
    is_head = slices > -300
    slices += np.float32(random.uniform(0, 2)) * smooth_noise(slices.shape, (7, 9, 9), random)
    if scanner.cupping_hu > 0.5:
        _harden(slices, is_head, scanner.cupping_hu)
    noise = random.standard_normal(slices.shape, dtype=np.float32)
    # Quanta are fewest where most of them were stopped: within the head.
    slices += noise * np.where(is_head, scanner.noise_hu, 0.4 * scanner.noise_hu)
    for k in range(len(slices)):
        for _ in range(scanner.num_streaks):
            _add_streak(slices[k], is_head[k], random)
    blurred = blur(slices, scanner.blur_pixels)
    if scanner.sharpening:
        blurred += scanner.sharpening * (blurred - blur(blurred, 1.2))
    np.clip(blurred, -1024, 3071, out=blurred)
    return np.asarray(np.rint(blurred), np.int16)


def blur(slices: NDArray[np.float32], sd: float) -> NDArray[np.float32]:
    """Slices `(K, H, W)` under a Gaussian kernel within each; its standard deviation in pixels."""
    once = ndimage.gaussian_filter1d(slices, sd, axis=1, truncate=3)
    return np.asarray(ndimage.gaussian_filter1d(once, sd, axis=2, truncate=3))


def _mottle(hu: NDArray[np.float32], labels: Labels, random: np.random.Generator) -> None:
    """Clots are uneven: denser and thinner parts of half a centimetre and more, in place."""
    is_clot = (labels == Tissue.BLOOD) | (labels == Tissue.BLOOD_RIM)
    if not is_clot.any():
        return
    extent = [np.flatnonzero(is_clot.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    box = tuple(slice(found[0], found[-1] + 1) for found in extent)
    clot = is_clot[box]
    noise = smooth_noise(clot.shape, [4 + n // 6 for n in clot.shape], random)
    hu[box] += np.where(clot, np.float32(random.uniform(0, 8)) * noise, 0)


def _harden(slices: NDArray[np.float32], is_head: NDArray[np.bool_], cupping_hu: float) -> None:
    near_bone = ndimage.uniform_filter((slices[:, ::4, ::4] > 400).astype(np.float32), (1, 9, 9))
    wide = np.repeat(np.repeat(near_bone, 4, axis=1), 4, axis=2)
    wide = ndimage.uniform_filter(wide, (1, 5, 5))[:, : slices.shape[1], : slices.shape[2]]
    slices += np.where(is_head, cupping_hu * 3 * wide, 0).astype(np.float32)


def _add_streak(
    plane: NDArray[np.float32], is_head: NDArray[np.bool_], random: np.random.Generator
) -> None:
    """A band across the head, as between petrous bones, dental metal or a moving patient."""
    num_rows, num_columns = plane.shape
    angle = random.uniform(0, np.pi)
    along = np.cos(angle) * np.arange(num_rows)[:, None] + np.sin(angle) * np.arange(num_columns)
    at = along[random.integers(num_rows), random.integers(num_columns)]
    width = random.uniform(1.5, 12.0)
    height_hu = random.normal(0, 6.0)
    profile = height_hu * np.exp(-(((along - at) / width) ** 2) / 2)
    plane += np.where(is_head, profile, 0).astype(np.float32)
