"""Pixel values of a scan to [0, 1]: 8-bit as it is, CT by a window in HU, MRI robustly."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemaseg.config import IntensityConfig
from hemaseg.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """The values of one scan that become 0 and 1; `low < high`."""

    low: float
    high: float

    def scale(self, voxels: NDArray[Any]) -> NDArray[np.float32]:
        """Voxels of any shape, clipped to the range and mapped to [0, 1].

        >>> Range(30, 100).scale(np.array([-1000, 30, 65, 100, 2000])).tolist()
        [0.0, 0.0, 0.5, 1.0, 1.0]
        """
        # In place: of a large scan, each array on the way is hundreds of MiB.
        scaled = voxels.astype(np.float32)
        scaled -= self.low
        scaled /= self.high - self.low
        return np.clip(scaled, 0, 1, out=scaled)


def intensity_range(
    voxels: NDArray[Any], modality: str, config: IntensityConfig, *, name: str
) -> Range:
    """The range of one scan.

    Args:
        voxels: All voxels of the scan, any shape, uint8 for 8-bit pictures.
        modality: "CT", "MRI" or "" (unknown).
        config: Method and its numbers.
        name: The scan, for errors.

    Returns:
        The range. A constant or all-zero scan under `robust` gets a range of width 1, so it becomes
        0.

    Raises:
        ConfigError: If the method does not fit the values or the modality.

    >>> intensity_range(np.zeros((1, 2, 2), np.uint8), "MRI", IntensityConfig(), name="a")
    Range(low=0.0, high=255.0)
    >>> intensity_range(np.zeros((1, 2, 2), np.int16), "CT", IntensityConfig(), name="a")
    Range(low=30.0, high=100.0)
    """
    method = config.method
    if method == "auto":
        if voxels.dtype == np.uint8:
            method = "as_is"
        elif modality in ("CT", "MRI"):
            method = "window" if modality == "CT" else "robust"
        else:
            raise ConfigError(
                f"{name}: modality unknown and values not 8-bit ({voxels.dtype}), so "
                'intensity.method "auto" cannot choose. Say --modality CT or MRI (a cohort: when '
                'indexing it), or set intensity.method to "window" or "robust".'
            )
    if method == "as_is":
        if voxels.dtype != np.uint8:
            raise ConfigError(
                f'{name}: intensity.method "as_is" expects 8-bit values, found {voxels.dtype}. '
                'Use "window" for CT in HU or "robust" for MRI.'
            )
        return Range(0.0, 255.0)
    if method == "window":
        if voxels.dtype == np.uint8:
            raise ConfigError(
                f'{name}: intensity.method "window" expects values in HU, found 8-bit pictures. '
                'Use "as_is": their window was applied when they were exported.'
            )
        if voxels.dtype.kind == "u":
            raise ConfigError(
                f'{name}: intensity.method "window" expects values in HU, which can be negative, '
                f"found unsigned {voxels.dtype}. Subtract the offset of the export (often 1024) "
                "and save as signed values."
            )
        return Range(*config.window_hu)
    foreground = voxels[voxels != 0]
    if foreground.size == 0:
        return Range(0.0, 1.0)
    low, high = (float(value) for value in np.percentile(foreground, config.percentiles))
    return Range(low, high if high > low else low + 1.0)
