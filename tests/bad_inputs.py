"""Inputs with exactly one fault each, of every kind that reading refuses, repairs or notes.

`bad_nifti`, `bad_files` (pictures, folders, lists, archives), `bad_dicom` (files) and `bad_series`
have them; here is what these share. A builder makes an otherwise good scan in an empty folder and
returns what a user would name: a file, a folder or an archive.
"""

import gzip
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from hemaseg.scans.screening import ReadOptions
from small_heads import small_head

Build = Callable[[Path], Path]


@dataclass(frozen=True)
class BadInput:
    """One fault.

    Attributes:
        kind: What screening must call it.
        build: Makes it in an empty folder.
        options: What the reader is told.
        series: What the user asks for, as `--series`.
        network: Modality of the network that the scan is for; empty if it is for none.
    """

    kind: str
    build: Build
    options: ReadOptions = field(default_factory=ReadOptions)
    series: str | None = None
    network: str = ""


class Inputs(dict[str, BadInput]):
    """Bad inputs by name; a decorator for their builders."""

    def add(
        self, kind: str, *, series: str | None = None, network: str = "", **options: Any
    ) -> Callable[[Build], Build]:
        """The decorated builder makes a fault of this kind, to be read with these options."""

        def register(build: Build) -> Build:
            self[build.__name__] = BadInput(kind, build, ReadOptions(**options), series, network)
            return build

        return register


HEAD = small_head(1)


def head_bytes(
    voxels: NDArray[Any] = HEAD.voxels,
    *,
    affine: NDArray[np.float64] = HEAD.affine,
    kind: Any = nib.Nifti1Image,
    **fields: Any,
) -> bytes:
    """A good head as a NIfTI file, whose header fields are then changed.

    Args:
        voxels: (K, H, W), stored as (columns, rows, slices).
        affine: Of `voxels`.
        kind: `nib.Nifti1Image` or `nib.Nifti2Image`.
        **fields: Header fields as they are to be, however wrong.
    """
    image = kind(np.ascontiguousarray(voxels.transpose()), affine[:, [2, 1, 0, 3]])
    image.header.set_xyzt_units("mm")
    data = bytearray(image.to_bytes())
    header = np.frombuffer(data, image.header.template_dtype, count=1)
    for name, value in fields.items():
        header[name] = value
    return bytes(data)


def change(path: Path, place: int, *, cut: bool = False) -> Path:
    """Change a byte of a file, or cut the file there."""
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data[:place] if cut else data)
    return path


def write(path: Path, data: bytes) -> Path:
    """Write bytes; packed if the name ends so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)
    return path
