"""Distance of Gram matrices of feature maps: textures and colours, wherever they are (Gatys et al. 2016).

Every sample has its own Gram matrix, F F^T / (C h w), divided before the product and in float32: entries stay small.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Grams = Sequence[Tensor]  # [B L C C] of L layers of one width; found and wanted ones may have the same axes in front


def gram(maps: Tensor) -> Tensor:
    """[... C h w] -> [... C C]."""
    features = maps.float().flatten(-2)
    features = features / (features.shape[-2] * features.shape[-1]) ** 0.5
    return features @ features.mT


def grams(maps: Sequence[Tensor]) -> list[Tensor]:
    """One [B C h w] a layer -> Gram matrices [B L C C], layers of one size together: the blocks of a ViT are one."""
    alike: dict[tuple[int, ...], list[Tensor]] = {}
    for part in maps:
        alike.setdefault(tuple(part.shape), []).append(part)
    return [gram(torch.stack(parts, dim=1)) for parts in alike.values()]


def squared(found: Grams, wanted: Grams) -> Tensor:
    """Mean over layers of the mean squared difference, [B]; mean over n references (SDG's style guide, as released)."""
    return _mean([_difference(f, w).square().mean((-2, -1)) for f, w in zip(found, wanted, strict=True)])


def relative(found: Grams, wanted: Grams) -> Tensor:
    """Mean over layers of |G - G'| / |G'|, [B]: free of the encoder's scale."""
    return _mean(
        [
            _difference(f, w).flatten(-2).norm(dim=-1) / w.flatten(-2).norm(dim=-1).clamp(min=1e-12).unsqueeze(-3)
            for f, w in zip(found, wanted, strict=True)
        ]
    )


def _difference(found: Tensor, wanted: Tensor) -> Tensor:
    """[... B L C C], [... n L C C] -> [... B n L C C]."""
    return found.unsqueeze(-4) - wanted.unsqueeze(-5)


def _mean(layers: list[Tensor]) -> Tensor:
    """[... B n L] each -> [... B]."""
    sums = [part.mean(-2).sum(-1) for part in layers]
    return sum(sums[1:], sums[0]) / sum(part.shape[-1] for part in layers)
