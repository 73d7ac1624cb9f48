"""Verbs from masks to scores, comparisons and reports."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hemaseg.cli.program import AsJson, Force, Track, app, progress_bar, refuse, require_free
from hemaseg.errors import ConfigError

if TYPE_CHECKING:
    from hemaseg.comparison.paired import Comparison
    from hemaseg.studies.study import Study


@app.command()
def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(help="Folder of predicted masks: NIfTI, PNG, TIFF, DICOM SEG of any tool."),
    ],
    references: Annotated[Path, typer.Argument(help="Folder of reference masks, or cohort.csv.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Table to write: metrics.csv.")],
    tolerance_mm: Annotated[
        float, typer.Option(min=0, max=1000, help="Tolerance of the surface Dice.")
    ] = 2.0,
    label: Annotated[
        int | None,
        typer.Option(min=1, help="Which label or segment counts, where masks hold several."),
    ] = None,
    reference_label: Annotated[
        int | None, typer.Option(min=1, help="The same in the references, if it is another.")
    ] = None,
    subject_pattern: Annotated[
        str | None, typer.Option(help="Regular expression with one group: the subject in the path.")
    ] = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Score masks per subject, per slice, and per batch of 8."""
    from hemaseg.cohorts.doubts import shared_beginnings
    from hemaseg.cohorts.table import read_cohort
    from hemaseg.evaluation.scoring import evaluate as score
    from hemaseg.evaluation.scoring import evaluate_cohort
    from hemaseg.evaluation.tables import summarize, write_scores

    require_free(output, force, suffix=".csv")
    if references.is_file():
        refuse(
            "only for folders; cohort.csv says it",
            reference_label=reference_label,
            subject_pattern=subject_pattern,
        )
    with progress_bar() as show:
        progress = partial(show, "scoring")
        if references.is_file():
            cohort = read_cohort(references)
            scores = evaluate_cohort(
                predictions, cohort, label=label, tolerance_mm=tolerance_mm, progress=progress
            )
        else:
            scores = score(
                predictions,
                references,
                subject_pattern=subject_pattern,
                label=label,
                reference_label=reference_label,
                tolerance_mm=tolerance_mm,
                progress=progress,
            )
    write_scores(scores, output)
    if references.is_dir() and not subject_pattern:
        names = scores.subjects["subject"]
        if doubt := shared_beginnings((name, "") for name in names):
            typer.echo(doubt, err=True)
    summary = summarize(scores)
    if as_json:
        typer.echo(summary.to_json())
        return
    typer.echo(summary.metrics.to_string(index=False, float_format="{:.4f}".format, na_rep="-"))
    for sentence in summary.sentences:
        typer.echo(sentence)
    typer.echo(f"Written: {output} and beside it the tables per slice and per batch.")


@app.command()
def compare(
    output: Annotated[Path, typer.Option("-o", "--output", help="Study folder to write.")],
    study: Annotated[Path | None, typer.Argument(help="Study file; see configs/.")] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, max=999, help="Runs at a time, each a process of its own; 1 unless given."
        ),
    ] = None,
    run: Annotated[
        int | None,
        typer.Option(min=1, metavar="NUMBER", help="Do this run alone, as --missing numbers it."),
    ] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Only list what is done and what is missing.")
    ] = False,
    track: Track = None,
    as_json: AsJson = False,
    scores: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="A model's metrics.csv; once per model."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="With --scores: column to compare; dice unless given.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="With --scores: smaller differences are equivalent.")
    ] = None,
    higher_is_better: Annotated[
        bool | None,
        typer.Option(
            "--higher-is-better/--lower-is-better",
            help="With --scores and a metric that hemaseg does not write.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="With --scores: replace an earlier comparison.")
    ] = False,
) -> None:
    """Compare models: train what a study lacks, or take score tables.

    A study goes on where it stopped. Its file says what is compared, and how; score tables, of any
    tools, need no training. The runs of a study are independent: docs/clusters.md.
    """
    if (study is None) == (not scores):
        raise ConfigError("compare needs either a study file or --scores, found both or none.")
    if study is not None:
        from hemaseg.studies.study import open_study

        refuse(
            "only with --scores; a study file says it",
            metric=metric,
            margin=margin,
            higher_is_better=higher_is_better,
            force=force or None,
        )
        ways = {"jobs": jobs, "run": run, "missing": missing or None}
        if sum(way is not None for way in ways.values()) > 1:
            refuse("not together", **ways)
        if not missing:
            refuse("only with --missing", json=as_json or None)
        else:
            refuse("not with --missing", track=track)
        require_free(output / "study.toml", force=True)
        if track:
            from hemaseg.training.tracking import require_trackers

            require_trackers(track)
        opened = open_study(study, output)
        if missing:
            _list_runs(opened, as_json)
            return
        found = _run(opened, jobs or 1, run, track or [])
        if found is None:
            return
        comparison = found
    else:
        from hemaseg.studies.study import compare_tables

        refuse(
            "only with a study file",
            jobs=jobs,
            run=run,
            missing=missing or None,
            track=track,
            json=as_json or None,
        )
        require_free(output / "scores.csv", force)
        comparison = compare_tables(
            _named_paths(scores or []),
            output,
            metric=metric or "dice",
            margin=margin,
            higher_is_better=higher_is_better,
        )
    _finish_comparison(comparison, output)


@app.command()
def report(
    study_folder: Annotated[
        Path, typer.Argument(metavar="STUDY", help="Folder that hemaseg compare wrote.")
    ],
) -> None:
    """Write the figures and report.html of a study folder anew."""
    from hemaseg.reporting.report import write_report

    typer.echo(str(write_report(study_folder)))


@app.command()
def anova(
    mean: Annotated[
        list[float], typer.Option(metavar="NUMBER", help="Mean of a group; once per group.")
    ],
    sd: Annotated[
        list[float], typer.Option(metavar="NUMBER", help="Standard deviation; in the same order.")
    ],
    num: Annotated[
        list[int], typer.Option("-n", "--num", metavar="NUMBER", help="Size; one for all or each.")
    ],
    as_json: AsJson = False,
) -> None:
    """Replay a published one-way ANOVA, and say what it leaves open."""
    from dataclasses import asdict

    from hemaseg.comparison.published import (
        MAX_GROUPS,
        MAX_PER_GROUP,
        differences_of_pairs,
        num_consistent_with,
        num_decimals,
        replay_anova,
    )

    sizes = num if len(num) > 1 else num * len(mean)
    result = replay_anova(mean, sd, sizes)
    differences = differences_of_pairs(mean, sd, sizes)
    decimals, possible = num_decimals([*mean, *sd]), list[int]()
    if len(set(sizes)) == 1 and len(mean) <= MAX_GROUPS:
        possible = num_consistent_with(round(result.p, decimals), mean, sd, decimals=decimals)
    if as_json:
        content = asdict(result) | {
            "num_decimals": decimals,
            "num_consistent": [possible[0], possible[-1]] if possible else None,
            "differences": [asdict(difference) for difference in differences],
        }
        typer.echo(json.dumps(content))
        return
    p = "p < 0.0001" if result.p < 0.0001 else f"p = {result.p:.4f}"
    typer.echo(f"F({result.df_between:.0f}, {result.df_within:.0f}) = {result.f:.4f}, {p}")
    if possible:
        first, last = possible[0], possible[-1]
        groups = f"{first} or more" if last == MAX_PER_GROUP else f"{first} to {last}"
        typer.echo(
            f"Rounded to {decimals} decimals, such means and SDs give this p with n = {groups}."
        )
    for one in differences:
        typer.echo(
            f"Group {one.first} minus group {one.second}: {one.difference:.4f}, 95 % interval "
            f"{one.interval.low:.4f} to {one.interval.high:.4f}"
        )
    typer.echo(
        "This test takes all observations as independent and asks only for a difference; "
        "a large p does not show that the groups are equal (docs/statistics.md)."
    )


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")] = Path("demo"),
    num_subjects: Annotated[
        int, typer.Option(min=12, max=999, help="How many synthetic heads.")
    ] = 24,
) -> None:
    """Train, compare and report on synthetic heads, in minutes."""
    from hemaseg.demo import prepare_demo
    from hemaseg.studies.running import run_study
    from hemaseg.studies.study import open_study

    require_free(output / "study.toml", force=True)
    with progress_bar() as show:
        file = prepare_demo(
            output, num_subjects=num_subjects, progress=partial(show, "making heads")
        )
        comparison = run_study(open_study(file, output / "study"), show)
    _finish_comparison(comparison, output / "study")
    typer.echo("The heads are synthetic: these scores say nothing about patients.")


def _run(
    study: "Study", num_jobs: int, number: int | None, trackers: Sequence[str]
) -> "Comparison | None":
    """All runs and their comparison, or the one run with this number and None."""
    from hemaseg.studies.running import Tracking, run_one, run_study
    from hemaseg.studies.state import as_array, run_states

    tracking = Tracking(tuple(trackers), partial(typer.echo, err=True))
    try:
        with progress_bar() as show:
            if number is None:
                return run_study(study, show, num_jobs=num_jobs, tracking=tracking)
            done = run_one(study, number, show, tracking=tracking)
    except KeyboardInterrupt:
        to_do = [state.run.number for state in run_states(study) if state.is_to_do]
        num, total = len(to_do), len(study.runs)
        typer.echo(
            f"hemaseg: {num} of {total} runs to do ({as_array(to_do)}); the same command goes on",
            err=True,
        )
        raise
    typer.echo(f"{done.name}, of {len(study.runs)}: complete")
    return None


def _list_runs(study: "Study", as_json: bool) -> None:
    from hemaseg.studies.state import as_array, run_states

    states = run_states(study)
    array = as_array(state.run.number for state in states if state.is_to_do)
    if as_json:
        rows = [
            {
                "number": state.run.number,
                "arm": state.run.arm.name,
                "fold": state.run.fold,
                "seed": state.run.config.seed,
                "status": state.status,
                "message": state.message,
                "folder": str(state.run.folder),
            }
            for state in states
        ]
        typer.echo(json.dumps({"runs": rows, "array": array}, indent=2))
        return
    for state in states:
        words = f"{state.status} ({state.message})" if state.message else state.status
        typer.echo(f"{state.run.name}: {words}")
    statuses = [state.status for state in states]
    counts = ", ".join(f"{statuses.count(one)} {one}" for one in dict.fromkeys(statuses))
    typer.echo(f"{len(states)} runs: {counts}")
    if array:
        typer.echo(f"To do: --array={array}")


def _finish_comparison(comparison: "Comparison", folder: Path) -> None:
    from hemaseg.reporting.report import write_report

    path = write_report(folder)
    for sentence in comparison.pairs["sentence"]:
        typer.echo(f"- {sentence}")
    typer.echo(f"Verdict: {comparison.verdict}")
    typer.echo(f"Report: {path}")


def _named_paths(options: list[str]) -> dict[str, Path]:
    """`NAME=FILE` options as a mapping."""
    named: dict[str, Path] = {}
    for option in options:
        name, _, path = option.partition("=")
        if not (name and path) or name in named:
            raise ConfigError(
                f'--scores "{option}": expected NAME=FILE with each name once, '
                "such as --scores unet=unet/metrics.csv."
            )
        named[name] = Path(path)
    return named
