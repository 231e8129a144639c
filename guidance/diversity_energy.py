"""How alike the pictures of one batch are: the potential of Particle Guidance (Corso et al. 2024, arXiv 2310.13102)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def likeness(features: Tensor) -> Tensor:
    """Mean kernel of each picture with the others: [... n D], n > 1 -> [... n] in [0, 1].

    k(x, y) = exp(-|x - y|^2 / h) with h = median |x - y|^2 / log n over the pairs, a number of this batch and no
    function of its pictures (section 3; Liu & Wang 2016, arXiv 1608.04471, section 5). The sum over the batch is the
    paper's -log potential, (1 / 2) sum_ij k, times 2 / (n - 1).
    """
    features = features.float()
    count = features.shape[-2]
    squared = (features.unsqueeze(-2) - features.unsqueeze(-3)).square().sum(-1)  # [... n n]
    first, second = torch.triu_indices(count, count, 1, device=features.device)
    median = squared.detach()[..., first, second].median(-1).values[..., None, None]
    width = (median / math.log(count)).clamp(min=torch.finfo(median.dtype).tiny)
    others = 1 - torch.eye(count, device=features.device)
    return ((-squared / width).exp() * others).sum(-1) / (count - 1)


def repulsion(features: Tensor) -> Tensor:
    """Minus the mean distance of each picture to the others, with the gradient of `likeness`: [... n D] -> [... n].

    The kernel's width follows the pictures, so its value doesn't tell how far apart they are.
    """
    with torch.no_grad():
        distances = torch.cdist(features.float(), features.float()).sum(-1) / (features.shape[-2] - 1)
    alike = likeness(features)
    return alike - alike.detach() - distances
