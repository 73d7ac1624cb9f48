"""How metrics, numbers and p-values are written for readers, in sentences, tables and figures."""

import math
from collections.abc import Sequence


def metric_label(metric: str) -> str:
    """How a column of a score table is written for readers.

    Example:
        >>> metric_label("dice"), metric_label("hd95_mm"), metric_label("volume_error_ml")
        ('Dice', 'HD95 (mm)', 'Volume error (mL)')
    """
    unit = metric_unit(metric)
    words = metric.removesuffix("_mm").removesuffix("_ml")
    if words in ("iou", "hd95", "assd"):
        name = {"iou": "IoU"}.get(words, words.upper())
    else:
        words = words.removeprefix("num_").replace("_", " ").replace("dice", "Dice")
        name = words[:1].upper() + words[1:]
    return f"{name} ({unit})" if unit else name


def metric_unit(metric: str) -> str:
    """Unit of a metric as its column tells it: mm, mL, or nothing.

    Example:
        >>> metric_unit("hd95_mm"), metric_unit("dice")
        ('mm', '')
    """
    return {"_mm": "mm", "_ml": "mL"}.get(metric[-3:], "")


def num_decimals(metric: str) -> int:
    """Digits after the point with which a metric is written: 2 for mm and mL, else 3."""
    return 2 if metric_unit(metric) else 3


def format_number(value: float, decimals: int, *, signed: bool = False) -> str:
    """`value` for readers: thousands separated, NaN as "undefined", and no sign on a rounded 0.

    Example:
        >>> format_number(1234.5678, 2), format_number(0.25, 3, signed=True)
        ('1,234.57', '+0.250')
        >>> format_number(-0.0004, 3), format_number(float("nan"), 3)
        ('0.000', 'undefined')
    """
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "-infinite" if value < 0 else "infinite"
    rounded = round(value, decimals)
    text = f"{abs(rounded):,.{decimals}f}"
    if rounded < 0:
        return f"-{text}"
    return f"+{text}" if signed and rounded > 0 else text


def format_p(p: float, decimals: int = 3) -> str:
    """A p-value with its relation, to follow the letter p; never a rounded 0, nor a rounded 1.

    Example:
        >>> format_p(0.0537), format_p(4.6e-7, 4), format_p(0.99999), format_p(1.0)
        ('= 0.054', '< 0.0001', '> 0.999', '= 1.000')
        >>> format_p(float("nan"))
        'undefined'
    """
    if math.isnan(p):
        return "undefined"
    smallest = 10.0**-decimals
    if p < smallest:
        return f"< {smallest:.{decimals}f}"
    text = f"{p:.{decimals}f}"
    return f"> {1 - smallest:.{decimals}f}" if p < 1 and float(text) == 1 else f"= {text}"


def enumeration(names: Sequence[str]) -> str:
    """Names as a list in a sentence.

    Example:
        >>> enumeration(["a"]), enumeration(["a", "b"]), enumeration(["a", "b", "c"])
        ('a', 'a and b', 'a, b and c')
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
