"""What the shapes of a U-Net can't tell, for every public file of ADM's layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .network import UNetConfig

CLASSES = (None, 1000)  # of the public files


@dataclass(frozen=True)
class Untold:
    """What shapes can't tell of a U-Net. The defaults are guided-diffusion's usual ones."""

    num_heads: int | None = None  # None: 64 channels a head
    new_attention_order: bool = False
    schedule: str = "linear"
    image_size: int | None = None  # None: the deepest level works at 8x8
    training_steps: int = 1000
    rescale_timesteps: bool = False


USUAL = Untold()
IMPROVED = Untold(num_heads=4, schedule="cosine", training_steps=4000, rescale_timesteps=True)
ADM_64 = Untold(new_attention_order=True, schedule="cosine")
Signature = tuple[int, int, int | tuple[int, ...], tuple[float, ...], tuple[int, ...], bool]

# By (in_channels, model_channels, blocks a level, channel multipliers, attention, residual resizing).
PUBLIC: dict[Signature, Untold] = {
    # openai/guided-diffusion (Dhariwal & Nichol 2021, arXiv 2105.05233)
    (3, 192, 3, (1, 2, 3, 4), (2, 4, 8), True): ADM_64,  # 64x64_diffusion
    (3, 256, 2, (1, 1, 2, 3, 4), (4, 8, 16), True): Untold(num_heads=4),  # 128x128_diffusion
    (3, 256, 2, (1, 1, 2, 2, 4, 4), (8, 16, 32), True): USUAL,  # 256x256_diffusion, _uncond, lsun_*
    (3, 256, 2, (0.5, 1, 1, 2, 2, 4, 4), (16, 32, 64), True): USUAL,  # 512x512_diffusion
    (6, 192, 2, (1, 1, 2, 2, 4, 4), (8, 16, 32), True): Untold(num_heads=4),  # 64_256_upsampler
    (6, 192, 2, (1, 1, 2, 2, 4, 4), (16, 32), True): Untold(image_size=512),  # 128_512_upsampler
    (3, 128, 1, (1, 1, 2, 2, 4, 4), (16,), True): USUAL,  # ILVR's and P2's
    # openai/improved-diffusion (Nichol & Dhariwal 2021, arXiv 2102.09672)
    (3, 128, 3, (1, 2, 3, 4), (4, 8), False): IMPROVED,  # imagenet64_uncond
    (3, 128, 3, (1, 2, 2, 2), (2, 4), False): Untold(4, False, "cosine", 32, 4000, True),  # cifar10_uncond
    (3, 192, 3, (1, 2, 3, 4), (4, 8), False): Untold(4, False, "cosine", None, 4000),  # imagenet64_cond
    (6, 192, 2, (1, 1, 2, 2, 4, 4), (16, 32), False): Untold(4, training_steps=4000),  # upsample_cond
    (3, 128, 2, (1, 1, 2, 2, 4, 4), (16,), False): Untold(num_heads=1),  # lsun_uncond
}
# CompVis/latent-diffusion (Rombach et al. 2022): celeba256, ffhq256, lsun_beds256; three channels, but of latents.
LATENT: set[Signature] = {(3, 224, 2, (1, 2, 3, 4), (2, 4, 8), False)}


def signature(config: UNetConfig) -> Signature:
    """What a public file is known by."""
    return (
        config.in_channels,
        config.model_channels,
        config.num_res_blocks,
        config.channel_mult,
        config.attention,
        config.resblock_updown,
    )


def untold(config: UNetConfig) -> Untold:
    """Of the public file of that signature, or the usual."""
    return PUBLIC.get(signature(config), USUAL)


def is_public(config: UNetConfig) -> bool:
    return signature(config) in PUBLIC and config.num_classes in CLASSES


def heads_of(config: Any) -> str:
    """As the loaders' inputs say it."""
    if config.head_channels is not None:
        return f"{config.head_channels} channels a head"
    return f"{config.num_heads} head{'s' * (config.num_heads > 1)}"
