"""What the scans that a network was trained on look like, and whether another one does too.

A network says something of any image, and is no less sure where it has never seen the like. So a
run keeps a few numbers of what its training scans look like to the network (scaled, fitted to its
size), and prediction compares each scan with them. What these numbers do not see is not noticed.

Shape legend: N or K slices, H rows, W columns.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import field_validator
from scipy import special

from hemaseg.config import Positive, Section
from hemaseg.scans.plausibility import MIN_SLICES
from hemaseg.slices.dataset import SliceSet, fit_to_square

STATISTICS = {
    "black": "share of black pixels",
    "white": "share of white pixels",
    "dark_grey": "10th percentile of the grey pixels",
    "middle_grey": "median of the grey pixels",
    "bright_grey": "90th percentile of the grey pixels",
    "roughness": "mean difference of neighbouring pixels",
    "height": "share of rows that are not black",
    "width": "share of columns that are not black",
}
"""What is measured of a slice, each in [0, 1]. Black is up to 0.02, white from 0.98, grey between;
without grey pixels its percentiles are 0. A row is black if 98 % of its pixels are."""

MIN_SCANS = 5
"""Fewer training scans are not described: they cannot say how much scans differ."""

COVERED = 0.995
"""Share of scans like those of training that are within the limit."""

MAX_SCANS = 500
"""Of more training scans, so many of them, evenly spread, describe all."""

MIN_SPREAD = 0.01
"""A hundredth of the pixels, or of the range from black to white, is never news."""

MIN_LIMIT, MAX_LIMIT = 4.0, 8.0
"""In spreads. The least is for training scans as alike as synthetic ones. The largest is for sets
with odd scans of their own: one of them shall not stand for whatever is as odd in another way."""

_BLACK, _WHITE = 5, 250  # of 255
_QUANTILES = (0.1, 0.5, 0.9)
_BATCH_SIZE = 64
_TEN_TO_NINETY = 2 * float(special.ndtri(0.9))
"""From the 10th to the 90th percentile of a normal distribution, in standard deviations."""


class Reference(Section):
    """Where the statistics of training scans, or of their slices, lie."""

    num: int
    """Scans or slices that were described."""
    center: dict[str, float]
    """Median of each of `STATISTICS`."""
    spread: dict[str, Positive]
    """From the 10th to the 90th percentile, as standard deviations of a normal distribution."""
    limit: Positive
    """Distance from the center, in spreads of the statistic that is farthest off, within which
    `COVERED` of them are expected; from `MIN_LIMIT` to `MAX_LIMIT`."""

    @field_validator("center", "spread")
    @classmethod
    def _has_all(cls, values: dict[str, float]) -> dict[str, float]:
        if set(values) != set(STATISTICS):
            raise ValueError(f"has {', '.join(values) or 'none'}, expected {', '.join(STATISTICS)}")
        return values


class Appearance(Section):
    """What the training scans of a run look like."""

    scans: Reference
    """Of whole scans: of each statistic, the median over the scan's slices."""
    slices: Reference
    """Of single slices, which differ more."""


def slice_statistics(slices: NDArray[Any]) -> NDArray[np.float64]:
    """The `STATISTICS` of each slice.

    Args:
        slices: (N, H, W) in [0, 1], as the network sees them.

    Returns:
        (N, 8), in the order of `STATISTICS`.

    >>> half = np.zeros((1, 10, 10))
    >>> half[:, :5] = 1
    >>> slice_statistics(half)[0].round(3).tolist()
    [0.5, 0.5, 0.0, 0.0, 0.0, 0.056, 0.5, 1.0]
    """
    levels = np.rint(slices.astype(np.float32) * 255).astype(np.uint8)
    num_slices, num_pixels = len(levels), levels[0].size
    places = levels.astype(np.int32) + 256 * np.arange(num_slices, dtype=np.int32)[:, None, None]
    counts = np.bincount(places.reshape(-1), minlength=256 * num_slices).reshape(-1, 256)
    black = counts[:, : _BLACK + 1].sum(axis=1) / num_pixels
    white = counts[:, _WHITE:].sum(axis=1) / num_pixels
    grey = counts[:, _BLACK + 1 : _WHITE].cumsum(axis=1)
    # The first level at which so many of the grey pixels are reached.
    reached = [(grey >= q * grey[:, -1:]).argmax(axis=1) + _BLACK + 1 for q in _QUANTILES]
    greys = [np.where(grey[:, -1] > 0, level / 255, 0.0) for level in reached]
    signed = levels.astype(np.int16)
    steps = [np.abs(np.diff(signed, axis=axis)).mean(axis=(1, 2)) / 255 for axis in (1, 2)]
    is_shown = levels > _BLACK
    extents = [_extent(is_shown.mean(axis=axis, dtype=np.float32)) for axis in (2, 1)]
    return np.stack([black, white, *greys, (steps[0] + steps[1]) / 2, *extents], axis=1)


def _extent(shares: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) of (N, lines) shares of pixels that are not black: lines from first to last, of all."""
    is_shown = shares > 0.02
    first, last = is_shown.argmax(axis=1), is_shown[:, ::-1].argmax(axis=1)
    num_lines = shares.shape[1]
    return np.where(is_shown.any(axis=1), (num_lines - first - last) / num_lines, 0.0)


def describe_appearance(slices: SliceSet) -> Appearance | None:
    """What training scans look like.

    Args:
        slices: All training slices, not augmented.

    Returns:
        Their description; None if there are fewer than `MIN_SCANS` scans.
    """
    of_scan: dict[tuple[str, str], list[int]] = {}
    for index, name in enumerate(slices.names):
        of_scan.setdefault((name.subject, name.scan), []).append(index)
    if len(of_scan) < MIN_SCANS:
        return None
    num = min(len(of_scan), MAX_SCANS)
    chosen = np.linspace(0, len(of_scan) - 1, num).round().astype(int)
    described = [list(of_scan.values())[index] for index in chosen]
    found = np.concatenate(
        [
            slice_statistics(slices.images[indices, 0].float().numpy())
            for scan in described
            for indices in torch.tensor(scan).split(_BATCH_SIZE)
        ]
    )
    ends = np.cumsum([len(scan) for scan in described])[:-1]
    scans = np.stack([np.median(part, axis=0) for part in np.split(found, ends)])
    return Appearance(scans=_reference(scans), slices=_reference(found))


def _reference(found: NDArray[np.float64]) -> Reference:
    """Center, spread and limit of (N, 8) statistics.

    The limit is the quantile of the distances, but at least the one-sided prediction bound for one
    more of them if their logarithms are normal: of 20 scans, the farthest one is no limit that
    99.5 % of scans would keep to. And it is from `MIN_LIMIT` to `MAX_LIMIT`.
    """
    center = np.median(found, axis=0)
    low, high = np.quantile(found, (0.1, 0.9), axis=0)
    spread = np.maximum((high - low) / _TEN_TO_NINETY, MIN_SPREAD)
    distances = (np.abs(found - center) / spread).max(axis=1)
    logs = np.log(np.maximum(distances, 1e-3))
    num = len(found)
    factor = float(special.stdtrit(num - 1, COVERED)) * math.sqrt(1 + 1 / num)
    bound = math.exp(logs.mean() + factor * logs.std(ddof=1))
    limit = max(bound, float(np.quantile(distances, COVERED)))
    return Reference(
        num=num,
        center=dict(zip(STATISTICS, center.tolist(), strict=True)),
        spread=dict(zip(STATISTICS, spread.tolist(), strict=True)),
        limit=min(max(limit, MIN_LIMIT), MAX_LIMIT),
    )


def unlike_training(voxels: NDArray[np.float32], image_size: int, known: Appearance) -> str:
    """Why a scan does not look like those of training; empty if it does.

    Args:
        voxels: (K, H, W) in [0, 1], scaled as for the network. Fewer than `MIN_SLICES` are
            compared with single slices.
        image_size: Rows and columns that the network sees.
        known: Of the run.

    Returns:
        A sentence with the statistic that is farthest off, and by how much.
    """
    fitted = fit_to_square(torch.from_numpy(voxels)[:, None], image_size)[:, 0].numpy()
    found = np.median(slice_statistics(fitted), axis=0)
    reference = known.scans if len(voxels) >= MIN_SLICES else known.slices
    values = dict(zip(STATISTICS, found.tolist(), strict=True))
    distances = {
        name: abs(value - reference.center[name]) / reference.spread[name]
        for name, value in values.items()
    }
    farthest = max(distances, key=lambda name: distances[name])
    if distances[farthest] <= reference.limit:
        return ""
    return (
        f"{STATISTICS[farthest]} is {values[farthest]:.3f}, in training "
        f"{reference.center[farthest]:.3f} with a spread of {reference.spread[farthest]:.3f}: "
        f"{distances[farthest]:.1f} spreads off, at most {reference.limit:.1f} were expected; the "
        "mask may mean nothing"
    )
