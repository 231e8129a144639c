"""What is held of a source picture while it is edited, and where an edit acts; on predictions x0 of any model."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from .tensors import append_dims

ALL, COLOURS = "all", "colours"
COARSE = 1 / 8  # of the shorter side: deviation of the blur that leaves the colours
BARELY = 1e-3  # share of held elements below which a blur has nothing to average


def held(denoised: Tensor, source: Tensor, free: Tensor, strength: float, what: str) -> Tensor:
    """D + s (1 - m) (S - D): the predicted picture drawn to the source where it is not free.

    `denoised` D and `source` S are [B C ... h w], `free` m is [B 1 ... h w] in [0, 1]. For `what` = colours the low
    frequencies of S - D take its place, as ILVR refines by them (Choi et al. 2021, arXiv 2108.02938, eq. 8), averaged
    over what is held alone: normalised convolution, blur((1 - m) (S - D)) / blur(1 - m) (Knutsson & Westin 1993).
    """
    kept = (1 - free).to(denoised)
    apart = source - denoised
    if what == COLOURS:
        deviation = COARSE * min(denoised.shape[-2:])
        share = blurred(kept.expand_as(denoised), deviation)
        apart = torch.where(share > BARELY, blurred(kept * apart, deviation) / share.clamp(min=BARELY), 0.0)
    return torch.where(kept > 0, denoised + strength * kept * apart, denoised)


def where_edited(edited: Tensor, original: Tensor, threshold: float, soften: float) -> Tensor:
    """The mask [B 1 ... h w] in [0, 1] of what an edit changes, each picture by itself (DiffEdit, Couairon et al. 2022,
    arXiv 2210.11427, step 1).

    Two predictions [B C ... h w] of the same noisy sample: where they differ by more than `threshold` times their mean
    difference is 1. `soften`, a share of the shorter side, is the deviation of the blur of the difference and of the
    mask, and by how much the mask grows.
    """
    deviation = soften * min(edited.shape[-2:])
    apart = blurred((edited - original).float().square().mean(1, keepdim=True).sqrt(), deviation)
    mean = append_dims(apart.flatten(1).mean(1), apart.ndim)
    changed = (apart > threshold * mean).float()
    return blurred(_grown(changed, deviation), deviation).clamp(0, 1)


def blurred(maps: Tensor, deviation: float) -> Tensor:
    """Each plane of [... h w] under a Gaussian of that deviation, its border going on beyond."""
    if deviation <= 0:
        return maps
    from kornia.filters import gaussian_blur2d  # imported when first used: it takes a second

    taps = 2 * math.ceil(3 * deviation) + 1
    planes = maps.reshape(-1, 1, *maps.shape[-2:])
    return gaussian_blur2d(planes, (taps, taps), (deviation, deviation), border_type="replicate").reshape(maps.shape)


def _grown(mask: Tensor, by: float) -> Tensor:
    """The mask with so many elements more on every side."""
    reach = round(by)
    planes = mask.reshape(-1, 1, *mask.shape[-2:])
    return max_pool2d(planes, 2 * reach + 1, stride=1, padding=reach).reshape(mask.shape)
