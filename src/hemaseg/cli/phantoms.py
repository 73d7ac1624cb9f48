"""The verb that makes synthetic heads."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hemaseg.cli.program import AsJson, Force, Seed, app, progress_bar, refuse, require_free
from hemaseg.errors import ConfigError

if TYPE_CHECKING:
    from hemaseg.phantoms.heads import HeadOptions

_MODALITIES = ("CT", "MRI", "mixed")


@app.command()
def phantom(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    seed: Seed = 0,
    num: Annotated[
        int, typer.Option(min=1, max=99_999, help="Heads, of this seed and the next ones.")
    ] = 1,
    modality: Annotated[
        str, typer.Option(help="CT, MRI, or mixed: two thirds CT, half of each 8-bit.")
    ] = "CT",
    file_format: Annotated[
        str, typer.Option("--format", help="nifti, dicom, or png: 8-bit pictures of the slices.")
    ] = "nifti",
    export: Annotated[
        bool, typer.Option("--export", help="8-bit NIfTI, as exported under somebody's window.")
    ] = False,
    turned: Annotated[bool, typer.Option("--turned", help="Heads may lie on a side.")] = False,
    size: Annotated[int, typer.Option(help="Rows and columns.")] = 256,
    slices: Annotated[
        int | None, typer.Option(help="Number of slices; the whole head unless given.")
    ] = None,
    pixel_mm: Annotated[float | None, typer.Option(help="Edge of a pixel.")] = None,
    slice_mm: Annotated[
        float | None, typer.Option(help="Distance and thickness of slices.")
    ] = None,
    tilt_deg: Annotated[float | None, typer.Option(help="Of the gantry of CT.")] = None,
    num_hematomas: Annotated[int | None, typer.Option(help="In each head; 0 for none.")] = None,
    num_masses: Annotated[
        int, typer.Option(help="In each head: tumours, cysts and swellings without blood.")
    ] = 0,
    volume_ml: Annotated[float | None, typer.Option(help="Of each hematoma; one at least.")] = None,
    age: Annotated[
        str | None,
        typer.Option(
            help="Of the blood: hyperacute, acute, early-subacute, late-subacute, chronic."
        ),
    ] = None,
    sequence: Annotated[
        str | None, typer.Option(help="Of MRI: T1, T2, FLAIR, T2*, or random contrast.")
    ] = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Make synthetic heads with blood of known volume. What is not given is left to the seed."""
    from hemaseg.phantoms.heads import HeadOptions
    from hemaseg.phantoms.writing import CASES, FACTS, FORMATS, write_heads

    for name, word, words in (
        ("modality", modality, _MODALITIES),
        ("format", file_format, FORMATS),
    ):
        if word not in words:
            raise ConfigError(f"--{name} {word!r}: expected {', '.join(words)}. Correct it.")
    if modality != "CT":
        refuse("only with --modality CT", tilt_deg=tilt_deg)
    if modality != "MRI":
        refuse("only with --modality MRI", sequence=sequence)
    if file_format != "nifti":
        refuse("only with --format nifti; png always is 8-bit, dicom never", export=export or None)
    if modality == "mixed":
        refuse("not with --modality mixed, which has half of each", export=export or None)
    if num_hematomas == 0:
        refuse("not with --num-hematomas 0", volume_ml=volume_ml, age=age)
    require_free(output / FACTS, force=True)
    common = HeadOptions(
        num_slices=slices,
        image_size=size,
        pixel_mm=pixel_mm,
        slice_mm=slice_mm,
        tilt_deg=tilt_deg,
        num_hematomas=num_hematomas,
        num_masses=num_masses,
        volume_ml=volume_ml,
        age=None if age is None else age.replace("-", " "),  # type: ignore[arg-type]
        sequence=sequence,  # type: ignore[arg-type]
        turned=turned,
        is_export=export or file_format == "png",
    )
    _check(common)

    def options_of(seed: int) -> HeadOptions:
        if modality != "mixed":
            return replace(common, modality=modality)  # type: ignore[arg-type]
        kind, number = seed % 3, seed // 3
        is_export = kind == 1 or (kind == 2 and number % 2 == 1)
        return replace(
            common,
            modality="MRI" if kind == 2 else "CT",
            is_export={"nifti": is_export, "dicom": False, "png": True}[file_format],
        )

    with progress_bar() as show:
        try:
            facts = write_heads(
                output,
                range(seed, seed + num),
                options_of,
                file_format=file_format,  # type: ignore[arg-type]
                force=force,
                progress=partial(show, "making heads"),
            )
        except MemoryError:
            raise ConfigError(
                f"{output}: no memory left for a head of {size}x{size} pixels. Lower --size or "
                "--slices, or raise --slice-mm."
            ) from None
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    num_with_blood = sum(bool(row["num_hematomas"]) for row in facts)
    typer.echo(
        f"{output}: {num} {'head' if num == 1 else 'heads'}, {num_with_blood} with a hematoma; the "
        f"cases are listed in {output / CASES}, what is known of them in {output / FACTS}."
    )
    typer.echo("The heads are synthetic: scores on them say nothing about patients.")


def _check(options: "HeadOptions") -> None:
    """The words of `ValueError` as those of the command line."""
    from hemaseg.phantoms.heads import check_options

    try:
        check_options(options)
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        if hasattr(options, name):
            raise ConfigError(f"{_option(name)} {rest}. Correct it.") from None
        raise ConfigError(f"{error}. Lower --size or --slices, or raise --slice-mm.") from None


def _option(name: str) -> str:
    """What the command line calls a field of `HeadOptions`."""
    name = {"num_slices": "slices", "image_size": "size"}.get(name, name)
    return f"--{name.replace('_', '-')}"
