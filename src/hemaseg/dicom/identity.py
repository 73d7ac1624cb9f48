"""Words that identify a patient, found in texts and masked, however they are written."""

import re
import unicodedata
from collections.abc import Iterable

MIN_LETTERS = 3
"""Of a word that identifies: shorter ones are in many names by chance, and count only alone."""

_MIN_PART = 5
"""Letters of a word that is masked as part of another: Ann is not masked in cannot."""

_UMLAUTS = str.maketrans({"\u00e4": "ae", "\u00f6": "oe", "\u00fc": "ue"})


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
