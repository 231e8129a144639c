"""What can be said of a scene without any network: where the shape is, what it is, and the two colours."""

from __future__ import annotations

import torch
from torch import Tensor

from training.scenes import COLOURS, MAX_ANGLE, SHAPES, Attributes, render

PALETTE = torch.tensor(list(COLOURS.values())) * 2 - 1  # [8 3] in [-1, 1]
CONTRAST = 0.35  # distance from the background colour at which a pixel belongs to the shape


def _border(images: Tensor) -> Tensor:
    """The outermost pixels [B 3 N]; shapes hardly ever reach them."""
    sides = [images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]]
    return torch.cat(sides, dim=2)


def background(images: Tensor) -> Tensor:
    """Class index [B] of the background: the palette colour nearest to the border's median."""
    colour = _border(images).median(dim=2).values
    return torch.cdist(colour, PALETTE).argmin(1)


def mask(images: Tensor) -> Tensor:
    """[B H W] bool: what differs from the border's median colour."""
    colour = _border(images).median(dim=2).values[:, :, None, None]
    return (images - colour).square().sum(1).sqrt() > CONTRAST


def colour(images: Tensor) -> Tensor:
    """Class index [B] of the shape's colour: the palette colour to which most of its pixels are nearest.

    Each palette colour also answers for its dark tone, which the textures use.
    """
    dark = (PALETTE + 1) * 0.42 - 1
    dark[list(COLOURS).index("black")] = PALETTE[list(COLOURS).index("black")] + 0.84
    inside = mask(images)
    votes = torch.zeros(len(images), len(PALETTE))
    pixels = images.movedim(1, -1)
    for index, (light, shade) in enumerate(zip(PALETTE, dark, strict=True)):
        distance = torch.minimum((pixels - light).norm(dim=-1), 0.15 + (pixels - shade).norm(dim=-1))
        votes[:, index] = (torch.exp(-4 * distance.square()) * inside).flatten(1).sum(1)
    return votes.argmax(1)


def _candidates(resolution: int, sizes: int = 5, angles: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Masks of every shape at several sizes and angles, centred: [S K H W] coverage, with box centres [S K 2]."""
    grid = torch.cartesian_prod(torch.linspace(0.36, 0.7, sizes), torch.linspace(-MAX_ANGLE, MAX_ANGLE, angles))
    masks, zeros = [], torch.zeros(len(grid), dtype=torch.long)
    for shape in range(len(SHAPES)):
        attributes = Attributes(
            shape=zeros + shape,
            colour=zeros,
            background=zeros + 1,
            texture=zeros,
            centre=torch.zeros(len(grid), 2),
            size=grid[:, 0],
            angle=grid[:, 1],
            jitter=torch.zeros(len(grid), 2, 3),
        )
        masks.append(render(attributes, resolution).mask[:, 0])
    stacked = torch.stack(masks)
    return stacked, _box_centre(stacked.flatten(0, 1) > 0.5).view(len(SHAPES), len(grid), 2), grid


def _box_centre(masks: Tensor) -> Tensor:
    """Centre of the bounding box [B 2], x then y, in pixels."""
    centres = []
    for axis in (1, 2):
        hit = masks.any(dim=axis).float()
        index = torch.arange(hit.shape[1]).float()
        low = torch.where(hit > 0, index, torch.inf).min(1).values
        high = torch.where(hit > 0, index, -torch.inf).max(1).values
        centres.append((low + high) / 2)
    return torch.stack(centres, dim=1).nan_to_num(posinf=0, neginf=0)


def shape(images: Tensor) -> Tensor:
    """Class index [B]: the shape whose drawn mask, moved onto the found one, overlaps it best (IoU)."""
    found = mask(images)
    candidates, anchors, _ = _candidates(images.shape[-1])
    flat, anchors = candidates.flatten(0, 1), anchors.flatten(0, 1)
    centres = _box_centre(found)
    best = torch.zeros(len(images), len(SHAPES))
    for row, (seen, centre) in enumerate(zip(found.float(), centres, strict=True)):
        moved = _shift(flat, (centre - anchors).round().long())
        overlap = torch.minimum(moved, seen).sum((1, 2)) / torch.maximum(moved, seen).sum((1, 2)).clamp(min=1)
        best[row] = overlap.view(len(SHAPES), -1).max(1).values
    return best.argmax(1)


def _shift(masks: Tensor, by: Tensor) -> Tensor:
    """Each mask moved by whole pixels, x then y; what leaves the frame is lost."""
    height, width = masks.shape[1:]
    x = torch.arange(width)[None, :] - by[:, 0, None]
    y = torch.arange(height)[None, :] - by[:, 1, None]
    inside = ((x >= 0) & (x < width))[:, None, :] & ((y >= 0) & (y < height))[:, :, None]
    rows = torch.arange(len(masks))[:, None, None]
    return masks[rows, y.clamp(0, height - 1)[:, :, None], x.clamp(0, width - 1)[:, None, :]] * inside
