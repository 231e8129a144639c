"""One batch shared among the processes of a torchrun, each on a core.

One-thread processes that share a batch are much faster on a CPU than one process with as many threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

from .graph import captures


def join(device: str) -> tuple[int, int]:
    """(rank, number of processes); (0, 1) without torchrun. Raises ValueError on a GPU."""
    if "WORLD_SIZE" not in os.environ:
        return 0, 1
    if captures(device):
        raise ValueError(f"start without torchrun or with --device cpu: it is for the cores of a CPU, not for {device}")
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    return dist.get_rank(), dist.get_world_size()


def is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Over the processes, in place; a single process keeps its own."""
    if not dist.is_initialized():
        return
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


def average_clock(seconds: float) -> float:
    """One clock for all processes, so that they end at the same step."""
    if not dist.is_initialized():
        return seconds
    clock = torch.tensor([seconds], dtype=torch.float64)
    dist.all_reduce(clock)
    return clock.item() / dist.get_world_size()
