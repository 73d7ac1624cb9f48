"""What this machine can do at most: arithmetic in each precision, and memory bandwidth."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

NUM_TURNS = 5
_NUM_BYTES = 2**28


@dataclass(frozen=True)
class Ceilings:
    """Medians over turns, with as many threads as PyTorch has.

    Attributes:
        num_threads: Threads.
        matrix_gflops: Of a product of square matrices of 1536, by precision; a multiply-add counts
            as two operations.
        convolution_gflops: Of a 3x3 convolution of 128 to 128 channels at 64x64, by precision.
        bandwidth_gb_per_s: Bytes read and written per second in a copy of 256 MiB.
    """

    num_threads: int
    matrix_gflops: dict[str, float]
    convolution_gflops: dict[str, float]
    bandwidth_gb_per_s: float

    def gflops(self, precision: str) -> float:
        """The higher of both rates, as PyTorch reaches them."""
        return max(self.matrix_gflops[precision], self.convolution_gflops[precision])


def measure_ceilings() -> Ceilings:
    """Measure them; takes some seconds."""
    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    matrix, convolution = {}, {}
    with torch.inference_mode():
        for name, kind in types.items():
            a, b = torch.rand(1536, 1536).to(kind), torch.rand(1536, 1536).to(kind)
            matrix[name] = 2 * 1536**3 / _median_s(lambda a=a, b=b: a @ b) / 1e9  # type: ignore[misc]
            x = torch.rand(1, 128, 64, 64).to(kind, memory_format=torch.channels_last)
            w = torch.rand(128, 128, 3, 3).to(kind, memory_format=torch.channels_last)
            seconds = _median_s(lambda x=x, w=w: functional.conv2d(x, w, padding=1))  # type: ignore[misc]
            convolution[name] = 2 * 9 * 128**2 * 64**2 / seconds / 1e9
        source = torch.ones(_NUM_BYTES // 4)
        target = torch.empty_like(source)
        bandwidth = 2 * _NUM_BYTES / _median_s(lambda: target.copy_(source)) / 1e9
    return Ceilings(torch.get_num_threads(), matrix, convolution, bandwidth)


def _median_s(call: Callable[[], object]) -> float:
    taken = []
    for turn in range(NUM_TURNS + 1):
        start = time.perf_counter()
        call()
        if turn:  # the first prepares kernels and pages
            taken.append(time.perf_counter() - start)
    return statistics.median(taken)
