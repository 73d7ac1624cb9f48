"""Series of DICOM images, and which of several is taken."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from hemaseg.dicom.attributes import anonymous
from hemaseg.dicom.objects import MODALITIES, DicomObject, Role
from hemaseg.dicom.places import Place
from hemaseg.errors import ScanError
from hemaseg.scans.screening import Screen

MIN_IMAGES = 3
"""A series of fewer is not taken if there is another."""


@dataclass(frozen=True, eq=False)
class Instance:
    """An object and where it lies."""

    place: Place
    object: DicomObject


@dataclass(frozen=True, eq=False)
class Series:
    """A series of images, not read yet.

    Attributes:
        path: The file, folder or archive that it was found in.
        study_uid: StudyInstanceUID; empty if unknown.
        uid: SeriesInstanceUID.
        number: SeriesNumber; None if absent.
        modality: `CT`, `MRI`, or the name that DICOM has for another.
        description: What SeriesDescription says in words of radiology; see `known_words`.
        num_images: Slices.
        role: What the images are.
        plane: `axial`, `coronal`, `sagittal` by the normal of the slices; empty if unknown.
        spacing_mm: Usual distance of slices; None if unknown.
        is_bone: Whether kernel or description name bone, lung or edges.
        identity: Words that identify the patient, which no message may show.
        instances: Its objects; empty if they were left out.
        unread: Where the objects lie that were left out of `instances`.
        left_out: What lies beside the series and is not read.
        error: Why it cannot be read; None if nothing is known yet that speaks against it.
    """

    path: Path
    study_uid: str
    uid: str
    number: int | None
    modality: str
    description: str
    num_images: int
    role: Role
    plane: str
    spacing_mm: float | None
    is_bone: bool
    identity: tuple[str, ...] = field(repr=False)
    instances: tuple[Instance, ...] = field(repr=False)
    unread: tuple[Place, ...] = field(default=(), repr=False)
    left_out: tuple[str, ...] = ()
    error: ScanError | None = field(default=None, repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it is read from, each once."""
        places = [*(instance.place for instance in self.instances), *self.unread]
        return tuple(dict.fromkeys(place.file for place in places))

    def without_objects(self) -> "Series":
        """Small enough to be sent to another process, where `read_series` reads the objects anew.

        They are headers of patients, of up to hundreds of kilobytes each.
        """
        places = tuple(instance.place for instance in self.instances)
        return replace(self, instances=(), unread=(*places, *self.unread))

    @property
    def summary(self) -> str:
        """One line for a list."""
        spacing = f", {self.spacing_mm:.3g} mm apart" if self.spacing_mm else ""
        parts = (
            *(self.modality, f'"{self.description}"' if self.description else ""),
            *("" if self.role == "original" else self.role, f"{self.num_images} images{spacing}"),
            *(self.plane, "bone" if self.is_bone else ""),
            f"cannot be read ({self.error.kind})" if self.error else "",
        )
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class SeriesListing:
    """What was found.

    Attributes:
        path: The file, folder or archive.
        series: Series of images of all studies, by study and number.
        left_out: What else lies there.
    """

    path: Path
    series: tuple[Series, ...]
    left_out: tuple[str, ...] = ()


def choose_series(listing: SeriesListing, wanted: str | None) -> Series:
    """The series that is to be read, of those of one study.

    Without a wish, the one series of original CT or MRI images (no localizer, no screenshot, not
    derived, three images or more); if there is none, the one of other images. Of several, the
    suggestion is the one with the most images of those that are original, axial and not bone, as
    far as there are such.

    Args:
        listing: With the series of one study.
        wanted: Number in the list (from 1), SeriesInstanceUID, or "suggested".

    Raises:
        ScanError: There are several, or none that is wanted.
    """
    series = listing.series
    screen = Screen(str(listing.path))
    best = _candidates(series)
    suggested = min(best, key=_rank)
    if wanted is None:
        chosen = best
    elif wanted == "suggested":
        chosen = [suggested]
    elif wanted.isascii() and wanted.isdigit():
        chosen = [one for index, one in enumerate(series, start=1) if index == int(wanted)]
    else:
        chosen = [one for one in series if one.uid == wanted][:1]
    if len(chosen) == 1:
        others = (f"series: {one.summary}" for one in series if one is not chosen[0])
        return replace(chosen[0], left_out=(*listing.left_out, *others))
    lines = "".join(f"\n  {index}. {one.summary}" for index, one in enumerate(series, start=1))
    kind = "unknown-series" if wanted else "mixed-series"
    found = f"no series {anonymous(wanted, series[0].identity)}" if wanted else "several series"
    raise screen.error(
        kind,
        f"{found} among {len(series)}, expected one of:{lines}\nSuggested is "
        f"{series.index(suggested) + 1} (original, axial, not bone, most images). Choose with "
        "--series and its number or UID, or with --series suggested.",
    )


def _candidates(series: tuple[Series, ...]) -> list[Series]:
    """The series that can be meant: original CT or MRI if there are such."""
    heads = [one for one in series if one.modality in MODALITIES.values()]
    originals = [one for one in heads if one.role == "original"]
    stacks = [one for one in originals if one.num_images >= MIN_IMAGES]
    return stacks or originals or heads or list(series)


def _rank(series: Series) -> tuple[bool, bool, bool, int]:
    return series.role != "original", series.plane != "axial", series.is_bone, -series.num_images
