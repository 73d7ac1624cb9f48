"""What the networks cost at full size on this machine: the cost table of docs/reproduction.md.

    python scripts/measure_costs.py [--device cpu] [--steps 4] > results/costs-full-size.csv

Each network runs in a process of its own, so that peak memory is its own. Networks take turns, and
the median over the turns is printed, so that a slow moment of the machine hits all alike. Training
steps are those of the paper's recipe: Dice loss, Adam, batch 8, 256x256, fp32.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch

from hemaseg.config import LossConfig
from hemaseg.models.catalogue import build_model
from hemaseg.models.cost import model_cost
from hemaseg.training.device import choose_device, peak_memory_mib, reset_peak_memory
from hemaseg.training.losses import loss

MODELS = ("unet", "dr_unet", "dense_unet")
BATCH_SIZE = 8
NUM_TURNS = 3


def measure(name: str, device_name: str, num_steps: int) -> dict[str, float]:
    """Seconds per training step, milliseconds per predicted slice, and peak MiB of each."""
    device = choose_device(device_name)
    torch.manual_seed(0)
    network = build_model(name).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(BATCH_SIZE, 1, 256, 256).to(device, memory_format=torch.channels_last)
    masks = (images > 0.9).float()
    network.eval()
    reset_peak_memory(device)
    with torch.inference_mode():
        slice_s = _median_s(lambda: network(images[:1]), num_steps, device)
    prediction_mib = peak_memory_mib(device)
    network.train()
    optimiser = torch.optim.Adam(network.parameters())

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss(network(images), masks, LossConfig()).backward()
        optimiser.step()

    reset_peak_memory(device)
    step_s = _median_s(step, num_steps, device)
    return {
        "training_step_s": step_s,
        "prediction_ms_per_slice": 1000 * slice_s,
        "training_peak_mib": peak_memory_mib(device) or float("nan"),
        "prediction_peak_mib": prediction_mib or float("nan"),
    }


def _median_s(call: object, num_calls: int, device: torch.device) -> float:
    """Median seconds of a call after one that is not counted."""
    assert callable(call)
    seconds = []
    for _ in range(num_calls + 1):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def main() -> None:
    """Print one CSV row per network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--only", choices=MODELS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.device, options.steps)))
        return
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in MODELS}
    for _ in range(NUM_TURNS):
        for name in MODELS:
            arguments = ["--device", options.device, "--steps", str(options.steps)]
            output = subprocess.run(
                [sys.executable, __file__, "--only", name, *arguments],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            turns[name].append(json.loads(output))
    keys = list(turns[MODELS[0]][0])
    print(",".join(["model", "num_parameters", "num_multiply_adds", *keys]))
    for name in MODELS:
        size = model_cost(name)
        medians = [statistics.median(turn[key] for turn in turns[name]) for key in keys]
        row = [name, size.num_parameters, size.num_multiply_adds, *(f"{m:.4g}" for m in medians)]
        print(",".join(map(str, row)))


if __name__ == "__main__":
    main()
