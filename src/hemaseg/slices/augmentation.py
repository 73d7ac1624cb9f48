"""Random changes applied alike to image and mask, a whole batch at a time.

Shape legend: N slices of the batch, H rows, W columns (H = W).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from hemaseg.config import AugmentationConfig


def augment(
    images: Tensor, masks: Tensor, config: AugmentationConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Each slice moved and recoloured at random; the mask moves with its image.

    Args:
        images: `(N, 1, H, W)` float in [0, 1], H = W.
        masks: `(N, 1, H, W)` float, 0 or 1.
        config: Ranges; all zero returns the inputs.
        generator: CPU generator; the only source of randomness, so equal seeds repeat on any
        device.

    Returns:
        New images in [0, 1] (bilinear) and new masks of 0 and 1 (nearest); what enters from outside
        the image is 0.
    """
    if config == AugmentationConfig():
        return images, masks

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(images), generator=generator)

    angle = uniform(-1, 1) * math.radians(config.rotation_deg)
    zoom = uniform(1 - config.scaling, 1 + config.scaling)
    shift_x = uniform(-2, 2) * config.translation
    shift_y = uniform(-2, 2) * config.translation
    flip = torch.where(uniform(0, 1) < config.flip_probability, -1.0, 1.0)
    # Rows of the inverse map, from output to input coordinates in [-1, 1].
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    theta = torch.stack(
        [torch.stack([flip * cos, -flip * sin, shift_x], 1), torch.stack([sin, cos, shift_y], 1)], 1
    )
    grid = functional.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    images = functional.grid_sample(images, grid, mode="bilinear", align_corners=False)
    masks = functional.grid_sample(masks, grid, mode="nearest", align_corners=False)

    def per_slice(values: Tensor) -> Tensor:
        return values.view(-1, 1, 1, 1).to(images.device)

    limit = -math.log(1 - config.gamma)
    images = images.clamp(0, 1) ** per_slice(uniform(-limit, limit).exp())
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = mean + (images - mean) * per_slice(uniform(1 - config.contrast, 1 + config.contrast))
    if config.noise_sd > 0:
        noise = torch.randn(images.shape, generator=generator).to(images.device)
        images = images + noise * per_slice(uniform(0, config.noise_sd))
    return images.clamp(0, 1), masks
