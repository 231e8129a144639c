"""Asyrp's f_t (Kwon et al. 2022, arXiv 2210.10960, fig. 3): delta_h out of the bottleneck h, 1x1 convolutions alone.

Parameter names are those of the published files, whose networks wear "layer_0." before them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import silu


@dataclass(frozen=True)
class DeltaConfig:
    channels: int
    embedding: int
    norm_first: bool = False  # the blocks for improved and guided diffusion; those for DDPM normalise between


class DeltaBlock(nn.Module):
    """h [B C h w], embedding [B E] -> delta_h [B C h w], for the `DDPM` networks."""

    def __init__(self, config: DeltaConfig):
        super().__init__()
        self.config = config
        channels = config.channels
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.temb_proj = nn.Linear(config.embedding, channels)
        self.norm2 = nn.GroupNorm(groups(channels), channels, eps=1e-6)
        self.conv2 = nn.Conv2d(channels, channels, 1)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(h) + self.temb_proj(silu(emb))[:, :, None, None]
        return self.conv2(silu(self.norm2(h)))


class NormFirstDeltaBlock(nn.Module):
    """The same for ADM's networks."""

    def __init__(self, config: DeltaConfig):
        super().__init__()
        self.config = config
        channels = config.channels
        norms = [nn.GroupNorm(groups(channels), channels) for _ in range(2)]
        self.in_layers = nn.Sequential(norms[0], nn.SiLU(), nn.Conv2d(channels, channels, 1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(config.embedding, channels))
        self.out_layers = nn.Sequential(norms[1], nn.SiLU(), nn.Identity(), nn.Conv2d(channels, channels, 1))

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        return self.out_layers(self.in_layers(h) + self.emb_layers(emb)[:, :, None, None])


def groups(channels: int) -> int:
    """The files have 32; narrow networks as many as divide their channels."""
    return next(count for count in (32, 16, 8, 4, 2, 1) if channels % count == 0)


def delta_block(config: DeltaConfig) -> DeltaBlock | NormFirstDeltaBlock:
    return NormFirstDeltaBlock(config) if config.norm_first else DeltaBlock(config)
