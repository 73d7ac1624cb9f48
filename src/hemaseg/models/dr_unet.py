"""Dimension Reduction U-Net: each stage works in a quarter of its channels.

*Source:* Yu et al., "A robust deep learning segmentation method for hematoma volumetric detection
in intracerebral hemorrhage", Stroke 2022, 53:167, and the authors' public TensorFlow code.

*Differences from the paper:*

- logits come out, the sigmoid is applied by loss and predictor: the same function, numerically
  safer;
- batch norm with PyTorch's constants (eps 1e-5, momentum 0.1) in place of Keras' (1e-3, 0.01);
- batch norm uses running statistics at test time; the authors' code used those of the test batch.

*Size:*

>>> sum(p.numel() for p in DRUNet().parameters())
10953249
"""

from torch import Tensor, nn
from torch.nn import functional

from hemaseg.models.blocks import SixLevelUNet, Units, require_width


class ResidualUnit(nn.Module):
    """Main branch 1x1, 3x3, 3x3 and side branch 1x1, added; `(N, in, H, W)` to `(N, out, H, W)`.

    The inner width is `mid_channels`. With out = mid this is the paper's Block 1 (encoder) or Block
    2 (decoder), which reduce; with in = mid it is Block 3, which expands. Blocks 1 and 2 are the
    same computation on inputs of different width.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(in_channels, mid_channels, 1),
            nn.BatchNorm2d(mid_channels),
            nn.ELU(inplace=True),
            nn.Conv2d(mid_channels, mid_channels, 3, padding=1),
            nn.BatchNorm2d(mid_channels),
            nn.ELU(inplace=True),
            nn.Conv2d(mid_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
        )
        self.side = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1),
            nn.BatchNorm2d(out_channels),
            nn.ELU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """ELU of the sum of both branches."""
        return functional.elu(self.main(x) + self.side(x), inplace=True)


class ReducedStage(Units):
    """Reduce to a quarter of `out_channels`, then expand; `(N, in, H, W)` to `(N, out, H, W)`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        quarter = out_channels // 4
        super().__init__(
            ResidualUnit(in_channels, quarter, quarter),
            ResidualUnit(quarter, quarter, out_channels),
        )


class DRUNet(SixLevelUNet):
    """DR U-Net; `(N, 1, H, W)` to logits `(N, 1, H, W)`, H and W multiples of 32.

    Args:
        base_width: Channels at full resolution (a multiple of 4), doubled at each lower level.

    Raises:
        ValueError: If `base_width` is not a positive multiple of 4.
    """

    def __init__(self, *, base_width: int = 32) -> None:
        require_width(base_width, multiple=4)  # Stages work in a quarter of it.
        super().__init__(ReducedStage, nn.ELU, base_width=base_width)
