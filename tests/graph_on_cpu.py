"""What a CUDA graph does, done on a CPU: a capture that refuses what a real one refuses, and a replay of kernels alone.

`Watch` sees every kernel of a step, backwards and optimiser included, and raises where the host would wait for the GPU,
where a tensor lies on another device, and where random numbers have no registered generator; `NoNewTables` raises where
the host would hand numbers over. `Graph` writes the kernels down with their tensors, computes nothing while it is
captured, and then repeats them: Python does not run again, so whatever the step takes from it stays as it was.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
HOST_WAITS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
FROM_HOST = {torch.tensor, torch.as_tensor, torch.from_numpy}
MASKED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class CaptureError(RuntimeError):
    """A real capture would have failed here."""


def tensors_in(*things: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(things) if isinstance(leaf, Tensor)]


class Watch(TorchDispatchMode):
    """`kernels` are the names of what ran."""

    def __init__(self, device: str, generators: list[torch.Generator]):
        super().__init__()
        self.device, self.generators = torch.device(device), generators
        self.kernels: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.check(func, args, kwargs)
        self.kernels.append(str(func))
        return func(*args, **kwargs)

    def check(self, func: Any, args: Any, kwargs: Any) -> None:
        found = tensors_in(args, kwargs)
        if func in MASKED:
            if any(index.dtype == torch.bool for index in tensors_in(args[1])):
                raise CaptureError(f"{func} by a mask: the host waits for the number of rows")
        elif HOST_WAITS & set(func.tags):
            raise CaptureError(f"{func}: the host waits for numbers of the GPU")
        if any(tensor.device.type != self.device.type for tensor in found):
            raise CaptureError(f"{func}: tensors on {sorted({str(tensor.device) for tensor in found})}")
        drawn_from = {leaf._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Generator)}
        known = {generator._cdata for generator in self.generators}
        draws = torch.Tag.nondeterministic_seeded in func.tags and "attention" not in str(func)  # its dropout is 0
        if draws and not (drawn_from and drawn_from <= known):
            raise CaptureError(f"{func}: random numbers of a generator that the graph does not know")


class NoNewTables(TorchFunctionMode):
    """Not for a CPU, where AdamW makes a tensor of a number itself."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FROM_HOST:
            raise CaptureError(f"{func}: numbers of the host are copied to the GPU")
        return func(*args, **(kwargs or {}))


class Graph(Watch):
    """In place of torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        super().__init__("cpu", [])
        self.calls: list[tuple[Any, Any, Any, dict[int, Tensor]]] = []  # function, arguments, new tensors by place
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # storages that the capture found, and what was in them
        self.made: set[int] = set()  # storages that it made
        self.replays = 0

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generators.append(generator)

    @contextmanager
    def capture(self) -> Any:
        states = [generator.get_state() for generator in self.generators]
        with self:
            yield
        with torch.no_grad():
            for storage, content in self.before.values():
                storage.copy_(content)
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.check(func, args, kwargs)
        taken = {address(tensor): tensor for tensor in tensors_in(args, kwargs)}
        for place, tensor in taken.items():
            if place not in self.made and place not in self.before:
                whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                self.before[place] = whole, whole.clone()
        out = func(*args, **kwargs)
        fresh = {k: tensor for k, tensor in enumerate(tensors_in(out)) if address(tensor) not in taken}
        self.made |= {address(tensor) for tensor in fresh.values()}
        self.kernels.append(str(func))
        if fresh or func._schema.is_mutable:
            self.calls.append((func, args, kwargs, fresh))
        return out

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for func, args, kwargs, fresh in self.calls:
                again = func(*args, **kwargs)
                if fresh:
                    found = tensors_in(again)
                    for place, old in fresh.items():
                        old.copy_(found[place])


def address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Stream:
    def __init__(self, events: list[Any], name: str):
        self.events, self.name = events, name

    def wait_stream(self, other: Stream) -> None:
        self.events.append((self.name, "waits for", other.name))


def cuda(events: list[Any]) -> SimpleNamespace:
    """In place of torch.cuda: `events` gets what is asked of it, graphs themselves among them."""
    main = Stream(events, "host's")

    def side() -> Stream:
        return Stream(events, "side")

    def graph(graph: Graph, stream: Stream) -> Any:
        events.append(("captured on", stream.name))
        return graph.capture()

    def on(stream: Stream) -> Any:
        events.append(("runs on", stream.name))
        return nullcontext()

    def new() -> Graph:
        events.append(Graph())
        return events[-1]

    return SimpleNamespace(CUDAGraph=new, Stream=side, current_stream=lambda: main, stream=on, graph=graph)
