"""Trains the pack's diffusion autoencoder on 32x32 scenes: semantic encoder and decoder together, eps-MSE.

The decoder starts from the shipped U-Net, its z_sem at zero: so it paints from the first step, and the time goes into
what z_sem says. The encoder starts from `training.semantic_start` (--first-stage), whose painter and heads, frozen, go
on reading z_sem: the decoder's loss alone made it forget shapes (a linear probe fell from .80 to .42 in 29,000
pictures). The latent prior comes after both: `training.latent_prior`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.denoiser import NoiseSchedule
from models.diffae.network import DiffusionAutoencoder

from .balance import Balance, by_quarter
from .loop import Recipe, Run, arguments, train, zero_outputs
from .scenes import Scenes
from .semantic_start import CONFIG, Start
from .unet import NO_CLASS

RECIPE = Recipe(images=1_000_000, batch=32, learning_rate=1e-3, seed=4)
SHIPPED = "models/demo/models/scenes_diffae.safetensors"
READERS = 0.1  # weight of what the readers say beside the decoder's loss, which is about .01
UNET = Path("models/demo/models/scenes_unet.safetensors")


class SemanticLoss:
    """Balanced eps-MSE of the decoder, given z_sem of the clean picture (DiffAE's eq. 9), plus what `readers` say."""

    def __init__(self, schedule: NoiseSchedule, device: str, readers: Start | None = None):
        self.readers = readers
        ab = schedule.alphas_cumprod
        self.signal, self.noise = ab.sqrt().float().to(device), (1 - ab).sqrt().float().to(device)
        self.balance = Balance(len(ab), device)

    def __call__(
        self, network: nn.Module, scenes: Scenes, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(network, DiffusionAutoencoder)
        x0 = scenes.image
        t = torch.randint(len(self.signal), (len(x0),), generator=generator, device=x0.device)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        x = self.signal[t][:, None, None, None] * x0 + self.noise[t][:, None, None, None] * noise
        z_sem = network.encoder(x0)
        mse = (network(x, t, z_sem).float() - noise).square().flatten(1).mean(1)
        report = {"mse": mse.mean(), "z_std": z_sem.detach().std(0).mean(), **by_quarter(mse, t)}
        loss = self.balance(mse, t).mean()
        if self.readers is not None:
            read, parts = self.readers.loss(z_sem, scenes)
            loss, report = loss + READERS * read, {**report, **parts}
        return loss, report


def start_from_unet(network: DiffusionAutoencoder, path: Path) -> None:
    """Takes over all that the decoder shares with the pack's U-Net; "no class" becomes a part of the time embedding."""
    theirs = {key: value.float() for key, value in load_file(path).items()}
    theirs["time_embed.2.bias"] += theirs.pop("label_emb.weight")[NO_CLASS]
    for key in ("out.2.weight", "out.2.bias"):
        theirs[key] = theirs[key][: network.config.out_channels]  # eps without the learned variance
    theirs = {key.replace("time_embed.", "time_embed.time_embed."): value for key, value in theirs.items()}
    own = network.state_dict()
    network.load_state_dict({key: theirs.get(key, value) for key, value in own.items()})
    for name, module in network.named_modules():
        if name.endswith("cond_emb_layers.1"):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)


def first_stage(network: DiffusionAutoencoder, path: Path) -> Start:
    """Takes over the encoder; its readers come back frozen."""
    start = Start()
    start.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    encoder: nn.Module = network.encoder
    encoder.load_state_dict(start.encoder.state_dict())
    return start.requires_grad_(False).eval()


def main() -> None:
    recipe, given = arguments(SHIPPED, RECIPE)
    torch.manual_seed(recipe.seed)
    network = DiffusionAutoencoder(CONFIG)
    zero_outputs(network)
    start_from_unet(network, UNET)
    readers = first_stage(network, given.first_stage).to(given.device) if given.first_stage else None
    metadata = {
        "architecture": "diffae",
        "config": json.dumps(asdict(CONFIG)),
        "schedule": "linear",
        "image_size": "32",
    }
    loss = SemanticLoss(NoiseSchedule.named("linear"), given.device, readers)
    train(Run(network, recipe, given.device, metadata), loss, given)


if __name__ == "__main__":
    main()
