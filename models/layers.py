"""What the networks share: the callables they take, and normalisation in float32."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v [B heads N d] -> [B heads N d]
EditH = Callable[[Tensor, Tensor], Tensor]  # (h [B C h w], embedding [B E]) -> h, at the bottleneck


def normalised(norm: nn.Module, h: Tensor) -> Tensor:
    return norm(h.float()).to(h.dtype)
