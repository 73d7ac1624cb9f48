"""Optimiser and learning rate, as a recipe names them."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from hemaseg.config import OptimiserConfig, ScheduleConfig


def make_optimiser(network: nn.Module, config: OptimiserConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over all weights; on a GPU all of them at once."""
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    weights = list(network.parameters())
    return kind(
        weights,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=weights[0].is_cuda or None,
    )


def make_schedules(
    optimiser: torch.optim.Optimizer, config: ScheduleConfig, num_steps: int
) -> tuple[LambdaLR | None, ReduceLROnPlateau | None]:
    """The schedule that the recipe names: cosine, stepped per batch, or plateau, per epoch.

    Args:
        optimiser: Whose rate changes.
        config: Name and numbers.
        num_steps: Of the whole training.
    """
    if config.name == "plateau":
        return None, ReduceLROnPlateau(optimiser, factor=config.factor, patience=config.patience)
    num_warmup = round(config.warmup_share * num_steps)

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / (num_warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / max(1, num_steps - num_warmup)))

    return LambdaLR(optimiser, factor), None
