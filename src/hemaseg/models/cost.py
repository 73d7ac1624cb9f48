"""What a network costs before it is ever run: parameters and multiply-adds."""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hemaseg.config import Option
from hemaseg.models.catalogue import MODELS, build_model

IMAGE_SIZE = 256
"""Rows and columns of the slice that multiply-adds are counted for."""


@dataclass(frozen=True)
class ModelCost:
    """Size and arithmetic of one network.

    Attributes:
        name: Key in `catalogue.MODELS`.
        description: First line of its module: what the network is.
        num_parameters: Trainable parameters; batch norm's scale and shift count, its running
            statistics do not.
        num_multiply_adds: Of all convolutions for one slice (256x256 unless said otherwise).
    """

    name: str
    description: str
    num_parameters: int
    num_multiply_adds: int


def num_parameters(module: nn.Module) -> int:
    """Number of trainable parameters.

    >>> num_parameters(nn.Conv2d(1, 16, 1))
    32
    """
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def num_multiply_adds(module: nn.Module, image_size: int = IMAGE_SIZE) -> int:
    """Multiply-adds of the convolutions for one `(1, 1, image_size, image_size)` image.

    Biases, norms, activations and pools are not counted (under 2 % of the work).

    >>> num_multiply_adds(nn.Conv2d(1, 2, 3, padding=1), 4)
    288
    """
    # On "meta", weights and activations have shapes but no values: counting takes no arithmetic.
    shapes = copy.deepcopy(module).to("meta").eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        shapes(torch.empty(1, 1, image_size, image_size, device="meta"))
    return int(counter.get_total_flops()) // 2


def model_cost(
    name: str, options: Mapping[str, Option] | None = None, *, image_size: int = IMAGE_SIZE
) -> ModelCost:
    """Cost of a network with the given options (see `catalogue.build_model`)."""
    with torch.device("meta"):
        model = build_model(name, options)
    module_doc = inspect.getdoc(inspect.getmodule(type(model))) or ""
    return ModelCost(
        name=name,
        description=module_doc.splitlines()[0],
        num_parameters=num_parameters(model),
        num_multiply_adds=num_multiply_adds(model, image_size),
    )


def list_models() -> list[ModelCost]:
    """Cost of every network with its default options."""
    return [model_cost(name) for name in MODELS]
