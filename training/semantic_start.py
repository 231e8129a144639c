"""A start for the semantic encoder of the small diffusion autoencoder: it learns to see before the decoder listens.

The decoder's loss alone teaches the encoder slowly: at little noise the decoder sees shapes by itself, and at much
noise a shape is worth little (after 82,000 pictures a linear probe of z_sem read shapes at .23). So z_sem first learns
to paint the picture through a small plain decoder, and to name its classes through one linear map each. The labels are
used here alone, but the decoder's training keeps painter and heads, frozen, as readers of z_sem.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from models.diffae.network import DiffAEConfig, DiffusionAutoencoder, LatentConfig

from .loop import Recipe, Run, arguments, train
from .scenes import CLASSES, Scenes

CONFIG = DiffAEConfig(
    model_channels=16,
    out_channels=3,
    num_res_blocks=1,
    channel_mult=(1, 2, 4, 8),
    attention=(4, 8),
    num_heads=4,
    groups=4,
    semantic=64,
    encoder_mult=(1, 2, 4, 5),
    encoder_res_blocks=2,
    latent=LatentConfig(hidden=160, layers=6),
)
RECIPE = Recipe(images=400_000, batch=128, learning_rate=2e-3, seed=6, ema=0.998)
OUT = "training/semantic_start.safetensors"  # not shipped to users: it is needed to go on with the training


class Start(nn.Module):
    """The encoder, a painter [B D] -> [B 3 32 32], and heads [B D] -> logits of all classes."""

    encoder: nn.Module

    def __init__(self) -> None:
        super().__init__()
        width = CONFIG.semantic
        layers: list[nn.Module] = []
        self.encoder = DiffusionAutoencoder(CONFIG).encoder
        for _ in range(3):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(48, 48, 3, padding=1), nn.SiLU()]
        self.painter = nn.Sequential(
            nn.Linear(width, 48 * 16), nn.SiLU(), nn.Unflatten(1, (48, 4, 4)), *layers, nn.Conv2d(48, 3, 3, padding=1)
        )
        self.heads = nn.Linear(width, sum(len(names) for names in CLASSES.values()))

    def loss(self, z_sem: Tensor, scenes: Scenes) -> tuple[Tensor, dict[str, Tensor]]:
        """Ten times the painting's mean squared error, and the mean cross entropy of the four attributes."""
        painted = mse_loss(self.painter(z_sem), scenes.image)
        groups = self.heads(z_sem).split([len(names) for names in CLASSES.values()], dim=1)
        labels = scenes.attributes.labels()
        losses = torch.stack([cross_entropy(group, labels[:, k]) for k, group in enumerate(groups)])
        report = {name: losses[k] for k, name in enumerate(CLASSES)}
        return 10 * painted + losses.mean(), {**report, "painted": painted}


def start_loss(network: nn.Module, scenes: Scenes, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    assert isinstance(network, Start)
    return network.loss(network.encoder(scenes.image), scenes)


def main() -> None:
    recipe, given = arguments(OUT, RECIPE)
    torch.manual_seed(recipe.seed)
    train(Run(Start(), recipe, given.device, {}), start_loss, given)


if __name__ == "__main__":
    main()
