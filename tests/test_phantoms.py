"""The verb `hemaseg phantom`."""

import json
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from command_line import Verb, child, files
from hemaseg.phantoms import writing

SMALL = ["--size", 40, "--slices", 8, "--slice-mm", 14, "--pixel-mm", 5]


def test_heads_of_seeds(hemaseg: Verb, tmp_path: Path) -> None:
    ended = hemaseg("phantom", "--seed", 7, "--num", 3, *SMALL, "-o", tmp_path / "heads")
    assert (ended.status, ended.err) == (0, "")
    assert "3 heads, " in ended.out
    assert ended.out.endswith("scores on them say nothing about patients.\n")
    assert pd.read_csv(tmp_path / "heads/phantoms.csv")["seed"].tolist() == [7, 8, 9]
    ended = hemaseg("phantom", "--seed", 8, *SMALL, "--json", "-o", tmp_path / "one")
    (row,) = json.loads(ended.out)
    assert row["subject"] == "head_00008"
    name = "images/head_00008.nii.gz"
    assert files(tmp_path / "one")[name] == files(tmp_path / "heads")[name]


@pytest.mark.parametrize("file_format", ["nifti", "dicom", "png"])
def test_mixed_cohorts(hemaseg: Verb, tmp_path: Path, file_format: str) -> None:
    arguments = ["--num", 6, "--modality", "mixed", "--format", file_format]
    ended = hemaseg("phantom", *arguments, *SMALL, "--json", "-o", tmp_path / "heads")
    rows = json.loads(ended.out)
    assert [row["modality"] for row in rows] == ["CT", "CT", "MRI"] * 2
    expected = {"nifti": [False, True, False, False, True, True], "dicom": [False] * 6}
    assert [row["is_export"] for row in rows] == expected.get(file_format, [True] * 6)


def test_options_reach_the_head(hemaseg: Verb, tmp_path: Path) -> None:
    asked = ["--num-hematomas", 1, "--volume-ml", 25, "--age", "late-subacute", "--tilt-deg", -12]
    ended = hemaseg("phantom", *asked, *SMALL, "--export", "--json", "-o", tmp_path / "ct")
    (row,) = json.loads(ended.out)
    assert (row["num_hematomas"], row["age_of_blood"]) == (1, "late subacute")
    assert (row["gantry_tilt_deg"], row["is_export"]) == (-12.0, True)
    assert row["hematoma_ml"] == pytest.approx(25, abs=0.2)
    asked = ["--modality", "MRI", "--sequence", "T2*", "--turned"]
    ended = hemaseg("phantom", *asked, *SMALL, "--json", "-o", tmp_path / "mri")
    (row,) = json.loads(ended.out)
    assert (row["scan_sequence"], row["gantry_tilt_deg"]) == ("T2*", None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--modality PET", "--modality 'PET': expected CT, MRI, mixed"),
        ("--format tiff", "--format 'tiff': expected nifti, dicom, png"),
        ("--age old", "--age 'old', expected hyperacute, acute"),
        ("--modality MRI --sequence DWI", "--sequence 'DWI', expected T1, T2, FLAIR"),
        ("--sequence T1", "--sequence: only with --modality MRI"),
        ("--modality mixed --sequence T1", "--sequence: only with --modality MRI"),
        ("--modality MRI --tilt-deg 10", "--tilt-deg: only with --modality CT"),
        ("--format png --export", "--export: only with --format nifti"),
        ("--format dicom --export", "--export: only with --format nifti"),
        ("--modality mixed --export", "--export: not with --modality mixed"),
        ("--num-hematomas 0 --volume-ml 3 --age acute", "--volume-ml, --age: not with --num-hem"),
        ("--tilt-deg 40", "--tilt-deg 40, expected -30 to 30"),
        ("--tilt-deg nan", "--tilt-deg nan, expected -30 to 30"),
        ("--volume-ml 0", "--volume-ml 0, expected 0.01 to 200"),
        ("--volume-ml inf", "--volume-ml inf, expected 0.01 to 200"),
        ("--pixel-mm -1", "--pixel-mm -1, expected 0.1 to 10"),
        ("--slice-mm 1e9", "--slice-mm 1e+09, expected 0.3 to 20"),
        ("--size 16", "--size 16, expected 32 to 1024"),
        (f"--size {10**400}", f"--size {10**400}, expected 32 to 1024. Correct it"),
        ("--slice-mm 0.3", "36,044,800 voxels, expected at most 33,554,432. Lower --size or"),
        ("--slices 1", "--slices 1, expected 2 to 512"),
        ("--num-hematomas -1", "--num-hematomas -1, expected 0 to 10"),
        ("--size 1024 --slices 40", "40 slices of 1024x1024, 41,943,040 voxels, expected at most"),
        ("--num 0", "'--num'"),
        ("--seed -1", "'--seed'"),
        ("-o file.txt", "file.txt: is a file, expected a folder"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    hemaseg: Verb,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("mine")
    output = [] if "-o" in arguments else ["-o", "heads"]
    ended = hemaseg("phantom", *arguments.split(), *output)
    assert (ended.status, ended.out) == (2, "")
    assert words in ended.err
    assert ended.err.startswith(("hemaseg: ", "Usage: "))
    assert files(tmp_path) == {"file.txt": b"mine"}
    assert not (tmp_path / "heads").exists()


def test_what_exists_is_replaced_by_force_alone(hemaseg: Verb, tmp_path: Path) -> None:
    arguments = ["phantom", *SMALL, "-o", tmp_path / "heads"]
    assert hemaseg(*arguments).status == 0
    before = files(tmp_path)
    ended = hemaseg(*arguments, "--num-hematomas", 0)
    assert ended.status == 2
    assert "phantoms.csv: exists" in ended.err
    assert files(tmp_path) == before
    assert hemaseg(*arguments, "--num-hematomas", 0, "--force").status == 0
    assert files(tmp_path) != before


@pytest.mark.parametrize("file_format", ["nifti", "dicom", "png"])
def test_a_full_disk_is_said_and_leaves_no_half_file(tmp_path: Path, file_format: str) -> None:
    limit = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))"
    )
    arguments = ["phantom", "--size", 128, "--format", file_format, "-o", tmp_path / "heads"]
    ended = subprocess.run(child(limit, *arguments), capture_output=True, text=True)
    assert ended.returncode == 2
    name = {"nifti": "head_00000.nii.gz", "dicom": "head_00000", "png": r"head_00000_\d+.png"}
    words = rf"hemaseg: {tmp_path}/heads/images/{name[file_format]}: File too large\n"
    assert re.fullmatch(words, ended.stderr)
    left = files(tmp_path)
    assert not [name for name in left if not name.endswith(".png") or ".partial" in name]
    assert all(content.endswith(b"IEND\xaeB`\x82") for content in left.values())


def test_no_memory_is_said(hemaseg: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(writing, "synthesise", too_large)
    ended = hemaseg("phantom", "--size", 300, "-o", tmp_path / "heads")
    words = f"hemaseg: {tmp_path}/heads: no memory left for a head of 300x300 pixels. Lower --size"
    assert (ended.status, ended.err.startswith(words)) == (2, True)
    assert not (tmp_path / "heads").exists()
