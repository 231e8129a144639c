"""Distance of an image embedding to texts or reference images: SDG's language and content guides; pairs of texts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

# (embeddings [B D], targets [n D]) -> [B], mean over the targets; both may have the same axes in front
Distance = Callable[[Tensor, Tensor], Tensor]


def cosine(found: Tensor, wanted: Tensor) -> Tensor:
    """-cos, in [-1, 1] (Liu et al. 2021, SDG, arXiv 2112.05744, section 3.2 and 3.3)."""
    return -(normalize(found.float(), dim=-1) @ normalize(wanted.float(), dim=-1).mT).mean(-1)


def spherical(found: Tensor, wanted: Tensor) -> Tensor:
    """2 asin(|u - v| / 2)^2 of unit vectors, half their squared angle, in [0, pi^2 / 2] (Crowson, CLIP guidance)."""
    u, v = normalize(found.float(), dim=-1), normalize(wanted.float(), dim=-1)
    chord = (u.unsqueeze(-2) - v.unsqueeze(-3)).norm(dim=-1).clamp(max=2 - 1e-6)
    return (2 * torch.asin(chord / 2) ** 2).mean(-1)


def pair(found: Tensor, texts: Tensor, scale: float) -> Tensor:
    """-log p of the first of two texts, in [0, inf): p = softmax(scale [cos(found, first), cos(found, second)])[0].

    CLIP-IQA's score of a picture (Wang et al. 2023, arXiv 2207.12396, eq. 2). found [B D], texts [2 D] -> [B].
    """
    cosines = normalize(found.float(), dim=-1) @ normalize(texts.float(), dim=-1).mT
    return softplus(scale * (cosines[..., 1] - cosines[..., 0]))


LEAST = {"cosine": -1.0, "spherical": 0.0}  # of each distance: see `Term.least`
DISTANCES: dict[str, Distance] = {"cosine": cosine, "spherical": spherical}
