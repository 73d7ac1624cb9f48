"""Stored values of DICOM slices as values of a scan: padding out, polarity and rescale applied.

Source: DICOM PS3.3 C.7.6.3.1.2 (MONOCHROME1), C.7.5.1.1.2 (padding), C.11.1.1.2 (rescale).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemaseg.dicom.objects import Frame
from hemaseg.dicom.pixels import PixelFormat
from hemaseg.scans.screening import Screen

AIR_HU = -1000
MAX_PADDING_HU = -500
"""CT padding of higher values could be tissue, and is left as it is."""


def scan_values(
    stored: list[NDArray[Any]],
    forms: Sequence[PixelFormat],
    frames: Sequence[Frame],
    modality: str,
    screen: Screen,
) -> NDArray[Any]:
    """(slice, row, column) values: HU for CT, else as the slope and intercept of each slice say.

    Whole slopes and intercepts give int16, or int32 where a value needs it; others float32, or
    float64 for 32-bit pixels. Padding becomes air (-1000 HU), in other modalities 0.

    Args:
        stored: (row, column) stored values of each slice; the list is emptied.
        forms: How the pixels of each slice are stored.
        frames: With slope and intercept of each slice.
        modality: Of the scan.
        screen: Gets the findings.

    Raises:
        ScanError: A value is not finite after the rescale.
    """
    filler = AIR_HU if modality == "CT" else 0
    masks = [
        _padding(pixels, form, frame, modality)
        for pixels, form, frame in zip(stored, forms, frames, strict=True)
    ]
    if num_padding := sum(int(mask.sum()) for mask in masks if mask is not None):
        screen.report("padding-replaced", f"{num_padding:,} padding pixels, set to {filler}")
    # Polarity is how values are shown: HU are HU however, while MRI has no scale but what is shown.
    inverted = [index for index, form in enumerate(forms) if form.is_inverted and modality != "CT"]
    if inverted:
        screen.report("inverted", "MONOCHROME1, where high values are dark; turned round")
    for index in inverted:
        pixels = stored[index]
        stored[index] = pixels.dtype.type(sum(forms[index].limits)) - pixels
    dtype = _dtype(stored, masks, frames)
    values = np.empty((len(stored), *stored[0].shape), dtype)
    for index, frame in enumerate(frames):
        pixels, mask = stored.pop(0), masks[index]
        if dtype.kind == "i":
            wide = pixels.astype(np.int64) * int(frame.slope) + int(frame.intercept)
        else:
            with np.errstate(over="ignore"):
                wide = (pixels * np.float64(frame.slope) + frame.intercept).astype(dtype)
        values[index] = wide if mask is None else np.where(mask, filler, wide)
    if dtype.kind == "f" and not np.isfinite(values).all():
        raise screen.error(
            "rescale",
            f"slope {frames[0].slope:g} and intercept {frames[0].intercept:g} make values that are "
            "not finite, expected numbers. Export the original series again.",
        )
    return values


def _padding(
    pixels: NDArray[Any], form: PixelFormat, frame: Frame, modality: str
) -> NDArray[np.bool_] | None:
    """Where the padding is; None without."""
    if form.padding is None:
        return None
    edges = [value * frame.slope + frame.intercept for value in form.padding]
    if modality == "CT" and max(edges) > MAX_PADDING_HU:
        return None
    mask = (pixels >= form.padding[0]) & (pixels <= form.padding[1])
    return mask if mask.any() else None


def _dtype(
    stored: Sequence[NDArray[Any]],
    masks: Sequence[NDArray[np.bool_] | None],
    frames: Sequence[Frame],
) -> np.dtype[Any]:
    """Type that holds all values."""
    is_small = all(pixels.dtype.itemsize <= 2 for pixels in stored)
    if not all(frame.slope.is_integer() and frame.intercept.is_integer() for frame in frames):
        return np.dtype(np.float32 if is_small else np.float64)
    edges = [AIR_HU]
    for pixels, mask, frame in zip(stored, masks, frames, strict=True):
        kept = pixels if mask is None else pixels[~mask]
        # Python's whole numbers do not overflow.
        ends = (int(kept.min()), int(kept.max())) if kept.size else ()
        edges += [end * int(frame.slope) + int(frame.intercept) for end in ends]
    for dtype in (np.int16, np.int32):
        if np.iinfo(dtype).min <= min(edges) and max(edges) <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype(np.float64)
