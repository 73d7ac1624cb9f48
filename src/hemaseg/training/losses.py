"""What is optimised: `1 - Dice` of the paper, and Dice with cross-entropy.

The sigmoid lives here (and in `prediction.predict`): models return logits.
"""

import torch
from torch import Tensor
from torch.nn import functional

from hemaseg.config import LossConfig
from hemaseg.training.processes import ALONE, Processes


def soft_dice_loss(
    logits: Tensor, masks: Tensor, *, smoothing: float, processes: Processes = ALONE
) -> Tensor:
    """1 minus the soft Dice of a whole batch; a scalar in [0, 1].

        1 - (2 sum(p m) + s) / (sum(p) + sum(m) + s)

    with p the sigmoid of the logits, m the masks, s the smoothing in pixels. The sums run over all
    pixels of all slices, so a slice without lesion is no special case: its false positives count
    in the denominator, and a batch with neither lesion nor prediction has loss 0.

    *Source:* Liu's paper, "Dice score as a loss function", Eq. 1. It states neither smoothing nor
    whether sums run over slice or batch; sums over the batch with a small smoothing is our choice.
    Means in place of sums, as in Yu et al.'s code, would make the smoothing dominate small lesions.

    Args:
        logits: Any shape, float.
        masks: The same shape, 0 or 1.
        smoothing: s, in pixels; 0 or more.
        processes: Who holds the other shares of the batch; its Dice is over all of them.

    >>> import torch
    >>> masks = torch.tensor([1.0, 1.0, 0.0, 0.0])
    >>> logits = torch.tensor([99.0, -99.0, -99.0, -99.0])
    >>> round(float(soft_dice_loss(logits, masks, smoothing=0)), 6)
    0.333333
    """
    probabilities = logits.float().sigmoid()
    sums = torch.stack([(probabilities * masks).sum(), probabilities.sum(), masks.sum()])
    overlap, predicted, marked = processes.total(sums).unbind()
    total = predicted + marked
    # Sigmoids are positive, so the floor matters only where they underflow to 0 and s = 0.
    return 1 - (2 * overlap + smoothing) / (total + smoothing).clamp_min(1e-12)


def loss(logits: Tensor, masks: Tensor, config: LossConfig, processes: Processes = ALONE) -> Tensor:
    """The loss that a recipe names; a scalar, 0 at best.

    Args:
        logits: `(N, 1, H, W)`.
        masks: `(N, 1, H, W)`, 0 or 1.
        config: Name and smoothing.
        processes: Who holds the other shares of the batch; the loss is that of all of them. Shares
            may be empty, the batch not.
    """
    dice = soft_dice_loss(logits, masks, smoothing=config.smoothing, processes=processes)
    if config.name == "dice":
        return dice
    cross_entropy = functional.binary_cross_entropy_with_logits(
        logits.float(), masks, reduction="sum"
    )
    sums = torch.stack([cross_entropy, cross_entropy.new_tensor(masks.numel())])
    total, num_pixels = processes.total(sums).unbind()
    return dice + total / num_pixels
