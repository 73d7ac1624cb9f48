"""Cases to `(image, mask)` slices of one size: the only place where training slices are made.

Shape legend: N slices, H rows, W columns (here both `image_size`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hemaseg.cohorts.table import CaseImage, Cohort, read_case
from hemaseg.config import IntensityConfig, Recipe
from hemaseg.errors import CohortError, ScanError
from hemaseg.scans.plausibility import non_axial
from hemaseg.scans.scan import Scan
from hemaseg.slices.intensity import intensity_range


@dataclass(frozen=True)
class SliceName:
    """Which slice of which subject: its image file, its index K within that file, and its scan."""

    subject: str
    image: str
    index: int
    scan: str = ""


@dataclass(frozen=True)
class SliceSet:
    """Slices of one size, in cohort order.

    Attributes:
        images: `(N, 1, H, W)` float16 in [0, 1].
        masks: `(N, 1, H, W)` bool.
        names: One for each slice.
    """

    images: Tensor
    masks: Tensor
    names: tuple[SliceName, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_lesion(self) -> Tensor:
        """`(N,)` bool, on the CPU."""
        return self.masks.flatten(1).any(dim=1).cpu()

    @property
    def num_bytes(self) -> int:
        """Of images and masks."""
        return self.images.nbytes + self.masks.nbytes

    def on(self, device: torch.device) -> "SliceSet":
        """The same slices with images and masks on a device."""
        return SliceSet(self.images.to(device), self.masks.to(device), self.names)

    def batch(self, indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images and masks of some slices, both float32, on a device that need not be theirs."""
        is_gpu = device.type == "cuda"
        chosen = indices.to(self.images.device, non_blocking=is_gpu)
        images, masks = self.images[chosen], self.masks[chosen]
        if is_gpu and not images.is_cuda:
            # From pinned memory a GPU fetches while it computes.
            images, masks = images.pin_memory(), masks.pin_memory()
        images, masks = (part.to(device, non_blocking=is_gpu) for part in (images, masks))
        return images.float(), masks.float()

    def select(self, indices: Tensor) -> "SliceSet":
        """The slices at these indices, in this order."""
        return SliceSet(
            self.images[indices],
            self.masks[indices],
            tuple(self.names[i] for i in indices.tolist()),
        )

    def of_subjects(self, subjects: Iterable[str]) -> "SliceSet":
        """A copy of the slices of these subjects, in the order that they have here."""
        wanted = set(subjects)
        indices = [i for i, name in enumerate(self.names) if name.subject in wanted]
        return self.select(torch.tensor(indices, dtype=torch.int64))


def fit_to_square(stack: Tensor, size: int) -> Tensor:
    """Slices `(N, 1, H, W)` resampled to `(N, 1, size, size)`; aspect kept, padded with 0 evenly.

    Bilinear with antialiasing. For masks, pass floats and cut at 0.5. The inverse is `fit_back`.

    >>> fit_to_square(torch.ones(1, 1, 2, 4), 4)[0, 0].tolist()[0]
    [0.0, 0.0, 0.0, 0.0]
    """
    height, width, (left, right, top, bottom) = _fitted(stack.shape[-2], stack.shape[-1], size)
    if (height, width) != tuple(stack.shape[-2:]):
        stack = functional.interpolate(
            stack, (height, width), mode="bilinear", align_corners=False, antialias=True
        )
    return functional.pad(stack, (left, right, top, bottom))


def fit_back(stack: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `fit_to_square`: `(N, 1, size, size)` to `(N, 1, height, width)`."""
    fitted_height, fitted_width, (left, _, top, _) = _fitted(height, width, stack.shape[-1])
    stack = stack[..., top : top + fitted_height, left : left + fitted_width]
    if (fitted_height, fitted_width) == (height, width):
        return stack
    return functional.interpolate(
        stack, (height, width), mode="bilinear", align_corners=False, antialias=True
    )


def _fitted(height: int, width: int, size: int) -> tuple[int, int, tuple[int, int, int, int]]:
    """Rows and columns after scaling, and the padding left, right, top, bottom."""
    scale = size / max(height, width)
    # Not below 2: PyTorch 2.13 resamples to an edge of 1 pixel with antialiasing as all zeros.
    rows, columns = max(2, round(height * scale)), max(2, round(width * scale))
    top, left = (size - rows) // 2, (size - columns) // 2
    return rows, columns, (left, size - columns - left, top, size - rows - top)


@dataclass(frozen=True)
class ScaledImage:
    """One image file of a scan, scaled.

    Attributes:
        case: Its row of the cohort.
        scan: As read, with its geometry.
        voxels: `(K, H, W)` float32 in [0, 1].
        mask: `(K, H, W)` bool; None if unmarked.
    """

    case: CaseImage
    scan: Scan
    voxels: NDArray[np.float32]
    mask: NDArray[np.bool_] | None


def scaled_images(cohort: Cohort, config: IntensityConfig) -> Iterator[ScaledImage]:
    """Every image file of a cohort, scaled under the one intensity range of its scan.

    All slices of the scan that the cohort holds count for the range, unmarked ones too, so that the
    same pixel gets the same value whether or not an expert marked its slice.

    Raises:
        CohortError: A file changed since it was indexed.
        ScanError: A file cannot be read.
        ConfigError: The method does not fit the values.
    """
    for (subject, name), rows in groupby(cohort.images, key=lambda case: (case.subject, case.scan)):
        cases = list(rows)
        read = [read_case(case) for case in cases]
        everything: NDArray[Any] = np.concatenate([scan.voxels.reshape(-1) for scan, _ in read])
        scale = intensity_range(
            everything, cases[0].modality, config, name=f"scan {name} of subject {subject}"
        )
        for case, (scan, mask) in zip(cases, read, strict=True):
            if case.spacing_mm is not None and (reason := non_axial(case.spacing_mm)):
                raise ScanError(f"{case.image}: {reason}", kind="non-axial")
            yield ScaledImage(case, scan, scale.scale(scan.voxels), mask)


def decoded_slices(
    cohort: Cohort, recipe: Recipe, *, progress: Callable[[int, int], None] | None = None
) -> Iterator[SliceSet]:
    """The slices of each image file that has a reference mask, one file after the other.

    A lesion of a few pixels can vanish when its slice is fitted to a small image size; the slice
    then counts as one without lesion.

    Args:
        cohort: The cases.
        recipe: Image size and intensity.
        progress: Called with the numbers of image files done and to do.

    Raises:
        CohortError: No slice has a reference, or a file changed since it was indexed.
        ScanError, ConfigError: A file cannot be read or scaled.
    """
    size, is_empty = recipe.slices.image_size, True
    for num_done, image in enumerate(scaled_images(cohort, recipe.intensity), 1):
        if progress is not None:
            progress(num_done, len(cohort.images))
        if image.mask is None:
            continue
        is_empty, case = False, image.case
        fitted = fit_to_square(torch.from_numpy(image.voxels)[:, None], size)
        mask = fit_to_square(torch.from_numpy(image.mask)[:, None].float(), size) >= 0.5
        names = (
            SliceName(case.subject, case.image.name, k, case.scan) for k in range(len(image.voxels))
        )
        yield SliceSet(fitted.to(torch.float16), mask, tuple(names))
    if is_empty:
        raise CohortError(
            f"none of {len(cohort.images)} images has a reference mask, expected at least one. "
            "Index a folder with masks."
        )


def load_slices(
    cohort: Cohort, recipe: Recipe, *, progress: Callable[[int, int], None] | None = None
) -> SliceSet:
    """All slices of a cohort that have a reference mask, in memory; see `decoded_slices`."""
    return join_slices(list(decoded_slices(cohort, recipe, progress=progress)))


def join_slices(parts: Sequence[SliceSet]) -> SliceSet:
    """The slices of one or more sets of one size, in their order."""
    return SliceSet(
        torch.cat([part.images for part in parts]),
        torch.cat([part.masks for part in parts]),
        tuple(name for part in parts for name in part.names),
    )


def epoch_order(has_lesion: Tensor, negative_share: float, generator: torch.Generator) -> Tensor:
    """Indices of one epoch's slices in random order.

    As many as there are lesion slices; `negative_share` of them are drawn without replacement from
    the slices without lesion (fewer if there are not enough), the rest from those with one.

    Args:
        has_lesion: `(N,)` bool.
        negative_share: In [0, 1).
        generator: CPU generator; the only source of randomness.

    Returns:
        `(num_lesion_slices,)` int64.
    """
    lesion = torch.nonzero(has_lesion).flatten()
    negative = torch.nonzero(~has_lesion).flatten()
    num_negative = min(round(negative_share * len(lesion)), len(negative))
    chosen = [
        lesion[torch.randperm(len(lesion), generator=generator)[: len(lesion) - num_negative]],
        negative[torch.randperm(len(negative), generator=generator)[:num_negative]],
    ]
    order = torch.cat(chosen)
    return order[torch.randperm(len(order), generator=generator)]
