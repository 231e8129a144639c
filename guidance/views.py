"""How a clean-image guide looks at a picture: whole, and through a few random crops, at the encoder's size.

One look can be fooled: a gradient finds specks that please an encoder and nobody else. Averaging over crops makes that
harder (Shen et al. 2024, arXiv 2403.12404).
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

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


def turn(frames: int, most: int, number: int) -> range:
    """Which of a clip's frames are looked at the number-th time: `most` neighbours, or all where there are no more.

    Neighbours, because decoders of videos look from one frame to the next. With k = ceil(frames / most), the times 0 to
    k - 1 have them all, and so has each k times in a row: the start is min((number mod k) most, frames - most).
    """
    start = min(number % math.ceil(frames / most) * most, max(frames - most, 0))
    return range(start, min(start + most, frames))


def look(pictures: Tensor, boxes: Tensor, size: int, grid: Tensor | None = None) -> Tensor:
    """Pictures [B C H W] through boxes [V 4] -> [V*B C size size]: one call for all, antialiased where it shrinks.

    A picture larger than the smallest possible crop needs is first brought to that size with an antialiased filter, the
    same for all crops. The whole picture alone, at the encoder's own size, is returned as it is. `grid` is the
    `sampling_grid` of the boxes and the size, where it is at hand.
    """
    height, width = pictures.shape[2:]
    if len(boxes) == 1:
        return pictures if (height, width) == (size, size) else _resized(pictures, size, size)
    target = round(size / MIN_AREA**0.5)
    if min(height, width) > target:
        pictures = _resized(pictures, min(height, target), min(width, target))
    grid = (sampling_grid(boxes, size) if grid is None else grid).to(pictures)
    places = grid.flatten(0, 1).expand(len(pictures), -1, -1, -1)  # all views of a picture, one above the other
    seen = grid_sample(pictures, places, padding_mode="border", align_corners=False)
    return seen.unflatten(2, (len(boxes), size)).permute(2, 0, 1, 3, 4).flatten(0, 1)


def sampling_grid(boxes: Tensor, size: int) -> Tensor:
    """Where the pixels of views lie in a picture of any size, as `grid_sample` reads it: [V size size 2] in [-1, 1]."""
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    corner, extent = boxes[:, :2].double(), boxes[:, 2:].double()
    x, y = (2 * (corner[:, None] + extent[:, None] * centres[:, None]) - 1).unbind(2)  # [V size]
    return torch.stack([x[:, None].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=3).float()


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
