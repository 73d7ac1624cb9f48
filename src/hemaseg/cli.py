"""The command line: one function per verb, which reads arguments, calls the library and prints.

Nothing heavy is imported at the top, so that `--help` answers at once. Errors go to standard error
as one message with exit status 2, an interruption gives 130; a traceback is a bug.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hemaseg.errors import ConfigError, HemasegError, SplitError

if TYPE_CHECKING:
    from hemaseg.comparison.paired import Comparison

LOG_EVERY_S = 30.0
"""Between lines of progress where standard error is no terminal."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train, compare and apply U-Nets that segment intracerebral hematomas in brain MRI and "
    "CT. Research use only; not a medical device.",
)

CohortFile = Annotated[Path, typer.Argument(metavar="COHORT", help="cohort.csv.")]
Force = Annotated[bool, typer.Option("--force", help="Replace output that exists.")]
Device = Annotated[str, typer.Option(help="auto (CUDA, MPS, CPU), cpu, cuda, cuda:1, mps.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of all random choices.")]


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        typer.echo(f"hemaseg {version('hemaseg')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


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

    _require_free(output, force)
    if folder.is_file():
        _refuse(
            "only for folders; a CSV of pairs has columns instead",
            masks=masks,
            modality=modality,
            site_pattern=site_pattern,
            subject_pattern=subject_pattern,
        )
    with _progress() as show:
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

    _require_free(output, force)
    of_method = {"num_folds": num_folds, "test_share": test_share, "site": site}
    given = {name: value for name, value in of_method.items() if value is not None}
    shared = {"method": method, "seed": seed, "validation_share": validation_share}
    config = parse_config(shared | given, SplitConfig, source="options")
    used = {"folds": "num_folds", "site": "site"}.get(method, "test_share")
    _refuse(f"not for --method {method}", **{n: v for n, v in given.items() if n != used})
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
    """List the networks with their parameters and multiply-adds."""
    from dataclasses import asdict

    from hemaseg.models.cost import list_models

    costs = list_models()
    if as_json:
        typer.echo(json.dumps([asdict(cost) for cost in costs], indent=2))
        return
    typer.echo(f"{'name':<14} {'parameters':>12} {'multiply-adds':>15}  what it is")
    for cost in costs:
        typer.echo(
            f"{cost.name:<14} {cost.num_parameters:>12,} {cost.num_multiply_adds / 1e9:>13.2f} G  "
            f"{cost.description}"
        )
    typer.echo("Trainable parameters; multiply-adds of the convolutions for one 256x256 slice.")


@app.command()
def train(
    cohort_file: CohortFile,
    split_file: Annotated[Path, typer.Option("--split", help="split.json.")],
    model: Annotated[str, typer.Option(help="A name that hemaseg models lists.")],
    recipe_file: Annotated[Path, typer.Option("--recipe", help="Recipe, as in configs/.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Run folder to write.")],
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
    from hemaseg.studies.runs import require_trainable
    from hemaseg.training import loop
    from hemaseg.training.device import choose_device

    _require_free(output / "run.json", force)
    config = RunConfig(
        model=ModelConfig(name=model),
        seed=seed,
        device=device,
        recipe=read_config(recipe_file, Recipe),
    )
    # Before the scans are read, which takes longer.
    require_trainable(config)
    choose_device(device)
    cohort = read_cohort(cohort_file)
    made = read_split(split_file)
    selected = parts(made, cohort, fold)
    with _progress() as show:
        training, validation = (
            load_slices(part, config.recipe, progress=partial(show, f"reading for {name}"))
            for name, part in (("training", selected.train), ("validation", selected.validation))
        )
        record = loop.train(
            config,
            training,
            validation,
            output,
            origin=loop.DataOrigin(cohort.sha256, made.sha256, fold),
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


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Run folder of hemaseg train.")],
    cohort_file: CohortFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the masks.")],
    split_file: Annotated[
        Path | None,
        typer.Option("--split", help="The split of the run: predict its test part alone."),
    ] = None,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Write the mask of every image of a cohort, on its own grid."""
    from hemaseg.cohorts.split import parts, read_split
    from hemaseg.cohorts.table import read_cohort
    from hemaseg.prediction.predict import predict_cohort
    from hemaseg.training.checkpoint import RUN, RunRecord, read_record

    _require_free(output / "predictions.csv", force)
    cohort = read_cohort(cohort_file)
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
    with _progress() as show:
        cost = predict_cohort(
            run, cohort, output, device=device, progress=partial(show, "predicting")
        )
    typer.echo(f"{output}: {cost.num_slices} slices, {cost.slices_per_s:.1f} slices per second")
    typer.echo("Research use only; not a medical device.")


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder of predicted masks, of any tool.")],
    references: Annotated[Path, typer.Argument(help="Folder of reference masks, or cohort.csv.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Table to write: metrics.csv.")],
    tolerance_mm: Annotated[
        float, typer.Option(min=0, max=1000, help="Of the surface Dice.")
    ] = 2.0,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Score masks per subject, per slice, and per batch of 8."""
    from hemaseg.cohorts.table import read_cohort
    from hemaseg.evaluation.scoring import evaluate as score
    from hemaseg.evaluation.scoring import evaluate_cohort
    from hemaseg.evaluation.tables import summarize, write_scores

    _require_free(output, force, suffix=".csv")
    with _progress() as show:
        progress = partial(show, "scoring")
        if references.is_file():
            cohort = read_cohort(references)
            scores = evaluate_cohort(
                predictions, cohort, tolerance_mm=tolerance_mm, progress=progress
            )
        else:
            scores = score(predictions, references, tolerance_mm=tolerance_mm, progress=progress)
    write_scores(scores, output)
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
    tools, need no training.
    """
    if (study is None) == (not scores):
        raise ConfigError("compare needs either a study file or --scores, found both or none.")
    if study is not None:
        from hemaseg.studies.study import open_study, run_study

        _refuse(
            "only with --scores; a study file says it",
            metric=metric,
            margin=margin,
            higher_is_better=higher_is_better,
            force=force or None,
        )
        _require_free(output / "study.toml", force=True)
        opened = open_study(study, output)
        with _progress() as show:
            comparison = run_study(opened, show)
    else:
        from hemaseg.studies.study import compare_tables

        _require_free(output / "scores.csv", force)
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
    """Replay a published one-way ANOVA from its printed table."""
    from dataclasses import asdict

    from hemaseg.comparison.published import replay_anova

    result = replay_anova(mean, sd, num if len(num) > 1 else num * len(mean))
    if as_json:
        typer.echo(json.dumps(asdict(result)))
        return
    p = "p < 0.0001" if result.p < 0.0001 else f"p = {result.p:.4f}"
    typer.echo(f"F({result.df_between:.0f}, {result.df_within:.0f}) = {result.f:.4f}, {p}")
    typer.echo(
        "This test takes all observations as independent and asks only for a difference; "
        "a large p does not show that the groups are equal (docs/statistics.md)."
    )


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")] = Path("demo"),
    num_subjects: Annotated[int, typer.Option(min=12, max=999, help="Synthetic heads.")] = 24,
) -> None:
    """Train, compare and report on synthetic heads, in minutes."""
    from hemaseg.demo import prepare_demo
    from hemaseg.studies.study import open_study, run_study

    _require_free(output / "study.toml", force=True)
    with _progress() as show:
        file = prepare_demo(
            output, num_subjects=num_subjects, progress=partial(show, "making heads")
        )
        comparison = run_study(open_study(file, output / "study"), show)
    _finish_comparison(comparison, output / "study")
    typer.echo("The heads are synthetic: these scores say nothing about patients.")


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


def _refuse(why: str, **options: object) -> None:
    """An option that has no effect is refused, not ignored."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(f"{', '.join(given)}: {why}. Leave out.")


def _require_free(file: Path, force: bool, *, suffix: str = "") -> None:
    """Refuse output that exists or cannot be written, before the work and not after it."""
    if file.is_dir():
        raise ConfigError(f"{file}: is a folder, expected the name of a file. Add one.")
    if not file.name.endswith(suffix):
        raise ConfigError(f"{file}: expected a name that ends in {suffix}. Correct it.")
    if file.exists() and not force:
        raise ConfigError(f"{file}: exists. Choose another place, or pass --force to replace it.")
    nearest = next((folder for folder in file.parents if folder.exists()), Path())
    if not nearest.is_dir():
        raise ConfigError(f"{nearest}: is a file, expected a folder. Choose another place.")


@contextmanager
def _progress() -> Iterator[Callable[[str, float, int], None]]:
    """A bar on standard error: what is being done, how far all of it is, and the time left.

    Where standard error is no terminal but a log, a line now and then.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    if not sys.stderr.isatty():
        yield _log()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TextColumn("{task.percentage:>3.0f} %, left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("", total=None)
        yield lambda label, done, total: bars.update(
            bar, description=label, completed=done, total=total
        )


def _log() -> Callable[[str, float, int], None]:
    last_s = time.monotonic()

    def show(label: str, done: float, total: int) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= LOG_EVERY_S:
            last_s = time.monotonic()
            typer.echo(f"{label} ({done / total:.0%})", err=True)

    return show


def main() -> None:
    """Entry point: runs a verb, and turns errors into one message and an exit status."""
    try:
        app()
    except HemasegError as error:
        typer.echo(f"hemaseg: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        # What the library did not foresee in a file system: no space, no permission.
        file = error.filename2 or error.filename
        typer.echo(f"hemaseg: {f'{file}: ' if file else ''}{error.strerror or error}", err=True)
        sys.exit(2)
    except UnicodeEncodeError as error:
        # Names of other encodings, as old archives have them, do not fit into tables.
        text = error.object[max(0, error.start - 40) : error.end + 20]
        typer.echo(f"hemaseg: {text!a}: not UTF-8. Rename this file or folder.", err=True)
        sys.exit(2)
    except SystemExit as error:
        # Typer exits with 130 when interrupted, and says nothing.
        if error.code == 130:
            typer.echo("hemaseg: stopped", err=True)
        raise
