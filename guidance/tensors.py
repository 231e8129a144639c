"""Small tensor helpers: everything per sample, over all axes but the first."""

from __future__ import annotations

import torch
from torch import Tensor


def append_dims(value: Tensor, ndim: int) -> Tensor:
    """[B] -> [B 1 1 ...] with `ndim` axes."""
    return value.reshape(value.shape + (1,) * (ndim - value.ndim))


def repeated(value: Tensor, rows: int) -> Tensor:
    """[B ...] -> [rows ...], the whole batch again and again."""
    return value if rows == len(value) else value.repeat(rows // len(value), *[1] * (value.ndim - 1))


def norm(value: Tensor) -> Tensor:
    """Euclidean length of each sample: [B ...] -> [B]."""
    return value.flatten(1).norm(dim=1)


def at_least_float32(value: Tensor) -> Tensor:
    """Half precision in float32, everything else as it is."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def widest(value: Tensor) -> Tensor:
    """In float64 on the CPU, in float32 elsewhere: Apple's and Intel's GPUs have no float64, others are slow in it."""
    return value.double() if value.device.type == "cpu" else at_least_float32(value)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """[B ...], [B ...] -> [B], as exact as `widest`: sums over a picture are long."""
    return (widest(a.flatten(1)) * widest(b.flatten(1))).sum(1)


def unit(value: Tensor) -> Tensor:
    """Each sample at length 1, a zero sample as it is."""
    length = norm(value)
    return value / append_dims(length.where(length > 0, length.new_ones(())), value.ndim)


def resized(value: Tensor, length: Tensor) -> Tensor:
    """Each sample at its length of [B], a zero sample as it is."""
    return unit(value) * append_dims(length, value.ndim)
