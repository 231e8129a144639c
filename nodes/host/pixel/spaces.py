"""How networks of pictures are shown to the host: what a LATENT of theirs is, and how it becomes a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import comfy.latent_formats
from torch import Tensor

from ....models import haar
from ..model import COLOURS

EYE = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


class PixelFormat(comfy.latent_formats.LatentFormat):
    """The "latent" is the picture, [B 3 H W] in [-1, 1]."""

    latent_channels = COLOURS
    spacial_downscale_ratio = 1
    latent_rgb_factors = EYE


class HaarFormat(comfy.latent_formats.LatentFormat):
    """The latent is the picture's wavelet transform, [B 12 H/2 W/2]; its first band is twice the average."""

    latent_channels = haar.BANDS * COLOURS
    spacial_downscale_ratio = 2
    latent_rgb_factors = [[0.5 * value for value in row] for row in EYE] + [[0.0] * COLOURS] * (
        haar.BANDS - 1
    ) * COLOURS


@dataclass(frozen=True)
class Space:
    """How a network of pictures is shown to the host."""

    latent_format: type[comfy.latent_formats.LatentFormat]
    to_pixels: Callable[[Tensor], Tensor]
    from_pixels: Callable[[Tensor], Tensor]


SPACES = {
    "pixels": Space(PixelFormat, lambda x: x, lambda x: x),
    "haar": Space(HaarFormat, haar.synthesise, haar.analyse),
}
