"""Names of scans: unique, safe as names of files, and free of words that identify a patient."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from hemaseg.scans.images import stem

MIN_LETTERS = 3
"""Of a word that identifies: shorter ones are in many names by chance, and count only alone."""

_MIN_PART = 5
"""Letters of a word that is masked as part of another: Ann is not masked in cannot."""

_MAX_BYTES = 120
_UMLAUTS = str.maketrans({"\u00e4": "ae", "\u00f6": "oe", "\u00fc": "ue"})


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


def identifies(text: str, words: Iterable[str]) -> bool:
    r"""Whether one of the words is in a text, however its umlauts and accents are written.

    >>> identifies("scans/MUELLER_HANS/ct", ["M\u00fcller"]), identifies("p17", ["1"])
    (True, False)
    """
    for form in _forms(text):
        alone = re.split(r"[\W_]+", form)
        for word in set().union(*map(_forms, words)) - {""}:
            if word in (form if len(word) >= MIN_LETTERS else alone):
                return True
    return False


def without_words(text: str, words: Iterable[str]) -> str:
    """A text with `[...]` in place of the words; short ones only where they stand alone.

    >>> without_words("DOE_JOHN/1.dcm: cannot be read", ["Doe", "John", "Ann"])
    '[...]_[...]/1.dcm: cannot be read'
    """
    text = unicodedata.normalize("NFC", text)
    forms = {form for word in words for form in (word, *_forms(word)) if len(form) >= MIN_LETTERS}
    short = {form for form in forms if len(form) < _MIN_PART and form.isalnum()}
    for form in sorted(forms - short, key=len, reverse=True):
        text = re.sub(re.escape(form), "[...]", text, flags=re.IGNORECASE)

    def shown(match: re.Match[str]) -> str:
        rests = _forms(match[0])
        for form in sorted(short, key=len, reverse=True):
            rests = {rest.replace(form, "") for rest in rests}
        return "[...]" if "" in rests else match[0]

    return re.sub(r"[^\W_]+", shown, text)


def _forms(text: str) -> set[str]:
    """A text without case and accents: umlauts as two letters, and as one."""
    composed = unicodedata.normalize("NFC", text).casefold()
    return {
        "".join(
            letter
            for letter in unicodedata.normalize("NFKD", form)
            if not unicodedata.combining(letter)
        )
        for form in (composed, composed.translate(_UMLAUTS))
    }
