"""One image or mask file to a `Scan` and back: PNG, JPEG, TIFF, NIfTI (`.nii`, `.nii.gz`).

A file is either read completely and exactly, or refused with a `ScanError`; what is repaired
without harm is named in the scan's findings.
"""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemaseg.files import whole_file
from hemaseg.scans.nifti import NIFTI_SUFFIXES, is_nifti, nifti_bytes, read_nifti
from hemaseg.scans.pictures import PICTURE_SUFFIXES, is_picture, read_picture, write_pictures
from hemaseg.scans.scan import Scan, mask_of_label
from hemaseg.scans.screening import ReadOptions, Screen, reading

# Masks shrink by a third more at level 6; fractions by a fiftieth, in five times the time.
_MASK_GZIP_LEVEL, _FRACTION_GZIP_LEVEL = 6, 1


def stem(path: Path) -> str:
    """Name of an image file without its suffix, of which `.nii.gz` is one.

    Example:
        >>> stem(Path("scans/sub-01_ct.nii.gz")), stem(Path("0001_12.png"))
        ('sub-01_ct', '0001_12')
    """
    if not is_nifti(path):
        return path.stem
    return path.name[: -7 if path.name.lower().endswith(".gz") else -4]


def read_scan(path: Path, options: ReadOptions | None = None) -> Scan:
    """The scan in an image file.

    8-bit pictures give uint8 (1-bit ones 0 and 255), 16-bit ones uint16. A colour picture is read
    if every pixel is grey and opaque. A TIFF of several pages gives a slice for each. NIfTI values
    are scaled as the header says.

    Args:
        path: PNG, JPEG, TIFF or NIfTI (three dimensions).
        options: Limits and what is accepted.

    Raises:
        ScanError: The file is missing, may not be read, is empty, damaged, larger than the limit,
            of another kind or coloured; or its voxels are not finite; or it is NIfTI and its
            geometry is not sound. `docs/screening.md` lists all kinds.
    """
    screen = Screen(str(path), options or ReadOptions())
    with reading(path, screen):
        if is_nifti(path):
            return read_nifti(path, screen)
        if is_picture(path):
            return read_picture(path, screen)
        known = ", ".join((*PICTURE_SUFFIXES, *NIFTI_SUFFIXES))
        raise screen.error(
            "not-an-image", f"expected a file ending in {known}. Convert it to one of these."
        )


def read_mask(path: Path, *, label: int | None = None) -> Scan:
    """The mask in an image file, as a scan with boolean voxels; see `mask_of_label`."""
    return mask_of_label(read_scan(path), label)


def write_mask(mask: NDArray[np.bool_], like: Scan, path: Path) -> None:
    """Write a mask onto the grid of the file that `like` was read from.

    NIfTI gives uint8 with 0 and 1 in the axis order of the file, with its affines and their codes.
    Other scans with geometry, such as DICOM series, give the same with axes column, row, slice and
    the exact affine. Pictures give 8-bit pictures of 0 and 255: a PNG, a TIFF of several pages, or
    for a stack of files a folder of PNG. Each file appears complete or not at all.

    Args:
        mask: (K, H, W), in display order as `like.voxels`.
        like: The scan that the mask belongs to.
        path: `.nii` or `.nii.gz` for a scan with geometry; without, see `pictures.write_pictures`.

    Raises:
        ScanError: `like` has geometry that NIfTI cannot hold: slices at uneven distances.
        ValueError: Type or shape of the mask, or the ending of `path`, do not suit `like`.
        OSError: A file cannot be written.
    """
    if mask.dtype != np.bool_ or mask.shape != like.voxels.shape:
        raise ValueError(
            f"mask is {mask.dtype} {mask.shape}, expected bool {like.voxels.shape} as {like.path}"
        )
    voxels = mask.astype(np.uint8)
    if like.affine is None:
        write_pictures(voxels * np.uint8(255), like, path)
    else:
        _write_nifti(voxels, like, path)


def write_probability(probabilities: NDArray[np.float32], like: Scan, path: Path) -> None:
    """Write probabilities onto the grid of the file that `like` was read from; as `write_mask`.

    NIfTI gives float32. Pictures have no fractions and give 16-bit ones of p x 65535, rounded.

    Args:
        probabilities: (K, H, W) float32 in [0, 1], in display order as `like.voxels`.
        like: The scan that they belong to.
        path: As for `write_mask`.

    Raises:
        ScanError, OSError: As `write_mask`.
        ValueError: As `write_mask`; or a value is not in [0, 1].
    """
    if probabilities.dtype != np.float32 or probabilities.shape != like.voxels.shape:
        raise ValueError(
            f"probabilities are {probabilities.dtype} {probabilities.shape}, expected float32 "
            f"{like.voxels.shape} as {like.path}"
        )
    low, high = probabilities.min(), probabilities.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"probabilities from {low} to {high}, expected values from 0 to 1")
    if like.affine is None:
        write_pictures(np.rint(probabilities * 65535).astype(np.uint16), like, path)
    else:
        _write_nifti(probabilities, like, path)


def _write_nifti(voxels: NDArray[Any], like: Scan, path: Path) -> None:
    if not is_nifti(path):
        raise ValueError(f"{path}: expected a name ending in {' or '.join(NIFTI_SUFFIXES)}")
    data = nifti_bytes(voxels, like)
    if path.name.lower().endswith(".gz"):
        # No time in the header: the same voxels give the same bytes.
        level = _MASK_GZIP_LEVEL if voxels.dtype == np.uint8 else _FRACTION_GZIP_LEVEL
        data = gzip.compress(data, level, mtime=0)
    with whole_file(path) as partial:
        partial.write_bytes(data)
