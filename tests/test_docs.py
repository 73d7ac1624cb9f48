"""What the documents say of the code, as far as a test can tell."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
NAMED = re.compile(r"`(?:tests/)?(test_\w+\.py)(?:::(\w+))?`|`\.\.(\w+)`")
"""A file of tests, one test of it, or (two dots) one more of the file that was named last."""


def named_tests(document: Path) -> list[tuple[str, str]]:
    """File and function; the function is empty where the whole file is meant."""
    found, file = [], ""
    for match in NAMED.finditer(document.read_text(encoding="utf-8")):
        file = match[1] or file
        found.append((file, match[2] or (f"test_{match[3]}" if match[3] else "")))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_documents_name_exist(document: Path) -> None:
    for file, name in named_tests(document):
        assert (ROOT / "tests" / file).is_file(), file
        assert f"def {name}(" in (ROOT / "tests" / file).read_text("utf-8") or not name, name


def test_names_are_found_in_the_guarantees() -> None:
    named = named_tests(ROOT / "docs" / "guarantees.md")
    assert ("test_claim.py", "") in named
    assert ("test_resumption.py", "test_a_second_signal_ends_at_once") in named
