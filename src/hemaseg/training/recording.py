"""A network's passes recorded once on a GPU and replayed: one launch in place of a thousand.

A GPU computes a small batch sooner than Python can launch its kernels one by one; a CUDA graph
launches them together. The kernels are the same, and so are the numbers.

*Source:* CUDA graphs as PyTorch records them (`torch.cuda.make_graphed_callables`).
"""

from typing import cast

import torch
from torch import Tensor, nn

from hemaseg.errors import TrainingError
from hemaseg.training.device import Precision, is_out_of_memory, memory_format


class Recorded(nn.Module):
    """A network whose forward and backward passes for one size of batch are recorded.

    Batches of another size, as the last one of an epoch can be, go through the network as it is.
    Replayed gradients lie where the next replay puts its own, so each batch must be used up by a
    step of the optimiser before the next.

    Args:
        network: In training mode, on a CUDA device; its buffers are left as they were.
        batch_size: Slices of the batches that are recorded.
        image_size: Their edge.
        precision: In which they are computed.

    Raises:
        TrainingError: The device or its software cannot record them.
    """

    def __init__(
        self, network: nn.Module, batch_size: int, image_size: int, precision: Precision
    ) -> None:
        super().__init__()
        self._network = network
        device = next(network.parameters()).device
        images = torch.zeros(batch_size, 1, image_size, image_size, device=device)
        images = images.contiguous(memory_format=memory_format(device))
        self._shape = images.shape
        # Recording runs the network, which moves the means and variances of its batch norms.
        before = [buffer.clone() for buffer in network.buffers()]
        autocast = torch.autocast(
            "cuda", torch.bfloat16, enabled=precision == "bf16", cache_enabled=False
        )
        # Recording goes on in a stream of its own, so gradients come from another one than PyTorch
        # expects; it waits for them, and newer versions of it would tell the user so.
        if hasattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch"):
            torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        try:
            with autocast:
                self._replayed = torch.cuda.make_graphed_callables(
                    nn.Sequential(network), (images,)
                )
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise TrainingError(
                f"the passes of a batch cannot be recorded on {device} "
                f"({str(error).splitlines()[0]}). Set training.records_passes = false: the same "
                "numbers for more time."
            ) from error
        with torch.no_grad():
            for buffer, value in zip(network.buffers(), before, strict=True):
                buffer.copy_(value)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images; valid until the next call."""
        run = self._replayed if images.shape == self._shape else self._network
        return cast(Tensor, run(images))
