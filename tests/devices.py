"""Devices on which tests train: the CPU, and a GPU where there is one."""

import pytest
import torch

from hemaseg.training import epochs, memory

DEVICES = (
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
    ),
)


def as_for_large_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU records passes of the shortest epoch too, and looks at losses every other step."""
    monkeypatch.setattr(memory, "LEAST_STEPS_RECORDED", 1)
    monkeypatch.setattr(epochs, "_STEPS_BETWEEN_CHECKS", 2)
