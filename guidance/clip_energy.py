"""Distance of an image embedding to texts or reference images: SDG's language and content guides."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

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


LEAST = {"cosine": -1.0, "spherical": 0.0}  # of each distance: see `Term.least`
DISTANCES: dict[str, Distance] = {"cosine": cosine, "spherical": spherical}
