"""Trains the latent prior of a diffusion autoencoder: normalised z_sem of many pictures, by an MLP (DiffAE, sec. 4).

Reads the autoencoder's file, measures mean and deviation of z_sem, trains `latent_net` with the paper's L1 loss and
constant betas, and writes the same file with both. Minutes on a CPU: the codes are read once.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from models.diffae import parse_config
from models.diffae.network import SemanticCodec
from models.schedule import NoiseSchedule

from .loop import replace_file
from .scenes import draw, render

SHIPPED = Path("models/demo/models/scenes_diffae.safetensors")

BATCH, LEARNING_RATE, EMA = 256, 1e-3, 0.999


def fresh_scenes(count: int, seed: int = 8) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (render(draw(250, generator)).image for _ in range(count // 250))


def train_prior(network: nn.Module, codes: Tensor, minutes: float) -> dict[str, Tensor]:
    """EMA of the weights after so many minutes; the learning rate falls linearly to 0 over the second half."""
    schedule = NoiseSchedule.named("const0.008")
    signal, noise_size = schedule.alphas_cumprod.sqrt().float(), (1 - schedule.alphas_cumprod).sqrt().float()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    ema = {key: value.clone() for key, value in network.state_dict().items()}
    generator = torch.Generator().manual_seed(9)
    started, step, mean = time.monotonic(), 0, 1.0
    while (done := (time.monotonic() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, 2 * (1 - done))
        z = codes[torch.randint(len(codes), (BATCH,), generator=generator)]
        t = torch.randint(len(signal), (BATCH,), generator=generator)
        noise = torch.randn(z.shape, generator=generator)
        loss = l1_loss(network(signal[t, None] * z + noise_size[t, None] * noise, t), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step, mean = step + 1, 0.999 * mean + 0.001 * loss.item()
        for key, value in network.state_dict().items():
            ema[key].lerp_(value, 1 - min(EMA, (1 + step) / (10 + step)))
        if step % 2000 == 0:
            print(f"{step} steps, {done:.0%}, loss {mean:.4f}", flush=True)
    return ema


def add_prior(autoencoder: Path, out: Path, images: Iterable[Tensor], minutes: float) -> None:
    """Reads the codes of `images` (batches [B 3 H W] in [-1, 1]), trains the prior and writes the completed file."""
    torch.manual_seed(7)
    with safe_open(autoencoder, "pt") as file:
        state, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()
    codec = SemanticCodec(parse_config(json.loads(metadata["config"])))
    codec.encoder.load_state_dict({k.removeprefix("encoder."): v.float() for k, v in state.items() if "encoder." in k})
    codec.encoder.eval()
    with torch.no_grad():
        codes = torch.cat([codec.encoder(part) for part in images])
    mean, std = codes.mean(0, keepdim=True), codes.std(0, keepdim=True)
    ema = train_prior(codec.latent_net, (codes - mean) / std, minutes)
    state |= {f"latent_net.{key}": value.half() for key, value in ema.items()}
    state |= {"conds_mean": mean, "conds_std": std}
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file({key: value.contiguous().clone() for key, value in state.items()}, out, metadata)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--autoencoder", type=Path, default=SHIPPED)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--codes", type=int, default=40_000)
    parser.add_argument("--minutes", type=float, default=4.0)
    given = parser.parse_args()
    add_prior(given.autoencoder, given.out, fresh_scenes(given.codes), given.minutes)


if __name__ == "__main__":
    main()
