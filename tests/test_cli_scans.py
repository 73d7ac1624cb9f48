"""`check`, `predict` and `measure` as a user calls them. What single modules do is tested there.

The network's threshold is 0, so that a mask is the whole scan and its volume is known.
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from command_line import Verb, child, files
from dicom_files import phantom_series
from hemaseg import weights
from hemaseg.config import IntensityConfig, ModelConfig
from hemaseg.models.catalogue import build_model
from hemaseg.training.checkpoint import save_model
from lively import save_lively
from small_heads import small_head

MODEL = ModelConfig(name="unet", options={"base_width": 4})
HEAD = small_head(1)
HEAD_ML = 16 * 8 * (64 * 3.5) ** 2 / 1000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run folder and two heads, in which the verbs run; nothing may be written beside `out`."""
    torch.manual_seed(0)
    network = build_model(MODEL.name, MODEL.options)
    save_model(
        tmp_path / "run",
        network,
        MODEL,
        image_size=32,
        intensity=IntensityConfig(),
        threshold=0.0,
        modality="CT",
    )
    for name in ("a", "b"):
        write_head(tmp_path / "scans" / f"{name}.nii.gz")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    beside = {path.name for path in tmp_path.iterdir()}
    read = {"run", "scans", "dicom", "dicom.zip", "list.csv", "DOE_JOHN"}
    assert beside <= read | {"shipped", weights.DEFAULT, "out", "m.csv"}


def write_head(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    image = nib.Nifti1Image(HEAD.voxels.transpose(), HEAD.affine[:, [2, 1, 0, 3]])
    image.header["descrip"] = b"Doe John"
    nib.save(image, path)


def table(path: str = "out/predictions.csv") -> dict[str, dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_nifti_in_and_masks_on_the_same_grid_out(hemaseg: Verb, folder: Path) -> None:
    before = files(folder)
    ended = hemaseg("predict", "scans", "--model", "run", "-o", "out", "--probability")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == (
        "out: 2 of 2 cases done (0 of them before), 0 failed. Research use only; not a medical "
        "device.\nNoted, see docs/screening.md: modality-guessed (2).\n"
    )
    scan, mask, probability = (
        nib.Nifti1Image.from_filename(path)
        for path in ("scans/a.nii.gz", "out/a/a_mask.nii.gz", "out/a/a_probability.nii.gz")
    )
    for image in (mask, probability):
        assert image.shape == scan.shape
        np.testing.assert_array_equal(image.affine, scan.affine)
        assert bytes(image.header["descrip"]).strip(b"\0") == b""
    assert np.asarray(mask.dataobj).all()
    assert float(table()["a"]["volume_ml"]) == pytest.approx(HEAD_ML, rel=1e-6)
    assert table()["a"]["input"] == "scans/a.nii.gz"
    assert {name: files(folder)[name] for name in before} == before


def test_a_dicom_folder_and_its_zip(hemaseg: Verb, folder: Path) -> None:
    series = phantom_series(folder / "dicom", num_slices=14, spacing_mm=10.0, tilt_deg=15.0)
    with zipfile.ZipFile("dicom.zip", "w") as archive:
        for path in series.paths:
            archive.write(path, f"deep/{path.name}")
    ended = hemaseg("predict", "dicom", "dicom.zip", "--model", "run", "-o", "out")
    assert (ended.status, ended.err) == (0, "")
    volume_ml = 14 * 10 * np.cos(np.radians(15)) * (64 * 3.2) ** 2 / 1000
    rows = table()
    assert set(rows) == {"dicom", "dicom-2"}
    for name, row in rows.items():
        assert float(row["volume_ml"]) == pytest.approx(volume_ml, rel=1e-4)
        assert row["findings"] == "gantry-tilt;oblique"
        kinds = ("_mask.nii.gz", "_seg.dcm", "_sr.dcm", "_overview.png", ".json")
        assert set(files(folder / "out" / name)) == {f"{name}{kind}" for kind in kinds}
    masks = [f"out/{name}/{name}_seg.dcm" for name in rows]
    ended = hemaseg("measure", *masks, "out/dicom/dicom_mask.nii.gz", "-o", "m.csv")
    assert ended.status == 0
    for row in table("m.csv").values():
        assert float(row["volume_ml"]) == pytest.approx(volume_ml, rel=1e-4)


def test_an_unevenly_spaced_series_has_its_mask_as_seg_alone(hemaseg: Verb, folder: Path) -> None:
    offsets = np.r_[np.arange(0, 60, 5), np.arange(60, 130, 10)]
    phantom_series(folder / "dicom", offsets_mm=offsets)
    ended = hemaseg("predict", "dicom", "--model", "run", "-o", "out")
    assert (ended.status, ended.err) == (0, "")
    row = table()["dicom"]
    assert set(row["findings"].split(";")) == {"uneven-spacing", "uneven-nifti"}
    # From half a step below the first slice to half a step above the last.
    volume_ml = (120 + 2.5 + 5) * (64 * 3.2) ** 2 / 1000
    assert float(row["volume_ml"]) == pytest.approx(volume_ml, rel=1e-4)
    assert not Path("out/dicom/dicom_mask.nii.gz").exists()
    ended = hemaseg("measure", "out/dicom/dicom_seg.dcm", "--json")
    assert json.loads(ended.out)[0]["volume_ml"] == pytest.approx(volume_ml, rel=1e-4)
    ended = hemaseg("predict", "dicom", "--model", "run", "-o", "out", "--no-dicom", "--force")
    assert ended.status == 1
    assert "uneven-nifti" in ended.err


def test_predicted_segs_are_scored_against_nifti_and_nifti_against_segs(
    hemaseg: Verb, folder: Path
) -> None:
    shutil.rmtree("run")
    save_lively(folder / "run", "CT")
    phantom_series(folder / "dicom", num_slices=14, spacing_mm=10.0, tilt_deg=15.0)
    assert hemaseg("predict", "dicom", "--model", "run", "-o", "out/both").status == 0
    folders = {name: Path("out", name) for name in ("both", "nifti", "seg")}
    for name, ending in (("nifti", "mask.nii.gz"), ("seg", "seg.dcm")):
        folders[name].mkdir()
        shutil.copy(f"out/both/dicom/dicom_{ending}", folders[name] / f"dicom_{ending}")
    mask = nib.Nifti1Image.from_filename("out/nifti/dicom_mask.nii.gz")
    voxels = np.asarray(mask.dataobj)
    assert 0.01 < voxels.mean() < 0.99
    assert (voxels != voxels[:, ::-1]).any()
    volume_ml = float(table("out/both/predictions.csv")["dicom"]["volume_ml"])
    for predictions, references in (
        *(("seg", "nifti"), ("nifti", "seg"), ("seg", "seg")),
        *(("both", "nifti"), ("both", "seg"), ("both", "both")),
    ):
        output = f"out/{predictions}_{references}.csv"
        ended = hemaseg("evaluate", folders[predictions], folders[references], "-o", output)
        assert (ended.status, ended.err) == (0, "")
        with Path(output).open(encoding="utf-8", newline="") as file:
            (row,) = csv.DictReader(file)
        assert (row["subject"], row["num_slices"]) == ("dicom", "14")
        assert (row["dice"], row["hd95_mm"], row["surface_dice"]) == ("1.0", "0.0", "1.0")
        for side in ("prediction_ml", "reference_ml"):
            assert float(row[side]) == pytest.approx(volume_ml, rel=1e-6)


def test_nobody_is_named_unless_asked_for(hemaseg: Verb, folder: Path) -> None:
    place = folder / "DOE_JOHN" / "study"
    series = phantom_series(place, num_slices=14, spacing_mm=10.0, patient_name="Doe^John")
    arguments = ["predict", "DOE_JOHN", "--model", "run", "-o", "out"]
    ended = hemaseg(*arguments)
    assert ended.status == 0
    (name,) = table()
    assert name.startswith("series-")
    assert ended.err.startswith(f"1 scans are named by a hash, such as {name}: ")
    for path, content in files(folder / "out").items():
        assert "DOE" not in path.upper()
        assert b"DOE" not in content.upper()
    assert "DOE" not in (ended.out + ended.err).upper()
    series.paths[3].write_bytes(series.paths[3].read_bytes()[:-50])
    for command in (
        ["check", "DOE_JOHN"],
        ["check", "DOE_JOHN", "--json"],
        [*arguments, "--force"],
    ):
        ended = hemaseg(*command)
        assert ended.status == 1
        assert "DOE" not in (ended.out + ended.err).upper()
        assert name in ended.out + ended.err
    ended = hemaseg("check", "DOE_JOHN", "--keep-identity")
    assert "DOE_JOHN" in ended.out
    assert "named by a hash" not in ended.err


def test_several_series_are_listed_and_one_is_taken(hemaseg: Verb, folder: Path) -> None:
    for number, description in ((2, "CT head"), (3, "CT head bone")):
        phantom_series(
            folder / "dicom",
            num_slices=14,
            spacing_mm=10.0,
            series_number=number,
            SeriesDescription=description,
        )
    ended = hemaseg("predict", "dicom", "--model", "run", "-o", "out")
    assert ended.status == 2
    assert "CT head bone" in ended.err
    assert "--series" in ended.err
    for choice in ("1", "suggested"):
        ended = hemaseg("predict", "dicom", "--model", "run", "-o", "out", "--series", choice)
        assert (ended.status, ended.err) == (0, "")
    assert "1 of them before" in ended.out  # number 1 is the one that was suggested


def test_a_png_stack(hemaseg: Verb, folder: Path) -> None:
    (folder / "dicom").mkdir()
    for k in range(3):
        pixels = np.interp(HEAD.voxels[6 + k], (30, 100), (0, 255)).astype(np.uint8)
        Image.fromarray(pixels).save(f"dicom/ct_{k + 8}.png")
    assert hemaseg("predict", "dicom", "--model", "run", "-o", "out").status == 0
    masks = sorted(Path("out/dicom/dicom_mask").iterdir())
    assert [path.name for path in masks] == ["ct_10.png", "ct_8.png", "ct_9.png"]
    for path in masks:
        with Image.open(path) as mask:
            assert mask.size == (64, 64)
            assert np.asarray(mask).min() == 255
    row = table()["dicom"]
    assert (row["volume_ml"], row["num_voxels"]) == ("", str(3 * 64 * 64))


def test_a_list_of_scans(hemaseg: Verb, folder: Path) -> None:
    Path("list.csv").write_text("image,name\nscans/a.nii.gz,First\nscans/none.nii,\n")
    ended = hemaseg("predict", "list.csv", "--model", "run", "-o", "out")
    assert ended.status == 1
    assert {name: row["status"] for name, row in table().items()} == {
        "none": "failed",
        "First": "done",
    }


def test_a_failing_case_among_good_ones(hemaseg: Verb, folder: Path) -> None:
    data = Path("scans/a.nii.gz").read_bytes()
    Path("scans/a.nii.gz").write_bytes(data[: len(data) // 2])
    ended = hemaseg("predict", "scans", "--model", "run", "-o", "out", "--json")
    assert ended.status == 1
    rows = json.loads(ended.out)
    assert [(row["name"], row["status"]) for row in rows] == [("a", "failed"), ("b", "done")]
    assert rows[0]["volume_ml"] is None
    header, line = ended.err.splitlines()
    assert header.split() == ["failed", "kind", "problem"]
    assert line.startswith("a       gzip-damaged  scans/a.nii.gz: ")
    ended = hemaseg("predict", "scans", "--model", "run", "-o", "out")
    assert ended.out.endswith("Noted, see docs/screening.md: modality-guessed (1).\n")
    assert set(files(folder / "out")) == {
        "predictions.csv",
        *(f"b/b{kind}" for kind in ("_mask.nii.gz", "_overview.png", ".json")),
    }


def test_resume_and_force(hemaseg: Verb, folder: Path) -> None:
    arguments = ["predict", "--model", "run", "-o", "out"]
    assert hemaseg(*arguments, "scans/a.nii.gz").status == 0
    before = files(folder / "out")
    ended = hemaseg(*arguments, "scans")
    assert "2 of 2 cases done (1 of them before)" in ended.out
    assert {name: c for name, c in files(folder / "out").items() if name[0] == "a"} == {
        name: content for name, content in before.items() if name[0] == "a"
    }
    ended = hemaseg(*arguments, "scans", "--modality", "CT")
    assert ended.status == 1
    assert ended.err.count("exists") == 2
    assert hemaseg(*arguments, "scans", "--modality", "CT", "--force").status == 0
    assert table()["a"]["findings"] == ""


def test_small_lesions_are_removed_on_request(
    hemaseg: Verb, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 1, 10 and 2 voxels beside each other, in a network's place."""
    from hemaseg.prediction import predictor

    def blocks(_: object, scaled: np.ndarray, *__: object) -> np.ndarray:
        found = np.full(scaled.shape, -1, np.float32)
        found[3, 3, 3] = found[6:8, 10:15, 20] = found[12, 40:42, 40] = 0.75
        return found

    monkeypatch.setattr(predictor, "begin_probabilities", lambda *given: partial(blocks, *given))
    voxel_ml = 8 * 3.5**2 / 1000
    arguments = ["predict", "scans", "--model", "run"]
    assert hemaseg(*arguments, "-o", "out/all").status == 0
    before = table("out/all/predictions.csv")["a"]
    assert (before["num_lesions"], before["num_voxels"]) == ("3", "13")
    record = json.loads(Path("out/all/a/a.json").read_text())
    assert record["task"]["options"]["min_lesion_ml"] == 0
    assert (record["num_removed_lesions"], record["removed_ml"]) == (0, 0)
    limit = ["-o", "out/large", "--min-lesion-ml", f"{10 * voxel_ml:g}"]
    ended = hemaseg(*arguments, *limit)
    assert (ended.status, ended.err) == (0, "")
    row, record = (
        table("out/large/predictions.csv")["a"],
        json.loads(Path("out/large/a/a.json").read_text()),
    )
    assert (row["num_lesions"], row["num_voxels"]) == ("1", "10")
    assert float(row["volume_ml"]) == pytest.approx(10 * voxel_ml)
    assert row["expected_ml"] == before["expected_ml"]
    assert record["task"]["options"]["min_lesion_ml"] == pytest.approx(10 * voxel_ml)
    assert record["num_removed_lesions"] == 2
    assert record["removed_ml"] == pytest.approx(3 * voxel_ml, rel=1e-3)
    mask = nib.Nifti1Image.from_filename("out/large/a/a_mask.nii.gz")
    assert np.asarray(mask.dataobj).sum() == 10
    # Done is what was done with the same limit.
    assert "(2 of them before)" in hemaseg(*arguments, *limit).out
    ended = hemaseg(*arguments, "-o", "out/large")
    assert (ended.status, ended.err.count("exists")) == (1, 2)
    assert hemaseg(*arguments, "-o", "out/large", "--force").status == 0
    assert table("out/large/predictions.csv")["a"]["num_voxels"] == "13"


def test_in_a_stack_of_pictures_no_lesion_is_small(hemaseg: Verb, folder: Path) -> None:
    (folder / "dicom").mkdir()
    for k in range(3):
        Image.fromarray(np.full((64, 64), 60 + k, np.uint8)).save(f"dicom/{k}.png")
    arguments = ["predict", "dicom", "scans", "--model", "run", "-o", "out"]
    ended = hemaseg(*arguments, "--min-lesion-ml", "0.1")
    assert ended.status == 1
    assert "dicom   no-geometry  dicom: pictures without geometry" in ended.err
    assert {name: row["status"] for name, row in table().items()} == {
        "dicom": "failed",
        "a": "done",
        "b": "done",
    }


def test_without_a_model_the_shipped_one_is_used(
    hemaseg: Verb, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "SHIPPED", folder / "shipped")
    for name in (weights.DEFAULT, weights.DEFAULT_FOR_MRI):
        shutil.copytree("run", Path("shipped", name))
    ended = hemaseg("predict", "scans", "-o", "out")
    assert (ended.status, "2 of 2 cases done (0 of them" in ended.out) == (0, True)
    assert ended.err.startswith(f"Model {weights.DEFAULT}, which ships with hemaseg: ")
    # The same weights by name and by path are the same task.
    ended = hemaseg("predict", "scans", "--model", weights.DEFAULT, "-o", "out")
    assert ("(2 of them before)" in ended.out, ended.err) == (True, "")
    shutil.copytree("run", weights.DEFAULT)
    ended = hemaseg("predict", "scans", "--model", weights.DEFAULT, "-o", "out")
    assert ended.err.endswith(f"ships with hemaseg, not the folder ./{weights.DEFAULT}\n")
    ended = hemaseg("predict", "scans", "--model", f"./{weights.DEFAULT}", "-o", "out")
    assert ("(2 of them before)" in ended.out, ended.err) == (True, "")


def test_results_in_the_folder_of_the_scans_are_not_scans(hemaseg: Verb, folder: Path) -> None:
    arguments = ["predict", ".", "--model", "run", "-o", "out"]
    assert hemaseg(*arguments).status == 0
    ended = hemaseg(*arguments)
    assert (ended.status, ended.err) == (0, "")
    assert "2 of 2 cases done (2 of them before)" in ended.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("predict nowhere --model run -o out", "nowhere: no such file"),
        ("predict out.csv --model run -o out", "out.csv: no such file"),
        ("predict run --model run -o out", "run: "),
        ("predict scans --model nowhere -o out", "nowhere: no such folder"),
        ("predict scans --model scans -o out", "model.json: no such file"),
        ("predict scans --model run -o run/model.json", "is a file, expected a folder"),
        ("predict scans --model run -o out --accept constant", "accept constant: expected some"),
        ("predict scans --model run -o out --modality PET", "modality 'PET', expected CT or MRI"),
        ("predict scans --model run -o out --max-gib 0", "'--max-gib'"),
        ("predict scans --model run -o out --min-lesion-ml -1", "min-lesion-ml -1.0, expected"),
        ("predict scans --model run -o out --min-lesion-ml nan", "nan, expected a number of mL"),
        ("predict scans --model run -o out --min-lesion-ml inf", "inf, expected a number of mL"),
        ("predict scans --model run -o out --device gpu", 'device "gpu" cannot be used'),
        ("predict scans --model run -o out --split s.json", "--split: only for a cohort.csv"),
        ("predict --model run -o out", "Missing argument 'SCAN...'"),
        ("check scans --accept none", "accept none: expected some of"),
        ("measure nowhere.nii", "nowhere.nii: no such file"),
        ("measure scans/a.nii.gz", "different values"),
        ("measure scans -o m.txt", "m.txt: expected a name that ends in .csv"),
        ("measure scans --label 0", "'--label'"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    hemaseg: Verb, folder: Path, arguments: str, words: str
) -> None:
    before = files(folder)
    ended = hemaseg(*arguments.split())
    assert (ended.status, ended.out) == (2, "")
    assert words in ended.err
    assert files(folder) == before
    assert not (folder / "out").exists()


def test_check_prints_a_line_for_each_finding(hemaseg: Verb, folder: Path) -> None:
    nib.save(nib.Nifti1Image(HEAD.voxels[..., None], HEAD.affine), "scans/c.nii")
    assert hemaseg("check", "scans").status == 0
    ended = hemaseg("check", "scans", "none.nii", "--modality", "CT")
    assert ended.status == 1
    lines = [line.split(maxsplit=3) for line in ended.out.splitlines()[:-1]]
    assert [line[:3] for line in lines] == [
        ["name", "verdict", "kind"],
        ["none", "refused", "missing"],
        ["a", "usable", "-"],
        ["b", "usable", "-"],
        ["c", "repaired", "-"],
        ["c", "repaired", "axes-dropped"],
    ]
    assert lines[2][3] == "CT, 16 slices of 64 x 64, 8 x 3.5 x 3.5 mm"
    assert ended.out.endswith("4 scans: 2 usable, 1 repaired, 1 refused\n")
    checked = json.loads(hemaseg("check", "scans", "none.nii", "--json").out)
    assert checked[0]["findings"][0]["kind"] == "missing"
    assert [one["verdict"] for one in checked] == ["refused", "usable", "usable", "repaired"]


def test_check_says_what_it_left_out(hemaseg: Verb, folder: Path) -> None:
    write_head(folder / "scans" / "a_mask.nii.gz")
    ended = hemaseg("check", "scans")
    assert ended.out.endswith("2 scans: 2 usable, 0 repaired, 0 refused\n")
    assert ended.err.startswith("1 files left out, whose names say that they are masks, such as ")


def test_measure_gives_a_table(hemaseg: Verb, folder: Path) -> None:
    labels = np.zeros((16, 64, 64), np.uint8)
    labels[4:6, 10:20, 10:20] = 1
    labels[9, 30:40, 30:40] = 2
    affine = HEAD.affine[:, [2, 1, 0, 3]]
    nib.save(nib.Nifti1Image(labels.transpose(), affine), "scans/labels.nii")
    ended = hemaseg("measure", "scans/labels.nii", "--label", 2, "-o", "m.csv")
    assert ended.status == 0
    volume_ml = 100 * 8 * 3.5**2 / 1000
    assert float(table("m.csv")["labels"]["volume_ml"]) == pytest.approx(volume_ml)
    assert ended.out.splitlines()[1].split()[:3] == ["labels", f"{volume_ml:.4g}", "1"]
    ended = hemaseg("measure", "scans/labels.nii", "--label", 1, "-o", "m.csv")
    assert (ended.status, "m.csv: exists" in ended.err) == (2, True)
    ended = hemaseg("measure", "scans/labels.nii", "none.nii", "--label", 1, "--json")
    assert ended.status == 1
    assert json.loads(ended.out)[0]["num_lesion_slices"] == 2
    assert "none.nii: no such file" in ended.err


def test_ctrl_c_keeps_what_is_done(folder: Path) -> None:
    for number in range(18):
        write_head(folder / "scans" / f"c{number}.nii.gz")
    # A shell may start its background jobs with interruptions ignored.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    arguments = ["predict", "scans", "--model", "run", "-o", "out", "--device", "cpu"]
    with subprocess.Popen(
        child(code, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 120
        while not Path("out/c0/c0.json").exists():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == (
        "out: cases that are done are kept; the same command does the others.\nhemaseg: stopped\n"
    )
    rows = table()
    assert {"a", "b"} <= set(rows)
    assert len(rows) < 20
    assert not [name for name in files(folder / "out") if ".partial" in name]
    ended = subprocess.run(child("", *arguments), capture_output=True, text=True)
    assert ended.returncode == 0
    assert "20 of 20 cases done" in ended.stdout
    assert f"({len(rows)} of them before)" in ended.stdout


def test_a_full_disk_fails_a_case_and_leaves_no_half_file(folder: Path) -> None:
    pytest.importorskip("resource")
    # To a program, a limit on the size of files is a disk that is full.
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))"
    arguments = ["predict", "scans", "--model", "run", "-o", "out", "--device", "cpu"]
    ended = subprocess.run(child(code, *arguments), capture_output=True, text=True)
    assert ended.returncode == 1
    assert "0 of 2 cases done" in ended.stdout
    assert "a       not-writable  out/a/a_overview.png: File too large. Make room" in ended.stderr
    assert set(files(folder / "out")) == {"predictions.csv"}
    assert table()["a"]["problem"].startswith("not-writable: out/a/a_overview.png: File too large")


@pytest.mark.parametrize("verb", ["check", "predict", "measure"])
def test_help_loads_nothing_heavy(verb: str) -> None:
    code = (
        "import atexit; atexit.register(lambda: print({'torch', 'numpy', 'pandas', 'pydicom'}"
        " & set(sys.modules)))"
    )
    ended = subprocess.run(
        child(code, verb, "--help"), capture_output=True, text=True, env=os.environ
    )
    assert ended.stdout.endswith("set()\n")


def test_checking_does_not_load_torch(folder: Path) -> None:
    code = "import atexit; atexit.register(lambda: print('torch' in sys.modules))"
    ended = subprocess.run(child(code, "check", "scans"), capture_output=True, text=True)
    assert ended.stdout.endswith("False\n")
