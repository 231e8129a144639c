"""Small tensor helpers: everything per sample, over all axes but the first."""

from __future__ import annotations

import torch
from torch import Tensor


def append_dims(value: Tensor, ndim: int) -> Tensor:
    """[B] -> [B 1 1 ...] with `ndim` axes."""
    return value.reshape(value.shape + (1,) * (ndim - value.ndim))


def norm(value: Tensor) -> Tensor:
    """Euclidean length of each sample: [B ...] -> [B]."""
    return value.flatten(1).norm(dim=1)


def at_least_float32(value: Tensor) -> Tensor:
    """Half precision in float32, everything else as it is."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def widest(value: Tensor) -> Tensor:
    """In float64 where the device has it; Apple's GPUs have none, there in float32."""
    return value.float() if value.device.type == "mps" else value.double()


def dot(a: Tensor, b: Tensor) -> Tensor:
    """[B ...], [B ...] -> [B], in float64 where there is one: sums over a picture are long."""
    return (widest(a.flatten(1)) * widest(b.flatten(1))).sum(1)


def unit(value: Tensor) -> Tensor:
    """Each sample at length 1, a zero sample as it is."""
    length = norm(value)
    return value / append_dims(length.where(length > 0, length.new_ones(())), value.ndim)


def resized(value: Tensor, length: Tensor) -> Tensor:
    """Each sample at its length of [B], a zero sample as it is."""
    return unit(value) * append_dims(length, value.ndim)
