"""One step of training: loss, gradients, AdamW, moving average, and running means of what is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from . import average
from .graph import Graphed, captures
from .processes import average_gradients

Losses = tuple[Tensor, dict[str, Tensor]]  # scalar, and what to report


def adamw(network: nn.Module, device: str, **options: Any) -> AdamW:
    """Its learning rate is set before each step: a number on a CPU, a tensor where a graph repeats the step."""
    graph = captures(device)
    rate = torch.ones((), device=device) if graph else 1.0
    return AdamW(network.parameters(), lr=rate, capturable=graph, foreach=graph, **options)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def tensors(batch: Any) -> Iterator[Tensor]:
    """Those of a batch, a dataclass of tensors and of such dataclasses."""
    for field in fields(batch):
        value = getattr(batch, field.name)
        yield from tensors(value) if is_dataclass(value) else (value,)


def cloned(batch: Any) -> Any:
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return type(batch)(**{k: cloned(v) if is_dataclass(v) else v.clone() for k, v in values.items()})


class Step:
    """Steps of one network. Each copies its batch into the same tensors, so that a graph can repeat it on a GPU."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        averaged: average.Average,
        loss: Callable[[Any], Losses],
        generator: torch.Generator,
        max_norm: float | None = None,
    ):
        """`loss` of a batch may draw from `generator` alone; gradients longer than `max_norm` are cut to it."""
        self.network, self.optimizer, self.averaged, self.loss = network, optimizer, averaged, loss
        self.max_norm = max_norm
        self.device = generator.device
        self.batch: Any = None
        self.bf16 = False
        self.report: dict[str, Tensor] = {}  # running means
        graph = captures(str(self.device))
        self.share: float | Tensor = torch.zeros((), device=self.device) if graph else 0.0
        self.graph = Graphed(self.run, optimizer, generator) if graph else None

    def __call__(self, batch: Any, rate: float, share: float, bf16: bool = False) -> None:
        """`rate` of the optimiser, `share` of the moving average. Raises ValueError for a batch of another size."""
        self.take(batch)
        set_rate(self.optimizer, rate)
        if isinstance(self.share, Tensor):
            self.share.fill_(share)
        else:
            self.share = share
        if self.graph is not None and bf16 != self.bf16:
            self.graph.forget()
        self.bf16 = bf16
        (self.graph or self.run)()

    def take(self, batch: Any) -> None:
        if self.batch is None:
            self.batch = cloned(batch)
            return
        for mine, theirs in zip(tensors(self.batch), tensors(batch), strict=True):
            if mine.shape != theirs.shape:
                sizes = f"{list(mine.shape)} comes {list(theirs.shape)}"
                raise ValueError(f"give every batch the size of the first, as a graph needs; after {sizes}")
            mine.copy_(theirs)

    def run(self) -> None:
        """On the tensors as they stand."""
        parameters = list(self.network.parameters())
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False):
            value, parts = self.loss(self.batch)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        average_gradients(parameters)
        if self.max_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.max_norm)
        self.optimizer.step()
        average.update(self.averaged, self.network, self.share)
        for key, part in parts.items():
            part = part.detach().float()
            if key in self.report:
                self.report[key].lerp_(part, 0.01)
            else:
                self.report[key] = part.clone()
