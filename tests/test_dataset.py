import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from devices import DEVICES
from hemaseg.cohorts.index import index_folder
from hemaseg.cohorts.table import Cohort
from hemaseg.config import Recipe, SlicesConfig
from hemaseg.errors import CohortError
from hemaseg.slices.dataset import (
    SliceName,
    SliceSet,
    epoch_order,
    fit_back,
    fit_to_square,
    load_slices,
)
from small_heads import write_heads

RECIPE = Recipe(description="test", slices=SlicesConfig(image_size=32))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("heads")
    write_heads(folder, num_subjects=8, seed=3)
    return index_folder(folder, modality="CT")


def test_every_slice_of_every_volume_comes_once_in_order(cohort: Cohort) -> None:
    slices = load_slices(cohort, RECIPE)
    assert len(slices) == 8 * 16
    assert slices.images.shape == slices.masks.shape == (128, 1, 32, 32)
    assert [name.index for name in slices.names[:16]] == list(range(16))
    assert [name.subject for name in slices.names[::16]] == list(cohort.subjects)
    assert float(slices.images.min()) == 0
    assert float(slices.images.max()) == 1


def test_masks_keep_the_lesions_share_of_the_area(cohort: Cohort) -> None:
    slices = load_slices(cohort, RECIPE)
    lesion = {c.subject: c.lesion_pixels or 0 for c in cohort.images}
    for subject in cohort.subjects:
        indices = [i for i, name in enumerate(slices.names) if name.subject == subject]
        found = 4 * int(slices.masks[indices].sum())
        assert found == pytest.approx(lesion[subject], rel=0.15, abs=24)


def test_unmarked_slices_count_for_the_range_but_are_left_out(tmp_path: Path) -> None:
    """A stack of 16-bit pictures whose brightest slice has no mask."""
    folder = tmp_path / "set"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number, level in enumerate((100, 200, 400)):
        pixels = np.full((8, 8), level, np.uint16)
        pixels[0, 0] = level // 2
        Image.fromarray(pixels).save(folder / f"images/p_{number}.png")
        if level < 400:
            mask = np.zeros((8, 8), np.uint8)
            mask[2:4, 2:4] = 255
            Image.fromarray(mask).save(folder / f"masks/p_{number}.png")
    slices = load_slices(index_folder(folder, modality="MRI"), RECIPE)
    assert [name.image for name in slices.names] == ["p_0.png", "p_1.png"]
    # Were the range that of the marked slices alone, the brightest of them would be 1.
    assert float(slices.images.max()) < 0.6


def test_cohort_without_references_is_refused(cohort: Cohort) -> None:
    from dataclasses import replace

    bare = Cohort(
        tuple(
            replace(c, mask=None, lesion_pixels=None, lesion_ml=math.nan) for c in cohort.images[:2]
        )
    )
    with pytest.raises(CohortError, match="none of 2 images has a reference mask"):
        load_slices(bare, RECIPE)


@given(height=st.integers(5, 70), width=st.integers(5, 70), size=st.sampled_from([16, 32, 64, 96]))
def test_fit_and_back_keep_place_and_size_of_a_box(height: int, width: int, size: int) -> None:
    mask = torch.zeros(1, 1, height, width)
    mask[..., height // 5 : height - height // 3, width // 3 : width - width // 5] = 1
    there = fit_to_square(mask, size)
    assert there.shape == (1, 1, size, size)
    back = fit_back(there, height, width)
    assert back.shape == mask.shape
    assert float(back.mean()) == pytest.approx(float(mask.mean()), abs=0.12)
    rows = torch.arange(height, dtype=torch.float32)[:, None]
    columns = torch.arange(width, dtype=torch.float32)
    for places in (rows, columns):
        centers = [float((m[0, 0] * places).sum() / m.sum()) for m in (back, mask)]
        # Within a pixel of the coarser of both grids.
        assert abs(centers[0] - centers[1]) < max(1, max(height, width) / size)


def test_image_of_the_size_passes_unchanged() -> None:
    image = torch.rand(2, 1, 32, 32)
    assert torch.equal(fit_to_square(image, 32), image)
    assert torch.equal(fit_back(image, 32, 32), image)


def test_oblong_image_is_padded_evenly_not_stretched() -> None:
    fitted = fit_to_square(torch.ones(1, 1, 16, 32), 32)
    assert float(fitted[..., 8:24, :].min()) == 1
    assert float(fitted[..., :8, :].max()) == float(fitted[..., 24:, :].max()) == 0


HAS_LESION = torch.tensor([True] * 12 + [False] * 30)


def order(share: float, seed: int = 0, has_lesion: torch.Tensor = HAS_LESION) -> list[int]:
    return epoch_order(has_lesion, share, torch.Generator().manual_seed(seed)).tolist()


def test_without_negatives_an_epoch_is_each_lesion_slice_once() -> None:
    assert sorted(order(0.0)) == list(range(12))
    assert order(0.0) != list(range(12))


def test_share_of_negatives_at_equal_length() -> None:
    chosen = order(0.25)
    assert len(set(chosen)) == len(chosen) == 12
    assert sum(index >= 12 for index in chosen) == 3


def test_negatives_lie_anywhere_in_an_epoch() -> None:
    is_negative = [[index >= 12 for index in order(0.25, seed)] for seed in range(20)]
    assert np.mean(is_negative, axis=0).max() < 0.8


def test_negatives_change_between_epochs() -> None:
    assert set(order(0.25, seed=0)) != set(order(0.25, seed=1))


def test_epoch_without_negatives_to_draw_keeps_its_length() -> None:
    assert sorted(order(0.25, has_lesion=torch.ones(12, dtype=torch.bool))) == list(range(12))


def test_order_repeats_for_a_seed() -> None:
    assert order(0.25, seed=5) == order(0.25, seed=5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("lie_there", [False, True])
def test_a_batch_is_the_slices_asked_for(device: str, lie_there: bool) -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.rand(5, 1, 4, 4, generator=random).half()
    slices = SliceSet(images, images > 0.5, tuple(SliceName("s", "s.png", k) for k in range(5)))
    there = torch.device(device)
    held = slices.on(there) if lie_there else slices
    chosen = torch.tensor([3, 0, 3])
    found, masks = held.batch(chosen, there)
    assert (found.device.type, found.dtype, masks.dtype) == (device, torch.float32, torch.float32)
    assert torch.equal(found.cpu(), images[chosen].float())
    assert torch.equal(masks.cpu(), (images[chosen] > 0.5).float())
    assert torch.equal(held.has_lesion, slices.has_lesion)
    assert slices.num_bytes == 5 * 16 * 3
