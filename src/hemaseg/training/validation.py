"""What is known of a network after each epoch: loss and Dice on subjects it does not learn from.

Shape legend: N slices of a batch, H rows, W columns.
"""

import contextlib
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hemaseg.config import RunConfig
from hemaseg.metrics.overlap import OverlapCounts
from hemaseg.slices.dataset import SliceSet
from hemaseg.training.device import memory_format
from hemaseg.training.losses import loss
from hemaseg.training.processes import ALONE, Processes

THRESHOLD = 0.5
"""Probability from which a pixel belongs to the mask; the paper states none."""


def validate(
    network: nn.Module,
    slices: SliceSet,
    config: RunConfig,
    autocast: contextlib.AbstractContextManager[object],
    *,
    processes: Processes = ALONE,
    between: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Mean loss over batches, and mean Dice over subjects at the network's resolution.

    Args:
        network: On its device.
        slices: In cohort order.
        config: Batch size and loss.
        autocast: In which the network runs.
        processes: That divide the batches among them; all get the result.
        between: Called before each batch.

    Returns:
        Loss; Dice, where a subject with neither lesion nor prediction is undefined and left out
        (NaN if all are).
    """
    device = next(network.parameters()).device
    subjects = list(dict.fromkeys(name.subject for name in slices.names))
    index_of = {subject: index for index, subject in enumerate(subjects)}
    # In float64, which holds counts of pixels exactly.
    sums = torch.zeros(1 + 3 * len(subjects), dtype=torch.float64)
    counts = sums[1:].view(-1, 3)
    network.eval()
    batches = torch.arange(len(slices)).split(config.recipe.training.slices_per_pass)
    with torch.inference_mode(), autocast:
        for indices in batches[processes.rank :: processes.num]:
            between()
            images, masks = slices.batch(indices, device)
            logits = network(images.contiguous(memory_format=memory_format(device))).float()
            sums[0] += float(loss(logits, masks, config.recipe.loss)) * len(indices)
            owners = [index_of[slices.names[i].subject] for i in indices.tolist()]
            found = _overlap(logits.sigmoid() >= THRESHOLD, masks.bool())
            counts.index_add_(0, torch.tensor(owners), found.cpu().double())
        sums = processes.total(sums.to(processes.device)).cpu()
    scores = [OverlapCounts(*map(int, row)).dice for row in sums[1:].view(-1, 3).tolist()]
    defined = [score for score in scores if not math.isnan(score)]
    return float(sums[0]) / len(slices), (sum(defined) / len(defined) if defined else math.nan)


def _overlap(predictions: Tensor, masks: Tensor) -> Tensor:
    """True positives, false positives and false negatives of each slice: `(N, 3)`."""
    pairs = ((predictions & masks), (predictions & ~masks), (~predictions & masks))
    return torch.stack([pair.flatten(1).sum(dim=1) for pair in pairs], dim=1)
