from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hemaseg.dicom.objects import Frame
from hemaseg.dicom.pixels import PixelFormat
from hemaseg.dicom.values import scan_values
from hemaseg.errors import ScanError
from hemaseg.scans.screening import Finding, Screen

FORM = PixelFormat(2, 2, 1, 16, 16, is_signed=True, is_inverted=False, padding=None)
FRAME = Frame(1, 1, np.zeros(3), np.eye(3)[0], np.eye(3)[1], (1, 1), None, None, 1.0, 0.0)


def values(
    *stored: list[int],
    forms: PixelFormat | list[PixelFormat] = FORM,
    rescales: list[tuple[float, float]] | None = None,
    modality: str = "CT",
    dtype: str = "i2",
) -> tuple[NDArray[Any], list[Finding]]:
    """Values of slices of 2 x 2 pixels, and the findings."""
    screen = Screen("scan")
    pixels = [np.array(slice_, dtype).reshape(2, 2) for slice_ in stored]
    frames = [
        replace(FRAME, slope=float(slope), intercept=float(intercept))
        for slope, intercept in rescales or [(1.0, 0.0)] * len(stored)
    ]
    forms = forms if isinstance(forms, list) else [forms] * len(stored)
    found = scan_values(pixels, forms, frames, modality, screen)
    assert pixels == []
    return found.reshape(len(stored), 4), screen.findings


def test_each_slice_has_its_own_rescale() -> None:
    found, findings = values([0, 1, 2, 3], [0, 1, 2, 3], rescales=[(1, -1024), (2, 10)])
    assert found.tolist() == [[-1024, -1023, -1022, -1021], [10, 12, 14, 16]]
    assert found.dtype == np.int16
    assert findings == []


@pytest.mark.parametrize(
    ("stored", "rescale", "dtype", "expected"),
    [
        ([0, 1, 2, 32767], (1, 0), "i2", np.int16),
        ([0, 1, 2, 32767], (1, 1), "i2", np.int32),
        ([0, 1, 2, 65535], (1, -1024), "u2", np.int32),
        ([0, 1, 2, 4095], (1, -1024), "u2", np.int16),
        ([0, 1, 2, 255], (1, -1024), "u1", np.int16),
        ([0, 1, 2, 3], (0.5, 0), "i2", np.float32),
        ([0, 1, 2, 3], (1, 0.5), "i2", np.float32),
        ([0, 1, 2, 2**31 - 1], (0.5, 0), "i4", np.float64),
        ([0, 1, 2, 2**31 - 1], (2, 0), "i4", np.float64),
        ([0, 1, 2, 2**31 - 1], (1, 0), "i4", np.int32),
    ],
)
def test_the_type_is_the_smallest_that_holds_all_values(
    stored: list[int], rescale: tuple[float, float], dtype: str, expected: type
) -> None:
    found, _ = values(stored, rescales=[rescale], dtype=dtype)
    assert found.dtype == expected
    assert found[0].tolist() == [value * rescale[0] + rescale[1] for value in stored]


@given(
    stored=st.lists(st.integers(-32768, 32767), min_size=4, max_size=4),
    slope=st.integers(-3000, 3000).filter(bool),
    intercept=st.integers(-(2**20), 2**20),
)
def test_whole_rescales_are_exact(stored: list[int], slope: int, intercept: int) -> None:
    found, _ = values(stored, rescales=[(float(slope), float(intercept))], modality="MRI")
    assert found[0].tolist() == [value * slope + intercept for value in stored]


PADDED = replace(FORM, padding=(-2000, -1990))


def test_padding_becomes_air_in_ct() -> None:
    found, findings = values([-2000, -1995, -1989, 40], [1, 2, 3, -1990], forms=PADDED)
    assert found.tolist() == [[-1000, -1000, -1989, 40], [1, 2, 3, -1000]]
    assert findings == [Finding("padding-replaced", "3 padding pixels, set to -1000")]


def test_padding_becomes_zero_in_mri() -> None:
    found, findings = values([-2000, 5, 6, 7], forms=PADDED, rescales=[(2, 10)], modality="MRI")
    assert found.tolist() == [[0, 20, 22, 24]]
    assert findings == [Finding("padding-replaced", "1 padding pixels, set to 0")]


def test_padding_is_known_by_its_stored_value() -> None:
    form = replace(FORM, padding=(0, 0), is_signed=False)
    found, _ = values([0, 24, 1064, 3], forms=form, rescales=[(1, -1024)], dtype="u2")
    assert found.tolist() == [[-1000, -1000, 40, -1021]]


def test_padding_that_could_be_tissue_is_left_alone() -> None:
    found, findings = values([0, 1, 2, 3], forms=replace(FORM, padding=(0, 0)))
    assert found.tolist() == [[0, 1, 2, 3]]
    assert findings == []


def test_padding_could_be_tissue_by_the_rescale_of_its_own_slice() -> None:
    form = replace(FORM, padding=(0, 0))
    found, _ = values([0, 1, 2, 3], [0, 1, 2, 3], forms=form, rescales=[(1, -1024), (1, 0)])
    assert found.tolist() == [[-1000, -1023, -1022, -1021], [0, 1, 2, 3]]


def test_padding_that_no_pixel_has_is_not_reported() -> None:
    assert values([0, 1, 2, 3], forms=PADDED)[1] == []


def test_padding_does_not_widen_the_type() -> None:
    form = replace(FORM, padding=(63536, 63536), is_signed=False)
    found, _ = values([63536, 1, 2, 3], forms=form, dtype="u2", modality="MRI")
    assert found.dtype == np.int16
    whole, _ = values([63536] * 4, forms=form, dtype="u2", modality="MRI")
    assert whole.tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("is_signed", "stored_bits", "dtype", "stored", "expected"),
    [
        (False, 12, "u2", [0, 1, 4094, 4095], [4095, 4094, 1, 0]),
        (True, 12, "i2", [-2048, -1, 0, 2047], [2047, 0, -1, -2048]),
        (True, 16, "i2", [-32768, -1, 0, 32767], [32767, 0, -1, -32768]),
        (False, 16, "u2", [0, 1, 2, 65535], [65535, 65534, 65533, 0]),
    ],
)
def test_monochrome_1_is_turned_round(
    is_signed: bool, stored_bits: int, dtype: str, stored: list[int], expected: list[int]
) -> None:
    form = replace(FORM, is_inverted=True, is_signed=is_signed, bits_stored=stored_bits)
    found, findings = values(stored, forms=form, dtype=dtype, modality="MRI")
    assert found[0].tolist() == expected
    assert [finding.kind for finding in findings] == ["inverted"]


def test_hounsfield_units_do_not_depend_on_how_they_are_shown() -> None:
    found, findings = values([-1000, 0, 40, 2000], forms=replace(FORM, is_inverted=True))
    assert (found[0].tolist(), findings) == ([-1000, 0, 40, 2000], [])


def test_padding_is_found_before_values_are_turned_round() -> None:
    form = replace(FORM, is_inverted=True, padding=(32767, 32767))
    found, _ = values([32767, 1, 2, 3], forms=form, modality="MRI")
    assert found.tolist() == [[0, -2, -3, -4]]


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ScanError, match=r"slope 1e\+308 and intercept 0") as caught:
        values([0, 1, 2, 3], rescales=[(1e308, 0.0)])
    assert caught.value.kind == "rescale"
