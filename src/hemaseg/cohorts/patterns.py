"""Names of subjects and sites, taken from paths by a regular expression."""

import re
from dataclasses import replace

from hemaseg.cohorts.layouts import Place, place_of
from hemaseg.errors import ConfigError


def compiled(pattern: str | None) -> re.Pattern[str] | None:
    """A pattern that a user gave; None if there is none.

    Raises:
        ConfigError: It is no regular expression, or has not one group.
    """
    if pattern is None:
        return None
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"pattern {pattern!r}: {error}, expected a regular expression. Correct it."
        ) from error
    if found.groups != 1:
        raise ConfigError(
            f"pattern {pattern!r}: {found.groups} groups, expected 1. Put the name's part in ()."
        )
    return found


def searched(pattern: re.Pattern[str], *texts: str) -> str:
    """The pattern's group in the first text that has it, `/` as `_`; empty if none has.

    >>> searched(re.compile("(site./[0-9]+)"), "ct/siteA/007/1.png")
    'siteA_007'
    """
    found = next((match[1] or "" for text in texts if (match := pattern.search(text))), "")
    return found.replace("/", "_")


def subject_place(
    key: str, path: str, *, is_stack: bool, find_subject: re.Pattern[str] | None
) -> Place:
    """What a key says, see `place_of`; but the subject from the path, where a pattern is given."""
    place = place_of(key, is_stack=is_stack)
    if find_subject is None:
        return place
    # The folders, no longer the subject, tell stacks with equal names apart.
    names = filter(None, [*place.folder.split("/"), place.scan])
    scan = "-".join(dict.fromkeys(names))
    return replace(place, subject=searched(find_subject, path), scan=scan)
