"""Segments of DICOM SEG files, whatever tool wrote them, read onto one grid of slices."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import SegmentationStorage

from hemaseg.dicom.attributes import integer, items, missing, quiet_pydicom, text
from hemaseg.dicom.objects import Frame, object_frames
from hemaseg.dicom.pixels import PixelFormat, check_pixels, pixel_format, read_frames
from hemaseg.dicom.references import frame_value
from hemaseg.dicom.stacks import (
    EVEN_MM,
    OFF_LINE_MM,
    check_same_way,
    displayed,
    heights,
    same_places,
    stack,
)
from hemaseg.dicom.structure import (
    HEAD_BYTES,
    Structure,
    body,
    read_header,
    read_structure,
    starts_like_dicom,
)
from hemaseg.errors import ScanError
from hemaseg.scans.scan import Scan, as_mask
from hemaseg.scans.screening import ReadOptions, Screen, reading

_SEG_CLASSES = (SegmentationStorage, "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation, and Label Map Segmentation."""
_TYPES = ("BINARY", "FRACTIONAL", "LABELMAP")
_MAX_SLICES = 4096
"""Of a segmentation with the slices that are put back; heads have some hundred."""
_UNIT_TOLERANCE = 0.1
"""Of the spacing that a file states against that of its frames: tilted ones are closer by as much
as the cosine of the tilt."""


def read_seg(path: Path, options: ReadOptions | None = None, *, segment: int | None = None) -> Scan:
    """One segment of a DICOM SEG, written by any tool, as a scan with boolean voxels.

    The grid is that of the frames of all segments. Frames that were left out because they are empty
    are put back between those that are there, by the spacing that the file states, if frames agree
    with it, or else by their smallest distance. (Slices below and above all frames are not known,
    and change no volume.) Nothing is put back where a frame is empty or each slice refers to an
    instance of its own: then none was left out, and uneven distances are real.

    Args:
        path: A file of type BINARY, LABELMAP, or FRACTIONAL with two values.
        options: Limits and what is accepted.
        segment: Number of the segment; None if there is only one.

    Raises:
        ScanError: The file is missing, damaged or no SEG, has several segments and none is asked
            for, or pixels of segments that it does not list, or its geometry is unsound or cannot
            be known.
    """
    screen = Screen(str(path), options or ReadOptions())
    with reading(path, screen), quiet_pydicom(), path.open("rb") as stream:
        try:
            seg, form, pixels = _contents(stream, screen.options.max_bytes)
            frames = object_frames(seg, form, "SEG")
            listed = _listed_segments(seg)
            number = _chosen_segment(listed, segment)
            is_map = seg.SegmentationType == "LABELMAP"
            segments = _map_segments(pixels, form) if is_map else _frame_segments(seg, frames)
            _check_listed(segments, listed)
        except ScanError as error:
            raise screen.error(error.kind, str(error)) from None
        check_same_way(frames, screen)
        has_empty_frames = not pixels.any(axis=(1, 2)).all()
        slices, planes = _planes(seg, frames, has_empty_frames, screen)
        if is_map:
            chosen, pixels = np.arange(len(frames)), pixels == number
        else:
            chosen = np.flatnonzero([found == number for found in segments])
        num_places = len(np.unique(slices[chosen]))
        if num_places < len(chosen):
            raise screen.error(
                "duplicate-slices",
                f"{len(chosen)} frames of segment {number} at {num_places} positions, expected one "
                "at each. Give one time or variant alone.",
            )
        stored = np.zeros((len(planes), *pixels.shape[1:]), dtype=pixels.dtype)
        stored[slices[chosen]] = pixels[chosen]
        voxels, display, axes = displayed(stored, stack(planes, screen), screen)
        return as_mask(
            Scan(
                voxels=voxels,
                affine=display.affine,
                path=path,
                slice_coordinates=display.coordinates,
                stored_axes=axes,
                frame_of_reference=text(seg, "FrameOfReferenceUID"),
                findings=tuple(screen.findings),
            )
        )


def _contents(
    stream: BinaryIO, max_bytes: int
) -> tuple[Dataset, PixelFormat, NDArray[np.unsignedinteger]]:
    """Header, format, and (frame, row, column) stored values of a SEG."""
    if not starts_like_dicom(stream.read(HEAD_BYTES)):
        raise ScanError("not DICOM, expected a DICOM SEG. Name one.", kind="not-an-image")
    structure = read_structure(stream, max_bytes)
    if structure.damage is not None:
        raise structure.damage
    seg = read_header(structure)
    kind = text(seg, "SegmentationType")
    if text(seg, "SOPClassUID") not in _SEG_CLASSES or kind not in _TYPES:
        raise ScanError(
            "a DICOM object of another kind, expected a SEG of type BINARY, FRACTIONAL or "
            "LABELMAP. Name the file of the segmentation.",
            kind="not-a-segmentation",
        )
    if structure.pixels is None:
        raise missing("PixelData")
    if kind == "BINARY":
        form = _one_bit(seg, structure, max_bytes)
        shape = (form.num_frames, form.rows, form.columns)
        pixels = body(stream, structure, max_bytes)
        pixels.seek(structure.pixels[0])
        data = np.frombuffer(pixels.read(structure.pixels[1]), np.uint8)
        values = np.unpackbits(data, count=math.prod(shape), bitorder="little").reshape(shape)
    else:
        form = pixel_format(seg)
        check_pixels(structure, form, max_bytes)
        values = np.stack(list(read_frames(stream, structure, seg, form, max_bytes)))
    return seg, form, values


def _one_bit(seg: Dataset, structure: Structure, max_bytes: int) -> PixelFormat:
    """The format of a binary SEG, whose pixels follow each other bit by bit, checked."""
    sizes = [integer(seg, keyword) for keyword in ("Rows", "Columns", "NumberOfFrames")]
    bits, count = integer(seg, "BitsAllocated"), math.prod(sizes)
    if min(sizes) < 1:
        raise ScanError(
            f"{sizes[2]} frames of {sizes[0]} x {sizes[1]} pixels, expected at least one. Export "
            "the segmentation again.",
            kind="dicom-damaged",
        )
    if bits != 1:
        raise ScanError(
            f"{bits} bits of a binary segmentation, expected 1. Export it again.", kind="bits"
        )
    if count > max_bytes:
        raise ScanError(
            f"{sizes[2]} frames of {sizes[0]} x {sizes[1]} pixels, expected at most {max_bytes:,} "
            "pixels. Crop it, or raise the limit.",
            kind="too-large",
        )
    if structure.fragments or not structure.is_little:
        raise ScanError(
            "pixels of 1 bit that are compressed or big endian, expected plain ones. Convert it.",
            kind="transfer-syntax",
        )
    assert structure.pixels is not None
    found, expected = structure.pixels[1], -(-count // 8)
    if found not in (expected, expected + expected % 2):
        raise ScanError(
            f"{found:,} bytes of pixels, expected {expected:,} for {sizes[2]} frames of {sizes[0]} "
            f"x {sizes[1]} bits. Export the segmentation again.",
            kind="dicom-truncated" if found < expected else "dicom-surplus",
        )
    rows, columns, num_frames = sizes
    return PixelFormat(rows, columns, num_frames, 1, 1, False, False, None)


def _listed_segments(seg: Dataset) -> list[int]:
    """Numbers of the segments that a SEG says it has; 0 is the background of label maps."""
    numbers = {integer(item, "SegmentNumber") for item in items(seg, "SegmentSequence")}
    return sorted(number for number in numbers if number > 0)


def _chosen_segment(listed: list[int], wanted: int | None) -> int:
    """The segment to read. Messages do without the labels, which are anybody's text."""
    if wanted is None and len(listed) == 1:
        return listed[0]
    if wanted is not None and wanted in listed:
        return wanted
    raise ScanError(
        f"segments {', '.join(map(str, listed)) or '(none)'}, expected "
        f"{'one' if wanted is None else f'segment {wanted}'}. Choose one by its number.",
        kind="mixed-segments" if wanted is None else "unknown-segment",
    )


def _frame_segments(seg: Dataset, frames: Sequence[Frame]) -> list[Any]:
    """Number of the segment of each frame, as the file has it; None where it has none."""
    return [frame_value(seg, frame.number, "ReferencedSegmentNumber") for frame in frames]


def _map_segments(pixels: NDArray[np.unsignedinteger], form: PixelFormat) -> list[int]:
    """Numbers of the segments in a label map, without the background."""
    background = {0, *(form.padding or ())}
    return [number for number in np.unique(pixels).tolist() if number not in background]


def _check_listed(segments: Sequence[Any], listed: list[int]) -> None:
    """Refuse segments that the file does not list: the mask of one that it does would lack them."""
    if num_unlisted := sum(number not in listed for number in segments):
        raise ScanError(
            f"{num_unlisted} of {len(segments)} frames or labels of no listed segment, expected "
            f"those of {', '.join(map(str, listed))} alone. Export the segmentation again.",
            kind="dicom-damaged",
        )


def _planes(
    seg: Dataset, frames: Sequence[Frame], has_empty_frames: bool, screen: Screen
) -> tuple[NDArray[np.intp], list[Frame]]:
    """Index of the slice of each frame, and a frame for each slice, also for those left out."""
    places = same_places(frames)
    for place in places:
        origins = np.array([frames[index].position for index in place])
        shift_mm = float(np.ptp(origins, axis=0).max())
        if shift_mm > OFF_LINE_MM:
            raise screen.error(
                "slices-off-line",
                f"frames of one slice shifted by {shift_mm:.2f} mm against each other, expected at "
                f"most {OFF_LINE_MM} mm. Resample them onto one grid.",
            )
    firsts = [frames[place[0]] for place in places]
    counts = _counts(seg, firsts, has_empty_frames, screen)
    indices = np.append(0, np.cumsum(counts))
    num_bytes = (int(indices[-1]) + 1) * integer(seg, "Rows") * integer(seg, "Columns")
    screen.check_size(num_bytes, f"{indices[-1] + 1} slices that decode to ")
    planes = []
    for first, following, count in zip(firsts[:-1], firsts[1:], counts, strict=True):
        step = (following.position - first.position) / count
        planes += [replace(first, position=first.position + j * step) for j in range(count)]
    if num_added := len(planes) + 1 - len(firsts):
        screen.report(
            "empty-frames",
            f"{num_added} slices between the {len(firsts)} of the file, which leaves out empty "
            "ones; put back",
        )
    slices = np.empty(len(frames), dtype=np.intp)
    for index, place in zip(indices, places, strict=True):
        slices[place] = index
    return slices, [*planes, firsts[-1]]


def _counts(
    seg: Dataset, firsts: Sequence[Frame], has_empty_frames: bool, screen: Screen
) -> NDArray[np.intp]:
    """Number of steps from each slice of a file to the next: 1, or more where some are left out."""
    none_left_out = np.ones(len(firsts) - 1, dtype=np.intp)
    num_sources = len(
        {
            text(instance, "ReferencedSOPInstanceUID")
            for series in items(seg, "ReferencedSeriesSequence")
            for instance in items(series, "ReferencedInstanceSequence")
        }
    )
    if has_empty_frames or len(firsts) in (1, num_sources):
        return none_left_out
    steps = np.diff(heights(firsts))
    most = num_sources if num_sources > len(firsts) else _MAX_SLICES
    for unit in (abs(firsts[0].distance or 0.0), steps.mean(), steps.min()):
        counts = np.rint(steps / (unit or math.inf))
        if counts.min() >= 1 and counts.sum() < most:
            step = steps.sum() / counts.sum()
            is_unit = abs(step - unit) <= _UNIT_TOLERANCE * unit
            if is_unit and np.abs(steps - counts * step).max() <= min(EVEN_MM, unit / 50):
                return counts.astype(np.intp)
    if num_sources > len(firsts):
        screen.refuse(
            "missing-slices",
            f"slices at {len(firsts)} uneven positions, made from {num_sources} instances: some "
            "were left out, and where is unknown. Write the segmentation with its empty frames.",
        )
    return none_left_out
