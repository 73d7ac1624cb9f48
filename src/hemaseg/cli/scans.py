"""Verbs from scans to masks and volumes."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hemaseg.cli.program import (
    AsJson,
    Device,
    Force,
    app,
    find_models,
    progress_bar,
    refuse,
    require_free,
)
from hemaseg.errors import ConfigError, SplitError

if TYPE_CHECKING:
    from hemaseg.engines.options import EngineOptions
    from hemaseg.intake.checking import Checked
    from hemaseg.intake.sources import Sources
    from hemaseg.prediction.cases import Executor, Predicted
    from hemaseg.scans.screening import ReadOptions

Scans = Annotated[
    list[Path],
    typer.Argument(
        metavar="SCAN...",
        help="NIfTI files, DICOM files, folders or zip files, pictures, folders of any of these, "
        "or CSV lists of them.",
    ),
]
SeriesChoice = Annotated[
    str | None, typer.Option(help="Of a DICOM study: number in the list, UID, or suggested.")
]
Accept = Annotated[
    list[str] | None,
    typer.Option(metavar="KIND", help="Read scans that are refused for this; once per kind."),
]
Modality = Annotated[str | None, typer.Option(help="CT or MRI, of scans that do not say it.")]
MaxGib = Annotated[float, typer.Option(min=0.001, help="Largest volume that is read, in GiB.")]
KeepIdentity = Annotated[
    bool, typer.Option("--keep-identity", help="Let names, SEG and report identify patients.")
]


@app.command()
def check(
    scans: Scans,
    series: SeriesChoice = None,
    accept: Accept = None,
    modality: Modality = None,
    max_gib: MaxGib = 1.0,
    keep_identity: KeepIdentity = False,
    as_json: AsJson = False,
) -> None:
    """Say which scans can be read, and what is wrong with the others."""
    from hemaseg.intake.checking import check_source
    from hemaseg.intake.sources import find_sources

    options = _read_options(accept, modality, max_gib)
    found = find_sources(scans, options, series=series, keep_identity=keep_identity)
    sources = (*found.failed, *found.sources)
    checked = []
    with progress_bar() as show:
        for number, source in enumerate(sources, start=1):
            checked.append(check_source(source, options))
            show("checking", number, len(sources))
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in checked], indent=2))
    else:
        _print_table(_lines(checked), err=False)
        verdicts = [one.verdict for one in checked]
        counts = ", ".join(f"{verdicts.count(v)} {v}" for v in ("usable", "repaired", "refused"))
        typer.echo(f"{len(checked)} scans: {counts}")
        _note_names(found)
    if any(one.verdict == "refused" for one in checked):
        raise typer.Exit(1)


@app.command()
def predict(
    scans: Annotated[
        list[Path],
        typer.Argument(metavar="SCAN...", help="As for hemaseg check; or cohort.csv alone."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Folder of hemaseg train or convert, or name of weights that ship.",
        ),
    ] = None,
    probability: Annotated[
        bool, typer.Option("--probability", help="Write the map of probabilities too.")
    ] = False,
    bids: Annotated[
        bool, typer.Option("--bids", help="Name masks as a BIDS derivative does.")
    ] = False,
    no_dicom: Annotated[
        bool, typer.Option("--no-dicom", help="Write neither DICOM SEG nor report of DICOM scans.")
    ] = False,
    min_lesion_ml: Annotated[
        float, typer.Option(help="Remove lesions below this volume from the mask; 0 removes none.")
    ] = 0.0,
    series: SeriesChoice = None,
    accept: Accept = None,
    modality: Modality = None,
    max_gib: MaxGib = 1.0,
    keep_identity: KeepIdentity = False,
    split_file: Annotated[
        Path | None,
        typer.Option("--split", help="With cohort.csv: predict the run's test part alone."),
    ] = None,
    engine: Annotated[str, typer.Option(help="auto (the fastest), torch, or openvino.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, or bf16: faster, and masks move a little.")
    ] = "fp32",
    device: Device = "auto",
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Of a Dask scheduler, or its scheduler file: predict on its workers.",
        ),
    ] = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Write masks, volumes and pictures of scans."""
    from hemaseg.cohorts.table import is_cohort
    from hemaseg.engines.options import EngineOptions

    chosen = EngineOptions(engine, precision, device)
    runs = find_models(model)
    if len(scans) == 1 and is_cohort(scans[0]):
        refuse(
            "not for a cohort.csv",
            probability=probability or None,
            bids=bids or None,
            no_dicom=no_dicom or None,
            min_lesion_ml=min_lesion_ml or None,
            series=series,
            accept=accept or None,
            modality=modality,
            keep_identity=keep_identity or None,
            cluster=cluster,
            json=as_json or None,
        )
        _predict_cohort(runs, scans[0], output, split_file, chosen, force=force)
        return
    refuse("only for a cohort.csv", split=split_file)
    from hemaseg.intake.sources import find_sources

    require_free(output / "predictions.csv", force=True)
    options = _read_options(accept, modality, max_gib)
    found = find_sources(
        scans, options, series=series, keep_identity=keep_identity, leave_out=output
    )
    _note_names(found)
    if not found.sources:
        raise ConfigError(
            "\n  ".join(
                [f"no scan to predict among {len(found.failed)}", *map(str, found.failures)]
            )
        )
    # Torch is loaded only now: what is wrong with the names is said at once.
    from hemaseg.prediction.cases import predict_scans
    from hemaseg.prediction.outputs import Wanted
    from hemaseg.prediction.records import rows_json

    wanted = Wanted(probability, bids, not no_dicom, keep_identity, min_lesion_ml)
    try:
        with progress_bar() as show, _executor(cluster) as executor:
            ended = predict_scans(
                runs,
                found,
                output,
                options,
                wanted,
                assume_modality=model is not None,
                engine=chosen,
                force=force,
                progress=lambda name, done, total: show(f"predicting {name}", done, total),
                executor=executor,
            )
    except KeyboardInterrupt:
        typer.echo(
            f"{output}: cases that are done are kept; the same command does the others.", err=True
        )
        raise
    if as_json:
        typer.echo(rows_json(ended.rows))
    else:
        _print_ended(ended, output)
    if ended.failures:
        lines = [(name, problem.kind, problem.message) for name, problem in ended.failures]
        _print_table([("failed", "kind", "problem"), *lines], err=True)
        raise typer.Exit(1)


@app.command()
def measure(
    masks: Annotated[
        list[Path],
        typer.Argument(metavar="MASK...", help="NIfTI, PNG, TIFF or DICOM SEG, or folders."),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Table to write: measures.csv.")
    ] = None,
    label: Annotated[
        int | None, typer.Option(min=1, help="Which label counts, where masks hold several.")
    ] = None,
    max_gib: MaxGib = 1.0,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Measure masks of any tool: volume, lesions, ABC/2, axes, areas."""
    from hemaseg.evaluation.measuring import measure_files
    from hemaseg.files import write_text
    from hemaseg.prediction.records import rows_json
    from hemaseg.scans.screening import ReadOptions

    if output is not None:
        require_free(output, force, suffix=".csv")
    options = ReadOptions(_num_bytes(max_gib))
    with progress_bar() as show:
        measured = measure_files(masks, options, label=label, progress=partial(show, "measuring"))
    if output is not None and measured.rows:
        write_text(output, measured.to_csv())
    if as_json:
        typer.echo(rows_json(measured.rows))
    elif measured.rows:
        columns = ("name", "volume_ml", "num_lesions", "abc2_ml", "longest_axis_mm", "findings")
        rows = [tuple(_cell(row[column]) for column in columns) for row in measured.rows]
        _print_table([columns, *rows], err=False)
    for failure in measured.failures:
        typer.echo(str(failure), err=True)
    if measured.failures:
        raise typer.Exit(1 if measured.rows else 2)


def _read_options(accept: list[str] | None, modality: str | None, max_gib: float) -> "ReadOptions":
    from hemaseg.scans.screening import ReadOptions

    accepted = frozenset(accept or ())
    return ReadOptions(_num_bytes(max_gib), accepted, modality or "", offers_accept=True)


def _num_bytes(gib: float) -> int:
    return int(gib * 2**30)


@contextmanager
def _executor(cluster: str | None) -> "Iterator[Executor | None]":
    """What does the cases: workers of a cluster, or None for this process."""
    if cluster is None:
        yield None
        return
    from hemaseg.prediction.cluster import Cluster

    with Cluster(cluster) as executor:
        yield executor


def _predict_cohort(
    runs: tuple[Path, ...],
    cohort_file: Path,
    output: Path,
    split_file: Path | None,
    engine: "EngineOptions",
    *,
    force: bool,
) -> None:
    """Masks by subject, as `hemaseg evaluate` wants them."""
    from hemaseg.cohorts.split import parts, read_split
    from hemaseg.cohorts.table import read_cohort
    from hemaseg.prediction.predict import predict_cohort
    from hemaseg.training.checkpoint import RUN, RunRecord, read_record

    require_free(output / "predictions.csv", force)
    cohort = read_cohort(cohort_file)
    run = runs[-1] if cohort.modality == "MRI" else runs[0]
    if split_file is not None:
        made, record = read_split(split_file), read_record(run / RUN, RunRecord)
        if made.sha256 != record.split_sha256:
            raise SplitError(
                f"{split_file}: split {made.sha256[:12]}, expected {record.split_sha256[:12]}, "
                f"which {run} was trained on: the test part of another may hold its training "
                "subjects. Give the split of the run."
            )
        cohort = parts(made, cohort, record.fold).test
    elif (run / RUN).exists() and (
        read_record(run / RUN, RunRecord).cohort_sha256 == cohort.sha256
    ):
        typer.echo(
            "The network was trained on part of this cohort; scores on that part say nothing about "
            "new subjects. --split predicts the test part alone.",
            err=True,
        )
    with progress_bar() as show:
        cost = predict_cohort(
            run, cohort, output, engine=engine, progress=partial(show, "predicting")
        )
    typer.echo(f"{output}: {cost.num_slices} slices, {cost.slices_per_s:.1f} slices per second")
    typer.echo("Research use only; not a medical device.")


def _print_ended(ended: "Predicted", output: Path) -> None:
    typer.echo(
        f"{output}: {ended.num_done} of {len(ended.rows)} cases done ({ended.num_before} of "
        f"them before), {len(ended.failures)} failed. Research use only; not a medical device."
    )
    kinds = Counter(";".join(str(row["findings"] or "") for row in ended.rows).split(";"))
    if noted := [f"{kind} ({num})" for kind, num in sorted(kinds.items()) if kind]:
        typer.echo(f"Noted, see docs/screening.md: {', '.join(noted)}.")


def _note_names(found: "Sources") -> None:
    if found.left_out:
        typer.echo(
            f"{len(found.left_out)} files left out, whose names say that they are masks, such as "
            f"{found.left_out[0]}. Name them one by one to have them taken for scans.",
            err=True,
        )
    if renamed := [source.name for source in (*found.sources, *found.failed) if source.is_renamed]:
        typer.echo(
            f"{len(renamed)} scans are named by a hash, such as {renamed[0]}: their paths or names "
            "in a list hold a name or number of the patient. Give them other names in a list of "
            "scans, or pass --keep-identity.",
            err=True,
        )


def _lines(checked: "list[Checked]") -> list[tuple[str, ...]]:
    """A line for what each scan is, unless it is refused, and for each finding."""
    lines: list[tuple[str, ...]] = [("name", "verdict", "kind", "message")]
    for one in checked:
        if one.verdict != "refused":
            lines.append((one.name, one.verdict, "-", one.scan))
        lines += [(one.name, one.verdict, f.kind, f.message) for f in one.findings]
    return lines


def _print_table(lines: "list[tuple[str, ...]]", *, err: bool) -> None:
    """Columns side by side, the last one as long as it is."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)][:-1]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        typer.echo("  ".join([*cells, line[-1]]), err=err)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4g}"
    return str(value)
