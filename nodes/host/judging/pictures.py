"""How CLIP was shown pictures when it was trained and tested (openai/CLIP's `_transform`)."""

from __future__ import annotations

import numpy
import torch
from PIL import Image
from torch import Tensor


def eight_bits(image: Tensor) -> numpy.ndarray:
    """[H W C] in [0, 1], what a file of the picture holds: [H W 3] bytes."""
    return (image[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def resized(picture: Image.Image, size: int) -> Image.Image:
    """The shorter side becomes `size`, bicubic and antialiased, rounded to 8 bits; the longer is rounded down."""
    width, height = picture.size
    short = min(width, height)
    if short == size:
        return picture
    sides = (int(size * width / short), int(size * height / short))
    return picture.resize(sides, Image.Resampling.BICUBIC)


def published(image: Tensor, size: int) -> Tensor:
    """[H W C] in [0, 1] of any size -> [3 size size] in [0, 1], the middle of the resized picture."""
    picture = resized(Image.fromarray(eight_bits(image)), size)
    left, top = (round((side - size) / 2) for side in picture.size)
    cropped = picture.crop((left, top, left + size, top + size))
    return torch.from_numpy(numpy.array(cropped)).movedim(-1, 0).float() / 255
