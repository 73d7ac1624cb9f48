"""What int8 would cost in Dice and gain in time: why it is no option of `hemaseg predict`.

    pip install nncf
    python scripts/measure_int8.py --sich sich.csv > results/int8.csv

Networks are quantised by NNCF (activations and weights of convolutions; its "mixed" preset) with
synthetic heads to find ranges by, scaled as the network wants them, and run by OpenVINO. Dice: the
weights that ship, on the test patients of ct-phe-sich (`sich.csv`: `train_weights.py`), against the
silver masks and against the masks in fp32. Speed: `ct` and the three networks at full size with
random weights, one thread, median of turns in which the precisions alternate; int8 means what of
the network NNCF leaves in floating point computed in bf16.
"""

import argparse
import os
import statistics
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure_weights import patients
from torch import Tensor, nn

# NNCF would report its use over the internet.
os.environ["NNCF_CI"] = "1"

import nncf
import openvino

from hemaseg.config import IntensityConfig
from hemaseg.engines.graph import openvino_graph
from hemaseg.metrics.overlap import dice
from hemaseg.models.blocks import Network
from hemaseg.models.catalogue import build_model
from hemaseg.phantoms.heads import HeadOptions, synthesise
from hemaseg.slices.dataset import fit_to_square
from hemaseg.slices.intensity import intensity_range
from hemaseg.training.checkpoint import load_model
from hemaseg.weights import SHIPPED

PRECISIONS = ("fp32", "bf16", "int8")
NUM_HEADS = 24
FIRST_SEED = 700_000
"""Of the heads that give ranges; neither training nor the card's figures use them."""


def slices_for_ranges(intensity: IntensityConfig, size: int) -> list[Tensor]:
    """Every third slice of some heads, each `(1, 1, size, size)`."""
    found: list[Tensor] = []
    for seed in range(FIRST_SEED, FIRST_SEED + NUM_HEADS):
        head = synthesise(seed, HeadOptions("CT", turned=True, is_export=seed % 2 == 1))
        scale = intensity_range(head.voxels, "CT", intensity, name=str(seed))
        stack = torch.from_numpy(scale.scale(head.voxels))[::3, None]
        found += fit_to_square(stack, size).split(1)
    return found


class Compiled:
    """A compiled network; an `Engine` of one worker."""

    name = "openvino"
    batch_size, num_workers = 1, 1

    def __init__(self, network: nn.Module, size: int, precision: str, ranges: list[Tensor]) -> None:
        assert isinstance(network, Network)
        self.precision = precision
        graph: Any = openvino_graph(network.eval(), size)
        if precision == "int8":
            data = nncf.Dataset([one.numpy() for one in ranges])
            with redirect_stdout(sys.stderr):  # its bars of progress
                graph = nncf.quantize(
                    graph, data, preset=nncf.QuantizationPreset.MIXED, subset_size=len(ranges)
                )
        settings = {
            "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
        }
        compiled = openvino.Core().compile_model(graph, "CPU", settings)
        self._request = compiled.create_infer_request()

    def __call__(self, images: Tensor) -> Tensor:
        """Logits."""
        return torch.from_numpy(self._request.infer([images.numpy()])[0].copy())


def print_dice(sich: Path) -> None:
    """Against the silver masks, and against the masks in fp32."""
    network, model = load_model(SHIPPED / "ct")
    ranges = slices_for_ranges(model.intensity, model.image_size)
    masks, scores = {}, {}
    for precision in PRECISIONS:
        found = list(
            patients(Compiled(network, model.image_size, precision, ranges), model, sich, "test")
        )
        masks[precision] = [one.segmented.mask for one in found]
        scores[precision] = np.array(
            [dice(one.segmented.mask[one.is_marked], one.reference) for one in found]
        )
    for precision in PRECISIONS:
        own, exact = scores[precision], scores["fp32"]
        same = np.array([dice(a, b) for a, b in zip(masks[precision], masks["fp32"], strict=True)])
        for what, value in (
            ("median Dice", np.median(own)),
            ("mean Dice", own.mean()),
            ("largest change of a Dice", np.abs(own - exact).max()),
            ("median Dice with the fp32 mask", np.nanmedian(same)),
            ("least Dice with the fp32 mask", np.nanmin(same)),
        ):
            print(f"ct,{precision},{what},{value:.4f}", flush=True)


def print_speed(num_turns: int) -> None:
    """Milliseconds for a slice."""
    ct, model = load_model(SHIPPED / "ct")
    networks = {"ct": (ct, model.intensity, model.image_size)}
    for name in ("dr_unet", "unet", "dense_unet"):
        torch.manual_seed(0)
        networks[name] = (build_model(name), IntensityConfig(), 256)
    for name, (network, intensity, size) in networks.items():
        ranges = slices_for_ranges(intensity, size)
        ways = {one: Compiled(network, size, one, ranges) for one in PRECISIONS}
        taken: dict[str, list[float]] = {precision: [] for precision in ways}
        for turn in range(num_turns + 1):
            for precision, run in ways.items():
                begin = time.perf_counter()
                for one in ranges[:8]:
                    run(one)
                if turn:
                    taken[precision].append((time.perf_counter() - begin) / 8)
        for precision, seconds in taken.items():
            print(f"{name},{precision},ms per slice,{1000 * statistics.median(seconds):.2f}")


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sich", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args()
    print("network,precision,what,value")
    print_dice(options.sich)
    print_speed(options.turns)


if __name__ == "__main__":
    main()
