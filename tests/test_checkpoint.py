import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hemaseg.config import IntensityConfig, ModelConfig
from hemaseg.errors import CheckpointError, ConfigError
from hemaseg.files import file_sha256
from hemaseg.models.catalogue import build_model
from hemaseg.training.checkpoint import (
    MODEL,
    WEIGHTS,
    ModelRecord,
    load_model,
    load_start,
    read_record,
    require_fitting,
    save_model,
    save_weights,
    software,
    write_record,
)

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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32])
def test_weights_are_computed_with_in_float32_however_they_are_stored(
    run_folder: Path, dtype: torch.dtype
) -> None:
    """Whole numbers, which each of these types holds."""
    weights = {name: value.round() for name, value in load_file(run_folder / WEIGHTS).items()}
    networks = []
    for stored in (weights, {name: value.to(dtype) for name, value in weights.items()}):
        save_file(stored, run_folder / WEIGHTS)
        record = json.loads((run_folder / MODEL).read_text())
        record["weights_sha256"] = file_sha256(run_folder / WEIGHTS)
        (run_folder / MODEL).write_text(json.dumps(record))
        networks.append(load_model(run_folder)[0])
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(networks[0](image), networks[1](image))
    kinds = [[value.dtype for value in one.state_dict().values()] for one in networks]
    assert kinds[0] == kinds[1]


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
    words = (
        r"do not fit unet with base_width = 8: .*key\(s\) in state_dict: .*restore or train again"
    )
    with pytest.raises(CheckpointError, match=words):
        load_model(run_folder)


@pytest.mark.parametrize(
    ("width", "words"),
    [(4000, "do not fit unet with base_width = 4000"), (2**40, "that large")],
)
def test_a_record_of_a_huge_model_takes_no_memory(run_folder: Path, width: int, words: str) -> None:
    record = json.loads((run_folder / MODEL).read_text())
    record["model"] = {"name": "unet", "options": {"base_width": width}}
    (run_folder / MODEL).write_text(json.dumps(record))
    started_s = time.perf_counter()
    with pytest.raises(CheckpointError, match=words):
        load_model(run_folder)
    assert time.perf_counter() - started_s < 5  # Its 40 GB of weights would take minutes.


STATISTICS_OF_NONE = {"num": 5, "center": {}, "spread": {}, "limit": 4.0}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "model",
            {"name": "vnet"},
            '"vnet" is unknown, expected one of .*of another version; restore or',
        ),
        ("image_size", 0, "image_size: Input should be greater than or equal to 16"),
        ("image_size", 10**6, "image_size: Input should be less than or equal to 4096"),
        ("image_size", 33, "image_size is 33, expected a multiple of 32 for model dr_unet"),
        ("threshold", 7.0, "threshold: Input should be less than or equal to 1"),
        ("temperature", 0.0, "temperature: Input should be greater than 0"),
        ("temperature", -2.0, "temperature: Input should be greater than 0"),
        (
            "appearance",
            {"scans": STATISTICS_OF_NONE, "slices": STATISTICS_OF_NONE},
            "appearance.scans.center: has none, expected black, white",
        ),
    ],
)
def test_values_that_no_run_writes_are_refused(
    run_folder: Path, key: str, value: object, words: str
) -> None:
    """Each of them would end in a wrong mask, or in an error that names no file."""
    record = json.loads((run_folder / MODEL).read_text())
    (run_folder / MODEL).write_text(json.dumps(record | {key: value}))
    with pytest.raises(CheckpointError, match=rf"model\.json: .*{words}"):
        load_model(run_folder)


def test_errors_of_volumes_that_no_head_can_have_are_refused(run_folder: Path) -> None:
    record = json.loads((run_folder / MODEL).read_text())
    # Its cube, the end of an interval, has no floating-point number.
    errors = {"volume_errors_cbrt_ml": [1e103] * 9}
    (run_folder / MODEL).write_text(json.dumps(record | errors))
    with pytest.raises(CheckpointError, match=r"model\.json: volume_errors_cbrt_ml\.0: .* 1000000"):
        load_model(run_folder)


def test_a_folder_in_place_of_the_record_is_named(run_folder: Path) -> None:
    (run_folder / MODEL).unlink()
    (run_folder / MODEL).mkdir()
    with pytest.raises(
        CheckpointError, match=r"model\.json: cannot be read \(Is a directory\), exp"
    ):
        load_model(run_folder)


def test_record_of_another_kind_is_refused(run_folder: Path) -> None:
    record = json.loads((run_folder / MODEL).read_text())
    record["format"] = "hemaseg-model-99"
    (run_folder / MODEL).write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="format: Input should be 'hemaseg-model-1'"):
        load_model(run_folder)


def test_float16_weights_are_rounded_and_load_as_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_model(MODEL_CONFIG.name, MODEL_CONFIG.options)
    network.train()(torch.rand(2, 1, 32, 32))
    save_model(
        *(tmp_path, network, MODEL_CONFIG),
        image_size=32,
        intensity=IntensityConfig(),
        threshold=0.5,
    )
    sha256 = save_weights(tmp_path, network, is_float16=True)
    record = read_record(tmp_path / MODEL, ModelRecord)
    write_record(record.model_copy(update={"weights_sha256": sha256}), tmp_path / MODEL)
    stored = load_file(tmp_path / WEIGHTS)
    parameters = [name for name, _ in network.named_parameters()]
    assert {stored[name].dtype for name in parameters} == {torch.float16}
    loaded, _ = load_model(tmp_path)
    found = loaded.state_dict()
    for key, value in network.state_dict().items():
        assert found[key].dtype == value.dtype
        # 11 binary digits, or a step of 2^-24 below the smallest normal number.
        torch.testing.assert_close(found[key], value, rtol=2**-11, atol=2**-25)
    assert any(not torch.equal(found[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("name", "value", "is_kept"),
    [
        ("weight", 65504.0, False),
        ("weight", -7e4, True),
        ("weight", 1e-9, False),  # becomes 0, which moves a sum by as little
        ("running_mean", 7e4, True),
        ("running_var", 0.0, False),
        ("running_var", 2.0**-14, False),
        ("running_var", 2.0**-15, True),
    ],
)
def test_what_float16_cannot_hold_stays_float32(
    tmp_path: Path, name: str, value: float, is_kept: bool
) -> None:
    network = torch.nn.BatchNorm2d(3)
    network.state_dict()[name][1] = value
    sha256 = save_weights(tmp_path, network, is_float16=True)
    assert sha256 == file_sha256(tmp_path / WEIGHTS)
    stored = load_file(tmp_path / WEIGHTS)
    floats = {key: kept.dtype for key, kept in stored.items() if kept.is_floating_point()}
    expected = dict.fromkeys(floats, torch.float16)
    expected |= {name: torch.float32} if is_kept else {}
    assert floats == expected
    assert float(stored[name][1]) == pytest.approx(value, abs=1e-8)


def test_a_start_of_another_network_is_refused(run_folder: Path, tmp_path: Path) -> None:
    start = load_start(run_folder, tmp_path / "new")
    assert start.model == MODEL_CONFIG
    require_fitting(start, MODEL_CONFIG)
    assert start.weights_sha256 == file_sha256(run_folder / WEIGHTS)
    other = ModelConfig(name="unet", options={"base_width": 8})
    words = "weights of dr_unet with base_width = 8, expected unet with base_width = 8, which"
    with pytest.raises(ConfigError, match=words):
        require_fitting(start, other)
    with pytest.raises(ConfigError, match="expected dr_unet with its default options, which"):
        require_fitting(start, ModelConfig(name="dr_unet"))
    with pytest.raises(ConfigError, match="would replace the weights that it starts from"):
        load_start(run_folder, run_folder / ".." / run_folder.name)
    with pytest.raises(CheckpointError, match="none: no such folder"):
        load_start(run_folder / "none", tmp_path / "new")


def test_a_start_of_weights_that_are_no_numbers_is_refused(tmp_path: Path) -> None:
    network = build_model(MODEL_CONFIG.name, MODEL_CONFIG.options)
    next(network.parameters()).data[0] = torch.inf
    options = {"image_size": 32, "intensity": IntensityConfig(), "threshold": 0.5}
    save_model(tmp_path, network, MODEL_CONFIG, **options)  # type: ignore[arg-type]
    with pytest.raises(
        CheckpointError, match=r"weights\.safetensors: holds numbers that are not fin"
    ):
        load_start(tmp_path, tmp_path / "new")


def test_software_names_the_versions() -> None:
    assert software().torch == torch.__version__
    assert software().num_threads >= 1
