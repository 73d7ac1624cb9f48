"""What a user meets: a path with one fault, and what `hemaseg check` says of it."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

import bad_dicom
import bad_files
import bad_nifti
import bad_series
from bad_inputs import BadInput, head_bytes, write
from hemaseg.errors import ScanError
from hemaseg.intake.sources import find_sources, read_source
from hemaseg.scans.scan import Scan
from hemaseg.scans.screening import KINDS, kinds_of

DOCUMENT = Path(__file__).resolve().parents[1] / "docs/screening.md"
INPUTS = {**bad_nifti.INPUTS, **bad_files.INPUTS, **bad_dicom.INPUTS, **bad_series.INPUTS}
# The permissions of a file bind nobody who is root; these are read by a child of lesser rights.
UNREADABLE = [name for name, bad in INPUTS.items() if bad.kind == "no-permission"]
REFUSED = [
    name
    for name, bad in INPUTS.items()
    if KINDS[bad.kind].action == "refused" and name not in UNREADABLE
]
ACCEPTABLE = [name for name in REFUSED if KINDS[INPUTS[name].kind].is_acceptable]
READ = [name for name, bad in INPUTS.items() if KINDS[bad.kind].action != "refused"]
ELSEWHERE = {
    "worker-lost": "test_cluster",
    # What no other kind foresaw, and the machine.
    "unreadable": "test_screening",
    "name-not-utf8": "test_sources",
    "unforeseen": "test_checking",
    "no-memory": "test_checking",
    # A scan and the recipe of a network.
    "not-scalable": "test_cases",
    "unlike-training": "test_cases",
    # Masks.
    "not-a-mask": "test_scan",
    "not-a-segmentation": "test_dicom_segments",
    "mixed-segments": "test_dicom_segments",
    "unknown-segment": "test_dicom_segments",
    "empty-frames": "test_dicom_segments",
    "label-absent": "test_measuring",
    "large-mask": "test_measuring",
    # Writing.
    "uneven-nifti": "test_nifti",
    "exists": "test_cases",
    "not-writable": "test_cases",
}
"""Kinds that no path alone provokes, and the module that tests them."""

MAX_MIB = 300
"""Rise of memory that anything damaged may cause."""

Made = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Bad inputs by name, each made once; nothing changes them."""
    paths: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in paths:
            paths[name] = INPUTS[name].build(tmp_path_factory.mktemp(name))
        return paths[name]

    return make


def screened(path: Path, bad: BadInput) -> Scan:
    """What the user names, found and read as every verb does it."""
    found = find_sources([path], bad.options, series=bad.series)
    if found.failures:
        assert not found.sources
        raise found.failures[0]
    (source,) = found.sources
    return read_source(source, bad.options, network_modality=bad.network)


def test_every_kind_has_an_input() -> None:
    here = {bad.kind for bad in INPUTS.values()}
    assert here | set(ELSEWHERE) == set(KINDS)
    assert not here & set(ELSEWHERE)
    for kind, module in ELSEWHERE.items():
        assert f'"{kind}"' in Path(__file__).with_name(f"{module}.py").read_text()


@pytest.mark.parametrize("name", REFUSED)
def test_refused(made: Made, name: str) -> None:
    path = made(name)
    with pytest.raises(ScanError) as caught:
        screened(path, INPUTS[name])
    assert caught.value.kind == INPUTS[name].kind
    check_message(str(caught.value), path)


def check_message(message: str, path: Path) -> None:
    """Which thing, found against expected, what to do; in words for people who do not program."""
    assert str(path) in message
    words = message.replace(str(path), "")
    assert len(words) < 400
    assert "expected" in words or "no such file" in words or "may not be read" in words
    assert re.search(r"[^.]\. [A-Z].*\.$", words), "expected at least two sentences"
    assert "\n" not in words or "--series" in words, "a list of series, or one line"
    assert not re.search(r"Traceback|[A-Z]\w+(Error|Warning|Exception)|<class|\bNone\b", words)


@pytest.mark.parametrize("name", ACCEPTABLE)
def test_accepted(made: Made, name: str) -> None:
    bad = INPUTS[name]
    options = replace(bad.options, accept=bad.options.accept | {bad.kind})
    assert bad.kind in kinds_of(screened(made(name), replace(bad, options=options)).findings)


@pytest.mark.parametrize("name", READ)
def test_repaired_and_noted(made: Made, name: str) -> None:
    path = made(name)
    findings = screened(path, INPUTS[name]).findings
    assert kinds_of(findings) == (INPUTS[name].kind,)
    for finding in findings:
        assert re.fullmatch(r"[^\n]{10,200}[^.\n]", finding.message), "one sentence"
        assert str(path) not in finding.message


CHILD = """
import resource, sys
import hemaseg.intake.checking, hemaseg.dicom.reading
from hemaseg.cli import main
def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak_mib()
try:
    main()
finally:
    print(peak_mib() - before, file=sys.stderr)
"""


@dataclass(frozen=True)
class Ended:
    """How `hemaseg check --json` ended: what it found, by path, and by how much memory rose."""

    status: int
    verdicts: dict[str, str]
    findings: dict[str, list[dict[str, str]]]
    rise_mib: int


def check(*paths: Path) -> Ended:
    """The command line in a process of its own, as a shell would call it."""
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, "check", *paths, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert re.fullmatch(r"[0-9]+\n", ended.stderr), ended.stderr
    checked = json.loads(ended.stdout)
    assert len({one["input"] for one in checked}) == len(checked)
    return Ended(
        ended.returncode,
        {one["input"]: one["verdict"] for one in checked},
        {one["input"]: one["findings"] for one in checked},
        int(ended.stderr),
    )


def test_check_tells_good_from_bad(made: Made, tmp_path: Path) -> None:
    """All bad inputs that need no option, among good ones, in one call."""
    plain = [n for n in REFUSED if INPUTS[n] == BadInput(INPUTS[n].kind, INPUTS[n].build)]
    assert len(plain) > 90
    head = write(tmp_path / "good.nii.gz", head_bytes())
    series = bad_dicom.series(tmp_path / "series")[0].parent
    ended = check(head, *map(made, plain), series)
    assert ended.status == 1
    expected = {str(made(name)): [INPUTS[name].kind] for name in plain}
    expected |= {str(head): ["modality-guessed"], str(series): []}
    assert {
        path: [finding["kind"] for finding in findings] for path, findings in ended.findings.items()
    } == expected
    assert {path for path, verdict in ended.verdicts.items() if verdict == "usable"} == {
        str(head),
        str(series),
    }
    assert ended.rise_mib < MAX_MIB


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_may_not_be_read(name: str) -> None:
    # Not below pytest's own folder, which nobody else may enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = INPUTS[name].build(Path(folder))
        if is_root := os.geteuid() == 0:
            screened(path, INPUTS[name])  # Root may read it, and finds nothing else wrong.
            os.seteuid(65534)
        try:
            with pytest.raises(ScanError) as caught:
                screened(path, INPUTS[name])
        finally:
            if is_root:
                os.seteuid(0)
            path.chmod(0o700)
    assert caught.value.kind == "no-permission"
    check_message(str(caught.value), path)


def _gzip_bomb(folder: Path) -> Path:
    bad_nifti.write_gzip_bomb(folder / "head.nii.gz", num_mib=1500)
    return folder / "head.nii.gz"


def _deflated_bomb(folder: Path) -> Path:
    paths = bad_dicom.series(folder / "series", transfer_syntax=DeflatedExplicitVRLittleEndian)
    bad_dicom.write_deflated_bomb(paths[3], num_mib=1500)
    return folder / "series"


def _zip_bomb(folder: Path) -> Path:
    return bad_files.write_zip_bomb(folder / "scan.zip", num_mib=1500)


@pytest.mark.parametrize("bomb", [_gzip_bomb, _deflated_bomb, _zip_bomb])
def test_bombs_take_no_memory(tmp_path: Path, bomb: Callable[[Path], Path]) -> None:
    """Files of at most 2 MB that inflate to 1.5 GiB."""
    path = bomb(tmp_path)
    files = path.iterdir() if path.is_dir() else [path]
    assert max(file.stat().st_size for file in files) < 2_000_000
    ended = check(path)
    ((finding,),) = ended.findings.values()
    assert finding["kind"] in ("gzip-bomb", "dicom-bomb", "archive-bomb")
    assert ended.rise_mib < MAX_MIB


def test_document_has_a_row_for_each_kind() -> None:
    rows = re.findall(r"^\| `(.+?)` \| (.+?) \| (.+?) \| (.+?) \|$", DOCUMENT.read_text(), re.M)
    assert [row[0] for row in rows] == list(KINDS)
    for name, _, outcome, remedy in rows:
        kind = KINDS[name]
        assert outcome == kind.action + ", `--accept`" * kind.is_acceptable
        assert re.fullmatch(r"[A-Z].*\.", remedy)
