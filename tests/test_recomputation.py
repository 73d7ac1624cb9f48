"""Activations computed again: no number changes, and less is kept."""

import pytest
import torch
from torch import Tensor, nn

from hemaseg.config import LossConfig, Option
from hemaseg.models.blocks import DoubleConv, in_a_row
from hemaseg.models.catalogue import MODELS, build_model
from hemaseg.models.recomputation import recomputation, recomputed
from hemaseg.training.losses import loss
from hemaseg.training.memory import LiveBytes

SMALL: list[tuple[str, dict[str, Option]]] = [
    ("unet", {"base_width": 4}),
    ("dr_unet", {"base_width": 8}),
    ("dense_unet", {"base_width": 4}),
    ("dense_unet", {"base_width": 4, "placement": "R2", "has_bottleneck": False}),
    ("textbook_unet", {"base_width": 4}),
]
IDS = ["unet", "dr_unet", "dense_unet", "dense_unet-R2", "textbook_unet"]


def test_every_model_is_tested() -> None:
    assert {name for name, _ in SMALL} == set(MODELS)


def trained(
    name: str, options: dict[str, Option], *, recomputes: bool, precision: torch.dtype
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of some steps; then weights, running statistics and the last gradients."""
    torch.manual_seed(0)
    network = build_model(name, options)
    optimiser = torch.optim.Adam(network.parameters())
    random = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(3):
        images = torch.rand(3, 1, 64, 64, generator=random)
        is_mixed = precision == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed), recomputation(recomputes):
            logits = network(images)
        value = loss(logits, (images > 0.8).float(), LossConfig(name="dice_cross_entropy"))
        losses.append(float(value.detach()))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    gradients = {
        f"{key}.grad": weight.grad
        for key, weight in network.named_parameters()
        if weight.grad is not None
    }
    return losses, {**network.state_dict(), **gradients}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("name", "options"), SMALL, ids=IDS)
def test_no_bit_changes(name: str, options: dict[str, Option], precision: torch.dtype) -> None:
    losses, state = trained(name, options, recomputes=False, precision=precision)
    other_losses, other_state = trained(name, options, recomputes=True, precision=precision)
    assert other_losses == losses
    assert list(other_state) == list(state)
    assert all(torch.equal(other_state[key], state[key]) for key in state)
    counts = [value for key, value in state.items() if key.endswith("num_batches_tracked")]
    assert counts
    assert all(count == 3 for count in counts)


@pytest.mark.parametrize(("name", "options"), SMALL, ids=IDS)
def test_a_forward_pass_keeps_less(name: str, options: dict[str, Option]) -> None:
    kept = []
    for is_on in (False, True):
        with torch.device("meta"):
            network, images = build_model(name, options), torch.empty(4, 1, 64, 64)
        live = LiveBytes()
        with live, recomputation(is_on):
            logits = network(images)
        kept.append(live.now)
        del logits
    assert kept[1] < 0.4 * kept[0]


def test_kept_bytes_in_closed_form() -> None:
    """Per pixel: of each double convolution 4 results of C channels, or its output alone."""
    num_blocks, channels, num_pixels = 3, 5, 2 * 16 * 16
    blocks = [DoubleConv(channels, channels).to("meta") for _ in range(num_blocks)]
    images = torch.empty(2, channels, 16, 16, device="meta")
    per_result = 4 * channels * num_pixels
    per_norm = 4 * 2 * channels  # mean and inverse deviation of the batch
    for is_on, expected in (
        (False, num_blocks * (4 * per_result + 2 * per_norm)),
        (True, num_blocks * per_result),
    ):
        live = LiveBytes()
        with live, recomputation(is_on):
            x = images
            for block in blocks:
                x = recomputed(in_a_row, [block], x)
        # Copies of running statistics and the like, of a few floats, are let pass.
        assert expected <= live.now < expected + 500
        del x


def test_nothing_is_recomputed_without_gradients_or_outside_the_block() -> None:
    passes = []

    def count(modules: object, x: Tensor) -> Tensor:
        passes.append(1)
        return 2 * x.exp().log()

    x = torch.ones(3, requires_grad=True)
    with recomputation(True), torch.no_grad():
        recomputed(count, [], x)
    with recomputation(True), recomputation(False):
        recomputed(count, [], x).sum().backward()
    recomputed(count, [], x).sum().backward()
    assert len(passes) == 3
    with recomputation(True):
        recomputed(count, [], x).sum().backward()
    assert len(passes) == 5


def test_a_stretch_within_a_stretch_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    inner, outer = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

    def nested(modules: object, x: Tensor) -> Tensor:
        return in_a_row([outer], recomputed(in_a_row, [inner, nn.ELU()], x)).exp()

    found = []
    for is_on in (False, True):
        x = torch.rand(5, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with recomputation(is_on):
            recomputed(nested, [inner, outer], x).sum().backward()
        found.append(x.grad)
    assert torch.equal(*found)  # type: ignore[arg-type]
    assert inner.num_batches_tracked == outer.num_batches_tracked == 2


def test_statistics_stay_in_place_when_the_second_pass_fails() -> None:
    norm = nn.BatchNorm1d(2)
    before = norm.running_mean
    passes = []

    def fails_later(modules: object, x: Tensor) -> Tensor:
        passes.append(1)
        if len(passes) == 2:
            raise RuntimeError("second pass")
        return in_a_row([norm], x.exp())

    with recomputation(True):
        result = recomputed(fails_later, [norm], torch.ones(3, 2, requires_grad=True))
    with pytest.raises(RuntimeError, match="second pass"):
        result.sum().backward()
    assert norm.running_mean is before


@pytest.mark.parametrize(("name", "options"), SMALL, ids=IDS)
def test_a_network_compiles_as_one_graph(name: str, options: dict[str, Option]) -> None:
    """Whoever compiles one, in a benchmark against us or in their own code, gets all of it."""
    network = build_model(name, options).eval()
    images = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        assert torch.equal(compiled(images), network(images))
