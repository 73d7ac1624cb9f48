"""PNG, JPEG and TIFF pictures: slices without geometry."""

import warnings
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from hemaseg.errors import ScanError
from hemaseg.files import whole_file
from hemaseg.scans.picture_files import check_page, check_whole, damaged, wrong_type
from hemaseg.scans.scan import Scan, check_finite
from hemaseg.scans.screening import ReadOptions, Screen, reading

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
TIFF_SUFFIXES = (".tif", ".tiff")

_FORMATS = ("PNG", "JPEG", "TIFF")


def is_picture(path: Path) -> bool:
    """True if the file's name ends as PNG, JPEG or TIFF files do."""
    return path.name.lower().endswith(PICTURE_SUFFIXES)


def read_picture(path: Path, screen: Screen) -> Scan:
    """The scan in a picture without geometry, K = 1 or the pages; see `images.read_scan`."""
    data = path.read_bytes()
    try:
        with warnings.catch_warnings():
            # Pillow warns of damaged tags and of pictures that grow too large: both are refused.
            warnings.simplefilter("error", UserWarning)
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            pages = list(_pages(data, screen))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        found = str(error).split(",")[0]  # The rest of the sentence is about attacks.
        raise screen.error("too-large", f"{found}, expected fewer. Crop or resample it.") from error
    except (ScanError, MemoryError):
        raise
    except Exception as error:  # Pillow raises a dozen kinds for damaged files.
        raise damaged("cannot be decoded", screen) from error
    voxels = _stacked(pages, [f"page {number}" for number in range(1, len(pages) + 1)], screen)
    return Scan(voxels=voxels, affine=None, path=path, findings=tuple(screen.findings))


def read_stack(paths: Sequence[Path], options: ReadOptions | None = None) -> Scan:
    """The scan in several pictures of one folder, a slice each, in this order; no geometry.

    Args:
        paths: At least one; each as `images.read_scan` reads it, with one page.
        options: Limits, of the whole stack too, and what is accepted.

    Raises:
        ScanError: A file cannot be read, or they differ in size, type or number of pages, or only
            in their suffix.
    """
    screen = Screen(str(paths[0].parent), options or ReadOptions())
    slices: list[NDArray[Any]] = []
    for path in paths:
        own = Screen(str(path), screen.options)
        with reading(path, own):
            scan = read_picture(path, own)
        if len(scan.voxels) != 1:
            raise own.error(
                "mixed-stack", f"{len(scan.voxels)} pages, expected 1. Read the file on its own."
            )
        slices.append(scan.voxels[0])
        screen.check_size(len(paths) * slices[-1].nbytes, f"decoded, {len(paths)} pictures take ")
    if len({path.stem.casefold() for path in paths}) < len(paths):
        raise screen.error(
            "mixed-stack",
            "two pictures whose names differ only in their suffix, expected one of each slice. "
            "Keep one of them.",
        )
    voxels = _stacked(slices, [path.name for path in paths], screen)
    return Scan(voxels=voxels, affine=None, path=paths[0].parent, pictures=tuple(paths))


def write_pictures(slices: NDArray[Any], like: Scan, path: Path) -> None:
    """Write slices (K, H, W), uint8 or uint16, as the picture or pictures that `like` is from.

    Args:
        slices: Pixels as they are to be stored.
        like: A stack of files, a file of several pages, or one picture.
        path: A folder for a stack of files, which get their names with `.png`; `.tif` for a file of
            several pages; `.png` for one picture.

    Raises:
        ValueError: The ending of `path` does not suit `like`.
        OSError: A file cannot be written.
    """
    pictures = [Image.fromarray(pixels) for pixels in slices]
    if like.pictures:
        for picture, source in zip(pictures, like.pictures, strict=True):
            with whole_file(path / f"{source.stem}.png") as partial:
                picture.save(partial, format="PNG")
        return
    suffixes = (".png",) if len(pictures) == 1 else TIFF_SUFFIXES
    if not path.name.lower().endswith(suffixes):
        raise ValueError(f"{path}: expected a name ending in {' or '.join(suffixes)}")
    with whole_file(path) as partial:
        if len(pictures) == 1:
            pictures[0].save(partial, format="PNG")
        else:
            pictures[0].save(
                partial,
                format="TIFF",
                save_all=True,
                append_images=pictures[1:],
                compression="tiff_deflate",
            )


def _pages(data: bytes, screen: Screen) -> Iterator[NDArray[Any]]:
    """(H, W) pixels of each page."""
    with Image.open(BytesIO(data), formats=_FORMATS) as picture:
        picture.verify()  # Checksums of a PNG, which decoding alone does not look at.
    with Image.open(BytesIO(data), formats=_FORMATS) as picture:
        num_pages = getattr(picture, "n_frames", 1)
        if num_pages > 1 and picture.format != "TIFF":
            raise screen.error(
                "not-3d", f"{num_pages} frames, expected 1. Save each slice as a file of its own."
            )
        what = f"decoded, {num_pages} x {picture.height} x {picture.width} pixels take "
        screen.check_size(num_pages * picture.height * picture.width, what)
        check_whole(picture.format or "", data, screen)
        for number in range(num_pages):
            if number:
                picture.seek(number)
            # How the file stores pixels, in Pillow's words; loading and tags forget it.
            arguments = picture.tile[0].args
            stored = str(arguments[0] if isinstance(arguments, tuple) else arguments)
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1)
            if turned != 1:
                raise screen.error(
                    "turned",
                    f"orientation tag {turned}, expected 1 or none: rows as stored are not "
                    "rows as displayed. Save the picture upright, without the tag.",
                )
            if isinstance(picture, TiffImageFile):
                check_page(picture, stored, screen)
            pixels = _grey_pixels(picture, stored, screen)
            screen.check_size(num_pages * pixels.nbytes, what)
            yield pixels


def _grey_pixels(picture: Image.Image, stored: str, screen: Screen) -> NDArray[Any]:
    """(H, W) pixels of a picture that is grey, or stored as colour and yet grey."""
    mode = picture.mode
    if mode in ("1", "L"):
        return np.array(picture.convert("L"))
    if mode.startswith("I;16") or (mode == "I" and picture.format == "PNG"):
        return np.array(picture).astype(np.uint16)
    if mode in ("I", "F"):
        numbers: NDArray[Any] = np.array(picture)
        if stored == "I;32N" and numbers.min() < 0:  # Unsigned, for which Pillow has no mode.
            raise wrong_type("unsigned numbers beyond 2,147,483,647", screen)
        return numbers
    # Pillow would read colour of 16 bits as 8 bits, and convert other colour spaces inexactly.
    if mode not in ("P", "PA", "LA", "RGB", "RGBA") or "16" in stored:
        raise wrong_type(stored, screen)
    rgba = np.array(picture.convert("RGBA"))
    num_coloured = int((rgba[..., :3] != rgba[..., :1]).any(axis=-1).sum())
    num_transparent = int((rgba[..., 3] != 255).sum())
    if num_coloured or num_transparent:
        raise screen.error(
            "coloured",
            f"{num_coloured} coloured and {num_transparent} transparent pixels, expected "
            "grey and opaque ones. Save it as a grey picture.",
        )
    return rgba[..., 0].copy()


def _stacked(slices: Sequence[NDArray[Any]], names: Sequence[str], screen: Screen) -> NDArray[Any]:
    """(K, H, W) of slices of one size and type."""
    kinds = [f"{len(pixels)} x {len(pixels[0])} pixels of type {pixels.dtype}" for pixels in slices]
    for name, kind in zip(names, kinds, strict=True):
        if kind != kinds[0]:
            raise screen.error(
                "mixed-stack",
                f"{name} has {kind}, {names[0]} has {kinds[0]}, expected slices of one stack to be "
                "alike. Export them again, all alike, or keep the stacks apart.",
            )
    voxels = np.stack(slices)
    check_finite(voxels, screen)
    return voxels
