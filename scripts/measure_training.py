"""How fast a training step is on this CPU, and whether bf16 learns as fp32 does.

    python scripts/measure_training.py [--turns 5] [--steps 2] > results/training-steps.csv
    python scripts/measure_training.py --curves [--seeds 3] > results/training-curves.csv

Steps: forward, loss, backward and Adam on 8 slices of 256x256 of a synthetic CT, for the three
networks at full size. Compared, in turns and each in a process of its own: PyTorch as it comes
(eager, fp32, its own layout and memory), ours in fp32, and ours in bf16. Printed are medians over
the turns and how many times as fast each is.

Curves: the three networks at a quarter of their width on 24 synthetic heads at 64x64, ours in fp32
and in bf16, several seeds. Printed is the mean over the seeds of the last epoch's losses and of the
best validation Dice, with the standard deviation between seeds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from hemaseg.cohorts.index import index_folder
from hemaseg.cohorts.table import Cohort
from hemaseg.config import IntensityConfig, LossConfig, ModelConfig, Recipe, RunConfig
from hemaseg.models.catalogue import build_model
from hemaseg.phantoms.heads import HeadOptions, synthesise
from hemaseg.phantoms.writing import write_nifti
from hemaseg.slices.dataset import fit_to_square, load_slices
from hemaseg.slices.intensity import intensity_range
from hemaseg.training.device import kept_memory
from hemaseg.training.loop import DataOrigin, train
from hemaseg.training.losses import loss

MODELS = {"unet": 8, "dr_unet": 8, "dense_unet": 16}
"""Networks, and the width for curves."""
WAYS = ("plain", "ours, fp32", "ours, bf16")
BATCH_SIZE, IMAGE_SIZE = 8, 256


def step_s(name: str, way: str, num_steps: int) -> list[float]:
    """Seconds of each step but the first."""
    is_ours = way != "plain"
    torch.manual_seed(0)
    network = build_model(name).train()
    head = synthesise(1, HeadOptions(num_slices=BATCH_SIZE, num_hematomas=1, volume_ml=40.0))
    scale = intensity_range(head.voxels, "CT", IntensityConfig(), name="head")
    images, masks = (
        fit_to_square(torch.from_numpy(array)[:, None].float(), IMAGE_SIZE)
        for array in (scale.scale(head.voxels), head.mask)
    )
    masks = (masks >= 0.5).float()
    layout = torch.channels_last if is_ours else torch.contiguous_format
    network = network.to(memory_format=layout)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(network.parameters())
    taken = []
    with kept_memory(is_ours):
        for _ in range(num_steps + 1):
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in way):
                logits = network(images.contiguous(memory_format=layout))
            value = loss(logits, masks, LossConfig())
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
            taken.append(time.perf_counter() - start)
    return taken[1:]


def print_steps(num_turns: int, num_steps: int) -> None:
    """The table of steps."""
    print("model,way,step_s,fastest_s,slowest_s,times_as_fast")
    for name in MODELS:
        taken: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(num_turns):
            for way in WAYS:
                command = [sys.executable, __file__, "--child", name, way, "--steps", num_steps]
                ended = subprocess.run(
                    [str(word) for word in command], check=True, capture_output=True, text=True
                )
                taken[way].append(statistics.median(json.loads(ended.stdout)))
        plain_s = statistics.median(taken["plain"])
        for way, seconds in taken.items():
            middle_s = statistics.median(seconds)
            print(
                f'{name},"{way}",{middle_s:.3f},{min(seconds):.3f},{max(seconds):.3f},'
                f"{plain_s / middle_s:.3f}",
                flush=True,
            )


def write_heads(folder: Path) -> Cohort:
    """24 synthetic CT heads with blood."""
    for seed in range(24):
        head = synthesise(seed, HeadOptions(num_slices=16, image_size=96, num_hematomas=1))
        place = folder / f"head_{seed:03}"
        place.mkdir(parents=True)
        write_nifti(head.voxels, head.affine, place / f"{place.name}.nii.gz")
        write_nifti(head.mask.astype("uint8"), head.affine, place / f"{place.name}_mask.nii.gz")
    return index_folder(folder, modality="CT")


def learn(cohort: Cohort, model: str, precision: str, seed: int, folder: Path) -> list[float]:
    """Training and validation loss of the last epoch, and the best validation Dice."""
    recipe = Recipe.model_validate(
        {
            "description": "curves",
            "slices": {"image_size": 64, "negative_share": 0.2},
            "loss": {"name": "dice_cross_entropy"},
            "optimiser": {"learning_rate": 0.001},
            "schedule": {"name": "cosine"},
            "training": {"num_epochs": 24, "batch_size": 8, "precision": precision},
        }
    )
    config = RunConfig(
        model=ModelConfig(name=model, options={"base_width": MODELS[model]}),
        seed=seed,
        device="cpu",
        recipe=recipe,
    )
    training, validation = (
        load_slices(cohort.select(part), recipe)
        for part in (cohort.subjects[:16], cohort.subjects[16:])
    )
    train(config, training, validation, folder, origin=DataOrigin("", "", 0))
    table = pd.read_csv(folder / "training.csv")
    last = table.iloc[-1]
    return [last["training_loss"], last["validation_loss"], table["validation_dice"].max()]


def print_curves(num_seeds: int) -> None:
    """The table of what was learned."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohort = write_heads(folder / "heads")
        keys = ("training_loss", "validation_loss", "validation_dice")
        print("model,precision," + ",".join(f"{key},{key}_sd" for key in keys))
        for model in MODELS:
            for precision in ("fp32", "bf16"):
                ends = [
                    learn(cohort, model, precision, seed, folder / "run")
                    for seed in range(num_seeds)
                ]
                cells = [
                    f"{statistics.mean(values):.4f},{statistics.stdev(values):.4f}"
                    for values in zip(*ends, strict=True)
                ]
                print(",".join([model, precision, *cells]), flush=True)


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--curves", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, way = options.child
        print(json.dumps(step_s(name, way, options.steps)))
    elif options.curves:
        print_curves(options.seeds)
    else:
        print_steps(options.turns, options.steps)


if __name__ == "__main__":
    main()
