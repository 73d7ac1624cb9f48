"""Pictures: exact values, pages and stacks, and the refusal of all that is not plain grey."""

import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hemaseg.errors import ScanError
from hemaseg.scans.images import read_scan
from hemaseg.scans.pictures import is_picture, read_stack, write_pictures
from hemaseg.scans.screening import ReadOptions
from image_files import gradient, made_scan, png_chunks, save_pages, save_picture


def refusal(path: Path, options: ReadOptions | None = None) -> ScanError:
    with pytest.raises(ScanError) as caught:
        read_scan(path, options)
    assert str(caught.value).startswith(f"{path}: ")
    return caught.value


def test_names() -> None:
    assert is_picture(Path("b.TIF"))
    assert not is_picture(Path("b.nii.gz"))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pictures_keep_values_and_type(tmp_path: Path, suffix: str, dtype: Any) -> None:
    pixels = gradient(dtype) * np.iinfo(dtype).max // 23
    scan = read_scan(save_picture(tmp_path / f"a{suffix}", pixels))
    assert scan.voxels.shape == (1, 4, 6)
    assert scan.voxels.dtype == dtype
    np.testing.assert_array_equal(scan.voxels[0], pixels)
    assert scan.affine is None
    assert scan.spacing_mm is None
    assert np.isnan(scan.voxel_ml)
    assert scan.pictures == ()


def test_jpeg_is_read_as_grey(tmp_path: Path) -> None:
    pixels = np.full((8, 8), 77, dtype=np.uint8)
    path = save_picture(tmp_path / "a.jpg", pixels, quality=100)
    np.testing.assert_array_equal(read_scan(path).voxels, pixels[np.newaxis])


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_tiff_with_signed_values(tmp_path: Path, dtype: Any) -> None:
    pixels = gradient(dtype) - 1000
    scan = read_scan(save_picture(tmp_path / "a.tif", pixels))
    assert scan.voxels.dtype == dtype
    np.testing.assert_array_equal(scan.voxels[0], pixels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_in_colour_is_read_as_grey(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(gradient()).convert(mode).save(path)
    scan = read_scan(path)
    assert scan.voxels.dtype == np.uint8
    np.testing.assert_array_equal(scan.voxels[0], gradient())


def test_one_bit_picture_has_0_and_255(tmp_path: Path) -> None:
    scan = read_scan(save_picture(tmp_path / "a.png", np.eye(3, dtype=np.bool_)))
    np.testing.assert_array_equal(scan.voxels[0], 255 * np.eye(3))
    assert scan.voxels.dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}])
def test_pages_are_slices(tmp_path: Path, dtype: Any, options: dict[str, str]) -> None:
    pages = np.stack([gradient(dtype) + 30 * k for k in range(3)])
    scan = read_scan(save_pages(tmp_path / "a.tif", pages, **options))
    np.testing.assert_array_equal(scan.voxels, pages)
    assert scan.voxels.dtype == dtype
    assert scan.affine is None


@pytest.mark.parametrize(
    ("page", "found"),
    [
        (gradient()[:3], "3 x 6 pixels of type uint8"),
        (gradient(np.uint16), "4 x 6 pixels of type uint16"),
    ],
)
def test_pages_that_differ_are_refused(tmp_path: Path, page: NDArray[Any], found: str) -> None:
    path = tmp_path / "a.tif"
    pages = [Image.fromarray(pixels) for pixels in (gradient(), gradient(), page)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    error = refusal(path)
    assert f"page 3 has {found}, page 1 has 4 x 6 pixels of type uint8" in str(error)
    assert error.kind == "mixed-stack"


def test_a_fault_of_a_later_page_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    voxels = np.ones((3, 2, 2), np.float32)
    voxels[2, 0, 0] = np.nan
    error = refusal(save_pages(path, voxels))
    assert error.kind == "not-finite"
    colour = Image.fromarray(np.array([[[9, 9, 9], [9, 9, 8]]], np.uint8))
    Image.fromarray(gradient()).save(path, save_all=True, append_images=[colour])
    assert "1 coloured and 0 transparent" in str(refusal(path))


def test_moving_pictures_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(gradient()).save(
        path, save_all=True, append_images=[Image.fromarray(gradient() + 1)]
    )
    error = refusal(path)
    assert (error.kind, "2 frames, expected 1" in str(error)) == ("not-3d", True)


def test_a_stack_is_read_in_the_order_given(tmp_path: Path) -> None:
    paths = [save_picture(tmp_path / f"s{k}.png", gradient() + k) for k in (2, 0, 1)]
    scan = read_stack(paths)
    np.testing.assert_array_equal(scan.voxels[:, 0, 0], [2, 0, 1])
    assert (scan.path, scan.pictures, scan.affine) == (tmp_path, tuple(paths), None)
    one = read_stack(paths[:1])
    assert (one.voxels.shape, one.pictures) == ((1, 4, 6), (paths[0],))


def test_stacks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    first = save_picture(tmp_path / "1.png", gradient())
    other = save_picture(tmp_path / "2.tif", gradient(np.uint16))
    with pytest.raises(ScanError, match=r"2\.tif has 4 x 6 .*uint16, 1\.png has .*uint8") as caught:
        read_stack([first, other])
    assert caught.value.kind == "mixed-stack"
    pages = save_pages(tmp_path / "3.tif", np.stack([gradient()] * 2))
    with pytest.raises(ScanError, match=r"3\.tif: 2 pages, expected 1") as caught:
        read_stack([first, pages])
    assert caught.value.kind == "mixed-stack"
    twin = save_picture(tmp_path / "1.tif", gradient())
    with pytest.raises(ScanError, match="names differ only in their suffix") as caught:
        read_stack([first, twin])
    assert caught.value.kind == "mixed-stack"
    with pytest.raises(ScanError, match=r"gone\.png: no such file"):
        read_stack([first, tmp_path / "gone.png"])
    # Each fits, all together do not.
    size = max(72, first.stat().st_size)
    stack = [save_picture(tmp_path / f"{k}.png", gradient()) for k in range(10, 14)]
    assert read_stack(stack[:3], ReadOptions(max_bytes=size)).voxels.nbytes == 72
    with pytest.raises(ScanError, match=f"4 pictures take 96 bytes, expected at most {size}"):
        read_stack(stack, ReadOptions(max_bytes=size))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9, 0.99])
def test_cut_files_are_refused(tmp_path: Path, name: str, share: float) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (32, 32), dtype=np.uint8)
    path = save_picture(tmp_path / name, pixels)
    data = path.read_bytes()
    path.write_bytes(data[: 1 + int(share * len(data))])
    error = refusal(path)
    assert (error.kind, "cannot be decoded" in str(error)) == ("picture-damaged", True)


def test_a_cut_in_the_last_page_is_refused(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (3, 32, 32), dtype=np.uint8)
    path = save_pages(tmp_path / "a.tif", pixels)
    path.write_bytes(path.read_bytes()[:-40])
    assert refusal(path).kind == "picture-damaged"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_other_content_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("This is no image. " * 50)
    assert refusal(tmp_path / name).kind == "picture-damaged"


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (np.array([[[9, 9, 9], [9, 9, 8]]], np.uint8), "1 coloured and 0 transparent"),
        (np.array([[[9, 255], [9, 254]]], np.uint8), "0 coloured and 1 transparent"),
    ],
)
def test_colour_and_transparency_are_refused(
    tmp_path: Path, pixels: NDArray[Any], found: str
) -> None:
    error = refusal(save_picture(tmp_path / "a.png", pixels))
    assert (error.kind, found in str(error)) == ("coloured", True)


def test_colour_palette_is_refused(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1]], np.uint8), mode=None).convert("P")
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.save(tmp_path / "a.png")
    assert "1 coloured and 0 transparent" in str(refusal(tmp_path / "a.png"))


def test_colour_that_would_lose_precision_is_refused(tmp_path: Path) -> None:
    rows = zlib.compress(b"\0" + struct.pack(">3H", 256, 256, 256))
    header = struct.pack(">2I5B", 1, 1, 16, 2, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(png_chunks((b"IHDR", header), (b"IDAT", rows)))
    error = refusal(path)
    assert "pixels of type RGB;16B, expected grey" in str(error)
    assert error.kind == "voxel-type"
    Image.new("CMYK", (2, 2)).save(tmp_path / "a.jpg")
    assert "pixels of type CMYK" in str(refusal(tmp_path / "a.jpg"))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_orientation_tag_is_refused(tmp_path: Path, suffix: str) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    error = refusal(save_picture(tmp_path / f"a{suffix}", gradient(), exif=tags))
    assert (error.kind, "orientation tag 6, expected 1" in str(error)) == ("turned", True)


def test_pixels_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    error = refusal(save_picture(tmp_path / "a.tif", np.full((1, 2), np.inf, np.float32)))
    assert (error.kind, "2 voxels are NaN or infinite" in str(error)) == ("not-finite", True)


@pytest.mark.parametrize("size", [10_000, 60_000])
def test_picture_beyond_any_size_is_refused_before_it_is_decoded(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.png"
    header = struct.pack(">2I5B", size, size, 8, 0, 0, 0, 0)
    path.write_bytes(png_chunks((b"IHDR", header), (b"IDAT", zlib.compress(b"0"))))
    error = refusal(path)
    assert (error.kind, f"{size * size} pixels" in str(error)) == ("too-large", True)


def test_the_limit_holds_for_decoded_pixels(tmp_path: Path) -> None:
    path = save_picture(tmp_path / "a.png", np.zeros((500, 2000), np.uint16))
    assert read_scan(path, ReadOptions(max_bytes=2_000_000)).voxels.nbytes == 2_000_000
    error = refusal(path, ReadOptions(max_bytes=1_999_999))
    assert "1 x 500 x 2000 pixels take 2,000,000 bytes, expected at most 1,999,999" in str(error)
    assert error.kind == "too-large"
    pages = save_pages(
        tmp_path / "a.tif", np.zeros((9, 500, 2000), np.uint8), compression="tiff_deflate"
    )
    tracemalloc.start()
    error = refusal(pages, ReadOptions(max_bytes=8_000_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "9 x 500 x 2000 pixels take 9,000,000 bytes" in str(error)
    assert peak < 1_000_000


def test_written_pictures_are_read_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for dtype in (np.uint8, np.uint16):
        slices = rng.integers(0, np.iinfo(dtype).max, (3, 4, 6), dtype=dtype)
        one, pages = made_scan(slices[:1]), made_scan(slices)
        write_pictures(slices[:1], one, tmp_path / "a.png")
        write_pictures(slices, pages, tmp_path / "a.tif")
        np.testing.assert_array_equal(read_scan(tmp_path / "a.png").voxels, slices[:1])
        np.testing.assert_array_equal(read_scan(tmp_path / "a.tif").voxels, slices)
        stack = made_scan(slices, pictures=tuple(Path(f"in/s{k}.jpg") for k in range(3)))
        write_pictures(slices, stack, tmp_path / "out")
        paths = [tmp_path / f"out/s{k}.png" for k in range(3)]
        assert sorted((tmp_path / "out").iterdir()) == paths
        np.testing.assert_array_equal(read_stack(paths).voxels, slices)
    with pytest.raises(ValueError, match=r"a\.jpg: expected a name ending in \.png"):
        write_pictures(slices[:1], one, tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.png: expected a name ending in \.tif or \.tiff"):
        write_pictures(slices, pages, tmp_path / "a.png")
