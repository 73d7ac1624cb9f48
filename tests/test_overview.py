from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from hemaseg.prediction.overview import MAX_TILES, OUTLINE_RGB, chosen_slices, write_overview


def areas(*numbers: int) -> NDArray[np.bool_]:
    """(K, 1, W) with so many pixels in each slice."""
    return np.arange(max(numbers) + 1)[None, None] < np.array(numbers)[:, None, None]


def test_lesions_are_shown_with_their_neighbours() -> None:
    assert chosen_slices(areas(0, 0, 1, 0, 0, 0, 0, 2, 2)) == [1, 2, 3, 6, 7, 8]


def test_without_lesion_an_even_choice_is_shown() -> None:
    assert chosen_slices(areas(*[0] * 5)) == [0, 1, 2, 3, 4]
    shown = chosen_slices(areas(*[0] * 93))
    assert (len(shown), shown[0], shown[-1]) == (MAX_TILES, 0, 92)
    assert set(np.diff(shown)) == {4}


@given(st.lists(st.integers(0, 9), min_size=1, max_size=120))
def test_few_tiles_in_order_with_the_largest_area(numbers: list[int]) -> None:
    shown = chosen_slices(areas(*numbers))
    assert 1 <= len(shown) <= MAX_TILES
    assert shown == sorted(set(shown))
    assert max(numbers[k] for k in shown) == max(numbers)


def picture(path: Path, **options: object) -> NDArray[np.uint8]:
    voxels = np.full((4, 40, 20), 0.5, np.float32)
    voxels[2, :, :10] = 1.0
    mask = np.zeros(voxels.shape, bool)
    mask[2, 10:20, 4:8] = True
    arguments = {"pixel_mm": (1.0, 1.0), "caption": ["case: 1.0 mL"], **options}
    write_overview(voxels, mask, path, **arguments)  # type: ignore[arg-type]
    with Image.open(path) as opened:
        assert opened.mode == "RGB"
        return np.array(opened)


def outlined(pixels: NDArray[np.uint8]) -> NDArray[np.intp]:
    """(N, 2) places of the outline."""
    return np.argwhere((pixels == OUTLINE_RGB).all(axis=-1))


def test_the_outline_surrounds_the_mask(tmp_path: Path) -> None:
    places = outlined(picture(tmp_path / "a.png"))
    # Tiles are 256 high, so 6.4 per pixel: the mask covers 64 rows and 26 columns.
    height, width = np.ptp(places, axis=0) + 1
    assert abs(height - (64 + 2)) <= 2
    assert abs(width - (25.6 + 2)) <= 2


def test_one_pixel_of_a_large_slice_is_outlined(tmp_path: Path) -> None:
    mask = np.zeros((1, 1000, 1000), bool)
    mask[0, 501, 333] = True
    path = tmp_path / "a.png"
    write_overview(np.zeros(mask.shape, np.float32), mask, path, pixel_mm=None, caption=[])
    with Image.open(path) as opened:
        assert len(outlined(np.array(opened))) >= 4


def test_tiles_have_the_proportions_of_the_head(tmp_path: Path) -> None:
    tall = picture(tmp_path / "a.png")
    square = picture(tmp_path / "b.png", pixel_mm=(0.5, 1.0))
    assert square.shape[1] > 1.8 * tall.shape[1]


def test_sides_are_marked_only_where_they_are_known(tmp_path: Path) -> None:
    known = picture(tmp_path / "a.png")
    unknown = picture(tmp_path / "b.png", pixel_mm=None)
    differs = np.argwhere((known != unknown).any(axis=-1))
    rows = differs[:, 0]
    assert len(differs)  # "R" and "L", at half the height of the tiles
    assert ((rows > 120) & (rows < 145)).all()


def test_the_same_case_gives_the_same_bytes(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("caption", [[], ["short"], ["a line that is far longer than tiles " * 9]])
def test_the_whole_caption_is_on_the_picture(tmp_path: Path, caption: list[str]) -> None:
    pixels = picture(tmp_path / "a.png", caption=caption)
    border = np.concatenate([pixels[:, -2:].reshape(-1, 3), pixels[-2:].reshape(-1, 3)])
    assert (border == border[0]).all()
