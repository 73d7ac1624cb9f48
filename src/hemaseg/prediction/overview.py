"""One picture of a case: its slices with the outline of the mask, so that one can look.

Shape legend: K slices, H rows, W columns on the scan's own grid, in display order.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hemaseg.files import whole_file

MAX_TILES = 24
TILE_PIXELS = 256
"""Longer side of a tile."""
OUTLINE_RGB = (255, 176, 0)
"""Amber: told from grey under every kind of colour blindness."""

_TEXT_RGB, _QUIET_RGB, _BACKGROUND_RGB = (235, 235, 235), (150, 150, 150), (18, 18, 18)
_GAP_PIXELS, _LINE_PIXELS = 4, 22


def chosen_slices(mask: NDArray[np.bool_]) -> list[int]:
    """Indices of the slices to show: those with mask and their neighbours, or an even choice.

    At most `MAX_TILES`. If more have mask, an even choice of them with the one of the largest area;
    if none has, an even choice of all.

    Args:
        mask: (K, H, W).

    >>> chosen_slices(np.arange(6)[:, None, None] == 2)
    [1, 2, 3]
    """
    areas = mask.sum(axis=(1, 2))
    has_mask = areas > 0
    near = has_mask.copy()
    near[1:] |= has_mask[:-1]
    near[:-1] |= has_mask[1:]
    wanted = np.flatnonzero(near) if near.any() else np.arange(len(mask))
    if len(wanted) <= MAX_TILES:
        return [int(k) for k in wanted]
    spread = wanted[np.linspace(0, len(wanted) - 1, MAX_TILES).round().astype(int)]
    if has_mask.any():
        largest = int(areas.argmax())
        spread[np.abs(spread - largest).argmin()] = largest
    return [int(k) for k in spread]


def write_overview(
    voxels: NDArray[np.float32],
    mask: NDArray[np.bool_],
    path: Path,
    *,
    pixel_mm: tuple[float, float] | None,
    caption: Sequence[str],
) -> None:
    """Write a PNG of the chosen slices, each with its number, the mask outlined.

    Slices are shown as the network saw them, in radiological display; numbers count from 1 at the
    first slice, which is the lowest one where the scan knows its geometry.

    Args:
        voxels: (K, H, W) in [0, 1].
        mask: (K, H, W).
        path: `.png`.
        pixel_mm: Distance of rows and of columns; None without geometry: then pixels are shown
            square, and no side is marked as right or left.
        caption: Lines below; they must not identify anybody.

    Raises:
        OSError: The file cannot be written.
    """
    shown = chosen_slices(mask)
    num_columns = max(1, math.ceil(math.sqrt(1.5 * len(shown))))
    num_rows = math.ceil(len(shown) / num_columns)
    width, height = _tile_size(mask.shape[1], mask.shape[2], pixel_mm)
    across, down = width + _GAP_PIXELS, height + _GAP_PIXELS
    font = ImageFont.load_default(13)
    text_width = max((math.ceil(font.getlength(line)) for line in caption), default=0)
    size = (
        max(num_columns * across, text_width + 2 * _GAP_PIXELS) + _GAP_PIXELS,
        num_rows * down + _LINE_PIXELS * len(caption) + 2 * _GAP_PIXELS,
    )
    picture = Image.new("RGB", size, _BACKGROUND_RGB)
    draw = ImageDraw.Draw(picture)
    for place, k in enumerate(shown):
        left = _GAP_PIXELS + place % num_columns * across
        top = _GAP_PIXELS + place // num_columns * down
        picture.paste(_tile(voxels[k], mask[k], width, height), (left, top))
        draw.text((left + 4, top + 2), f"{k + 1}/{len(mask)}", _TEXT_RGB, font)
        if pixel_mm is not None:
            middle = top + height // 2
            draw.text((left + 4, middle), "R", _QUIET_RGB, font, anchor="lm")
            draw.text((left + width - 4, middle), "L", _QUIET_RGB, font, anchor="rm")
    for number, line in enumerate(caption):
        top = num_rows * down + _GAP_PIXELS + number * _LINE_PIXELS
        draw.text((2 * _GAP_PIXELS, top + 2), line, _TEXT_RGB, font)
    with whole_file(path) as partial:
        picture.save(partial, format="PNG", compress_level=4)


def _tile_size(
    num_rows: int, num_columns: int, pixel_mm: tuple[float, float] | None
) -> tuple[int, int]:
    """Width and height of a tile in pixels, in the proportions of the slice in mm."""
    row_mm, column_mm = pixel_mm or (1.0, 1.0)
    height, width = num_rows * row_mm, num_columns * column_mm
    scale = TILE_PIXELS / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _tile(
    pixels: NDArray[np.float32], mask: NDArray[np.bool_], width: int, height: int
) -> Image.Image:
    """One slice (H, W) in [0, 1] with the outline just outside its mask."""
    grey = Image.fromarray((pixels * 255).round().astype(np.uint8))
    tile = np.array(grey.resize((width, height), Image.Resampling.BILINEAR).convert("RGB"))
    covered = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    # Whatever the mask touches, so that one pixel of a large slice is still seen.
    inside = np.array(covered.resize((width, height), Image.Resampling.BOX)) > 0
    padded = np.pad(inside, 1)
    around = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    tile[np.logical_or.reduce(around) & ~inside] = OUTLINE_RGB
    return Image.fromarray(tile)
