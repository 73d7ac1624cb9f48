"""CT and MRI are told apart by their values, and nothing is said where both could be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hemaseg.intake.sources import find_sources, read_source
from hemaseg.scans.images import read_scan
from hemaseg.scans.modality import guess_modality
from hemaseg.scans.screening import ReadOptions
from small_heads import small_head

Voxels = NDArray[Any]
CT = small_head(1).voxels.astype(np.float64)


def made_mri(seed: int = 1) -> Voxels:
    """A head of MRI: scalp and fat brightest, brain of several tissues, no bone, no air but noise.

    CT numbers of the phantom are replaced by signals, with the noise that magnitudes have.
    """
    random = np.random.default_rng(seed)
    head = small_head(seed)
    signal = np.zeros(head.voxels.shape)
    signal[head.voxels > 500] = 800.0
    is_brain = (head.voxels > -500) & (head.voxels <= 500)
    depth = np.indices(head.voxels.shape)[2] // 8 % 3
    signal[is_brain] = np.array([250.0, 400.0, 520.0])[depth][is_brain]
    noise = random.normal(scale=12.0, size=(2, *signal.shape))
    magnitude = np.hypot(signal + noise[0], noise[1])
    magnitude[signal == 0] *= random.random(np.count_nonzero(signal == 0)) < 0.2
    return np.asarray(np.rint(magnitude))


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("seed", range(4))
def test_ct_has_air_and_bone(seed: int, kind: type) -> None:
    voxels: Voxels = small_head(seed).voxels.astype(kind)
    modality, reason = guess_modality(voxels)
    assert modality == "CT"
    share = np.mean(voxels <= -900)
    assert reason.startswith(f"{share:.0%} of voxels are air in HU and ")
    voxels[voxels < -900] = -3024  # what scanners put beyond the field of view
    assert guess_modality(voxels)[0] == "CT"


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.float32])
@pytest.mark.parametrize("seed", range(4))
def test_mri_has_a_background_of_0_and_no_hu(seed: int, kind: type) -> None:
    voxels: Voxels = made_mri(seed).astype(kind)
    assert guess_modality(voxels) == (
        "MRI",
        f"values from 0 to {voxels.max():g} with a background of 0 are no HU",
    )


def test_a_few_negative_values_are_of_resampling() -> None:
    voxels = made_mri().ravel()
    voxels[: len(voxels) // 1000] = -200
    assert guess_modality(voxels)[0] == "MRI"
    voxels[: len(voxels) // 500] = -200
    assert guess_modality(voxels) == ("", "")


def noisy_brain_with_a_clip() -> Voxels:
    noisy = CT + np.random.default_rng(0).normal(scale=12.0, size=CT.shape)
    brain = np.where((CT > 0) & (CT < 100), noisy.clip(0), 0)
    brain[8, 32, 32] = 3000
    return brain


CHANGED: dict[str, Callable[[], Voxels]] = {
    # CT that is no longer in HU, or not a whole head.
    "offset of 1024": lambda: CT + 1024,
    "offset of 1024, clipped": lambda: (CT + 1024).clip(0),
    "offset of 1000, clipped": lambda: (CT + 1000).clip(0),
    "offset, 16 bits used": lambda: (CT + 1024).clip(0) * 16,
    "scaled to 12 bits": lambda: (CT.clip(-1000, 1000) + 1000) * 4095 / 2000,
    "clipped at 0": lambda: CT.clip(0),
    "clipped at 0, tripled": lambda: CT.clip(0) * 3,
    "clipped at -500": lambda: CT.clip(-500),
    "without bone": lambda: CT.clip(None, 299),
    "without soft tissue": lambda: np.where((CT > -100) & (CT < 150), -1000, CT),
    "brain window": lambda: CT.clip(0, 80),
    "brain window, scaled to 12 bits": lambda: CT.clip(0, 80) * 51,
    "wide window from 0": lambda: CT.clip(-200, 800) + 200,
    "brain alone": lambda: np.where((CT > 0) & (CT < 100), CT, 0),
    "brain alone, noisy, with a clip": noisy_brain_with_a_clip,
    "brain alone, offset of 1024": lambda: np.where((CT > -20) & (CT < 100), CT + 1024, 0),
    "standardised": lambda: (CT - CT.mean()) / CT.std(),
    "to 1": lambda: (CT.clip(-1000, 1000) + 1000) / 2000,
    # MRI that could be any picture.
    "MRI standardised": lambda: (made_mri() - made_mri().mean()) / made_mri().std(),
    "MRI up to 255": lambda: made_mri() * 255 / made_mri().max(),
    "MRI without background": lambda: made_mri()[4:12, 24:40, 24:40],
    "MRI clipped": lambda: made_mri().clip(None, 400),
    "MRI inverted": lambda: 1000 - made_mri(),
    # No scan.
    "constant": lambda: np.full((3, 4, 4), 700.0),
    "zero": lambda: np.zeros((3, 4, 4)),
    "negative": lambda: np.full((3, 4, 4), -5.0),
    "labels": lambda: np.repeat([0.0, 300.0, 600.0], [80, 10, 10]),
    "air alone": lambda: np.full((3, 4, 4), -1000.0),
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_could_be_either_is_not_guessed(name: str) -> None:
    assert guess_modality(CHANGED[name]()) == ("", "")


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.bool_])
def test_pictures_of_8_bits_say_nothing(kind: type) -> None:
    assert guess_modality((made_mri() > 300).astype(kind)) == ("", "")


def shares(air: int, bone: int, soft: int) -> Voxels:
    """1000 voxels: so many of air, bone and soft tissue, the others between air and fat."""
    return np.repeat([-900, 300, 150, -500], [air, bone, soft, 1000 - air - bone - soft])


def test_limits_of_ct() -> None:
    assert guess_modality(shares(50, 1, 50))[0] == "CT"
    assert guess_modality(shares(49, 1, 50))[0] == ""
    assert guess_modality(shares(50, 0, 50))[0] == ""
    assert guess_modality(shares(50, 1, 49))[0] == ""


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["patient12_native_flair", "patient12_native_t2"])
def test_real_mri(real_data: Path, name: str) -> None:
    path = real_data / "formats/nifti-mri-ms" / f"{name}.nii.gz"
    if not path.exists():
        pytest.skip(f"{path} not found")
    (source,) = find_sources([path], ReadOptions()).sources
    scan = read_source(source, ReadOptions())
    assert scan.modality == "MRI"
    assert [finding.kind for finding in scan.findings][-1] == "modality-guessed"


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name",
    [
        "nifti-mri-ms/patient07_mni_flair",  # up to 200, as a picture has
        "nifti-mri-brats/Flair_subtrMeanDivStd",  # standardised
        "nifti-mri-brats/T1c_subtrMeanDivStd",
    ],
)
def test_real_mri_that_could_be_either(real_data: Path, name: str) -> None:
    path = real_data / "formats" / f"{name}.nii.gz"
    if not path.exists():
        pytest.skip(f"{path} not found")
    assert guess_modality(read_scan(path, ReadOptions()).voxels) == ("", "")


@pytest.mark.real_data
def test_real_ct_and_mri_of_dicom(real_data: Path) -> None:
    """Their headers say what they are; their values say it too."""
    accept = ReadOptions(accept=frozenset({"non-axial"}))
    for name, modality in (("dicom-ct-ge-tilted", "CT"), ("dicom-mri-siemens-t1", "MRI")):
        path = real_data / "formats" / name
        if not path.exists():
            pytest.skip(f"{path} not found")
        (source,) = find_sources([path], accept, series="suggested").sources
        voxels = read_source(source, accept).voxels
        assert guess_modality(voxels)[0] == modality
        if modality == "CT":
            for changed in ((voxels + 1024).clip(0), voxels.clip(0), (voxels + 1024.0).clip(0) * 9):
                assert guess_modality(changed) == ("", "")
