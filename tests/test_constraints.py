"""The two files of constraints fit what pyproject.toml allows."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
FLOORS = {
    match[1]: match[2]
    for requirement in (
        *PROJECT["dependencies"],
        *(one for name in EXTRAS if name not in ("bench", "dev") for one in EXTRAS[name]),
    )
    if (match := re.fullmatch(r"([a-z0-9-]+)>=([0-9.]+)", requirement))
}


def pinned(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and line[0] != "#")


def numbers(version: str) -> tuple[int, ...]:
    """Of a version, without zeros at its end: 2.10.0 is 2.10."""
    found = [int(part) for part in re.match(r"[0-9.]+", version)[0].strip(".").split(".")]  # type: ignore[index]
    while found[-1:] == [0]:
        found.pop()
    return tuple(found)


def test_the_lowest_versions_are_those_that_are_allowed() -> None:
    lowest = {name: numbers(version) for name, version in pinned("constraints-lowest.txt").items()}
    assert lowest.pop("torch") == numbers(pinned("constraints.txt")["torch"])
    floors = {name: numbers(version) for name, version in FLOORS.items() if name != "torch"}
    assert lowest == floors


def test_what_is_installed_is_allowed() -> None:
    installed = pinned("constraints.txt")
    for name, floor in FLOORS.items():
        if name in installed:
            assert numbers(installed[name]) >= numbers(floor), name
