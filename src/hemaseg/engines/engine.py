"""Engines: images to logits, by a network that was trained.

PyTorch is always there and runs everywhere. OpenVINO runs the networks of the catalogue on CPUs,
1.3 to 2.8 times as fast (docs/performance.md); both compute in fp32 unless told otherwise, and
their masks are the same but for a pixel in 100,000.

Shape legend: N slices of a call, H rows, W columns (H = W).
"""

from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from hemaseg.engines.graph import openvino_graph
from hemaseg.engines.options import EngineOptions
from hemaseg.errors import EngineError
from hemaseg.models.blocks import Network
from hemaseg.training.checkpoint import ModelRecord, load_model
from hemaseg.training.device import choose_device, memory_format

MAX_WORKERS = 8
"""Slices that a CPU works on at a time; DR U-Net takes about 150 MiB for each."""

_BATCH_SIZE = 8
"""Slices per call on a GPU; batch norm is in evaluation mode, so masks do not depend on it."""


class Engine(Protocol):
    """Images to logits; several threads may call it at a time.

    Attributes:
        name: "torch" or "openvino".
        precision: What it computes in.
        batch_size: Slices that a call takes at most. On a CPU 1: the tensors of several fit neither
            into caches nor into what malloc keeps; DR U-Net takes twice as long per slice by 8.
        num_workers: Threads that call it at a time when there is enough to do.
    """

    name: str
    precision: str
    batch_size: int
    num_workers: int

    def __call__(self, images: Tensor) -> Tensor:
        """Float32 logits `(N, 1, H, W)`, on any device, of images `(N, 1, H, W)` on the CPU."""
        ...


class TorchEngine:
    """PyTorch, on any device."""

    name = "torch"

    def __init__(
        self, network: nn.Module, device: torch.device | None = None, precision: str = "fp32"
    ) -> None:
        self._device = device or torch.device("cpu")
        self._layout = memory_format(self._device)
        self._network = network.eval().to(self._device, memory_format=self._layout)  # type: ignore[call-overload]
        self.precision = precision
        is_cpu = self._device.type == "cpu"
        self.batch_size = 1 if is_cpu else _BATCH_SIZE
        self.num_workers = _num_workers() if is_cpu else 1

    def __call__(self, images: Tensor) -> Tensor:
        """As `Engine` says; logits are on the network's device."""
        is_reduced = self.precision == "bf16"
        with (
            torch.inference_mode(),
            torch.autocast(self._device.type, torch.bfloat16, enabled=is_reduced),
        ):
            logits = self._network(images.to(self._device).contiguous(memory_format=self._layout))
        return cast(Tensor, logits.float())


class NoBf16Error(EngineError):
    """The processor does not compute in bf16."""


class OpenVinoEngine:
    """OpenVINO, on a CPU: a stream of one thread for each worker.

    Raises:
        EngineError: It is not installed, or has no translation of the network.
        NoBf16Error: The processor does not compute in bf16.
    """

    name = "openvino"
    batch_size = 1

    def __init__(self, network: nn.Module, image_size: int, precision: str = "fp32") -> None:
        if not isinstance(network, Network):
            raise EngineError(
                f"{type(network).__name__} is no network of the catalogue, which openvino could "
                "run. Use torch."
            )
        try:
            from openvino import Core
        except ImportError as error:
            raise EngineError(
                f'engine "openvino" is not installed or damaged ({error}). Install it by pip '
                'install "hemaseg[fast]", or use torch.'
            ) from error
        self.precision = precision
        self.num_workers = _num_workers()
        core = Core()
        if precision == "bf16" and "BF16" not in core.get_property(
            "CPU", "OPTIMIZATION_CAPABILITIES"
        ):
            raise NoBf16Error(
                "this processor does not compute in bf16. Leave out --precision bf16."
            )
        settings = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": self.num_workers,
            "NUM_STREAMS": self.num_workers,
            # Threads go where the system lets them: a core can be busy or not be ours.
            "ENABLE_CPU_PINNING": False,
        }
        graph = openvino_graph(network.eval(), image_size)
        try:
            compiled = core.compile_model(graph, "CPU", settings)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise EngineError(
                f"openvino cannot run this network on this processor ({reason}). Use torch."
            ) from error
        # A request computes one slice at a time; as many are made as threads call at a time.
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self.num_workers):
            self._requests.put(compiled.create_infer_request())
        # The first call of a process makes static objects of OpenVINO's Python module. Two threads
        # that do so at a time can wait for each other for ever, one holding Python's lock.
        self(torch.zeros(1, 1, image_size, image_size))

    def __call__(self, images: Tensor) -> Tensor:
        """As `Engine` says."""
        request = self._requests.get()
        try:
            return torch.from_numpy(request.infer([images.numpy()])[0])
        finally:
            self._requests.put(request)


def choose_engine(
    network: nn.Module, image_size: int, options: EngineOptions | None = None
) -> Engine:
    """The engine that the user asks for, or the fastest one.

    That is OpenVINO where it is installed, the device is a CPU and the network of the catalogue;
    else PyTorch. `hemaseg bench` compares them on the machine at hand.

    Args:
        network: Trained.
        image_size: H and W of the images to come.
        options: What is asked for.

    Raises:
        EngineError: The engine that was named cannot run this, or it is left to us, and OpenVINO
            finds that the processor does not compute in bf16.
        ConfigError: The device does not exist.
    """
    options = options or EngineOptions()
    device = choose_device(options.device)
    if options.engine == "openvino":
        if device.type != "cpu":
            raise EngineError(
                f'engine "openvino" runs on the CPU, asked for {device}. Pass --device cpu, or '
                "leave out --engine."
            )
        return OpenVinoEngine(network, image_size, options.precision)
    if options.engine == "auto" and device.type == "cpu":
        try:
            return OpenVinoEngine(network, image_size, options.precision)
        except NoBf16Error:
            raise  # PyTorch would emulate it, and be slower than in fp32.
        except EngineError:
            pass  # PyTorch runs what OpenVINO cannot, and all where there is none.
    return TorchEngine(network, device, options.precision)


def load_engine(
    run_folder: Path, options: EngineOptions | None = None
) -> tuple[Engine, ModelRecord]:
    """The engine of a run folder's network, and how to use it.

    Raises:
        CheckpointError: The run folder is incomplete or damaged.
        EngineError, ConfigError: As `choose_engine` says.
    """
    network, record = load_model(run_folder)
    return choose_engine(network, record.image_size, options), record


def _num_workers() -> int:
    # One thread for each slice, not all threads for one: they would wait for each other after every
    # layer, which takes many times as long where another program keeps a core.
    return min(torch.get_num_threads(), MAX_WORKERS)
