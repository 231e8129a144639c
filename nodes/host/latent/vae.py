"""The VAE that belongs to one of the pack's models."""

from __future__ import annotations

from typing import Any

import comfy.sd
from torch import Tensor, nn

from ....models import haar
from ..pictures import pixel_vae, vae_around
from ..pixel.spaces import HaarFormat
from .first_stage import first_stage


class HaarVAE(nn.Module):
    """Wavelet transform as the network of a VAE."""

    def encode(self, pixels: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return haar.analyse(pixels)

    def decode(self, samples: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return haar.synthesise(samples)


def vae_of(model: Any) -> comfy.sd.VAE:
    """Raises ValueError for an autoencoder of a build that is not known here."""
    checkpoint = model.model.model_config.unet_config["checkpoint"]
    if checkpoint.facts.space.startswith("latent"):
        return first_stage(checkpoint.beside, checkpoint.name)
    if checkpoint.facts.space == "haar":
        return vae_around(HaarVAE(), HaarFormat.latent_channels, HaarFormat.spacial_downscale_ratio)
    return pixel_vae()
