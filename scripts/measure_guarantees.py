"""What determinism, checkpoints and several processes cost: the table of docs/guarantees.md.

    python scripts/measure_guarantees.py [--turns 3] [--steps 4] > results/costs-guarantees.csv

Training steps are those of the paper's recipe: Dice loss, Adam, batch 8, 256x256, fp32, on the CPU.
Ways that are compared take turns, and medians over the turns are printed, so that a slow moment of
the machine hits all alike. Rows are ratios, but for what a checkpoint takes in MiB and seconds.
"""

import argparse
import csv
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from hemaseg.config import LossConfig, ModelConfig, Recipe, RunConfig
from hemaseg.models.catalogue import build_model
from hemaseg.slices.augmentation import augment
from hemaseg.training.checkpoint import save_weights
from hemaseg.training.device import deterministic, kept_memory
from hemaseg.training.losses import loss
from hemaseg.training.optimisation import make_optimiser
from hemaseg.training.processes import ALONE, Processes, processes
from hemaseg.training.progress import CHECKPOINT_EVERY_S, Epoch
from hemaseg.training.resumption import (
    RunIdentity,
    TrainingState,
    newest_checkpoint,
    write_checkpoint,
)

MODELS = ("unet", "dr_unet", "dense_unet")
BATCH_SIZE = 8
RECIPE = Recipe(description="the paper's")


def stepper(name: str, joined: Processes = ALONE) -> tuple[TrainingState, Callable[[], None]]:
    """A network with its optimiser, and what changes it by one batch."""
    torch.manual_seed(0)
    network = build_model(name).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    random = torch.Generator().manual_seed(0)
    state = TrainingState(network, make_optimiser(network, RECIPE.optimiser), None, None, random)
    images = torch.rand(BATCH_SIZE, 1, 256, 256)
    masks = (images > 0.9).float()
    share = joined.share(BATCH_SIZE)
    wrapped = joined.join(network)

    def step() -> None:
        state.optimiser.zero_grad(set_to_none=True)
        mine, marked = augment(
            *(images[share], masks[share], RECIPE.augmentation, random),
            share=share,
            num_drawn=BATCH_SIZE,
        )
        logits = wrapped(mine.contiguous(memory_format=torch.channels_last))
        loss(logits, marked, LossConfig(), joined).backward()
        state.optimiser.step()

    return state, step


def seconds(step: Callable[[], None], num_steps: int) -> float:
    """Median time of a step, after one that does not count."""
    step()
    times = []
    for _ in range(num_steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def cost_of_determinism(name: str, num_turns: int, num_steps: int) -> float:
    """Time of a step with deterministic algorithms over that without."""
    _, step = stepper(name)
    times: dict[bool, list[float]] = {True: [], False: []}
    with kept_memory(True):
        for _ in range(num_turns):
            for is_on, found in times.items():
                with deterministic(is_on):
                    found.append(seconds(step, num_steps))
    return statistics.median(times[True]) / statistics.median(times[False])


def cost_of_checkpoints(name: str, num_turns: int) -> tuple[float, float, float]:
    """MiB of a checkpoint, seconds to write one, seconds to read it and put everything back."""
    state, step = stepper(name)
    step()  # The optimiser has moments only then.
    identity = RunIdentity(
        config=RunConfig(model=ModelConfig(name=name), recipe=RECIPE),
        cohort_sha256="",
        split_sha256="",
        fold=0,
        start_weights_sha256=None,
        precision="fp32",
    )
    # As after the first epoch, whose weights are the best and are in the checkpoint too.
    state.done.append(Epoch(1, *(8 * [0.5])))
    with tempfile.TemporaryDirectory(dir=".") as folder:  # Not in memory, as /tmp can be.
        save_weights(Path(folder), state.network)
        written, read = [], []
        for _ in range(num_turns):
            written.append(write_checkpoint(Path(folder), state, identity, torch.device("cpu")))
            start = time.perf_counter()
            found = newest_checkpoint(Path(folder))
            assert found is not None
            found.restore(state, identity)
            read.append(time.perf_counter() - start)
            size = found.file.stat().st_size / 2**20
    return size, statistics.median(written), statistics.median(read)


def cost_of_two_processes(name: str, num_turns: int, num_steps: int) -> float:
    """Time of a step of two processes of one thread over that of one process of two threads."""
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(num_turns):
        for num, found in times.items():
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            started = [
                subprocess.Popen(
                    [sys.executable, __file__, "--worker", name, "--steps", str(num_steps)],
                    env=os.environ
                    | address
                    | {"RANK": str(rank), "WORLD_SIZE": str(num), "OMP_NUM_THREADS": str(2 // num)},
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for rank in range(num)
            ]
            found.append(max(float(process.communicate()[0]) for process in started))
    return statistics.median(times[2]) / statistics.median(times[1])


def main() -> None:
    """Measure and print; as a worker, one process's time of a step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        with processes("cpu") as joined, deterministic(True), kept_memory(True):
            print(seconds(stepper(asked.worker, joined)[1], asked.steps))
        return
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["what", "model", "value"])
    for name in MODELS:
        size, write_s, read_s = cost_of_checkpoints(name, asked.turns)
        for what, value in (
            ("checkpoint_mib", size),
            ("checkpoint_write_s", write_s),
            ("checkpoint_restore_s", read_s),
            ("checkpoint_share_of_run", write_s / CHECKPOINT_EVERY_S),
            ("deterministic_step_ratio", cost_of_determinism(name, asked.turns, asked.steps)),
            ("two_processes_step_ratio", cost_of_two_processes(name, asked.turns, asked.steps)),
        ):
            table.writerow([what, name, f"{value:.4g}"])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
