"""Verbs from scans to a trained network."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from hemaseg.cli.program import (
    AsJson,
    CohortFile,
    Device,
    Force,
    Seed,
    app,
    find_models,
    progress_bar,
    refuse,
    require_free,
)
from hemaseg.errors import ConfigError


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="Folder of scans and masks, or a CSV of pairs.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Table to write: cohort.csv.")],
    masks: Annotated[
        str | None, typer.Option(help="Folder of masks, or ending of names, where several fit.")
    ] = None,
    modality: Annotated[str | None, typer.Option(help="CT or MRI, for all scans.")] = None,
    site_pattern: Annotated[
        str | None,
        typer.Option(help="Regular expression with one group: the site in the subject's name."),
    ] = None,
    subject_pattern: Annotated[
        str | None, typer.Option(help="Regular expression with one group: the subject in the path.")
    ] = None,
    unmarked_as_negative: Annotated[
        bool, typer.Option("--unmarked-as-negative", help="No mask file means no lesion.")
    ] = False,
    force: Force = False,
) -> None:
    """Check scans and masks, and write the table of cases."""
    from hemaseg.cohorts.index import index_folder, index_table
    from hemaseg.cohorts.table import write_cohort

    require_free(output, force)
    if folder.is_file():
        refuse(
            "only for folders; a CSV of pairs has columns instead",
            masks=masks,
            modality=modality,
            site_pattern=site_pattern,
            subject_pattern=subject_pattern,
        )
    with progress_bar() as show:
        progress = partial(show, "reading")
        if folder.is_file():
            cohort = index_table(
                folder, unmarked_as_negative=unmarked_as_negative, progress=progress
            )
        else:
            cohort = index_folder(
                folder,
                masks=masks,
                site_pattern=site_pattern,
                subject_pattern=subject_pattern,
                modality=modality,
                unmarked_as_negative=unmarked_as_negative,
                progress=progress,
            )
    write_cohort(cohort, output)
    sites = sorted({image.site for image in cohort.images if image.site})
    typer.echo(
        f"{output}: {len(cohort.subjects)} subjects"
        + (f" of {len(sites)} sites ({', '.join(sites)})" if sites else "")
        + f", {len(cohort.images)} images, {len(cohort.marked().images)} with a reference mask, "
        f"{sum(image.has_lesion for image in cohort.images)} with a lesion"
    )
    if any(image.spacing_mm is None for image in cohort.images):
        typer.echo("Spacing is unknown for some images: mm and mL will be undefined there.")
    if not all(image.modality for image in cohort.images):
        typer.echo("Modality is unknown for some images: unless 8-bit, they need --modality.")


@app.command()
def split(
    cohort_file: CohortFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write: split.json.")],
    method: Annotated[str, typer.Option(help="holdout, folds, site, or slices.")] = "holdout",
    seed: Seed = 0,
    num_folds: Annotated[
        int | None, typer.Option(min=2, help="With folds; 5 unless given.")
    ] = None,
    validation_share: Annotated[
        float, typer.Option(help="Of the subjects that are not tested (holdout: of all).")
    ] = 0.15,
    test_share: Annotated[
        float | None, typer.Option(help="With holdout and slices; 0.15 unless given.")
    ] = None,
    site: Annotated[str | None, typer.Option(help="With site: the one held out for test.")] = None,
    force: Force = False,
) -> None:
    """Divide subjects into training, validation and test."""
    from hemaseg.cohorts.split import parts, write_split
    from hemaseg.cohorts.table import read_cohort
    from hemaseg.config import SplitConfig, parse_config
    from hemaseg.studies.study import make_split

    require_free(output, force)
    of_method = {"num_folds": num_folds, "test_share": test_share, "site": site}
    given = {name: value for name, value in of_method.items() if value is not None}
    shared = {"method": method, "seed": seed, "validation_share": validation_share}
    config = parse_config(shared | given, SplitConfig, source="options")
    used = {"folds": "num_folds", "site": "site"}.get(method, "test_share")
    refuse(f"not for --method {method}", **{n: v for n, v in given.items() if n != used})
    cohort = read_cohort(cohort_file)
    made = make_split(cohort, config)
    write_split(made, output)
    for number in range(len(made.folds)):
        selected = parts(made, cohort, number)
        sizes = ", ".join(
            f"{name} {len(part.subjects)}"
            for name, part in (
                ("training", selected.train),
                ("validation", selected.validation),
                ("test", selected.test),
            )
        )
        typer.echo(f"fold {number}: subjects: {sizes}")
    if made.warning:
        typer.echo(f"WARNING: {made.warning}")


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
    if not shipped:
        typer.echo("\nNo weights ship with this version.")


@app.command()
def train(
    cohort_file: CohortFile,
    split_file: Annotated[Path, typer.Option("--split", help="split.json.")],
    recipe_file: Annotated[Path, typer.Option("--recipe", help="Recipe, as in configs/.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Run folder to write.")],
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
    fold: Annotated[int, typer.Option(min=0)] = 0,
    seed: Seed = 0,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Train one network on one fold."""
    from hemaseg.cohorts.split import parts, read_split
    from hemaseg.cohorts.table import read_cohort
    from hemaseg.config import ModelConfig, Recipe, RunConfig, read_config
    from hemaseg.slices.dataset import load_slices
    from hemaseg.studies.runs import require_memory, require_trainable
    from hemaseg.training import loop
    from hemaseg.training.checkpoint import load_start, require_fitting

    require_free(output / "run.json", force)
    begin = None if start is None else load_start(find_models(start)[0], output)
    if begin is not None:
        asked = ModelConfig(name=model or begin.model.name, options=begin.model.options)
        require_fitting(begin, asked)
    elif model is not None:
        asked = ModelConfig(name=model)
    else:
        raise ConfigError("no network to train, expected --model, or --start. Name one.")
    config = RunConfig(
        model=asked,
        seed=seed,
        device=device,
        recipe=read_config(recipe_file, Recipe),
    )
    # Before the scans are read, which takes longer.
    require_trainable(config)
    require_memory(config)
    cohort = read_cohort(cohort_file)
    made = read_split(split_file)
    selected = parts(made, cohort, fold)
    with progress_bar() as show:
        training, validation = (
            load_slices(part, config.recipe, progress=partial(show, f"reading for {name}"))
            for name, part in (("training", selected.train), ("validation", selected.validation))
        )
        record = loop.train(
            config,
            training,
            validation,
            output,
            origin=loop.DataOrigin(cohort.sha256, made.sha256, fold, selected.train.modality),
            start=begin,
            progress=lambda p: show(
                p.describe(), (p.epoch - 1) * p.num_steps + p.step, p.num_epochs * p.num_steps
            ),
        )
    dice = record.best_validation_dice
    typer.echo(
        f"{output}: best epoch {record.best_epoch} of {record.num_epochs_done}, validation Dice "
        f"per subject {'undefined' if dice is None else f'{dice:.4f}'}, {record.training_s:.0f} s "
        f"on {record.device}"
    )
    if made.warning:
        typer.echo(f"WARNING: {made.warning}")
