import json
from pathlib import Path

import pytest
import torch

from hemaseg.config import IntensityConfig, ModelConfig
from hemaseg.errors import CheckpointError
from hemaseg.models.catalogue import build_model
from hemaseg.training.checkpoint import MODEL, WEIGHTS, load_model, save_model, software

MODEL_CONFIG = ModelConfig(name="dr_unet", options={"base_width": 8})


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = build_model(MODEL_CONFIG.name, MODEL_CONFIG.options)
    network.train()(torch.rand(2, 1, 32, 32))  # Moves the running statistics off their start.
    save_model(
        tmp_path, network, MODEL_CONFIG, image_size=32, intensity=IntensityConfig(), threshold=0.5
    )
    return tmp_path


def test_loaded_model_gives_equal_logits(run_folder: Path) -> None:
    torch.manual_seed(0)
    network = build_model(MODEL_CONFIG.name, MODEL_CONFIG.options)
    network.train()(torch.rand(2, 1, 32, 32))
    loaded, record = load_model(run_folder)
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(loaded(image), network.eval()(image))
    assert record.image_size == 32
    assert record.threshold == 0.5
    assert not loaded.training


def test_a_record_without_modality_still_loads(run_folder: Path) -> None:
    record = json.loads((run_folder / MODEL).read_text())
    assert record.pop("modality") == ""
    (run_folder / MODEL).write_text(json.dumps(record))
    assert load_model(run_folder)[1].modality == ""


def test_changed_weights_are_refused(run_folder: Path) -> None:
    data = bytearray((run_folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (run_folder / WEIGHTS).write_bytes(data)
    with pytest.raises(CheckpointError, match=r"SHA-256 [0-9a-f]{16}\.\.\., expected"):
        load_model(run_folder)


def test_missing_files_are_named(run_folder: Path) -> None:
    (run_folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: no such file"):
        load_model(run_folder)
    (run_folder / MODEL).unlink()
    with pytest.raises(CheckpointError, match=r"model\.json: no such file"):
        load_model(run_folder)
    with pytest.raises(CheckpointError, match="none: no such folder"):
        load_model(run_folder / "none")


def test_damaged_record_is_refused(run_folder: Path) -> None:
    (run_folder / MODEL).write_text('{"format": "hemaseg-mod')
    with pytest.raises(CheckpointError, match=r"model\.json: file: Invalid JSON"):
        load_model(run_folder)


def test_record_of_another_model_is_refused(run_folder: Path) -> None:
    record = json.loads((run_folder / MODEL).read_text())
    record["model"] = {"name": "unet", "options": {"base_width": 8}}
    (run_folder / MODEL).write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="weights do not fit model unet"):
        load_model(run_folder)


def test_record_of_another_kind_is_refused(run_folder: Path) -> None:
    record = json.loads((run_folder / MODEL).read_text())
    record["format"] = "hemaseg-model-99"
    (run_folder / MODEL).write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="format: Input should be 'hemaseg-model-1'"):
        load_model(run_folder)


def test_software_names_the_versions() -> None:
    assert software().torch == torch.__version__
    assert software().num_threads >= 1
