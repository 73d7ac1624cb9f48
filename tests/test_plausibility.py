"""What no head in axial slices can be is refused, what is unusual is noted, and heads pass."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hemaseg.errors import ScanError
from hemaseg.scans.images import read_scan
from hemaseg.scans.plausibility import MAX_PIXEL_ASPECT, non_axial, screen_scan
from hemaseg.scans.scan import Scan
from hemaseg.scans.screening import Finding, ReadOptions, Screen, kinds_of
from image_files import gradient, made_scan
from small_heads import small_head

HEAD = small_head(1)
CT = ReadOptions(modality="CT")


def head(
    voxels: NDArray[Any] = HEAD.voxels,
    affine: NDArray[np.float64] = HEAD.affine,
    **attributes: Any,
) -> Scan:
    return made_scan(voxels, affine, **attributes)


def screened(scan: Scan, options: ReadOptions = CT) -> tuple[Finding, ...]:
    return screen_scan(scan, Screen("made", options)).findings


def refusal(scan: Scan, options: ReadOptions = CT) -> ScanError:
    with pytest.raises(ScanError) as caught:
        screened(scan, options)
    assert str(caught.value).startswith("made: ")
    return caught.value


def check_acceptable(scan: Scan, kind: str, found: str) -> None:
    """Refused with these words, and noted with them if the user accepts it."""
    error = refusal(scan)
    assert found in str(error)
    assert error.kind == kind
    findings = screened(scan, ReadOptions(accept=frozenset({kind}), modality="CT"))
    assert kind in kinds_of(findings)
    assert any(found in finding.message for finding in findings)


def turned(deg: float, first: int, second: int) -> NDArray[np.float64]:
    """The head turned in the plane of two axes (0 right, 1 anterior, 2 superior)."""
    turn, cos, sin = np.eye(4), np.cos(np.radians(deg)), np.sin(np.radians(deg))
    turn[first, first] = turn[second, second] = cos
    turn[first, second], turn[second, first] = -sin, sin
    return np.asarray(turn @ HEAD.affine)


@pytest.mark.parametrize("seed", range(8))
def test_heads_pass(seed: int) -> None:
    scan = small_head(seed, has_lesion=seed % 2 == 0)
    assert screened(head(scan.voxels, scan.affine)) == ()


def test_findings_of_reading_are_kept() -> None:
    findings = (Finding("left-out", "1 file"),)
    scan = head(affine=turned(20, 1, 2), findings=findings)
    assert kinds_of(screened(scan)) == ("left-out", "oblique")
    screen = Screen("made", CT)
    screen.report("left-out", "1 file")
    assert kinds_of(screen_scan(scan, screen).findings) == ("left-out", "oblique")


@pytest.mark.parametrize("value", [0, 41])
def test_constant_images_are_refused(value: int) -> None:
    error = refusal(head(np.full((4, 64, 64), value, np.int16)))
    assert f"all 16,384 voxels are {value}, expected a picture of a head" in str(error)
    assert error.kind == "constant"
    assert refusal(made_scan(np.full((1, 4, 6), value, np.uint8))).kind == "constant"


def test_masks_are_refused_and_windowed_pictures_are_not() -> None:
    head_voxels = small_head(1, has_lesion=True).voxels
    for high, found in ((1, "0 or 1"), (255, "0 or 255")):
        error = refusal(head((high * (head_voxels > 60)).astype(np.int16)))
        assert error.kind == "label-map"
        assert f"all voxels are {found}, expected a picture of a head" in str(error)
    labels = np.clip(head_voxels // 20, 0, 3).astype(np.uint8)
    assert "whole numbers from 0 to 3" in str(refusal(made_scan(labels)))
    assert screened(made_scan(np.clip(head_voxels, 0, 80).astype(np.uint8))) == ()
    assert screened(made_scan(np.clip(head_voxels / 80, 0, 1).astype(np.float32))) == ()


def test_pictures_are_asked_for_nothing_else() -> None:
    assert screened(made_scan(gradient()[np.newaxis])) == ()
    assert screened(made_scan(gradient(np.uint16)[np.newaxis])) == ()


AIR = HEAD.voxels < -500
SOFT = (HEAD.voxels > -100) & (HEAD.voxels < 150)


@pytest.mark.parametrize(
    ("voxels", "found"),
    [
        ((HEAD.voxels + 1100).astype(np.uint16), "in unsigned uint16, expected HU, which can be"),
        (np.interp(HEAD.voxels, (0, 80), (0, 255)).astype(np.uint8), "from 0 to 255 in unsigned"),
        (HEAD.voxels / np.float32(2000), ", expected HU, of which brain has 20 to 45"),
        ((HEAD.voxels - HEAD.voxels.mean()) / HEAD.voxels.std(), ", expected HU, of which brain"),
        (HEAD.voxels.astype(np.int32) * 100, "expected HU, of which brain has 20 to 45 and bone"),
        (HEAD.voxels + np.int16(1024), "and no air near -1000, expected HU: they look like HU + 1"),
        (np.where(AIR, -2000, HEAD.voxels + 1024), f"from -2000 to {HEAD.voxels.max() + 1024}, "),
        (np.where(AIR, 0, HEAD.voxels + 1024), "% of them from 924 to 1174 and no air"),
        (np.where(SOFT, HEAD.voxels + 1024, 0), "% of them from 924 to 1174 and no air"),
        (HEAD.voxels - np.int16(1024), " in the middle and "),
        (np.where(AIR, -2048, HEAD.voxels - 1024), " in the middle and "),
        ((HEAD.voxels + 1024) * np.float32(0.5) - 1024, " in the middle and "),
        ((HEAD.voxels + 1024) * np.float32(0.75) - 1024, " in the middle and "),
        ((HEAD.voxels + 1024) * np.float32(2) - 1024, " in the middle and "),
    ],
    ids=[
        *("unsigned", "8 bits", "normalised", "standardised", "times 100"),
        *("offset", "offset with padding", "offset and masked", "offset and stripped"),
        *("offset twice", "and clipped", "half the slope", "three quarters", "twice the slope"),
    ],
)
def test_values_that_cannot_be_hu_are_refused(voxels: NDArray[Any], found: str) -> None:
    error = refusal(head(voxels))
    assert found in str(error)
    assert str(error).startswith(f"made: values of a CT from {float(voxels.min()):g} to ")
    assert error.kind == "not-hu"
    # The scan's own modality counts before what the user declares.
    assert refusal(head(voxels, modality="CT"), ReadOptions(modality="MRI")).kind == "not-hu"
    assert screened(head(voxels, modality="MRI")) == ()
    assert screened(head(voxels), ReadOptions()) == ()


@pytest.mark.parametrize(
    "voxels",
    [
        HEAD.voxels.astype(np.float64),
        np.where(AIR, -2000, HEAD.voxels),
        np.where(AIR & (HEAD.voxels % 2 == 0), -3024, HEAD.voxels),
        np.where(AIR, 0, HEAD.voxels),
        np.where(SOFT, HEAD.voxels, 0),
        np.clip(HEAD.voxels, 0, 80),
        np.clip(HEAD.voxels, -1024, 3071),
        np.where(HEAD.voxels > 500, 30_000, HEAD.voxels),
    ],
    ids=[
        *("real", "padding", "round padding", "masked", "stripped"),
        *("window", "12 bits", "metal"),
    ],
)
def test_values_that_can_be_hu_pass(voxels: NDArray[Any]) -> None:
    assert screened(head(voxels)) == ()


@pytest.mark.parametrize("num_slices", [1, 2])
def test_few_slices(num_slices: int) -> None:
    found = f"{num_slices} slices, expected at least 3. Give the whole series."
    check_acceptable(head(HEAD.voxels[7 : 7 + num_slices]), "few-slices", found)
    assert screened(head(HEAD.voxels[7:10])) == ()


@pytest.mark.parametrize(
    ("scale", "found"),
    [
        (0.1, "12.8 x 22.4 x 22.4 mm (slices, rows, columns), expected slices of at least 80 mm"),
        (0.35, "44.8 x 78.4 x 78.4 mm"),
        (3.2, "409.6 x 716.8 x 716.8 mm (slices, rows, columns)"),
        (1000, "1.28e+05 x 2.24e+05 x 2.24e+05 mm"),
    ],
)
def test_fields_that_are_no_head(scale: float, found: str) -> None:
    affine = HEAD.affine @ np.diag([scale, scale, scale, 1])
    check_acceptable(head(affine=affine), "not-a-head", found)


def test_slabs_and_small_heads_pass_and_bodies_do_not() -> None:
    thin = HEAD.affine @ np.diag([0.1, 1, 1, 1])
    assert screened(head(affine=thin)) == ()
    newborn = HEAD.affine @ np.diag([0.4, 0.4, 0.4, 1])
    assert screened(head(affine=newborn)) == ()
    long = HEAD.affine @ np.diag([6, 1, 1, 1])
    check_acceptable(head(affine=long), "not-a-head", "768 x 224 x 224 mm")


@pytest.mark.parametrize("plane", [(0, 2), (1, 2)])
def test_sagittal_and_coronal_series(plane: tuple[int, int]) -> None:
    scan = head(affine=turned(90, *plane))
    # As reading would have it: display axes by the nearest axis of the patient.
    order = [2, 1, 0] if plane == (0, 2) else [1, 0, 2]
    assert scan.affine is not None
    shown = head(np.transpose(scan.voxels, order), scan.affine[:, [*order, 3]])
    sides = "3.5 x 8" if plane == (0, 2) else "8 x 3.5"
    check_acceptable(shown, "non-axial", f"axial pixels of {sides} mm, expected nearly square")


def test_limit_of_axial_pixels() -> None:
    assert non_axial((9.0, 1.0, MAX_PIXEL_ASPECT)) == ""
    assert "axial pixels of 1.51 x 1 mm" in non_axial((9.0, 1.51, 1.0))


@pytest.mark.parametrize("deg", [-20.0, 5.1])
def test_parallelograms(deg: float) -> None:
    affine = HEAD.affine.copy()
    affine[0, 1] = np.tan(np.radians(deg)) * 3.5
    found = f"rows and columns {abs(deg):.1f} degrees off perpendicular, expected at most 5"
    check_acceptable(head(affine=affine), "sheared", found)
    affine[0, 1] = np.tan(np.radians(4.9)) * 3.5
    assert screened(head(affine=affine)) == ()


@pytest.mark.parametrize("plane", [(0, 2), (1, 2)])
@pytest.mark.parametrize("deg", [-30.0, 10.1, 44.0])
def test_oblique_slices_are_noted_with_their_angle(plane: tuple[int, int], deg: float) -> None:
    findings = screened(head(affine=turned(deg, *plane)))
    assert kinds_of(findings) == ("oblique",)
    assert f"slices turned {abs(deg):.1f} degrees out of the axial plane" in findings[0].message
    assert screened(head(affine=turned(9.9, *plane))) == ()
    # A head that looks to the side lies in axial slices.
    assert screened(head(affine=turned(deg, 0, 1))) == ()


@pytest.mark.parametrize("deg", [-1.1, 18.5])
def test_gantry_tilt_is_noted_with_its_angle(deg: float) -> None:
    affine = HEAD.affine.copy()
    affine[1, 0] = np.tan(np.radians(deg)) * 8
    findings = screened(head(affine=affine))
    assert kinds_of(findings) == ("gantry-tilt",)
    assert f"slices tilted {abs(deg):.1f} degrees against the stack" in findings[0].message
    known = (Finding("gantry-tilt", "by the series"),)
    assert screened(head(affine=affine, findings=known)) == known


@pytest.mark.real_data
def test_real_scans_pass(real_data: Path) -> None:
    for name in ("nifti-mri-ms/patient12_native_flair", "nifti-mri-brats/Flair_subtrMeanDivStd"):
        scan = read_scan(real_data / f"formats/{name}.nii.gz")
        assert screened(scan, ReadOptions(modality="MRI")) == ()
    with pytest.raises(ScanError, match="unsigned uint16"):
        screened(read_scan(real_data / "formats/nifti-mri-ms/patient12_native_flair.nii.gz"))
