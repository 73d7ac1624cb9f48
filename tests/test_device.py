import os
import platform
import resource
import subprocess
import sys

import pytest
import torch

from hemaseg.errors import ConfigError
from hemaseg.training.device import (
    available_memory_mib,
    choose_device,
    choose_precision,
    deterministic,
    is_out_of_memory,
    memory_format,
    peak_memory_mib,
    reset_peak_memory,
    resident_memory_mib,
)

CPU = torch.device("cpu")


def test_named_device_is_taken() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:x", "", "CPU"])
def test_names_of_no_device_are_refused_with_those_that_are(name: str) -> None:
    found = f'device "{name}" cannot be used: expected auto, cpu, cuda, cuda:N or mps'
    with pytest.raises(ConfigError, match=found):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda:77", "mps:77"])
def test_absent_device_is_refused_not_replaced(name: str) -> None:
    with pytest.raises(ConfigError, match=f'device "{name}" cannot be used'):
        choose_device(name)


def test_auto_precision_on_cpu_is_single() -> None:
    assert choose_precision("auto", CPU) == "fp32"
    assert choose_precision("bf16", CPU) == "bf16"


def test_auto_prefers_cuda_then_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


@pytest.mark.parametrize(("is_native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_on_cuda_takes_bf16_only_where_it_is_native(
    monkeypatch: pytest.MonkeyPatch, is_native: bool, expected: str
) -> None:
    def is_supported(including_emulation: bool = True) -> bool:
        return including_emulation or is_native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert choose_precision("auto", torch.device("cuda")) == expected


def test_layout_is_contiguous_on_mps_only() -> None:
    assert memory_format(torch.device("mps")) == torch.contiguous_format
    assert memory_format(torch.device("cuda")) == memory_format(CPU) == torch.channels_last


def test_deterministic_mode_ends_with_its_block() -> None:
    before = torch.are_deterministic_algorithms_enabled()

    def fail_inside() -> None:
        with deterministic(not before):
            assert torch.are_deterministic_algorithms_enabled() is not before
            raise RuntimeError("inner")

    with pytest.raises(RuntimeError, match="inner"):
        fail_inside()
    assert torch.are_deterministic_algorithms_enabled() is before


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_peak_memory_sees_an_allocation() -> None:
    reset_peak_memory(CPU)
    before = peak_memory_mib(CPU)
    block = torch.ones(64, 2**20)  # 256 MiB
    del block
    after = peak_memory_mib(CPU)
    assert before is not None
    assert after is not None
    assert after - before > 200


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc of glibc")
def test_freed_memory_is_kept_within_the_block_only() -> None:
    # In a process of its own: what other tests left free in the heap would be used again.
    code = """
import resource, torch
from hemaseg.training.device import kept_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24).sum()  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with kept_memory(False):
    print([faults() for _ in range(3)][-1])
with kept_memory(True):
    # The first blocks are fitted between what was there before.
    print([faults() for _ in range(20)][-1])
print(faults())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    off, on, after = map(int, run.stdout.split())
    num_pages = 2**26 // resource.getpagesize()
    assert on < 0.1 * num_pages
    # With huge pages a fault brings 512 at a time.
    assert off > 0.9 * num_pages / 512
    assert after > 0.9 * num_pages / 512


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_of_process_and_machine() -> None:
    before, available = resident_memory_mib(), available_memory_mib(CPU)
    block = torch.ones(64, 2**20)  # 256 MiB
    after = resident_memory_mib()
    del block
    assert before is not None
    assert after is not None
    assert available is not None
    assert 200 < after - before < 300
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    assert 0 < available < total


def test_memory_of_a_gpu_is_what_is_free_and_what_is_held_for_reuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100 * 2**20, 400 * 2**20))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50 * 2**20)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20 * 2**20)
    assert available_memory_mib(torch.device("cuda")) == 130


def test_memory_is_unknown_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_memory_mib(torch.device("mps")) is None
    monkeypatch.setattr(sys, "platform", "darwin")
    assert available_memory_mib(CPU) is None
    assert resident_memory_mib() is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), True),
        (RuntimeError("sizes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_lack_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
