"""Networks that do something, as if they were trained."""

from pathlib import Path

import torch
from torch import nn

from hemaseg.config import IntensityConfig, ModelConfig
from hemaseg.models.catalogue import build_model
from hemaseg.training.checkpoint import save_model


class Brightness(nn.Module):
    """Logits above 0 where the image is above one half."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - 0.5) * 20 + self.unused


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in evaluation mode, its batch norms far from doing nothing."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.8, 1.2, generator=random)
                layer.bias.uniform_(-0.1, 0.1, generator=random)
                layer.momentum = None  # running statistics are means of what comes
        network.train()
        for _ in range(3):
            network(torch.rand(4, 1, 64, 64, generator=random))
    return network.eval()


def save_lively(folder: Path, modality: str = "") -> Path:
    """A run folder of a small U-Net for slices of 64x64."""
    torch.manual_seed(0)
    model = ModelConfig(name="unet", options={"base_width": 4})
    save_model(
        *(folder, lively(build_model(model.name, model.options)), model),
        image_size=64,
        intensity=IntensityConfig(),
        threshold=0.5,
        modality=modality,
    )
    return folder
