import pytest
import torch

from hemaseg.config import AugmentationConfig
from hemaseg.slices.augmentation import augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def box() -> torch.Tensor:
    mask = torch.zeros(6, 1, 64, 64)
    mask[:, :, 20:40, 24:36] = 1
    return mask


ALL = AugmentationConfig(
    rotation_deg=30,
    scaling=0.2,
    translation=0.1,
    flip_probability=0.5,
    gamma=0.3,
    contrast=0.2,
    noise_sd=0.05,
)


def test_nothing_configured_changes_nothing() -> None:
    image = torch.rand(6, 1, 64, 64)
    assert augment(image, box(), AugmentationConfig(), generator())[0] is image


def test_mask_moves_with_its_image() -> None:
    """An image that is its own mask stays so, but for the blur of one pixel at the edge."""
    moves = ALL.model_copy(update={"gamma": 0.0, "contrast": 0.0, "noise_sd": 0.0})
    images, masks = augment(box(), box(), moves, generator())
    assert ((images >= 0.5) == masks.bool()).float().mean() > 0.995
    assert not torch.equal(masks, box())


def test_masks_stay_binary_and_images_in_range() -> None:
    images, masks = augment(torch.rand(6, 1, 64, 64), box(), ALL, generator())
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1


def test_inputs_are_not_modified() -> None:
    image, mask = torch.rand(6, 1, 64, 64), box()
    copies = image.clone(), mask.clone()
    augment(image, mask, ALL, generator())
    assert torch.equal(image, copies[0])
    assert torch.equal(mask, copies[1])


def test_equal_seeds_repeat_and_others_differ() -> None:
    first, second, other = (augment(box(), box(), ALL, generator(s))[0] for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_slices_of_a_batch_change_independently() -> None:
    images, _ = augment(box(), box(), ALL, generator())
    assert not torch.equal(images[0], images[1])


def test_certain_flip_mirrors_left_and_right() -> None:
    image = torch.rand(2, 1, 16, 16)
    flip = AugmentationConfig(flip_probability=1.0)
    flipped, _ = augment(image, image.round(), flip, generator())
    torch.testing.assert_close(flipped, image.flip(-1), atol=1e-5, rtol=0)


def test_rotation_keeps_the_area_and_scaling_changes_it() -> None:
    area = float(box().sum())
    _, rotated = augment(box(), box(), AugmentationConfig(rotation_deg=180), generator())
    assert float(rotated.sum()) == pytest.approx(area, rel=0.02)
    _, scaled = augment(box(), box(), AugmentationConfig(scaling=0.3), generator(3))
    areas = scaled.sum(dim=(1, 2, 3)) / box().sum(dim=(1, 2, 3))
    assert float(areas.min()) >= 0.7**2 - 0.06
    assert float(areas.max()) <= 1.3**2 + 0.12
    assert float(areas.std()) > 0.05


def test_a_flip_with_a_rotation_does_not_shear() -> None:
    moves = AugmentationConfig(rotation_deg=45, flip_probability=0.9)
    _, masks = augment(box(), box(), moves, generator())
    areas = masks.sum(dim=(1, 2, 3)) / box().sum(dim=(1, 2, 3))
    torch.testing.assert_close(areas, torch.ones(6), rtol=0.05, atol=0)


def test_contrast_keeps_the_mean() -> None:
    image = 0.4 + 0.2 * torch.rand(4, 1, 32, 32)
    changed, _ = augment(image, image.round(), AugmentationConfig(contrast=0.3), generator())
    torch.testing.assert_close(changed.mean(dim=(1, 2, 3)), image.mean(dim=(1, 2, 3)))
    assert not torch.allclose(changed.std(), image.std())


def test_noise_has_at_most_the_stated_deviation() -> None:
    flat = torch.full((64, 1, 32, 32), 0.5)
    noisy, _ = augment(flat, torch.zeros_like(flat), AugmentationConfig(noise_sd=0.1), generator())
    spread = noisy.std(dim=(1, 2, 3))
    assert float(spread.max()) < 0.11
    assert float(spread.mean()) == pytest.approx(0.05, abs=0.01)


def test_shares_of_a_batch_are_what_the_whole_batch_gives() -> None:
    """Also an empty share draws its random numbers, so that the generators stay together."""
    image = torch.rand(6, 1, 64, 64)
    whole = generator()
    images, masks = augment(image, box(), ALL, whole)
    for share in (slice(0, 4), slice(4, 6), slice(6, 6)):
        own = generator()
        found = augment(image[share], box()[share], ALL, own, share=share, num_drawn=6)
        torch.testing.assert_close(found, (images[share], masks[share]), rtol=0, atol=0)
        assert torch.equal(own.get_state(), whole.get_state())
