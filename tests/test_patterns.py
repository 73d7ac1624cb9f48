"""Subjects by a regular expression in their paths; `test_index` and `test_matching` use it."""

import re

import pytest

from hemaseg.cohorts.layouts import Place
from hemaseg.cohorts.patterns import compiled, searched, subject_place
from hemaseg.errors import ConfigError


def test_patterns_have_one_group() -> None:
    assert compiled(None) is None
    assert compiled("(a)") == re.compile("(a)")
    with pytest.raises(ConfigError, match="2 groups, expected 1"):
        compiled("(a)(b)")


def test_the_first_text_that_has_it_counts() -> None:
    assert searched(re.compile("(P.)"), "x", "P1", "P2") == "P1"
    assert searched(re.compile("(P)?x"), "x") == ""
    assert searched(re.compile("(./.)"), "A/1/2") == "A_1"


def test_folders_tell_scans_of_one_name_apart() -> None:
    find = compiled("([^/]+)_")
    for key, scan in (("v1/p_ct", "v1-p_ct"), ("p_ct/p_ct", "p_ct"), ("p_ct", "p_ct")):
        place = subject_place(key, f"{key}.nii", is_stack=False, find_subject=find)
        assert (place.subject, place.scan, place.slice) == ("p", scan, None)
    assert subject_place("a/b_1", "a/b_1.png", is_stack=True, find_subject=None) == Place(
        "a", "a", "b", 1
    )
