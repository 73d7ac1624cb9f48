"""What can be wrong with a scan: every kind, and what reading does about it.

Reading always screens. A scan is *refused* with a `ScanError`, or it is read and carries findings:
a harmless *repair* that was done, or a *note* of what a user should know. Some refusals are about
use and not about damage (a sagittal series, a gap); a user who knows better can accept these kinds
by name, and then they become notes. `docs/screening.md` has a row for each kind.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hemaseg.errors import ConfigError, ScanError

MAX_BYTES = 2**30
"""Largest file, and largest decoded volume, that is read unless told otherwise: 1 GiB."""


@dataclass(frozen=True)
class Kind:
    """One kind of finding.

    Attributes:
        action: What reading does.
        meaning: What was found, in a few words.
        is_acceptable: Whether a user can have the scan read all the same.
    """

    action: Literal["refused", "repaired", "noted"]
    meaning: str
    is_acceptable: bool = False


_REFUSED = {
    # Any file
    "missing": "no such file or folder",
    "no-permission": "the file or folder may not be read",
    "name-not-utf8": "the name of a file or folder in another encoding than UTF-8",
    "empty-file": "a file of 0 bytes",
    "empty-folder": "a folder without any scan",
    "not-an-image": "a file of a kind that is not read",
    "unreadable": "a file that its decoder gives up on",
    "too-large": "more bytes than the limit, stored or decoded",
    "scan-list": "a CSV list of scans that has other columns, no rows or wrong values",
    # NIfTI
    "nifti-header": "no header of a single-file NIfTI-1 or NIfTI-2 image",
    "truncated": "fewer bytes than the header promises",
    "surplus-bytes": "more bytes than the header promises",
    "gzip-damaged": "a gzip stream that ends early or fails its checksum",
    "gzip-bomb": "a gzip stream that inflates far beyond what its header promises",
    "dimensions": "a size that is zero or negative, or a number of axes that cannot be",
    "not-3d": "a series of volumes or pictures, or a flat image where a volume belongs",
    "voxel-type": "voxels that are not plain numbers, or whose size contradicts their type",
    "vox-offset": "voxels that begin inside the header, beyond the limit or at no whole byte",
    "scale-factor": "a slope or intercept that is not finite",
    "no-geometry": "neither sform nor qform, or a code that stands for nothing",
    "not-mm": "lengths in metres or micrometres",
    "voxel-size": "a voxel edge that is zero, negative or not finite",
    "affine-not-finite": "NaN, infinity or kilometres in the affine",
    "affine-singular": "an affine that flattens space",
    "forms-disagree": "sform and qform that size or turn the volume differently",
    # Voxels of any format
    "not-finite": "voxels that are NaN or infinite",
    "constant": "one value everywhere",
    "label-map": "few whole numbers, as a mask has",
    "not-hu": "values of a CT that cannot be Hounsfield units",
    "not-a-mask": "a mask with more than two values, or with two of which neither is 0",
    # Pictures
    "picture-damaged": "a picture that its decoder or its checksums find damaged",
    "coloured": "coloured or transparent pixels",
    "turned": "an orientation tag: rows as stored are not rows as displayed",
    "mixed-stack": "pictures of one stack that differ in size or type",
    # DICOM files
    "dicom-damaged": "a DICOM file that breaks off or contradicts itself",
    "dicom-truncated": "fewer bytes of pixels than rows, columns and frames need",
    "dicom-surplus": "more bytes of pixels than rows, columns and frames need",
    "dicom-bomb": "a deflated file or a compressed frame that grows beyond the limit",
    "too-deep": "sequences nested beyond any use",
    "not-pixels": "a DICOM object without an image (report, plan)",
    "missing-attribute": "an attribute is absent without which the pixels have no meaning",
    "transfer-syntax": "a compression that is not read",
    "photometric": "pixels that are not MONOCHROME1 or MONOCHROME2",
    "bits": "a combination of bits allocated, stored and high that cannot be",
    "bad-orientation": "direction cosines that are not two perpendicular unit vectors",
    "no-position": "no position or orientation in the patient",
    "pixel-spacing": "pixel spacing that is absent, zero, negative or not finite",
    "rescale": "a rescale slope of zero, or one that is not finite",
    "not-a-segmentation": "a DICOM object of another kind where a segmentation is wanted",
    "mixed-segments": "several segments, or none, where one is wanted",
    "unknown-segment": "a segment was asked for that is not there",
    # DICOM series
    "mixed-series": "several series, or one of several patients or modalities, where one is wanted",
    "unknown-series": "a series was asked for that is not there",
    "mixed-orientations": "slices of one series that face different ways",
    "mixed-grids": "slices of one series that differ in rows, columns or pixel spacing",
    "duplicate-slices": "different slices at one position",
    "slices-off-line": "slices that are shifted against each other in their plane",
    "uneven-not-axial": "uneven spacing in a series that is not axial",
    # Archives
    "archive-damaged": "a zip file that is damaged or encrypted",
    "archive-outside": "a member that points outside the archive",
    "archive-link": "a member that is a link or a device",
    "archive-too-many": "more members than the limit",
    "archive-bomb": "members that inflate beyond the limit",
    "archive-nested": "an archive inside the archive",
    "folder-loop": "links that lead in a circle, or folders nested beyond any use",
    # Prediction
    "not-scalable": "values, or an unknown modality, that the network's recipe cannot scale",
    "no-memory": "more memory needed than there is",
    "worker-lost": "a scan at which several workers of a cluster ended, one after the other",
    "unforeseen": "an error that hemaseg did not foresee: please report it",
    # Writing
    "exists": "results of another scan, model or option where these would go",
    "not-writable": "results that cannot be written: a full disk, or no permission",
    "uneven-nifti": "uneven spacing, which a NIfTI file cannot hold",
}
_ACCEPTABLE = {
    "forms-apart": "sform and qform that place the volume differently",
    "localizer": "a scout image, not a stack of slices",
    "secondary-capture": "a screenshot or a picture with burnt-in text",
    "derived": "a reformatted or computed series, not the original",
    "missing-slices": "a gap where slices are missing",
    "mixed-rescale": "slices of a CT that differ in rescale slope or intercept",
    "non-axial": "slices that are not axial, too thick to be shown as axial ones",
    "sheared": "pixels that are parallelograms",
    "wrong-modality": "a modality that the network was not trained on",
    "few-slices": "too few slices for a head",
    "not-a-head": "a field of view that is not the size of a head",
}
_REPAIRED = {
    "axes-dropped": "axes of length 1 after the third; the volume is read without them",
    "duplicates-dropped": "identical copies of a slice; one is kept",
    "padding-replaced": "padding outside the scanner's field of view; set to air or to 0",
    "slices-sorted": "slices named or numbered in another order than they lie; sorted by position",
    "inverted": "MONOCHROME1, where high values are dark; turned round",
    "empty-frames": "frames of a segmentation left out because they are empty; put back",
}
_NOTED = {
    "uneven-spacing": "slices at uneven distances; each keeps its own share of the volume",
    "gantry-tilt": "slices tilted against the stack; volumes are taken perpendicular to them",
    "wide-gaps": "slices much thinner than their distance",
    "bone-kernel": "a CT reconstructed for bone, whose noise hides and imitates blood",
    "oblique": "slices turned out of the axial plane",
    "modality-guessed": "a modality that the file does not say; guessed from the values",
    "modality-assumed": "a modality that the file does not say; taken from the network",
    "unlike-training": "an image unlike those that the network was trained on",
    "left-out": "other files or series beside the one that was read",
    "voxel-size-ignored": "a voxel size that the affine contradicts; the affine holds",
    "identity-affine": "an affine that changes nothing: voxels of 1 mm, or a size that got lost",
    "label-absent": "a label was asked for that no voxel has; the mask is empty",
    "large-mask": "a mask that marks more than a lesion can be: inverted, or of the head",
}

KINDS: dict[str, Kind] = (
    {name: Kind("refused", meaning) for name, meaning in _REFUSED.items()}
    | {name: Kind("refused", meaning, True) for name, meaning in _ACCEPTABLE.items()}
    | {name: Kind("repaired", meaning) for name, meaning in _REPAIRED.items()}
    | {name: Kind("noted", meaning) for name, meaning in _NOTED.items()}
)
"""Every kind by its name."""


@dataclass(frozen=True)
class Finding:
    """Something that was found in a scan that was read all the same.

    Attributes:
        kind: Key of `KINDS`.
        message: One sentence, without the file's name.
    """

    kind: str
    message: str


@dataclass(frozen=True)
class ReadOptions:
    """How scans are read.

    Attributes:
        max_bytes: Limit of a file and of a decoded volume.
        accept: Kinds of refusals that are accepted.
        modality: `CT` or `MRI` where the user declared it; empty otherwise.
        offers_accept: Whether refusals say how to accept them: not all verbs have the option.

    Raises:
        ConfigError: A kind in `accept` is unknown or cannot be accepted, or another modality.

    >>> ReadOptions(accept=frozenset({"non-axial"})).max_bytes == 2**30
    True
    """

    max_bytes: int = MAX_BYTES
    accept: frozenset[str] = frozenset()
    modality: str = ""
    offers_accept: bool = False

    def __post_init__(self) -> None:
        wrong = sorted(k for k in self.accept if k not in KINDS or not KINDS[k].is_acceptable)
        if wrong:
            known = ", ".join(k for k, kind in KINDS.items() if kind.is_acceptable)
            raise ConfigError(f"accept {', '.join(wrong)}: expected some of {known}. Correct it.")
        if self.modality not in ("", "CT", "MRI"):
            raise ConfigError(f"modality {self.modality!r}, expected CT or MRI. Correct it.")
        if self.max_bytes < 1:
            raise ConfigError(f"limit of {self.max_bytes} bytes, expected at least 1. Correct it.")


@dataclass
class Screen:
    """Collects the findings of one scan while it is read.

    Attributes:
        what: The scan, for messages: as the user named it.
        options: What is accepted.
        findings: So far.
    """

    what: str
    options: ReadOptions = field(default_factory=ReadOptions)
    findings: list[Finding] = field(default_factory=list)

    def error(self, kind: str, message: str) -> ScanError:
        """The error with which the scan is refused; the caller raises it.

        Args:
            kind: Key of `KINDS` with the action "refused".
            message: What was found against what was expected, and what to do.
        """
        if KINDS[kind].action != "refused":
            raise ValueError(f"{kind} is {KINDS[kind].action}, expected a kind that is refused")
        return ScanError(f"{self.what}: {message}", kind=kind)

    def refuse(self, kind: str, message: str) -> None:
        """Refuse the scan for an acceptable kind, unless the user accepts it: then note it.

        Raises:
            ScanError: Not accepted.
        """
        if not KINDS[kind].is_acceptable:
            raise ValueError(f"{kind} cannot be accepted; raise error() instead")
        if kind not in self.options.accept:
            offer = f" Or have it read all the same: --accept {kind}."
            raise self.error(kind, message + offer * self.options.offers_accept)
        self._add(kind, message)

    def check_size(self, num_bytes: int, what: str = "") -> None:
        """Refuse a file, or what it decodes to, beyond the limit.

        Args:
            num_bytes: As stored, or as a header promises.
            what: What has that size, if not the file.

        Raises:
            ScanError: Too large.
        """
        if num_bytes > (limit := self.options.max_bytes):
            raise self.error(
                "too-large",
                f"{what}{num_bytes:,} bytes, expected at most {limit:,}. Crop or resample it, "
                "or raise the limit.",
            )

    def report(self, kind: str, message: str) -> None:
        """Add a repair that was done, or a note."""
        if KINDS[kind].action == "refused":
            raise ValueError(f"{kind} is refused, expected a kind that is repaired or noted")
        self._add(kind, message)

    def _add(self, kind: str, message: str) -> None:
        if (finding := Finding(kind, message)) not in self.findings:
            self.findings.append(finding)


def kinds_of(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Names of the kinds, each once, in the order found."""
    return tuple(dict.fromkeys(finding.kind for finding in findings))


@contextmanager
def reading(path: Path, screen: Screen) -> Iterator[None]:
    """Around the reading of a file: it must be one, and whatever fails is a `ScanError`.

    Raises:
        ScanError: The file is missing, a folder, empty, too large or may not be read; or the block
            raises something else than a `ScanError`.
    """
    try:
        if not path.is_file():
            if path.exists():
                raise screen.error("not-an-image", "a folder or device, expected a file. Name one.")
            raise screen.error("missing", "no such file. Check the name and the folder.")
        if (num_bytes := path.stat().st_size) == 0:
            raise screen.error(
                "empty-file", "0 bytes, expected an image. Copy or export the file again."
            )
        screen.check_size(num_bytes)
        yield
    except ScanError:
        raise
    except PermissionError as error:
        raise screen.error(
            "no-permission", "may not be read. Give yourself the permission to read it."
        ) from error
    except MemoryError as error:
        raise screen.error(
            "no-memory", "more memory needed than there is. Close other programs, or crop the scan."
        ) from error
    except Exception as error:
        # Not the error's own words, which could quote a header that identifies the patient.
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise screen.error(
            "unreadable",
            f"cannot be read ({reason}), expected a complete image file. Copy or export it again.",
        ) from error
