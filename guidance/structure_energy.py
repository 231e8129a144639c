"""Distance of spatial feature maps: where things are, whatever they look like."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import normalize

Maps = Sequence[Tensor]  # one [B C h w] a layer; found and wanted ones may have the same axes in front


def difference(found: Maps, wanted: Maps) -> Tensor:
    """Sum over layers of |F - F'|^2 / (C h w), [B]; mean over n references (SDG, arXiv 2112.05744, eq. 9)."""
    return _sum(
        [
            (f.float().unsqueeze(-4) - w.float().unsqueeze(-5)).square().flatten(-3).mean((-2, -1))
            for f, w in zip(found, wanted, strict=True)
        ]
    )


def self_similarity(found: Maps, wanted: Maps) -> Tensor:
    """Sum over layers of the mean squared difference of cosine self-similarities, [B].

    S_ij = cos(k_i, k_j) over the positions of a map, best of a ViT's keys (Tumanyan et al. 2022, Splice, arXiv
    2201.00424, eq. 3): layout without appearance.
    """
    return _sum(
        [
            (_similarities(f).unsqueeze(-3) - _similarities(w).unsqueeze(-4)).square().flatten(-2).mean((-2, -1))
            for f, w in zip(found, wanted, strict=True)
        ]
    )


def _similarities(maps: Tensor) -> Tensor:
    """[B C h w] -> [B hw hw]."""
    tokens = normalize(maps.float().flatten(-2), dim=-2)
    return tokens.mT @ tokens


def _sum(parts: list[Tensor]) -> Tensor:
    return sum(parts[1:], parts[0])


METHODS = {"difference": difference, "self-similarity": self_similarity}
