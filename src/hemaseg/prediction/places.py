"""Where the files of a case lie: in a folder of its own, or by the names of BIDS derivatives.

    OUT/NAME/NAME_mask.nii.gz                      OUT/sub-X[/ses-Y]/anat/sub-X_..._mask.nii.gz
    OUT/NAME/NAME_overview.png, NAME.json, ...     OUT/cases/NAME/NAME_overview.png, NAME.json, ...

Source: BIDS 1.10, "Derivatives", masks with the entity `label`.
"""

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from hemaseg.errors import ConfigError
from hemaseg.files import write_text
from hemaseg.intake.sources import Source
from hemaseg.scans.images import stem
from hemaseg.scans.scan import Scan

DESCRIPTION = "dataset_description.json"
_BIDS_NAME = re.compile("sub-[A-Za-z0-9]+(_[a-z]+-[A-Za-z0-9]+)*_[A-Za-z0-9]+")


@dataclass(frozen=True)
class Places:
    """The files of one case.

    Attributes:
        folder: What belongs to the case alone.
        name: Of the case.
        stem: Folder and beginning of the name of mask and probability.
        is_bids: Whether they have names of BIDS derivatives.
    """

    folder: Path
    name: str
    stem: Path
    is_bids: bool

    @property
    def record(self) -> Path:
        """Written first and last; see `records`."""
        return self.folder / f"{self.name}.json"

    def own(self, ending: str) -> Path:
        """A file that belongs to the case alone, such as `overview.png`."""
        return self.folder / f"{self.name}_{ending}"

    def mask(self, scan: Scan) -> Path:
        """The mask: NIfTI if the scan has geometry, else a PNG, a TIFF, or a folder of PNG."""
        return self._image("mask", scan)

    def probability(self, scan: Scan) -> Path:
        """The probabilities; as the mask."""
        return self._image(self._probability, scan)

    def sidecar(self, image: Path) -> Path:
        """What BIDS wants to know about an image."""
        return image.parent / f"{stem(image)}.json"

    def possible(self) -> list[Path]:
        """Every file or folder that such a case can have."""
        images = [
            self.stem.with_name(f"{self.stem.name}_{kind}{suffix}")
            for kind in ("mask", self._probability)
            for suffix in (".nii.gz", ".json", ".png", ".tif", "")
        ]
        return [*images, *map(self.own, ("overview.png", "seg.dcm", "sr.dcm")), self.record]

    def remove(self) -> None:
        """Remove all of them, and the folder of the case if nothing else is in it."""
        for path in self.possible():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    @property
    def _probability(self) -> str:
        return "probseg" if self.is_bids else "probability"

    def _image(self, kind: str, scan: Scan) -> Path:
        if scan.affine is not None:
            suffix = ".nii.gz"
        elif scan.pictures:
            suffix = ""
        else:
            suffix = ".png" if len(scan.voxels) == 1 else ".tif"
        return self.stem.with_name(f"{self.stem.name}_{kind}{suffix}")


def case_places(sources: Sequence[Source], folder: Path, *, bids: bool) -> list[Places]:
    """The places of each case.

    Names of BIDS inputs are kept; other scans are subjects of their own. Where two would have one
    name, both get a `desc-` of 8 digits of the hash of their names.

    Args:
        sources: With unique names.
        folder: The output folder.
        bids: Whether masks and probabilities get names of BIDS derivatives.
    """
    if not bids:
        names = [source.name for source in sources]
        return [Places(folder / name, name, folder / name / name, is_bids=False) for name in names]
    entities = [_entities(source) for source in sources]
    counts = Counter(tuple(own) for own in entities)
    places = []
    for source, own in zip(sources, entities, strict=True):
        if counts[tuple(own)] > 1:
            own = [entity for entity in own if not entity.startswith("desc-")]
            own.append(f"desc-{hashlib.sha256(source.name.encode()).hexdigest()[:8]}")
        parents = [entity for entity in own[:2] if entity.startswith(("sub-", "ses-"))]
        # CT has no folder in BIDS yet; where the input has one, masks lie as their scans do.
        kind = "ct" if source.series is None and source.path.parent.name == "ct" else "anat"
        image = folder.joinpath(*parents, kind, "_".join(own))
        places.append(Places(folder / "cases" / source.name, source.name, image, is_bids=True))
    return places


def _entities(source: Source) -> list[str]:
    """Of the mask: those of a BIDS input with `label-ICH`, which comes before `desc-`."""
    original = stem(source.path)
    if source.series is None and _BIDS_NAME.fullmatch(original):
        kept = [e for e in original.split("_")[:-1] if not e.startswith("label-")]
        described = [entity for entity in kept if entity.startswith("desc-")]
        return [e for e in kept if e not in described] + ["label-ICH", *described]
    plain = re.sub("[^A-Za-z0-9]", "", source.name)
    return [f"sub-{plain or hashlib.sha256(source.name.encode()).hexdigest()[:8]}", "label-ICH"]


def describe_dataset(folder: Path, sources: Sequence[Source], *, force: bool) -> None:
    """Write `dataset_description.json` of a BIDS derivative, and `.bidsignore`.

    Raises:
        ConfigError: The folder holds another dataset.
        OSError: A file cannot be written.
    """
    path = folder / DESCRIPTION
    links = dict(link for source in sources if (link := _source_dataset(source, folder)))
    if path.exists() and not force:
        try:
            before = json.loads(path.read_bytes())
            is_ours = before["GeneratedBy"][0]["Name"] == "hemaseg"
            links = before["DatasetLinks"] | links
        except (ValueError, LookupError, TypeError, RecursionError):
            is_ours = False
        if not is_ours:
            raise ConfigError(
                f"{path}: describes another dataset, expected none or one of hemaseg. Choose an "
                "empty folder, or pass --force to replace the description."
            )
    description = {
        "Name": "Masks of intracerebral hematomas, predicted by hemaseg; research use only",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "hemaseg", "Version": version("hemaseg")}],
        "SourceDatasets": [{"URL": url} for url in links.values()],
        "DatasetLinks": links,
    }
    write_text(path, json.dumps(description, indent=2) + "\n")
    write_text(folder / ".bidsignore", "cases/\npredictions.csv\n")


def sidecar_json(source: Source, folder: Path) -> str:
    """What a BIDS derivative in a folder says of a mask or probability of a scan."""
    content: dict[str, object] = {"Type": "Lesion", "Manual": False}
    if (root := _bids_root(source)) and (link := _source_dataset(source, folder)):
        relative = source.path.absolute().relative_to(root).as_posix()
        content["Sources"] = [f"bids:{link[0]}:{relative}"]
    return json.dumps(content, indent=2) + "\n"


def _source_dataset(source: Source, folder: Path) -> tuple[str, str] | None:
    """Name and relative URL of the BIDS dataset that a scan is from; None if it is from none."""
    if (root := _bids_root(source)) is None:
        return None
    url = Path(os.path.relpath(root, folder.absolute())).as_posix()
    return f"raw{hashlib.sha256(url.encode()).hexdigest()[:8]}", url


def _bids_root(source: Source) -> Path | None:
    """The BIDS dataset that a file lies in; None for DICOM, whose paths can identify patients."""
    if source.series is not None:
        return None
    parents = source.path.absolute().parents
    return next((folder for folder in parents if (folder / DESCRIPTION).is_file()), None)
