"""Why DR U-Net is not as fast as its multiply-adds promise: how fast thin layers are at best.

    python scripts/measure_narrow_layers.py > results/narrow-layers.csv

Twelve 3x3 convolutions in a row, of as many channels as DR U-Net has at each resolution of a slice
of 256x256, by OpenVINO on one thread, in fp32 and bf16; medians of turns in which all alternate.
The last row is the first one's work with two neighbouring pixels taken as 16 channels, which fills
a vector of 16 numbers and multiplies by zero in half of it: GFLOP/s then count those zeros too.
"""

import statistics
import time
from typing import Any

import numpy as np
import openvino
from openvino import opset13

NUM_LAYERS, NUM_TURNS = 12, 15
SHAPES = {
    "8 channels": (8, 256, 256),
    "16 channels": (16, 128, 128),
    "32 channels": (32, 64, 64),
    "64 channels": (64, 32, 32),
    "128 channels": (128, 16, 16),
    "8 channels as 16": (16, 256, 128),
}


def compiled(shape: tuple[int, int, int], precision: str) -> Any:
    """A request that runs the layers."""
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
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
    }
    model = openvino.Model([values], [image])
    return openvino.Core().compile_model(model, "CPU", settings).create_infer_request()


def main() -> None:
    """Print a line for each width and precision."""
    ways = {
        (name, kind): compiled(SHAPES[name], kind) for name in SHAPES for kind in ("f32", "bf16")
    }
    images = {name: np.ones((1, *shape), np.float32) for name, shape in SHAPES.items()}
    taken: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for turn in range(NUM_TURNS + 1):
        for way, request in ways.items():
            begin = time.perf_counter()
            request.infer([images[way[0]]])
            if turn:
                taken[way].append((time.perf_counter() - begin) / NUM_LAYERS)
    print("layer,rows,columns,precision,ms,gflop_per_s")
    for (name, kind), seconds in taken.items():
        channels, rows, columns = SHAPES[name]
        middle = statistics.median(seconds)
        rate = 2 * 9 * channels**2 * rows * columns / middle / 1e9
        print(f"{name},{rows},{columns},{kind},{1000 * middle:.3f},{rate:.0f}")


if __name__ == "__main__":
    main()
