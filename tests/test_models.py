"""One contract for all networks, and the exact sizes of docs/reproduction.md."""

import json
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from hemaseg.errors import ConfigError
from hemaseg.models.blocks import check_image_size
from hemaseg.models.catalogue import MODELS, build_model
from hemaseg.models.cost import list_models, model_cost, num_multiply_adds, num_parameters
from hemaseg.models.dense_unet import DenseUNet
from hemaseg.models.dr_unet import DRUNet, ResidualUnit
from hemaseg.models.unet import UNet

SMALL = {"unet": 4, "dr_unet": 8, "dense_unet": 4, "textbook_unet": 4}


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, {"base_width": SMALL[name]})


def images(size: int = 32, num: int = 2) -> torch.Tensor:
    return torch.rand(num, 1, size, size, generator=torch.Generator().manual_seed(1))


def test_every_model_is_in_the_contract() -> None:
    assert set(SMALL) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
class TestContract:
    def test_gives_logits_of_the_image_size(self, name: str) -> None:
        network = small(name).eval()
        logits = network(torch.rand(2, 1, 32, 64))
        assert logits.shape == (2, 1, 32, 64)
        # After a sigmoid, a shift of the head's bias could not shift the output by as much.
        batch = images()
        before = network(batch)
        with torch.no_grad():
            network.head.bias += 5.0  # type: ignore[union-attr, operator]
        torch.testing.assert_close(network(batch), before + 5.0)

    def test_gradient_reaches_every_parameter(self, name: str) -> None:
        network = small(name)
        # Batch norm takes away what a bias of the convolution before it adds.
        modules = list(network.named_modules())
        before_norm = {
            f"{name}.bias"
            for (name, module), (_, following) in pairwise(modules)
            if isinstance(module, nn.Conv2d) and isinstance(following, nn.BatchNorm2d)
        }
        network(images(64)).square().sum().backward()
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
            assert parameter.grad.abs().sum() > 0 or key in before_norm, key

    def test_other_sizes_are_refused_with_those_that_work(self, name: str) -> None:
        stride = int(str(small(name).stride))
        low, high = 3 * stride, 4 * stride
        with pytest.raises(ValueError, match=f"{low + 1}x{high}.*{low}x{high} or {high}x{high}"):
            small(name)(torch.rand(1, 1, low + 1, high))

    def test_is_all_in_its_weights(self, name: str) -> None:
        """A network is loaded without being built first: what no file holds it would lack."""
        network = small(name).eval()
        with torch.device("meta"):
            loaded = build_model(name, {"base_width": SMALL[name]}).eval()
        loaded.load_state_dict(network.state_dict(), assign=True)
        assert torch.equal(loaded(images()), network(images()))

    def test_seed_repeats_bitwise(self, name: str) -> None:
        first, second = small(name).eval(), small(name).eval()
        assert torch.equal(first(images()), second(images()))

    def test_slices_of_a_batch_do_not_mix_in_evaluation(self, name: str) -> None:
        network = small(name).eval()
        batch = images(num=3)
        torch.testing.assert_close(network(batch)[1:2], network(batch[1:2]), rtol=1e-4, atol=1e-5)

    def test_input_is_not_modified(self, name: str) -> None:
        batch = images()
        small(name)(batch)
        assert torch.equal(batch, images())

    def test_learns_one_batch(self, name: str) -> None:
        network = small(name)
        masks = torch.zeros(2, 1, 32, 32)
        masks[0, 0, 8:20, 6:18] = 1
        masks[1, 0, 10:24, 14:28] = 1
        batch = masks * 0.5 + 0.3 * images()
        optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(40):
            value = nn.functional.binary_cross_entropy_with_logits(network(batch), masks)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        assert ((network(batch) > 0) == masks.bool()).float().mean() > 0.98


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("dr_unet", {}, 10_953_249),
        ("unet", {}, 31_114_305),
        ("textbook_unet", {}, 31_042_369),
        ("dense_unet", {}, 20_243_335),
        ("dense_unet", {"placement": "R2"}, 8_186_629),
        ("dense_unet", {"compression": 1.0}, 22_779_393),
        ("dense_unet", {"growth_rate": 32, "has_bottleneck": False}, 27_495_069),
        (
            "dense_unet",
            {"growth_rate": 32, "has_bottleneck": False, "compression": 1.0},
            40_399_745,
        ),
        ("dense_unet", {"growth_rate": 32}, 27_296_669),
    ],
)
def test_number_of_parameters(name: str, options: dict[str, int], count: int) -> None:
    assert model_cost(name, options).num_parameters == count


def counts(parts: nn.Module) -> list[int]:
    return [num_parameters(part) for part in parts.children()]


def test_dr_unet_parts() -> None:
    network = DRUNet()
    assert num_parameters(network.stem) == 64
    assert counts(network.encoder) == [4_944, 19_104, 75_072, 297_600, 1_185_024]
    assert num_parameters(network.bottleneck) == 4_729_344
    assert counts(network.upsample) == [2_097_664, 524_544, 131_200, 32_832, 8_224]
    assert counts(network.join) == [2_048, 1_024, 512, 256, 128]
    assert counts(network.decoder) == [1_381_632, 346_752, 87_360, 22_176, 5_712]
    assert num_parameters(network.head) == 33


def test_unet_parts() -> None:
    network = UNet()
    assert num_parameters(network.stem) == 64
    assert counts(network.encoder) == [14_016, 55_680, 221_952, 886_272, 3_542_016]
    assert num_parameters(network.bottleneck) == 14_161_920
    assert counts(network.upsample) == [2_097_664, 524_544, 131_200, 32_832, 8_224]
    assert counts(network.join) == [2_048, 1_024, 512, 256, 128]
    assert counts(network.decoder) == [7_080_960, 1_771_008, 443_136, 110_976, 27_840]
    assert num_parameters(network.head) == 33


def test_dense_unet_parts() -> None:
    network = DenseUNet()
    assert num_parameters(network.first) == 144
    assert counts(network.encoder) == [9_552, 22_368, 60_240, 44_240]
    assert counts(network.transition) == [880, 2_448, 8_710, 8_514]
    assert num_parameters(network.bottleneck) == 10_031_232
    assert counts(network.upsample) == [2_097_664, 524_544, 131_200, 32_832]
    assert counts(network.decoder) == [5_316_354, 1_480_964, 374_152, 97_232]
    assert num_parameters(network.head) == 65


@pytest.mark.parametrize(
    ("name", "giga"), [("dr_unet", 4.25), ("unet", 15.17), ("dense_unet", 30.05)]
)
def test_multiply_adds(name: str, giga: float) -> None:
    assert model_cost(name).num_multiply_adds / 1e9 == pytest.approx(giga, abs=0.005)


def test_counting_leaves_the_network_as_it_was() -> None:
    network = small("unet").train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    num_multiply_adds(network, 32)
    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_dr_unet_activations_are_elu_and_unet_relu() -> None:
    assert not any(isinstance(m, nn.ReLU) for m in DRUNet(base_width=8).modules())
    assert not any(isinstance(m, nn.ELU) for m in UNet(base_width=8).modules())


def test_dr_unet_activates_the_sum_of_both_branches() -> None:
    torch.manual_seed(0)
    unit, x = ResidualUnit(4, 2, 2).eval(), torch.randn(2, 4, 8, 8)
    expected = functional.elu(unit.main(x) + unit.side(x))
    assert (expected < 0).any()
    torch.testing.assert_close(unit(x), expected)


def test_unknown_model_is_refused() -> None:
    with pytest.raises(ConfigError, match='"vnet" is unknown, expected one of unet, dr_unet'):
        build_model("vnet")


def test_unknown_option_is_refused() -> None:
    with pytest.raises(ConfigError, match='no option "width", expected one of base_width'):
        build_model("unet", {"width": 3})


def test_refused_option_value_is_named() -> None:
    with pytest.raises(ConfigError, match="base_width 6, expected a positive multiple of 4"):
        build_model("dr_unet", {"base_width": 6})
    for name in MODELS:
        with pytest.raises(ConfigError, match="base_width 0, expected a positive multiple"):
            build_model(name, {"base_width": 0})
    with pytest.raises(ConfigError, match=r"growth_rate 0 and compression 0\.5, expected"):
        build_model("dense_unet", {"growth_rate": 0})
    with pytest.raises(ConfigError, match="has_bottleneck 'no', expected true or false"):
        build_model("dense_unet", {"has_bottleneck": "no"})
    with pytest.raises(ConfigError, match='placement "R3", expected "R1" or "R2"'):
        build_model("dense_unet", {"placement": "R3"})


def test_size_check_of_tiny_images_names_only_sizes_above_zero() -> None:
    with pytest.raises(ValueError, match=r"5x40.*nearest: 32x64\."):
        check_image_size(5, 40, 32)


def test_models_verb_prints_json() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "hemaseg", "models", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    listed = {item["name"]: item for item in json.loads(result.stdout)["networks"]}
    assert listed["dr_unet"]["num_parameters"] == 10_953_249
    assert list(listed) == [cost.name for cost in list_models()]
    assert all(item["num_multiply_adds"] > 1e9 for item in listed.values())
