"""Verbs from scans to a cohort and its parts."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from hemaseg.cli.program import Force, Seed, app, progress_bar, refuse, require_free


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="Folder of scans and masks, or a CSV of pairs.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Table to write: cohort.csv.")],
    masks: Annotated[
        str | None, typer.Option(help="Folder of masks, or ending of names, where several fit.")
    ] = None,
    modality: Annotated[str | None, typer.Option(help="CT or MRI, for all scans.")] = None,
    label: Annotated[
        int | None, typer.Option(min=1, help="Which label counts, where masks hold several.")
    ] = None,
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
    from hemaseg.cohorts.doubts import large_masks, shared_beginnings
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
                folder, label=label, unmarked_as_negative=unmarked_as_negative, progress=progress
            )
        else:
            cohort = index_folder(
                folder,
                masks=masks,
                site_pattern=site_pattern,
                subject_pattern=subject_pattern,
                modality=modality,
                label=label,
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
    if doubt := large_masks(cohort):
        typer.echo(doubt)
    subjects = ((image.subject, image.site) for image in cohort.images)
    if not subject_pattern and (doubt := shared_beginnings(subjects)):
        typer.echo(doubt)


@app.command()
def split(
    cohort_file: Annotated[Path, typer.Argument(metavar="COHORT", help="cohort.csv.")],
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
    from hemaseg.cohorts.split import make_split, parts, write_split
    from hemaseg.cohorts.table import read_cohort
    from hemaseg.config import SplitConfig, parse_config

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
