"""Calling the command line in tests: in this process, or in one of its own."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """How a verb ended."""

    status: int
    out: str
    err: str


Verb = Callable[..., Ended]
"""The entry point, called with arguments as a shell would: the fixture `hemaseg`."""


def child(code: str, *arguments: object) -> list[str]:
    """A command that runs the entry point in a process of its own, after some code."""
    start = f"import sys\n{code}\nfrom hemaseg.cli import main\nmain()"
    return [sys.executable, "-c", start, *map(str, arguments)]


def files(folder: Path) -> dict[str, bytes]:
    """All files in a folder with what is in them."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
