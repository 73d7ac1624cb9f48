"""Peak memory of a training, predicted before it starts, and refused where it cannot fit.

Training steps are run on shapes alone (PyTorch's "meta" device, no arithmetic and no memory), and
the bytes of all tensors that live at the same time are counted: weights, gradients, the optimiser's
two moments, activations kept for the backward pass, and what is made on the way. Not counted, since
only the processor's library knows it, is scratch space within an operation.
"""

import math
import weakref
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from hemaseg.config import ModelConfig, Recipe, RunConfig
from hemaseg.errors import TrainingError
from hemaseg.models.catalogue import build_model, model_class
from hemaseg.models.recomputation import recomputation
from hemaseg.slices.dataset import SliceSet
from hemaseg.training.device import (
    Precision,
    available_memory_mib,
    choose_device,
    choose_precision,
    resident_memory_mib,
)
from hemaseg.training.losses import loss

LEAST_STEPS_RECORDED = 8
"""Of an epoch: recording takes as long as a few steps."""


def _like(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x)


def _normalised(x: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[1]), x.new_empty(x.shape[1])


_QUICK: dict[object, Callable[..., object]] = {
    torch.ops.aten.native_batch_norm.default: _normalised,
    torch.ops.aten.native_batch_norm_backward.default: _normalised,
    torch.ops.aten.elu.default: _like,
    torch.ops.aten.elu_.default: lambda x, *_: x,
    torch.ops.aten.elu_backward.default: _like,
}
"""Shapes of what some operations give on "meta", where PyTorch takes milliseconds for each."""


class LiveBytes(TorchDispatchMode):
    """Counts, within its block, the bytes of tensors while they live.

    Attributes:
        now: Bytes of the tensors that live: those told to `add`, and those made in the block. Views
            and results in place share their storage, which counts once.
        peak: Highest value of `now` so far.

    >>> live = LiveBytes()
    >>> with live:
    ...     a = torch.zeros(1000, device="meta")
    ...     b = (a + 1).relu_()
    ...     del a
    >>> live.now, live.peak
    (4000, 8000)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def add(self, tensor: Tensor) -> None:
        """Count a tensor, unless its storage is counted already."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.now -= self._sizes.pop(key)

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run one operation and count what it made."""
        is_meta = isinstance(args[0], Tensor) and args[0].is_meta if args else False
        result = (_QUICK.get(func, func) if is_meta else func)(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self.add(value)
        return result


class _AsBfloat16(nn.Module):
    """What mixed precision does to the weights of convolutions."""

    def forward(self, weights: Tensor) -> Tensor:
        return weights.bfloat16()


def training_mib(
    model: ModelConfig,
    recipe: Recipe,
    *,
    batch_size: int,
    precision: Precision,
    device_type: str = "cpu",
) -> float:
    """Predicted peak of a training's tensors, in MiB; the slices that wait on the CPU not among it.

    Args:
        model: The network.
        recipe: Image size, loss, whether activations are recomputed. Its batch size is not heeded.
        batch_size: Slices per step.
        precision: As resolved for the device.
        device_type: `cpu`, `cuda` or `mps`; decides how the optimiser works.
    """
    with torch.device("meta"):
        network: nn.Module = build_model(model.name, model.options)
    if precision == "bf16":
        # There is no autocast for "meta".
        for module in list(network.modules()):
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                for name, _ in list(module.named_parameters(recurse=False)):
                    parametrize.register_parametrization(module, name, _AsBfloat16(), unsafe=True)
    size = recipe.slices.image_size
    images, masks = torch.empty(2, batch_size, 1, size, size, device="meta")
    weights = list(network.parameters())
    moments = [torch.empty_like(weight) for weight in weights for _ in range(2)]
    live = LiveBytes()
    for tensor in (images, *weights, *moments, *network.buffers()):
        live.add(tensor)
    with live:
        with recomputation(recipe.training.recomputes_activations):
            logits = network(images.bfloat16() if precision == "bf16" else images)
        loss(logits, masks, recipe.loss).backward()
        del logits
        # Adam and AdamW divide by a root in two steps, one weight at a time; on CUDA in one kernel.
        if device_type != "cuda":
            _ = [torch.empty_like(max(weights, key=Tensor.numel)) for _ in range(2)]
    return live.peak / 2**20


def checkpoint_mib(model: ModelConfig) -> float:
    """Most that the tensors of a training on a CPU take while it writes a checkpoint, in MiB.

    That is between two steps, when there are no activations: eight times the weights, which are
    there with gradients and two moments, as plain copies with the moments, and as the best so far.
    """
    with torch.device("meta"):
        network: nn.Module = build_model(model.name, model.options)
    return 8 * sum(weight.nbytes for weight in network.parameters()) / 2**20


@dataclass(frozen=True)
class Placement:
    """What lies on a GPU besides the network, so that it waits neither for data nor for Python.

    Attributes:
        slices_on_device: All slices do.
        passes_recorded: The passes of a batch do, recorded (`training.recording`).
    """

    slices_on_device: bool = False
    passes_recorded: bool = False


def place(
    config: RunConfig,
    sets: Sequence[SliceSet],
    step_mib: float,
    *,
    device: torch.device,
    num_slices: int,
    num_processes: int,
) -> Placement:
    """Decide it by the memory that is free now; nothing on other devices than GPUs.

    Args:
        config: Of the run.
        sets: For training and validation.
        step_mib: Predicted peak of a step.
        device: Which this process should have for itself.
        num_slices: Training slices of an epoch.
        num_processes: That share each batch; their passes are not recorded.
    """
    available_mib = available_memory_mib(device)
    if device.type != "cuda" or available_mib is None:
        return Placement()
    training = config.recipe.training
    slices_mib = sum(part.num_bytes for part in sets) / 2**20
    # Half of it stays free, for what is recorded and for other programs.
    has_slices = step_mib + slices_mib <= 0.5 * available_mib
    is_recorded = (
        training.records_passes
        and num_processes == 1
        and training.slices_per_pass == training.batch_size
        and not training.recomputes_activations
        and num_slices >= LEAST_STEPS_RECORDED * training.batch_size
        # The last batch of an epoch, which is not recorded, takes memory beside what is.
        and 2 * step_mib + has_slices * slices_mib <= available_mib
    )
    return Placement(has_slices, is_recorded)


def require_memory(
    config: RunConfig, *, num_slices: int | None = None, num_processes: int = 1
) -> float:
    """Predict the peak of a training; refuse it where that is more than there is now.

    A refusal and not a warning: tensors take what is predicted to within a tenth, and the process
    takes more than its tensors. Beyond what is free, the system would end this process on a CPU, or
    another one, without a word. Where nobody knows how much there is, nothing is refused.

    Args:
        config: Of the run.
        num_slices: Training slices of an epoch, where that is known: a batch is never larger.
        num_processes: That share each batch; what they take is asked for as if each had a device of
            its own.

    Returns:
        What `peak_memory_mib` is expected to say after training, in MiB. On a CPU that is of the
        whole process, so what is resident now (PyTorch, the slices) is added to the larger of
        `training_mib` and `checkpoint_mib`.

    Raises:
        ConfigError: There is no such device here.
        TrainingError: It does not fit; says what would.
    """
    training = config.recipe.training
    device = choose_device(config.device)
    precision = choose_precision(training.precision, device)
    per_pass = training.slices_per_pass
    batch_size = math.ceil(min(per_pass, num_slices or per_pass) / num_processes)
    if num_processes > 1:
        # A share of one slice cannot be tried, where the bottleneck is one pixel, but trained.
        batch_size = max(batch_size, _smallest_batch(config))
    needed = _training_mib(config, device, precision, batch_size)
    available = available_memory_mib(device)
    if available is None or needed <= available:
        return needed + ((resident_memory_mib() or 0.0) if device.type == "cpu" else 0.0)
    size = config.recipe.slices.image_size
    raise TrainingError(
        f"training {config.model.name} with {batch_size} slices of image_size {size} at once would "
        f"take {needed:,.0f} MiB on {device}, expected at most the {available:,.0f} MiB that are "
        f"free. {_advice(config, device, precision, batch_size, available)}"
    )


def _advice(
    config: RunConfig,
    device: torch.device,
    precision: Precision,
    batch_size: int,
    available_mib: float,
) -> str:
    """What would fit: recomputation, the largest batch without and with it."""
    ways = []
    is_on = config.recipe.training.recomputes_activations
    for recomputes in (False, True) if not is_on else (True,):
        changed = _with_recomputation(config, recomputes)
        largest = _largest_batch(changed, device, precision, batch_size, available_mib)
        words = "training.recomputes_activations = true" if recomputes and not is_on else ""
        if largest == batch_size:
            ways.append(words)
        elif largest:
            # Parts as even as can be: batch norm learns little from a last one of one slice.
            size = math.ceil(batch_size / math.ceil(batch_size / largest))
            ways.append(f"{words}{' and ' if words else ''}training.micro_batch_size = {size}")
    if not ways:
        return "Not even one slice fits: choose a smaller slices.image_size or model."
    return (
        f"What fits: {', or '.join(ways)} (the batch for each change of the weights stays "
        f"{config.recipe.training.batch_size}); else a smaller slices.image_size or model."
    )


def _largest_batch(
    config: RunConfig,
    device: torch.device,
    precision: Precision,
    batch_size: int,
    available_mib: float,
) -> int:
    """Largest batch up to `batch_size` that fits; 0 if none does."""
    sizes = range(_smallest_batch(config), batch_size + 1)
    num_fitting = bisect_right(
        sizes, available_mib, key=lambda size: _training_mib(config, device, precision, size)
    )
    return sizes[num_fitting - 1] if num_fitting else 0


def _smallest_batch(config: RunConfig) -> int:
    """With a bottleneck of one pixel, one slice cannot be normalised, nor tried."""
    return 2 if config.recipe.slices.image_size == model_class(config.model.name).stride else 1


def _with_recomputation(config: RunConfig, is_on: bool) -> RunConfig:
    training = config.recipe.training.model_copy(update={"recomputes_activations": is_on})
    recipe = config.recipe.model_copy(update={"training": training})
    return config.model_copy(update={"recipe": recipe})


def _training_mib(
    config: RunConfig, device: torch.device, precision: Precision, batch_size: int
) -> float:
    step_mib = training_mib(
        config.model,
        config.recipe,
        batch_size=batch_size,
        precision=precision,
        device_type=device.type,
    )
    # Of a device that is no CPU, a checkpoint takes nothing.
    return max(step_mib, checkpoint_mib(config.model) if device.type == "cpu" else 0.0)
