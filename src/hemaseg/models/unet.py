"""Vanilla U-Net: the DR U-Net's scaffold with two plain 3x3 convolutions per stage.

*Source:* the "vanilla U-Net equivalent" of Liu's comparison, which credits its 31,114,305
parameters to Yu et al. (Stroke 2022, 53:167). No public code of it exists; the plainest stage on
the public DR U-Net scaffold gives that number to the digit.

*Differences from the paper:* none known. It is not the textbook U-Net (`textbook_unet`,
31,042,369).

*Size:*

>>> sum(p.numel() for p in UNet().parameters())
31114305
"""

from torch import nn

from hemaseg.models.blocks import DoubleConv, SixLevelUNet


class UNet(SixLevelUNet):
    """Vanilla U-Net; `(N, 1, H, W)` to logits `(N, 1, H, W)`, H and W multiples of 32.

    Args:
        base_width: Channels at full resolution, doubled at each of the five lower levels.
    """

    def __init__(self, *, base_width: int = 32) -> None:
        super().__init__(DoubleConv, nn.ReLU, base_width=base_width)
