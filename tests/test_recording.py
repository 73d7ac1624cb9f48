from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hemaseg.errors import TrainingError
from hemaseg.models.catalogue import MODELS, build_model
from hemaseg.training.device import Precision, deterministic
from hemaseg.training.recording import Recorded

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, {"base_width": 8}).train()


def gradients(network: nn.Module, run: nn.Module, images: Tensor) -> list[Tensor]:
    network.zero_grad(set_to_none=True)
    run(images).float().square().mean().backward()
    return [weight.grad.clone() for weight in network.parameters() if weight.grad is not None]


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_replayed_passes_give_the_bits_of_the_network(name: str, precision: Precision) -> None:
    network, other = small(name).cuda(), small(name).cuda()
    autocast = torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16")
    with deterministic(True), autocast:
        recorded = Recorded(network, batch_size=3, image_size=64, precision=precision).train()
        for seed in range(3):
            images = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(seed)).cuda()
            images = images.contiguous(memory_format=torch.channels_last)
            for mine, expected in zip(
                gradients(network, recorded, images),
                gradients(other, other, images),
                strict=True,
            ):
                assert torch.equal(mine, expected)
    for mine, expected in zip(network.buffers(), other.buffers(), strict=True):
        assert torch.equal(mine, expected)


def warmed_up(calls: list[torch.Size]) -> Callable[..., nn.Module]:
    """In place of PyTorch's: runs the network as it does, and says what is replayed."""

    class Replayed(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> Tensor:
            calls.append(images.shape)
            logits: Tensor = self.network(images)
            return logits

    def make(network: nn.Module, sample: tuple[Tensor, ...]) -> nn.Module:
        for _ in range(3):
            network(*sample)
        return Replayed(network)

    return make


def test_buffers_are_kept_and_other_sizes_not_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.Size] = []
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", warmed_up(calls))
    network, other = small("unet"), small("unet")
    recorded = Recorded(network, batch_size=3, image_size=32, precision="fp32")
    for mine, expected in zip(network.buffers(), other.buffers(), strict=True):
        assert torch.equal(mine, expected)
    for num in (3, 2, 3):
        images = torch.rand(num, 1, 32, 32)
        assert torch.equal(recorded(images), other(images))
    assert calls == [torch.Size([3, 1, 32, 32])] * 2


def test_what_cannot_be_recorded_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fail)
    words = (
        r"recorded on cpu \(operation not permitted .* capturing\)\. Set training.records_passes"
    )
    with pytest.raises(TrainingError, match=words):
        Recorded(small("unet"), batch_size=3, image_size=32, precision="fp32")


def test_memory_that_is_used_up_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fail)
    with pytest.raises(torch.OutOfMemoryError):
        Recorded(small("unet"), batch_size=3, image_size=32, precision="fp32")
