"""Devices on which tests train: the CPU, and a GPU where there is one."""

import pytest
import torch

DEVICES = (
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
    ),
)
