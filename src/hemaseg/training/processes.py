"""Several processes that train one network together, one for each device.

Every process holds the network and draws the same batches; of each batch it computes its share. The
sums of the loss and of batch norm run over all shares, so that a step means what it means in one
process: the same Dice over the whole batch, the same statistics. What differs is rounding.

*Source:* PyTorch's DistributedDataParallel (Li et al. 2020, arXiv 2006.15704), which averages the
gradients; batch norm over processes as in its SyncBatchNorm, which is for GPUs alone.
"""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from hemaseg.errors import ConfigError, TrainingError
from hemaseg.interruption import not_handled
from hemaseg.training.device import choose_device


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; alone by default.

    Attributes:
        rank: From 0; the process of rank 0 writes.
        num: How many there are.
        local_rank: Rank among those of this machine, which is the number of the device.
    """

    rank: int = 0
    num: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes and shows."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where tensors must be that processes exchange."""
        if self.num > 1 and dist.get_backend() == "nccl":
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")

    def share(self, num_slices: int) -> slice:
        """Which of a batch's slices are this process's; as even as can be, some may get none."""
        small, rest = divmod(num_slices, self.num)
        start = self.rank * small + min(self.rank, rest)
        return slice(start, start + small + (self.rank < rest))

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes; gradients flow back to all of them."""
        return values if self.num == 1 else _gathered(values).sum(0)

    def any(self, is_so: bool) -> bool:
        """Whether it is so in any process; all must ask."""
        if self.num == 1:
            return is_so
        return bool(self.total(torch.tensor(float(is_so), device=self.device)))

    def wait(self) -> None:
        """Until all are here."""
        self.any(False)

    def join(self, network: nn.Module) -> nn.Module:
        """The network with batch norm over all shares, its gradients averaged after each step.

        Alone, the network itself. Weights are shared with the network given, whose batch norms are
        replaced in place.
        """
        if self.num == 1:
            return network
        if next(network.parameters()).is_cuda:
            joined = nn.SyncBatchNorm.convert_sync_batchnorm(network)
            return DistributedDataParallel(joined, [self.device], **_WITHOUT_BUFFERS)
        for module in network.modules():
            if type(module) is nn.BatchNorm2d:
                # The same object with other arithmetic, so that whoever holds it sees no change.
                module.__class__ = _JoinedBatchNorm2d
        return DistributedDataParallel(network, **_WITHOUT_BUFFERS)


ALONE = Processes()

_WITHOUT_BUFFERS: dict[str, Any] = (
    {"forward_sync_buffers": False}
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else {"broadcast_buffers": False}  # before PyTorch 2.13
)
"""All processes compute the same running statistics, so none has to send them."""


class _Gathered(torch.autograd.Function):
    """A tensor of every process, stacked by rank. Each computes from it, and all results count."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        gathered = [torch.empty_like(values) for _ in range(dist.get_world_size())]
        with _losses_of_others():
            dist.all_gather(gathered, values.detach().contiguous())
        return torch.stack(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        with _losses_of_others():
            dist.all_reduce(total)
        own: Tensor = total[dist.get_rank()]
        return own


def _gathered(values: Tensor) -> Tensor:
    return cast(Tensor, _Gathered.apply(values))  # type: ignore[no-untyped-call]


@contextmanager
def _losses_of_others() -> Iterator[None]:
    """Says what it means when an exchange fails."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"process {dist.get_rank()} of {dist.get_world_size()} lost the others "
            f"({shorten(str(error).splitlines()[0], 160)}). The message of the one that ended "
            "first says why; go on with --resume, on any number of processes."
        ) from error


class _JoinedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose mean and variance are those of all processes' slices."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            mean, variance, num = self._statistics(x)
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.momentum is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            # As PyTorch's: the running variance is the unbiased one.
            self.running_var.lerp_(variance * (num / (num - 1)), self.momentum)
        normalised = _Normalised.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, mean, variance, num, self.eps
        )
        return cast(Tensor, normalised)

    @staticmethod
    def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and variance of each channel over all processes, and the number of values."""
        num_channels, num_local = x.shape[1], x.numel() // x.shape[1]
        values = x.double() if x.dtype == torch.float64 else x.float()
        if num_local:
            variance, mean = torch.var_mean(values, (0, 2, 3), correction=0)
        else:  # A share may be empty.
            variance = mean = values.new_zeros(num_channels)
        local = torch.cat([mean, variance, values.new_tensor([num_local])])
        means, variances, nums = _gathered(local).split([num_channels, num_channels, 1], dim=1)
        # Chan et al. 1979, Eq. 2.1: no difference of large sums.
        num = nums.sum()
        mean = (nums * means).sum(0) / num
        return mean, (nums * (variances + (means - mean).square())).sum(0) / num, num


class _Normalised(torch.autograd.Function):
    """Batch norm by given statistics; gradients pass through these too, in all processes.

    *Source:* Ioffe and Szegedy 2015 (arXiv 1502.03167), the gradients in section 3.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        num: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance, num)
        ctx.eps = eps
        if not x.numel():
            return x.clone()
        return functional.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, num = ctx.saved_tensors
        inverse_sd = (variance + ctx.eps).rsqrt()
        if x.numel():
            # As if the statistics were constants; and with them sum(g) and sum(g x_normalised).
            of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
                *(gradients[0], x, weight, mean, variance, None, None, False, ctx.eps),
                [True, True, True],
            )
        else:
            of_x, of_weight, of_bias = x, torch.zeros_like(weight), torch.zeros_like(weight)
        sums = _gathered(torch.stack([of_bias, of_weight])).sum(0) / num
        slope = -weight * inverse_sd * inverse_sd * sums[1]
        shift = -weight * inverse_sd * sums[0] - slope * mean
        # In the precision of the statistics: the terms nearly cancel each other.
        change = torch.addcmul(shift.view(1, -1, 1, 1), x.to(shift.dtype), slope.view(1, -1, 1, 1))
        return change.add_(of_x).to(x.dtype), of_weight, of_bias, None, None, None, None


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun or SLURM's srun started; alone if neither did.

    torchrun says by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT who is who; srun by
    SLURM_PROCID, SLURM_STEP_NUM_TASKS (which a batch script outside srun does not have) and
    SLURM_LOCALID, and needs MASTER_ADDR and MASTER_PORT of the user (`docs/clusters.md`). They
    speak NCCL on CUDA, where each takes the GPU of its local rank, and gloo elsewhere.

    Args:
        device: As the user named it; decides the language.

    Raises:
        ConfigError: Something of the above is missing, or they cannot be joined.
    """
    found = _find()
    if found.num == 1:
        yield found
        return
    _require_startable(found, device)
    is_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    # DDP loads this module, whose functions keep the group that there is then, in their defaults:
    # loaded later, it would hold the group for ever, and the group's threads, which abort the
    # process now and then when they want Python's lock while it ends.
    from torch.distributed.nn import functional as _  # noqa: F401

    try:
        if is_cuda:
            torch.cuda.set_device(found.local_rank % torch.cuda.device_count())
        with not_handled():  # It waits for the others outside of Python.
            dist.init_process_group(
                "nccl" if is_cuda else "gloo", rank=found.rank, world_size=found.num
            )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"process {found.rank} of {found.num} cannot join the others: "
            f"{str(error).splitlines()[0]} Check MASTER_ADDR, MASTER_PORT and that all were "
            "started."
        ) from error
    try:
        yield found
        # Who leaves first can end the others while their threads still speak to it.
        with _losses_of_others():
            dist.barrier()
    finally:
        dist.destroy_process_group()


def _require_startable(found: Processes, device: str) -> None:
    """Refuse several processes of which one could not find the others, or has no device."""
    if not 0 <= found.rank < found.num:
        raise ConfigError(
            f"process {found.rank} of {found.num}, expected 0 to {found.num - 1}. Start all of "
            "them with torchrun or srun."
        )
    if ":" in device:
        raise ConfigError(
            f"device {device} for each of {found.num} processes, expected one device for each. "
            "Name auto, cuda or cpu."
        )
    choose_device(device)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise ConfigError(
                f"{found.num} processes were started but {name} is not set, expected the address "
                "and a free port of the first one's machine. Set it as docs/clusters.md shows, or "
                "start with torchrun."
            )


def _find() -> Processes:
    """Who this process is, by what started it."""
    for rank, num, local in (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    ):
        if rank in os.environ and num in os.environ:
            try:
                numbers = [int(os.environ.get(name, "0")) for name in (rank, num, local)]
            except ValueError:
                continue
            return Processes(*numbers)
    return ALONE
