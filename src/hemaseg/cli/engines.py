"""Verbs about what runs a network: how fast, elsewhere, and with weights from elsewhere."""

import json
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hemaseg.cli.program import AsJson, Force, app, progress_bar, require_free
from hemaseg.errors import ConfigError

if TYPE_CHECKING:
    from hemaseg.benchmark.whole_process import StudyResult

_COLUMNS = (
    ("network", "model", "<"),
    ("run by", "contender", "<"),
    ("in", "precision", "<"),
    ("ms/slice", "slice_ms", ".1f"),
    ("from", "fastest_ms", ".1f"),
    ("to", "slowest_ms", ".1f"),
    ("times as fast", "ratio", ".2f"),
    ("of limit", "roofline", ".0%"),
    ("load s", "load_s", ".2f"),
    ("first s", "first_s", ".2f"),
    ("peak MiB", "peak_mib", ".0f"),
    ("flipped", "flipped", ".1e"),
    ("Dice", "dice", ".5f"),
    ("volume", "volume_error", "+.3%"),
)


@app.command()
def bench(
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="Network, run folder, or weights that ship; several times for several.",
        ),
    ] = None,
    num_slices: Annotated[int, typer.Option("--slices", min=2, help="Slices in each pass.")] = 16,
    num_turns: Annotated[int, typer.Option("--turns", min=1, help="Passes of each way.")] = 5,
    num_studies: Annotated[
        int,
        typer.Option("--studies", min=2, help="How many scans the call of predict with many has."),
    ] = 10,
    study: Annotated[
        bool, typer.Option("--study", help="Only whole predictions, by the first network.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure how fast prediction is here, beside other ways."""
    from hemaseg.benchmark.bench import run_benchmark
    from hemaseg.benchmark.contenders import CONTENDERS
    from hemaseg.models.catalogue import MODELS
    from hemaseg.weights import model_folder

    names = model or ["ct", "dr_unet", "unet", "dense_unet"]
    models = [(name, None if name in MODELS else model_folder(name)) for name in names]
    with progress_bar() as show:
        found = run_benchmark(
            models,
            num_slices=num_slices,
            num_turns=num_turns,
            contenders=() if study else CONTENDERS,
            num_studies=num_studies,
            progress=show,
        )
    if as_json:
        typer.echo(found.to_json())
        return
    limits = found.ceilings
    typer.echo(
        f"{limits.num_threads} threads. Matrix products, convolutions: "
        + "; ".join(
            f"{limits.matrix_gflops[kind]:.0f}, {limits.convolution_gflops[kind]:.0f} GFLOP/s in "
            f"{kind}"
            for kind in limits.matrix_gflops
        )
        + f". Memory: {limits.bandwidth_gb_per_s:.0f} GB/s."
    )
    if found.results:
        typer.echo(f"Medians of {found.num_turns} turns of {found.num_slices} slices.")
        typer.echo("| " + " | ".join(title for title, _, _ in _COLUMNS) + " |")
        typer.echo("|" + "".join(" --- |" if form == "<" else " ---: |" for _, _, form in _COLUMNS))
    for result in found.results:
        cells = [_cell(getattr(result, key), form) for _, key, form in _COLUMNS]
        if result.problem:
            cells[3:] = [result.problem, *[""] * (len(cells) - 4)]
        typer.echo("| " + " | ".join(cells) + " |")
    _print_studies(found.studies)


def _print_studies(studies: "tuple[StudyResult, ...]") -> None:
    """The table of whole predictions; its last columns are medians of seconds by part."""
    one = studies[0]
    typer.echo(
        f"hemaseg predict with {one.model} ({one.engine}), from the start of the process to files "
        f"on disk; studies of {one.num_slices} slices of {one.image_size}x{one.image_size}:"
    )
    titles = ["studies as", "in one call", "processes", "s", "from", "to", "s/study", "peak MiB"]
    titles += one.parts_s
    typer.echo("| " + " | ".join(titles) + " |")
    typer.echo("| --- |" + " ---: |" * (len(titles) - 1))
    for row in studies:
        seconds = (row.whole_s, row.fastest_s, row.slowest_s, row.whole_s / row.num_studies)
        cells = [row.file_format, str(row.num_studies), str(row.num_turns)]
        cells += [f"{value:.2f}" for value in seconds]
        cells.append(_cell(row.peak_mib, ".0f"))
        cells += [_cell(row.parts_s.get(part), ".2f") for part in one.parts_s]
        typer.echo("| " + " | ".join(cells) + " |")


@app.command()
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Folder of hemaseg train or convert, or name of weights that ship.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write into.")],
    file_format: Annotated[str, typer.Option("--format", help="onnx, openvino or torch.")],
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Write a network for other software, and check its masks there."""
    from hemaseg.engines.export import export_model, files_of
    from hemaseg.weights import model_folder

    run_folder = model_folder(model)
    for file in files_of(run_folder, file_format, output):
        require_free(file, force)
    made = export_model(run_folder, file_format, output)
    if as_json:
        typer.echo(json.dumps(asdict(made) | {"files": [str(file) for file in made.files]}))
        return
    typer.echo(
        f"{', '.join(map(str, made.files))}: {made.flipped:.1e} of {made.num_pixels:,} mask pixels "
        "differ from ours. Images and threshold: see the JSON file. Research use only; not a "
        "medical device."
    )


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="State dict of PyTorch, or safetensors.")],
    model: Annotated[str, typer.Option(help="The network that it is of; see hemaseg models.")],
    recipe_file: Annotated[
        Path, typer.Option("--recipe", help="Its image size and intensity, as in configs/.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Model folder to write.")],
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Of the network, as base_width=32; repeatable."),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Probability from which a pixel belongs to the mask.")
    ] = 0.5,
    modality: Annotated[str, typer.Option(help="CT or MRI, if it was trained on that alone.")] = "",
    force: Force = False,
) -> None:
    """Make a model of weights of others, running no code of theirs."""
    from hemaseg.config import Recipe, parse_config, read_config
    from hemaseg.training.conversion import Usage
    from hemaseg.training.conversion import convert as convert_file

    require_free(output / "model.json", force)
    recipe = read_config(recipe_file, Recipe)
    content = {
        "model": {"name": model, "options": dict(map(_parsed, option or ()))},
        "image_size": recipe.slices.image_size,
        "intensity": recipe.intensity.model_dump(),
        "threshold": threshold,
        "modality": modality,
    }
    made = convert_file(file, parse_config(content, Usage, source="options"), output)
    where = f' under "{made.place}"' if made.place else ""
    without = f', "{made.prefix}" taken off their names' if made.prefix else ""
    typer.echo(
        f"{output}: weights of {model} ({made.num_parameters:,} parameters) out of {file}{where}"
        f"{without}; SHA-256 {made.sha256}. For --model and --start. Its probabilities are not "
        "calibrated, and scans are not compared with those of its training."
    )


def _parsed(option: str) -> tuple[str, object]:
    """Name and value of an option of a network, whose value is as in TOML."""
    name, _, value = option.partition("=")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):  # Of which that of tomllib is one.
        raise ConfigError(
            f"--option {option}: expected NAME=VALUE with a value as in TOML, as base_width=32. "
            "Correct it."
        ) from None


def _cell(value: object, form: str) -> str:
    if value is None:
        return "-"
    return format(value, "" if form == "<" else form)
