# mypy: allow-untyped-calls
# (nibabel's functions have no types.)
"""NIfTI-1 and NIfTI-2 files (`.nii`, `.nii.gz`), read completely and exactly, or refused."""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from hemaseg.scans.scan import (
    Scan,
    check_finite,
    corners_apart,
    display_orientation,
    to_display,
    to_stored,
)
from hemaseg.scans.screening import Screen

NIFTI_SUFFIXES = (".nii.gz", ".nii")
_GEOMETRY_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
_MAGIC = {nib.Nifti1Header: b"n+1\0", nib.Nifti2Header: b"n+2\0\r\n\x1a\n"}
"""Of single files. Transfers that convert line ends damage that of NIfTI-2, as it is meant to."""
_UNITS = {1: "m", 3: "micrometres"}
_MAX_CODE = 5
"""Of sform and qform; what the numbers stand for is no matter here."""
_CHUNK = 2**16
_MIN_EDGE_MM, _MAX_MM = 1e-3, 1e6
"""Shorter edges and farther places than these are numbers, but no head."""


def is_nifti(path: Path) -> bool:
    """True if the file's name ends as NIfTI files do.

    Example:
        >>> is_nifti(Path("sub-01_ct.nii.gz")), is_nifti(Path("sub-01.png"))
        (True, False)
    """
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def read_nifti(path: Path, screen: Screen) -> Scan:
    """The scan in a NIfTI file; see `images.read_scan`."""
    is_packed = path.name.lower().endswith(".gz")
    data = bytearray()
    with gzip.open(path) if is_packed else path.open("rb") as file:
        stream = cast(BinaryIO, file)
        _read(stream, data, nib.Nifti2Header.template_dtype.itemsize, screen)
        header = _stored_header(data, screen)
        layout = _layout(header, screen)
        affine = _affine(header, layout.shape, screen)
        # A little more than expected: shows a surplus, and lets gzip compare its checksum.
        limit = layout.num_bytes + _CHUNK
        _read(stream, data, limit, screen)
    found, more = len(data), "more than " if len(data) == limit else ""
    if found != layout.num_bytes:
        kind = "gzip-bomb" if more and is_packed else "surplus-bytes"
        raise screen.error(
            kind if found > layout.num_bytes else "truncated",
            f"{more}{found:,} bytes, expected {layout.num_bytes:,} for voxels {layout.shape} of "
            f"type {layout.dtype} from byte {layout.offset}. Copy or export the file again.",
        )
    stored = np.frombuffer(data, dtype=layout.dtype, offset=layout.offset)
    axes = display_orientation(affine)
    voxels, display_affine = to_display(
        layout.scaled(stored.reshape(layout.shape, order="F")), affine, axes
    )
    check_finite(voxels, screen)
    return Scan(
        voxels=voxels,
        affine=display_affine,
        path=path,
        stored_axes=axes,
        nifti_header=_geometry_only(header),
        findings=tuple(screen.findings),
    )


def _read(stream: BinaryIO, data: bytearray, num_bytes: int, screen: Screen) -> None:
    """Read on to at most so many bytes, in chunks, so that a false promise takes no memory."""
    try:
        while chunk := stream.read(min(_CHUNK, num_bytes - len(data))):
            data += chunk
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        advice = "Copy or export the file again."
        if isinstance(error, gzip.BadGzipFile) and not data:
            advice += " If it is not packed at all, name it .nii."
        raise screen.error(
            "gzip-damaged",
            f"gzip stream damaged after {len(data):,} bytes ({error}), expected a complete one. "
            f"{advice}",
        ) from error


def _stored_header(start: bytearray, screen: Screen) -> Any:
    """The header as stored: nibabel's own checks would repair some fields without a word."""
    for kind, magic in _MAGIC.items():
        fields: Any = kind.template_dtype.fields
        size, place = kind.template_dtype.itemsize, fields["magic"][1]
        for order in "<>":
            is_size = len(start) >= size and struct.unpack(f"{order}i", start[:4]) == (size,)
            if is_size and start[place:].startswith(magic):
                return kind(bytes(start[:size]), order, check=False)
    advice = "Convert the file, for example with dcm2niix."
    if start.startswith(b"\x1f\x8b"):
        advice = "Name it .nii.gz, for it is packed."
    raise screen.error(
        "nifti-header",
        f"no NIfTI header in the first {len(start)} bytes, expected one of a single-file "
        f"NIfTI-1 or NIfTI-2 image. {advice}",
    )


@dataclass(frozen=True)
class _Layout:
    """Where the voxels lie in a file, and what they mean.

    Attributes:
        shape: Of the stored volume.
        dtype: Of the stored voxels, with their byte order.
        offset: First byte of the voxels.
        scale: Slope and intercept; None where stored values are the values.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    offset: int
    scale: tuple[float, float] | None

    @property
    def num_voxels(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Of the whole file."""
        return self.offset + self.num_voxels * self.dtype.itemsize

    @property
    def scaled_type(self) -> np.dtype[Any]:
        if self.scale is None:
            return self.dtype
        return np.dtype(np.float32 if self.dtype.itemsize <= 2 else np.float64)

    def scaled(self, stored: NDArray[Any]) -> NDArray[Any]:
        """The values that stored voxels stand for; infinite where they are too large."""
        if self.scale is None:
            return stored
        slope, intercept = self.scale
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(stored.astype(self.scaled_type) * slope + intercept)


def _layout(header: Any, screen: Screen) -> _Layout:
    again = "Copy or export the file again."
    num_axes = int(header["dim"][0])
    sizes = header["dim"][1 : max(num_axes, 0) + 1].tolist()
    if not 1 <= num_axes <= 7 or min(sizes) < 1:
        raise screen.error(
            "dimensions",
            f"{num_axes} dimensions {tuple(sizes)}, expected 3, each of at least 1. {again}",
        )
    shape = tuple(sizes[:3])
    if num_axes < 3 or math.prod(sizes[3:]) > 1:
        raise screen.error(
            "not-3d",
            f"{num_axes} dimensions {tuple(sizes)}, expected 3. Save one volume per file.",
        )
    if num_axes > 3:
        screen.report("axes-dropped", f"{num_axes} dimensions {tuple(sizes)}, read as {shape}")
    try:
        dtype = header.get_data_dtype()
    except KeyError:
        dtype = None
    if dtype is None or dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise screen.error(
            "voxel-type",
            f"voxels of type {dtype or int(header['datatype'])}, expected whole or real numbers "
            "of at most 64 bits. Save it as a grey volume.",
        )
    if (bits := int(header["bitpix"])) != 8 * dtype.itemsize:
        raise screen.error(
            "voxel-type", f"{bits} bits a voxel, expected {8 * dtype.itemsize} of {dtype}. {again}"
        )
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope != 0 and not math.isfinite(slope + intercept):
        raise screen.error(
            "scale-factor", f"slope {slope}, intercept {intercept}, expected finite ones. {again}"
        )
    offset, first = float(header["vox_offset"]), header.single_vox_offset
    if not first <= offset <= screen.options.max_bytes or offset % 1:
        raise screen.error(
            "vox-offset",
            f"vox_offset {offset:g}, expected a whole number of at least {first} and within the "
            f"limit. {again}",
        )
    is_scaled = slope != 0 and (slope, intercept) != (1, 0)
    layout = _Layout(shape, dtype, int(offset), (slope, intercept) if is_scaled else None)
    screen.check_size(
        layout.offset + layout.num_voxels * max(dtype.itemsize, layout.scaled_type.itemsize),
        f"voxels {shape} of type {dtype} take ",
    )
    return layout


@np.errstate(all="ignore")  # NaN and infinity are looked for here, and refused.
def _affine(header: Any, shape: tuple[int, int, int], screen: Screen) -> NDArray[np.float64]:
    """(4, 4) affine of the stored grid to RAS mm: the sform if there is one, else the qform."""
    codes = int(header["sform_code"]), int(header["qform_code"])
    has_sform, has_qform = (code > 0 for code in codes)
    if not (has_sform or has_qform) or not all(0 <= code <= _MAX_CODE for code in codes):
        raise screen.error(
            "no-geometry",
            f"sform_code {codes[0]} and qform_code {codes[1]}, expected numbers from 0 to "
            f"{_MAX_CODE}, one of them above 0: else which side is left is unknown. "
            "Export the file again with its geometry.",
        )
    if (unit := int(header["xyzt_units"]) & 7) not in (0, 2):
        raise screen.error(
            "not-mm",
            f"lengths in {_UNITS.get(unit, f'the unit {unit}')}, expected mm. "
            "Export the file in mm.",
        )
    pixdim = header["pixdim"][1:4].tolist()
    has_pixdim = all(math.isfinite(size) and size > 0 for size in pixdim)
    if not has_sform and not has_pixdim:
        raise screen.error(
            "voxel-size",
            f"voxel size {pixdim}, expected positive numbers of mm. Export the file again.",
        )
    qform = _qform(header) if has_pixdim else np.full((4, 4), np.nan)
    affine = np.asarray(header.get_sform() if has_sform else qform, dtype=np.float64)
    _check_affine(affine, screen)
    if has_sform and has_qform and has_pixdim:
        _compare_forms(affine, qform, shape, screen)
    elif not np.allclose(edges := _edges(affine), pixdim, rtol=0.01, atol=0):
        screen.report(
            "voxel-size-ignored",
            f"voxel size {pixdim} mm beside an affine of {edges.tolist()} mm; the affine holds",
        )
    if np.array_equal(affine, np.eye(4)):
        screen.report(
            "identity-affine",
            "voxels of 1 x 1 x 1 mm from the origin on, as programs write that do not know the "
            "size; volumes hold if it is true",
        )
    return affine


def _edges(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3,) lengths of a voxel's edges in mm."""
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))


def _without_shear(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest affine with perpendicular edges of these lengths, as writers put in a qform."""
    edges = _edges(affine)
    left, _, right = np.linalg.svd(affine[:3, :3] / edges)
    straight = affine.copy()
    straight[:3, :3] = left @ right * edges
    return straight


def _qform(header: Any) -> NDArray[np.float64]:
    """(4, 4) by the quaternion; NaN where that is none."""
    b, c, d = (float(header[f"quatern_{part}"]) for part in "bcd")
    flip = float(header["pixdim"][0])
    rest = 1 - b * b - c * c - d * d
    if not rest > -1e-5 or flip not in (-1, 0, 1):  # 0 counts as 1.
        return np.full((4, 4), np.nan)
    qform = np.eye(4)
    qform[:3, :3] = nib.quaternions.quat2mat([math.sqrt(max(rest, 0)), b, c, d])
    qform[:3, :3] *= header["pixdim"][1:4].astype(np.float64) * [1, 1, flip or 1]
    qform[:3, 3] = [header[f"qoffset_{axis}"] for axis in "xyz"]
    return qform


def _check_affine(affine: NDArray[np.float64], screen: Screen) -> None:
    again = "Export the file again with its geometry."
    if not (np.abs(affine) < _MAX_MM).all():
        raise screen.error(
            "affine-not-finite",
            f"affine {affine[:3].tolist()}, expected finite numbers below {_MAX_MM:,.0f} mm. "
            f"{again}",
        )
    edges = _edges(affine)
    # Relative to the product of the edges, a volume of 1 is a box and 0 is flat.
    if not abs(np.linalg.det(affine[:3, :3])) > 1e-6 * edges.prod():
        raise screen.error(
            "affine-singular",
            f"affine {affine[:3].tolist()}, expected a volume above 0. {again}",
        )
    if edges.min() < _MIN_EDGE_MM:
        raise screen.error(
            "voxel-size",
            f"voxel size {edges.tolist()}, expected at least {_MIN_EDGE_MM} mm. {again}",
        )


def _compare_forms(
    sform: NDArray[np.float64],
    qform: NDArray[np.float64],
    shape: tuple[int, int, int],
    screen: Screen,
) -> None:
    """Refuse two forms that put voxels at different places.

    A qform cannot hold shear; programs then write the nearest one that has none, and that is no
    disagreement. Forms that differ only in place are both right after a registration, so a user
    can accept them; the sform holds.
    """
    advice = "Set the code of the wrong one to 0, or convert the original again."
    if not np.isfinite(qform).all():
        raise screen.error(
            "forms-disagree",
            f"an sform beside a qform of no rotation or place, {qform[:3].tolist()}, expected two "
            f"that agree. {advice}",
        )
    straight = _without_shear(sform)
    volumes = [abs(np.linalg.det(form[:3, :3])) for form in (sform, straight, qform)]
    if not np.isclose(volumes[:2], volumes[2], rtol=0.01, atol=0).any():
        raise screen.error(
            "forms-disagree",
            f"voxels of {volumes[0]:.4g} mm3 by the sform, {volumes[2]:.4g} mm3 by the qform, "
            f"expected one volume. {advice}",
        )
    voxels_apart = corners_apart(straight, qform, shape)
    if voxels_apart <= 0.5:
        return
    towards = ["".join(nib.orientations.aff2axcodes(form)) for form in (straight, qform)]
    if towards[0] != towards[1]:
        raise screen.error(
            "forms-disagree",
            f"axes toward {towards[0]} by the sform, toward {towards[1]} by the qform, expected "
            f"the same. {advice}",
        )
    screen.refuse(
        "forms-apart",
        f"sform and qform place voxels up to {voxels_apart:.3g} voxels apart, expected at most "
        f"half of one. {advice}",
    )


def _geometry_only(header: Any) -> Any:
    """A new header with the geometry alone: no name or note of the original gets into masks."""
    geometry = type(header)(endianness=header.endianness)
    for field in _GEOMETRY_FIELDS:
        geometry[field] = header[field]
    return geometry


def _made_header(like: Scan, shape: tuple[int, int, int]) -> Any:
    """A header with the geometry of a scan that is not from NIfTI, axes column, row, slice."""
    if like.affine is None:
        raise ValueError(f"{like.path}: no geometry, expected a scan with an affine")
    if not like.is_even:
        raise Screen(str(like.path)).error(
            "uneven-nifti",
            "unevenly spaced slices, expected even ones: NIfTI has one distance for all. "
            "Write a DICOM segmentation.",
        )
    affine = like.affine
    if like.stored_axes is not None:
        affine = affine @ np.linalg.inv(
            nib.orientations.inv_ornt_aff(like.stored_axes, shape[::-1])
        )
    affine = affine[:, [2, 1, 0, 3]]
    straight = _without_shear(affine)
    header = nib.Nifti1Header()
    header.set_xyzt_units("mm")
    header.set_sform(affine, code=1)
    is_straight = np.allclose(straight, affine, rtol=0, atol=1e-4 * _edges(affine).max())
    header.set_qform(straight, code=1 if is_straight else 0)
    return header


def nifti_bytes(voxels: NDArray[Any], like: Scan) -> bytes:
    """Bytes of a NIfTI file with voxels (K, H, W) on the grid of the file that `like` is from.

    The header has the geometry of that file and nothing else of it. For a scan of another format it
    has the exact affine as sform, and as qform too if there is no shear; array axes are then
    column, row, slice.

    Raises:
        ScanError: `like` is unevenly spaced.
    """
    stored = to_stored(voxels, like.stored_axes)
    header = like.nifti_header
    if header is None:
        stored = stored.transpose()
        header = _made_header(like, stored.shape)
    header = header.copy()
    dtype = voxels.dtype.newbyteorder(header.endianness)
    header.set_data_dtype(dtype)
    header["dim"] = [3, *stored.shape, 1, 1, 1, 1]
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"] = header.single_vox_offset
    no_extension = bytes(header.single_vox_offset - header.sizeof_hdr)
    # By hand: nibabel's writer would repair some fields of the geometry.
    data: bytes = header.binaryblock + no_extension + stored.astype(dtype).tobytes(order="F")
    return data
