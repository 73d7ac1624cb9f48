"""How time and memory grow: with slice size, number of slices, batch, and growth rate k.

    python scripts/measure_growth.py [--turns 3]

Prediction: the engine that `hemaseg predict` takes, networks with random weights at full size.
Training: steps of Adam in fp32 on the CPU, DR U-Net; its memory is predicted (`training/memory.py`;
`measure_costs.py` says how near that is). Sizes take turns; medians over the turns are printed, and
the exponent p of the least-squares line through the logarithms: time or memory grows with the p-th
power of what it is shown against. 1 is proportional.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from hemaseg.config import ModelConfig, Option, Recipe
from hemaseg.engines.engine import choose_engine
from hemaseg.engines.options import EngineOptions
from hemaseg.models.catalogue import build_model
from hemaseg.prediction.predict import probabilities
from hemaseg.training.device import kept_memory
from hemaseg.training.losses import loss
from hemaseg.training.memory import training_mib

CPU = EngineOptions(device="cpu")


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope of the least-squares line through the logarithms.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def medians_s(calls: Mapping[int, Callable[[], object]], num_turns: int) -> dict[int, float]:
    """Median seconds of each call, in turns, after one that prepares."""
    taken: dict[int, list[float]] = {key: [] for key in calls}
    for turn in range(num_turns + 1):
        for key, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                taken[key].append(time.perf_counter() - start)
    return {key: statistics.median(values) for key, values in taken.items()}


def show(title: str, unit: str, values: Mapping[int, float], power: int = 1) -> None:
    """A table row: values, and the exponent against the key to some power."""
    cells = ", ".join(f"{key}: {value:.4g}" for key, value in values.items())
    fitted = exponent([float(key) ** power for key in values], list(values.values()))
    print(f"| {title} | {unit} | {cells} | {fitted:.2f} |", flush=True)


def predict_call(name: str, size: int, num_slices: int, **options: Option) -> Callable[[], object]:
    """Predict a stack."""
    torch.manual_seed(0)
    engine = choose_engine(build_model(name, options).eval(), size, CPU)
    voxels = np.random.default_rng(0).random((num_slices, size, size), np.float32)
    return lambda: probabilities(engine, voxels, size)


def step_call(size: int, batch_size: int) -> Callable[[], object]:
    """A training step of DR U-Net."""
    recipe = Recipe(description="growth")
    torch.manual_seed(0)
    network = build_model("dr_unet").train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(network.parameters())
    images = torch.rand(batch_size, 1, size, size).contiguous(memory_format=torch.channels_last)
    masks = (images > 0.9).float()

    def step() -> None:
        value = loss(network(images), masks, recipe.loss)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()

    return step


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    num_turns = parser.parse_args().turns
    print(f"{torch.get_num_threads()} threads\n| what, against | unit | values | exponent |")
    print("| --- | --- | --- | ---: |")
    for name in ("dr_unet", "unet", "dense_unet"):
        calls = {size: predict_call(name, size, 2) for size in (256, 512, 768, 1024)}
        found = medians_s(calls, num_turns)
        show(f"{name}, predicting 2 slices, against pixels (edge)", "s", found, power=2)
    calls = {num: predict_call("dr_unet", 256, num) for num in (4, 16, 64)}
    show("dr_unet, predicting, against slices", "s", medians_s(calls, num_turns))
    calls = {k: predict_call("dense_unet", 256, 2, growth_rate=k) for k in (8, 32)}
    show("dense_unet, predicting 2 slices, against k", "s", medians_s(calls, num_turns))
    with kept_memory(True):
        calls = {batch: step_call(128, batch) for batch in (2, 4, 8)}
        show("dr_unet, training step at 128x128, against batch", "s", medians_s(calls, num_turns))
        calls = {size: step_call(size, 2) for size in (128, 256, 384)}
        found = medians_s(calls, num_turns)
        show("dr_unet, training step of 2 slices, against pixels (edge)", "s", found, power=2)
    mib = {size: peak_mib(size, 8) for size in (128, 256, 512)}
    show("dr_unet, memory of training by 8, against pixels (edge)", "MiB", mib, power=2)
    mib = {batch: peak_mib(256, batch) for batch in (2, 4, 8, 16)}
    show("dr_unet, memory of training at 256x256, against batch", "MiB", mib)


def peak_mib(size: int, batch_size: int) -> float:
    """Predicted peak memory of a training step of DR U-Net."""
    recipe = Recipe.model_validate({"description": "growth", "slices": {"image_size": size}})
    return training_mib(
        ModelConfig(name="dr_unet"), recipe, batch_size=batch_size, precision="fp32"
    )


if __name__ == "__main__":
    main()
