"""Foreign weights: what is read, what is refused, and that nothing in a file ever runs."""

import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from command_line import Verb, files
from foreign_files import Command
from hemaseg.config import IntensityConfig, ModelConfig
from hemaseg.errors import CheckpointError, ConfigError
from hemaseg.files import file_sha256
from hemaseg.models.catalogue import build_model
from hemaseg.training.checkpoint import WEIGHTS, load_model, load_start, save_model
from hemaseg.training.conversion import Usage, convert, read_apart
from small_heads import write_heads

UNET = ModelConfig(name="unet", options={"base_width": 4})
USAGE = Usage(model=UNET, image_size=32, intensity=IntensityConfig(method="window"), modality="CT")
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    made = build_model(UNET.name, UNET.options)
    made.train()(torch.rand(2, 1, 32, 32))  # moves the running statistics off their start
    return made.eval()


@pytest.fixture
def state(network: nn.Module) -> State:
    return dict(network.state_dict())


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def written(weights: State, file: Path) -> Path:
    save_file({key: value.contiguous() for key, value in weights.items()}, file)
    return file


def test_wrapped_weights_of_pytorch_give_the_same_logits(
    network: nn.Module, state: State, tmp_path: Path
) -> None:
    file = tmp_path / "theirs.pt"
    torch.save({"epoch": 7, "model": prefixed(state, "_orig_mod.module.")}, file)
    made = convert(file, USAGE, tmp_path / "ours")
    assert (made.place, made.prefix) == ("model", "_orig_mod.module.")
    assert made.sha256 == file_sha256(file)
    loaded, record = load_model(tmp_path / "ours")
    assert (record.model, record.image_size, record.modality) == (UNET, 32, "CT")
    assert (record.intensity.method, record.threshold, record.temperature) == ("window", 0.5, 1.0)
    image = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(image), network(image))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", 999 * "module._orig_mod."])
def test_a_file_of_safetensors_is_read_too(state: State, tmp_path: Path, prefix: str) -> None:
    file = written(prefixed(state, prefix), tmp_path / "theirs.safetensors")
    assert convert(file, USAGE, tmp_path / "ours").prefix == prefix
    loaded = load_file(tmp_path / "ours" / WEIGHTS)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floats_become_float32(state: State, tmp_path: Path, dtype: torch.dtype) -> None:
    other = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    convert(written(other, tmp_path / "theirs.safetensors"), USAGE, tmp_path / "ours")
    loaded = load_file(tmp_path / "ours" / WEIGHTS)
    assert {value.dtype for value in loaded.values()} == {torch.float32, torch.int64}
    assert all(torch.equal(value, other[key].to(value.dtype)) for key, value in loaded.items())


def test_a_file_that_carries_code_is_refused_and_nothing_of_it_runs(
    state: State, tmp_path: Path
) -> None:
    marker, file = tmp_path / "marker", tmp_path / "evil.pt"
    torch.save({"state_dict": state, "extra": Command(f"touch {marker}")}, file)
    with pytest.raises(
        CheckpointError, match=r"evil\.pt: names \w+\.system, so .*of it was run\. A"
    ):
        convert(file, USAGE, tmp_path / "ours")
    assert not marker.exists()
    assert not (tmp_path / "ours").exists()
    # The payload is real: a reader of pickles runs it.
    torch.load(file, weights_only=False)
    assert marker.exists()


BAD: dict[str, tuple[Callable[[State], State], str]] = {
    "lacking": (
        lambda state: {k: v for k, v in state.items() if not k.startswith("stem.0.")},
        r"not the weights of unet with these options: 2 of its 198 tensors missing "
        r"\(stem\.0\.weight, stem\.0\.bias\)\. Name the network",
    ),
    "none": (
        lambda _: {},
        r"198 of its 198 tensors missing \(stem\.0\.weight, .*, \.\.\.\)\. Name",
    ),
    "others": (
        lambda state: state | {f"\x1b[3{k}m": torch.ones(1) for k in range(4)},
        r"options: 4 that it does not have \(\\x1b\[3\dm, \\x1b\[3\dm, \\x1b\[3\dm, \.\.\.\)\. Na",
    ),
    "another width": (
        lambda _: build_model("unet", {"base_width": 8}).state_dict(),
        r"options: \d+ of another shape or kind \(stem\.0\.weight is float \(4, 1, 1, 1\), "
        r"expected float \(2, 1, 1, 1\), ",
    ),
    "whole numbers": (
        lambda state: state | {"stem.0.bias": torch.ones(2, dtype=torch.int64)},
        r"1 of another shape or kind \(stem\.0\.bias is int64 \(2,\), expected float \(2,\)\)",
    ),
    "not finite": (
        lambda state: state | {"stem.0.bias": torch.tensor([0.0, torch.nan])},
        r"stem\.0\.bias: numbers that are not finite, expected weights",
    ),
    "beyond float32": (
        lambda state: state | {"stem.0.bias": torch.tensor([0.0, 1e300]).double()},
        r"stem\.0\.bias: numbers that are not finite, expected weights",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_weights_of_something_else_are_refused(state: State, tmp_path: Path, name: str) -> None:
    change, words = BAD[name]
    file = written(change(state), tmp_path / "theirs.safetensors")
    with pytest.raises(CheckpointError, match=rf"theirs\.safetensors: .*{words}"):
        convert(file, USAGE, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, struct.pack("<Q", 2**40) + b"{}"])
def test_damaged_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "theirs.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as safetensors, expected a compl"):
        convert(file, USAGE, tmp_path / "ours")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory by RLIMIT_DATA")
def test_a_file_that_asks_for_much_memory_does_not_get_it(tmp_path: Path) -> None:
    file = tmp_path / "vast.pt"
    torch.save([torch.ones(70_001).double()], file, _use_new_zipfile_serialization=False)
    stored = file.read_bytes()
    size = b"J" + struct.pack("<i", 70_001)
    assert size in stored
    file.write_bytes(stored.replace(size, b"J" + struct.pack("<i", 2**30)))  # 8 GiB
    with pytest.raises(CheckpointError, match=r"vast\.pt: needs several times as much memory as"):
        convert(file, USAGE, tmp_path / "ours")


@pytest.mark.skipif(os.name == "nt", reason="Windows offers no limit of processor time")
def test_a_process_that_is_killed_is_told_of(tmp_path: Path) -> None:
    file = tmp_path / "long.pt"
    file.write_bytes(b"\x80\x02" + b"N" * 40_000_000)  # pushes None, for many seconds
    with pytest.raises(CheckpointError, match=r"long\.pt: .* was ended by signal \d+, "):
        read_apart(file, tmp_path, max_s=2)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc and named pipes")
def test_a_process_gets_little_and_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "abc")
    pipe = tmp_path / "pipe.pt"
    os.mkfifo(pipe)  # whose reading never ends
    environments: list[bytes] = []

    def look() -> None:
        until = time.monotonic() + 4
        while not environments and time.monotonic() < until:
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    if str(pipe).encode() in (process / "cmdline").read_bytes().split(b"\0"):
                        environments.append((process / "environ").read_bytes())
                except OSError:
                    continue
            time.sleep(0.02)

    looking = threading.Thread(target=look)
    looking.start()
    with pytest.raises(CheckpointError, match=r"pipe\.pt: not read within 4 s, expected weights"):
        read_apart(pipe, tmp_path, max_wait_s=4)
    looking.join()
    names = {entry.partition(b"=")[0].decode() for entry in environments[0].split(b"\0") if entry}
    kept = {"PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT"}
    assert {"OMP_NUM_THREADS", "PYTHONPATH"} <= names <= {"OMP_NUM_THREADS", "PYTHONPATH"} | kept


def test_wrong_usage_is_refused_before_the_file_is_read(tmp_path: Path) -> None:
    none = tmp_path / "none.pt"
    with pytest.raises(
        ConfigError, match="image_size is 33, expected a multiple of 32 for model unet"
    ):
        convert(none, USAGE.model_copy(update={"image_size": 33}), tmp_path / "ours")
    vast = ModelConfig(name="unet", options={"base_width": 2**40})
    with pytest.raises(ConfigError, match="no network can be that large"):
        convert(none, USAGE.model_copy(update={"model": vast}), tmp_path / "ours")
    (tmp_path / "run.json").touch()
    with pytest.raises(ConfigError, match="is a run folder of hemaseg train, expected a new one"):
        convert(none, USAGE, tmp_path)
    with pytest.raises(CheckpointError, match=r"none\.pt: no such file"):
        convert(none, USAGE, tmp_path / "ours")


def test_converted_weights_predict_and_start_as_those_that_they_came_from(
    hemaseg: Verb,
    network: nn.Module,
    state: State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torch.py").write_text("open('marker', 'w')")  # must not be taken for PyTorch
    write_heads(tmp_path / "scans", num_subjects=1, seed=0)
    scan = next((tmp_path / "scans").rglob("*[0-9].nii.gz"))
    (tmp_path / "recipe.toml").write_text(
        'description = "theirs"\nslices = { image_size = 32 }\nintensity = { method = "window" }'
    )
    save_model(
        tmp_path / "original",
        network,
        UNET,
        image_size=32,
        intensity=USAGE.intensity,
        threshold=0.4,
        modality="CT",
    )
    torch.save({"model": prefixed(state, "module.")}, tmp_path / "theirs.pt")
    command = ["convert", "theirs.pt", "--model", "unet", "--option", "base_width=4"]
    command += ["--recipe", "recipe.toml", "--threshold", "0.4", "--modality", "CT"]
    ended = hemaseg(*command, "-o", tmp_path / "ours")
    assert ended.status == 0, ended.err
    assert 'theirs.pt under "model", "module." taken off their names; SHA-256 ' in ended.out
    assert files(tmp_path / "ours") == files(tmp_path / "original")
    assert not (tmp_path / "marker").exists()
    for model in ("original", "ours"):
        folder = tmp_path / f"masks-{model}"
        ended = hemaseg("predict", scan, "--model", tmp_path / model, "-o", folder, "--probability")
        assert ended.status == 0, ended.err
    original, ours = (files(tmp_path / f"masks-{model}") for model in ("original", "ours"))
    images = [name for name in original if name.endswith((".nii.gz", ".png"))]
    assert len(images) >= 2
    assert all(original[name] == ours[name] for name in images)
    assert load_start(tmp_path / "ours", tmp_path / "run").model == UNET

    again = hemaseg(*command, "-o", tmp_path / "ours")
    assert (again.status, "exists" in again.err) == (2, True)
    for wrong, words in (
        (["--option", "base_width"], "--option base_width: expected NAME=VALUE with a value as"),
        (["--option", f"base_width={'9' * 5000}"], "expected NAME=VALUE with a value as"),
        (["--option", "width=4"], 'has no option "width", expected one of base_width'),
        (["--modality", "X-ray"], "modality is 'X-ray': input should be '', 'CT' or 'MRI'"),
        (["--threshold", "nan"], "threshold is nan: input should be a finite number"),
    ):
        ended = hemaseg(*command, *wrong, "-o", tmp_path / "new")
        assert ended.status == 2
        assert words in ended.err
    assert not (tmp_path / "new").exists()
