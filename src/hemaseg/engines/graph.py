"""A network of the catalogue as an OpenVINO graph, layer by layer.

OpenVINO's own converter takes any PyTorch code, and two to five seconds for it; our networks are
made of a few kinds of layers, which take about a tenth of a second. A layer of another kind is
refused, never guessed.

A concatenation is not made where it can be avoided: what follows works on its parts, and a
convolution adds up what it makes of each. That saves DR U-Net writing and reading its widest
tensors once more.

Shape legend: N slices, C channels, H rows, W columns.
"""

import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from hemaseg.errors import EngineError
from hemaseg.models.blocks import Network

if TYPE_CHECKING:
    from openvino import Model

MAX_PARTS = 2
"""Concatenations of more parts are made: a convolution of each would cost more than it saves."""

Parts = list[Any]
"""Nodes of OpenVINO: a tensor as the concatenation, along its channels, of these."""


def openvino_graph(network: Network, image_size: int) -> "Model":
    """The graph of `network.logits`, from `(1, 1, image_size, image_size)` to the same shape.

    Batch norms use their running statistics: the network as it is after `eval()`.

    Raises:
        EngineError: A layer or function has no translation here.
    """
    from openvino import Model
    from openvino import opset1 as ops

    graph = _Tracer().trace(network)
    layers = dict(network.named_modules())
    values: dict[fx.Node, Parts] = {}
    parameter: Any = None
    for node in graph.nodes:
        if node.op == "placeholder":
            parameter = ops.parameter([1, 1, image_size, image_size])
            values[node] = [parameter]
        elif node.op == "call_module":
            _refuse_shared_in_place(node, layers[node.target])
            values[node] = _layer(layers[node.target], values[node.args[0]])
        elif node.op == "call_function":
            values[node] = _function(node, values)
        elif node.op == "output":
            return Model([_whole(values[node.args[0]])], [parameter])
        else:
            raise EngineError(_untranslatable(f"{node.op} {node.target}"))
    raise EngineError(_untranslatable("no output"))


class _Tracer(fx.Tracer):
    traced_func_name = "logits"


def _layer(layer: nn.Module, parts: Parts) -> Parts:
    from openvino import opset1 as ops

    match layer:
        case nn.Identity():
            return parts
        case nn.ReLU():
            return [ops.relu(part) for part in parts]
        case nn.ELU():
            return [ops.elu(part, layer.alpha) for part in parts]
        case nn.BatchNorm2d(
            running_mean=Tensor() as mean, running_var=Tensor() as variance, affine=True
        ):
            scale = layer.weight / torch.sqrt(variance + layer.eps)
            shift = layer.bias - scale * mean
            return [
                ops.add(ops.multiply(part, _of_channels(a)), _of_channels(b))
                for part, a, b in zip(
                    parts, _split(scale, parts), _split(shift, parts), strict=True
                )
            ]
        case nn.Conv2d() if layer.groups == 1 and layer.padding_mode == "zeros":
            return [_convolution(layer, parts)]
        case nn.ConvTranspose2d() if (
            layer.groups == 1 and layer.padding == (0, 0) and layer.output_padding == (0, 0)
        ):
            made = ops.convolution_backprop_data(
                _whole(parts),
                _constant(layer.weight),
                list(layer.stride),
                pads_begin=[0, 0],
                pads_end=[0, 0],
                dilations=list(layer.dilation),
            )
            return [made if layer.bias is None else ops.add(made, _of_channels(layer.bias))]
        case nn.MaxPool2d(padding=0, dilation=1, ceil_mode=False):
            edge, step = _pair(layer.kernel_size), _pair(layer.stride)
            return [ops.max_pool(_whole(parts), step, [0, 0], [0, 0], edge)]
    raise EngineError(_untranslatable(f"the layer {layer}"))


def _pair(size: int | tuple[int, ...]) -> list[int]:
    """Rows and columns, for which PyTorch keeps one number where it was given one."""
    return [size] * 2 if isinstance(size, int) else list(size)


def _convolution(layer: nn.Conv2d, parts: Parts) -> Any:
    from openvino import opset1 as ops

    if isinstance(layer.padding, str):
        raise EngineError(_untranslatable(f"the layer {layer}"))
    pads = list(layer.padding)
    made = None
    for part, weight in zip(parts, _split(layer.weight, parts, dim=1), strict=True):
        one = ops.convolution(
            part, _constant(weight), list(layer.stride), pads, pads, list(layer.dilation)
        )
        made = one if made is None else ops.add(one, made)
    return made if layer.bias is None else ops.add(made, _of_channels(layer.bias))


def _function(node: fx.Node, values: Mapping[fx.Node, Parts]) -> Parts:
    from openvino import opset1 as ops

    if node.target is torch.cat and node.kwargs in ({"dim": 1}, {}):
        tensors, *dim = node.args
        if isinstance(tensors, list | tuple) and (node.kwargs or dim == [1]):
            parts = [part for tensor in tensors for part in values[tensor]]  # type: ignore[index]
            return parts if len(parts) <= MAX_PARTS else [_whole(parts)]
    if node.target is operator.add and all(isinstance(arg, fx.Node) for arg in node.args):
        first, second = (_whole(values[arg]) for arg in node.args)  # type: ignore[index]
        return [ops.add(first, second)]
    if node.target is functional.elu and isinstance(node.args[0], fx.Node):
        alpha = float(node.kwargs.get("alpha", 1.0))  # type: ignore[arg-type]
        return [ops.elu(part, alpha) for part in values[node.args[0]]]
    raise EngineError(_untranslatable(f"the function {node.target}"))


def _refuse_shared_in_place(node: fx.Node, layer: nn.Module) -> None:
    """What is changed in place and used elsewhere too would be another tensor there."""
    before = node.args[0]
    if getattr(layer, "inplace", False) and isinstance(before, fx.Node) and len(before.users) > 1:
        raise EngineError(_untranslatable(f"a tensor that {node.target} changes under others"))


def _whole(parts: Parts) -> Any:
    from openvino import opset1 as ops

    return parts[0] if len(parts) == 1 else ops.concat(parts, 1)


def _split(values: Tensor, parts: Parts, dim: int = 0) -> tuple[Tensor, ...]:
    """What belongs to the channels of each part."""
    return torch.split(values, [part.output(0).get_shape()[1] for part in parts], dim)


def _constant(values: Tensor) -> Any:
    # Not opset1.constant, which makes a list of all numbers.
    from openvino.op import Constant

    return Constant(values.detach().cpu().float().contiguous().numpy())


def _of_channels(values: Tensor) -> Any:
    return _constant(values.reshape(1, -1, 1, 1))


def _untranslatable(what: str) -> str:
    return (
        f"{what} has no translation to OpenVINO here, expected layers of our networks. Use torch."
    )
