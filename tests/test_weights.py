"""Which folder a model is, what ships, and how a run becomes a model that ships."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from command_line import Verb, files
from hemaseg import weights
from hemaseg.config import IntensityConfig, ModelConfig
from hemaseg.engines.engine import load_engine
from hemaseg.errors import CheckpointError, ConfigError
from hemaseg.files import file_sha256
from hemaseg.metrics.overlap import dice
from hemaseg.models.catalogue import build_model
from hemaseg.phantoms.heads import HeadOptions, synthesise
from hemaseg.phantoms.mri import Sequence
from hemaseg.prediction.predict import probabilities
from hemaseg.slices.dataset import SliceName, SliceSet
from hemaseg.slices.intensity import intensity_range
from hemaseg.training.checkpoint import (
    MODEL,
    RUN,
    WEIGHTS,
    ModelRecord,
    RunRecord,
    load_model,
    read_record,
    save_model,
    software,
    write_record,
)
from hemaseg.weights import (
    CARD,
    DEFAULT,
    DEFAULT_FOR_MRI,
    ShippedModel,
    list_shipped,
    model_folder,
    model_folders,
    shipped_model,
    shipped_names,
)
from script_files import SCRIPTS, load_script

SHIP = load_script("ship_model")
MODEL_CONFIG = ModelConfig(name="dr_unet", options={"base_width": 8})
RUN_RECORD = RunRecord(
    status="complete",
    device="cpu",
    precision="fp32",
    software=software(),
    cohort_sha256="c",
    split_sha256="s",
    fold=0,
    num_training_subjects=1,
    num_training_slices=1,
    num_training_lesion_slices=1,
    num_validation_subjects=1,
    num_validation_slices=1,
)


def save_run(folder: Path, *, scale: float = 1.0) -> Path:
    """A run folder with a card, whose running statistics are off their start."""
    torch.manual_seed(0)
    network = build_model(MODEL_CONFIG.name, MODEL_CONFIG.options)
    for _ in range(20):
        network.train()(torch.rand(2, 1, 32, 32))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(scale)
    save_model(
        folder,
        network,
        MODEL_CONFIG,
        image_size=32,
        intensity=IntensityConfig(window_hu=(0, 80)),
        threshold=0.5,
        modality="CT",
    )
    (folder / CARD).write_text("Made by a test.\n")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def two_models(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shipped")
    for name in (DEFAULT, "another"):
        SHIP.ship(run, name, card=run / CARD, folder=folder)
    return folder


@pytest.fixture
def shipped(two_models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of shipped models, as if it held these two."""
    monkeypatch.setattr(weights, "SHIPPED", two_models)
    return two_models


# What is in the package


def test_what_ships_is_whole_and_small() -> None:
    names = shipped_names()
    assert names == ["ct", "mri"] == [DEFAULT, DEFAULT_FOR_MRI]
    assert model_folders() == (weights.SHIPPED / "ct", weights.SHIPPED / "mri")
    folders = [path for path in weights.SHIPPED.iterdir() if path.is_dir()]
    assert sorted(path.name for path in folders if path.name != "__pycache__") == names
    for name in names:
        folder = weights.SHIPPED / name
        assert set(files(folder)) == {MODEL, WEIGHTS, CARD}
        assert sum(map(len, files(folder).values())) <= SHIP.MAX_BYTES
        network, _ = load_model(folder)
        assert sum(p.numel() for p in network.parameters()) == shipped_model(folder).num_parameters


def test_a_wheel_carries_the_files_of_each_model() -> None:
    project = tomllib.loads((SCRIPTS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["hemaseg"]
    model = Path("weights") / DEFAULT
    for name in (MODEL, WEIGHTS, CARD):
        assert any((model / name).match(pattern) for pattern in patterns)
    # What lies beside them on the machine that makes the wheel stays there.
    for name in ("weights/__pycache__/__init__.cpython-311.pyc", "weights/dr_unet/.DS_Store"):
        assert not any(Path(name).match(pattern) for pattern in patterns)


# Names and paths


def test_a_name_is_a_shipped_model_and_none_is_the_default(shipped: Path) -> None:
    assert shipped_names() == ["another", DEFAULT]
    assert model_folder("another") == shipped / "another"
    assert model_folder() == shipped / DEFAULT


def test_a_path_is_a_run_folder(run: Path) -> None:
    assert model_folder(str(run)) == run
    assert model_folders(str(run)) == (run,)


def test_a_name_goes_before_a_path_of_the_same_name(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "another").mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_folder("another") == shipped / "another"
    assert model_folder("./another") == Path("another")
    assert model_folder("another/") == Path("another")
    assert model_folder(Path("another")) == Path("another")


def test_what_is_neither_is_refused_with_the_names(shipped: Path, tmp_path: Path) -> None:
    words = (
        f"^nothing: no such folder, and no model of that name ships, expected another, {DEFAULT}, "
        "or the path of a run folder that hemaseg train wrote"
    )
    with pytest.raises(ConfigError, match=words):
        model_folder("nothing")
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(
        ConfigError, match=r"weights\.safetensors: is a file, expected the folder of"
    ):
        model_folder(str(tmp_path / "weights.safetensors"))
    with pytest.raises(ConfigError, match="no such folder"):
        model_folder(f"../{shipped.name}/{DEFAULT}")


# The list


def test_the_list_says_what_a_user_can_check(shipped: Path) -> None:
    folder = shipped / DEFAULT
    network, _ = load_model(folder)
    assert list_shipped()[1] == ShippedModel(
        name=DEFAULT,
        network="dr_unet",
        modality="CT",
        image_size=32,
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        num_bytes=(folder / WEIGHTS).stat().st_size,
        sha256=file_sha256(folder / WEIGHTS),
        is_default=True,
    )
    assert not list_shipped()[0].is_default


def test_a_damaged_model_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "SHIPPED", tmp_path)
    SHIP.ship(run, "a", card=run / CARD, folder=tmp_path)
    (tmp_path / "a" / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"a/weights\.safetensors: no such file"):
        list_shipped()
    (tmp_path / "a" / MODEL).write_text("{")
    with pytest.raises(CheckpointError, match=r"a/model\.json: file: Invalid JSON"):
        list_shipped()


# From a run to a shipped model


def test_shipping_keeps_the_record_and_halves_the_weights(run: Path, shipped: Path) -> None:
    folder = shipped / DEFAULT
    one, other = (read_record(path / MODEL, ModelRecord) for path in (run, folder))
    assert other == one.model_copy(update={"weights_sha256": other.weights_sha256})
    assert other.weights_sha256 != one.weights_sha256
    assert (folder / CARD).read_text() == (run / CARD).read_text()
    assert (folder / WEIGHTS).stat().st_size < 0.6 * (run / WEIGHTS).stat().st_size


def test_what_ships_gives_volumes_no_interval(run: Path, tmp_path: Path) -> None:
    """Test subjects of the study that it is from are not those of its users."""
    shutil.copytree(run, tmp_path / "run")
    record = read_record(run / MODEL, ModelRecord)
    known = record.model_copy(update={"volume_errors_cbrt_ml": (0.1,) * 9})
    write_record(known, tmp_path / "run" / MODEL)
    SHIP.ship(tmp_path / "run", "a", card=run / CARD, folder=tmp_path)
    assert read_record(tmp_path / "a" / MODEL, ModelRecord).volume_errors_cbrt_ml == ()


def test_shipping_says_what_rounding_changed(run: Path, tmp_path: Path) -> None:
    _, change = SHIP.ship(run, "a", card=run / CARD, folder=tmp_path)
    assert 0 < change.probability < 0.005
    assert 0 <= change.share_turned < 0.05
    network, record = load_model(run)
    same = SHIP.compare(network, network, record)
    assert (same.probability, same.share_turned) == (0, 0)
    # Of calibrated probabilities: dividing logits by less makes differences larger.
    rounded, _ = load_model(tmp_path / "a")
    sharp, plain = (
        SHIP.compare(network, rounded, record.model_copy(update={"temperature": temperature}))
        for temperature in (0.25, 1.0)
    )
    assert plain == change
    assert sharp.probability > 2 * plain.probability


def test_what_cannot_ship_is_refused_and_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shipped"
    with pytest.raises(ConfigError, match=r"none\.md: no such file, expected what the model"):
        SHIP.ship(run, "a", card=tmp_path / "none.md", folder=folder)
    with pytest.raises(CheckpointError, match=r"model\.json: no such file"):
        SHIP.ship(tmp_path, "a", card=run / CARD, folder=folder)
    sharp = save_run(tmp_path / "sharp", scale=30.0)  # logits as steep as rounding is coarse
    with pytest.raises(CheckpointError, match=r"rounding changes a probability by .*at most 0\.02"):
        SHIP.ship(sharp, "a", card=run / CARD, folder=folder)
    unfinished = save_run(tmp_path / "unfinished")
    write_record(RUN_RECORD.model_copy(update={"status": "interrupted"}), unfinished / RUN)
    with pytest.raises(CheckpointError, match="training is interrupted, expected complete"):
        SHIP.ship(unfinished, "a", card=run / CARD, folder=folder)
    with monkeypatch.context() as changed:
        changed.setattr(SHIP, "MAX_BYTES", 1000)
        with pytest.raises(ConfigError, match="bytes after rounding, expected at most 1,000"):
            SHIP.ship(run, "a", card=run / CARD, folder=folder)
    assert list(folder.iterdir()) == []
    SHIP.ship(run, "a", card=run / CARD, folder=folder)
    with pytest.raises(ConfigError, match="a: exists"):
        SHIP.ship(run, "a", card=run / CARD, folder=folder)


def test_the_script_prints_size_and_hash(run: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(SCRIPTS / "ship_model.py"),
        str(run),
        "mine",
        "--folder",
        str(tmp_path),
    ]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    path = tmp_path / "mine" / WEIGHTS
    assert f"{path.stat().st_size:,} bytes, SHA-256 {file_sha256(path)}" in ended.stdout
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.splitlines()) == (
        1,
        [f"ship_model: {tmp_path / 'mine'}: exists. Choose another name, or delete it first."],
    )


# The command line, where only the module itself can say which folder is meant


def test_models_lists_what_ships(hemaseg: Verb, shipped: Path) -> None:
    listed = json.loads(hemaseg("models", "--json").out)
    sha256 = file_sha256(shipped / DEFAULT / WEIGHTS)
    assert [one["name"] for one in listed["weights"]] == ["another", DEFAULT]
    assert listed["weights"][1]["sha256"] == sha256
    text = hemaseg("models").out
    assert f"{DEFAULT} (default): weights that ship, of dr_unet" in text
    assert f"SHA-256 {sha256}" in text


# Cards


@pytest.mark.parametrize("name", shipped_names())
def test_a_card_says_what_was_measured(name: str) -> None:
    """Its table is that of results/weights, which measure_weights.py wrote."""
    results = SCRIPTS.parent / "results" / "weights" / name
    measure = load_script("measure_weights")
    table = measure.card_table(pd.read_csv(results / "summary.csv"))
    card = (weights.SHIPPED / name / CARD).read_text(encoding="utf-8")
    assert table in card
    assert shipped_model(weights.SHIPPED / name).sha256 in card
    assert (results / "worst.png").is_file()


# The scripts that make and measure weights


def run_script(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    """What it exits with: None where all is well, its message where it is not."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    try:
        load_script(name).main()
    except SystemExit as ended:
        return ended.code
    return None


def said_by(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *arguments: object,
) -> str:
    """What a script says as it fails: its message, or that of the parser of its options."""
    ended = run_script(name, monkeypatch, *arguments)
    assert ended is not None
    return ended if isinstance(ended, str) else capsys.readouterr().err


def measured_table(folder: Path) -> str:
    """`cleanup.csv` as it is printed."""
    measure = load_script("measure_weights")
    table = pd.read_csv(folder / "cleanup.csv")
    return str(measure.card_table(table, measure.CLEANUP_COLUMNS))


def test_the_documentation_says_what_clean_up_changed() -> None:
    project = SCRIPTS.parent
    text = (project / "docs" / "prediction.md").read_text(encoding="utf-8")
    assert measured_table(project / "results" / "weights" / DEFAULT) in text


def test_clean_up_is_measured_on_one_prediction(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the network does not find is the same for each limit; 100 L removes all of a head."""
    arguments = [run, "--num-heads", 1, "--first-seed", 960_000, "-o", tmp_path / "out"]
    assert run_script("measure_weights", monkeypatch, *arguments, "--min-lesion-ml", "1e5") is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cleanup.csv"]
    table = pd.read_csv(tmp_path / "out" / "cleanup.csv")
    assert table["set"].tolist() == ["synthetic CT"] * 2 + ["synthetic CT, 8-bit"] * 2
    assert table["min_lesion_ml"].tolist() == [0, 1e5] * 2
    assert table["num_removed_lesions"].tolist()[::2] == [0, 0]
    assert (table["num_alarm_slices"][1::2] == 0).all()
    assert measured_table(tmp_path / "out") in capsys.readouterr().out


def test_limits_side_by_side() -> None:
    """2 patients of 2 slices: a hit of 8 pixels, and in a slice without mask 12 or 24 pixels."""
    measure = load_script("measure_weights")
    rows = []
    for subject, num_rows in (("a", 2), ("b", 4)):
        mask = np.zeros((3, 16, 16), dtype=bool)
        mask[0, :2, :4] = mask[2, :num_rows, :6] = True
        mask[0, 10, 10] = subject == "a"
        reference = np.zeros((1, 16, 16), dtype=bool)
        reference[0, :2, :4] = True
        segmented = measure.Segmented(mask.astype(np.float32), mask)
        patient = measure.Patient(subject, segmented, np.array([True, False, False]), reference)
        rows += measure.cleaned_rows(patient.row, mask, 0.01, [0.0, 0.08, 0.13])
    summary = pd.DataFrame(measure.cleanup_summary("patients", pd.DataFrame(rows)))
    assert summary["min_lesion_ml"].tolist() == [0, 0.08, 0.13]
    assert summary["mean_dice"].tolist() == [round((16 / 17 + 1) / 2, 4), 1, 0]
    assert summary["num_higher_dice"].tolist() == [0, 1, 0]
    assert summary["num_lower_dice"].tolist() == [0, 0, 2]
    assert summary["num_alarm_slices"].tolist() == [2, 2, 1]
    assert summary["alarm_share"].tolist() == [0.5, 0.5, 0.25]
    assert summary["num_removed_lesions"].tolist() == [0, 1, 4]
    assert summary["removed_ml"].tolist() == [0, 0.01, 0.29]


def test_the_figures_of_heads() -> None:
    """4 heads, one of them without blood, in which 3 mL are marked in 2 slices."""
    measure = load_script("measure_weights")
    table = pd.DataFrame(
        {
            "dice": [0.05, 0.5, 0.9, np.nan],
            "confidence": [np.nan, 0.7, 0.9, 0.8],
            "prediction_ml": [0, 2, 3, 3],
            "age": ["acute", "chronic", "acute", "acute"],
            "num_lesions": [2, 1, 1, 0],
            "num_found_lesions": [0, 1, 1, 0],
            "num_slices_without_blood": [10, 10, 10, 20],
            "num_alarm_slices": [0, 1, 0, 2],
        }
    )
    found = measure.summary("heads", table)
    assert (found["num_subjects"], found["num_with_dice"], found["median_dice"]) == (4, 3, 0.5)
    (line,) = measure.card_table(pd.DataFrame([found])).splitlines()[2:]
    assert "| 0.333 (1 of 3) | 0.500 (2 of 4) | 0.333 (1 of 3) | 0.060 (3 of 50) |" in line
    assert line.endswith("| 0.500 (2 of 4) | 0.000 (0 of 1) | 1.000 (of 2) |")


def test_the_interval_of_a_median_is_of_order_statistics() -> None:
    """Of 10 values: the second and the ninth, which cover with 97.9 % (binomial of 10 and 1/2)."""
    measure = load_script("measure_weights")
    table = pd.DataFrame({"dice": np.arange(10) / 10, "confidence": 1.0, "num_alarm_slices": 0})
    found = measure.summary("patients", table.assign(num_unmarked_slices=1))
    assert (found["median_dice_low"], found["median_dice_high"]) == (0.1, 0.8)
    assert "0.450 (0.100 to 0.800)" in measure.card_table(pd.DataFrame([found]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nowhere", "measure_weights: nowhere: no such folder"),
        ("{run} --sich nowhere.csv", "measure_weights: nowhere.csv: cannot be read"),
        ("{run} --sich {run}/model.json", "measure_weights: {run}/model.json: columns"),
        ("{damaged}", "measure_weights: {damaged}/weights.safetensors: SHA-256"),
        ("{run} --min-lesion-ml nan", "nan: expected mL from 0 upward"),
        ("{run} --min-lesion-ml 0.1;2", "0.1;2: expected mL from 0 upward"),
        ("{run} --num-heads -1", "--num-heads: expected 0 or more"),
        ("{run} --without x.csv --min-lesion-ml 1", "--without: has no volumes in mL"),
    ],
)
def test_wrong_input_of_measuring_is_said(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / MODEL).write_bytes((run / MODEL).read_bytes())
    (damaged / WEIGHTS).write_bytes((run / WEIGHTS).read_bytes()[:-100])
    given = arguments.format(run=run, damaged=damaged).split()
    said = said_by("measure_weights", monkeypatch, capsys, *given, "-o", tmp_path / "out")
    assert message.format(run=run, damaged=damaged) in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--heads nowhere.csv --recipe {recipe}", "train_weights: nowhere.csv: cannot be read"),
        ("--heads {recipe} --recipe {recipe}", "train_weights: {recipe}: columns"),
        ("--heads nowhere.csv --recipe none.toml", "train_weights: none.toml: no such file"),
        ("--heads nowhere.csv --recipe {recipe} --seed -1", "train_weights: options: seed is -1"),
        ("--heads nowhere.csv --recipe {recipe} --model u", "invalid choice: 'u'"),
    ],
)
def test_wrong_input_of_training_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    recipe = SCRIPTS.parent / "configs" / "weights" / "ct-192.toml"
    given = arguments.format(recipe=recipe).split()
    said = said_by("train_weights", monkeypatch, capsys, *given, "-o", tmp_path / "out")
    assert message.format(recipe=recipe) in said


def test_the_mean_of_two_runs(run: Path, tmp_path: Path) -> None:
    """Halfway between them: weights and running statistics; with one temperature of its own."""
    load_script("train_weights")
    script = load_script("average_weights")
    other = save_run(tmp_path / "other", scale=3.0)
    images = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    names = tuple(SliceName(f"s{k}", f"s{k}.png", 0) for k in range(6))
    slices = SliceSet(images, images > 0.6, names)
    script.average(run, other, slices, slices, tmp_path / "mean")
    (one, _), (two, _), (mean, record) = map(load_model, (run, other, tmp_path / "mean"))
    for key, value in mean.state_dict().items():
        expected = (one.state_dict()[key].double() + two.state_dict()[key].double()) / 2
        assert torch.allclose(value.double(), expected, rtol=1e-6, atol=0)
    assert record.temperature not in (1.0, load_model(other)[1].temperature)
    assert record.appearance is not None


def test_runs_of_two_networks_have_no_mean(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    load_script("train_weights")
    script = load_script("average_weights")
    nothing = SliceSet(torch.empty(0, 1, 32, 32), torch.empty(0, 1, 32, 32).bool(), ())
    with pytest.raises(ConfigError, match="expected one network"):
        script.average(run, weights.SHIPPED / "ct", nothing, nothing, tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
    given = (run, "nowhere", "--seeds", 1, 2, "-o", tmp_path / "out")
    said = said_by("average_weights", monkeypatch, capsys, *given)
    assert said.startswith("average_weights: nowhere: no such folder")


# What they find


def found(voxels: NDArray[Any], modality: str) -> NDArray[np.bool_]:
    engine, record = load_engine(model_folder(DEFAULT_FOR_MRI if modality == "MRI" else DEFAULT))
    scale = intensity_range(voxels, modality, record.intensity, name="a head")
    p = probabilities(engine, scale.scale(voxels), record.image_size, record.temperature)
    return np.asarray(p >= record.threshold)


@pytest.mark.parametrize("is_export", [False, True])
def test_the_default_weights_find_hematomas_of_known_volume(is_export: bool) -> None:
    options = HeadOptions(
        num_hematomas=1, volume_ml=30.0, age="acute", num_slices=24, is_export=is_export
    )
    heads = [synthesise(seed, options) for seed in range(500_000, 500_005)]
    masks = [found(head.voxels, "CT") for head in heads]
    scores = [dice(mask, head.mask) for mask, head in zip(masks, heads, strict=True)]
    assert np.median(scores) > 0.8
    ratios = [mask.sum() / head.mask.sum() for mask, head in zip(masks, heads, strict=True)]
    assert 0.75 < np.median(ratios) < 1.25


def test_the_default_weights_mark_little_in_heads_without_blood() -> None:
    options = HeadOptions(num_hematomas=0, num_slices=24)
    masks = [found(synthesise(seed, options).voxels, "CT") for seed in range(500_000, 500_003)]
    alarms = np.concatenate([mask.sum(axis=(1, 2)) >= 10 for mask in masks])
    assert alarms.mean() <= 0.1


@pytest.mark.parametrize("sequence", ["T2", "FLAIR", "T2*"])
def test_the_weights_for_mri_find_hematomas_of_known_volume(sequence: Sequence) -> None:
    options = HeadOptions(
        "MRI", 24, num_hematomas=1, volume_ml=30.0, age="acute", sequence=sequence
    )
    heads = [synthesise(seed, options) for seed in range(500_000, 500_005)]
    scores = [dice(found(head.voxels, "MRI"), head.mask) for head in heads]
    assert np.median(scores) > 0.75
