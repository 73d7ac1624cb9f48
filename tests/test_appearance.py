import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from hemaseg.slices.appearance import (
    MAX_LIMIT,
    MIN_LIMIT,
    MIN_SCANS,
    STATISTICS,
    Appearance,
    describe_appearance,
    slice_statistics,
    unlike_training,
)
from hemaseg.slices.dataset import SliceName, SliceSet, fit_to_square
from hemaseg.slices.intensity import Range
from small_heads import small_head

SIZE = 64
Stack = NDArray[np.float32]


def head(seed: int, low: float = 30, high: float = 100) -> Stack:
    """A synthetic head as the network sees it."""
    return Range(low, high).scale(small_head(seed).voxels)


def slices_of(stacks: list[Stack], *, size: int = SIZE) -> SliceSet:
    images = [fit_to_square(torch.from_numpy(stack)[:, None], size).half() for stack in stacks]
    names = [
        SliceName(f"s{number}", f"{k}.png", 0, "1")
        for number, stack in enumerate(stacks)
        for k in range(len(stack))
    ]
    joined = torch.cat(images)
    return SliceSet(joined, torch.zeros(joined.shape, dtype=torch.bool), tuple(names))


@pytest.fixture(scope="module")
def known() -> Appearance:
    found = describe_appearance(slices_of([head(seed) for seed in range(1, 31)]))
    assert found is not None
    return found


def measured(image: NDArray[Any]) -> dict[str, float]:
    (found,) = slice_statistics(image[None])
    return dict(zip(STATISTICS, found.tolist(), strict=True))


def test_statistics_by_hand() -> None:
    image = np.zeros((10, 20))
    image[2:6, 5:15] = np.linspace(0.1, 1.0, 10)  # 4 rows of 10 columns, the last one white
    found = measured(image)
    assert found["black"] == pytest.approx(1 - 40 / 200)
    assert found["white"] == pytest.approx(4 / 200)
    assert [found[name] for name in ("dark_grey", "middle_grey", "bright_grey")] == pytest.approx(
        [0.1, 0.5, 0.9], abs=0.003
    )
    assert (found["height"], found["width"]) == (0.4, 0.5)
    # Down: up to the row and back in 10 columns. Across: 9 steps and 0.1 more up, 1 down, in 4.
    down, across = 2 * image[2].sum() / (9 * 20), 4 * 2.0 / (10 * 19)
    assert found["roughness"] == pytest.approx((down + across) / 2, abs=1e-3)


@pytest.mark.parametrize(("value", "black", "white"), [(0.0, 1, 0), (1.0, 0, 1), (0.5, 0, 0)])
def test_statistics_of_constant_images(value: float, black: int, white: int) -> None:
    found = measured(np.full((8, 8), value))
    assert (found["black"], found["white"], found["roughness"]) == (black, white, 0)
    assert (found["height"], found["width"]) == (1 - black, 1 - black)
    assert found["middle_grey"] == pytest.approx(value if value == 0.5 else 0, abs=0.003)


def test_a_few_bright_pixels_are_no_head() -> None:
    image = np.zeros((100, 100))
    image[20:80, 30:70] = 0.5
    image[3, 3] = image[97, 95] = 1
    found = measured(image)
    assert (found["height"], found["width"]) == (0.6, 0.4)


def test_heads_like_those_of_training_give_no_note(known: Appearance) -> None:
    reasons = [unlike_training(head(seed), SIZE, known) for seed in range(100, 140)]
    # Scanners and positions of these heads vary as much as real ones; 30 do not show all.
    assert sum(map(bool, reasons)) <= 3


def inverted(random: np.random.Generator) -> Stack:
    return np.asarray(1 - head(50))


def noise(random: np.random.Generator) -> Stack:
    return random.random((16, 64, 64)).astype(np.float32)


def photograph(random: np.random.Generator) -> Stack:
    """Noise whose amplitude falls with frequency, as in pictures of the world."""
    spectrum = np.fft.rfft2(random.normal(size=(16, 64, 64)))
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64)[None])
    pictures = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / 64), s=(64, 64))
    low, high = pictures.min(axis=(1, 2), keepdims=True), pictures.max(axis=(1, 2), keepdims=True)
    return np.asarray((pictures - low) / (high - low), np.float32)


def nearly_empty(random: np.random.Generator) -> Stack:
    return head(50) * np.float32(0.01)


def mri(random: np.random.Generator) -> Stack:
    """No skull, a black background, and brain of all greys."""
    brain = small_head(50).voxels
    inside = (brain > -50) & (brain < 200)
    return np.where(inside, random.normal(0.5, 0.1, brain.shape), 0).clip(0, 1).astype(np.float32)


def wrong_window(random: np.random.Generator) -> Stack:
    return head(50, -1000, 2000)


def one_photograph(random: np.random.Generator) -> Stack:
    return photograph(random)[:1]


@pytest.mark.parametrize(
    "make",
    [inverted, noise, photograph, nearly_empty, mri, wrong_window, one_photograph],
    ids=lambda make: make.__name__,
)
def test_what_training_never_showed_is_noted(
    known: Appearance, make: Callable[[np.random.Generator], Stack]
) -> None:
    reason = unlike_training(make(np.random.default_rng(0)), SIZE, known)
    found = re.fullmatch(
        r"(.+) is ([\d.]+), in training ([\d.]+) with a spread of ([\d.]+): ([\d.]+) spreads off, "
        r"at most ([\d.]+) were expected; the mask may mean nothing",
        reason,
    )
    assert found is not None, reason
    assert found[1] in STATISTICS.values()
    value, center, spread, distance, limit = (float(found[k]) for k in range(2, 7))
    assert distance > limit
    # The message shows rounded numbers.
    assert abs(value - center) / spread == pytest.approx(distance, rel=0.1)


def test_single_slices_are_compared_with_single_slices(known: Appearance) -> None:
    reasons = [
        unlike_training(head(seed)[k : k + 1], SIZE, known)
        for seed in range(100, 110)
        for k in range(4, 12)
    ]
    assert sum(map(bool, reasons)) <= 2
    assert all(known.slices.spread[name] >= known.scans.spread[name] for name in ("black", "width"))


def test_scans_are_compared_at_the_size_of_the_network() -> None:
    """Trained on slices of 128 and of 256 pixels, none of them the network's own size."""

    def fine(seed: int, num_pixels: int) -> Stack:
        return Range(30, 100).scale(small_head(seed, size=num_pixels).voxels)

    known = describe_appearance(
        slices_of([fine(seed, 128 + 128 * (seed % 2)) for seed in range(12)])
    )
    assert known is not None
    # Heads of training, which a third size makes no others.
    assert [unlike_training(fine(k, 192), SIZE, known) for k in range(4)] == [""] * 4
    assert unlike_training(np.asarray(1 - fine(100, 192)), SIZE, known)


def test_description_repeats_and_does_not_depend_on_batches_or_order() -> None:
    stacks = [head(seed) for seed in range(1, 8)]
    one, two = (describe_appearance(slices_of(some)) for some in (stacks, stacks[::-1]))
    assert one is not None
    assert two is not None
    assert one == describe_appearance(slices_of(stacks))
    assert one.scans.center == two.scans.center
    assert one.slices.limit == pytest.approx(two.slices.limit)
    assert (one.scans.num, one.slices.num) == (7, 7 * 16)


def test_slices_of_one_scan_are_one_scan() -> None:
    stacks = [head(seed) for seed in range(1, MIN_SCANS + 1)]
    slices = slices_of(stacks)
    found = describe_appearance(slices)
    assert found is not None
    of_scans = [
        np.median(slice_statistics(slices.images[16 * k : 16 * k + 16, 0].float().numpy()), axis=0)
        for k in range(len(stacks))
    ]
    expected = np.median(of_scans, axis=0)
    assert list(found.scans.center.values()) == pytest.approx(expected.tolist())


def test_few_scans_are_not_described() -> None:
    stacks = [head(seed) for seed in range(1, MIN_SCANS)]
    assert describe_appearance(slices_of(stacks)) is None


def test_the_limit_stays_within_its_range() -> None:
    alike = describe_appearance(slices_of([head(1)] * 6))
    assert alike is not None
    assert alike.scans.limit == MIN_LIMIT
    odd = describe_appearance(slices_of([*[head(seed) for seed in range(1, 20)], 1 - head(20)]))
    assert odd is not None
    assert odd.scans.limit == MAX_LIMIT
    assert unlike_training(inverted(np.random.default_rng(0)), SIZE, odd)


def test_the_limit_covers_what_it_says() -> None:
    """Images of one grey each, whose spread is known: normal, so that few are beyond 4."""
    random = np.random.default_rng(3)
    greys = random.normal(0.5, 0.05, 1400).astype(np.float32)
    stacks = [np.full((1, 16, 16), grey) for grey in greys]
    found = describe_appearance(slices_of(stacks[:400], size=16))
    assert found is not None
    assert found.scans.center["middle_grey"] == pytest.approx(0.5, abs=0.01)
    assert found.scans.spread["middle_grey"] == pytest.approx(0.05, rel=0.1)
    assert sum(bool(unlike_training(stack, 16, found)) for stack in stacks[400:]) <= 10


def pictures(folder: Path, *, mask: str) -> Stack:
    """Every third slice of a folder, in [0, 1]."""
    files = sorted(f for f in folder.glob("*.png") if mask not in f.stem)[::3]
    return np.stack([np.asarray(Image.open(f), np.float32) / 255 for f in files])


@pytest.mark.real_data
def test_real_scans(real_data: Path) -> None:
    folders = sorted(path for path in (real_data / "mri-lgg-flair").iterdir() if path.is_dir())
    heads = [pictures(folder, mask="mask") for folder in folders[::2]]
    known = describe_appearance(slices_of(heads[::2]))
    assert known is not None
    others = heads[1::2]
    assert sum(bool(unlike_training(stack, SIZE, known)) for stack in others) <= 1
    assert all(unlike_training(1 - stack, SIZE, known) for stack in others)
    flat = [np.ascontiguousarray(stack * np.float32(0.03)) for stack in others]
    assert all(unlike_training(stack, SIZE, known) for stack in flat)
