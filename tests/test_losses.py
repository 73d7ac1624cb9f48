import pytest
import torch
from torch.nn import functional

from hemaseg.config import LossConfig
from hemaseg.metrics.overlap import dice
from hemaseg.training.losses import loss, soft_dice_loss

LARGE = 50.0


def logits_of(mask: torch.Tensor) -> torch.Tensor:
    return (mask * 2 - 1) * LARGE


def random_masks(seed: int) -> torch.Tensor:
    return (torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) > 0.6).float()


def test_of_sure_predictions_is_one_minus_the_reported_dice() -> None:
    prediction, reference = random_masks(0), random_masks(1)
    value = float(soft_dice_loss(logits_of(prediction), reference, smoothing=0))
    assert value == pytest.approx(1 - dice(prediction.bool().numpy(), reference.bool().numpy()))


def test_smoothing_by_hand() -> None:
    """Overlap 1, sizes 2 and 1, s = 1: 1 - (2 + 1) / (3 + 1)."""
    prediction = torch.tensor([1.0, 1.0, 0.0])
    reference = torch.tensor([1.0, 0.0, 0.0])
    assert float(soft_dice_loss(logits_of(prediction), reference, smoothing=1)) == pytest.approx(
        0.25
    )


def test_empty_batch_without_prediction_costs_nothing() -> None:
    empty = torch.zeros(2, 1, 4, 4)
    assert float(soft_dice_loss(logits_of(empty), empty, smoothing=1)) == pytest.approx(0)


def test_false_positives_on_an_empty_batch_cost() -> None:
    """Losses that zero a batch without foreground let them go unpunished."""
    empty = torch.zeros(2, 1, 4, 4)
    logits = torch.full_like(empty, -3.0, requires_grad=True)
    value = soft_dice_loss(logits, empty, smoothing=1)
    value.backward()
    assert float(value.detach()) > 0.5
    assert logits.grad is not None
    assert float(logits.grad.min()) > 0


def test_terms_are_sums_over_the_batch_not_means_of_slices() -> None:
    prediction, reference = random_masks(0), random_masks(1)
    reference[0] = 0
    whole = soft_dice_loss(logits_of(prediction), reference, smoothing=0)
    mixed = soft_dice_loss(logits_of(prediction.flatten()), reference.flatten(), smoothing=0)
    assert float(whole) == pytest.approx(float(mixed))


def test_underflow_without_smoothing_is_finite() -> None:
    value = soft_dice_loss(torch.full((4,), -1000.0), torch.zeros(4), smoothing=0)
    assert torch.isfinite(value)


def test_dice_cross_entropy_is_the_sum_of_both() -> None:
    logits, masks = torch.randn(2, 1, 4, 4), random_masks(2)[:2, :, :4, :4]
    config = LossConfig(name="dice_cross_entropy")
    expected = soft_dice_loss(
        logits, masks, smoothing=1
    ) + functional.binary_cross_entropy_with_logits(logits, masks)
    torch.testing.assert_close(loss(logits, masks, config), expected)
    torch.testing.assert_close(
        loss(logits, masks, LossConfig()), soft_dice_loss(logits, masks, smoothing=1)
    )


def test_half_precision_logits_are_summed_in_single() -> None:
    """A float16 sum over 512x512 pixels would overflow at 65,504."""
    logits = torch.full((1, 1, 512, 512), 8.0, dtype=torch.float16)
    value = soft_dice_loss(logits, torch.ones(1, 1, 512, 512), smoothing=1)
    assert float(value) == pytest.approx(0, abs=1e-3)
