"""Random changes applied alike to image and mask, a whole batch at a time.

Shape legend: N slices of the batch, H rows, W columns (H = W).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from hemaseg.config import AugmentationConfig


def augment(
    images: Tensor,
    masks: Tensor,
    config: AugmentationConfig,
    generator: torch.Generator,
    *,
    share: slice = slice(None),
    num_drawn: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Each slice moved and recoloured at random; the mask moves with its image.

    Args:
        images: `(N, 1, H, W)` float in [0, 1], H = W.
        masks: `(N, 1, H, W)` float, 0 or 1.
        config: Ranges; all zero returns the inputs.
        generator: CPU generator; the only source of randomness. Without noise it draws the same on
            any device. Noise of images on a GPU is drawn there, from a seed of this one: the same
            each time, but other noise than on a CPU, and what is drawn after it is other too.
        share: Which slices of a batch these are, if it is divided: changes are drawn for all of it,
            so that each slice gets the same ones however it is divided.
        num_drawn: Slices of that batch; N unless given.

    Returns:
        New images in [0, 1] (bilinear) and new masks of 0 and 1 (nearest); what enters from outside
        the image is 0.
    """
    if config == AugmentationConfig():
        return images, masks
    num = len(images) if num_drawn is None else num_drawn

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(num, generator=generator))[share]

    angle = uniform(-1, 1) * math.radians(config.rotation_deg)
    zoom = uniform(1 - config.scaling, 1 + config.scaling)
    shift_x = uniform(-2, 2) * config.translation
    shift_y = uniform(-2, 2) * config.translation
    flip = torch.where(uniform(0, 1) < config.flip_probability, -1.0, 1.0)
    limit = -math.log(1 - config.gamma)
    exponent = uniform(-limit, limit).exp()
    contrast = uniform(1 - config.contrast, 1 + config.contrast)
    noise, noise_sd = torch.zeros(0), torch.zeros_like(contrast)
    if config.noise_sd > 0:
        noise = _normal((num, *images.shape[1:]), images.device, generator)[share]
        noise_sd = uniform(0, config.noise_sd)
    if not len(images):  # A share may be empty, but its random numbers are drawn.
        return images, masks

    # Rows of the inverse map, from output to input coordinates in [-1, 1].
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    theta = torch.stack(
        [torch.stack([flip * cos, -flip * sin, shift_x], 1), torch.stack([sin, cos, shift_y], 1)], 1
    )
    # All in one copy: a GPU would wait for each.
    columns = [theta.flatten(1), *(values[:, None] for values in (exponent, contrast, noise_sd))]
    drawn = torch.cat(columns, dim=1).to(images.device, non_blocking=images.is_cuda)
    theta = drawn[:, :6].unflatten(1, (2, 3))
    exponent, contrast, noise_sd = drawn[:, 6:, None, None, None].unbind(1)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    images = functional.grid_sample(images, grid, mode="bilinear", align_corners=False)
    masks = functional.grid_sample(masks, grid, mode="nearest", align_corners=False)

    images = images.clamp(0, 1) ** exponent
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = mean + (images - mean) * contrast
    if config.noise_sd > 0:
        images = images + noise * noise_sd
    return images.clamp(0, 1), masks


def _normal(shape: tuple[int, ...], device: torch.device, generator: torch.Generator) -> Tensor:
    """Standard normal numbers where they are needed: a CPU draws them slower than a GPU trains."""
    if device.type != "cuda":
        return torch.randn(shape, generator=generator).to(device)
    seed = int(torch.randint(2**62, (), generator=generator))
    there = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=there, device=device)
