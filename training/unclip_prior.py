"""Trains the pack's prior: diffusers' layout of unCLIP's, a caption of a scene -> what scenes_clip sees in it.

Mean squared error of the embedding without noise, normalised by its mean and deviation (Ramesh et al. 2022, arXiv
2204.06125, eq. 2). One caption in ten is empty: the null of classifier-free guidance. Pictures are seen once, at the
beginning; captions are drawn anew each time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from models.prior.network import DiffusersPrior, PriorConfig
from models.schedule import NoiseSchedule

from .loop import Recipe, Run, arguments, train
from .scenes import draw, render
from .step import Losses
from .text_unet import kept
from .unclip import Clip

CONFIG = PriorConfig(width=96, layers=3, heads=4, clip_width=64, context=16)
SHIPPED = "models/demo/priors/scenes_prior.safetensors"
RECIPE = Recipe(images=200_000, batch=128, learning_rate=2e-3, seed=33, weight_decay=0.01)
SCENES, AT_ONCE = 12_000, 200


@dataclass(frozen=True)
class Batch:
    z: Tensor  # [B D] normalised embeddings
    labels: Tensor  # [B 4] classes


def seen_scenes(clip: Clip, generator: torch.Generator) -> Batch:
    """Embeddings, not normalised yet, and classes of SCENES scenes."""
    found, labels = [], []
    for _ in range(SCENES // AT_ONCE):
        scenes = render(draw(AT_ONCE, generator))
        found.append(clip.see(scenes.image))
        labels.append(scenes.attributes.labels())
    return Batch(torch.cat(found), torch.cat(labels))


def batches(scenes: Batch, size: int, generator: torch.Generator) -> Iterator[Batch]:
    while True:
        rows = torch.randint(len(scenes.z), (size,), generator=generator, device=generator.device)
        yield Batch(scenes.z[rows], scenes.labels[rows])


class PriorLoss:
    def __init__(self, schedule: NoiseSchedule, clip: Clip, device: str):
        ab = schedule.alphas_cumprod
        self.signal, self.noise = ab.sqrt().float().to(device), (1 - ab).sqrt().float().to(device)
        self.clip = clip

    def __call__(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Losses:
        z = batch.z
        t = torch.randint(len(self.signal), (len(z),), generator=generator, device=z.device)
        noise = torch.randn(z.shape, generator=generator, device=z.device)
        caption = self.clip.read(batch.labels, kept(batch.labels, generator), generator)
        x = self.signal[t, None] * z + self.noise[t, None] * noise
        mse = (network(x, t, caption.states, caption.pooled, caption.mask) - z).square().mean(1)
        late = t < len(self.signal) // 2
        return mse.mean(), {"mse": mse.mean(), "mse_0": (mse * late).sum() / late.sum().clamp(min=1)}


METADATA = {"architecture": "diffusers_prior", "config": json.dumps(asdict(CONFIG)), "schedule": "cosine"}


def main() -> None:
    recipe, given = arguments(SHIPPED, RECIPE)
    torch.manual_seed(recipe.seed)
    network, clip = DiffusersPrior(CONFIG), Clip(given.device)
    scenes = seen_scenes(clip, torch.Generator(given.device).manual_seed(recipe.seed))
    mean, std = scenes.z.mean(0, keepdim=True), scenes.z.std(0, keepdim=True)
    network.clip_mean, network.clip_std = (nn.Parameter(part.cpu(), requires_grad=False) for part in (mean, std))
    normalised = Batch((scenes.z - mean) / std, scenes.labels)
    loss = PriorLoss(NoiseSchedule.named("cosine"), clip, given.device)
    train(Run(network, recipe, given.device, METADATA), loss, given, lambda size, g: batches(normalised, size, g))


if __name__ == "__main__":
    main()
