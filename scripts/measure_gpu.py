"""What training costs on a GPU: the tables of docs/performance.md that need one.

    python scripts/measure_gpu.py --only steps > results/gpu-steps.csv
    python scripts/measure_gpu.py --only compiled > results/gpu-compiled.csv
    python scripts/measure_gpu.py --only curves --jobs 16 > results/gpu-curves.csv
    python scripts/measure_gpu.py --only exactness --jobs 16 > results/gpu-exactness.csv

Steps: forward, loss, backward and Adam on slices of 256x256 that lie on the GPU, for the three
networks at full size. Medians are printed: PyTorch as it comes (eager, fp32 with convolutions in
TF32), then ours, one change after the other. `share_of_peak` is the arithmetic of the network
(three forward passes) over the rate of a large matrix product in the same precision.

Compiled: such steps in bf16, recorded, against those of `torch.compile`, which merges operations
into kernels of its own and, in its mode "reduce-overhead", records them too.

Curves: Figure 7 of the paper as a fair one. The three networks under one recipe on the slices with
a lesion of synthetic CT heads (the paper has 2,345 of them), on one device, through `train` as a
user has it: time of each epoch and validation Dice; then U-Net once more with augmentation.

Exactness: pixels that a GPU in fp32, with TF32 and without, and in bf16 decides otherwise than a
CPU in fp32, on synthetic heads.
"""

import argparse
import csv
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

# As in train_weights, before NumPy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pandas as pd
import torch
from torch import Tensor
from train_weights import head_slices

from hemaseg.config import AugmentationConfig, ModelConfig, Recipe, RunConfig
from hemaseg.engines.engine import TorchEngine
from hemaseg.models.catalogue import build_model
from hemaseg.models.cost import model_cost
from hemaseg.slices.dataset import SliceSet
from hemaseg.training.checkpoint import load_model
from hemaseg.training.device import deterministic
from hemaseg.training.loop import DataOrigin, train
from hemaseg.training.losses import loss
from hemaseg.training.optimisation import make_optimiser
from hemaseg.training.recording import Recorded
from hemaseg.weights import SHIPPED

MODELS = ("unet", "dr_unet", "dense_unet")
IMAGE_SIZE = 256
GPU = torch.device("cuda")
PAPER = Recipe(description="the paper's")
AUGMENTATION = AugmentationConfig(
    rotation_deg=30,
    scaling=0.2,
    translation=0.08,
    flip_probability=0.5,
    gamma=0.3,
    contrast=0.25,
    noise_sd=0.04,
)
"""That of the weights that ship."""


def seconds(call: Callable[[], Any], num: int) -> float:
    """Median time of a call, by the GPU's own clock, after three that do not count."""
    for _ in range(3):
        call()
    times = []
    for _ in range(num):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(float(begin.elapsed_time(end)) / 1000)
    return statistics.median(times)


def ceilings() -> dict[str, float]:
    """Operations per second of a large matrix product, by precision; bytes per second of a copy."""
    rates = {}
    for name, kind, tf32 in (
        ("fp32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bf16", torch.bfloat16, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(8192, 8192, device=GPU, dtype=kind) for _ in range(2))
        rates[name] = 2 * 8192**3 / seconds(partial(torch.matmul, a, b), 10)
    torch.backends.cuda.matmul.allow_tf32 = False
    source = torch.randn(2**30, device=GPU)
    target = torch.empty_like(source)
    rates["copy"] = 2 * source.nbytes / seconds(lambda: target.copy_(source), 10)
    return rates


WAYS = {
    # Precision, layout, Adam as one kernel, recorded, deterministic.
    "plain": ("tf32", False, False, False, False),
    "channels last": ("tf32", True, False, False, False),
    "and bf16": ("bf16", True, False, False, False),
    "and Adam fused": ("bf16", True, True, False, False),
    "and recorded": ("bf16", True, True, True, False),
    "and deterministic (ours)": ("bf16", True, True, True, True),
}


def stepper(
    name: str, way: str, images: Tensor, masks: Tensor, compiles: str | None = None
) -> Callable[[], None]:
    """One training step in one way; compiled in a mode of `torch.compile` in place of recorded."""
    precision, is_last, is_fused, is_recorded, _ = WAYS[way]
    torch.manual_seed(0)
    layout = torch.channels_last if is_last else torch.contiguous_format
    network = build_model(name).to(GPU, memory_format=layout).train()  # type: ignore[call-overload]
    optimiser = (
        make_optimiser(network, PAPER.optimiser)
        if is_fused
        else torch.optim.Adam(network.parameters())
    )
    wrapped: Callable[[Tensor], Tensor] = network
    if compiles:
        wrapped = torch.compile(network, mode=compiles, dynamic=False)
    elif is_recorded:
        wrapped = Recorded(network, len(images), IMAGE_SIZE, "bf16")

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            logits = wrapped(images.contiguous(memory_format=layout))
        loss(logits, masks, PAPER.loss).backward()
        optimiser.step()

    return step


def print_steps(batch_sizes: tuple[int, ...], num_turns: int) -> None:
    """The table of steps."""
    rates = ceilings()
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(
        ["model", "batch_size", "way", "step_ms", "slices_per_s", "times_as_fast", "share_of_peak"]
    )
    for kind, rate in rates.items():
        print(f"# {kind}: {rate / 1e12:.2f} T per s", file=sys.stderr)
    for name in MODELS:
        num_operations = 6 * model_cost(name, image_size=IMAGE_SIZE).num_multiply_adds
        for batch_size in batch_sizes:
            images = torch.rand(batch_size, 1, IMAGE_SIZE, IMAGE_SIZE, device=GPU)
            masks = (images > 0.9).float()
            found: dict[str, list[float]] = {way: [] for way in WAYS}
            for way, taken in found.items():
                # Not `deterministic(False)`, in which each shape's kernels are tried first: 10 s.
                with deterministic(True) if WAYS[way][-1] else nullcontext():
                    step = stepper(name, way, images, masks)
                    for _ in range(num_turns):
                        taken.append(seconds(step, 10))
                del step
                torch.cuda.empty_cache()
            plain = statistics.median(found["plain"])
            for way, taken in found.items():
                middle = statistics.median(taken)
                peak = rates[WAYS[way][0]]
                share = num_operations * batch_size / middle / peak
                cells = f"{1000 * middle:.2f},{batch_size / middle:.0f},{plain / middle:.2f}"
                table.writerow([name, batch_size, way, *cells.split(","), f"{share:.3f}"])
            sys.stdout.flush()


def print_compiled(batch_size: int, num_turns: int) -> None:
    """Recorded steps against compiled ones; compilation takes the time that `ready_s` says."""
    print("model,batch_size,way,ready_s,step_ms,times_as_fast", flush=True)
    images = torch.rand(batch_size, 1, IMAGE_SIZE, IMAGE_SIZE, device=GPU)
    masks = (images > 0.9).float()
    for name in MODELS:
        recorded = 0.0
        for way, mode in (
            ("recorded", None),
            ("compiled", "default"),
            ("compiled and recorded", "reduce-overhead"),
        ):
            begin = time.perf_counter()
            step = stepper(name, "and recorded", images, masks, compiles=mode)
            step()
            torch.cuda.synchronize()
            ready_s = time.perf_counter() - begin
            taken = statistics.median(seconds(step, 10) for _ in range(num_turns))
            recorded = recorded or taken
            print(
                f"{name},{batch_size},{way},{ready_s:.1f},{1000 * taken:.2f},"
                f"{recorded / taken:.2f}",
                flush=True,
            )
            del step
            torch.compiler.reset()
            torch.cuda.empty_cache()


def print_curves(num_heads: int, num_epochs: int, jobs: int, output: Path, precision: str) -> None:
    """A row for each epoch of each network."""
    recipe = PAPER.model_copy(
        update={
            "training": PAPER.training.model_copy(
                update={"num_epochs": num_epochs, "precision": precision}
            )
        }
    )
    training = head_slices(range(num_heads), "CT", recipe, jobs)
    validation = head_slices(range(num_heads, num_heads + 30), "CT", recipe, jobs)
    training = training.select(torch.nonzero(training.has_lesion).flatten())
    print(f"# {len(training)} slices with a lesion", file=sys.stderr)
    augmented = recipe.model_copy(update={"augmentation": AUGMENTATION})
    runs = [(name, name, recipe) for name in MODELS] + [("unet", "unet, augmented", augmented)]
    for number, (name, title, asked) in enumerate(runs):
        config = RunConfig(model=ModelConfig(name=name), recipe=asked, device="cuda")
        folder = output / title
        record = train(config, training, validation, folder, origin=DataOrigin("", "", 0, "CT"))
        print(
            f"# {title}: {record.predicted_peak_mib:.0f} MiB predicted, "
            f"{torch.cuda.max_memory_allocated() / 2**20:.0f} allocated, "
            f"{torch.cuda.max_memory_reserved() / 2**20:.0f} reserved",
            file=sys.stderr,
        )
        torch.cuda.empty_cache()
        table = pd.read_csv(folder / "training.csv").assign(model=title)
        table.to_csv(sys.stdout, index=False, header=number == 0, lineterminator="\n")
        sys.stdout.flush()


def print_exactness(num_heads: int, jobs: int) -> None:
    """Flipped pixels of the shipped weights on a GPU."""
    network, record = load_model(SHIPPED / "ct")
    recipe = PAPER.model_copy(
        update={
            "intensity": record.intensity,
            "slices": PAPER.slices.model_copy(update={"image_size": record.image_size}),
        }
    )
    slices: SliceSet = head_slices(range(900_000, 900_000 + num_heads), "CT", recipe, jobs)
    images = slices.images.float()

    def masks(engine: TorchEngine) -> Tensor:
        found = [engine(part).cpu() > 0 for part in images.split(engine.batch_size)]
        return torch.cat(found)

    expected = masks(TorchEngine(network))
    print("way,num_pixels,flipped,flipped_share,volume_ratio,slices_per_s")
    for way, tf32 in (("fp32", False), ("tf32", True), ("bf16", False)):
        torch.backends.cudnn.allow_tf32 = tf32
        engine = TorchEngine(network, GPU, "bf16" if way == "bf16" else "fp32")
        masks(engine)
        begin = time.perf_counter()
        found = masks(engine)
        rate = len(images) / (time.perf_counter() - begin)
        flipped = int((found != expected).sum())
        print(
            f"{way},{expected.numel()},{flipped},{flipped / expected.numel():.2e},"
            f"{float(found.sum() / expected.sum()):.6f},{rate:.0f}",
            flush=True,
        )


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", choices=("steps", "compiled", "curves", "exactness"), required=True
    )
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8])
    parser.add_argument("--heads", type=int, default=165, help="of which curves are learnt")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-runs"))
    options = parser.parse_args()
    if options.only == "steps":
        print_steps(tuple(options.batch_sizes), options.turns)
    elif options.only == "compiled":
        print_compiled(options.batch_sizes[0], options.turns)
    elif options.only == "curves":
        print_curves(
            *(options.heads, options.epochs, options.jobs, options.output, options.precision)
        )
    else:
        print_exactness(20, options.jobs)


if __name__ == "__main__":
    main()
