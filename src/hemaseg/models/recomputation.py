"""Activations that the backward pass computes again, in place of keeping them for it.

Networks give the stretches of their forward pass to `recomputed`. Inside `recomputation(True)` only
the inputs of a stretch are kept; what it made on the way is computed a second time when gradients
pass through it. Loss, gradients and running statistics are the same to the bit; the price is about
one forward pass more in each training step.

*Source:* Chen et al. 2016 (arXiv 1604.06174), known as activation or gradient checkpointing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_is_on: ContextVar[bool] = ContextVar("_is_on", default=False)


@contextmanager
def recomputation(is_on: bool) -> Iterator[None]:
    """Whether forward passes within the block keep only the inputs of their stretches."""
    token = _is_on.set(is_on)
    try:
        yield
    finally:
        _is_on.reset(token)


def recomputed(
    compute: Callable[..., Tensor], modules: Sequence[nn.Module], *inputs: Tensor
) -> Tensor:
    """`compute(modules, *inputs)`, a stretch of a forward pass, kept as `recomputation` says.

    Stretches within a stretch are not told apart: the outermost counts.

    Args:
        compute: Modifies no input in place.
        modules: All that it runs. Their buffers (batch norm's running statistics) are as after one
            pass.
        inputs: What is kept.
    """
    # What is compiled is never recomputed: asking a context variable would cut its graph in pieces.
    if torch.compiler.is_compiling() or not (_is_on.get() and torch.is_grad_enabled()):
        return compute(modules, *inputs)
    result = checkpoint(
        compute,
        modules,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (recomputation(False), _second_pass(modules)),
    )
    assert isinstance(result, Tensor)
    return result


@contextmanager
def _second_pass(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Copies of all buffers take what a second pass adds to them, and are thrown away."""
    kept = [
        (module, name, buffer)
        for part in modules
        for module in part.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    for module, name, buffer in kept:
        setattr(module, name, buffer.clone())
    try:
        with recomputation(False):
            yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)
