"""Reduce the MNI152 template to the small atlas that synthetic heads are made from.

    pip install --no-deps nilearn==0.14.1
    python scripts/make_atlas.py src/hemaseg/phantoms/atlas.npz

nilearn carries three volumes of the symmetric ICBM 2009a template (T1, grey matter, white matter;
Fonov et al. 2009 and 2011, Collins et al. 1999), without skull. Kept of them are the two tissue
maps in 16 steps. What lies around the brain is drawn here in the template's coordinates: skull and
scalp follow the distance from the brain's hull; face, orbits, sinuses, petrous bones and falx are
simple solids. The template's licence permits use, change and distribution with its notice
(`src/hemaseg/phantoms/ATLAS-LICENCE.txt`).

Arrays run toward superior, posterior, left (display order) in steps of 1 mm; the distances, which
are smooth, in steps of 2 mm.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hemaseg.files import whole_file
from hemaseg.phantoms.atlas import Part

LOW_MM, HIGH_MM = (-72, -110, -96), (106, 128, 96)
"""First and last position of the atlas toward superior, posterior, left; 0 is the anterior
commissure."""
NAME = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]


def template(name: str) -> Volume:
    """`(S, P, L)` of a volume of nilearn on the atlas grid, in [0, 1]."""
    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise SystemExit("nilearn is not installed: pip install --no-deps nilearn==0.14.1")
    image: Any = nib.load(Path(spec.origin).parent / "datasets" / "data" / NAME.format(name))
    values = np.asarray(image.dataobj, np.float32) / 255
    values = values.transpose(2, 1, 0)[:, ::-1, ::-1]
    affine = image.affine
    end = affine @ [*(np.array(image.shape) - 1), 1]
    first = (affine[2, 3], -end[1], -end[0])  # mm of the first voxel, toward S, P, L
    shape = tuple(high - low + 1 for low, high in zip(LOW_MM, HIGH_MM, strict=True))
    result = np.zeros(shape, np.float32)
    here, there = [], []
    for low, start, size, count in zip(LOW_MM, first, shape, values.shape, strict=True):
        shift = round(low - start)
        here.append(slice(max(0, -shift), min(size, count - shift)))
        there.append(slice(max(0, shift), min(count, size + shift)))
    result[tuple(here)] = values[tuple(there)]
    return result


def signed_distance(mask: Mask) -> Volume:
    """Millimetres from the surface, negative inside."""
    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask)
    return np.asarray(outside - inside, np.float32)


def hull_of(brain: Mask) -> Mask:
    """The inside of the skull: the brain without its furrows, and 2 mm more."""
    padded = np.pad(brain, 12, mode="edge")
    grown = ndimage.distance_transform_edt(~padded) <= 9
    closed = ndimage.distance_transform_edt(grown) > 7
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in closed])
    return filled[12:-12, 12:-12, 12:-12]


def solids(s: Volume, p: Volume, left: Volume, hull_mm: Volume) -> NDArray[np.uint8]:
    """What is around the brain, as numbers of `Part`; coordinates in mm, broadcastable."""
    x = np.abs(left)
    parts = np.zeros(hull_mm.shape, np.uint8)

    def ball(s0: float, p0: float, x0: float, rs: float, rp: float, rx: float) -> Mask:
        return np.asarray(((s - s0) / rs) ** 2 + ((p - p0) / rp) ** 2 + ((x - x0) / rx) ** 2 <= 1)

    outside = hull_mm > 0
    # Face and neck: soft tissue below and before the brain.
    face = ball(-55, -48, 0, 58, 52, 62) & (p < 0)
    neck = ball(-95, 32, 0, 80, 55, 62)
    nose = ball(-62, -98, 0, 26, 16, 15)
    parts[(face | neck | nose) & outside] = Part.SOFT
    # Bones of the face, thin, with air within.
    shell = ball(-60, -52, 0, 46, 42, 50) & ~ball(-60, -52, 0, 42, 38, 46)
    parts[shell & outside] = Part.BONE
    cheek = ball(-48, -42, 66, 5, 36, 4)
    parts[cheek & outside] = Part.BONE
    orbit = ball(-38, -54, 32, 20, 28, 20)
    wall = ball(-38, -52, 32, 22.5, 31, 22.5)
    parts[wall & outside & (p > -82)] = Part.BONE
    parts[orbit & outside] = Part.ORBIT
    # The optic nerve runs from the eye backward and inward.
    nerve = (s + 36) ** 2 + (x - (32 - (p + 62) * 0.45)) ** 2 <= 2.5**2
    parts[nerve & (p > -62) & (p < -25) & outside] = Part.SOFT
    parts[ball(-38, -66, 33, 12.5, 12.5, 12.5) & outside] = Part.EYE
    parts[ball(-38, -75, 33, 5, 2.5, 5) & outside] = Part.LENS
    # Air: ethmoid cells between the orbits, nose, sphenoid, frontal and maxillary sinuses.
    cells = ball(-38, -52, 0, 16, 28, 12)
    septa = (np.mod(s * 0.9 + p * 0.4, 9) < 1.2) | (np.mod(p, 11) < 1.2) | (x < 0.8)
    parts[cells & outside] = Part.AIR
    parts[cells & septa & outside] = Part.BONE
    for air in (
        ball(-66, -56, 0, 18, 34, 9) & (x > 1),
        ball(-30, -16, 8, 9, 11, 8) & (x > 1),
        ball(-62, -50, 30, 16, 17, 15),
    ):
        parts[ndimage.binary_dilation(air) & outside & ~air] = Part.BONE
        parts[air & outside] = Part.AIR
    frontal = ball(-8, -76, 10, 17, 8, 10) & (hull_mm > 3)
    parts[frontal & outside] = Part.FRONTAL_SINUS
    # Skull base: clivus, petrous ridges with mastoid cells.
    clivus = ball(-42, 2, 0, 18, 7, 14) & outside
    parts[clivus] = Part.BONE
    along = np.clip((x - 18) / 40, 0, 1)  # from the clivus outward and backward
    ridge = ((s + 38) / 11) ** 2 + ((p - (6 + 26 * along)) / 9) ** 2 <= 1
    parts[ridge & (x > 14) & (x < 66) & outside] = Part.PETROUS
    cells = (np.mod(s, 5) > 1) & (np.mod(p + x, 5) > 1) & (np.mod(p - x, 6) > 1)
    mastoid = ball(-50, 34, 56, 18, 15, 11) & outside
    parts[mastoid] = Part.BONE
    parts[mastoid & cells] = Part.AIR
    canal = ball(-44, 18, 62, 3, 3, 22) & (x > 44) & outside
    parts[canal] = Part.AIR
    # The falx from the midline of the vault, and the sinuses at its rim and in the tentorium.
    depth = -hull_mm
    is_falx = (x < 0.6) & (depth > 0) & (depth < 26 + 12 * (p > 0)) & (s > 2 + 0.08 * p)
    parts[is_falx] = Part.FALX
    sagittal = (x < 4.5) & (depth > -1) & (depth < 5.5 - x * 0.8) & ((s > 10) | (p > 60))
    parts[sagittal & (p > -60)] = Part.SINUS
    tent = s + 6 + 0.42 * x - 0.16 * (p - 50)
    parts[(np.abs(tent) < 0.6) & (depth > 0) & (p > 42) & (x < 58) & (depth < 45)] = Part.FALX
    transverse = (np.abs(tent) < 4) & (depth > -1) & (depth < 4.5) & (p > 60) & (x > 4)
    parts[transverse] = Part.SINUS
    return parts


def ventricles_of(brain: Mask, tissue: Volume, s: Volume, p: Volume, left: Volume) -> Mask:
    """Lateral ventricles, third and fourth: fluid deep in the brain."""
    x = np.abs(left)
    fluid = brain & (tissue < 0.5)
    lateral = (x < 42) & (s > -22) & (s < 38) & (p > -45) & (p < 75)
    lateral &= ~((x < 14) & (p > 28) & (s < 6))  # quadrigeminal cistern
    lateral &= ~((x < 3) & ((s > 12) | (p < -22)))  # between the hemispheres
    lateral &= ~((s < -2) & (p < 8)) & ~((x < 16) & (s < 1) & (p < -4))
    lateral &= ~((x < 20) & (s < -8))  # suprasellar and ambient cisterns
    lateral &= ~((x > 24) & (p < 10) & (s > -14))  # insula
    third = (x < 5) & (p > -6) & (p < 27) & (s > -9) & (s < 10)
    fourth = (x < 10) & (p > 33) & (p < 56) & (s > -46) & (s < -20)
    found, count = ndimage.label(fluid & (lateral | third | fourth))
    sizes = ndimage.sum_labels(np.ones_like(found), found, np.arange(1, count + 1))
    return np.asarray(np.isin(found, 1 + np.flatnonzero(sizes >= 150)))


def main() -> None:
    """Write the atlas."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    grey, white, t1 = template("gm"), template("wm"), template("t1")
    axes = [
        np.arange(low, high + 1, dtype=np.float32)
        for low, high in zip(LOW_MM, HIGH_MM, strict=True)
    ]
    s, p, left = np.meshgrid(*axes, indexing="ij", sparse=True)
    brain = t1 > 0
    hull_mm = signed_distance(hull_of(brain))
    ventricle_mm = signed_distance(ventricles_of(brain, grey + white, s, p, left))
    parts = solids(s, p, left, hull_mm)
    with whole_file(output) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            low_mm=np.array(LOW_MM, np.int16),
            grey=np.rint(grey * 15).astype(np.uint8),
            white=np.rint(white * 15).astype(np.uint8),
            parts=parts,
            hull_half_mm=np.clip(np.rint(hull_mm[::2, ::2, ::2] * 2), -127, 127).astype(np.int8),
            ventricle_half_mm=np.clip(np.rint(ventricle_mm[::2, ::2, ::2] * 2), -127, 127).astype(
                np.int8
            ),
        )
    print(f"{output}: {output.stat().st_size / 2**20:.2f} MiB, {parts.shape} voxels")


if __name__ == "__main__":
    main()
