"""Regions without a detector: cells of an encoder's feature map, or what lies under masks, and where they are.

Features alone don't say where a region is, which "left of" needs. As in ViLBERT (Lu et al. 2019, arXiv 1908.02265,
section 3.1) five numbers in [0, 1] stand behind them: left, top, right, bottom and area of its box.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .network import Sets

BOX = 5  # numbers behind the features


def cells(features: Tensor) -> Sets:
    """A region for each place of [n C h w], row by row: states [n h w, C + BOX]."""
    n, _, height, width = features.shape
    y, x = (torch.arange(side, device=features.device) / side for side in (height, width))
    top, left = torch.meshgrid(y, x, indexing="ij")
    box = _box(left, top, left + 1 / width, top + 1 / height).view(1, -1, BOX).expand(n, -1, -1)
    states = torch.cat([features.flatten(2).transpose(1, 2), box.to(features)], dim=2)
    return Sets(states, torch.ones(states.shape[:2], dtype=torch.bool, device=features.device))


def under(features: Tensor, masks: Tensor) -> Sets:
    """A region for each mask of [n k H W] in [0, 1]: the mean of [n C h w] under it. An empty mask is no region."""
    height, width = features.shape[2:]
    weights = interpolate(masks.to(features), (height, width), mode="area")
    total = weights.sum((2, 3))
    mean = (
        torch.einsum("nchw,nkhw->nkc", features, weights) / total.clamp(min=torch.finfo(weights.dtype).tiny)[..., None]
    )
    rows, columns = (masks.amax(dim) > 0.5 for dim in (3, 2))  # [n k H], [n k W]
    (top, bottom), (left, right) = _ends(rows), _ends(columns)
    keep = rows.any(2) & (total > 0)
    states = torch.cat([mean, _box(left, top, right, bottom).to(mean)], dim=2)
    return Sets(states.where(keep[..., None], 0), keep)


def _box(left: Tensor, top: Tensor, right: Tensor, bottom: Tensor) -> Tensor:
    return torch.stack([left, top, right, bottom, (right - left) * (bottom - top)], dim=-1)


def _ends(filled: Tensor) -> tuple[Tensor, Tensor]:
    """Where [... L] bool begins and ends to be true, in [0, 1]."""
    length, number = filled.shape[-1], filled.to(torch.uint8)
    return number.argmax(-1) / length, 1 - number.flip(-1).argmax(-1) / length
