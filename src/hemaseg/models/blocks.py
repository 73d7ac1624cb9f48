"""The parts that two or more architectures share.

Shape legend: N batch, C channels, H rows, W columns.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from hemaseg.models.recomputation import recomputed

Stage = Callable[[int, int], nn.Module]
"""Builds the stage of one level: `(in_channels, out_channels) -> module`."""


class Network(nn.Module):
    """What every network of the catalogue is: images `(N, 1, H, W)` to logits `(N, 1, H, W)`."""

    stride: ClassVar[int]
    """H and W must be multiples of it."""

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(N, 1, H, W)` of images `(N, 1, H, W)`.

        Raises:
            ValueError: If H or W is no multiple of `stride`.
        """
        check_image_size(image.shape[-2], image.shape[-1], self.stride)
        return self.logits(image)

    def logits(self, image: Tensor) -> Tensor:
        """What a network computes: layers alone, no branch that depends on the image."""
        raise NotImplementedError


def check_image_size(height: int, width: int, stride: int) -> None:
    """Refuse an image that the network cannot halve often enough.

    Args:
        height: Rows.
        width: Columns.
        stride: The number that both must be a multiple of.

    Raises:
        ValueError: If they are not, naming the nearest sizes that work.
    """
    if height % stride == 0 and width % stride == 0 and height > 0 and width > 0:
        return
    down = [n // stride * stride for n in (height, width)]
    up = [(n + stride - 1) // stride * stride for n in (height, width)]
    sizes = f"{up[0]}x{up[1]}" if 0 in down else f"{down[0]}x{down[1]} or {up[0]}x{up[1]}"
    raise ValueError(
        f"image size {height}x{width}, expected multiples of {stride}; nearest: {sizes}. "
        "Resample or pad the image."
    )


def require_width(base_width: int, *, multiple: int) -> None:
    """Refuse a width that the network cannot be built with.

    Raises:
        ValueError: If it is not a positive multiple of `multiple`.
    """
    if base_width < 1 or base_width % multiple:
        raise ValueError(f"base_width {base_width}, expected a positive multiple of {multiple}")


def in_a_row(modules: Sequence[nn.Module], x: Tensor) -> Tensor:
    """One module after the other."""
    for module in modules:
        x = module(x)
    return x


def rise(modules: Sequence[nn.Module], x: Tensor, skip: Tensor) -> Tensor:
    """One level up: [upsampled, skip] through all modules but the first, which upsamples.

    Args:
        modules: That which doubles rows and columns; those that follow the concatenation.
        x: `(N, C, H/2, W/2)`, from the level below.
        skip: `(N, D, H, W)`, from the encoder.
    """
    upsample, *others = modules
    return in_a_row(others, torch.cat([upsample(x), skip], dim=1))


class Units(nn.Sequential):
    """A stage of several units in a row, each of which `recomputation` takes by itself."""


def through(
    compute: Callable[..., Tensor], modules: Sequence[nn.Module], *inputs: Tensor
) -> Tensor:
    """`compute(modules, *inputs)` as `recomputation` says, where the last module is a stage.

    Modules and stage are one stretch; of `Units`, only the first one is, and the others follow.
    """
    *before, stage = modules
    first, *others = stage if isinstance(stage, Units) else [stage]
    x = recomputed(compute, [*before, first], *inputs)
    for unit in others:
        x = recomputed(in_a_row, [unit], x)
    return x


class DoubleConv(nn.Sequential):
    """Twice: 3x3 convolution with bias, batch norm, ReLU; `(N, in, H, W)` to `(N, out, H, W)`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class SixLevelUNet(Network):
    """The scaffold that DR U-Net and the vanilla U-Net share; they differ in stage and activation.

    Six levels of `base_width` to `32 * base_width` channels. Every convolution has a bias, also
    where batch norm follows; a skip is taken before the pool; batch norm and activation follow the
    concatenation [upsampled, skip]. These details are needed for the published parameter counts.

    *Source:* the public code of Yu et al. (Stroke 2022, 53:167), read layer by layer.
    """

    stride = 32

    def __init__(self, stage: Stage, activation: type[nn.Module], *, base_width: int) -> None:
        super().__init__()
        require_width(base_width, multiple=2)
        widths = [base_width * 2**level for level in range(6)]
        stem_channels = base_width // 2
        self.stem = nn.Sequential(
            nn.Conv2d(1, stem_channels, 1), nn.BatchNorm2d(stem_channels), activation(inplace=True)
        )
        inputs = [stem_channels, *widths[:-2]]
        self.encoder = nn.ModuleList(
            stage(i, width) for i, width in zip(inputs, widths[:-1], strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.bottleneck = stage(widths[-2], widths[-1])
        # Decoder modules run from the deepest level to the shallowest.
        deep_to_shallow = widths[-2::-1]
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, 2, stride=2) for width in deep_to_shallow
        )
        self.join = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(2 * width), activation(inplace=True))
            for width in deep_to_shallow
        )
        self.decoder = nn.ModuleList(stage(2 * width, width) for width in deep_to_shallow)
        self.head = nn.Conv2d(base_width, 1, 1)

    def logits(self, image: Tensor) -> Tensor:
        """Logits `(N, 1, H, W)` of images `(N, 1, H, W)`; H and W multiples of 32."""
        top, *lower = self.encoder
        x = through(in_a_row, [self.stem, top], image)
        skips: list[Tensor] = []
        for stage in [*lower, self.bottleneck]:
            skips.append(x)
            x = through(in_a_row, [self.pool, stage], x)
        for modules in zip(self.upsample, self.join, self.decoder, strict=True):
            x = through(rise, modules, x, skips.pop())
        return cast(Tensor, self.head(x))
