"""The kinds of findings, and how a scan is refused, repaired or noted."""

import re
from pathlib import Path

import pytest

from hemaseg.errors import ConfigError, ScanError
from hemaseg.scans.screening import (
    KINDS,
    MAX_BYTES,
    Finding,
    ReadOptions,
    Screen,
    kinds_of,
    reading,
)


def test_kinds_are_many_named_alike_and_described_in_words() -> None:
    assert len(KINDS) >= 40
    for name, kind in KINDS.items():
        assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", name)
        assert 5 < len(kind.meaning) < 80
        assert not kind.meaning.endswith(".")
        assert kind.action == "refused" or not kind.is_acceptable
    assert {kind.action for kind in KINDS.values()} == {"refused", "repaired", "noted"}


def test_every_kind_of_error_is_known() -> None:
    """All words after `kind=` and in `error("...")` and so on, in the whole package."""
    package = Path(__file__).resolve().parents[1] / "src" / "hemaseg"
    calls = {"error": "refused", "refuse": "refused", "report": "repaired noted"}
    found = set()
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for call, name in re.findall(r'\.(error|refuse|report)\(\s*"([a-z0-9-]+)",', text):
            assert KINDS[name].action in calls[call], f"{path}: {name}"
            found.add(name)
        for name in re.findall(r'ScanError\((?:[^()]|\([^()]*\))*kind="([a-z0-9-]+)"', text):
            assert KINDS[name].action == "refused", f"{path}: {name}"
            found.add(name)
    assert len(found) > 20


def test_a_refusal_names_the_scan() -> None:
    error = Screen("a.nii").error("truncated", "3 bytes, expected 4. Copy it again.")
    assert isinstance(error, ScanError)
    assert str(error) == "a.nii: 3 bytes, expected 4. Copy it again."
    assert error.kind == "truncated"
    assert ScanError("else").kind == "unreadable"


def test_what_can_be_accepted_is_refused_or_noted() -> None:
    strict = Screen("a.nii")
    with pytest.raises(ScanError, match=r"^a\.nii: Long\.$"):
        strict.refuse("non-axial", "Long.")
    assert strict.findings == []
    lenient = Screen("a.nii", ReadOptions(accept=frozenset({"non-axial"})))
    lenient.refuse("non-axial", "Long.")
    lenient.refuse("non-axial", "Long.")
    assert lenient.findings == [Finding("non-axial", "Long.")]
    with pytest.raises(ScanError, match="1 slice"):
        lenient.refuse("few-slices", "1 slice.")


def test_only_who_has_the_option_is_told_of_it() -> None:
    asked = Screen("a.nii", ReadOptions(offers_accept=True))
    with pytest.raises(
        ScanError, match=r"^a\.nii: Long\. Or .* all the same: --accept non-axial\.$"
    ):
        asked.refuse("non-axial", "Long.")


def test_repairs_and_notes_are_kept_in_order_and_once() -> None:
    screen = Screen("a")
    screen.report("oblique", "12 degrees")
    screen.report("axes-dropped", "4")
    screen.report("oblique", "12 degrees")
    screen.report("oblique", "13 degrees")
    assert [finding.message for finding in screen.findings] == ["12 degrees", "4", "13 degrees"]
    assert kinds_of(screen.findings) == ("oblique", "axes-dropped")


def test_kinds_are_used_for_what_they_are() -> None:
    screen = Screen("a")
    with pytest.raises(ValueError, match="oblique is noted, expected a kind that is refused"):
        screen.error("oblique", "12 degrees")
    with pytest.raises(ValueError, match="truncated cannot be accepted"):
        screen.refuse("truncated", "3 bytes")
    with pytest.raises(ValueError, match="truncated is refused, expected a kind that is repaired"):
        screen.report("truncated", "3 bytes")
    with pytest.raises(KeyError, match="unheard-of"):
        screen.report("unheard-of", "")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"accept": frozenset({"non-axial", "truncated"})}, "accept truncated: expected some of "),
        ({"accept": frozenset({"b", "a"})}, "accept a, b: expected some of forms-apart, "),
        ({"modality": "MR"}, "modality 'MR', expected CT or MRI"),
        ({"max_bytes": 0}, "limit of 0 bytes, expected at least 1"),
    ],
)
def test_options_that_cannot_be(options: dict[str, object], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        ReadOptions(**options)  # type: ignore[arg-type]


def test_the_limit_is_counted_in_bytes() -> None:
    assert ReadOptions().max_bytes == MAX_BYTES == 1024**3
    screen = Screen("a", ReadOptions(max_bytes=1000))
    screen.check_size(1000)
    with pytest.raises(ScanError, match="a: voxels take 1,001 bytes, expected at most 1,000") as e:
        screen.check_size(1001, "voxels take ")
    assert e.value.kind == "too-large"


def test_whatever_fails_while_reading_is_a_scan_error_without_words_of_the_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.nii"
    path.write_text("content")
    with pytest.raises(ScanError) as caught, reading(path, Screen("a.nii")):
        raise ValueError("Doe^Jane")
    assert str(caught.value).startswith("a.nii: cannot be read (ValueError), expected a complete")
    assert "Doe" not in str(caught.value)
    assert caught.value.kind == "unreadable"
    with pytest.raises(ScanError, match="as it is") as caught, reading(path, Screen("a")):
        raise ScanError("as it is", kind="truncated")
    assert caught.value.kind == "truncated"
    with pytest.raises(ScanError, match="may not be read") as caught, reading(path, Screen("a")):
        raise PermissionError(13, "Permission denied")
    assert caught.value.kind == "no-permission"
    with pytest.raises(ScanError, match="more memory") as caught, reading(path, Screen("a")):
        raise MemoryError
    assert caught.value.kind == "no-memory"
    with pytest.raises(ScanError, match=r"\(Input/output error\)"), reading(path, Screen("a")):
        raise OSError(5, "Input/output error")
    with pytest.raises(KeyboardInterrupt), reading(path, Screen("a")):
        raise KeyboardInterrupt
