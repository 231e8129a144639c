"""How a clean-image guide looks at a picture: whole, and through a few random crops, at the encoder's size.

One look can be fooled: a gradient finds specks that please an encoder and nobody else. Averaging over crops makes that
harder (Shen et al. 2024, arXiv 2403.12404).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

MIN_AREA = 0.3  # of a crop


@cache
def _geometry() -> Any:
    """kornia's transforms, imported when they are first needed: importing the pack stays quick."""
    import kornia.geometry.transform

    return kornia.geometry.transform


def crops(count: int, generator: torch.Generator) -> Tensor:
    """[count 4]: left, top, width, height as shares of the picture; the first is the whole picture."""
    side = torch.sqrt(MIN_AREA + (1 - MIN_AREA) * torch.rand(count, generator=generator))
    side[0] = 1.0
    left, top = torch.rand(2, count, generator=generator) * (1 - side)
    return torch.stack([left, top, side, side], dim=1)


def look(pictures: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Pictures [B C H W] through boxes [V 4] -> [V*B C size size]: one call for all, antialiased where it shrinks.

    A picture larger than the smallest possible crop needs is first brought to that size with an antialiased filter, the
    same for all crops. The whole picture alone, at the encoder's own size, is returned as it is.
    """
    height, width = pictures.shape[2:]
    if len(boxes) == 1:
        return pictures if (height, width) == (size, size) else _resized(pictures, size, size)
    target = round(size / MIN_AREA**0.5)
    if min(height, width) > target:
        pictures = _resized(pictures, min(height, target), min(width, target))
        height, width = pictures.shape[2:]
    extent = torch.tensor([width, height], dtype=boxes.dtype)
    origin, scale = boxes[:, :2] * extent, size / (boxes[:, 2:] * extent)
    # pixel centres: out = (in + 0.5 - origin) scale - 0.5
    matrix = torch.zeros(len(boxes), 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1] = scale[:, 0], scale[:, 1]
    matrix[:, :, 2] = (0.5 - origin) * scale - 0.5
    matrix = matrix.to(pictures).repeat_interleave(len(pictures), dim=0)
    many = pictures.repeat(len(boxes), 1, 1, 1)
    return _geometry().warp_affine(many, matrix, (size, size), align_corners=True, padding_mode="border")


def _resized(pictures: Tensor, height: int, width: int) -> Tensor:
    return _geometry().resize(pictures, (height, width), antialias=True)


def centred(pictures: Tensor, height: int, width: int) -> Tensor:
    """The largest centred part [B C ...] with the aspect of height x width, at that size.

    Cutting is a slice; where an odd number of rows or columns goes, one more goes at the end.
    """
    rows, columns = pictures.shape[2:]
    scale = max(height / rows, width / columns)
    inner = max(height, round(rows * scale)), max(width, round(columns * scale))
    if inner != (rows, columns):
        pictures = _resized(pictures, *inner)
    top, left = (inner[0] - height) // 2, (inner[1] - width) // 2
    return pictures[:, :, top : top + height, left : left + width]


def clamped(pictures: Tensor) -> Tensor:
    """Within [-1, 1]; the gradient passes as if nothing had been cut."""
    return pictures + (pictures.clamp(-1, 1) - pictures).detach()
