"""A step of training as one CUDA graph: the host launches it once, not some two thousand kernels one by one.

A graph repeats the same kernels on the same addresses. So what changes from step to step (the batch, the learning rate,
counters) lies in tensors that stay where they are and are written in place; a number of the host is frozen at its
value of the capture; and nothing in a step may wait for the GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

WARM_UP = 3  # steps before the capture, in which libraries choose their kernels and tensors that stay are made


def captures(device: str) -> bool:
    """Whether steps on this device are CUDA graphs."""
    return torch.device(device).type == "cuda"


class Graphed:
    """`step` for a GPU: its first WARM_UP calls run kernel by kernel, the next is captured, the rest are replays.

    Every call is one step, the early ones too. Warm-up and capture share a stream beside the host's own, as a capture
    needs; random numbers of `generator` go on from replay to replay.
    """

    def __init__(self, step: Callable[[], None], optimizer: Optimizer, generator: torch.Generator):
        """Raises ValueError for an optimiser that reads numbers of the host, which a graph would freeze."""
        for group in optimizer.param_groups:
            if not (group.get("capturable") and isinstance(group["lr"], Tensor)):
                raise ValueError(
                    "a CUDA graph freezes the numbers of the host: make the optimiser with capturable=True and its "
                    f"learning rate as a tensor, not {type(optimizer).__name__} with lr={group['lr']!r}"
                )
        self.step, self.generator = step, generator
        self.stream = torch.cuda.Stream()
        self.forget()

    def forget(self) -> None:
        """The step is another one from now on, say in another precision: warmed up and captured anew."""
        self.graph: torch.cuda.CUDAGraph | None = None
        self.warm = 0

    def __call__(self) -> None:
        if self.graph is None and self.warm < WARM_UP:
            self.warm += 1
            self.run_beside()
            return
        if self.graph is None:
            self.graph = self.captured()
        self.graph.replay()

    def run_beside(self) -> None:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.step()
        torch.cuda.current_stream().wait_stream(self.stream)

    def captured(self) -> torch.cuda.CUDAGraph:
        """Nothing is computed here: the kernels are only written down."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph, stream=self.stream):
            self.step()
        return graph
