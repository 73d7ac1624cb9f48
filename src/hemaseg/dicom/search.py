"""DICOM files found and grouped into series."""

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydicom import Dataset

from hemaseg.dicom.attributes import anonymous, identity_words, number, quiet_pydicom, text
from hemaseg.dicom.descriptions import known_words
from hemaseg.dicom.objects import MODALITIES, Frame, read_object
from hemaseg.dicom.places import Place, one_family, opener
from hemaseg.dicom.series import Instance, Series, SeriesListing
from hemaseg.dicom.stacks import heights
from hemaseg.dicom.structure import HEAD_BYTES, starts_like_dicom
from hemaseg.errors import ScanError
from hemaseg.scans.screening import ReadOptions, Screen

_PLANES = ("sagittal", "coronal", "axial")
_BONE = re.compile(r"bone|edge|lung|sharp", re.IGNORECASE)
_UID = re.compile("[0-9.]{1,64}")
_SHARP_KERNEL = re.compile(r"[A-Z][a-z]?[5-9]\d")
"""Kernels of Siemens, whose number says how sharp they are: H60s, Hr68, J70h."""


def find_series(path: Path, options: ReadOptions) -> SeriesListing:
    """Find the series in a file, a folder with all below it, or a zip file.

    Every DICOM file is walked and its header checked; pixels are not decoded. What is wrong with an
    object is an error of its series (`Series.error`). A damaged file whose series is unknown is an
    error of all series in its folder, since each may lack it; so is a file that is empty or not
    DICOM but named with the suffix of the others.

    Args:
        path: What the user named.
        options: Limits.

    Raises:
        ScanError: There is no series, or a folder or archive that cannot be read.
    """
    screen = Screen(str(path), options)
    with quiet_pydicom(), one_family(screen), opener(path, screen) as (places, open_place):
        found = _Found(path, options)
        for place in places:
            with open_place(place) as stream:
                found.add(place, stream)
        return found.listing()


def with_objects(series: Series, options: ReadOptions) -> Series:
    """A series whose objects were left out, with them.

    Args:
        series: Of which nothing but `unread` says what its objects are.
        options: Limits.

    Raises:
        ScanError: A file or archive cannot be read any more.
    """
    screen = Screen(str(series.path), options)
    instances = list(series.instances)
    with quiet_pydicom(), one_family(screen), opener(series.path, screen) as (_, open_place):
        for place in series.unread:
            with open_place(place) as stream:
                instances.append(Instance(place, read_object(stream, options.max_bytes)))
    damaged = [instance for instance in instances if instance.object.error is not None]
    error = _error(series.path, damaged[0], frozenset(series.identity)) if damaged else None
    return replace(series, instances=tuple(instances), unread=(), error=series.error or error)


class _Found:
    """Files, sorted into series while they are found."""

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self._path = path
        self._options = options
        self._groups: defaultdict[tuple[str, str, str, bool], list[Instance]] = defaultdict(list)
        self._strays: list[Instance] = []
        self._not_images: list[Instance] = []
        self._unread: list[tuple[Place, bool]] = []  # And whether it is empty.

    def add(self, place: Place, stream: BinaryIO) -> None:
        """Sort one file."""
        head = stream.read(HEAD_BYTES)
        if not starts_like_dicom(head):
            self._unread.append((place, not head))
            return
        found = read_object(stream, self._options.max_bytes)
        instance = Instance(place, found)
        uid = _text(found.header, "SeriesInstanceUID")
        if head[128:] != b"DICM" and "SOPClassUID" not in found.header:
            self._unread.append((place, False))
        elif found.is_directory:
            return
        elif found.error is not None and found.error.kind == "not-pixels":
            self._not_images.append(instance)
        elif _UID.fullmatch(uid) or (uid and found.error is None):
            study = _text(found.header, "StudyInstanceUID")
            self._groups[study, uid, found.modality, found.role == "localizer"].append(instance)
        else:
            self._strays.append(instance)

    def listing(self) -> SeriesListing:
        """The series, each with its first error.

        Raises:
            ScanError: There is none.
        """
        groups = list(self._groups.values())
        objects = [*(group[0] for group in groups), *self._strays, *self._not_images]
        words = frozenset[str]().union(*(identity_words(one.object.header) for one in objects))
        if not groups:
            raise self._nothing(words)
        series = [_series(self._path, group, words) for group in groups]
        spoiled, num_unread = self._spoiled(groups, words)
        series = [
            replace(one, error=one.error or spoiled.get(index)) for index, one in enumerate(series)
        ]
        series = [replace(one, error=one.error or self._mixed(one, series)) for one in series]
        left_out = [f"files that are not DICOM: {num_unread}"] if num_unread else []
        if self._not_images:
            left_out.append(f"DICOM objects without pixels: {len(self._not_images)}")
        last = float("inf")
        series.sort(key=lambda one: (one.study_uid, one.number or last, one.uid))
        return SeriesListing(self._path, tuple(series), tuple(left_out))

    def _spoiled(
        self, groups: list[list[Instance]], words: frozenset[str]
    ) -> tuple[dict[int, ScanError], int]:
        """Errors of series by what lies beside them, and the number of files that spoil none."""
        beside = [{(one.place.folder, one.place.suffix) for one in group} for group in groups]
        errors: dict[int, ScanError] = {}
        for stray in self._strays:
            folder = stray.place.folder
            near = [n for n, places in enumerate(beside) if folder in {own for own, _ in places}]
            for index in near or range(len(groups)):
                errors.setdefault(index, _error(self._path, stray, words))
        num_unread = 0
        for place, is_empty in self._unread:
            near = [n for n, own in enumerate(beside) if (place.folder, place.suffix) in own]
            if near and (is_empty or place.suffix):
                error = _unlike(Screen(place.shown(self._path, words)), is_empty)
                for index in near:
                    errors.setdefault(index, error)
            else:
                num_unread += 1
        return errors, num_unread

    def _mixed(self, one: Series, series: list[Series]) -> ScanError | None:
        """The error of a series whose UID has slices of another modality or patient; None if not.

        A patient's values are counted and not named. An empty one may have been taken out.
        """
        same = [two for two in series if (two.study_uid, two.uid) == (one.study_uid, one.uid)]
        modalities = sorted({two.modality for two in same})
        if len(modalities) > 1:
            return self._of_several(" and ".join(modalities), "modality")
        headers = [instance.object.header for two in same for instance in two.instances]
        for keyword in ("PatientID", "PatientBirthDate"):
            found = {_text(header, keyword).strip() for header in headers} - {""}
            if len(found) > 1:
                return self._of_several(f"{len(found)} patients by their {keyword}", "patient")
        return None

    def _of_several(self, found: str, expected: str) -> ScanError:
        return Screen(str(self._path)).error(
            "mixed-series",
            f"slices of {found} under one SeriesInstanceUID, expected one {expected}. Export the "
            "series again.",
        )

    def _nothing(self, words: frozenset[str]) -> ScanError:
        """Why there is no series."""
        if found := [*self._strays, *self._not_images]:
            return _error(self._path, found[0], words)
        screen = Screen(str(self._path))
        if [place for place, _ in self._unread] == [Place(self._path)]:
            return _unlike(screen, self._unread[0][1])
        return screen.error(
            "empty-folder",
            f"no DICOM image among {len(self._unread)} files, expected some. Give the folder that "
            "holds them.",
        )


def _unlike(screen: Screen, is_empty: bool) -> ScanError:
    """The error for a file that should be DICOM and is not."""
    if is_empty:
        return screen.error("empty-file", "0 bytes, expected DICOM. Copy or export it again.")
    return screen.error(
        "not-an-image", "no DICOM file, expected one. Copy or export it again, or take it away."
    )


def _error(path: Path, instance: Instance, words: frozenset[str]) -> ScanError:
    """The error of an object, with its place."""
    error = instance.object.error
    assert error is not None
    return Screen(instance.place.shown(path, words)).error(error.kind, str(error))


def _series(path: Path, group: list[Instance], words: frozenset[str]) -> Series:
    """A series of the objects that belong to it."""
    first = group[0].object
    frames = [frame for instance in group for frame in instance.object.frames]
    plane, spacing_mm = _layout(frames)
    description = _text(first.header, "SeriesDescription")
    kernel = _text(first.header, "ConvolutionKernel")
    roles = [instance.object.role for instance in group]
    damaged = [instance for instance in group if instance.object.error is not None]
    return Series(
        path=path,
        study_uid=_text(first.header, "StudyInstanceUID"),
        uid=_text(first.header, "SeriesInstanceUID"),
        number=_number(first.header),
        modality=MODALITIES.get(first.modality, anonymous(first.modality[:16], words)),
        description=anonymous(known_words(description[:64]), words),
        num_images=sum(one.object.form.num_frames if one.object.form else 1 for one in group),
        role=next((role for role in roles if role != "original"), "original"),
        plane=plane,
        spacing_mm=spacing_mm,
        is_bone=bool(_BONE.search(f"{kernel} {description}") or _SHARP_KERNEL.match(kernel)),
        identity=tuple(sorted(words)),
        instances=tuple(group),
        error=_error(path, damaged[0], words) if damaged else None,
    )


def _layout(frames: list[Frame]) -> tuple[str, float | None]:
    """Plane and usual distance of slices."""
    if not frames:
        return "", None
    normal = np.cross(frames[0].across, frames[0].down)
    steps = np.diff(np.sort(heights(frames)))
    plane = _PLANES[int(np.abs(normal).argmax())]
    return plane, float(np.median(steps)) if len(steps) else None


def _text(header: Dataset, keyword: str) -> str:
    """A value as text; empty where it cannot be decoded."""
    try:
        return text(header, keyword)
    except ScanError:
        return ""


def _number(header: Dataset) -> int | None:
    try:
        found = number(header, "SeriesNumber")
    except ScanError:
        return None
    return None if found is None else int(found)
