"""The OpenVINO graph of a network gives what PyTorch gives."""

import importlib.util
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hemaseg.engines.engine import OpenVinoEngine
from hemaseg.engines.graph import openvino_graph
from hemaseg.errors import EngineError
from hemaseg.models.blocks import Network
from hemaseg.models.catalogue import MODELS, build_model
from lively import lively
from test_models import SMALL

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None,
    reason="needs openvino: pip install 'hemaseg[fast]'",
)

Options = dict[str, int | float | str | bool]
SMALL_OPTIONS: list[tuple[str, Options]] = [
    (name, {"base_width": width}) for name, width in SMALL.items()
]
VARIANTS: list[tuple[str, Options]] = [
    *SMALL_OPTIONS,
    ("dense_unet", {"base_width": 4, "placement": "R2"}),
    ("dense_unet", {"base_width": 4, "has_bottleneck": False, "compression": 1.0}),
]


def test_every_model_is_in_the_contract() -> None:
    assert {name for name, _ in VARIANTS} == set(MODELS)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda value: str(value))
def test_logits_are_those_of_pytorch(name: str, options: Options) -> None:
    torch.manual_seed(0)
    network = lively(build_model(name, options))
    images = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = network(images)
    engine = OpenVinoEngine(network, 64)
    found = torch.cat([engine(image[None]) for image in images])
    assert 0.01 < expected.std() < 100
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3 * float(expected.std()))


class OneLayer(Network):
    """A network of whatever layers a test wants."""

    stride = 1

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def logits(self, image: Tensor) -> Tensor:
        return cast(Tensor, self.layers(image))


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"),),
        (nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1, groups=2), nn.Conv2d(2, 1, 1)),
        (nn.Conv2d(1, 1, 3, padding="same"),),
        (nn.BatchNorm2d(1, affine=False),),
        (nn.BatchNorm2d(1, track_running_stats=False),),
        (nn.MaxPool2d(2, ceil_mode=True), nn.Upsample(scale_factor=2)),
        (nn.GELU(),),
        (nn.ConvTranspose2d(1, 1, 3, padding=1),),
    ],
    ids=lambda layers: type(layers[0]).__name__,
)
def test_layers_that_would_be_guessed_are_refused(layers: tuple[nn.Module, ...]) -> None:
    with pytest.raises(EngineError, match=r"has no translation to OpenVINO here.*Use torch"):
        openvino_graph(OneLayer(*layers).eval(), 8)


class WithFunction(OneLayer):
    """The sigmoid is no part of a network."""

    def logits(self, image: Tensor) -> Tensor:
        return functional.gelu(image) * 2


class SharedInPlace(OneLayer):
    """The image is changed, and used once more."""

    def logits(self, image: Tensor) -> Tensor:
        return cast(Tensor, image + self.layers(image))


def test_functions_that_would_be_guessed_are_refused() -> None:
    with pytest.raises(EngineError, match="the function"):
        openvino_graph(WithFunction(), 8)
    with pytest.raises(EngineError, match="changes under others"):
        openvino_graph(SharedInPlace(nn.ReLU(inplace=True)), 8)
    network = SharedInPlace(nn.ReLU())
    found = OpenVinoEngine(network, 8)(torch.full((1, 1, 8, 8), -2.0))
    assert (found == -2).all()


def test_strides_pads_and_dilations_are_kept() -> None:
    network = OneLayer(
        nn.Conv2d(1, 3, (3, 5), stride=(2, 2), padding=(2, 4), dilation=(2, 2)),
        nn.ELU(0.7),
        nn.MaxPool2d((2, 2), stride=(1, 1)),
        nn.ConvTranspose2d(3, 1, 3, stride=2, bias=False),
    ).eval()
    image = torch.randn(1, 1, 16, 16)
    with torch.inference_mode():
        expected = network(image)
    torch.testing.assert_close(OpenVinoEngine(network, 16)(image), expected, rtol=1e-4, atol=1e-5)
