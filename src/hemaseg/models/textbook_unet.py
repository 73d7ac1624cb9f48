"""Textbook U-Net: five levels of 64 to 1024 channels, for comparison with other people's tables.

*Source:* Ronneberger, Fischer, Brox 2015 (arXiv 1505.04597), Figure 1.

*Differences from the paper:* "same" padding, so that the mask has the image's size; batch norm
after each 3x3 convolution (with bias); one logit instead of two classes.

*Size:*

>>> sum(p.numel() for p in TextbookUNet().parameters())
31042369
"""

from typing import cast

from torch import Tensor, nn

from hemaseg.models.blocks import DoubleConv, Network, in_a_row, require_width, rise
from hemaseg.models.recomputation import recomputed


class TextbookUNet(Network):
    """Textbook U-Net; `(N, 1, H, W)` to logits `(N, 1, H, W)`, H and W multiples of 16.

    Args:
        base_width: Channels at full resolution, doubled at each of the four lower levels.
    """

    stride = 16

    def __init__(self, *, base_width: int = 64) -> None:
        super().__init__()
        require_width(base_width, multiple=1)
        widths = [base_width * 2**level for level in range(5)]
        inputs = [1, *widths[:-2]]
        self.encoder = nn.ModuleList(
            DoubleConv(i, width) for i, width in zip(inputs, widths[:-1], strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.bottleneck = DoubleConv(widths[-2], widths[-1])
        deep_to_shallow = widths[-2::-1]
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, 2, stride=2) for width in deep_to_shallow
        )
        self.decoder = nn.ModuleList(DoubleConv(2 * width, width) for width in deep_to_shallow)
        self.head = nn.Conv2d(base_width, 1, 1)

    def logits(self, image: Tensor) -> Tensor:
        """Logits `(N, 1, H, W)` of images `(N, 1, H, W)`; H and W multiples of 16."""
        top, *lower = self.encoder
        x = recomputed(in_a_row, [top], image)
        skips: list[Tensor] = []
        for stage in [*lower, self.bottleneck]:
            skips.append(x)
            x = recomputed(in_a_row, [self.pool, stage], x)
        for modules in zip(self.upsample, self.decoder, strict=True):
            x = recomputed(rise, modules, x, skips.pop())
        return cast(Tensor, self.head(x))
