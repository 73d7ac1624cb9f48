"""Names, digits and p-values as readers see them."""

import math

import pytest

from hemaseg.comparison.wording import (
    enumeration,
    format_number,
    format_p,
    metric_label,
    metric_unit,
    num_decimals,
)


@pytest.mark.parametrize(
    ("metric", "label", "unit", "decimals"),
    [
        ("dice", "Dice", "", 3),
        ("iou", "IoU", "", 3),
        ("surface_dice", "Surface Dice", "", 3),
        ("assd_mm", "ASSD (mm)", "mm", 2),
        ("absolute_volume_error_ml", "Absolute volume error (mL)", "mL", 2),
        ("num_false_lesions", "False lesions", "", 3),
    ],
)
def test_metrics_have_names_units_and_digits(
    metric: str, label: str, unit: str, decimals: int
) -> None:
    assert metric_label(metric) == label
    assert metric_unit(metric) == unit
    assert num_decimals(metric) == decimals


@pytest.mark.parametrize(
    ("value", "decimals", "signed", "text"),
    [
        (0.8361, 3, False, "0.836"),
        (-0.02, 3, True, "-0.020"),
        (0.02, 3, True, "+0.020"),
        (-0.0001, 3, True, "0.000"),
        (31_114_305.0, 0, False, "31,114,305"),
        (math.inf, 2, False, "infinite"),
        (-math.inf, 2, True, "-infinite"),
        (math.nan, 2, True, "undefined"),
    ],
)
def test_numbers(value: float, decimals: int, signed: bool, text: str) -> None:
    assert format_number(value, decimals, signed=signed) == text


@pytest.mark.parametrize(
    ("p", "decimals", "text"),
    [
        (0.0, 3, "< 0.001"),
        (0.00099, 3, "< 0.001"),
        (0.001, 3, "= 0.001"),
        (4.6e-7, 4, "< 0.0001"),
        (0.9455, 4, "= 0.9455"),
        (0.9994, 3, "= 0.999"),
        (0.9999980, 3, "> 0.999"),
        (1.0, 3, "= 1.000"),
        (math.nan, 3, "undefined"),
    ],
)
def test_p_values_are_never_rounded_to_certainty(p: float, decimals: int, text: str) -> None:
    assert format_p(p, decimals) == text


def test_lists() -> None:
    assert enumeration(["a", "b", "c", "d"]) == "a, b, c and d"
