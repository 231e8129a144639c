"""What the core is made of: tensors in sigma space and the callables that act on them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x = x0 + sigma noise, sigma [B]) -> denoised
Energy = Callable[[Tensor, Tensor], Tensor]  # (x, sigma [B]) -> [B], lower is better


def append_dims(value: Tensor, ndim: int) -> Tensor:
    """[B] -> [B 1 1 ...] with `ndim` axes."""
    return value.reshape(value.shape + (1,) * (ndim - value.ndim))
