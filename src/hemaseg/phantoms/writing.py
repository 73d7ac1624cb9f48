"""Heads to files: NIfTI, DICOM or pictures, with masks, and the tables of what is known of each."""

import gzip
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemaseg.errors import ConfigError
from hemaseg.files import PARTIAL, csv_text, whole_file, write_text
from hemaseg.phantoms.dicom_writing import write_series
from hemaseg.phantoms.heads import Head, HeadOptions, synthesise

FileFormat = Literal["nifti", "dicom", "png"]
FORMATS: tuple[FileFormat, ...] = ("nifti", "dicom", "png")
CASES, FACTS = "heads.csv", "phantoms.csv"
IMAGES, MASKS, VENTRICULAR = "images", "masks", "ventricular_masks"
_OURS = re.compile(r"head_\d{5,}((_\d+)?(_mask)?(\.nii\.gz|\.png)|/\d{4,}\.dcm)")


def write_nifti(voxels: NDArray[np.generic], affine: NDArray[np.float64], path: Path) -> None:
    """Voxels `(K, H, W)` as scanners' converters write them: columns, rows, slices.

    Args:
        voxels: In display order.
        affine: `(4, 4)`, takes (k, h, w, 1) to RAS mm.
        path: Ends in `.nii.gz`.
    """
    stored = np.ascontiguousarray(voxels.transpose())
    image = nib.Nifti1Image(stored, affine[:, [2, 1, 0, 3]])
    image.header.set_xyzt_units("mm")
    # The default level takes ten times as long as making the head.
    content = gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)
    with whole_file(path) as partial:
        partial.write_bytes(content)


def write_heads(
    folder: Path,
    seeds: range,
    options_of: Callable[[int], HeadOptions],
    *,
    file_format: FileFormat = "nifti",
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, object]]:
    """A cohort of heads with their masks, and two tables, which are written last.

    Head 7 is `images/head_00007.nii.gz`, or a folder `images/head_00007` of DICOM slices, or
    `images/head_00007_001.png` and so on; its mask `masks/head_00007_mask.nii.gz` (pictures for
    pictures) and, if there is blood in the ventricles, `ventricular_masks/` alike. `heads.csv`
    lists images and masks as `hemaseg index` reads them, `phantoms.csv` what is known of each head
    (`docs/phantoms.md`).

    Args:
        folder: Made if needed.
        seeds: One for each head.
        options_of: The options of a seed; `is_export` must suit the format.
        file_format: Of the images.
        force: Whether heads that lie there already are deleted.
        progress: Called with the numbers of heads done and to do.

    Returns:
        The rows of `phantoms.csv`.

    Raises:
        ConfigError: Heads or tables lie there already.
        ValueError: Options that no head can have, or that do not suit the format.
        OSError: A file cannot be written.
    """
    if force:
        _delete_heads(folder)
    refuse_heads(folder)
    cases: list[dict[str, object]] = []
    facts: list[dict[str, object]] = []
    for number, seed in enumerate(seeds, 1):
        head = synthesise(seed, options_of(seed))
        subject = f"head_{seed:05}"
        cases += _write_head(folder, subject, seed, head, file_format)
        facts.append({"subject": subject, "seed": seed, **describe(head)})
        if progress is not None:
            progress(number, len(seeds))
    for name, table in ((CASES, cases), (FACTS, facts)):
        write_text(folder / name, csv_text(table[0] if table else (), table))
    return facts


def refuse_heads(folder: Path) -> None:
    """Refuse a folder that holds heads or their tables already.

    Raises:
        ConfigError: It does; the message says whether they are complete.
    """
    places = (CASES, IMAGES, MASKS, VENTRICULAR)
    found = [name for name in places if (folder / name).exists()]
    if (folder / FACTS).exists():
        what = f"{folder / FACTS}: exists"
    elif found:
        what = f"{folder}: holds {', '.join(found)} of a run that did not end"
    else:
        return
    raise ConfigError(
        f"{what}, expected an empty place. Choose another, or pass --force to delete these heads "
        "and make new ones."
    )


def _delete_heads(folder: Path) -> None:
    """Delete tables and heads, and nothing that has another name, within series neither."""
    places = [folder / name for name in (IMAGES, MASKS, VENTRICULAR) if (folder / name).is_dir()]
    found = [path for place in places for path in place.iterdir()]
    for path in (file for place in places for file in place.rglob("*")):
        name = path.relative_to(folder).as_posix().partition("/")[2]
        is_series = path.is_dir() and not path.is_symlink() and re.fullmatch(r"head_\d{5,}", name)
        if not (is_series or name.startswith(PARTIAL) or _OURS.fullmatch(name)):
            raise ConfigError(
                f"{path}: no synthetic head by its name, expected head_ and a number. Move it "
                "elsewhere, or choose another place for the heads."
            )
    for name in (FACTS, CASES):
        (folder / name).unlink(missing_ok=True)
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for place in places:
        place.rmdir()


def _write_head(
    folder: Path, subject: str, seed: int, head: Head, file_format: FileFormat
) -> list[dict[str, object]]:
    """Files of a head; its rows of `heads.csv`."""
    if file_format == "png":
        return _write_pictures(folder, subject, head)
    image = Path(IMAGES, subject if file_format == "dicom" else f"{subject}.nii.gz")
    mask, ventricular = (Path(place, f"{subject}_mask.nii.gz") for place in (MASKS, VENTRICULAR))
    if file_format == "dicom":
        write_series(head, seed, folder / image)
    else:
        write_nifti(head.voxels, head.affine, folder / image)
    write_nifti(head.mask.astype(np.uint8), head.affine, folder / mask)
    if head.ventricular_mask.any():
        write_nifti(head.ventricular_mask.astype(np.uint8), head.affine, folder / ventricular)
    return [_case(subject, head, image, mask)]


def _write_pictures(folder: Path, subject: str, head: Head) -> list[dict[str, object]]:
    if head.voxels.dtype != np.uint8:
        raise ValueError(f"voxels are {head.voxels.dtype}, expected an 8-bit export for pictures")
    # Perpendicular to the slices, so that volumes hold under gantry tilt.
    spacing_mm = -head.affine[1, 1], -head.affine[0, 2], head.affine[2, 0]
    names = [f"{axis}_spacing_mm" for axis in ("row", "column", "slice")]
    cases = []
    for k, pixels in enumerate(head.voxels):
        name = f"{subject}_{k + 1:03}"
        image = Path(IMAGES, f"{name}.png")
        mask, ventricular = (Path(place, f"{name}_mask.png") for place in (MASKS, VENTRICULAR))
        _write_picture(pixels, folder / image)
        _write_picture(head.mask[k] * np.uint8(255), folder / mask)
        if head.ventricular_mask[k].any():
            _write_picture(head.ventricular_mask[k] * np.uint8(255), folder / ventricular)
        spacings = dict(zip(names, (round(float(mm), 6) for mm in spacing_mm), strict=True))
        cases.append({**_case(subject, head, image, mask), "slice": k + 1, **spacings})
    return cases


def _write_picture(pixels: NDArray[np.uint8], path: Path) -> None:
    with whole_file(path) as partial:
        Image.fromarray(pixels).save(partial)


def _case(subject: str, head: Head, image: Path, mask: Path) -> dict[str, object]:
    return {
        "image": image.as_posix(),
        "mask": mask.as_posix(),
        "subject": subject,
        "modality": head.modality,
    }


def describe(head: Head) -> dict[str, object]:
    """What is known of a head, for a row of a table; None where there is no such thing."""
    voxel_ml = abs(float(np.linalg.det(head.affine[:3, :3]))) / 1000
    hematomas = [hematoma for hematoma in head.hematomas if hematoma.volume_ml > 0]
    has_blood = head.hematoma_ml > 0 or head.ventricular_ml > 0
    return {
        "modality": head.modality,
        "scan_sequence": head.sequence or None,
        "is_export": head.voxels.dtype == np.uint8,
        "gantry_tilt_deg": round(head.tilt_deg, 2) if head.modality == "CT" else None,
        "num_hematomas": len(hematomas),
        "hematoma_ml": round(head.hematoma_ml, 4),
        "mask_ml": round(int(head.mask.sum()) * voxel_ml, 4),
        "ventricular_ml": round(head.ventricular_ml, 4),
        "sites": "; ".join(hematoma.site for hematoma in hematomas) or None,
        "age_of_blood": head.age if has_blood else None,
    }
