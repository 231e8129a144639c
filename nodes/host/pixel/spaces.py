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


class SmallFormat(comfy.latent_formats.LatentFormat):
    """Latents of latent diffusion's VQ-f4, [B 3 H/4 W/4]."""

    latent_channels = 3
    spacial_downscale_ratio = 4


class SmallerFormat(comfy.latent_formats.LatentFormat):
    """Latents of its KL-f8, [B 4 H/8 W/8]."""

    latent_channels = 4
    spacial_downscale_ratio = 8


@dataclass(frozen=True)
class Space:
    """How a network of pictures, or of an autoencoder's latents, is shown to the host."""

    latent_format: type[comfy.latent_formats.LatentFormat]
    to_pixels: Callable[[Tensor], Tensor]  # what the network takes
    from_pixels: Callable[[Tensor], Tensor]
    predicted: int = COLOURS  # channels of what it predicts, before those of a variance
    bounded: bool = True  # in [-1, 1], as pictures are


def same(x: Tensor) -> Tensor:
    return x


SPACES = {
    "pixels": Space(PixelFormat, same, same),
    "haar": Space(HaarFormat, haar.synthesise, haar.analyse),
    "latent f4": Space(SmallFormat, same, same, predicted=3, bounded=False),
    "latent f8": Space(SmallerFormat, same, same, predicted=4, bounded=False),
}
