import csv
import itertools
import json
import re
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from hemaseg.config import IntensityConfig, ModelConfig
from hemaseg.engines.options import EngineOptions
from hemaseg.errors import CheckpointError, ConfigError
from hemaseg.files import file_sha256
from hemaseg.intake.sources import find_sources
from hemaseg.metrics.measurement import measure
from hemaseg.models.catalogue import build_model
from hemaseg.prediction import outputs, predictor
from hemaseg.prediction.cases import LOCK, Predicted, predict_scans
from hemaseg.prediction.outputs import Wanted
from hemaseg.prediction.overview import write_overview
from hemaseg.prediction.records import CaseRecord, read_case_record
from hemaseg.scans.images import read_mask, read_scan
from hemaseg.scans.screening import ReadOptions
from hemaseg.slices.appearance import describe_appearance
from hemaseg.slices.dataset import SliceName, SliceSet
from hemaseg.slices.intensity import Range
from hemaseg.training.checkpoint import MODEL as MODEL_FILE
from hemaseg.training.checkpoint import WEIGHTS, load_model, save_model, write_record
from hemaseg.training.claim import claim
from small_heads import small_head

MODEL = ModelConfig(name="unet", options={"base_width": 4})
HEAD = small_head(1)
CPU = EngineOptions(device="cpu")
WANTED = ("probability", "bids", "min_lesion_ml")


def save_run(folder: Path, *, seed: int = 0, modality: str = "CT", threshold: float = 0.5) -> Path:
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    network = build_model(MODEL.name, MODEL.options)
    save_model(
        folder,
        network,
        MODEL,
        image_size=64,
        intensity=IntensityConfig(),
        threshold=threshold,
        modality=modality,
    )
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("run") / "run")


def see(monkeypatch: pytest.MonkeyPatch, seen: Callable[..., object]) -> None:
    """Let networks give these probabilities."""
    monkeypatch.setattr(predictor, "begin_probabilities", lambda *given: partial(seen, *given))


@pytest.fixture(autouse=True)
def _bright(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of what an untrained network sees: pixels of 58 to 85 HU, which is the blood."""

    def blood(_: object, scaled: NDArray[np.float32], *__: object) -> NDArray[np.float32]:
        return ((scaled > 0.4) & (scaled < 0.79)).astype(np.float32)

    see(monkeypatch, blood)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two heads, whose blood is as bright as nothing else."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for seed, name in ((1, "a"), (2, "b")):
        head = small_head(seed)
        clean = np.where(head.mask, 64, np.where(head.voxels > 200, 900, 20)).astype(np.int16)
        clean[head.voxels < -500] = -1000
        affine = head.affine[:, [2, 1, 0, 3]]
        nib.save(nib.Nifti1Image(clean.transpose(), affine), folder / f"{name}.nii.gz")
    return folder


def predict(run: Path, folder: Path, *paths: Path, **options: Any) -> Predicted:
    wanted = Wanted(**{k: options.pop(k) for k in WANTED if k in options})
    read = options.pop("read", ReadOptions())
    return predict_scans(
        [run], find_sources(paths, read), folder, read, wanted, engine=CPU, **options
    )


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def record(folder: Path, name: str) -> CaseRecord:
    found = read_case_record(folder / name / f"{name}.json")
    assert found is not None
    return found


def test_each_case_gets_its_files_and_its_row(run: Path, scans: Path, tmp_path: Path) -> None:
    seen = []
    ended = predict(
        run, tmp_path / "out", scans, probability=True, progress=lambda *args: seen.append(args)
    )
    assert (ended.num_done, ended.num_before, ended.failures) == (2, 0, ())
    assert seen == [("a", 0, 2), ("b", 1, 2), ("done", 2, 2)]
    kinds = ("_mask.nii.gz", "_probability.nii.gz", "_overview.png", ".json")
    assert set(files(tmp_path / "out")) == {
        "predictions.csv",
        *(f"{name}/{name}{kind}" for name in "ab" for kind in kinds),
    }
    row, written = table(tmp_path / "out")["a"], record(tmp_path / "out", "a")
    scan = read_scan(scans / "a.nii.gz")
    mask = read_mask(tmp_path / "out/a/a_mask.nii.gz")
    assert mask.voxels.sum() > 50
    np.testing.assert_array_equal(mask.voxels, (scan.voxels > 58) & (scan.voxels < 85))
    measured = measure(mask.voxels, scan.affine)
    assert float(row["volume_ml"]) == pytest.approx(measured.volume_ml, rel=1e-6)
    assert float(row["volume_ml"]) == pytest.approx(small_head(1).hematoma_ml, rel=0.1)
    assert float(row["abc2_ml"]) == pytest.approx(measured.abc2_ml, rel=1e-6)
    assert (row["status"], row["modality"], row["findings"]) == ("done", "CT", "modality-guessed")
    # Probabilities here are 0 and 1: the network is sure of all of it.
    assert (float(row["confidence"]), written.confidence) == (1.0, 1.0)
    assert float(row["expected_ml"]) == pytest.approx(measured.volume_ml, rel=1e-3)
    assert row["model"] == written.task.model_sha256[:12]
    assert list(written.seconds) == [
        *("reading", "network", "measuring", "mask", "probability", "overview")
    ]
    assert sorted(written.files) == sorted(f"a/a{kind}" for kind in kinds[:3])


def test_masks_have_the_bytes_of_the_grid(run: Path, scans: Path, tmp_path: Path) -> None:
    predict(run, tmp_path / "out", scans / "a.nii.gz")
    scan, mask = (
        nib.Nifti1Image.from_filename(path)
        for path in (scans / "a.nii.gz", tmp_path / "out/a/a_mask.nii.gz")
    )
    assert mask.shape == scan.shape
    assert mask.get_data_dtype() == np.uint8
    for field in ("srow_x", "srow_y", "srow_z", "sform_code", "qform_code", "pixdim"):
        np.testing.assert_array_equal(mask.header[field], scan.header[field])


def test_an_empty_mask_has_no_confidence_but_an_expected_volume(
    run: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(monkeypatch, lambda _, scaled, *__: np.full_like(scaled, 0.2))
    predict(run, tmp_path / "out", scans)
    row, written = table(tmp_path / "out")["a"], record(tmp_path / "out", "a")
    assert (row["confidence"], written.confidence, row["volume_ml"]) == ("", None, "0.0")
    voxel_ml = read_scan(scans / "a.nii.gz").voxel_ml
    assert float(row["expected_ml"]) == pytest.approx(0.2 * 64 * 64 * voxel_ml.sum(), rel=1e-3)


def test_a_scan_unlike_those_of_training_is_noted(run: Path, scans: Path, tmp_path: Path) -> None:
    """Another head, and noise, for a run that was trained on seven heads."""
    heads = [Range(30, 100).scale(small_head(seed).voxels) for seed in range(1, 8)]
    images = torch.from_numpy(np.concatenate(heads))[:, None].half()
    names = tuple(SliceName(str(k // 16), "", k % 16) for k in range(len(images)))
    slices = SliceSet(images, torch.zeros(images.shape, dtype=torch.bool), names)
    shutil.copytree(run, tmp_path / "described")
    model = tmp_path / "described" / MODEL_FILE
    record_of_model = load_model(run)[1].model_copy(
        update={"appearance": describe_appearance(slices), "volume_errors_cbrt_ml": (0.1,) * 9}
    )
    write_record(record_of_model, model)
    affine = small_head(1).affine[:, [2, 1, 0, 3]]
    noise = np.random.default_rng(0).integers(-1000, 1000, (64, 64, 16)).astype(np.int16)
    nib.save(nib.Nifti1Image(noise, affine), scans / "noise.nii.gz")
    nib.save(nib.Nifti1Image(small_head(9).voxels.transpose(), affine), scans / "head.nii.gz")
    predict(tmp_path / "described", tmp_path / "out", scans)
    rows = table(tmp_path / "out")
    assert "unlike-training" not in rows["head"]["findings"]
    assert rows["noise"]["findings"].split(";")[-1] == "unlike-training"
    finding = record(tmp_path / "out", "noise").findings[-1]
    assert finding.kind == "unlike-training"
    assert "spreads off" in finding.message
    # Its volume is as far off as nobody knows.
    assert rows["head"]["volume_high_ml"] != "" == rows["noise"]["volume_high_ml"]
    # A run that says nothing of its training gives no note.
    predict(run, tmp_path / "old", scans)
    assert "unlike-training" not in table(tmp_path / "old")["noise"]["findings"]


def with_volume_errors(run: Path, folder: Path, errors: tuple[float, ...]) -> Path:
    shutil.copytree(run, folder)
    known = load_model(run)[1].model_copy(update={"volume_errors_cbrt_ml": errors})
    write_record(known, folder / MODEL_FILE)
    return folder


def shown_interval(caption: str) -> tuple[float, float]:
    found = re.search(r"volume: ([0-9.]+) to ([0-9.]+) mL, for 90 of 100 scans like those", caption)
    assert found is not None
    return float(found[1]), float(found[2])


def test_a_volume_has_an_interval_where_errors_of_test_subjects_are_known(
    run: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = []

    def keep(*args: Any, caption: tuple[str, ...], **options: Any) -> None:
        captions.append(" ".join(caption))
        write_overview(*args, caption=caption, **options)

    monkeypatch.setattr(outputs, "write_overview", keep)
    errors = tuple(k / 10 for k in range(9))
    known = with_volume_errors(run, tmp_path / "known", errors)
    few = with_volume_errors(run, tmp_path / "few", errors[:-1])
    predict(known, tmp_path / "a", scans / "a.nii.gz")
    row, written = table(tmp_path / "a")["a"], record(tmp_path / "a", "a")
    root = float(row["volume_ml"]) ** (1 / 3)
    assert root > 0.8
    ends = [(root - 0.8) ** 3, (root + 0.8) ** 3]
    expected = pytest.approx(ends, rel=1e-3)
    assert [float(row[f"volume_{end}_ml"]) for end in ("low", "high")] == expected
    assert [written.volume_low_ml, written.volume_high_ml] == expected
    assert shown_interval(captions[-1]) == pytest.approx(ends, abs=0.1)
    # Where all test subjects were right the ends are the volume, and digits must not leave it out.
    right = with_volume_errors(run, tmp_path / "right", (0.0,) * 9)
    predict(right, tmp_path / "right-a", scans / "a.nii.gz")
    row = table(tmp_path / "right-a")["a"]
    written_ml = float(row["volume_low_ml"]), float(row["volume_high_ml"])
    for low, high in (written_ml, shown_interval(captions[-1])):
        assert low < float(row["volume_ml"]) < high
    # Too few errors; errors of other masks than cleaned ones; a scan that had to be accepted; one
    # without geometry.
    apart = nib.Nifti1Image.from_filename(scans / "a.nii.gz")
    moved = np.array(apart.affine)
    moved[0, 3] += 20
    apart.set_qform(moved, code=1)
    nib.save(apart, tmp_path / "apart.nii.gz")
    accepting = {"read": ReadOptions(accept=frozenset({"forms-apart"}))}
    pictures = tmp_path / "p"
    pictures.mkdir()
    for k in range(4):
        pixels = np.interp(HEAD.voxels[6 + k], (30, 100), (0, 255)).astype(np.uint8)
        Image.fromarray(pixels).save(pictures / f"{k}.png")
    for model, name, path, options in (
        (run, "none", scans / "a.nii.gz", {}),
        (few, "few", scans / "a.nii.gz", {}),
        (known, "cleaned", scans / "a.nii.gz", {"min_lesion_ml": 0.1}),
        (known, "accepted", tmp_path / "apart.nii.gz", accepting),
        (known, "pictures", pictures, {}),
    ):
        ended = predict(model, tmp_path / name, path, **options)
        assert ended.failures == ()
        assert (ended.rows[0]["volume_low_ml"], ended.rows[0]["volume_high_ml"]) == (None, None)
        assert "Interval" not in captions[-1]


def test_the_temperature_of_the_run_is_applied(
    run: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    content = json.loads((run / MODEL_FILE).read_text())
    shutil.copytree(run, tmp_path / "calibrated")
    (tmp_path / "calibrated" / MODEL_FILE).write_text(json.dumps(content | {"temperature": 4.0}))
    predict(run, tmp_path / "a", scans / "a.nii.gz", probability=True)
    predict(tmp_path / "calibrated", tmp_path / "b", scans / "a.nii.gz", probability=True)
    masks, maps = (
        [nib.Nifti1Image.from_filename(tmp_path / f"{out}/a/a_{kind}.nii.gz") for out in "ab"]
        for kind in ("mask", "probability")
    )
    np.testing.assert_array_equal(masks[0].dataobj, masks[1].dataobj)
    logits = [np.log(p / (1 - p)) for p in (np.asarray(one.dataobj, float) for one in maps)]
    np.testing.assert_allclose(logits[1], logits[0] / 4, atol=1e-3)


def test_a_failing_case_stops_no_other(run: Path, scans: Path, tmp_path: Path) -> None:
    (scans / "a.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes()[:-30])
    ended = predict(run, tmp_path / "out", tmp_path / "none.nii", scans)
    assert ended.num_done == 1
    assert [(name, problem.kind) for name, problem in ended.failures] == [
        ("none", "missing"),
        ("a", "gzip-damaged"),
    ]
    rows = table(tmp_path / "out")
    assert {name: row["status"] for name, row in rows.items()} == {
        "none": "failed",
        "a": "failed",
        "b": "done",
    }
    assert rows["a"]["problem"].startswith("gzip-damaged: ")
    assert not (tmp_path / "out/a").exists()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "no-memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "no-memory"),
        (ValueError("a bug"), "unforeseen"),
    ],
)
def test_whatever_fails_in_the_network_is_told(
    run: Path,
    scans: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    see(monkeypatch, fail)
    ended = predict(run, tmp_path / "out", scans)
    assert [problem.kind for _, problem in ended.failures] == [kind, kind]


def test_a_network_that_gives_no_numbers_is_refused(
    run: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(monkeypatch, lambda _, scaled, *__: scaled * np.nan)
    with pytest.raises(CheckpointError, match="probabilities that are not numbers"):
        predict(run, tmp_path / "out", scans)


def test_cases_that_are_done_are_not_done_again(run: Path, scans: Path, tmp_path: Path) -> None:
    predict(run, tmp_path / "out", scans / "b.nii.gz")
    before = files(tmp_path / "out" / "b")
    ended = predict(run, tmp_path / "out", scans)
    assert (ended.num_done, ended.num_before) == (2, 1)
    assert files(tmp_path / "out" / "b") == before
    assert set(table(tmp_path / "out")) == {"a", "b"}
    # From another place, too.
    (scans / "b.nii.gz").rename(tmp_path / "b.nii.gz")
    assert predict(run, tmp_path / "out", tmp_path / "b.nii.gz").num_before == 1


def test_a_file_that_is_missing_is_made_again(run: Path, scans: Path, tmp_path: Path) -> None:
    predict(run, tmp_path / "out", scans)
    before = (tmp_path / "out/a/a_mask.nii.gz").read_bytes()
    (tmp_path / "out/a/a_mask.nii.gz").unlink()
    assert predict(run, tmp_path / "out", scans).num_before == 1
    assert (tmp_path / "out/a/a_mask.nii.gz").read_bytes() == before


def other_scan(scans: Path) -> None:
    (scans / "a.nii.gz").write_bytes((scans / "b.nii.gz").read_bytes())


def lost_record(scans: Path) -> None:
    (scans.parent / "out/a/a.json").unlink()


def damaged_record(scans: Path) -> None:
    (scans.parent / "out/a/a.json").write_text("{}")


@pytest.mark.parametrize("change", [other_scan, lost_record, damaged_record])
def test_other_results_are_replaced_only_by_force(
    run: Path, scans: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    predict(run, tmp_path / "out", scans)
    change(scans)
    before = files(tmp_path / "out" / "a")
    ended = predict(run, tmp_path / "out", scans)
    ((name, problem),) = ended.failures
    assert (name, problem.kind) == ("a", "exists")
    assert str(tmp_path / "out/a/a_mask.nii.gz") in problem.message
    assert files(tmp_path / "out" / "a") == before
    assert predict(run, tmp_path / "out", scans, force=True).failures == ()
    assert predict(run, tmp_path / "out", scans).num_before == 2


@pytest.mark.parametrize(
    "options",
    [
        {"probability": True},
        {"min_lesion_ml": 0.1},
        {"read": ReadOptions(modality="CT")},
        {"read": ReadOptions(accept=frozenset({"non-axial"}))},
    ],
)
def test_other_options_are_another_task(
    run: Path, scans: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    predict(run, tmp_path / "out", scans)
    assert len(predict(run, tmp_path / "out", scans, **dict(options)).failures) == 2


def test_another_model_is_another_task(run: Path, scans: Path, tmp_path: Path) -> None:
    predict(run, tmp_path / "out", scans)
    other = save_run(tmp_path / "other", threshold=0.25)
    assert (other / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()
    assert len(predict(other, tmp_path / "out", scans).failures) == 2


@pytest.fixture
def interrupted(run: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Output of a command that was stopped while it wrote the picture of the second case."""
    calls = []

    def stop(*args: Any, **options: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write_overview(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(outputs, "write_overview", stop)
        with pytest.raises(KeyboardInterrupt):
            predict(run, tmp_path / "out", scans)
    return tmp_path / "out"


def test_an_interrupted_command_goes_on(run: Path, scans: Path, interrupted: Path) -> None:
    assert set(table(interrupted)) == {"a"}
    assert record(interrupted, "b").status == "writing"
    ended = predict(run, interrupted, scans)
    assert (ended.num_done, ended.num_before) == (2, 1)
    assert record(interrupted, "b").status == "complete"
    predict(run, interrupted.parent / "whole", scans)
    whole = files(interrupted.parent / "whole")
    for name, content in files(interrupted).items():
        if not name.endswith((".json", ".csv")):  # which have seconds
            assert content == whole[name]


def slices_of(num: int, computed: Callable[[int], None]) -> Callable[..., object]:
    """Networks that compute `num` slices for each case, with workers as the real ones have."""
    numbers = itertools.count()

    def begin(
        _: object, scaled: NDArray[np.float32], *given: Any
    ) -> Callable[[], NDArray[np.float32]]:
        case = next(numbers)
        slices = given[-1].map(lambda _: computed(case), range(num))
        return lambda: scaled * len(list(slices)) * 0

    return begin


def test_the_network_works_on_the_next_case_while_one_is_written(
    run: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = threading.Event()

    def computed(case: int) -> None:
        if case == 1:
            second.set()

    def write(*args: Any, **options: Any) -> None:
        assert second.wait(60)
        write_overview(*args, **options)

    monkeypatch.setattr(predictor, "begin_probabilities", slices_of(3, computed))
    monkeypatch.setattr(outputs, "write_overview", write)
    assert predict(run, tmp_path / "out", scans).num_done == 2


def test_what_stops_one_case_waits_for_no_slices_of_the_next(
    run: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []

    def computed(case: int) -> None:
        time.sleep(0.02 * case)
        done.append(case)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(predictor, "begin_probabilities", slices_of(200, computed))
    monkeypatch.setattr(outputs, "write_overview", stop)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        predict(run, tmp_path / "out", scans)
    assert done.count(0) == 200
    assert done.count(1) < 200
    assert set(threading.enumerate()) == before


def test_results_of_an_interrupted_command_are_not_taken_for_others(
    scans: Path, interrupted: Path, tmp_path: Path
) -> None:
    other = save_run(tmp_path / "other", seed=1)
    kinds = [problem.kind for _, problem in predict(other, interrupted, scans).failures]
    assert kinds == ["exists", "exists"]


def test_one_process_at_a_time_predicts_into_a_folder(
    run: Path, scans: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with claim(out, name=LOCK):  # a lock of its own, as another process would have
        with pytest.raises(ConfigError, match=r"out: process \d+ on .* works in it") as caught:
            predict(run, out, scans)
        assert "choose another output folder" in str(caught.value)
    assert files(out).keys() == {LOCK}
    assert predict(run, out, scans).num_done == 2
    assert LOCK not in files(out)


def test_threads_of_one_process_predict_one_after_the_other(
    run: Path, scans: Path, tmp_path: Path
) -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    with ThreadPoolExecutor(4) as pool:
        several = [pool.submit(predict, run, tmp_path / f"out{k}", scans) for k in range(4)]
    assert [one.result().num_done for one in several] == [2] * 4
    assert before == (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads())
    first, *others = [mask.read_bytes() for mask in sorted(tmp_path.glob("out*/a/a_mask.nii.gz"))]
    assert others == [first] * 3


def test_a_full_disk_leaves_no_half_case(
    run: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "out/a/a_overview.png"))

    with monkeypatch.context() as patched:
        patched.setattr(outputs, "write_overview", full)
        ended = predict(run, tmp_path / "out", scans)
    assert [problem.kind for _, problem in ended.failures] == ["not-writable"] * 2
    assert "a_overview.png: No space left on device. Make room" in ended.failures[0][1].message
    assert set(files(tmp_path / "out")) == {"predictions.csv"}
    assert not (tmp_path / "out/a").exists()
    assert predict(run, tmp_path / "out", scans).num_done == 2


def test_wrong_modality_and_unknown_modality(scans: Path, tmp_path: Path) -> None:
    mri = save_run(tmp_path / "mri", modality="MRI")
    declared = ReadOptions(modality="CT")
    ended = predict(mri, tmp_path / "out", scans, read=declared)
    assert [problem.kind for _, problem in ended.failures] == ["wrong-modality"] * 2
    mixed = save_run(tmp_path / "mixed", modality="")
    assert predict(mixed, tmp_path / "guessed", scans).num_done == 2
    for path in scans.iterdir():  # without air, the values say nothing
        image = nib.Nifti1Image.from_filename(path)
        clipped = np.asarray(image.dataobj).clip(0)
        nib.save(nib.Nifti1Image(clipped, image.affine), path)
    ended = predict(mixed, tmp_path / "out", scans)
    assert [problem.kind for _, problem in ended.failures] == ["not-scalable"] * 2
    assert "Say --modality CT or MRI" in ended.failures[0][1].message
    assert predict(mixed, tmp_path / "out", scans, read=declared).num_done == 2


def test_a_stack_of_pictures(run: Path, tmp_path: Path) -> None:
    (tmp_path / "p1").mkdir()
    for k in range(4):
        pixels = np.interp(HEAD.voxels[6 + k], (30, 100), (0, 255)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "p1" / f"{k}.png")
    ended = predict(run, tmp_path / "out", tmp_path / "p1", probability=True)
    assert ended.failures == ()
    masks = [read_mask(tmp_path / f"out/p1/p1_mask/{k}.png").voxels for k in range(4)]
    assert sum(int(mask.sum()) for mask in masks) == ended.rows[0]["num_voxels"] != 0
    assert ended.rows[0]["volume_ml"] is None
    assert (tmp_path / "out/p1/p1_probability/0.png").is_file()
    assert predict(run, tmp_path / "out", tmp_path / "p1", probability=True).num_before == 1


def test_bids_derivatives(run: Path, scans: Path, tmp_path: Path) -> None:
    (scans / "a.nii.gz").rename(scans / "sub-01_ses-2_ct.nii.gz")
    out = tmp_path / "out"
    assert predict(run, out, scans, probability=True, bids=True).failures == ()
    mask = "sub-01/ses-2/anat/sub-01_ses-2_label-ICH"
    other = "sub-b/anat/sub-b_label-ICH"
    expected = {"dataset_description.json", ".bidsignore", "predictions.csv"}
    for stem in (mask, other):
        expected |= {f"{stem}_{kind}" for kind in ("mask.nii.gz", "mask.json")}
        expected |= {f"{stem}_{kind}" for kind in ("probseg.nii.gz", "probseg.json")}
    for name in ("sub-01_ses-2_ct", "b"):
        expected |= {f"cases/{name}/{name}{kind}" for kind in (".json", "_overview.png")}
    assert set(files(out)) == expected
    assert json.loads((out / f"{mask}_mask.json").read_text())["Type"] == "Lesion"
    assert predict(run, out, scans, probability=True, bids=True).num_before == 2


def test_pictures_are_no_bids_derivatives(run: Path, tmp_path: Path) -> None:
    pixels = np.interp(HEAD.voxels[8], (30, 100), (0, 255)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    ((_, problem),) = predict(run, tmp_path / "out", tmp_path / "a.png", bids=True).failures
    assert problem.kind == "no-geometry"
    assert "Leave out --bids" in problem.message
    assert not (tmp_path / "out/cases").exists() or not any((tmp_path / "out/cases").iterdir())


def two_cubes(_: object, scaled: NDArray[np.float32], *__: object) -> NDArray[np.float32]:
    """8 and 64 voxels of 0.9, in a haze of 0.2 around the smaller one."""
    found = np.zeros_like(scaled)
    found[2:6, 2:6, 2:6] = 0.2
    found[3:5, 3:5, 3:5] = found[8:12, 20:24, 20:24] = 0.9
    return found


def test_small_lesions_are_removed_from_mask_and_measures_but_not_from_probabilities(
    run: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(monkeypatch, two_cubes)
    voxel_ml = 8 * 3.5**2 / 1000
    captions = []

    def keep(*args: Any, caption: tuple[str, ...], **options: Any) -> None:
        captions.append(caption)
        write_overview(*args, caption=caption, **options)

    monkeypatch.setattr(outputs, "write_overview", keep)
    expected_ml = (72 * 0.9 + 56 * 0.2) * voxel_ml
    for name, limit_ml, num_voxels in (("0", 0, 72), ("1", 1, 64), ("9", 9, 0)):
        out = tmp_path / name
        options: dict[str, Any] = {"probability": True, "min_lesion_ml": limit_ml}
        assert predict(run, out, scans / "a.nii.gz", **options).failures == ()
        assert predict(run, out, scans / "a.nii.gz", **options).num_before == 1
        written, row = record(out, "a"), table(out)["a"]
        assert written.task.options["min_lesion_ml"] == limit_ml
        num_removed = {72: 0, 64: 1, 0: 2}[num_voxels]
        assert written.num_removed_lesions == num_removed
        assert written.removed_ml == pytest.approx((72 - num_voxels) * voxel_ml, rel=1e-3)
        assert read_mask(out / "a/a_mask.nii.gz").voxels.sum() == num_voxels
        assert float(row["volume_ml"]) == pytest.approx(num_voxels * voxel_ml, rel=1e-6)
        assert int(row["num_lesions"]) == 2 - num_removed
        assert float(row["expected_ml"]) == pytest.approx(expected_ml, rel=1e-3)
        is_said = any("Removed from the mask" in line for line in captions[-1])
        assert is_said == (num_removed > 0)
    assert captions[1][1] == "Removed from the mask: 1 lesions below 1 mL, 0.78 mL together"
    # 2 * 0.9 * voxels of the mask / (72 * 0.9 + 56 * 0.2 + voxels of the mask)
    confidences = [table(tmp_path / name)["a"]["confidence"] for name in "019"]
    assert float(confidences[0]) == pytest.approx(2 * 0.9 * 72 / (76 + 72), rel=1e-3)
    assert float(confidences[1]) == pytest.approx(2 * 0.9 * 64 / (76 + 64), rel=1e-3)
    assert confidences[2] == ""
    maps = {(tmp_path / name / "a/a_probability.nii.gz").read_bytes() for name in "019"}
    assert len(maps) == 1


def test_another_limit_is_another_task(run: Path, scans: Path, tmp_path: Path) -> None:
    predict(run, tmp_path / "out", scans, min_lesion_ml=0.1)
    ended = predict(run, tmp_path / "out", scans, min_lesion_ml=0.2)
    assert [problem.kind for _, problem in ended.failures] == ["exists", "exists"]
    assert predict(run, tmp_path / "out", scans, min_lesion_ml=0.1).num_before == 2


def test_another_precision_is_another_task(run: Path, scans: Path, tmp_path: Path) -> None:
    predict(run, tmp_path / "out", scans)
    ended = predict_scans(
        *([run], find_sources((scans,), ReadOptions()), tmp_path / "out", ReadOptions(), Wanted()),
        engine=EngineOptions("torch", "bf16", "cpu"),
    )
    assert [problem.kind for _, problem in ended.failures] == ["exists", "exists"]


def test_a_pixel_at_the_threshold_belongs_to_the_mask(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def near(_: object, scaled: NDArray[np.float32], *__: object) -> NDArray[np.float32]:
        found = np.full_like(scaled, np.nextafter(np.float32(0.25), np.float32(0)))
        found[2, 10:14, 10:20] = 0.25
        return found

    see(monkeypatch, near)
    quarter = save_run(tmp_path / "quarter", threshold=0.25)
    predict(quarter, tmp_path / "out", scans / "a.nii.gz")
    mask = read_mask(tmp_path / "out/a/a_mask.nii.gz").voxels
    assert mask.sum() == mask[2, 10:14, 10:20].sum() == 40


def test_in_pictures_no_lesion_is_small(run: Path, tmp_path: Path) -> None:
    pixels = np.interp(HEAD.voxels[8], (30, 100), (0, 255)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    out = tmp_path / "out"
    ((_, problem),) = predict(run, out, tmp_path / "a.png", min_lesion_ml=0.1).failures
    assert problem.kind == "no-geometry"
    assert "pictures without geometry, in which no lesion has a volume in mL" in problem.message
    assert "Leave out --min-lesion-ml" in problem.message
    assert not (out / "a").exists()
    assert predict(run, out, tmp_path / "a.png").failures == ()


@pytest.mark.parametrize("limit_ml", [-0.1, float("nan"), float("inf")])
def test_a_limit_that_is_no_volume_is_refused(limit_ml: float) -> None:
    with pytest.raises(ConfigError, match=f"min-lesion-ml {limit_ml}, expected a number of mL fr"):
        Wanted(min_lesion_ml=limit_ml)


def test_what_concerns_all_cases_is_said_before_the_first(
    run: Path, scans: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        predict(tmp_path / "none", tmp_path / "out", scans)
    with pytest.raises(ConfigError, match="cannot be used"):
        predict_scans(
            [run],
            find_sources([scans], ReadOptions()),
            tmp_path / "out",
            ReadOptions(),
            Wanted(),
            engine=EngineOptions(device="cuda:77"),
        )
    assert not (tmp_path / "out").exists()


def test_of_several_models_each_scan_gets_that_of_its_modality(
    run: Path, scans: Path, tmp_path: Path
) -> None:
    mri = save_run(tmp_path / "mri", seed=1, modality="MRI")
    voxels = np.zeros(HEAD.voxels.shape, np.int16)
    voxels[HEAD.voxels > -500] = 600
    voxels[HEAD.mask] = 900
    voxels[HEAD.voxels > 200] = 250
    affine = HEAD.affine[:, [2, 1, 0, 3]]
    nib.save(nib.Nifti1Image(voxels.transpose(), affine), scans / "m.nii.gz")
    (scans / "list.csv").write_text("image,modality\na.nii.gz,\nb.nii.gz,CT\nm.nii.gz,MRI\n")

    def predict_both() -> Predicted:
        sources = find_sources([scans / "list.csv"], ReadOptions())
        return predict_scans(
            [run, mri], sources, tmp_path / "out", ReadOptions(), Wanted(), engine=CPU
        )

    first = predict_both()
    assert (first.num_done, first.failures) == (3, ())
    sha256 = {model: file_sha256(model / MODEL_FILE)[:12] for model in (run, mri)}
    models = {row["name"]: row["model"] for row in first.rows}
    assert models == {"a": sha256[run], "b": sha256[run], "m": sha256[mri]}
    again = predict_both()
    assert (again.num_done, again.num_before, again.failures) == (3, 3, ())


def test_of_several_models_none_is_taken_for_a_scan_in_unknown_units(
    run: Path, tmp_path: Path
) -> None:
    mri = save_run(tmp_path / "mri", seed=1, modality="MRI")
    noise = np.random.default_rng(0).integers(1, 200, (8, 64, 64)).astype(np.int16)
    affine = HEAD.affine[:, [2, 1, 0, 3]]
    nib.save(nib.Nifti1Image(noise.transpose(), affine), tmp_path / "x.nii.gz")
    sources = find_sources([tmp_path / "x.nii.gz"], ReadOptions())
    ended = predict_scans(
        [run, mri], sources, tmp_path / "out", ReadOptions(), Wanted(), engine=CPU
    )
    [(_, problem)] = ended.failures
    assert problem.kind == "not-scalable"
    assert "Say --modality CT or MRI" in problem.message


def test_a_modality_that_is_accepted_is_read_though_no_model_was_named(
    run: Path, scans: Path, tmp_path: Path
) -> None:
    read = ReadOptions(accept=frozenset({"wrong-modality"}), modality="MRI")
    sources = find_sources([scans / "a.nii.gz"], read)

    def predict_default(options: ReadOptions) -> Predicted:
        return predict_scans(
            [run], sources, tmp_path / "out", options, Wanted(), assume_modality=False, engine=CPU
        )

    [(_, problem)] = predict_default(ReadOptions(modality="MRI")).failures
    assert problem.kind == "wrong-modality"
    assert "MRI, expected CT" in problem.message
    ended = predict_default(read)
    assert (ended.num_done, ended.rows[0]["findings"]) == (1, "wrong-modality")
