"""Pictures, folders, lists and archives with one fault each; see `bad_inputs`."""

import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bad_inputs import HEAD, BadInput, Inputs, change, head_bytes, write
from dicom_files import phantom_series

INPUTS = Inputs()

# Pictures.


def _picture(path: Path, pixels: NDArray[Any] | None = None, **options: Any) -> Path:
    """A slice of the head as an 8-bit picture, or other pixels."""
    grey = np.interp(HEAD.voxels[8], (0, 80), (0, 255)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey if pixels is None else pixels).save(path, **options)
    return path


@INPUTS.add("picture-damaged")
def png_cut_in_half(folder: Path) -> Path:
    path = _picture(folder / "slice.png")
    return change(path, path.stat().st_size // 2, cut=True)


@INPUTS.add("picture-damaged")
def png_with_a_changed_byte(folder: Path) -> Path:
    path = _picture(folder / "slice.png")
    return change(path, path.stat().st_size // 2)


@INPUTS.add("picture-damaged")
def jpeg_cut_in_half(folder: Path) -> Path:
    path = _picture(folder / "slice.jpg")
    return change(path, path.stat().st_size // 2, cut=True)


@INPUTS.add("picture-damaged")
def tiff_cut_in_half(folder: Path) -> Path:
    path = _picture(folder / "slice.tif")
    return change(path, path.stat().st_size // 2, cut=True)


@INPUTS.add("picture-damaged")
def text_named_png(folder: Path) -> Path:
    return write(folder / "slice.png", b"This is no picture.")


@INPUTS.add("coloured")
def png_with_a_red_arrow(folder: Path) -> Path:
    pixels = np.full((64, 64, 3), 40, np.uint8)
    pixels[10, 10:20] = 255, 0, 0
    return _picture(folder / "slice.png", pixels)


@INPUTS.add("coloured")
def png_with_a_hole(folder: Path) -> Path:
    pixels = np.full((64, 64, 2), 255, np.uint8)
    pixels[10, 10:20, 1] = 0
    return _picture(folder / "slice.png", pixels)


@INPUTS.add("voxel-type")
def jpeg_for_a_printer(folder: Path) -> Path:
    Image.new("CMYK", (64, 64)).save(folder / "slice.jpg")
    return folder / "slice.jpg"


@INPUTS.add("turned")
def jpeg_that_asks_to_be_turned(folder: Path) -> Path:
    tags = Image.Exif()
    tags[0x0112] = 6
    return _picture(folder / "slice.jpg", exif=tags)


@INPUTS.add("not-finite")
def tiff_with_one_pixel_not_a_number(folder: Path) -> Path:
    pixels = HEAD.voxels[8].astype(np.float32)
    pixels[32, 32] = np.nan
    return _picture(folder / "slice.tif", pixels)


@INPUTS.add("constant")
def png_of_one_grey(folder: Path) -> Path:
    return _picture(folder / "slice.png", np.full((64, 64), 90, np.uint8))


@INPUTS.add("label-map")
def png_of_a_mask(folder: Path) -> Path:
    return _picture(folder / "slice.png", np.where(HEAD.voxels[8] > 40, 255, 0).astype(np.uint8))


@INPUTS.add("mixed-stack")
def pngs_of_two_sizes(folder: Path) -> Path:
    for number in range(6):
        size = 64 if number < 5 else 48
        grey = np.interp(HEAD.voxels[5 + number], (0, 80), (0, 255)).astype(np.uint8)
        _picture(folder / f"stack/{number}.png", grey[:size])
    return folder / "stack"


@INPUTS.add("too-large", max_bytes=3000)
def png_that_inflates_beyond_the_limit(folder: Path) -> Path:
    return _picture(folder / "slice.png", np.zeros((64, 64), np.uint8))


@INPUTS.add("too-large")
def png_of_absurd_size(folder: Path) -> Path:
    header = struct.pack(">2I5B", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(b"0")), (b"IEND", b"")
    data = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    return write(folder / "slice.png", b"\x89PNG\r\n\x1a\n" + data)


# Files and folders.


@INPUTS.add("missing")
def no_such_file(folder: Path) -> Path:
    return folder / "head.nii.gz"


@INPUTS.add("no-permission")
def file_that_may_not_be_read(folder: Path) -> Path:
    path = write(folder / "head.nii", head_bytes())
    path.chmod(0)
    return path


@INPUTS.add("no-permission")
def folder_that_may_not_be_read(folder: Path) -> Path:
    write(folder / "scans/head.nii", head_bytes())
    (folder / "scans").chmod(0)
    return folder / "scans"


@INPUTS.add("empty-file")
def nifti_of_no_bytes(folder: Path) -> Path:
    (folder / "head.nii.gz").touch()
    return folder / "head.nii.gz"


@INPUTS.add("empty-folder")
def folder_of_nothing(folder: Path) -> Path:
    (folder / "scans/sub").mkdir(parents=True)
    return folder / "scans"


@INPUTS.add("not-an-image")
def letter(folder: Path) -> Path:
    return write(folder / "letter.pdf", b"%PDF-1.7\n" + b"Dear colleague, " * 50)


@INPUTS.add("not-an-image")
def archive_that_is_not_zip(folder: Path) -> Path:
    with tarfile.open(folder / "scan.tar.gz", "w:gz") as archive:
        archive.add(write(folder / "head.nii", head_bytes()), "head.nii")
    return folder / "scan.tar.gz"


@INPUTS.add("not-an-image")
def pipe_into_which_nobody_writes(folder: Path) -> Path:
    os.mkfifo(folder / "head.nii")
    return folder / "head.nii"


@INPUTS.add("folder-loop")
def folder_that_links_to_itself(folder: Path) -> Path:
    write(folder / "scans/head.nii", head_bytes())
    (folder / "scans/again").symlink_to(folder / "scans", target_is_directory=True)
    return folder / "scans"


@INPUTS.add("folder-loop")
def folders_nested_beyond_any_use(folder: Path) -> Path:
    path = folder / "scans"
    for _ in range(100):
        path /= "d"
    write(path / "head.nii", head_bytes())
    return folder / "scans"


# Lists of scans.

LISTS = {
    "list_without_images": "name,modality\nA,CT\n",
    "list_with_an_unknown_column": "image,patient\nhead.nii,A\n",
    "list_without_rows": "image,name\n",
    "list_with_a_name_twice": "image,name\nhead.nii,A\nhead.nii,A\n",
    "list_with_an_unknown_modality": "image,modality\nhead.nii,PET\n",
    "list_with_rows_too_short": "image,modality\nhead.nii\n",
    "list_that_is_not_utf_8": "image,name\nhead.nii,M\udcfcller\n",
}


def _list(text: str, folder: Path) -> Path:
    write(folder / "head.nii", head_bytes())
    return write(folder / "scans.csv", text.encode(errors="surrogateescape"))


for _name, _text in LISTS.items():
    INPUTS[_name] = BadInput("scan-list", partial(_list, _text))


# Archives.


def write_zip(path: Path, members: Iterable[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    """A zip file of these members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members:
            archive.writestr(member, data)
    return path


def _zipped_series(
    path: Path, *others: tuple[str | zipfile.ZipInfo, bytes], first: int = 0
) -> Path:
    """A good DICOM series in a zip file, and other members."""
    series = phantom_series(path.parent / "series", num_slices=14, spacing_mm=10.0)
    good = [(file.name, file.read_bytes()) for file in series.paths[first:]]
    return write_zip(path, [*good, *others])


@INPUTS.add("archive-damaged")
def zip_cut_in_half(folder: Path) -> Path:
    path = _zipped_series(folder / "scan.zip")
    return change(path, path.stat().st_size // 2, cut=True)


@INPUTS.add("archive-damaged")
def zip_with_a_wrong_checksum(folder: Path) -> Path:
    # Stored, not packed, so that nothing but the checksum can tell.
    stored = zipfile.ZipInfo("slice.dcm")
    series = phantom_series(folder / "series", num_slices=14, spacing_mm=10.0)
    path = write_zip(
        folder / "scan.zip",
        [(stored if k == 0 else p.name, p.read_bytes()) for k, p in enumerate(series.paths)],
    )
    return change(path, 5000)


@INPUTS.add("archive-damaged")
def zip_with_a_password(folder: Path) -> Path:
    path = _zipped_series(folder / "scan.zip")
    data = bytearray(path.read_bytes())
    # The flag "encrypted" in the local headers and in the directory.
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.find(signature)
        while start >= 0:
            data[start + place] |= 1
            start = data.find(signature, start + 4)
    path.write_bytes(data)
    return path


@INPUTS.add("archive-outside")
def zip_that_points_outside(folder: Path) -> Path:
    return _zipped_series(folder / "scan.zip", ("../../outside.dcm", b"0"))


@INPUTS.add("archive-outside")
def zip_with_an_absolute_path(folder: Path) -> Path:
    return _zipped_series(folder / "scan.zip", ("/etc/outside.dcm", b"0"))


@INPUTS.add("archive-link")
def zip_with_a_link(folder: Path) -> Path:
    link = zipfile.ZipInfo("link.dcm")
    link.create_system = 3
    link.external_attr = 0o120777 << 16
    return _zipped_series(folder / "scan.zip", (link, b"/etc/passwd"))


@INPUTS.add("archive-too-many")
def zip_of_too_many_members(folder: Path) -> Path:
    path = folder / "scan.zip"
    path.write_bytes(_raw_zip((f"{n:06}".encode(), b"\3\0", 0) for n in range(100_001)))
    return path


@INPUTS.add("archive-bomb")
def zip_bomb(folder: Path) -> Path:
    return write_zip_bomb(folder / "scan.zip", num_mib=1500)


def write_zip_bomb(path: Path, *, num_mib: int, claimed: int | None = None) -> Path:
    """A zip file of one member that inflates to so many MiB of zeros, or claims another size."""
    packer = zlib.compressobj(9, wbits=-15)
    # A block after a full flush knows nothing of what came before, so it can be repeated.
    zeros = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed, size = zeros * num_mib + packer.flush(), num_mib * 2**20
    path.write_bytes(_raw_zip([(b"zeros.dcm", packed, size if claimed is None else claimed)]))
    return path


def _raw_zip(members: Iterable[tuple[bytes, bytes, int]]) -> bytes:
    """A zip file of members (name, deflated bytes, size that is claimed) without checksums."""
    data, directory, number = bytearray(), bytearray(), 0
    for name, packed, size in members:
        sizes = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, 0, len(packed), size, len(name), 0)
        place = struct.pack("<HHHII", 0, 0, 0, 0, len(data))
        directory += b"PK\1\2" + struct.pack("<H", 20) + sizes + place + name
        data += b"PK\3\4" + sizes + name + packed
        number += 1
    counts = (0, 0, number & 0xFFFF, number & 0xFFFF, len(directory), len(data), 0)
    return bytes(data + directory + b"PK\5\6" + struct.pack("<HHHHIIH", *counts))


@INPUTS.add("archive-damaged")
def zip_that_claims_to_be_small(folder: Path) -> Path:
    return write_zip_bomb(folder / "scan.zip", num_mib=1500, claimed=5000)


@INPUTS.add("archive-nested")
def zip_in_a_zip(folder: Path) -> Path:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a.dcm", b"0")
    return _zipped_series(folder / "scan.zip", ("inner.zip", inner.getvalue()))
