"""Why DR U-Net is not as fast as its multiply-adds promise: how fast thin layers are at best.

    python scripts/measure_narrow_layers.py > results/narrow-layers.csv

Twelve 3x3 convolutions in a row, of as many channels as DR U-Net has at each resolution of a slice
of 256x256, by OpenVINO on one thread, in fp32 and bf16; medians of turns in which all alternate.
"8 channels as 16" is the first row's work with two neighbouring pixels taken as 16 channels, which
fills a vector of 16 numbers and multiplies by zero in half of it: GFLOP/s then count those zeros
too. Below are whole networks, and DR U-Net with ReLU in the place of ELU, which is another network
and says what ELU's exponentials cost.
"""

import statistics
import time
from typing import Any

import numpy as np
import openvino
import torch
from openvino import opset13

from hemaseg.engines.graph import openvino_graph
from hemaseg.models.catalogue import build_model
from hemaseg.models.cost import num_multiply_adds

NUM_LAYERS, NUM_TURNS = 12, 15
SHAPES = {
    "8 channels": (8, 256, 256),
    "16 channels": (16, 128, 128),
    "32 channels": (32, 64, 64),
    "64 channels": (64, 32, 32),
    "128 channels": (128, 16, 16),
    "8 channels as 16": (16, 256, 128),
}
NETWORKS = {"dr_unet": "dr_unet", "dr_unet with ReLU": "dr_unet", "unet": "unet"}
SIZE = 256


def layers(shape: tuple[int, int, int]) -> openvino.Model:
    """The layers in a row."""
    channels = shape[0]
    random = np.random.default_rng(0)
    image = opset13.parameter([1, *shape], np.float32)
    values = image
    for _ in range(NUM_LAYERS):
        weights = random.standard_normal((channels, channels, 3, 3), np.float32) / channels
        values = opset13.convolution(
            values, opset13.constant(weights), [1, 1], [1, 1], [1, 1], [1, 1]
        )
        values = opset13.relu(values)
    return openvino.Model([values], [image])


def network(name: str) -> tuple[openvino.Model, int]:
    """A network with random weights, and its multiply-adds for a slice."""
    torch.manual_seed(0)
    made = build_model(NETWORKS[name], {}).eval()
    graph = openvino_graph(made, SIZE)
    if name.endswith("with ReLU"):
        for node in graph.get_ordered_ops():
            if node.get_type_name() == "Elu":
                node.output(0).replace(opset13.relu(node.input_value(0)).output(0))
    return graph, num_multiply_adds(made, SIZE)


def compiled(model: openvino.Model, precision: str) -> Any:
    """A request that runs a model on one thread."""
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
    }
    return openvino.Core().compile_model(model, "CPU", settings).create_infer_request()


def main() -> None:
    """Print a line for each width, or network, and precision."""
    models = {name: layers(shape) for name, shape in SHAPES.items()}
    images = {name: np.ones((1, *shape), np.float32) for name, shape in SHAPES.items()}
    multiply_adds = {
        name: 9 * channels**2 * rows * columns for name, (channels, rows, columns) in SHAPES.items()
    }
    for name in NETWORKS:
        models[name], multiply_adds[name] = network(name)
        images[name] = np.random.default_rng(0).random((1, 1, SIZE, SIZE), np.float32)
    ways = {
        (name, kind): compiled(model, kind)
        for name, model in models.items()
        for kind in ("f32", "bf16")
    }
    taken: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for turn in range(NUM_TURNS + 1):
        for way, request in ways.items():
            begin = time.perf_counter()
            request.infer([images[way[0]]])
            if turn:
                num = NUM_LAYERS if way[0] in SHAPES else 1
                taken[way].append((time.perf_counter() - begin) / num)
    print("layer,rows,columns,precision,ms,gflop_per_s")
    for (name, kind), seconds in taken.items():
        rows, columns = images[name].shape[2:]
        middle = statistics.median(seconds)
        rate = 2 * multiply_adds[name] / middle / 1e9
        print(f"{name},{rows},{columns},{kind},{1000 * middle:.3f},{rate:.0f}")


if __name__ == "__main__":
    main()
