"""Trains a diffusion autoencoder: semantic encoder and decoder together, by eps-MSE (DiffAE's eq. 9), then its prior.

`python dev.py train diffae --images FOLDER --size 64 --out FILE` does it from nothing on your own pictures. Small
scale: an hour on a GPU or a night on a CPU for some thousand pictures of one kind, 32 to 128 pixels. A killed run goes
on with `--resume FILE.resume.safetensors`; every ten minutes FILE.png shows what it can do. FILE belongs into
ComfyUI/models/guidance_models.

Without --images it trains the pack's own on 32x32 scenes. There the decoder starts from the shipped U-Net, its z_sem at
zero: so it paints from the first step, and the time goes into what z_sem says. The encoder starts from
`training.semantic_start` (--first-stage), whose painter and heads, frozen, go on reading z_sem: the decoder's loss
alone made it forget shapes (a linear probe fell from .80 to .42 in 29,000 pictures). Its prior is a script of its own:
`training.latent_prior`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.diffae.network import DiffAEConfig, DiffusionAutoencoder, LatentConfig
from models.schedule import NoiseSchedule

from .autoencoder_sheet import sheet
from .balance import Balance, by_quarter
from .latent_prior import SHIPPED, add_prior
from .loop import Recipe, Run, arguments, train, zero_outputs
from .pictures import Batch, Pictures
from .processes import is_first
from .scenes import Scenes
from .semantic_start import CONFIG, Start
from .unet import NO_CLASS

RECIPE = Recipe(images=1_000_000, batch=32, learning_rate=5e-4, seed=4)
FROM_NOTHING = 2  # times the learning rate
READERS = 0.1  # weight of what the readers say beside the decoder's loss, which is about .01
UNET = Path("models/demo/models/scenes_unet.safetensors")

DEEPER = replace(CONFIG, channel_mult=(1, 2, 4, 8, 8), encoder_mult=(1, 2, 4, 5, 5), attention=(8, 16))
SIZES = {
    32: CONFIG,
    64: replace(DEEPER, semantic=128, latent=LatentConfig(hidden=512, layers=8)),
    128: replace(
        DEEPER,
        channel_mult=(1, 1, 2, 4, 8, 8),
        encoder_mult=(1, 1, 2, 4, 5, 5),
        attention=(16, 32),
        semantic=256,
        latent=LatentConfig(hidden=1024, layers=10),
    ),
}


class SemanticLoss:
    """Balanced eps-MSE of the decoder, given z_sem of the clean picture (eq. 9), plus what `readers` say of scenes."""

    def __init__(self, schedule: NoiseSchedule, device: str, readers: Start | None = None):
        self.readers = readers
        ab = schedule.alphas_cumprod
        self.signal, self.noise = ab.sqrt().float().to(device), (1 - ab).sqrt().float().to(device)
        self.balance = Balance(len(ab), device, most=300)

    def levels(self, count: int, generator: torch.Generator) -> Tensor:
        """t [B]: one half anywhere, one half where much noise leaves the picture to z_sem."""
        steps = len(self.signal)
        t = torch.randint(steps, (count,), generator=generator, device=self.signal.device)
        t[::2] = steps // 2 + t[::2] // 2
        return t

    def __call__(
        self, network: nn.Module, batch: Scenes | Batch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x0 = batch.image
        t = self.levels(len(x0), generator)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        x = self.signal[t][:, None, None, None] * x0 + self.noise[t][:, None, None, None] * noise
        assert isinstance(network, DiffusionAutoencoder)
        z_sem = network.encoder(x0)
        mse = (network(x, t, z_sem).float() - noise).square().flatten(1).mean(1)
        report = {"mse": mse.mean(), "z_std": z_sem.detach().std(0).mean(), **by_quarter(mse, t)}
        loss = self.balance(mse, t).mean()
        if self.readers is not None and isinstance(batch, Scenes):
            read, parts = self.readers.loss(z_sem, batch)
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


def metadata(config: DiffAEConfig, size: int) -> dict[str, str]:
    config_json = json.dumps(asdict(config))
    return {"architecture": "diffae", "config": config_json, "schedule": "linear", "image_size": str(size)}


def train_on_scenes(recipe: Recipe, given: argparse.Namespace) -> None:
    """The pack's own."""
    network = DiffusionAutoencoder(CONFIG)
    zero_outputs(network)
    start_from_unet(network, UNET)
    readers = first_stage(network, given.first_stage).to(given.device) if given.first_stage else None
    loss = SemanticLoss(NoiseSchedule.named("linear"), given.device, readers)
    train(Run(network, recipe, given.device, metadata(CONFIG, 32)), loss, given)


def train_on_folder(recipe: Recipe, given: argparse.Namespace) -> None:
    """Yours. Ends with the latent prior in the file."""
    pictures = Pictures(given.images, given.size)
    print(f"{len(pictures)} pictures of {given.size} x {given.size}", flush=True)
    config = replace(SIZES[given.size], model_channels=given.width)
    network = DiffusionAutoencoder(config)
    zero_outputs(network)
    loss = SemanticLoss(NoiseSchedule.named("linear"), given.device)
    recipe = replace(recipe, learning_rate=FROM_NOTHING * recipe.learning_rate)
    run = Run(network, recipe, given.device, metadata(config, given.size))
    train(run, loss, given, pictures.batches, partial(sheet, pictures=pictures, path=given.out.with_suffix(".png")))
    if is_first():
        add_prior(given.out, given.out, pictures.once(64), given.prior_minutes, given.device)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, help="a folder of pictures; without it, the pack's own scenes")
    parser.add_argument("--size", type=int, choices=list(SIZES), default=64, help="pixels of a side, with --images")
    parser.add_argument(
        "--width", type=int, choices=(16, 32, 64), default=16, help="channels, with --images; 16: a CPU"
    )
    parser.add_argument("--prior-minutes", type=float, default=4.0, help="of the latent prior, with --images")


def main() -> None:
    recipe, given = arguments(str(SHIPPED), RECIPE, add_options)
    if given.images and given.out == SHIPPED:
        sys.exit("--images: name the file to write with --out; the pack's own is not replaced by yours")
    torch.manual_seed(recipe.seed)
    (train_on_folder if given.images else train_on_scenes)(recipe, given)


if __name__ == "__main__":
    main()
