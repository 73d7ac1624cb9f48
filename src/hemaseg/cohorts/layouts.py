"""How folders of images and masks are laid out: which file belongs to which, by names alone.

Each layout gives every image and every mask a *key*: the path of the image within the layout,
without what the layout adds to names. An image and its mask have the same key, and the key says
what subject and slice they are of. Nothing is opened but `dataset.json` of nnU-Net.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from hemaseg.errors import CohortError
from hemaseg.files import natural
from hemaseg.scans.images import stem
from hemaseg.scans.nifti import NIFTI_SUFFIXES, is_nifti
from hemaseg.scans.pictures import PICTURE_SUFFIXES, is_picture

LAYOUTS = """Understood are
  a folder per patient, or one folder, with NAME.png and NAME_mask.png (also _seg, _label);
  images/PATIENT_SLICE.png or images/PATIENT/SLICE.png beside a folder of masks of these names;
  nnU-Net: dataset.json, imagesTr/NAME_0000.nii.gz, labelsTr/NAME.nii.gz;
  BIDS: sub-01/anat/sub-01_FLAIR.nii.gz, and sub-01_FLAIR_mask.nii.gz there or in derivatives/;
with PNG, JPEG, TIFF or NIfTI files (BIDS: NIfTI). List other files in a CSV file with the columns
image and mask, and index that."""

MASK_ENDINGS = ("mask", "seg", "label")
"""Of names, after an underscore, in any case."""

_BIDS_ENDINGS = ("mask", "dseg", "seg", "roi")
_BIDS_FOLDERS = ("anat", "ct")
_SLICE = re.compile("(.*?)[-_ ]?([0-9]{1,9})")
_CT = re.compile("CT|NCCT", re.IGNORECASE)
_MRI = re.compile(
    "MRI?|FLAIR|T1|T1W|T1C|T1CE|T1GD|T2|T2W|T2FLAIR|T2STAR|T2STARW|PD|PDW|GRE|SWI|DWI|ADC",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Pair:
    """An image file and the mask file that belongs to it, if there is one."""

    key: str
    image: Path
    mask: Path | None


@dataclass(frozen=True)
class Layout:
    """What a folder holds.

    Attributes:
        pairs: Each image once, in natural order of the keys.
        problems: Masks without image, and images or masks that are there twice.
        modality: If the layout says it for all images; empty otherwise.
    """

    pairs: tuple[Pair, ...]
    problems: tuple[str, ...]
    modality: str


@dataclass(frozen=True)
class Place:
    """What the key of an image says of it; subject and scan are empty where it says nothing."""

    folder: str
    subject: str
    scan: str
    slice: int | None


@dataclass(frozen=True)
class _Files:
    """Image files by key, and mask files by kind (a folder, or an ending of names) and key.

    `remarks` say of masks without image why they have none, where more is known than that.
    """

    images: dict[str, list[Path]]
    masks: dict[str, dict[str, list[Path]]]
    modality: str = ""
    remarks: dict[Path, str] = field(default_factory=dict)


def find_layout(folder: Path, *, masks: str | None = None, one_class: bool = True) -> Layout:
    """The images and masks in a folder.

    Args:
        folder: In one of the layouts of `LAYOUTS`. Hidden files are ignored.
        masks: Which masks, where there are several kinds: a folder, or an ending of names.
        one_class: Whether data of nnU-Net that have several classes are refused.

    Raises:
        CohortError: There is no such folder, no image, no mask, or more than one kind of masks to
            choose from.
    """
    files = _image_files(folder)
    tops = {file.relative_to(folder).parts[0] for file in files if file.parent != folder}
    if "imagesTr" in tops:
        found = _nnunet(folder, files, one_class)
    elif "images" in tops and len(tops) > 1:
        found = _beside(folder, files)
    elif any(top.startswith("sub-") for top in tops) and any(map(is_nifti, files)):
        found = _bids(folder, files)
    else:
        found = _suffixed(folder, files, masks)
    chosen = _chosen(folder, found, masks)
    problems = [
        f"{file}: {found.remarks.get(file, f'mask without image, expected an image named {key}')}"
        for key, without in chosen.items()
        for file in without
        if key not in found.images
    ]
    pairs = []
    for key in sorted(found.images, key=natural):
        images, own = found.images[key], chosen.get(key, [])
        if len(images) > 1 or len(own) > 1:
            names = ", ".join(map(str, images + own))
            problems.append(f"{names}: {len(images)} images, {len(own)} masks, expected one each")
        else:
            pairs.append(Pair(key, images[0], own[0] if own else None))
    return Layout(tuple(pairs), tuple(problems), found.modality)


def place_of(key: str, *, is_stack: bool) -> Place:
    """What a key says: the last folder is the subject; without folder, the name before the slice.

    Args:
        key: Of an image.
        is_stack: Whether the image is one slice of a stack, so that a number at the end of the
            name is the number of the slice; a volume's name is taken whole.

    Example:
        >>> place_of("0001_12", is_stack=True)
        Place(folder='', subject='0001', scan='0001', slice=12)
        >>> place_of("P7/ct_03", is_stack=True)
        Place(folder='P7', subject='P7', scan='ct', slice=3)
        >>> place_of("case_03", is_stack=False)
        Place(folder='', subject='case_03', scan='case_03', slice=None)
    """
    *folders, name = key.split("/")
    match = _SLICE.fullmatch(name) if is_stack else None
    stack, number = (match[1], int(match[2])) if match else (name, None)
    subject = folders[-1] if folders else stack
    return Place("/".join(folders), subject, stack or subject, number)


def modality_of(text: str) -> str:
    """`CT` or `MRI` if the last word of a name, or of a key, stands for it; empty otherwise.

    Example:
        >>> modality_of("sub-01_FLAIR"), modality_of("P7/ct"), modality_of("0001_12")
        ('MRI', 'CT', '')
    """
    word = re.split("[/_]", text)[-1]
    if _CT.fullmatch(word):
        return "CT"
    return "MRI" if _MRI.fullmatch(word) else ""


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise CohortError(f"{folder}: no such folder. Give a folder of images, or a CSV file.")
    visible = [
        file
        for file in folder.rglob("*")
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and not file.is_dir()
    ]
    files = [file for file in visible if is_picture(file) or is_nifti(file)]
    if not files:
        endings = Counter(file.suffix or "no ending" for file in visible).most_common(5)
        shown = ", ".join(f"{ending}: {number}" for ending, number in endings) or "empty"
        raise CohortError(
            f"{folder}: no image among {len(visible)} files ({shown}), expected some ending in "
            f"{', '.join((*PICTURE_SUFFIXES, *NIFTI_SUFFIXES))}. {LAYOUTS}"
        )
    return sorted(files)


def _suffixed(folder: Path, files: list[Path], masks: str | None) -> _Files:
    """NAME and NAME_mask in one folder, be it a folder per patient or the only one."""
    endings = [*MASK_ENDINGS, masks.strip("_/").lower()] if masks else MASK_ENDINGS
    # The longest ending first: of lesion_mask and mask, the former is meant.
    ordered = "|".join(re.escape(ending) for ending in sorted(endings, key=len, reverse=True))
    is_mask = re.compile(f"(.+?)_({ordered})", re.IGNORECASE)
    images, kinds = _by_key(), _by_kind()
    for file in files:
        parts = file.relative_to(folder).parts[:-1]
        if inner := {"images", "imagesTr"} & set(parts[1:]):
            raise CohortError(
                f"{folder}: folder {inner.pop()!r} found within {parts[0]!r}, expected it at the "
                f"top. Index {folder / parts[0]}. {LAYOUTS}"
            )
        key = _key(file, folder)
        if match := is_mask.fullmatch(key):
            kinds[match[2].lower()][match[1]].append(file)
        else:
            images[key].append(file)
    remarks = {}
    for ending, by_key in kinds.items():
        for key in by_key.keys() - images.keys():
            words = key.split("_")
            starts = ("_".join(words[:num]) for num in range(len(words) - 1, 0, -1))
            if start := next((start for start in starts if start in images), None):
                longer = f"{key.removeprefix(start)[1:]}_{ending}"
                for file in by_key[key]:
                    remarks[file] = (
                        f"mask without image, expected an image named {key}; or choose masks of "
                        f"{start} that end so: --masks {longer}"
                    )
    return _Files(images, kinds, remarks=remarks)


def _beside(folder: Path, files: list[Path]) -> _Files:
    """`images/` beside folders of masks, each of which is a kind."""
    images, kinds = _by_key(), _by_kind()
    for file in files:
        if file.is_relative_to(folder / "images"):
            images[_key(file, folder / "images")].append(file)
    for file in files:
        top, *rest = file.relative_to(folder).parts
        if top != "images" and rest:
            key = _key(file, folder / top)
            without = re.sub(f"_({'|'.join(MASK_ENDINGS)})$", "", key, flags=re.IGNORECASE)
            kinds[top][key if key in images else without].append(file)
    return _Files(images, kinds)


def _nnunet(folder: Path, files: list[Path], one_class: bool) -> _Files:
    """Raw data of nnU-Net. `imagesTs` is no part of the cohort: it was set apart for tests."""
    description = folder / "dataset.json"
    try:
        content = json.loads(description.read_text(encoding="utf-8-sig"))
        channels = content["channel_names"] if "channel_names" in content else content["modality"]
        names, labels = [str(name) for name in channels.values()], content["labels"].keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CohortError(
            f"{description}: {type(error).__name__}: {error}, expected a JSON file with "
            "channel_names and labels. Correct it."
        ) from error
    if len(names) != 1 or (one_class and len(labels) != 2):
        raise CohortError(
            f"{description}: channels {', '.join(names)} and labels {', '.join(labels)}, expected "
            "1 channel and 2 labels, background and lesion. Copy one channel into a folder of its "
            "own; choose one label: --label NUMBER."
        )
    images, masks = _by_key(), _by_key()
    for file in files:
        if file.is_relative_to(folder / "imagesTr"):
            images[_key(file, folder / "imagesTr").removesuffix("_0000")].append(file)
        elif file.is_relative_to(folder / "labelsTr"):
            masks[_key(file, folder / "labelsTr")].append(file)
    return _Files(images, {"labelsTr": masks}, modality_of(names[0]))


def _bids(folder: Path, files: list[Path]) -> _Files:
    """BIDS: images in `anat` and `ct` of the raw data; masks beside them or in derivatives."""
    images, kinds, masks = _by_key(), _by_kind(), []
    for file in files:
        parts, words = file.relative_to(folder).parts, stem(file).split("_")
        if not is_nifti(file) or not words[0].startswith("sub-"):
            continue
        if words[-1] in _BIDS_ENDINGS:
            masks.append(file)
        elif parts[0] == words[0] and parts[-2] in (*_BIDS_FOLDERS, *words[:2]):
            images[f"{words[0]}/{stem(file)}"].append(file)
    remarks = {}
    for file in masks:
        words = stem(file).split("_")
        fitting = _bids_images(stem(file), images)
        if len(fitting) > 1:
            names = ", ".join(key.partition("/")[2] for key in fitting)
            remarks[file] = f"{len(fitting)} images fit ({names}), expected a name that says which"
        key = fitting[0] if len(fitting) == 1 else f"{words[0]}/{'_'.join(words[:-1])}"
        above = takewhile(lambda part: part[:4] != "sub-", file.relative_to(folder).parts[:-1])
        ending = [word for word in words[:-1] if word.startswith(("label-", "desc-"))]
        kinds["/".join([*above, "_".join([*ending, words[-1]])])][key].append(file)
    return _Files(images, kinds, remarks=remarks)


def _bids_images(mask: str, images: Iterable[str]) -> list[str]:
    """Keys of the images that a mask may be of: several if its name does not say which.

    They are of its subject and session and contradict its name in nothing, as run-1 does run-2.
    Each step narrows down what is left: the image whose full name the mask's begins with; images
    whose suffix it names (`space-FLAIR`); those whose entities it has all, and most of them.
    """
    words = mask.split("_")
    stated = _entities(words)
    left: dict[str, list[str]] = {}
    for key in images:
        own = key.partition("/")[2].split("_")
        others = _entities(own).items() - stated.items()
        if _visit(own) == _visit(words) and not any(name in stated for name, _ in others):
            left[key] = own
    if named := [key for key, own in left.items() if words[: len(own)] == own]:
        return named
    values = set(stated.values())
    left = {key: own for key, own in left.items() if own[-1] in values} or left
    whole = {key: own for key, own in left.items() if set(own[:-1]) <= set(words)}
    most = max(map(len, whole.values()), default=0)
    return [key for key, own in whole.items() if len(own) == most] or list(left)


def _entities(words: list[str]) -> dict[str, str]:
    """`run-1` of a BIDS name as `run` and `1`."""
    return {name: value for name, dash, value in (w.partition("-") for w in words) if dash}


def _visit(words: list[str]) -> list[str]:
    """Subject and session in a BIDS name."""
    return [word for word in words if word.startswith(("sub-", "ses-"))]


def _chosen(folder: Path, found: _Files, masks: str | None) -> dict[str, list[Path]]:
    """The masks of one kind, by key.

    Those of several folders are of one kind if their endings are equal and no image has two.
    """
    kinds = {kind: by_key for kind, by_key in found.masks.items() if by_key}
    shown = ", ".join(
        f"{kind} ({sum(map(len, by_key.values()))} files)" for kind, by_key in sorted(kinds.items())
    )
    if not found.images or not kinds:
        raise CohortError(
            f"{folder}: {sum(map(len, found.images.values()))} images and masks {shown or 'none'}, "
            f"expected both. {LAYOUTS}"
        )
    wanted = "" if masks is None else masks.strip("_/").lower()
    # rater2 and label-x_mask both name derivatives/rater2/label-x_mask.
    matching = [
        kind for kind in kinds if not wanted or f"/{wanted}/" in f"/{kind.strip('_').lower()}/"
    ]
    num_masks = Counter(key for kind in matching for key in kinds[kind])
    endings = {kind.rpartition("/")[2] for kind in matching}
    if len(endings) != 1 or max(num_masks.values()) > 1:
        asked = f"masks {masks!r} asked for, " if masks else ""
        raise CohortError(
            f"{folder}: {asked}masks of {len(kinds)} kinds found: {shown}; expected one kind. "
            "Name the one to use, by a folder or an ending in this list (--masks)."
        )
    return {
        key: [file for kind in matching for file in kinds[kind].get(key, [])] for key in num_masks
    }


def _by_key() -> defaultdict[str, list[Path]]:
    return defaultdict(list)


def _by_kind() -> defaultdict[str, dict[str, list[Path]]]:
    return defaultdict(_by_key)


def _key(file: Path, root: Path) -> str:
    return (file.relative_to(root).parent / stem(file)).as_posix()
