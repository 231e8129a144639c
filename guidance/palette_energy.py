"""Distance of colour distributions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d


def directions(count: int = 24) -> Tensor:
    """Unit vectors spread evenly over the half sphere of colour space, [count 3] (Fibonacci lattice)."""
    k = torch.arange(count) + 0.5
    z = k / count
    angle = k * math.pi * (1 + 5**0.5)
    r = (1 - z**2).sqrt()
    return torch.stack([r * torch.cos(angle), r * torch.sin(angle), z], dim=1)


def quantiles(colours: Tensor, count: int = 128) -> Tensor:
    """Means of `count` equal shares of the sorted projections: colours [B 3 ...] -> [B directions count].

    Every pixel has its part, and two that change places change next to nothing: the gradient is smooth.
    """
    along = directions().to(colours) @ colours.flatten(2)
    return adaptive_avg_pool1d(along.sort(dim=2).values, count)


def sliced_wasserstein(found: Tensor, wanted: Tensor) -> Tensor:
    """Squared sliced 2-Wasserstein distance of colour distributions, [B] (Rabin et al. 2012; sorted differences).

    found [B directions count], wanted [n directions count] from `quantiles`; mean over the n references.
    """
    return (found[:, None] - wanted[None]).square().flatten(2).mean(2).mean(1)
