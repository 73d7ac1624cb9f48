"""The predicted peak: closed forms, properties, the measured peak, and the refusal."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from hemaseg.config import ModelConfig, Recipe, RunConfig
from hemaseg.errors import TrainingError
from hemaseg.slices.dataset import SliceName, SliceSet
from hemaseg.training import memory
from hemaseg.training.device import Precision
from hemaseg.training.memory import (
    LiveBytes,
    Placement,
    checkpoint_mib,
    place,
    require_memory,
    training_mib,
)

CPU = torch.device("cpu")
NETWORKS = [("unet", 4), ("dr_unet", 8), ("dense_unet", 4), ("textbook_unet", 4)]


def settings(
    name: str = "unet",
    width: int = 4,
    *,
    batch_size: int = 8,
    image_size: int = 64,
    recomputes: bool = False,
) -> RunConfig:
    return RunConfig(
        model=ModelConfig(name=name, options={"base_width": width}),
        device="cpu",
        recipe=Recipe.model_validate(
            {
                "description": "test",
                "slices": {"image_size": image_size},
                "training": {"batch_size": batch_size, "recomputes_activations": recomputes},
            }
        ),
    )


def predicted(config: RunConfig, batch_size: int, precision: Precision = "fp32") -> float:
    return training_mib(config.model, config.recipe, batch_size=batch_size, precision=precision)


def test_a_step_of_a_linear_layer_in_closed_form() -> None:
    """n inputs of a, weight a x b: at the peak live weight, gradient, input, output, its gradient.

    The output's gradient is one number spread over all (no memory) when the output is summed, so
    the output is multiplied by itself first.
    """
    n, a, b = 7, 5, 3
    with torch.device("meta"):
        layer, inputs = nn.Linear(a, b, bias=False), torch.empty(n, a)
    live = LiveBytes()
    live.add(layer.weight)
    live.add(inputs)
    with live:
        outputs = layer(inputs)
        assert live.now == 4 * (a * b + n * a + n * b)
        value = (outputs * outputs).sum()
        value.backward()
        del outputs, value
    # After the step: the gradient has been added.
    assert live.now == 4 * (2 * a * b + n * a)
    assert live.peak >= 4 * (a * b + n * a + 2 * n * b)
    assert live.peak <= 4 * (a * b + n * a + 5 * n * b) + 8 + 4 * a * b


def test_weights_gradients_and_moments_are_the_floor() -> None:
    """At the smallest image little else lives; recomputation cannot go below."""
    config = settings(width=32, image_size=32, recomputes=True)
    weights_mib = 4 * 31_114_305 / 2**20
    assert 4 * weights_mib < predicted(config, 2) < 5.5 * weights_mib


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize(("name", "width"), NETWORKS)
def test_more_slices_and_larger_ones_need_more(name: str, width: int, recomputes: bool) -> None:
    config = settings(name, width, image_size=256, recomputes=recomputes)
    by_batch = [predicted(config, n) for n in (1, 2, 4, 8)]
    assert all(a < b for a, b in pairwise(by_batch))
    # What is not weights is in proportion to the slices.
    assert by_batch[3] - by_batch[2] == pytest.approx(2 * (by_batch[2] - by_batch[1]), rel=1e-3)
    by_size = [
        predicted(settings(name, width, image_size=size, recomputes=recomputes), 2)
        for size in (32, 64, 128)
    ]
    assert all(a < b for a, b in pairwise(by_size))


@pytest.mark.parametrize(("name", "width"), NETWORKS)
def test_mixed_precision_and_recomputation_need_less(name: str, width: int) -> None:
    kept, recomputed = (settings(name, width, image_size=256, recomputes=i) for i in (False, True))
    assert predicted(recomputed, 8) < 0.7 * predicted(kept, 8)
    assert 0.4 * predicted(kept, 8) < predicted(kept, 8, "bf16") < 0.65 * predicted(kept, 8)


def test_shapes_that_are_known_beforehand_are_those_of_pytorch() -> None:
    for name, width in NETWORKS:
        config = settings(name, width)
        quick = predicted(config, 2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(memory, "_QUICK", {})
            assert predicted(config, 2) == quick


def test_prediction_leaves_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    predicted(settings(), 2)
    assert torch.equal(torch.rand(4), expected)


def foretold_and_measured(code: str, config: RunConfig, *more: Path) -> tuple[float, float]:
    """MiB that a process of its own prints."""
    output = subprocess.run(
        [sys.executable, "-c", code, config.model_dump_json(), *more],
        check=True,
        capture_output=True,
        text=True,
        # So that the C library gives back what is free, and tensors alone are measured.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"},
    ).stdout
    foretold, measured = json.loads(output)
    return foretold, measured


MEASURE = """
import json, sys, torch
from hemaseg.config import RunConfig
from hemaseg.models.catalogue import build_model
from hemaseg.models.recomputation import recomputation
from hemaseg.training.device import peak_memory_mib, resident_memory_mib
from hemaseg.training.losses import loss
from hemaseg.training.memory import training_mib

config = RunConfig.model_validate(json.loads(sys.argv[1]))
size, batch_size = config.recipe.slices.image_size, config.recipe.training.batch_size
def train(size, num_steps):
    network = build_model(config.model.name, config.model.options)
    network = network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(network.parameters())
    images = torch.rand(batch_size, 1, size, size)
    for _ in range(num_steps):
        optimiser.zero_grad()
        with recomputation(config.recipe.training.recomputes_activations):
            logits = network(images)
        loss(logits, images, config.recipe.loss).backward()
        optimiser.step()

predicted = training_mib(config.model, config.recipe, batch_size=batch_size, precision="fp32")
train(32, 1)  # loads all code
before = resident_memory_mib()
train(size, 2)
print(json.dumps([predicted, peak_memory_mib(torch.device("cpu")) - before]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("recomputes", [False, True])
def test_prediction_is_near_what_is_measured(recomputes: bool) -> None:
    config = settings("dr_unet", 32, batch_size=3, image_size=256, recomputes=recomputes)
    found, measured = foretold_and_measured(MEASURE, config)
    assert measured == pytest.approx(found, rel=0.1)


MEASURE_CHECKPOINT = """
import json, sys, torch
from pathlib import Path
from hemaseg.config import RunConfig
from hemaseg.models.catalogue import build_model
from hemaseg.training.checkpoint import save_weights
from hemaseg.training.device import peak_memory_mib, resident_memory_mib
from hemaseg.training.memory import checkpoint_mib
from hemaseg.training.progress import Epoch
from hemaseg.training.resumption import RunIdentity, TrainingState, write_checkpoint

config = RunConfig.model_validate(json.loads(sys.argv[1]))
folder, cpu = Path(sys.argv[2]), torch.device("cpu")
identity = RunIdentity(
    config=config, cohort_sha256="", split_sha256="", fold=0, start_weights_sha256=None,
    precision="fp32",
)
def save(options):
    network = build_model(config.model.name, options).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.rand(2, 1, 32, 32)).sum().backward()
    optimiser.step()
    state = TrainingState(network, optimiser, None, None, torch.Generator())
    state.done.append(Epoch(1, *(8 * [0.5])))
    save_weights(folder, network)
    write_checkpoint(folder, state, identity, cpu)

save({"base_width": 4})  # loads all code
before = resident_memory_mib()
save(config.model.options)
print(json.dumps([checkpoint_mib(config.model), peak_memory_mib(cpu) - before]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_checkpoint_takes_what_is_foretold(tmp_path: Path) -> None:
    config = settings("unet", 32, image_size=32)
    foretold, measured = foretold_and_measured(MEASURE_CHECKPOINT, config, tmp_path)
    assert 0.8 * foretold < measured < 1.05 * foretold


def test_small_steps_are_asked_for_what_a_checkpoint_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(width=8, image_size=32)
    saving_mib = checkpoint_mib(config.model)
    assert saving_mib > predicted(config, 2)
    available(monkeypatch, saving_mib - 0.01)
    with pytest.raises(TrainingError, match=f"would take {saving_mib:,.0f} MiB"):
        require(config, num_slices=2)
    available(monkeypatch, saving_mib)
    require(config, num_slices=2)


def available(monkeypatch: pytest.MonkeyPatch, mib: float | None) -> None:
    monkeypatch.setattr(memory, "available_memory_mib", lambda device: mib)


def require(config: RunConfig, num_slices: int = 100) -> float:
    return require_memory(config, num_slices=num_slices)


def refusal(config: RunConfig) -> str:
    with pytest.raises(TrainingError) as caught:
        require(config)
    return str(caught.value)


def test_what_does_not_fit_is_refused_with_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, recomputed = settings(image_size=256), settings(image_size=256, recomputes=True)
    needed, at_five, at_six = predicted(kept, 8), predicted(kept, 5), predicted(kept, 6)
    available(monkeypatch, (at_five + at_six) / 2)
    assert refusal(kept) == (
        f"training unet with 8 slices of image_size 256 at once would take {needed:,.0f} MiB on "
        f"cpu, expected at most the {(at_five + at_six) / 2:,.0f} MiB that are free. What fits: "
        # 5 fit, and 8 in parts as even as can be are 4 and 4.
        "training.micro_batch_size = 4, or training.recomputes_activations = true (the batch for "
        "each change of the weights stays 8); else a smaller slices.image_size or model."
    )
    require(recomputed)
    available(monkeypatch, predicted(recomputed, 3))
    assert "training.recomputes_activations = true and training.micro_batch_size = 3" in refusal(
        kept
    )
    message = refusal(recomputed)
    assert "What fits: training.micro_batch_size = 3 (the" in message
    assert "recomputes_activations" not in message
    available(monkeypatch, 0.5)
    # One slice has nothing to normalise over where the bottleneck is one pixel.
    assert "Not even one slice fits" in refusal(settings(image_size=32))
    assert "Not even one slice fits: choose a smaller slices.image_size" in refusal(kept)


def test_what_just_fits_or_cannot_be_known_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings()
    available(monkeypatch, predicted(config, 8))
    assert require(config) > predicted(config, 8)  # with what is resident
    available(monkeypatch, predicted(config, 8) - 0.01)
    refusal(config)
    available(monkeypatch, None)
    require(config)


def test_a_batch_is_no_larger_than_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    available(monkeypatch, predicted(settings(image_size=128), 2))
    require(settings(image_size=128), num_slices=2)
    with pytest.raises(TrainingError, match="with 3 slices of"):
        require(settings(image_size=128), num_slices=3)


GPU = torch.device("cuda")


def placed(
    config: RunConfig,
    step_mib: float,
    device: torch.device = GPU,
    *,
    num_slices: int = 64,
    num_processes: int = 1,
) -> Placement:
    """Of 3 MiB of slices."""
    slices = SliceSet(
        torch.zeros(8, 1, 256, 256, dtype=torch.float16),  # 1 MiB
        torch.zeros(8, 1, 256, 256, dtype=torch.bool),  # half a MiB
        tuple(SliceName("s", "s.png", index) for index in range(8)),
    )
    assert slices.num_bytes == 1.5 * 2**20
    return place(
        *(config, [slices, slices], step_mib),
        device=device,
        num_slices=num_slices,
        num_processes=num_processes,
    )


def test_a_gpu_gets_what_it_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory_mib", lambda device: 206.0)
    assert placed(settings(), 100.0) == Placement(slices_on_device=True, passes_recorded=True)
    assert placed(settings(), 100.1) == Placement(slices_on_device=False, passes_recorded=True)
    assert placed(settings(), 103.1) == Placement()
    assert placed(settings(), 1.0, CPU) == Placement()
    monkeypatch.setattr(memory, "available_memory_mib", lambda device: None)
    assert placed(settings(), 1.0) == Placement()


def test_passes_are_recorded_where_all_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory_mib", lambda device: 206.0)
    assert placed(settings(), 1.0, num_slices=64).passes_recorded
    assert not placed(settings(), 1.0, num_slices=63).passes_recorded
    assert not placed(settings(), 1.0, num_processes=2).passes_recorded
    assert not placed(settings(recomputes=True), 1.0).passes_recorded
    config = settings()
    for changed in ({"micro_batch_size": 4}, {"records_passes": False}):
        training = config.recipe.training.model_copy(update=changed)
        recipe = config.recipe.model_copy(update={"training": training})
        assert not placed(config.model_copy(update={"recipe": recipe}), 1.0).passes_recorded
