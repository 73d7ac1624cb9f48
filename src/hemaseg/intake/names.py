"""Names of scans: unique, and safe as names of files."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hemaseg.scans.images import stem

_MAX_BYTES = 120


def path_parts(path: Path) -> tuple[str, ...]:
    """Name of a file without suffix, or of a folder; then the folders above it, innermost first.

    >>> path_parts(Path("/data/p7/ct.nii.gz"))
    ('ct', 'p7', 'data')
    """
    whole = Path(os.path.normpath(path.absolute()))
    return (whole.name if path.is_dir() else stem(whole), *reversed(whole.parent.parts[1:]))


def unique_names(parts: Sequence[tuple[str, ...]]) -> list[str]:
    """A name of each scan: the first part, with as many more before it as make it unique.

    Case does not make a difference, since some file systems see none. What no part tells apart is
    numbered.

    Args:
        parts: Of each scan, at least one, the most particular first, as `path_parts` gives them.

    >>> unique_names([("ct", "p1"), ("ct", "p2"), ("flair", "p2")])
    ['p1_ct', 'p2_ct', 'flair']
    """
    distinct = list(dict.fromkeys(parts))
    depths = [1] * len(distinct)
    while True:
        names = [
            safe_name("_".join(reversed(own[:depth])))
            for own, depth in zip(distinct, depths, strict=True)
        ]
        counts = Counter(name.casefold() for name in names)
        deeper = [
            depth + (counts[name.casefold()] > 1 and depth < len(own))
            for name, depth, own in zip(names, depths, distinct, strict=True)
        ]
        if deeper == depths:
            break
        depths = deeper
    name_of = dict(zip(distinct, names, strict=True))
    taken: set[str] = set()
    numbered = []
    for own in parts:
        name, number = name_of[own], 1
        while name.casefold() in taken:
            number += 1
            name = f"{name_of[own]}-{number}"
        taken.add(name.casefold())
        numbered.append(name)
    return numbered


def safe_name(text: str) -> str:
    """A text as part of a file's name: letters, digits and `.-+_`, not hidden, not too long.

    >>> safe_name("../a b:c"), safe_name("...")
    ('a_b_c', 'scan')
    """
    kept = re.sub(r"[^\w.+-]+", "_", text).strip("._-")
    short = kept.encode()[:_MAX_BYTES].decode(errors="ignore")
    return short or "scan"
