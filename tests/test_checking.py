from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hemaseg.errors import ConfigError, ScanError
from hemaseg.intake import checking
from hemaseg.intake.checking import Checked, check_source, problem_of
from hemaseg.intake.sources import Source, find_sources
from hemaseg.scans.screening import Finding, ReadOptions
from small_heads import small_head

HEAD = small_head(1)
SOURCE = Source("a", "scans/a.nii", Path("scans/a.nii"))


def write(path: Path, voxels: np.ndarray) -> Source:
    nib.save(nib.Nifti1Image(voxels, HEAD.affine), path)
    return find_sources([path], ReadOptions()).sources[0]


def test_a_usable_scan_is_described(tmp_path: Path) -> None:
    source = write(tmp_path / "a.nii", HEAD.voxels)
    text = "CT, 16 slices of 64 x 64, 8 x 3.5 x 3.5 mm"
    found = check_source(source, ReadOptions(modality="CT"))
    assert found == Checked("a", str(tmp_path / "a.nii"), "usable", text, ())
    clipped = write(tmp_path / "b.nii", HEAD.voxels.clip(0))
    assert check_source(clipped, ReadOptions()).scan.startswith(
        "unknown modality (say --modality), 16 slices"
    )


def test_a_repair_is_told(tmp_path: Path) -> None:
    source = write(tmp_path / "a.nii", HEAD.voxels[..., None])  # a fourth axis of length 1
    found = check_source(source, ReadOptions(modality="CT"))
    assert found.verdict == "repaired"
    assert [finding.kind for finding in found.findings] == ["axes-dropped"]


def test_a_refusal_is_told(tmp_path: Path) -> None:
    source = write(tmp_path / "a.nii", np.ones_like(HEAD.voxels))
    found = check_source(source, ReadOptions())
    assert (found.verdict, found.scan) == ("refused", "")
    assert [finding.kind for finding in found.findings] == ["constant"]


def test_an_error_that_nobody_foresaw_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise KeyError("Doe")

    monkeypatch.setattr(checking, "read_source", crash)
    (finding,) = check_source(SOURCE, ReadOptions()).findings
    assert finding.kind == "unforeseen"
    assert finding.message.startswith("scans/a.nii: KeyError in line ")
    assert "test_checking.py, which hemaseg did not foresee" in finding.message
    assert "Doe" not in finding.message


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ScanError("x: flat", kind="constant"), "constant", "x: flat"),
        (ConfigError("wrong"), "unforeseen", "wrong"),
        (MemoryError(), "no-memory", "scans/a.nii: out of memory. Close"),
        (OSError(28, "No space left", "o/a_mask.nii"), "not-writable", "o/a_mask.nii: No space"),
        (OSError(28, "No space", "o/tmp", None, "o/a.nii"), "not-writable", "o/a.nii: No space"),
        (OSError(28, "No space left"), "not-writable", "scans/a.nii: No space left. Make room"),
    ],
)
def test_errors_have_kinds_and_messages(error: Exception, kind: str, message: str) -> None:
    found = problem_of(error, SOURCE)
    assert found.kind == kind
    assert found.message.startswith(message)


def test_no_message_identifies_a_patient() -> None:
    source = replace(
        SOURCE, name="series-1", shown="series-1", path=Path("x/DOE_JO"), identity=("Doe", "17")
    )
    error = ScanError("x/DOE_JO: 17 slices of doe", kind="few-slices")
    assert problem_of(error, source) == Finding("few-slices", "series-1: 17 slices of [...]")
