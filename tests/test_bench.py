"""The benchmark runs what it says, and says what failed."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from command_line import Verb
from hemaseg.benchmark import bench as benchmark
from hemaseg.benchmark.bench import run_benchmark
from hemaseg.benchmark.ceilings import Ceilings, measure_ceilings
from hemaseg.benchmark.contenders import CONTENDERS, Contender, contender
from hemaseg.benchmark.inputs import save_untrained
from hemaseg.errors import CheckpointError, EngineError
from hemaseg.models.cost import num_multiply_adds
from hemaseg.training.checkpoint import load_model
from lively import save_lively

CEILINGS = Ceilings(1, {"fp32": 100.0, "bf16": 150.0}, {"fp32": 90.0, "bf16": 200.0}, 10.0)
QUICK = [
    one
    for one in CONTENDERS
    if one.name in ("PyTorch eager, batches of 8", "hemaseg --engine torch", "OpenVINO, latency")
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lively(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def _quick_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "measure_ceilings", lambda: CEILINGS)


def test_every_contender_is_measured_beside_the_first(run: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    found = run_benchmark(
        [("mine", run)],
        num_slices=2,
        num_turns=3,
        contenders=QUICK,
        progress=lambda *step: steps.append(step),
    )
    assert steps == [("mine", n, 3) for n in (1, 2, 3)]
    assert [result.contender for result in found.results] == [one.name for one in QUICK]
    for result in found.results:
        if result.problem:
            assert result.problem == "openvino not installed"
            continue
        assert result.fastest_ms is not None
        assert result.slice_ms is not None
        assert result.slowest_ms is not None
        assert 0 < result.fastest_ms <= result.slice_ms <= result.slowest_ms
        assert result.flipped is not None
        assert result.flipped <= 1e-3
        assert result.peak_mib is not None
        assert result.peak_mib > 100
        # Two operations for each of the network's multiply-adds, against 100 GFLOP/s.
        expected = 2 * num_multiply_adds(load_model(run)[0], 64) / 1e11
        assert result.roofline == pytest.approx(expected / (result.slice_ms / 1000))
    assert found.results[0].ratio == 1
    assert found.results[0].dice == 1
    assert json.loads(found.to_json())["num_turns"] == 3


PEER = """
from torch import nn

class Unet(nn.Conv2d):
    def __init__(self, encoder_name, encoder_weights, in_channels):
        print(encoder_name)
        super().__init__(in_channels, 1, 3, padding=1)

    def predict(self, image):
        return self(image)
"""


def test_masks_of_other_networks_are_not_compared(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "segmentation_models_pytorch.py").write_text(PEER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(benchmark, "BESIDE", "mine")
    peer = next(one for one in CONTENDERS if "segmentation_models_pytorch" in one.needs)
    found = run_benchmark(
        [("other", run), ("mine", run)], num_slices=2, num_turns=1, contenders=[QUICK[0], peer]
    )
    assert [result.model for result in found.results] == ["other", "mine", "its own"]
    first, result = found.results[1:]
    assert not result.problem
    assert (result.flipped, result.dice, result.volume_error) == (None, None, None)
    assert first.slice_ms is not None
    assert result.slice_ms is not None
    assert result.ratio == pytest.approx(first.slice_ms / result.slice_ms)
    # Of its own network: nine multiply-adds for each pixel.
    assert result.roofline == pytest.approx(2 * 9 * 64**2 / 1e11 / (result.slice_ms / 1000))


def test_a_contender_that_cannot_run_says_why(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Contender("absent", "fp32", lambda network, size: network, ("no_such_package",))
    unknown = Contender("unknown", "fp32", lambda network, size: network)
    found = run_benchmark(
        [("mine", run)], num_slices=2, num_turns=1, contenders=[QUICK[0], absent, unknown]
    )
    assert [bool(result.problem) for result in found.results] == [False, True, True]
    assert found.results[1].problem == "no_such_package not installed"
    assert "no contender unknown" in found.results[2].problem
    assert found.results[2].slice_ms is None


def test_without_the_first_contender_nothing_is_compared(run: Path) -> None:
    unknown = Contender("unknown", "fp32", lambda network, size: network)
    with pytest.raises(
        EngineError, match=r"unknown, which all others .* failed on mine: .*unknown"
    ):
        run_benchmark([("mine", run)], num_slices=2, num_turns=1, contenders=[unknown, QUICK[0]])


def test_a_damaged_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        run_benchmark([("mine", tmp_path / "no")], num_slices=2, num_turns=1, contenders=QUICK)


def test_untrained_networks_mark_a_twentieth(tmp_path: Path) -> None:
    images = torch.rand(4, 1, 64, 64)
    save_untrained(tmp_path, "unet", images)
    network, record = load_model(tmp_path)
    with torch.inference_mode():
        share = float((network(images).sigmoid() >= record.threshold).float().mean())
    assert share == pytest.approx(0.05, abs=0.01)


class Plus(nn.Module):
    """Logits are the image and one."""

    def forward(self, image: Tensor) -> Tensor:
        return image + 1


@pytest.mark.parametrize(
    "name", ["PyTorch eager, batches of 8", "PyTorch eager, by slice, channels-last"]
)
@pytest.mark.parametrize("num", [1, 11])
def test_no_slice_is_lost(name: str, num: int) -> None:
    stack = torch.rand(num, 1, 8, 8)
    assert torch.equal(contender(name, "fp32").prepare(Plus(), 8)(stack), stack + 1)


def test_contenders_are_told_apart() -> None:
    keys = [(one.name, one.precision) for one in CONTENDERS]
    assert len(set(keys)) == len(keys)
    with pytest.raises(EngineError, match="no contender nobody in fp32"):
        contender("nobody", "fp32")


def test_ceilings_are_rates() -> None:
    found = measure_ceilings()
    assert found.num_threads == torch.get_num_threads()
    assert 0.1 < found.bandwidth_gb_per_s < 10_000
    assert found.gflops("fp32") == max(
        found.matrix_gflops["fp32"], found.convolution_gflops["fp32"]
    )
    assert 0.1 < found.gflops("fp32") < 1e6


@pytest.mark.slow
def test_as_a_user(run: Path, hemaseg: Verb) -> None:
    printed = hemaseg("bench", "--model", run, "--slices", 2, "--turns", 1, "--studies", 2).out
    assert "PyTorch eager, batches of 8" in printed
    assert "hemaseg --engine torch" in printed
    assert "| NIfTI | 2 | 1 |" in printed
    alone = hemaseg("bench", "--study", "--model", run, "--turns", 1, "--studies", 2, "--json")
    content = json.loads(alone.out)
    assert content["results"] == []
    assert [row["num_studies"] for row in content["studies"]] == [1, 1, 2]
    wrong = hemaseg("bench", "--model", "nothing")
    assert wrong.status == 2
    assert "no such folder" in wrong.err
