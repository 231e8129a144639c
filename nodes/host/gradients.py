"""Leaving the host's inference mode for a gradient, and nothing more than that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def autograd_on() -> Iterator[None]:
    """Autograd works inside. Tensors from outside must be cloned before they are used."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def make_differentiable(module: nn.Module) -> None:
    """Replaces weights that were made under inference mode, which autograd refuses, by frozen copies.

    The host makes such weights whenever it moves a module to another device; without any, nothing happens.
    """
    with torch.inference_mode(False):
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None and parameter.is_inference():
                    part._parameters[name] = nn.Parameter(parameter.clone(), requires_grad=False)
            for name, buffer in part._buffers.items():
                if buffer is not None and buffer.is_inference():
                    part._buffers[name] = buffer.clone()
