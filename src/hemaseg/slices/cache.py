"""Slices decoded once for many runs, and kept in files that their processes map into memory.

    FOLDER/KEY/
      images.npy    (N, 1, H, W) float16 in [0, 1]
      masks.npy     (N, 1, H, W) bool
      slices.json   key, hashes of both files, and the name of each slice; written last
      slices.lock   held by the process that writes them

The key is the hash of all that decides a slice, so that what does not fit is never found.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import BaseModel

from hemaseg.cohorts.table import Cohort
from hemaseg.config import Recipe
from hemaseg.files import PARTIAL, file_sha256, whole_file, write_text
from hemaseg.slices.dataset import SliceName, SliceSet, decoded_slices
from hemaseg.versions import versions

FORMAT = 1
"""To be raised when other values or files are written for the same key."""

IMAGES, MASKS, RECORD, LOCK = "images.npy", "masks.npy", "slices.json", "slices.lock"

SHARE_OF_DISK = 0.25
"""Most that is taken of what is free: weights, checkpoints and masks have to fit there too."""

POLL_S = 0.5
"""Between two looks at a lock that another process has, which may be on a network."""


class _Record(BaseModel, extra="forbid"):
    """`slices.json`."""

    key: str
    images_sha256: str
    masks_sha256: str
    names: tuple[SliceName, ...]


def cached_slices(
    cohort: Cohort,
    recipe: Recipe,
    folder: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> SliceSet:
    """What `load_slices` gives, to the bit, decoded by the first process that asks.

    Others that ask meanwhile wait for it. Files are read back against their hashes, and made anew
    where they are damaged.

    The slices are those of the files as indexed. That a file still is what was indexed is checked
    when it is decoded, not when its slices are read back; but where its name, size or time of
    change is another than then, so is the key, and everything is decoded, and checked, again.

    Args:
        cohort: The cases.
        recipe: Image size and intensity.
        folder: Made if needed; may hold slices of other cohorts and recipes.
        progress: Called with the numbers of image files done and to do, if they are decoded.

    Returns:
        Tensors on mapped files: pages are read when they are first used, and shared with other
        processes. To change one changes no file.

    Raises:
        OSError: The files cannot be written, or would take more than `SHARE_OF_DISK` of the disk;
            or a file of the cohort is gone.
        CohortError, ScanError, ConfigError: As `load_slices`.
    """
    key = _key(cohort, recipe)
    place = folder / key[:16]
    found = _read(place, key, recipe)
    if found is None:
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / LOCK, fallback_to_soft=False, poll_interval=POLL_S):
            found = _read(place, key, recipe)  # of another process, which had the lock
            if found is None:
                _write(cohort, recipe, place, key, progress)
                found = _read(place, key, recipe)
    if found is None:
        raise OSError(errno.EIO, "what was just written reads back as something else", str(place))
    return found


def remove_slices(folder: Path) -> None:
    """Remove what `cached_slices` wrote, as far as that is possible; nothing else in the folder."""
    for lock in folder.glob(f"*/{LOCK}"):
        with suppress(OSError):
            _clear(lock.parent)
            lock.unlink()
            lock.parent.rmdir()
    with suppress(OSError):
        folder.rmdir()


def _clear(place: Path) -> None:
    for file in (*place.glob(f"{PARTIAL}*"), *(place / name for name in (RECORD, IMAGES, MASKS))):
        file.unlink(missing_ok=True)


def _key(cohort: Cohort, recipe: Recipe) -> str:
    """The cohort's own hash says neither modality nor names, and of masks only their size."""
    cases = [
        (
            *(case.id, case.sha256, case.lesion_pixels, case.modality, case.spacing_mm),
            *(case.label, _stamp(case.image), _stamp(case.mask)),
        )
        for case in cohort.images
    ]
    intensity = recipe.intensity.model_dump(mode="json")
    content = [FORMAT, versions(), recipe.slices.image_size, intensity, cohort.sha256, cases]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _stamp(file: Path | None) -> tuple[str, int, int] | None:
    if file is None:
        return None
    status = file.stat()
    return file.name, status.st_size, status.st_mtime_ns


def _read(place: Path, key: str, recipe: Recipe) -> SliceSet | None:
    """What is kept; None if there is nothing, or something else."""
    try:
        record = _Record.model_validate_json((place / RECORD).read_text(encoding="utf-8"))
        hashes = {IMAGES: record.images_sha256, MASKS: record.masks_sha256}
        if record.key != key or any(file_sha256(place / n) != hashes[n] for n in hashes):
            return None
        images, masks = (_mapped(place / name) for name in hashes)
    except (OSError, ValueError, EOFError):
        return None
    size = recipe.slices.image_size
    if images.shape != (len(record.names), 1, size, size) or masks.shape != images.shape:
        return None
    if images.dtype != np.float16 or masks.dtype != np.bool_:
        return None
    return SliceSet(torch.from_numpy(images), torch.from_numpy(masks), record.names)


def _mapped(file: Path) -> NDArray[np.generic]:
    # Copy on write, since PyTorch has no tensors that cannot be written.
    array: NDArray[np.generic] = np.load(file, mmap_mode="c", allow_pickle=False)
    return array


def _write(
    cohort: Cohort,
    recipe: Recipe,
    place: Path,
    key: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    _clear(place)  # damaged, or left half written by a kill
    _require_space(cohort, recipe, place)
    names: list[SliceName] = []
    with (
        whole_file(place / IMAGES) as images_path,
        whole_file(place / MASKS) as masks_path,
        images_path.open("wb") as images,
        masks_path.open("wb") as masks,
    ):
        for part in decoded_slices(cohort, recipe, progress=progress):
            names += part.names
            _append(part.images.numpy(), images, len(names))
            _append(part.masks.numpy(), masks, len(names))
    record = _Record(
        key=key,
        images_sha256=file_sha256(place / IMAGES),
        masks_sha256=file_sha256(place / MASKS),
        names=tuple(names),
    )
    write_text(place / RECORD, record.model_dump_json() + "\n")


def _append(array: NDArray[np.generic], file: BinaryIO, num: int) -> None:
    """Add slices to a .npy file, which then has so many."""
    array = np.ascontiguousarray(array)
    header = np.lib.format.header_data_from_array_1_0(array)
    header["shape"] = (num, *array.shape[1:])
    # NumPy pads the header so that it keeps its length when the first axis grows.
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, header)
    file.seek(0, os.SEEK_END)
    file.write(array.data)


def _require_space(cohort: Cohort, recipe: Recipe, place: Path) -> None:
    num_slices = sum(case.num_slices for case in cohort.images if case.is_marked)
    num_bytes = 3 * num_slices * recipe.slices.image_size**2
    if num_bytes > SHARE_OF_DISK * shutil.disk_usage(place).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
