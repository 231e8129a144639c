"""Trains the latent prior of a diffusion autoencoder: normalised z_sem of many pictures, by an MLP (DiffAE, sec. 4).

Reads the autoencoder's file, measures mean and deviation of z_sem, trains `latent_net` with the paper's L1 loss and
constant betas, and writes the same file with both. Minutes on a CPU: the codes are read once. On a GPU a step is one
CUDA graph.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from models.diffae import parse_config
from models.diffae.network import SemanticCodec
from models.saving import replace_file
from models.schedule import NoiseSchedule

from . import average
from .scenes import draw, render
from .step import Losses, Step, adamw

SHIPPED = Path("models/demo/models/scenes_diffae.safetensors")

BATCH, LEARNING_RATE, EMA = 256, 1e-3, 0.999


def fresh_scenes(count: int, seed: int = 8) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (render(draw(250, generator)).image for _ in range(count // 250))


@dataclass(frozen=True)
class Codes:
    z: Tensor  # [B D] normalised z_sem


class PriorLoss:
    """L1 of the predicted noise."""

    def __init__(self, device: str):
        ab = NoiseSchedule.named("const0.008").alphas_cumprod
        self.signal, self.noise = ab.sqrt().float().to(device), (1 - ab).sqrt().float().to(device)

    def __call__(self, network: nn.Module, batch: Codes, generator: torch.Generator) -> Losses:
        z = batch.z
        t = torch.randint(len(self.signal), (len(z),), generator=generator, device=z.device)
        noise = torch.randn(z.shape, generator=generator, device=z.device)
        loss = l1_loss(network(self.signal[t, None] * z + self.noise[t, None] * noise, t), noise)
        return loss, {"loss": loss}


def train_prior(network: nn.Module, codes: Tensor, minutes: float, device: str) -> average.Average:
    """EMA of the weights after so many minutes; the learning rate falls linearly to 0 over the second half."""
    loss = PriorLoss(device)
    optimizer, ema = adamw(network, device, weight_decay=0.01), average.start(network)
    generator = torch.Generator(device).manual_seed(9)
    step = Step(network, optimizer, ema, lambda batch: loss(network, batch, generator), generator)
    started, count = time.monotonic(), 0
    while (done := (time.monotonic() - started) / (60 * minutes)) < 1:
        rows = torch.randint(len(codes), (BATCH,), generator=generator, device=device)
        count += 1
        step(Codes(codes[rows]), LEARNING_RATE * min(1.0, 2 * (1 - done)), average.share_of(count, EMA))
        if count % 2000 == 0:
            print(f"{count} steps, {done:.0%}, loss {step.report['loss'].item():.4f}", flush=True)
    return ema


def add_prior(autoencoder: Path, out: Path, images: Iterable[Tensor], minutes: float, device: str = "cpu") -> None:
    """Reads the codes of `images` (batches [B 3 H W] in [-1, 1]), trains the prior and writes the completed file."""
    torch.manual_seed(7)
    with safe_open(autoencoder, "pt") as file:
        state, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()
    codec = SemanticCodec(parse_config(json.loads(metadata["config"])))
    codec.encoder.load_state_dict({k.removeprefix("encoder."): v.float() for k, v in state.items() if "encoder." in k})
    codec.to(device).eval()
    with torch.no_grad():
        codes = torch.cat([codec.encoder(part.to(device)) for part in images])
    mean, std = codes.mean(0, keepdim=True), codes.std(0, keepdim=True)
    ema = train_prior(codec.latent_net, (codes - mean) / std, minutes, device)
    state |= {f"latent_net.{key}": value.half() for key, value in ema.items()}
    state |= {"conds_mean": mean, "conds_std": std}
    replace_file(state, out, metadata)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--autoencoder", type=Path, default=SHIPPED)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--codes", type=int, default=40_000)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    add_prior(given.autoencoder, given.out, fresh_scenes(given.codes), given.minutes, given.device)


if __name__ == "__main__":
    main()
