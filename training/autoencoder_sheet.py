"""What a diffusion autoencoder in training can do, as one picture: originals, both kinds of decoding, a way between."""

from __future__ import annotations

from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor

from guidance.latents import lerp, slerp
from models.diffae.network import DiffAEConfig, DiffusionAutoencoder

from .codes import decode, encode
from .loop import Run
from .pictures import Pictures

COLUMNS, STEPS = 8, 20


def sheet(run: Run, pictures: Pictures, path: Path) -> None:
    """Writes four rows, drawn by the averaged weights: pictures of the folder; what z_sem and x_T give back; z_sem with
    other noise, which shows what z_sem alone says; frames from the first picture to the last."""
    assert isinstance(run.network, DiffusionAutoencoder) and isinstance(run.network.config, DiffAEConfig)
    averaged = DiffusionAutoencoder(run.network.config).to(run.device).eval()
    averaged.load_state_dict(run.ema)
    rows = torch.linspace(0, len(pictures) - 1, COLUMNS).round().long()
    with torch.no_grad():
        drawn = rows_of(averaged, pictures.picked(rows).to(run.device))
    write(drawn, path)


def rows_of(network: DiffusionAutoencoder, images: Tensor) -> Tensor:
    """[C 3 S S] -> [4 C 3 S S]."""

    def drawn(z_sem: Tensor, x_T: Tensor) -> Tensor:  # noqa: N803
        return decode(lambda x, t, part: network(x, t, z_sem[part]), x_T, STEPS)

    z_sem = network.encoder(images)
    x_T = encode(lambda x, t, part: network(x, t, z_sem[part]), images, STEPS)  # noqa: N806
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).to(images.device)
    places = torch.linspace(0, 1, len(images))
    between = drawn(lerp(z_sem[:1], z_sem[-1:], places), slerp(x_T[:1], x_T[-1:], places))
    return torch.stack([images, drawn(z_sem, x_T), drawn(z_sem, noise), between])


def write(rows: Tensor, path: Path) -> None:
    """[R C 3 S S] in [-1, 1] as a PNG."""
    pixels = ((rows.clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
    whole = pixels.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    Image.fromarray(numpy.ascontiguousarray(whole.numpy())).save(path)
