"""Where a network runs, how exactly, and how much memory it took."""

import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import torch

from hemaseg.errors import ConfigError

Precision = Literal["fp32", "bf16"]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
"""Parameters of glibc's malloc (man 3 mallopt), which `kept_memory` sets and sets back."""
_KEEP = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**28}
_GIVE_BACK = {
    _M_MMAP_MAX: 65536,
    # Where glibc's own adaptation ends once large blocks were freed; a call of mallopt stops it.
    _M_MMAP_THRESHOLD: 2**25,
    _M_TRIM_THRESHOLD: 2**26,
    _M_TOP_PAD: 2**17,
}


def choose_device(name: str) -> torch.device:
    """`auto` to CUDA, else MPS, else CPU; any other name to that device or an error.

    Raises:
        ConfigError: If the device does not exist here; there is no silent change of device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if not re.fullmatch("(cpu|cuda|mps)(:[0-9]{1,9})?", name):
        raise ConfigError(
            f'device "{name}" cannot be used: expected auto, cpu, cuda, cuda:N or mps. Correct it.'
        )
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f'device "{name}" cannot be used: {str(error).splitlines()[0]} '
            'Use "auto", "cpu", or a device that this machine has.'
        ) from error
    return device


def choose_precision(name: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """`auto` to bf16 on a CUDA device that computes in it, fp32 elsewhere."""
    if name != "auto":
        return name
    return "bf16" if device.type == "cuda" and _computes_in_bf16() else "fp32"


def _computes_in_bf16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def memory_format(device: torch.device) -> torch.memory_format:
    """The layout in which convolutions run fastest: channels-last, but not on MPS.

    There, batch norm in channels-last gave wrong gradients in releases that we allow
    (pytorch/pytorch#175189); to be removed once they are no longer allowed.
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


@contextmanager
def deterministic(is_on: bool) -> Iterator[None]:
    """PyTorch's deterministic algorithms on within the block; the former state comes back."""
    memory: Any = torch.utils.deterministic
    before = (
        torch.get_deterministic_debug_mode(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        memory.fill_uninitialized_memory,
    )
    # cuBLAS repeats only with a fixed workspace; it reads this variable once, at its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Not use_deterministic_algorithms, which loads PyTorch's compiler: two seconds.
    torch.set_deterministic_debug_mode("error" if is_on else "default")
    torch.backends.cudnn.deterministic = is_on
    torch.backends.cudnn.benchmark = not is_on
    # PyTorch would fill all new memory, in case that somebody reads what nobody wrote. Nobody does
    # here, and filling takes 5 to 9 % of a training step.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        torch.backends.cudnn.deterministic = before[1]
        torch.backends.cudnn.benchmark = before[2]
        memory.fill_uninitialized_memory = before[3]


@contextmanager
def kept_memory(is_on: bool) -> Iterator[None]:
    """Within the block, memory of the machine that a training step frees is kept for the next one.

    glibc gives large blocks back to Linux at once and gets them anew, page by page and zeroed: a
    fifth to a third of a step's time on a CPU (`scripts/measure_training.py`). No number changes;
    up to a third more memory is taken (`scripts/measure_costs.py`), and more where activations are
    recomputed. Without glibc nothing is done.
    """
    if not is_on or platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    for parameter, value in _KEEP.items():
        libc.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _GIVE_BACK.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring peak memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        # "5" resets the peak resident size of a process (man 5 proc, clear_refs). Where a sandbox
        # forbids it, the peak is that of the whole process.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mib(device: torch.device) -> float | None:
    """Peak since `reset_peak_memory`, in MiB: allocated on CUDA, resident in the process on Linux.

    Returns:
        None where neither can be measured.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return _proc_mib("self/status", "VmHWM")


def resident_memory_mib() -> float | None:
    """What this process holds of the machine's memory now, in MiB; None where that is unknown."""
    return _proc_mib("self/status", "VmRSS")


def available_memory_mib(device: torch.device) -> float | None:
    """What a training could take now, in MiB: of the device on CUDA, of the machine on Linux.

    On a machine it is what programs can get without swapping; a lower limit that a container sets
    is not seen.

    Returns:
        None where neither can be known.
    """
    if device.type == "cuda":
        # What PyTorch holds for reuse is taken on the device, and yet available.
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + reserved) / 2**20
    return _proc_mib("meminfo", "MemAvailable") if device.type == "cpu" else None


def _proc_mib(file: str, key: str) -> float | None:
    """A line of a file in /proc, from kB to MiB; None where there is none, as on other systems."""
    if sys.platform != "linux":
        return None
    match = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc", file).read_text(), re.MULTILINE)
    return int(match[1]) / 1024 if match else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up, of the machine or of the device."""
    # The allocators of CPU and MPS, and cuDNN, raise plain RuntimeErrors; only the text tells.
    texts = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )
