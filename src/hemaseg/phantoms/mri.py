"""Tissues to signal: spin echo, inversion recovery and gradient echo, or any contrast at all.

Relaxation times are rounded ones for about 1.5 T. T2 of brain is near that of Stanisz et al., Magn
Reson Med 2005, 54:507; T1 is shorter than theirs (620 and 980 ms for white and grey matter, where
they have 884 and 1124), as other methods measure it and with more contrast between the two. Blood
passes through the stages of Bradley, Radiology 1993, 189:15: oxygenated, deoxygenated,
methemoglobin within cells and free, and a rim of hemosiderin; their times are chosen so that the
signals of his table result. A share of the heads has random contrast (Billot et al., SynthSeg, Med
Image Anal 2023, 86:102789), so that a network learns what blood looks like under sequences that no
equation here has.

Shape legend: slices K, rows H, columns W.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hemaseg.phantoms.anatomy import Labels, Tissue
from hemaseg.phantoms.ct import Age, blur
from hemaseg.phantoms.warping import smooth_noise

Sequence = Literal["T1", "T2", "FLAIR", "T2*", "random"]
SEQUENCES: tuple[Sequence, ...] = ("T1", "T2", "FLAIR", "T2*", "random")

Relaxation = tuple[float, float, float, float]
"""Proton density, T1, T2 and T2* in ms."""

_TISSUES: dict[Tissue, Relaxation] = {
    Tissue.AIR: (0.0, 1000, 10, 5),
    Tissue.WHITE: (0.70, 620, 80, 60),
    Tissue.GREY: (0.82, 980, 100, 65),
    Tissue.FLUID: (1.0, 4000, 1800, 500),
    Tissue.VENTRICLE: (1.0, 4000, 1800, 500),
    Tissue.BONE: (0.05, 500, 5, 2),
    Tissue.MARROW: (0.35, 350, 60, 15),
    Tissue.FAT: (0.9, 260, 80, 30),
    Tissue.SOFT: (0.8, 900, 45, 25),
    Tissue.EYE: (1.0, 3500, 1200, 300),
    Tissue.LENS: (0.6, 1100, 30, 15),
    Tissue.DENSE_BONE: (0.02, 500, 5, 2),
    Tissue.DURA: (0.5, 900, 30, 12),
    Tissue.VENOUS: (0.3, 1400, 60, 20),
    Tissue.CALCIUM: (0.25, 900, 25, 5),
    Tissue.EDEMA: (0.9, 1300, 180, 110),
    Tissue.HOLDER: (0.0, 1000, 10, 5),
    Tissue.SCAR: (0.9, 1500, 220, 130),
}
_BLOOD: dict[Age, tuple[Relaxation, Relaxation]] = {
    # Core, rim.
    "hyperacute": ((0.92, 1300, 170, 60), (0.9, 1250, 70, 15)),
    "acute": ((0.85, 1150, 38, 9), (0.85, 1050, 45, 9)),
    "early subacute": ((0.85, 420, 42, 10), (0.85, 320, 42, 10)),
    "late subacute": ((0.95, 340, 300, 70), (0.8, 500, 35, 7)),
    "chronic": ((0.95, 1800, 380, 150), (0.7, 900, 22, 5)),
}


def signals(sequence: Sequence, age: Age, random: np.random.Generator) -> NDArray[np.float32]:
    """Signal of each `Tissue`, by its number, for one patient and protocol; 0 is none."""
    result = np.zeros(max(Tissue) + 1, np.float32)
    if sequence == "random":
        return _random_contrast(random)
    core, rim = _BLOOD[age]
    plasma = (0.95, 1600.0, 350.0, 120.0)
    of_tissue = _TISSUES | {
        Tissue.BLOOD: core,
        Tissue.BLOOD_RIM: rim,
        Tissue.PLASMA: plasma,
        Tissue.VENTRICULAR_BLOOD: core,
    }
    weight = _Protocol(sequence, random)
    for tissue, (density, t1, t2, t2_star) in of_tissue.items():
        spread = np.exp(random.normal(0, 0.07, 4))
        result[tissue] = weight(
            density * spread[0], t1 * spread[1], t2 * spread[2], t2_star * spread[3]
        )
    if random.random() < 0.3:  # veins after contrast medium, or with flow that fills them
        result[Tissue.VENOUS] = result.max() * random.uniform(0.5, 1)
    return result


class _Protocol:
    """A sequence with its times in ms: relaxation to signal."""

    def __init__(self, sequence: Sequence, random: np.random.Generator) -> None:
        ranges = {
            "T1": ((380, 750), (8, 20), (0, 0)),
            "T2": ((2800, 6500), (75, 125), (0, 0)),
            "FLAIR": ((7000, 11000), (85, 145), (1900, 2700)),
            "T2*": ((450, 1000), (14, 32), (0, 0)),
        }[sequence]
        self._tr, self._te, self._ti = (random.uniform(*bounds) for bounds in ranges)
        self._flip = np.radians(random.uniform(15, 35))
        self._sequence = sequence

    def __call__(self, density: float, t1: float, t2: float, t2_star: float) -> float:
        recovered = 1 - np.exp(-self._tr / t1)
        if self._sequence == "T2*":
            left = np.exp(-self._tr / t1)
            steady = np.sin(self._flip) * (1 - left) / (1 - np.cos(self._flip) * left)
            return float(density * steady * np.exp(-self._te / t2_star))
        if self._sequence == "FLAIR":
            recovered = abs(1 - 2 * np.exp(-self._ti / t1) + np.exp(-self._tr / t1))
        return float(density * recovered * np.exp(-self._te / t2))


def _random_contrast(random: np.random.Generator) -> NDArray[np.float32]:
    """Each tissue any grey; but blood differs from the brain, else nobody could see it."""
    result = random.uniform(0.05, 1, max(Tissue) + 1).astype(np.float32)
    for dark in (Tissue.AIR, Tissue.HOLDER):
        result[dark] = 0
    for dim in (Tissue.BONE, Tissue.DENSE_BONE):
        result[dim] *= 0.2
    result[Tissue.VENTRICLE] = result[Tissue.FLUID]
    brain = random.uniform(0.25, 0.75)
    difference = random.uniform(0.03, 0.2) * random.choice((-1, 1))
    result[Tissue.WHITE], result[Tissue.GREY] = brain - difference / 2, brain + difference / 2
    apart = abs(difference) / 2 + random.uniform(0.12, 0.4)
    sign = random.choice((-1, 1))
    blood = brain + sign * apart
    blood = blood if 0 < blood < 1 else brain - sign * apart
    result[Tissue.BLOOD] = blood
    result[Tissue.BLOOD_RIM] = blood + random.normal(0, 0.05)
    result[Tissue.VENTRICULAR_BLOOD] = blood + random.normal(0, 0.05)
    return np.clip(result, 0, 1)


def render_mri(
    labels: Labels, num_planes: int, sequence: Sequence, age: Age, random: np.random.Generator
) -> NDArray[np.int16]:
    """`(K, H, W)` signal, never negative, on an arbitrary scale.

    Args:
        labels: `(K * num_planes, H, W)` of `Tissue`.
        num_planes: Planes of a slice; their mean is its partial volume.
        sequence: What is imaged.
        age: Of the blood.
        random: Draws protocol, bias field, blur and noise.
    """
    values = signals(sequence, age, random)
    signal = values[labels]
    slices = signal.reshape(-1, num_planes, *signal.shape[1:]).mean(axis=1)
    bias = smooth_noise(slices.shape, (4, 5, 5), random)
    slices *= np.exp(random.uniform(0, 0.35) * bias)
    texture = random.uniform(0, 0.06)
    slices *= 1 + texture * random.standard_normal(slices.shape, dtype=np.float32)
    sd = random.uniform(0.4, 1.1)
    slices = blur(slices, sd)
    # The magnitude of a complex signal with noise in both parts (Rice).
    noise = np.float32(random.uniform(0.005, 0.04) * values.max())
    real = slices + noise * random.standard_normal(slices.shape, dtype=np.float32)
    imaginary = noise * random.standard_normal(slices.shape, dtype=np.float32)
    scale = random.uniform(300, 3000) / values.max()
    return np.asarray(np.rint(np.hypot(real, imaginary) * scale), np.int16)
