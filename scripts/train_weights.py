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
RUN` begins from the weights of another run. The epoch is chosen by Dice per subject over
`NUM_HELD_OUT` synthetic heads that are not trained on and, with `--sich`, the validation part of
ct-phe-sich; its test part (`configs/weights/sich-split.json`) is never read.
"""

import argparse
import sys
from pathlib import Path

import torch

from hemaseg.cohorts.split import parts, read_split
from hemaseg.cohorts.table import Cohort, read_cohort
from hemaseg.config import Recipe, RunConfig, parse_config, read_config
from hemaseg.errors import HemasegError
from hemaseg.models.catalogue import MODELS
from hemaseg.slices.dataset import SliceSet, load_slices
from hemaseg.training.checkpoint import load_start
from hemaseg.training.loop import DataOrigin, train
from hemaseg.training.progress import Progress

SPLIT = Path(__file__).parents[1] / "configs" / "weights" / "sich-split.json"
NUM_HELD_OUT = 20
"""Heads that are not trained on but choose the epoch, with the validation part of ct-phe-sich."""


def of_modality(cohort: Cohort, modality: str) -> Cohort:
    """The subjects whose images are of a modality."""
    return cohort.select({case.subject for case in cohort.images if case.modality == modality})


def joined(first: SliceSet, second: SliceSet) -> SliceSet:
    """Slices of two sets."""
    return SliceSet(
        torch.cat([first.images, second.images]),
        torch.cat([first.masks, second.masks]),
        first.names + second.names,
    )


def main() -> None:
    """Train one network, or say what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=Path, required=True)
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
    try:
        train_one(options)
    except (HemasegError, OSError) as error:
        sys.exit(f"train_weights: {error}")


def train_one(options: argparse.Namespace) -> None:
    """Train one network, and print its record."""
    recipe = read_config(options.recipe, Recipe)
    model = {"name": options.model, "options": {"base_width": options.base_width}}
    config = parse_config(
        {"model": model, "seed": options.seed, "recipe": recipe}, RunConfig, source="options"
    )
    heads = read_cohort(options.heads)
    if options.modality:
        heads = of_modality(heads, options.modality)
    learnt, held_out = heads.subjects[:-NUM_HELD_OUT], heads.subjects[-NUM_HELD_OUT:]
    training = load_slices(heads.select(learnt), recipe)
    validation = load_slices(heads.select(held_out), recipe)
    split = read_split(SPLIT)
    if options.sich is not None:
        real = parts(split, read_cohort(options.sich), 0)
        validation = joined(validation, load_slices(real.validation, recipe))
        if options.sich_repeats:
            learnt_real = load_slices(real.train, recipe)
            for _ in range(options.sich_repeats):
                training = joined(training, learnt_real)
    start = load_start(options.start, options.output) if options.start else None
    origin = DataOrigin(heads.sha256, split.sha256, 0, heads.modality)
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
