"""DICOM series as scans with exact geometry.

    find_series -> choose_series -> read_series

A series is read as it was acquired: no slice is resampled, tilt and uneven steps stay in the
geometry. What would make a wrong volume or a wrong picture is refused.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hemaseg.dicom.attributes import quiet_pydicom
from hemaseg.dicom.objects import MODALITIES, Frame
from hemaseg.dicom.pixels import PixelFormat, read_frames
from hemaseg.dicom.places import Place, one_family, opener
from hemaseg.dicom.search import find_series, with_objects
from hemaseg.dicom.series import Instance, Series, SeriesListing, choose_series
from hemaseg.dicom.stacks import Stack, check_same_way, displayed, same_places, stack
from hemaseg.dicom.values import scan_values
from hemaseg.errors import ScanError
from hemaseg.scans.scan import DicomSource, Scan
from hemaseg.scans.screening import ReadOptions, Screen

__all__ = [
    "Series",
    "SeriesListing",
    "choose_series",
    "find_series",
    "read_series",
]


@dataclass(frozen=True, eq=False)
class _Slice:
    """A frame and the object that it is in."""

    instance: Instance
    frame: Frame

    @property
    def form(self) -> PixelFormat:
        assert self.instance.object.form is not None
        return self.instance.object.form


def read_series(series: Series, options: ReadOptions) -> Scan:
    """Read a series as a scan: values in HU for CT, rescaled for MRI.

    Slices are sorted by position along their normal, InstanceNumber is not trusted. The affine has
    the steps between them as they are, so gantry tilt shears it; uneven steps are
    `slice_coordinates`. Identical copies of a slice are dropped. Padding becomes air (-1000 HU), in
    MRI 0; MRI in MONOCHROME1 is turned round.

    Whole numbers stay whole (int16, or int32 where needed); a fractional slope gives float32,
    float64 for 32-bit pixels.

    Args:
        series: As `choose_series` gives it, with its objects or without.
        options: Limits and what is accepted.

    Raises:
        ScanError: The series is refused; `docs/screening.md` lists the reasons.
    """
    if series.unread:
        series = with_objects(series, options)
    screen = Screen(str(series.path), options)
    with quiet_pydicom(), one_family(screen):
        _screen_series(series, screen)
        slices = [_Slice(one, frame) for one in series.instances for frame in one.object.frames]
        num_bytes = sum(item.form.frame_bytes for item in slices)
        screen.check_size(num_bytes, f"{len(slices)} slices that decode to ")
        _check_one_grid(slices, screen)
        with opener(series.path, screen) as (_, open_place):
            pixels = _Pixels(series, open_place, screen)
            slices = _without_copies(slices, pixels, screen)
            if series.modality == "CT":
                _check_one_rescale(slices, screen)
            geometry = stack([item.frame for item in slices], screen)
            stored = pixels.of(slices)
        frames, forms = [item.frame for item in slices], [item.form for item in slices]
        values = scan_values(stored, forms, frames, series.modality, screen)
        return _scan(series, slices, values, geometry, screen)


def _screen_series(series: Series, screen: Screen) -> None:
    """Refuse a series that is not what is wanted, or not sound."""
    if series.role == "secondary-capture":
        screen.refuse(
            "secondary-capture",
            "a screenshot, or pictures with burnt-in text, expected a CT or MRI series. Take the "
            "original one.",
        )
    elif series.modality not in MODALITIES.values():
        screen.refuse(
            "wrong-modality",
            f"modality {series.modality or 'unknown'}, expected CT or MR. Take such a series.",
        )
    if series.role == "localizer":
        screen.refuse(
            "localizer", "a localizer, expected a stack of slices. Take the series it was for."
        )
    if series.role == "derived":
        screen.refuse(
            "derived",
            "a reformatted or computed series by its ImageType, expected an original one. Take the "
            "original.",
        )
    if series.error is not None:
        raise series.error
    if series.left_out:
        screen.report("left-out", "; ".join(series.left_out))
    if series.is_bone and series.modality == "CT":
        screen.report("bone-kernel", "sharply reconstructed, by its kernel or description")


def _check_one_grid(slices: Sequence[_Slice], screen: Screen) -> None:
    """Refuse slices that do not belong to one grid."""
    sizes = sorted({(item.form.rows, item.form.columns) for item in slices})
    if len(sizes) > 1:
        (rows, columns), (more_rows, more_columns) = sizes[0], sizes[-1]
        raise screen.error(
            "mixed-grids",
            f"slices of {rows} x {columns} and {more_rows} x {more_columns} pixels, expected one "
            "size. Give slices of one size alone.",
        )
    places = {item.instance.object.frame_of_reference for item in slices}
    if len(places) > 1:
        raise screen.error(
            "mixed-grids",
            f"{len(places)} frames of reference, expected one: positions cannot be compared. Give "
            "slices of one frame of reference alone.",
        )
    check_same_way([item.frame for item in slices], screen)


def _check_one_rescale(slices: Sequence[_Slice], screen: Screen) -> None:
    """Refuse slices of a CT whose values mean different HU: scanners write one rescale for all."""
    found = sorted({(item.frame.slope, item.frame.intercept) for item in slices})
    if len(found) > 1:
        (slope, intercept), (other_slope, other_intercept) = found[0], found[-1]
        screen.refuse(
            "mixed-rescale",
            f"slices with a rescale slope and intercept of {slope:g} and {intercept:g}, and of "
            f"{other_slope:g} and {other_intercept:g}, expected one for a CT. Export the series "
            "again.",
        )


class _Pixels:
    """Reads stored values of slices of a series."""

    def __init__(
        self, series: Series, open_place: Callable[[Place], BinaryIO], screen: Screen
    ) -> None:
        self._series = series
        self._open = open_place
        self._screen = screen

    def of(self, slices: Sequence[_Slice]) -> list[NDArray[Any]]:
        """(row, column) stored values of each slice."""
        wanted: defaultdict[Instance, dict[int, int]] = defaultdict(dict)
        for index, item in enumerate(slices):
            wanted[item.instance][item.frame.number] = index
        found: dict[int, NDArray[Any]] = {}
        for instance, indices in wanted.items():
            for number, frame in enumerate(self._frames(instance), start=1):
                if number in indices:
                    found[indices[number]] = frame
        return [found[index] for index in range(len(slices))]

    def _frames(self, instance: Instance) -> list[NDArray[Any]]:
        source, max_bytes = instance.object, self._screen.options.max_bytes
        assert source.form is not None
        try:
            with self._open(instance.place) as stream:
                return list(
                    read_frames(stream, source.structure, source.header, source.form, max_bytes)
                )
        except ScanError as error:
            shown = instance.place.shown(self._series.path, self._series.identity)
            raise Screen(shown).error(error.kind, str(error)) from None


def _without_copies(slices: Sequence[_Slice], pixels: _Pixels, screen: Screen) -> list[_Slice]:
    """The slices sorted by position, one at each; copies are dropped."""
    kept, num_dropped = [], 0
    places = same_places([item.frame for item in slices])
    for place in places:
        first, *others = (slices[index] for index in place)
        if others:
            stored = pixels.of([first, *others])
            if not all(
                _are_copies(first, other) and np.array_equal(stored[0], values)
                for other, values in zip(others, stored[1:], strict=True)
            ):
                num_shared = sum(len(place) > 1 for place in places)
                raise screen.error(
                    "duplicate-slices",
                    f"{num_shared} of {len(places)} positions hold several different slices, "
                    "expected one each. Give one reconstruction, echo, phase, time or "
                    "b-value alone.",
                )
            num_dropped += len(others)
        kept.append(first)
    if num_dropped:
        screen.report(
            "duplicates-dropped", f"{num_dropped} identical copies of slices; one of each is kept"
        )
    return kept


def _are_copies(first: _Slice, other: _Slice) -> bool:
    """Whether two slices with equal stored values mean the same."""
    one, two = first.frame, other.frame
    return (
        bool(np.allclose(one.position, two.position, rtol=0, atol=0.01))
        and (one.slope, one.intercept) == (two.slope, two.intercept)
        and first.form == other.form
    )


def _scan(
    series: Series,
    slices: Sequence[_Slice],
    stored: NDArray[Any],
    geometry: Stack,
    screen: Screen,
) -> Scan:
    """The scan in display order."""
    voxels, display, axes = displayed(stored, geometry, screen)
    instances = list(dict.fromkeys(item.instance for item in slices))
    place = {instance: index for index, instance in enumerate(instances)}
    return Scan(
        voxels=voxels,
        affine=display.affine,
        path=series.path,
        slice_coordinates=display.coordinates,
        modality=series.modality if series.modality in MODALITIES.values() else "",
        stored_axes=axes,
        dicom=DicomSource(
            headers=tuple(instance.object.header for instance in instances),
            frames=tuple((place[item.instance], item.frame.number) for item in slices),
        ),
        findings=tuple(screen.findings),
    )
