"""Verbs from a cohort to a trained network."""

import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hemaseg.cli.program import (
    AsJson,
    Force,
    Track,
    app,
    find_models,
    progress_bar,
    refuse,
    require_free,
)
from hemaseg.errors import ConfigError
from hemaseg.training.progress import CHECKPOINT_EVERY_S

if TYPE_CHECKING:
    from hemaseg.config import RunConfig
    from hemaseg.training.checkpoint import RunRecord, Start
    from hemaseg.training.processes import Processes
    from hemaseg.training.tracking import Tracker


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the networks with their size, and the weights that ship."""
    from dataclasses import asdict

    from hemaseg.models.cost import list_models
    from hemaseg.weights import list_shipped

    costs, shipped = list_models(), list_shipped()
    if as_json:
        content = {
            "networks": [asdict(cost) for cost in costs],
            "weights": [asdict(one) for one in shipped],
        }
        typer.echo(json.dumps(content, indent=2))
        return
    typer.echo(f"{'name':<14} {'parameters':>12} {'multiply-adds':>15}  what it is")
    for cost in costs:
        typer.echo(
            f"{cost.name:<14} {cost.num_parameters:>12,} {cost.num_multiply_adds / 1e9:>13.2f} G  "
            f"{cost.description}"
        )
    typer.echo("Trainable parameters; multiply-adds of the convolutions for one 256x256 slice.")
    for one in shipped:
        typer.echo(
            f"\n{one.name}{' (default)' if one.is_default else ''}: weights that ship, of "
            f"{one.network} ({one.num_parameters:,} parameters) for "
            f"{one.modality or 'CT or MRI'} at {one.image_size}x{one.image_size}, "
            f"{one.num_bytes:,} bytes,\nSHA-256 {one.sha256}"
        )


@app.command()
def train(
    cohort_file: Annotated[
        Path, typer.Argument(metavar="COHORT", help="cohort.csv; with --resume a run folder too.")
    ],
    split_file: Annotated[Path | None, typer.Option("--split", help="split.json.")] = None,
    recipe_file: Annotated[
        Path | None, typer.Option("--recipe", help="Recipe, as in configs/.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Run folder to write.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A network that hemaseg models lists; that of --start unless given."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Begin from these weights: run folder, or name of weights that ship.",
        ),
    ] = None,
    fold: Annotated[int | None, typer.Option(min=0, help="Of the split; 0 unless given.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, help="Of all random choices; 0 unless given."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="auto (CUDA, MPS, CPU), cpu, cuda, cuda:1, mps; auto unless given."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on where the run in the folder stopped; begin if there is none."
        ),
    ] = False,
    checkpoint_every_s: Annotated[
        float, typer.Option(min=0, help="Seconds between checkpoints: what a kill costs at most.")
    ] = CHECKPOINT_EVERY_S,
    track: Track = None,
    force: Force = False,
) -> None:
    """Train one network on one fold.

    Under torchrun or srun, several processes train it together, one for each device.
    """
    from hemaseg.config import ModelConfig, Recipe, RunConfig, read_config
    from hemaseg.training.checkpoint import load_start, require_fitting
    from hemaseg.training.memory import require_memory
    from hemaseg.training.processes import processes
    from hemaseg.training.requirements import require_trainable
    from hemaseg.training.tracking import open_tracker

    if resume:
        refuse("not with --resume, which replaces nothing", force=force or None)
    config = None
    if resume and (cohort_file.is_dir() or (output is None and not cohort_file.is_file())):
        refuse(
            "not with --resume and a run folder, which says it",
            split=split_file,
            recipe=recipe_file,
            output=output,
            model=model,
            fold=fold,
            seed=seed,
        )
        output = cohort_file
        begun = _begun(output, device, start)
        if begun is None:
            typer.echo(f"{output}: complete already, nothing to do")
            return
        cohort_file, split_file, fold, config = begun
    elif output is None or split_file is None or recipe_file is None:
        raise ConfigError(
            "train needs --split, --recipe and --output (or a run folder and --resume). Add what "
            "is missing."
        )
    if not resume and (output / "run.json").exists() and not force:
        raise ConfigError(
            f"{output / 'run.json'}: exists. Pass --resume to go on with that run, --force to "
            "replace it, or choose another place."
        )
    require_free(output / "run.json", force=True)
    begin = None if start is None else load_start(find_models(start)[0], output)
    if config is None:
        assert recipe_file is not None
        if begin is not None:
            asked = ModelConfig(name=model or begin.model.name, options=begin.model.options)
            require_fitting(begin, asked)
        elif model is not None:
            asked = ModelConfig(name=model)
        else:
            raise ConfigError("no network to train, expected --model, or --start. Name one.")
        recipe = read_config(recipe_file, Recipe)
        config = RunConfig(model=asked, seed=seed or 0, device=device or "auto", recipe=recipe)
    # Before the scans are read, which takes longer.
    require_trainable(config)
    tracker = open_tracker(track or [], output, tell=lambda words: typer.echo(words, err=True))
    with processes(config.device) as joined, progress_bar(joined.is_first) as show:
        if joined.num == 1:
            require_memory(config)
        record, warning = _train(
            *(config, cohort_file, split_file, fold or 0, output, begin, joined, tracker, show),
            resumes=resume,
            checkpoint_every_s=checkpoint_every_s,
        )
    if not joined.is_first:
        return
    dice = record.best_validation_dice
    typer.echo(
        f"{output}: best epoch {record.best_epoch} of {record.num_epochs_done}, validation Dice "
        f"per subject {'undefined' if dice is None else f'{dice:.4f}'}, {record.training_s:.0f} s "
        f"on {record.device}"
    )
    if record.resumptions:
        typer.echo(f"The training {record.resumptions[-1]}.")
    if warning:
        typer.echo(f"WARNING: {warning}")


def _begun(
    folder: Path, device: str | None, start: str | None
) -> "tuple[Path, Path, int, RunConfig] | None":
    """Cohort, split, fold and configuration of a run that is to go on; None if it is complete."""
    from hemaseg.config import RunConfig, read_config
    from hemaseg.training.checkpoint import RUN, RunRecord, read_record

    record = read_record(folder / RUN, RunRecord)
    if record.status == "complete":
        return None
    if not record.cohort_file:
        raise ConfigError(
            f"{folder / RUN}: does not say where its cohort is, as those of hemaseg train do. "
            "Resume a run of a study with hemaseg compare."
        )
    if record.start_weights_sha256 and start is None:
        raise ConfigError(
            f"{folder}: begun from weights {record.start_weights_sha256[:12]}..., expected their "
            "name. Add it with --start."
        )
    # Through links, as the system takes "..".
    files = [folder.resolve() / name for name in (record.cohort_file, record.split_file)]
    for file in files:
        if not file.is_file():
            raise ConfigError(
                f"{file}: no such file, from which {folder} was begun. Restore it, or give the "
                "whole command with --resume added."
            )
    config = read_config(folder / "config.toml", RunConfig)
    if device is not None:
        config = config.model_copy(update={"device": device})
    return files[0], files[1], record.fold, config


def _train(
    config: "RunConfig",
    cohort_file: Path,
    split_file: Path,
    fold: int,
    output: Path,
    start: "Start | None",
    processes: "Processes",
    tracker: "Tracker",
    show: Callable[[str, float, int], None],
    *,
    resumes: bool,
    checkpoint_every_s: float,
) -> "tuple[RunRecord, str | None]":
    """Read the slices and train; what happened, and the warning of the split."""
    from hemaseg.cohorts.split import parts, read_split
    from hemaseg.cohorts.table import read_cohort
    from hemaseg.slices.dataset import load_slices
    from hemaseg.training import loop
    from hemaseg.training.claim import claim
    from hemaseg.training.progress import Reading

    cohort, split = read_cohort(cohort_file), read_split(split_file)
    selected = parts(split, cohort, fold)
    reading = Reading("reading")
    training, validation = (
        load_slices(
            part, config.recipe, progress=lambda done, total: show(reading.describe(), done, total)
        )
        for part in (selected.train, selected.validation)
    )
    with claim(output) if processes.is_first else nullcontext():
        record = loop.train(
            *(config, training, validation, output),
            origin=loop.DataOrigin(
                cohort.sha256,
                split.sha256,
                fold,
                selected.train.modality,
                cohort_file=_from(output, cohort_file),
                split_file=_from(output, split_file),
            ),
            start=start,
            resumes=resumes,
            checkpoint_every_s=checkpoint_every_s,
            processes=processes,
            tracker=tracker,
            progress=lambda p: show(
                p.describe(), (p.epoch - 1) * p.num_steps + p.step, p.num_epochs * p.num_steps
            ),
        )
    return record, split.warning


def _from(folder: Path, file: Path) -> str:
    """A file as seen from a folder, through links; on another drive of Windows, its full path."""
    try:
        return os.path.relpath(file.resolve(), folder.resolve())
    except ValueError:
        return str(file.resolve())
