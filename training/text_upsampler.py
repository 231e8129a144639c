"""Trains the pack's small upsampler: GLIDE's architecture, a scene of 32x32 and its caption -> the scene at 64x64.

The small picture is the scene as rendered at 32, in 8 bits, with a little noise on it: what it enlarges in a cascade is
drawn by a network, and not as clean as a rendered one (Ho et al. 2021, arXiv 2106.15282, conditioning augmentation).
It stands beside x, enlarged bilinearly, as in the published upsampler. The outer levels start as those of the shipped
U-Net of classes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from models.glide.network import GlideUNet
from models.schedule import NoiseSchedule

from . import text_unet
from .loop import Recipe, Run, arguments, scene_batches, train, zero_outputs
from .scenes import Scenes, render

CONFIG = replace(text_unet.CONFIG, in_channels=6, channel_mult=(1, 2, 4), attention=(4,))
SMALL, LARGE = 32, 64  # sides
NOISE = 0.1  # the largest deviation of the noise on the small picture, in the units of [-1, 1]
SHIPPED = "models/demo/models/scenes_upsampler.safetensors"
RECIPE = Recipe(images=200_000, batch=16, learning_rate=1e-3, seed=31)


class UpsamplerLoss(text_unet.TextLoss):
    """Of large pictures with captions; beside them stand the small ones."""

    def beside(self, scenes: Scenes, generator: torch.Generator) -> list[Tensor]:
        return [enlarged(small_pictures(scenes, generator))]


def small_pictures(scenes: Scenes, generator: torch.Generator) -> Tensor:
    """[B 3 32 32] in [-1, 1], with noise of a deviation between 0 and `NOISE`."""
    image = render(scenes.attributes, SMALL).image
    image = image.add(1).mul(127.5).round().div(127.5).sub(1)
    device = image.device
    deviation = NOISE * torch.rand(len(image), 1, 1, 1, generator=generator, device=device)
    return image + deviation * torch.randn(image.shape, generator=generator, device=device)


def enlarged(small: Tensor) -> Tensor:
    return interpolate(small, size=(LARGE, LARGE), mode="bilinear", align_corners=False)


large_batches = partial(scene_batches, resolution=LARGE)

METADATA = {
    "architecture": "glide",
    "config": json.dumps(asdict(CONFIG)),
    "schedule": "linear",
    "image_size": str(LARGE),
}


def main() -> None:
    recipe, given = arguments(SHIPPED, RECIPE)
    torch.manual_seed(recipe.seed)
    network = GlideUNet(CONFIG)
    zero_outputs(network)
    if given.resume is None:
        text_unet.from_classes(network)
    loss = UpsamplerLoss(NoiseSchedule.named("linear"), given.device)
    train(Run(network, recipe, given.device, METADATA), loss, given, large_batches)


if __name__ == "__main__":
    main()
