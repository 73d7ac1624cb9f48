"""What a run learns about its own doubt, once its weights are chosen.

Nothing here changes a weight.
"""

from pathlib import Path

import torch
from torch import nn

from hemaseg.metrics.calibration import Calibration, LogitCounts, calibrate
from hemaseg.slices.appearance import describe_appearance
from hemaseg.slices.dataset import SliceSet
from hemaseg.training.checkpoint import MODEL, load_model, write_record
from hemaseg.training.device import memory_format


def add_doubt(
    folder: Path, training: SliceSet, validation: SliceSet, *, device: torch.device, batch_size: int
) -> Calibration:
    """Calibrate the weights in a run folder, describe the training scans, and add to `model.json`.

    Args:
        folder: With weights and `model.json`.
        training: All training slices.
        validation: All slices of the validation subjects, those without a lesion too, because
            prediction meets whole scans.
        device: Where the network runs, in full precision as in prediction.
        batch_size: Slices per call of the network; no result depends on it but by rounding.

    Returns:
        What calibration changes.

    Raises:
        CheckpointError: The folder is incomplete.
    """
    network, record = load_model(folder)
    layout = memory_format(device)
    network = network.to(device, memory_format=layout)  # type: ignore[call-overload]
    calibration = calibrate(_logit_counts(network, validation, batch_size))
    update = {"temperature": calibration.temperature, "appearance": describe_appearance(training)}
    write_record(record.model_copy(update=update), folder / MODEL)
    return calibration


def _logit_counts(network: nn.Module, slices: SliceSet, batch_size: int) -> LogitCounts:
    device = next(network.parameters()).device
    counts = LogitCounts()
    with torch.inference_mode():
        for indices in torch.arange(len(slices)).split(batch_size):
            images, masks = slices.batch(indices, device)
            logits = network(images.contiguous(memory_format=memory_format(device))).float()
            counts.add(logits.cpu().numpy(), masks.bool().cpu().numpy())
    return counts
