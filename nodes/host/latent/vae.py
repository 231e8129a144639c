"""VAEs without weights: those of the pack's models, and wavelets for any model whose latents are made of them."""

from __future__ import annotations

from typing import Any

import comfy.sd
from torch import Tensor, nn

from ....models import haar
from ..model import COLOURS
from ..pictures import pixel_vae, vae_around
from ..pixel.spaces import HaarFormat
from .first_stage import first_stage


class HaarVAE(nn.Module):
    """Wavelet transform as the network of a VAE."""

    def encode(self, pixels: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return haar.analyse(pixels)

    def decode(self, samples: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return haar.synthesise(samples)


class FoldedVAE(nn.Module):
    """Levels of the wavelet transform, each of the last one's bands, as latents [B C 1 h w] of a video model.

    `latent_format` says what a VAE of the model would hand out: the transform itself is what the network sees.
    """

    def __init__(self, latent_format: Any, levels: int):
        super().__init__()
        self.latent_format, self.levels = latent_format, levels

    def encode(self, pixels: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[B 3 1 H W] in [-1, 1]."""
        bands = pixels[:, :, 0]
        for _ in range(self.levels):
            bands = haar.analyse(bands)
        return self.latent_format.process_out(bands[:, :, None])

    def decode(self, samples: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[B C T h w] -> [B 3 T H W], frame by frame."""
        bands = self.latent_format.process_in(samples)
        pictures = bands.movedim(2, 1).flatten(0, 1)
        for _ in range(self.levels):
            pictures = haar.synthesise(pictures)
        return pictures.unflatten(0, (len(bands), -1)).movedim(1, 2)


def _as_many(frames: int) -> int:
    """Of a video's frames its latents have."""
    return frames


def folded_vae(model: Any) -> comfy.sd.VAE:
    """For a video model of the host with 12, 48 or 192 channels, such as Wan 2.2. Raises ValueError for others."""
    latent_format = model.model.latent_format
    channels, levels = latent_format.latent_channels, 0
    while COLOURS * haar.BANDS**levels < channels:
        levels += 1
    if COLOURS * haar.BANDS**levels != channels or getattr(latent_format, "latent_dimensions", 2) != 3:
        raise ValueError(
            f"wavelets fold a picture into 12, 48 or 192 channels of a video model, and the latents of this model are "
            f"{type(latent_format).__name__}'s, {channels} channels; use the VAE that belongs to it"
        )
    vae: Any = vae_around(FoldedVAE(latent_format, levels), channels, 2**levels)
    vae.latent_dim, vae.not_video = 3, True
    vae.downscale_ratio = vae.upscale_ratio = (_as_many, 2**levels, 2**levels)  # of frames, rows, columns
    return vae


def vae_of(model: Any) -> comfy.sd.VAE:
    """Raises ValueError for an autoencoder of a build that is not known here."""
    checkpoint = model.model.model_config.unet_config["checkpoint"]
    if checkpoint.facts.space.startswith("latent"):
        return first_stage(checkpoint.beside, checkpoint.name)
    if checkpoint.facts.space == "haar":
        return vae_around(HaarVAE(), HaarFormat.latent_channels, HaarFormat.spacial_downscale_ratio)
    return pixel_vae()
