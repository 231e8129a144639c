"""The U-Net of DDPM (Ho et al. 2020, arXiv 2006.11239) in the PyTorch form of the SDEdit and Asyrp checkpoints.

Parameter names are those of the published files; normalisation, embeddings and the last layer run in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention, silu

from ..layers import Attention, EditH, normalised


@dataclass(frozen=True)
class DDPMConfig:
    """`attention` lists levels, 0 being the full resolution."""

    channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    attention: tuple[int, ...]
    in_channels: int = 3
    out_channels: int = 3
    groups: int = 32

    @property
    def downscale(self) -> int:
        """Sides of a picture must be multiples of this."""
        return 2 ** (len(self.channel_mult) - 1)


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """[B] -> [B width]: [sin, cos] of t * 10000^(-k / (half - 1)), k = 0 .. half - 1."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) / (half - 1) * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t[:, None].float() * frequencies
    return pad(torch.cat([torch.sin(angles), torch.cos(angles)], dim=1), (0, width % 2))


@dataclass(frozen=True)
class Layers:
    """Where the building blocks take their layers from."""

    config: DDPMConfig
    operations: Any
    attention: Attention
    factory: dict[str, Any]  # dtype, device

    def conv(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> nn.Module:
        return self.operations.Conv2d(inputs, outputs, kernel, stride, padding, **self.factory)

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        return self.operations.Linear(inputs, outputs, **self.factory)

    def norm(self, channels: int) -> nn.Module:
        return self.operations.GroupNorm(self.config.groups, channels, eps=1e-6, **self.factory)


class ResnetBlock(nn.Module):
    """Two convolutions with the embedding added between them."""

    def __init__(self, layers: Layers, channels: int, outputs: int):
        super().__init__()
        self.norm1 = layers.norm(channels)
        self.conv1 = layers.conv(channels, outputs)
        self.temb_proj = layers.linear(4 * layers.config.channels, outputs)
        self.norm2 = layers.norm(outputs)
        self.conv2 = layers.conv(outputs, outputs)
        self.nin_shortcut = None if channels == outputs else layers.conv(channels, outputs, kernel=1, padding=0)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(silu(normalised(self.norm1, x)))
        h = h + self.temb_proj(silu(emb)).to(h.dtype)[:, :, None, None]
        h = self.conv2(silu(normalised(self.norm2, h)))
        return (x if self.nin_shortcut is None else self.nin_shortcut(x)) + h


class AttnBlock(nn.Module):
    """Self-attention with one head over positions, with a residual."""

    def __init__(self, layers: Layers, channels: int):
        super().__init__()
        self.norm = layers.norm(channels)
        self.q, self.k, self.v, self.proj_out = (layers.conv(channels, channels, kernel=1, padding=0) for _ in range(4))
        self.attention = layers.attention

    def forward(self, x: Tensor) -> Tensor:
        h = normalised(self.norm, x)
        q, k, v = (part(h).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v))
        h = self.attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(h)


class Downsample(nn.Module):
    def __init__(self, layers: Layers, channels: int):
        super().__init__()
        self.conv = layers.conv(channels, channels, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, layers: Layers, channels: int):
        super().__init__()
        self.conv = layers.conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(interpolate(x, scale_factor=2, mode="nearest"))


class Level(nn.Module):
    """Blocks of one resolution, attention after each if there is any, and a change of resolution."""

    def __init__(self, layers: Layers, widths: list[tuple[int, int]], attends: bool):
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(layers, inputs, outputs) for inputs, outputs in widths)
        self.attn = nn.ModuleList(AttnBlock(layers, outputs) for _, outputs in widths if attends)
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def step(self, index: int, h: Tensor, emb: Tensor) -> Tensor:
        h = self.block[index](h, emb)
        return self.attn[index](h) if len(self.attn) else h


class TimeEmbedding(nn.Module):
    def __init__(self, layers: Layers):
        super().__init__()
        width = layers.config.channels
        self.dense = nn.ModuleList([layers.linear(width, 4 * width), layers.linear(4 * width, 4 * width)])

    def forward(self, embedding: Tensor) -> Tensor:
        return self.dense[1](silu(self.dense[0](embedding)))


class Middle(nn.Module):
    def __init__(self, layers: Layers, channels: int):
        super().__init__()
        self.block_1 = ResnetBlock(layers, channels, channels)
        self.attn_1 = AttnBlock(layers, channels)
        self.block_2 = ResnetBlock(layers, channels, channels)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(h, emb)), emb)


class DDPM(nn.Module):
    """x [B in H W], t [B] -> eps [B out H W]."""

    def __init__(
        self,
        config: DDPMConfig,
        operations: Any = nn,
        attention: Attention = scaled_dot_product_attention,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        layers = Layers(config, operations, attention, {"dtype": dtype, "device": device})
        self.config = config
        self.temb = TimeEmbedding(layers)
        self.conv_in = layers.conv(config.in_channels, config.channels)
        widths = [config.channels * mult for mult in config.channel_mult]
        blocks, deepest = config.num_res_blocks, len(widths) - 1

        self.down, skips, channels = nn.ModuleList(), [config.channels], config.channels
        for depth, width in enumerate(widths):
            pairs = [(channels, width), *[(width, width)] * (blocks - 1)]
            level = Level(layers, pairs, depth in config.attention)
            channels = width
            if depth != deepest:
                level.downsample = Downsample(layers, channels)
            skips += [width] * (blocks + (depth != deepest))
            self.down.append(level)

        self.mid = Middle(layers, channels)
        up: list[Level] = []
        for depth, width in reversed(list(enumerate(widths))):
            pairs = []
            for _ in range(blocks + 1):
                pairs.append((channels + skips.pop(), width))
                channels = width
            level = Level(layers, pairs, depth in config.attention)
            if depth:
                level.upsample = Upsample(layers, channels)
            up.insert(0, level)
        self.up = nn.ModuleList(up)
        self.norm_out = layers.norm(channels)
        self.conv_out = layers.conv(channels, config.out_channels)

    def forward(self, x: Tensor, t: Tensor, edit_h: EditH | None = None) -> Tensor:
        h, skips, emb = self.down_half(x, t)
        return self.up_half(h if edit_h is None else edit_h(h, emb), skips, emb)

    def down_half(self, x: Tensor, t: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """The encoder half: the bottleneck h [B C h w], the skips, and the embedding [B E]."""
        emb = self.temb(timestep_embedding(t, self.config.channels))
        skips = [self.conv_in(x)]
        for level in self.down:
            assert isinstance(level, Level)
            for index in range(len(level.block)):
                skips.append(level.step(index, skips[-1], emb))
            if level.downsample is not None:
                skips.append(level.downsample(skips[-1]))
        return self.mid(skips[-1], emb), skips, emb

    def up_half(self, h: Tensor, skips: Sequence[Tensor], emb: Tensor) -> Tensor:
        """The decoder half; one encoder half serves several of them."""
        left = list(skips)
        for level in reversed(self.up):
            assert isinstance(level, Level)
            for index in range(len(level.block)):
                h = level.step(index, torch.cat([h, left.pop()], dim=1), emb)
            if level.upsample is not None:
                h = level.upsample(h)
        return self.conv_out(silu(self.norm_out(h.float())))
