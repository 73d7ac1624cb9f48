"""How time and memory grow: with slice size, slices, studies, batch, and growth rate k.

    python scripts/measure_growth.py [--turns 3] [--only memory] > results/growth.csv

Time of prediction: the engine that `hemaseg predict` takes, networks with random weights at full
size. Its memory: the peak of a whole `hemaseg predict` of a synthetic head as DICOM (studies in one
call: as NIfTI) by DR U-Net. Training: steps of Adam in fp32 on the CPU, DR U-Net; its memory is
predicted (`training/memory.py`; `measure_costs.py` says how near that is). Sizes take turns;
printed are medians over the turns. Memory heeds nothing else on the machine, so it is measured
once. `reproduction_tables.py` fits the exponents.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from hemaseg.benchmark.inputs import write_inputs
from hemaseg.benchmark.whole_process import (
    PredictProcess,
    predict_process,
    write_copies,
    write_study,
)
from hemaseg.config import ModelConfig, Option, Recipe
from hemaseg.engines.engine import choose_engine
from hemaseg.engines.options import EngineOptions
from hemaseg.models.catalogue import build_model
from hemaseg.prediction.predict import probabilities
from hemaseg.training.device import kept_memory
from hemaseg.training.losses import loss
from hemaseg.training.memory import training_mib

CPU = EngineOptions(device="cpu")


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


def show(what: str, against: str, unit: str, values: Mapping[int, float]) -> None:
    """Rows of the table."""
    for at, value in values.items():
        print(f'"{what}",{against},{unit},{at},{value:.4g}', flush=True)


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


def show_times(num_turns: int) -> None:
    """Rows in seconds."""
    for name in ("dr_unet", "unet", "dense_unet"):
        calls = {size: predict_call(name, size, 2) for size in (256, 512, 768, 1024)}
        show(f"{name}, predicting 2 slices", "edge", "s", medians_s(calls, num_turns))
    calls = {num: predict_call("dr_unet", 256, num) for num in (4, 16, 64)}
    show("dr_unet, predicting", "slices", "s", medians_s(calls, num_turns))
    calls = {k: predict_call("dense_unet", 256, 2, growth_rate=k) for k in (8, 32)}
    show("dense_unet, predicting 2 slices", "k", "s", medians_s(calls, num_turns))
    with kept_memory(True):
        calls = {batch: step_call(128, batch) for batch in (2, 4, 8)}
        show("dr_unet, training step at 128x128", "batch", "s", medians_s(calls, num_turns))
        calls = {size: step_call(size, 2) for size in (128, 256, 384)}
        show("dr_unet, training step of 2 slices", "edge", "s", medians_s(calls, num_turns))


def show_memory() -> None:
    """Rows in MiB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = write_inputs(folder, "dr_unet", None, 4).run_folder
        mib = {size: study_mib(folder, run, size, 32) for size in (256, 512, 768, 1024)}
        show("predict, whole process, 32 slices", "edge", "MiB", mib)
        mib = {num: study_mib(folder, run, 512, num) for num in (8, 32, 128)}
        show("predict, whole process, 512x512", "slices", "MiB", mib)
        study = write_study(folder / "one", "NIfTI", "CT", num_slices=32, image_size=512)
        mib = {}
        for num in (1, 4, 16):
            many = write_copies(study, num, folder / f"many{num}")
            mib[num] = peak_mib(predict_process(many, run, folder / f"output{num}"))
        show("predict, whole process, 32 slices of 512x512", "studies", "MiB", mib)
    mib = {size: training_peak_mib(size, 8) for size in (128, 256, 512)}
    show("dr_unet, training by 8", "edge", "MiB", mib)
    mib = {batch: training_peak_mib(256, batch) for batch in (2, 4, 8, 16)}
    show("dr_unet, training at 256x256", "batch", "MiB", mib)


def study_mib(folder: Path, run: Path, image_size: int, num_slices: int) -> float:
    """Peak of predicting a DICOM study."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name) / "study"
        write_study(place, "DICOM", "CT", num_slices=num_slices, image_size=image_size)
        return peak_mib(predict_process(place, run, Path(name) / "output"))


def peak_mib(process: PredictProcess) -> float:
    """Of a process on Linux."""
    assert process.peak_mib is not None
    return process.peak_mib


def training_peak_mib(size: int, batch_size: int) -> float:
    """Predicted peak memory of a training step of DR U-Net."""
    recipe = Recipe.model_validate({"description": "growth", "slices": {"image_size": size}})
    return training_mib(
        ModelConfig(name="dr_unet"), recipe, batch_size=batch_size, precision="fp32"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", choices=("time", "memory"))
    options = parser.parse_args()
    print("what,against,unit,at,value")
    if options.only != "memory":
        show_times(options.turns)
    if options.only != "time":
        show_memory()


if __name__ == "__main__":
    main()
