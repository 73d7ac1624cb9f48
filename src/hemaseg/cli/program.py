"""The program: its options, its progress, and how it ends."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from hemaseg.errors import ConfigError, HemasegError
from hemaseg.interruption import Terminated, stoppable

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

Force = Annotated[bool, typer.Option("--force", help="Replace output that exists.")]
Device = Annotated[str, typer.Option(help="auto (CUDA, MPS, CPU), cpu, cuda, cuda:1, mps.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Track = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Show epochs in tensorboard or mlflow, which are extras."),
]
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


def refuse(why: str, **options: object) -> None:
    """An option that has no effect is refused, not ignored."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(f"{', '.join(given)}: {why}. Leave out.")


def require_free(file: Path, force: bool, *, suffix: str = "") -> None:
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


def find_models(asked: str | None) -> tuple[Path, ...]:
    """Folders of models, one for each modality; says so where shipped ones were not named.

    Raises:
        ConfigError: There is no such model.
    """
    from hemaseg.weights import CARD, model_folders

    folders = model_folders(asked)
    if asked is None:
        for folder in folders:
            typer.echo(f"Model {folder.name}, which ships with hemaseg: {folder / CARD}", err=True)
    elif folders != (Path(asked),) and Path(asked).exists():
        typer.echo(f"Model {asked} that ships with hemaseg, not the folder ./{asked}", err=True)
    return folders


@contextmanager
def progress_bar(is_shown: bool = True) -> Iterator[Callable[[str, float, int], None]]:
    """A bar on standard error: what is being done, how far all of it is, and the time left.

    Where standard error is no terminal but a log, a line now and then; nothing if it is not to be
    shown, as by all but the first of several processes.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    if not is_shown or sys.stderr is None:  # closed
        yield lambda label, done, total: None
        return
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
    """Entry point: runs a verb, and turns errors into one message and an exit status.

    0 if all went well, 1 if some or all cases failed, 2 if none could be tried; 130 after
    Ctrl-C and 143 after SIGTERM, as shells and schedulers expect.
    """
    try:
        with stoppable():
            app()
    except HemasegError as error:
        _fail(str(error))
    except OSError as error:
        # What the library did not foresee in a file system: no space, no permission.
        file = error.filename2 or error.filename
        _fail(f"{f'{file}: ' if file else ''}{error.strerror or error}")
    except UnicodeEncodeError as error:
        # Names of other encodings, as old archives have them, do not fit into tables.
        text = error.object[max(0, error.start - 40) : error.end + 20]
        _fail(f"{text!a}: not UTF-8. Rename this file or folder.")
    except SystemExit as error:
        # Typer exits with 130 when interrupted, and says nothing.
        if error.code == 130:
            ended = _termination(error)
            typer.echo(f"hemaseg: {'terminated' if ended else 'stopped'}", err=True)
            if ended:
                sys.exit(128 + ended.number)
        raise


def _fail(message: str) -> NoReturn:
    typer.echo(f"hemaseg: {message}", err=True)
    sys.exit(2)


def _termination(error: BaseException | None) -> Terminated | None:
    """The signal to end that was handled when an error was raised; None if none was."""
    while error is not None and not isinstance(error, Terminated):
        error = error.__cause__ or error.__context__
    return error
