"""Train the weights that ship with the package, or others like them.

    hemaseg phantom --seed 0 --num 2400 --modality mixed --turned -o heads
    hemaseg index heads/heads.csv -o heads/cohort.csv
    hemaseg index ct-phe-sich --masks hematoma_silver --modality CT -o sich.csv
    python scripts/train_weights.py --heads heads/cohort.csv --sich sich.csv
        --recipe configs/weights/synthetic-128.toml -o first
    python scripts/train_weights.py --heads heads/cohort.csv --modality CT --sich sich.csv
        --start first --recipe configs/weights/ct-192.toml -o run

Without `--modality` one network learns CT and MRI; two epochs of that taught it CT and nothing of
MRI, so the second pass is of CT alone. Training slices are of synthetic heads alone;
`--sich-repeats N` adds the training part of ct-phe-sich, each slice N times in an epoch. `--start
RUN` begins from the weights of another run. The epoch is chosen by Dice per subject over the last
`--held-out` synthetic heads, which are not trained on, and, with `--sich`, the validation part of
ct-phe-sich; its test part (`configs/weights/sich-split.json`) is never read.

    python scripts/train_weights.py --seeds 60000 7580 --held-out 40 --modality MRI --upright
        --head-size 192 --hematomas 2 --every 4 --model unet --base-width 16
        --recipe configs/weights/mri-128.toml --jobs 16 -o first

makes the heads of these seeds in memory, by as many processes, for GPUs that learn faster than
files are read; half of them are 8-bit exports, and none lies on its side with `--upright` (scans
with geometry are always predicted upright). `--hematomas N` puts N hematomas into three heads of
four and `--head-size N` makes slices of as many pixels: more slices with blood in less time.
`--every N` keeps one of N slices without blood of heads without a mass, and `--masses N` puts as
many masses without blood into half of the heads.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

# Each process that makes heads would have NumPy use all cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray

from hemaseg.cohorts.split import parts, read_split
from hemaseg.cohorts.table import Cohort, read_cohort
from hemaseg.config import Recipe, RunConfig, parse_config, read_config
from hemaseg.errors import HemasegError
from hemaseg.models.catalogue import MODELS
from hemaseg.phantoms.heads import HeadOptions, synthesise
from hemaseg.phantoms.mri import SEQUENCES
from hemaseg.slices.dataset import SliceName, SliceSet, fit_to_square, join_slices, load_slices
from hemaseg.slices.intensity import intensity_range
from hemaseg.training.checkpoint import load_start
from hemaseg.training.loop import DataOrigin, train
from hemaseg.training.progress import Progress

Modality = Literal["CT", "MRI"]

SPLIT = Path(__file__).parents[1] / "configs" / "weights" / "sich-split.json"


def of_modality(cohort: Cohort, modality: str) -> Cohort:
    """The subjects whose images are of a modality."""
    return cohort.select({case.subject for case in cohort.images if case.modality == modality})


def head_slices(
    seeds: Sequence[int],
    modality: Modality,
    recipe: Recipe,
    jobs: int,
    *,
    turned: bool = True,
    num_hematomas: int | None = None,
    num_masses: int = 0,
    head_size: int = 256,
    every: int = 1,
) -> SliceSet:
    """The slices of synthetic heads, as the network gets them; one head for each seed.

    Args:
        seeds: Of the heads; odd ones are 8-bit exports.
        modality: Of all of them.
        recipe: Image size and intensity.
        jobs: Processes that make them.
        turned: Whether heads may lie anyhow.
        num_hematomas: Of heads whose seed is no multiple of 4.
        num_masses: Of heads whose seed is odd once halved; MRI then has no random contrast, under
            which blood and mass could not be told apart.
        head_size: Rows and columns as they are made, before they are fitted to the image size.
        every: One of how many slices without blood is kept, if the head has no mass.
    """
    options = HeadOptions(
        modality,
        image_size=head_size,
        num_hematomas=num_hematomas,
        num_masses=num_masses,
        turned=turned,
    )
    of_head = partial(_one_head, options, recipe, every)
    # Spawned ones would each import everything anew; nothing here runs on a GPU before.
    context = get_context("fork")
    with ProcessPoolExecutor(jobs, context, torch.set_num_threads, (1,)) as pool:
        made = list(pool.map(of_head, seeds, chunksize=4))
    names = [
        SliceName(f"head_{seed:05}", f"head_{seed:05}.nii.gz", index)
        for seed, (_, _, kept) in zip(seeds, made, strict=True)
        for index in kept.tolist()
    ]
    stacks = [(torch.from_numpy(images), torch.from_numpy(masks)) for images, masks, _ in made]
    del made
    size = recipe.slices.image_size
    images = torch.empty(len(names), 1, size, size, dtype=torch.float16)
    masks = torch.empty(len(names), 1, size, size, dtype=torch.bool)
    # From the last on, each head is given up once it is copied: memory does not hold all twice.
    end = len(names)
    while stacks:
        some_images, some_masks = stacks.pop()
        first = end - len(some_images)
        images[first:end], masks[first:end] = some_images, some_masks
        end = first
    return SliceSet(images, masks, tuple(names))


def _one_head(
    options: HeadOptions, recipe: Recipe, every: int, seed: int
) -> tuple[NDArray[np.float16], NDArray[np.bool_], NDArray[np.int64]]:
    """Images, masks and slices of a head as arrays, which travel faster than tensors."""
    has_masses = options.num_masses > 0 and seed // 2 % 2 == 1
    options = replace(
        options,
        num_hematomas=options.num_hematomas if seed % 4 else None,
        num_masses=options.num_masses if has_masses else 0,
        sequence=SEQUENCES[seed // 4 % 4] if has_masses and options.modality == "MRI" else None,
        is_export=seed % 2 == 1,
    )
    head = synthesise(seed, options)
    scale = intensity_range(head.voxels, options.modality, recipe.intensity, name=f"head {seed}")
    is_kept: NDArray[np.bool_] = np.any(head.mask, axis=(1, 2))
    step = 1 if has_masses else every
    is_kept[seed % step :: step] = True
    stacks = (scale.scale(head.voxels)[is_kept], head.mask[is_kept])
    images, masks = (
        fit_to_square(torch.from_numpy(stack)[:, None].float(), recipe.slices.image_size)
        for stack in stacks
    )
    return images.half().numpy(), (masks >= 0.5).numpy(), np.flatnonzero(is_kept)


def main() -> None:
    """Train one network, or say what is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    heads = parser.add_mutually_exclusive_group(required=True)
    heads.add_argument("--heads", type=Path)
    heads.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "NUM"))
    add_head_options(parser)
    parser.add_argument("--modality", choices=("CT", "MRI"))
    parser.add_argument("--sich", type=Path)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--sich-repeats", type=int, default=0)
    parser.add_argument("--start", type=Path)
    parser.add_argument("--base-width", type=int, default=32)
    parser.add_argument("--model", choices=tuple(MODELS), default="dr_unet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    if options.seeds and not options.modality:
        parser.error("--seeds: expected --modality too")
    try:
        train_one(options)
    except (HemasegError, OSError) as error:
        sys.exit(f"train_weights: {error}")


def add_head_options(parser: argparse.ArgumentParser) -> None:
    """How heads of seeds are made."""
    parser.add_argument("--jobs", type=int, default=1, help="processes that make heads of seeds")
    parser.add_argument("--upright", action="store_true", help="heads of seeds are not turned")
    parser.add_argument("--hematomas", type=int, help="in three of four heads of seeds")
    parser.add_argument("--masses", type=int, default=0, help="in half of the heads of seeds")
    parser.add_argument("--every", type=int, default=1, help="slices without blood to keep one of")
    parser.add_argument("--head-size", type=int, default=256, help="pixels of heads of seeds")
    parser.add_argument("--held-out", type=int, default=20, help="heads that choose the epoch")


def of_seeds(options: argparse.Namespace, recipe: Recipe) -> tuple[SliceSet, SliceSet]:
    """Slices of the heads to learn from, and of those held out."""
    first, num = options.seeds
    seeds = range(first, first + num)
    make = partial(
        head_slices,
        modality=options.modality,
        recipe=recipe,
        jobs=options.jobs,
        turned=not options.upright,
        num_hematomas=options.hematomas,
        num_masses=options.masses,
        head_size=options.head_size,
        every=options.every,
    )
    num_learnt = num - options.held_out
    return make(seeds[:num_learnt]), make(seeds[num_learnt:])


def train_one(options: argparse.Namespace) -> None:
    """Train one network, and print its record."""
    recipe = read_config(options.recipe, Recipe)
    model = {"name": options.model, "options": {"base_width": options.base_width}}
    config = parse_config(
        {"model": model, "seed": options.seed, "recipe": recipe}, RunConfig, source="options"
    )
    if options.heads:
        heads = read_cohort(options.heads)
        if options.modality:
            heads = of_modality(heads, options.modality)
        num = len(heads.subjects) - options.held_out
        learnt, held_out = heads.subjects[:num], heads.subjects[num:]
        training = load_slices(heads.select(learnt), recipe)
        validation = load_slices(heads.select(held_out), recipe)
        identity, modality = heads.sha256, heads.modality
    else:
        training, validation = of_seeds(options, recipe)
        identity = sha256(f"{options.modality} {options.seeds}".encode()).hexdigest()
        modality = options.modality
    split = read_split(SPLIT)
    if options.sich is not None:
        real = parts(split, read_cohort(options.sich), 0)
        validation = join_slices([validation, load_slices(real.validation, recipe)])
        if options.sich_repeats:
            learnt_real = load_slices(real.train, recipe)
            training = join_slices([training, *[learnt_real] * options.sich_repeats])
    print(f"{len(training)} slices to learn from, {len(validation)} to choose by", flush=True)
    start = load_start(options.start, options.output) if options.start else None
    origin = DataOrigin(identity, split.sha256, 0, modality)
    record = train(
        config, training, validation, options.output, origin=origin, start=start, progress=show
    )
    print(record.model_dump_json(indent=2))


def show(progress: Progress) -> None:
    """A line every hundred steps."""
    if progress.step % 100 == 0:
        print(f"{progress.describe()}, step {progress.step}/{progress.num_steps}", flush=True)


if __name__ == "__main__":
    main()
