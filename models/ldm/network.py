"""Latent diffusion's own U-Nets (Rombach et al. 2022, arXiv 2112.10752): ADM's, on the latents of an autoencoder.

The unconditional ones are ADM's as they are. The class-conditional one attends by transformers, to itself and to one
token, the class's. Parameter names are those of the published files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from ..adm.network import AttentionBlock, Layers, UNet, UNetConfig
from ..layers import Attention, Text, normalised

EPSILON = 1e-6  # of the group norm before a transformer


@dataclass(frozen=True)
class LatentConfig(UNetConfig):
    factor: int = 4  # how many pixels a side of a latent's element is wide


@dataclass(frozen=True)
class ClassConfig(LatentConfig):
    labels: int = 1001  # rows of the table of classes, the last of which is no class

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_width is None:
            raise ValueError("its attention looks at no class; that of a class-conditional model does")


class CrossAttention(nn.Module):
    """[B N C] looks at a context [B M W]; at itself without one."""

    def __init__(self, layers: Layers, channels: int, context: int):
        super().__init__()
        linear, factory = layers.operations.Linear, layers.factory
        self.to_q = linear(channels, channels, bias=False, **factory)
        self.to_k, self.to_v = (linear(context, channels, bias=False, **factory) for _ in range(2))
        self.to_out = nn.Sequential(linear(channels, channels, **factory))
        self.heads, self.attention = layers.heads(channels), layers.attention

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        parts = (self.to_q(x), self.to_k(context), self.to_v(context))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return self.to_out(self.attention(q, k, v).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    """a * gelu(b) of a layer twice as wide (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, layers: Layers, channels: int, outputs: int):
        super().__init__()
        self.proj = layers.linear(channels, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * gelu(gate)


class TransformerBlock(nn.Module):
    def __init__(self, layers: Layers, channels: int, context: int):
        super().__init__()
        self.attn1, self.attn2 = CrossAttention(layers, channels, channels), CrossAttention(layers, channels, context)
        last = layers.linear(4 * channels, channels)
        self.ff = nn.ModuleDict({"net": nn.Sequential(Gated(layers, channels, 4 * channels), nn.Identity(), last)})
        self.norm1, self.norm2, self.norm3 = (layers.operations.LayerNorm(channels, **layers.factory) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        own = normalised(self.norm1, x)
        x = x + self.attn1(own, own)
        x = x + self.attn2(normalised(self.norm2, x), context)
        return x + self.ff["net"](normalised(self.norm3, x))


class SpatialTransformer(AttentionBlock):
    """In the place of an attention block: x [B C H W], the class's token as a `Text` -> [B C H W]."""

    def __init__(self, layers: Layers, channels: int, text_only: bool = False):
        nn.Module.__init__(self)
        factory, width = layers.factory, layers.config.text_width
        assert width is not None
        self.norm = layers.operations.GroupNorm(layers.config.groups, channels, eps=EPSILON, **factory)
        self.proj_in, self.proj_out = (layers.conv(channels, channels, kernel=1) for _ in range(2))
        self.transformer_blocks = nn.ModuleList([TransformerBlock(layers, channels, width)])

    def forward(self, x: Tensor, text: Text | None) -> Tensor:
        assert text is not None
        h = self.proj_in(normalised(self.norm, x)).flatten(2).transpose(1, 2)
        context = text.states.to(h.dtype).transpose(1, 2)
        for block in self.transformer_blocks:
            h = block(h, context)
        return x + self.proj_out(h.transpose(1, 2).reshape(x.shape))


class ClassUNet(UNet):
    """x [B C h w], t [B], y the `Text` that `read` makes of a class -> [B C h w]."""

    ATTENTION: ClassVar[type[AttentionBlock]] = SpatialTransformer
    config: ClassConfig

    def __init__(
        self,
        config: ClassConfig,
        operations: Any = nn,
        attention: Attention = scaled_dot_product_attention,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__(config, operations, attention, dtype, device)
        table = operations.Embedding(config.labels, config.text_width, dtype=dtype, device=device)
        self.cond_stage_model = nn.ModuleDict({"embedding": table})

    def read(self, labels: Tensor) -> Text:
        """[B] long, rows of the table."""
        return Text(self.cond_stage_model["embedding"](labels)[..., None], None)
