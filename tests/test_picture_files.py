"""Pictures that Pillow reads as other pixels than are stored: refused. Sound ones: read."""

import re
import struct
import time
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hemaseg.errors import ScanError
from hemaseg.scans.images import read_scan
from hemaseg.scans.picture_files import check_whole
from hemaseg.scans.screening import Screen
from image_files import gradient, png_chunks, save_picture

ADAM7 = (
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
    *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
)


def interlaced_png(pixels: NDArray[Any]) -> bytes:
    """A PNG of grey pixels in seven passes, which Pillow cannot write."""
    big = pixels.astype(pixels.dtype.newbyteorder(">"))
    passes = [big[row::down, column::across] for row, column, down, across in ADAM7]
    rows = b"".join(b"\0" + row.tobytes() for one in passes if one.size for row in one)
    rows_columns = pixels.shape[::-1]
    header = struct.pack(">IIBBBBB", *rows_columns, pixels.dtype.itemsize * 8, 0, 0, 0, 1)
    return png_chunks((b"IHDR", header), (b"IDAT", zlib.compress(rows)))


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_interlaced_pngs_of_any_size_are_read(tmp_path: Path, dtype: str) -> None:
    for size in np.ndindex(10, 10):
        rows, columns = size[0] + 1, size[1] + 1
        pixels = np.random.default_rng(1).integers(0, 255, (rows, columns)).astype(dtype)
        (tmp_path / "a.png").write_bytes(interlaced_png(pixels))
        np.testing.assert_array_equal(read_scan(tmp_path / "a.png").voxels[0], pixels)


@pytest.mark.parametrize(("num_rows", "found"), [(5, "50"), (7, "70")])
def test_png_of_other_rows_than_its_header_says(tmp_path: Path, num_rows: int, found: str) -> None:
    """Every checksum is right; Pillow makes missing rows black, and leaves surplus ones out."""
    header = struct.pack(">IIBBBBB", 9, 6, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(range(1, 10))) * num_rows)
    path = tmp_path / "a.png"
    path.write_bytes(png_chunks((b"IHDR", header), (b"IDAT", rows)))
    with pytest.raises(ScanError, match=f"{found} bytes of pixels where 60 belong") as caught:
        read_scan(path)
    assert caught.value.kind == "picture-damaged"


def test_time_for_a_png_grows_as_its_pixels_do(tmp_path: Path) -> None:
    """In one piece, as many programs write it: 16 times the pixels take no 100 times as long."""
    seconds = []
    for size in (1500, 6000):
        rows = np.random.default_rng(0).integers(0, 256, (size, size + 1), dtype=np.uint8)
        rows[:, 0] = 0
        header = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
        data = png_chunks((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)))
        screen = Screen("a.png")
        times = []
        for _ in range(3):
            start_s = time.process_time()
            check_whole("PNG", data, screen)
            times.append(time.process_time() - start_s)
        seconds.append(min(times))
    assert seconds[1] < 100 * seconds[0]


def head_like() -> NDArray[np.uint8]:
    """(64, 64) something that compresses as pictures do."""
    y, x = np.indices((64, 64))
    noise = np.random.default_rng(0).normal(0, 5, (64, 64))
    smooth = 128 + 60 * np.sin(x / 5) + 60 * np.cos(y / 7)
    return np.asarray((smooth + noise).clip(0, 255), dtype=np.uint8)


def jpeg(pixels: NDArray[np.uint8], **options: Any) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.4, 0.6, 0.95])
def test_jpeg_that_was_cut_and_closed(tmp_path: Path, progressive: bool, share: float) -> None:
    """With an end marker behind the cut, Pillow makes the rest grey without a word."""
    data = jpeg(head_like(), progressive=progressive)
    path = tmp_path / "a.jpg"
    path.write_bytes(data[: int(share * len(data))] + b"\xff\xd9")
    with Image.open(path) as picture:
        assert np.asarray(picture).shape == (64, 64)
    with pytest.raises(ScanError, match="pixels whose data end early") as caught:
        read_scan(path)
    assert caught.value.kind == "picture-damaged"


@pytest.mark.parametrize("quality", [1, 50, 75, 100])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}])
def test_sound_jpegs_are_read(tmp_path: Path, quality: int, options: dict[str, Any]) -> None:
    for rows, columns in ((64, 64), (63, 50), (1, 9)):
        pixels = head_like()[:rows, :columns]
        (tmp_path / "a.jpg").write_bytes(jpeg(pixels, quality=quality, **options))
        with Image.open(tmp_path / "a.jpg") as picture:
            expected = np.asarray(picture)
        np.testing.assert_array_equal(read_scan(tmp_path / "a.jpg").voxels[0], expected)


def test_jpeg_with_bytes_that_fill_up_before_its_end_is_read(tmp_path: Path) -> None:
    """ITU-T T.81, B.1.1.2: any marker may follow any number of bytes 0xFF."""
    data = jpeg(head_like())
    (tmp_path / "a.jpg").write_bytes(data[:-2] + b"\xff" * 5 + data[-2:])
    with Image.open(BytesIO(data)) as picture:
        expected = np.asarray(picture)
    np.testing.assert_array_equal(read_scan(tmp_path / "a.jpg").voxels[0], expected)


def tiff(pixels: NDArray[Any], order: Any = "<", **tags: Any) -> bytes:
    """A TIFF of one page and one strip; `t257=5` sets the tag of this number."""
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    is_packed = tags.pop("is_packed", False)
    data = zlib.compress(data) if is_packed else data
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    rows, columns = pixels.shape
    values = {
        **{256: columns, 257: rows, 258: 8 * pixels.dtype.itemsize, 259: 8 if is_packed else 1},
        **{262: 1, 273: 8, 277: 1, 278: rows, 279: len(data), 339: kind},
        **{int(tag[1:]): value for tag, value in tags.items()},
    }
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, v) for tag, v in values.items())
    mark = {"<": b"II", ">": b"MM"}[order]
    place = 8 + len(data) + len(data) % 2
    start = mark + struct.pack(f"{order}HI", 42, place) + data.ljust(place - 8, b"\0")
    return start + struct.pack(f"{order}H", len(values)) + entries + bytes(4)


NUMBERS = np.random.default_rng(2).integers(-90, 90, (6, 9))
TYPES: dict[str, tuple[NDArray[Any], dict[str, Any], str]] = {
    "signed bytes": (NUMBERS.astype("i1"), {}, "signed 8 bits"),
    "unsigned numbers that are large": (
        (NUMBERS + 2**31).astype("u4"),
        {},
        "unsigned numbers beyond 2,147,483,647",
    ),
    "16 bits in which 0 is white": (
        (NUMBERS + 90).astype("u2"),
        {"t262": 0},
        "I;16 in which 0 is white",
    ),
    **{
        f"big endian and compressed {dtype}": (
            NUMBERS.astype(dtype),
            {"order": ">", "is_packed": True},
            "big endian and compressed",
        )
        for dtype in ("i2", "i4", "f4")
    },
}


@pytest.mark.parametrize("name", TYPES)
def test_tiff_of_a_type_that_pillow_changes(tmp_path: Path, name: str) -> None:
    """Refused, or with a Pillow that reads it right (11.0 signed 16 bits) read right."""
    pixels, options, found = TYPES[name]
    (tmp_path / "a.tif").write_bytes(tiff(pixels, **options))
    said = ""
    try:
        np.testing.assert_array_equal(read_scan(tmp_path / "a.tif").voxels[0], pixels)
    except ScanError as error:
        said = f"{error.kind}: {error}"
    assert not said or re.search(f"^voxel-type: .*pixels of type .*{found}", said)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "f4"])
def test_tiff_of_other_types_is_read(tmp_path: Path, order: str, dtype: str) -> None:
    pixels = (NUMBERS + 90 * (dtype[0] == "u")).astype(dtype)
    (tmp_path / "a.tif").write_bytes(tiff(pixels, order))
    np.testing.assert_array_equal(read_scan(tmp_path / "a.tif").voxels[0], pixels)
    if order == "<" or dtype[0] == "u":
        (tmp_path / "a.tif").write_bytes(tiff(pixels, order, is_packed=True))
        np.testing.assert_array_equal(read_scan(tmp_path / "a.tif").voxels[0], pixels)


def test_tiff_of_small_unsigned_numbers_is_read(tmp_path: Path) -> None:
    """As programs write label maps."""
    (tmp_path / "a.tif").write_bytes(tiff(abs(NUMBERS).astype("u4")))
    np.testing.assert_array_equal(read_scan(tmp_path / "a.tif").voxels[0], abs(NUMBERS))


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ({"t257": 8}, "4 rows of pixels where 8 belong"),
        ({"t257": 3}, "4 rows of pixels where 3 belong"),
        ({"t279": 12}, "2 rows of pixels where 4 belong"),
        ({"t256": 8}, "3 rows of pixels where 4 belong"),
    ],
)
def test_tiff_of_other_rows_than_its_strips_hold(
    tmp_path: Path, tags: dict[str, int], found: str
) -> None:
    """Pillow reads on behind the strip, or leaves the rest of it out."""
    (tmp_path / "a.tif").write_bytes(tiff(gradient(), **tags))
    with pytest.raises(ScanError, match=found) as caught:
        read_scan(tmp_path / "a.tif")
    assert caught.value.kind == "picture-damaged"


def test_tiff_without_a_tile(tmp_path: Path) -> None:
    """Pillow makes the tile black."""
    pixels = np.full((16, 16), 7, np.uint8)
    tags = {"t256": 32, "t322": 16, "t323": 16, "t324": 8, "t325": 256}
    data = tiff(pixels, **tags)
    # Strips as tiles: the tags of strips become private ones.
    for tag in (273, 279):
        data = data.replace(struct.pack("<HH", tag, 4), struct.pack("<HH", 60000 + tag, 4))
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(ScanError, match="1 tiles of pixels where 2 belong") as caught:
        read_scan(tmp_path / "a.tif")
    assert caught.value.kind == "picture-damaged"


def test_what_pillow_writes_is_read(tmp_path: Path) -> None:
    for dtype in ("u1", "u2", "i4", "f4"):
        pixels = gradient(dtype)
        for compression in ("raw", "tiff_lzw", "tiff_deflate", "packbits"):
            path = save_picture(tmp_path / "a.tif", pixels, compression=compression)
            np.testing.assert_array_equal(read_scan(path).voxels[0], pixels)
