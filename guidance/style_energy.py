"""Distance of Gram matrices of feature maps: textures and colours, wherever they are (Gatys et al. 2016).

Every sample has its own Gram matrix, F F^T / (C h w), divided before the product and in float32: entries stay small.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

Grams = Sequence[Tensor]  # one [B C C] a layer


def gram(maps: Tensor) -> Tensor:
    """[B C h w] -> [B C C]."""
    features = maps.float().flatten(2)
    features = features / features[0].numel() ** 0.5
    return features @ features.transpose(1, 2)


def squared(found: Grams, wanted: Grams) -> Tensor:
    """Mean over layers of the mean squared difference, [B]; mean over n references (SDG's style guide, as released)."""
    layers = [(f[:, None] - w[None]).square().flatten(2).mean(2).mean(1) for f, w in zip(found, wanted, strict=True)]
    return sum(layers[1:], layers[0]) / len(layers)


def relative(found: Grams, wanted: Grams) -> Tensor:
    """Mean over layers of |G - G'| / |G'|, [B]: free of the encoder's scale."""
    layers = [
        ((f[:, None] - w[None]).flatten(2).norm(dim=2) / w.flatten(1).norm(dim=1).clamp(min=1e-12)).mean(1)
        for f, w in zip(found, wanted, strict=True)
    ]
    return sum(layers[1:], layers[0]) / len(layers)
