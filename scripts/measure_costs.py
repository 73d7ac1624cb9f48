"""What the networks cost at full size on this machine: cost tables of docs/reproduction.md.

    python scripts/measure_costs.py [--steps 4] [--turns 3] > results/costs-memory.csv

Each network runs with activations kept and with activations recomputed, each in a process of its
own, so that peak memory is its own. Processes take turns, and the median over the turns is printed,
so that a slow moment of the machine hits all alike. Training steps are those of the paper's recipe:
Dice loss, Adam, batch 8 unless `--batch-size` says otherwise, 256x256, fp32.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch

from hemaseg.config import ModelConfig, Recipe, RunConfig, TrainingConfig
from hemaseg.models.catalogue import build_model
from hemaseg.models.cost import model_cost
from hemaseg.models.recomputation import recomputation
from hemaseg.training.device import (
    choose_device,
    kept_memory,
    peak_memory_mib,
    reset_peak_memory,
)
from hemaseg.training.losses import loss
from hemaseg.training.memory import require_memory

MODELS = ("unet", "dr_unet", "dense_unet")
KEPT, RECOMPUTED = "kept", "recomputed"
"""What happens to activations."""


def measure(
    name: str, activations: str, *, device_name: str, num_steps: int, batch_size: int
) -> dict[str, float]:
    """Seconds per training step, milliseconds per predicted slice, and peak MiB of each.

    The peak of training is also predicted.
    """
    training = TrainingConfig(
        batch_size=batch_size,
        precision="fp32",
        recomputes_activations=activations == RECOMPUTED,
    )
    recipe = Recipe(description="the paper's", training=training)
    device = choose_device(device_name)
    predicted_mib = require_memory(
        RunConfig(model=ModelConfig(name=name), device=device_name, recipe=recipe)
    )
    torch.manual_seed(0)
    network = build_model(name).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(batch_size, 1, 256, 256).to(device, memory_format=torch.channels_last)
    masks = (images > 0.9).float()
    network.eval()
    reset_peak_memory(device)
    with torch.inference_mode():
        slice_s, _ = _median_s(lambda: network(images[:1]), num_steps, device)
    prediction_mib = peak_memory_mib(device)
    network.train()
    optimiser = torch.optim.Adam(network.parameters())

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with recomputation(training.recomputes_activations):
            logits = network(images)
        loss(logits, masks, recipe.loss).backward()
        optimiser.step()

    reset_peak_memory(device)
    # As in `training/loop.py`.
    with kept_memory(device.type == "cpu" and activations == KEPT):
        step_s, step_cpu_s = _median_s(step, num_steps, device)
        training_mib = peak_memory_mib(device)
    return {
        "training_step_s": step_s,
        "training_step_cpu_s": step_cpu_s,
        "prediction_ms_per_slice": 1000 * slice_s,
        "training_peak_mib": training_mib or float("nan"),
        "predicted_training_peak_mib": predicted_mib,
        "prediction_peak_mib": prediction_mib or float("nan"),
    }


def _median_s(call: object, num_calls: int, device: torch.device) -> tuple[float, float]:
    """Median seconds of a call after one that is not counted: by the clock, and of the CPU.

    Those of the CPU (all threads) heed other programs on a busy machine less.
    """
    assert callable(call)
    seconds = []
    for _ in range(num_calls + 1):
        start = time.perf_counter(), time.process_time()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    clock_s, cpu_s = zip(*seconds[1:], strict=True)
    return statistics.median(clock_s), statistics.median(cpu_s)


def main() -> None:
    """Print one CSV row per network and way with its activations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        found = measure(
            *options.only,
            device_name=options.device,
            num_steps=options.steps,
            batch_size=options.batch_size,
        )
        print(json.dumps(found))
        return
    ways = [(name, activations) for name in MODELS for activations in (KEPT, RECOMPUTED)]
    turns: dict[tuple[str, str], list[dict[str, float]]] = {way: [] for way in ways}
    arguments = ["--device", options.device, "--steps", str(options.steps)]
    arguments += ["--batch-size", str(options.batch_size)]
    for _ in range(options.turns):
        for way in ways:
            output = subprocess.run(
                [sys.executable, __file__, "--only", *way, *arguments],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            turns[way].append(json.loads(output))
    keys = list(turns[ways[0]][0])
    head = ["model", "activations", "batch_size", "num_parameters", "num_multiply_adds", *keys]
    print(",".join(head))
    for name, activations in ways:
        size = model_cost(name)
        own = turns[name, activations]
        medians = [f"{statistics.median(turn[key] for turn in own):.4g}" for key in keys]
        counts = [options.batch_size, size.num_parameters, size.num_multiply_adds]
        print(",".join(map(str, [name, activations, *counts, *medians])))


if __name__ == "__main__":
    main()
