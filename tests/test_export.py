"""Networks in other formats give our masks, and a file that does not is not kept."""

import json
from pathlib import Path

import pytest
import torch

from command_line import Verb
from hemaseg.config import IntensityConfig, ModelConfig
from hemaseg.engines import export as exports
from hemaseg.engines.export import FORMATS, Probabilities, export_model, files_of
from hemaseg.errors import ConfigError, EngineError
from hemaseg.models.catalogue import build_model
from hemaseg.training.checkpoint import ModelRecord, load_model, save_model
from lively import lively

MODEL = ModelConfig(name="unet", options={"base_width": 4})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "small"
    folder.mkdir()
    torch.manual_seed(0)
    network = lively(build_model(MODEL.name, MODEL.options))
    save_model(folder, network, MODEL, image_size=64, intensity=IntensityConfig(), threshold=0.5)
    return folder


@pytest.mark.filterwarnings("ignore")  # converters warn of what they do anyway
@pytest.mark.parametrize("file_format", FORMATS)
def test_masks_of_the_file_are_ours(
    run: Path, file_format: str, tmp_path: Path, hemaseg: Verb
) -> None:
    if file_format != "torch":
        pytest.importorskip("onnxruntime" if file_format == "onnx" else "openvino")
    exported = export_model(run, file_format, tmp_path)
    assert exported.flipped <= 1e-5
    assert exported.files == files_of(run, file_format, tmp_path)
    assert set(tmp_path.iterdir()) == set(exported.files)
    record = ModelRecord.model_validate_json(exported.files[-1].read_bytes())
    assert (record.image_size, record.model.name) == (64, "unet")
    # A batch of another size than that of the check.
    images = torch.rand(5, 1, 64, 64)
    read = exports._FORMATS[file_format][1](exported.files[0])
    network = load_model(run)[0]
    with torch.inference_mode():
        expected = Probabilities(network, record.temperature)(images)
    torch.testing.assert_close(read(images), expected, rtol=0, atol=1e-4)


def test_a_temperature_is_part_of_the_file() -> None:
    network = torch.nn.Identity()
    logits = torch.tensor([[[[2.0]]]])
    assert float(Probabilities(network, 4.0)(logits)) == pytest.approx(0.62245933)


def test_a_file_with_other_masks_is_not_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_something(network: torch.nn.Module, images: torch.Tensor, file: Path) -> None:
        file.write_text("a network")

    wrong = (write_something, lambda file: torch.ones_like)
    monkeypatch.setitem(exports._FORMATS, "torch", wrong)
    with pytest.raises(EngineError, match=r"small.pt2, read back, has another mask at .*not kept"):
        export_model(run, "torch", tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_said(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(exports._NEEDS, "onnx", ("no_such_package",))
    with pytest.raises(EngineError, match=r"no_such_package: not installed.*hemaseg\[export\]"):
        export_model(run, "onnx", tmp_path)
    with pytest.raises(ConfigError, match='format "tflite", expected one of onnx, openvino, torch'):
        export_model(run, "tflite", tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_as_a_user(run: Path, tmp_path: Path, hemaseg: Verb) -> None:
    ended = hemaseg("export", run, "--format", "torch", "-o", tmp_path / "out", "--json")
    assert ended.status == 0
    made = json.loads(ended.out)
    assert made["flipped"] <= 1e-5
    assert all(Path(file).is_file() for file in made["files"])
    again = hemaseg("export", run, "--format", "torch", "-o", tmp_path / "out")
    assert again.status == 2
    assert "exists" in again.err
    wrong = hemaseg("export", tmp_path / "no", "--format", "torch", "-o", tmp_path)
    assert wrong.status == 2
    assert "no such folder" in wrong.err
