"""What is added to a run after training; the training itself is tested in test_loop.py."""

import json
from pathlib import Path

import pytest
import torch

from hemaseg.metrics.calibration import LogitCounts, calibrate
from hemaseg.slices.appearance import describe_appearance
from hemaseg.slices.dataset import SliceSet
from hemaseg.training import loop
from hemaseg.training.checkpoint import MODEL, RUN, WEIGHTS, RunRecord, load_model, read_record
from test_loop import ORIGIN, config, discs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    settings = config(training={"num_epochs": 6}, optimiser={"learning_rate": 0.01})
    loop.train(settings, discs(6, 1), discs(3, 2), folder, origin=ORIGIN)
    return folder


def calibrated(folder: Path, slices: SliceSet) -> object:
    network, _ = load_model(folder)
    counts = LogitCounts()
    with torch.inference_mode():
        counts.add(network(slices.images.float()).numpy(), slices.masks.numpy())
    return calibrate(counts)


def test_the_stored_temperature_is_that_of_the_stored_weights(run: Path) -> None:
    record = read_record(run / RUN, RunRecord)
    assert record.calibration is not None
    # All validation slices, although training and validation show only those with a lesion.
    assert record.num_validation_slices == 9
    assert record.calibration.num_pixels == 12 * 32 * 32
    expected = calibrated(run, discs(3, 2))
    assert record.calibration.model_dump() == pytest.approx(expected.model_dump(), rel=1e-3)  # type: ignore[attr-defined]
    assert load_model(run)[1].temperature == record.calibration.temperature != 1.0
    assert record.calibration.calibrated_nll < record.calibration.nll


def test_the_training_scans_are_described(run: Path) -> None:
    assert load_model(run)[1].appearance == describe_appearance(discs(6, 1))


def test_records_of_runs_before_calibration_load(run: Path, tmp_path: Path) -> None:
    for name, keys in ((MODEL, ["temperature", "appearance"]), (RUN, ["calibration"])):
        content = json.loads((run / name).read_text())
        for key in keys:
            del content[key]
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / WEIGHTS).write_bytes((run / WEIGHTS).read_bytes())
    record = load_model(tmp_path)[1]
    assert (record.temperature, record.appearance) == (1.0, None)
    assert read_record(tmp_path / RUN, RunRecord).calibration is None
