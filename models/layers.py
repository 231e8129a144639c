"""What the networks share: the callables they take, and normalisation in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

Attention = Callable[..., Tensor]  # q, k, v [B heads N d], and perhaps a mask of keys -> [B heads N d]
EditH = Callable[[Tensor, Tensor], Tensor]  # (h [B C h w], embedding [B E]) -> h, at the bottleneck


@dataclass(frozen=True)
class Text:
    """What a U-Net reads of a text."""

    states: Tensor  # [B W N], a column a token
    pooled: Tensor | None  # [B E], added to the time embedding
    mask: Tensor | None = None  # [B N] bool, False where attention must not look


def normalised(norm: nn.Module, h: Tensor) -> Tensor:
    return norm(h.float()).to(h.dtype)
