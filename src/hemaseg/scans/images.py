# mypy: allow-untyped-calls
# (nibabel's functions have no types.)
"""One image or mask file to a `Scan` and back: PNG, JPEG, TIFF, NIfTI (`.nii`, `.nii.gz`).

A file is either read completely and exactly, or refused with a `ScanError`. Nothing is repaired:
a truncated file is not padded, a missing affine is not replaced by 1 mm, colour is not averaged.
"""

import gzip
import hashlib
import warnings
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from hemaseg.errors import ScanError
from hemaseg.files import whole_file

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
NIFTI_SUFFIXES = (".nii.gz", ".nii")
MAX_BYTES = 2**30
"""Largest file, and largest decoded array, that is read: 1 GiB."""

_MASK_TOLERANCE = 1e-3
_DISPLAY_AXES = nib.orientations.axcodes2ornt(("S", "P", "L"))
_GEOMETRY_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)


@dataclass(frozen=True, eq=False)
class Scan:
    """The voxels of one file in display order, with their geometry.

    Attributes:
        voxels: (K, H, W), see `docs/conventions.md`; scaled values. A picture has K = 1.
        affine: (4, 4), takes (k, h, w, 1) to RAS mm; None where the file has no geometry.
        path: The file.
        nifti_header: A NIfTI header with the geometry of the file and nothing else, with which a
            mask is written back onto the file's own grid; None for a picture.
    """

    voxels: NDArray[Any]
    affine: NDArray[np.float64] | None
    path: Path
    nifti_header: Any = None

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Distance of neighbouring slices, rows and columns in mm; None without geometry."""
        if self.affine is None:
            return None
        slices, rows, columns = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(slices), float(rows), float(columns)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in mL, |det| of the affine / 1000; NaN without geometry."""
        if self.affine is None:
            return float("nan")
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


def is_nifti(path: Path) -> bool:
    """True if the file's name ends as NIfTI files do.

    Example:
        >>> is_nifti(Path("sub-01_ct.nii.gz")), is_nifti(Path("sub-01.png"))
        (True, False)
    """
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def is_picture(path: Path) -> bool:
    """True if the file's name ends as PNG, JPEG or TIFF files do."""
    return path.name.lower().endswith(PICTURE_SUFFIXES)


def stem(path: Path) -> str:
    """Name of an image file without its suffix, of which `.nii.gz` is one.

    Example:
        >>> stem(Path("scans/sub-01_ct.nii.gz")), stem(Path("0001_12.png"))
        ('sub-01_ct', '0001_12')
    """
    if not is_nifti(path):
        return path.stem
    return path.name[: -7 if path.name.lower().endswith(".gz") else -4]


def read_scan(path: Path) -> Scan:
    """The scan in an image file.

    8-bit pictures give uint8 (1-bit ones 0 and 255), 16-bit ones uint16. A colour picture is read
    if every pixel is grey and opaque. NIfTI values are scaled as the header says.

    Args:
        path: PNG, JPEG, TIFF (one page) or NIfTI (three dimensions).

    Raises:
        ScanError: The file is missing, empty, damaged, larger than 1 GiB, of another kind or
            coloured; or its voxels are not finite; or it is NIfTI and its geometry is not sound.
    """
    if is_nifti(path):
        read = _read_nifti
    elif is_picture(path):
        read = _read_picture
    else:
        known = ", ".join((*PICTURE_SUFFIXES, *NIFTI_SUFFIXES))
        raise ScanError(f"{path}: expected a file ending in {known}. Convert it to one of these.")
    if not path.is_file():
        raise ScanError(f"{path}: no such file. Check the name and the folder.")
    num_bytes = path.stat().st_size
    if num_bytes == 0:
        raise ScanError(f"{path}: 0 bytes, expected an image. Copy or export the file again.")
    _check_size(path, num_bytes)
    try:
        return read(path)
    except ScanError:
        raise
    except Exception as error:  # The decoders raise a dozen kinds for damaged files.
        reason = f"{type(error).__name__}: {error}"
        raise ScanError(
            f"{path}: cannot be decoded ({reason}), expected a complete image file. "
            "Copy or export the file again."
        ) from error


def read_mask(path: Path) -> Scan:
    """The mask in an image file, as a scan with boolean voxels; see `as_mask`."""
    return as_mask(read_scan(path))


def as_mask(scan: Scan) -> Scan:
    """The scan as a mask: True where its voxels have the one value that is not 0.

    Floating-point values count as equal within a thousandth of that value, since a stored 1 with a
    scale factor can read as 0.99999997. A constant image of any other value than 0 is a full mask.

    Raises:
        ScanError: There are more than two values, or two of which neither is 0.
    """
    voxels = scan.voxels
    low, high = voxels.min(), voxels.max()
    value = high if high > 0 else low
    if voxels.dtype.kind == "f":
        tolerance = _MASK_TOLERANCE * abs(value)
        is_zero = np.abs(voxels) <= tolerance
        is_value = np.abs(voxels - value) <= tolerance
    else:
        is_zero, is_value = voxels == 0, voxels == value
    if not (is_zero | is_value).all():
        values = np.unique(voxels)
        shown = ", ".join(f"{found:g}" for found in values[:6]) + (", ..." * (len(values) > 6))
        raise ScanError(
            f"{scan.path}: {len(values)} different values ({shown}), expected two in a mask, 0 "
            "and one other. Save one class per file, not smoothed, as PNG or NIfTI; JPEG blurs."
        )
    return replace(scan, voxels=is_value & ~is_zero)


def write_mask(mask: NDArray[np.bool_], like: Scan, path: Path) -> None:
    """Write a mask onto the grid of the file that `like` was read from.

    A picture gives an 8-bit PNG of 0 and 255. A NIfTI file gives uint8 with 0 and 1 in the axis
    order of the file, with its affines and their codes. The file appears complete or not at all.

    Args:
        mask: (K, H, W), in display order as `like.voxels`.
        like: The scan that the mask belongs to.
        path: `.png` for a picture, `.nii` or `.nii.gz` for NIfTI.

    Raises:
        ValueError: Type or shape of the mask, or the ending of `path`, do not suit `like`; or
            `like` does not come from `read_scan`.
        OSError: The file cannot be written.
    """
    if mask.dtype != np.bool_ or mask.shape != like.voxels.shape:
        raise ValueError(
            f"mask is {mask.dtype} {mask.shape}, expected bool {like.voxels.shape} as {like.path}"
        )
    is_picture_mask = like.nifti_header is None
    suffixes = (".png",) if is_picture_mask else NIFTI_SUFFIXES
    if is_picture_mask and (like.affine is not None or len(mask) != 1):
        raise ValueError(f"{like.path}: {len(mask)} slices, expected a scan as read_scan gives it")
    if not path.name.lower().endswith(suffixes):
        raise ValueError(f"{path}: expected a name ending in {' or '.join(suffixes)}")
    with whole_file(path) as partial:
        if is_picture_mask:
            Image.fromarray(mask[0].astype(np.uint8) * np.uint8(255)).save(partial, format="PNG")
        else:
            data = _nifti_bytes(mask.astype(np.uint8), like.nifti_header)
            # No time in the header: the same mask gives the same bytes.
            is_packed = path.name.lower().endswith(".gz")
            partial.write_bytes(gzip.compress(data, mtime=0) if is_packed else data)


def content_sha256(scan: Scan) -> str:
    """SHA-256 of the decoded voxels, their shape and type, as 64 hexadecimal digits.

    The same voxels have the same hash in any file format; geometry and metadata do not enter.
    """
    voxels = np.ascontiguousarray(scan.voxels, dtype=scan.voxels.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{voxels.dtype.str} {voxels.shape} ".encode())
    digest.update(voxels.data)
    return digest.hexdigest()


def _check_size(path: Path, num_bytes: int) -> None:
    if num_bytes > MAX_BYTES:
        raise ScanError(
            f"{path}: {num_bytes:,} bytes, expected at most {MAX_BYTES:,}. Crop or resample it."
        )


def _read_picture(path: Path) -> Scan:
    data = path.read_bytes()
    formats = ("PNG", "JPEG", "TIFF")
    with warnings.catch_warnings():
        # Pillow warns of damaged tags and of pictures that grow too large: both are refused.
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(BytesIO(data), formats=formats) as picture:
                picture.verify()  # Checksums of a PNG, which decoding alone does not look at.
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ScanError(f"{path}: too large ({error}). Crop or resample it.") from error
        with Image.open(BytesIO(data), formats=formats) as picture:
            # How the file stores pixels, in Pillow's words; loading forgets it.
            arguments = picture.tile[0].args
            num_pages = getattr(picture, "n_frames", 1)
            if num_pages != 1:
                raise ScanError(
                    f"{path}: {num_pages} pages, expected 1. Save each slice as a file of its own."
                )
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1)
            if turned != 1:
                raise ScanError(
                    f"{path}: orientation tag {turned}, expected 1 or none: rows as stored are not "
                    "rows as displayed. Save the picture upright, without the tag."
                )
            stored = arguments[0] if isinstance(arguments, tuple) else arguments
            pixels = _grey_pixels(picture, str(stored), path)
    _check_finite(pixels, path)
    return Scan(voxels=pixels[np.newaxis], affine=None, path=path)


def _grey_pixels(picture: Image.Image, stored: str, path: Path) -> NDArray[Any]:
    """(H, W) pixels of a picture that is grey, or stored as colour and yet grey."""
    mode = picture.mode
    if mode in ("1", "L"):
        return np.array(picture.convert("L"))
    if mode.startswith("I;16") or (mode == "I" and picture.format == "PNG"):
        return np.array(picture).astype(np.uint16)
    if mode in ("I", "F"):
        return np.array(picture)
    # Pillow would read colour of 16 bits as 8 bits, and convert other colour spaces inexactly.
    if mode not in ("P", "PA", "LA", "RGB", "RGBA") or "16" in stored:
        raise ScanError(
            f"{path}: pixels of type {stored}, expected grey values of 8 or 16 bits. "
            "Save it as a grey picture."
        )
    rgba = np.array(picture.convert("RGBA"))
    num_coloured = int((rgba[..., :3] != rgba[..., :1]).any(axis=-1).sum())
    num_transparent = int((rgba[..., 3] != 255).sum())
    if num_coloured or num_transparent:
        raise ScanError(
            f"{path}: {num_coloured} coloured and {num_transparent} transparent pixels, expected "
            "grey and opaque ones. Save it as a grey picture."
        )
    return rgba[..., 0].copy()


def _read_nifti(path: Path) -> Scan:
    is_packed = path.name.lower().endswith(".gz")
    with gzip.open(path) if is_packed else path.open("rb") as stream:
        start = stream.read(nib.Nifti2Header.template_dtype.itemsize)
        header = _nifti_header(start, path)
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
        if len(shape) != 3 or min(shape) < 1:
            raise ScanError(
                f"{path}: {len(shape)} dimensions {shape}, expected 3. Save one volume per file."
            )
        if dtype.kind not in "iuf" or dtype.itemsize > 8:
            raise ScanError(
                f"{path}: voxels of type {dtype}, expected whole or real numbers of at most 64 "
                "bits. Save it as a grey volume."
            )
        slope, inter = header.get_slope_inter()
        is_scaled = (slope, inter) not in ((None, None), (1, 0))
        count = int(np.prod(shape, dtype=object))
        offset = int(header["vox_offset"])
        _check_size(path, max(offset, 0) + count * (8 if is_scaled else dtype.itemsize))
        affine = _checked_affine(header, path)
        num_expected = offset + count * dtype.itemsize
        # One byte more than expected: shows a surplus, and lets gzip compare its checksum.
        data = start + stream.read(max(0, num_expected - len(start)) + 1)
    if offset < header.sizeof_hdr or len(data) != num_expected:
        more = "at least " if len(data) > num_expected else ""
        raise ScanError(
            f"{path}: {more}{len(data):,} bytes, expected {num_expected:,} for voxels {shape} of "
            f"type {dtype} from byte {offset}. Copy or export the file again."
        )
    stored = np.frombuffer(data, dtype=dtype, offset=offset).reshape(shape, order="F")
    if is_scaled:
        stored = stored.astype(np.float32 if dtype.itemsize <= 2 else np.float64) * slope + inter
    _check_finite(stored, path)
    to_display = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), _DISPLAY_AXES
    )
    voxels = nib.orientations.apply_orientation(stored, to_display)
    return Scan(
        voxels=np.array(voxels, dtype=voxels.dtype.newbyteorder("="), order="C"),
        affine=affine @ nib.orientations.inv_ornt_aff(to_display, shape),
        path=path,
        nifti_header=_geometry_only(header),
    )


def _nifti_header(start: bytes, path: Path) -> Any:
    """The header as stored: nibabel's own checks would repair some fields without a word."""
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        size = kind.template_dtype.itemsize
        if len(start) >= size and kind.may_contain_header(start):
            header = kind(start[:size], check=False)
            is_single = bytes(header["magic"])[:3] in (b"n+1", b"n+2")
            if is_single and header["sizeof_hdr"] == size:
                return header
    raise ScanError(
        f"{path}: no NIfTI header in the first {len(start)} bytes, expected one of a single-file "
        "NIfTI-1 or NIfTI-2 image. Convert the file, for example with dcm2niix."
    )


def _checked_affine(header: Any, path: Path) -> NDArray[np.float64]:
    """(4, 4) affine of the stored grid to RAS mm: the sform if there is one, else the qform."""
    codes = int(header["sform_code"]), int(header["qform_code"])
    if max(codes) < 1:
        raise ScanError(
            f"{path}: sform_code {codes[0]} and qform_code {codes[1]}, expected one above 0: which "
            "side is left is unknown. Export the file again with its geometry."
        )
    unit = header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        raise ScanError(f"{path}: lengths in {unit}, expected mm. Export the file in mm.")
    pixdim = header["pixdim"][1:4].tolist()
    if not all(np.isfinite(pixdim)) or min(pixdim) <= 0:
        raise ScanError(
            f"{path}: voxel size {pixdim}, expected positive numbers of mm. Export the file again."
        )
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    is_finite = bool((np.abs(affine) < 1e6).all())  # A kilometre: numbers, but no head.
    volume = abs(np.linalg.det(affine[:3, :3])) if is_finite else 0.0
    # Relative to the product of the edges, 1 is a box and 0 is flat.
    if not volume > 1e-6 * np.linalg.norm(affine[:3, :3], axis=0).prod():
        raise ScanError(
            f"{path}: affine {affine[:3].tolist()}, expected finite numbers and a volume above 0. "
            "Export the file again with its geometry."
        )
    if min(codes) > 0:
        other = abs(np.linalg.det(header.get_qform()[:3, :3]))
        if abs(other - volume) > 0.01 * volume:
            raise ScanError(
                f"{path}: voxels of {volume:.4g} mm3 by the sform, {other:.4g} mm3 by the qform, "
                "expected one volume. Set the wrong one's code to 0."
            )
    return affine


def _check_finite(voxels: NDArray[Any], path: Path) -> None:
    if voxels.dtype.kind == "f" and not (finite := np.isfinite(voxels)).all():
        raise ScanError(
            f"{path}: {int((~finite).sum())} voxels are NaN or infinite, expected finite numbers. "
            "Give them a value, for example that of the background."
        )


def _geometry_only(header: Any) -> Any:
    """A new header with the geometry alone: no name or note of the original gets into masks."""
    geometry = type(header)()
    for field in _GEOMETRY_FIELDS:
        geometry[field] = header[field]
    geometry.set_data_dtype(np.uint8)
    return geometry


def _nifti_bytes(voxels: NDArray[np.uint8], header: Any) -> bytes:
    """Bytes of a NIfTI file with voxels given as (K, H, W)."""
    orientation = nib.orientations.io_orientation(header.get_best_affine())
    from_display = nib.orientations.ornt_transform(_DISPLAY_AXES, orientation)
    stored = nib.orientations.apply_orientation(voxels, from_display)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    return bytes(kind(stored, None, header).to_bytes())
