"""Dense U-Net: densely connected encoder, plain U-Net decoder.

*Source:* Xu et al., Front. Neurosci. 2021, 14:541817 (blocks of 3, 6, 12 and 8 layers, k = 32), as
adapted by Liu (k = 8, bottleneck layers); dense layers, transitions and initialisation as in the
public densenet-pytorch code that Liu cites (Huang et al. 2016, arXiv 1608.06993).

*Differences from the paper:* unknown, because neither paper publishes its code or a parameter
count. This is one reading ("R1"): the four dense blocks at full, 1/2, 1/4 and 1/8 resolution, plain
convolutions at 1/16, decoder widths of a regular U-Net. "R2" is the other: a bare convolution at
full resolution, the four blocks at 1/2 to 1/16, the last of them as the bottom. Only R1 has more
parameters than DR U-Net, as Liu says.

*Size* (of this reading; none is published):

>>> sum(p.numel() for p in DenseUNet().parameters())
20243335
"""

from collections.abc import Sequence
from math import sqrt
from typing import Literal, cast

import torch
from torch import Tensor, nn

from hemaseg.models.blocks import Network, in_a_row, require_width, rise
from hemaseg.models.recomputation import recomputed

NUM_LAYERS = (3, 6, 12, 8)
"""Layers of the four dense blocks, from the shallowest to the deepest."""


class DenseLayer(nn.Module):
    """BN, ReLU, 3x3 convolution to k channels; `(N, C, H, W)` to new features `(N, k, H, W)`.

    With bottleneck, a BN, ReLU, 1x1 convolution to 4k channels comes first.
    """

    def __init__(self, in_channels: int, growth_rate: int, *, has_bottleneck: bool) -> None:
        super().__init__()
        mid_channels = 4 * growth_rate if has_bottleneck else in_channels
        bottleneck = [
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, mid_channels, 1, bias=False),
        ]
        self.new_features = nn.Sequential(
            *(bottleneck if has_bottleneck else []),
            nn.BatchNorm2d(mid_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(mid_channels, growth_rate, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The new features alone; `DenseBlock` joins them to what came before."""
        return cast(Tensor, self.new_features(x))


class DenseBlock(nn.Sequential):
    """Dense layers, each on all features before it; `(N, C, H, W)` to `(N, C + layers * k, H, W)`.

    Features are passed on as a list, so that under `recomputation` each is kept once and not again
    in every concatenation after it: the memory-efficient DenseNet of Pleiss et al. 2017 (arXiv
    1707.06990).
    """

    def __init__(
        self, in_channels: int, num_layers: int, growth_rate: int, *, has_bottleneck: bool
    ) -> None:
        super().__init__(
            *(
                DenseLayer(
                    in_channels + i * growth_rate, growth_rate, has_bottleneck=has_bottleneck
                )
                for i in range(num_layers)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Input and the new features of all layers, in this order."""
        features = [x]
        for layer in self:
            features.append(recomputed(_on_all, [layer], *features))
        return torch.cat(features, dim=1)


def _on_all(modules: Sequence[nn.Module], *features: Tensor) -> Tensor:
    """One module on the concatenation of all features."""
    (layer,) = modules
    return cast(Tensor, layer(torch.cat(features, dim=1) if len(features) > 1 else features[0]))


def transition(in_channels: int, out_channels: int) -> nn.Sequential:
    """BN, ReLU, 1x1 convolution, 2x2 max-pool; `(N, in, H, W)` to `(N, out, H/2, W/2)`."""
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.MaxPool2d(2),
    )


def double_pre_activated_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Twice BN, ReLU, 3x3 convolution with bias; `(N, in, H, W)` to `(N, out, H, W)`.

    The norm comes first because dense features arrive un-normalised.
    """
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
    )


def _initialise_by_fan_out(module: nn.Module) -> None:
    """Normal weights as in the DenseNet code; the decoder keeps PyTorch's, as other U-Nets do.

    On the head, with its single output, this rule would start with logits of tens.
    """
    if isinstance(module, nn.Conv2d):
        kernel_area = module.kernel_size[0] * module.kernel_size[1]
        nn.init.normal_(module.weight, std=sqrt(2 / (kernel_area * module.out_channels)))


class DenseUNet(Network):
    """Dense U-Net; `(N, 1, H, W)` to logits `(N, 1, H, W)`, H and W multiples of 16.

    Args:
        growth_rate: k, channels that each dense layer adds (8 in Liu, 32 in Xu et al.).
        has_bottleneck: Whether a 1x1 convolution to 4k channels precedes each 3x3 (Liu: yes).
        compression: Share of channels that a transition keeps (DenseNet-BC: 0.5).
        first_channels: Channels of the first convolution; 2k if not given.
        base_width: Decoder channels at full resolution, doubled at each lower level.
        placement: Where the four blocks stand: "R1" or "R2", see above.
    """

    stride = 16

    def __init__(
        self,
        *,
        growth_rate: int = 8,
        has_bottleneck: bool = True,
        compression: float = 0.5,
        first_channels: int | None = None,
        base_width: int = 64,
        placement: Literal["R1", "R2"] = "R1",
    ) -> None:
        super().__init__()
        if placement not in ("R1", "R2"):
            raise ValueError(f'placement "{placement}", expected "R1" or "R2"')
        require_width(base_width, multiple=1)
        if growth_rate < 1 or not 0 < compression <= 1:
            raise ValueError(
                f"growth_rate {growth_rate} and compression {compression}, expected 1 or more and "
                "above 0 to 1"
            )
        if not isinstance(has_bottleneck, bool):
            raise ValueError(f"has_bottleneck {has_bottleneck!r}, expected true or false")
        channels = 2 * growth_rate if first_channels is None else first_channels
        self.first = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.encoder = nn.ModuleList()
        self.transition = nn.ModuleList()
        skip_channels: list[int] = []

        def append_level(stage: nn.Module, channels: int, compression: float) -> int:
            kept = int(compression * channels)
            self.encoder.append(stage)
            self.transition.append(transition(channels, kept))
            skip_channels.append(channels)
            return kept

        if placement == "R2":
            # DenseNet compresses behind dense blocks only.
            channels = append_level(nn.Identity(), channels, 1.0)
        block_layers = NUM_LAYERS if placement == "R1" else NUM_LAYERS[:-1]
        for num_layers in block_layers:
            block = DenseBlock(channels, num_layers, growth_rate, has_bottleneck=has_bottleneck)
            channels = append_level(block, channels + num_layers * growth_rate, compression)
        if placement == "R1":
            self.bottleneck = double_pre_activated_conv(channels, 16 * base_width)
            channels = 16 * base_width
        else:
            block = DenseBlock(channels, NUM_LAYERS[-1], growth_rate, has_bottleneck=has_bottleneck)
            channels += NUM_LAYERS[-1] * growth_rate
            self.bottleneck = nn.Sequential(block, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))

        self.upsample = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for level in (3, 2, 1, 0):
            width = base_width * 2**level
            self.upsample.append(nn.ConvTranspose2d(channels, width, 2, stride=2))
            self.decoder.append(double_pre_activated_conv(width + skip_channels[level], width))
            channels = width
        self.head = nn.Conv2d(base_width, 1, 1)
        dense_parts = [self.first, self.encoder, self.transition]
        if placement == "R2":
            dense_parts.append(self.bottleneck)
        for part in dense_parts:
            part.apply(_initialise_by_fan_out)

    def logits(self, image: Tensor) -> Tensor:
        """Logits `(N, 1, H, W)` of images `(N, 1, H, W)`; H and W multiples of 16."""
        x = self.first(image)
        skips: list[Tensor] = []
        for stage, transition in zip(self.encoder, self.transition, strict=True):
            x = stage(x)
            skips.append(x)
            x = recomputed(in_a_row, [transition], x)
        x = recomputed(in_a_row, [self.bottleneck], x)
        for modules in zip(self.upsample, self.decoder, strict=True):
            x = recomputed(rise, modules, x, skips.pop())
        return cast(Tensor, self.head(x))
