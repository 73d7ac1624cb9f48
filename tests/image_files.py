# mypy: allow-untyped-calls
# (nibabel's functions have no types.)
"""Small image files for tests: NIfTI with any header field, and pictures."""

import gzip
import itertools
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemaseg.scans.scan import Scan

ORIENTATIONS = [
    "".join(axes)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for axes in itertools.product(*order)
]
"""The 48 orders and directions of three axes."""

GEOMETRY = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
"""Fields of a NIfTI header that place the grid, beside its dimensions."""


def save_nifti(
    path: Path,
    voxels: NDArray[Any],
    affine: NDArray[np.float64] | None = None,
    *,
    kind: Any = nib.Nifti1Image,
    **fields: Any,
) -> Path:
    """A NIfTI file, with some header fields overwritten after nibabel's checks."""
    image = kind(voxels, np.eye(4) if affine is None else affine)
    size = image.header.sizeof_hdr
    data = bytearray(image.to_bytes())
    header = kind.header_class(bytes(data[:size]), check=False)
    for name, value in fields.items():
        header[name] = value
    data[:size] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(data)) if path.suffix == ".gz" else bytes(data))
    return path


def load(path: Path) -> Any:
    return nib.load(path)


def geometry_bytes(data: bytes) -> dict[str, bytes]:
    """The bytes of each field of geometry in an unpacked NIfTI file."""
    kind = nib.Nifti2Header if data[4:7] == b"n+2" else nib.Nifti1Header
    fields: Any = kind.template_dtype.fields
    found = {}
    for name in GEOMETRY:
        dtype, place = fields[name][:2]
        found[name] = data[place : place + dtype.itemsize]
    return found


def save_picture(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def save_pages(path: Path, pages: NDArray[Any], **options: Any) -> Path:
    """A TIFF of several pages."""
    first, *others = (Image.fromarray(page) for page in pages)
    first.save(path, save_all=True, append_images=others, **options)
    return path


def png_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of these chunks, with right checksums."""
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (*chunks, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def gradient(dtype: Any = np.uint8) -> NDArray[Any]:
    """(4, 6) pixels that are all different."""
    return np.arange(24, dtype=dtype).reshape(4, 6)


def made_scan(
    voxels: NDArray[Any], affine: NDArray[np.float64] | None = None, **attributes: Any
) -> Scan:
    """A scan that was never a file."""
    return Scan(voxels, affine, Path("made"), **attributes)
