"""DeepFloyd's IF, an open Imagen (Saharia et al. 2022, arXiv 2205.11487): U-Nets of pixels that T5's states steer.

Parameter names are those of the published files. Padding is not masked here: T5 read the text with its mask, and the
U-Net looks at all rows that came out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ..adm.network import Layers, UNet, UNetConfig, timestep_embedding
from ..layers import Attention, Text, normalised

SCALE = 0.7071  # of residual blocks in the second stage: IF's rounded 1 / sqrt(2)


@dataclass(frozen=True)
class ImagenConfig(UNetConfig):
    t5_width: int = 4096
    pool_heads: int = 64
    context: int = 77  # tokens of a text
    augments: bool = False  # it is told how noisy the small picture is that it enlarges

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_width is None or self.t5_width % self.pool_heads:
            raise ValueError(f"its text is {self.t5_width} wide, which {self.pool_heads} heads can't share")

    @property
    def embedding(self) -> int:
        return int(self.model_channels * max(self.channel_mult))


class TextPool(nn.Module):
    """Rows [B N W] -> [B W]: their mean, moved by a learned vector, attends to itself and to all of them."""

    def __init__(self, layers: Layers, width: int, heads: int):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(1, width, **layers.factory) / width**0.5)
        self.k_proj, self.q_proj, self.v_proj = (layers.linear(width, width) for _ in range(3))
        self.heads, self.attention = heads, layers.attention

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=1, keepdim=True) + self.positional_embedding.to(x)
        x = torch.cat([mean, x], dim=1)
        parts = (self.q_proj(mean), self.k_proj(x), self.v_proj(x))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return self.attention(q, k, v).transpose(1, 2).flatten(1)


class ImagenUNet(UNet):
    """x [B 3 H W], or [B 6 H W] with the enlarged small picture, t [B], y the `Text` that `read` makes -> [B 6 H W]."""

    config: ImagenConfig

    def __init__(
        self,
        config: ImagenConfig,
        operations: Any = nn,
        attention: Attention = scaled_dot_product_attention,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__(config, operations, attention, dtype, device)
        factory = {"dtype": dtype, "device": device}
        layers = Layers(config, operations, attention, factory, self.BLOCK, self.ATTENTION)
        width, embedding = config.t5_width, config.embedding
        norms = [operations.LayerNorm(size, **layers.factory) for size in (width, embedding)]
        pool = TextPool(layers, width, config.pool_heads)
        self.encoder_pooling = nn.Sequential(norms[0], pool, layers.linear(width, embedding), norms[1])
        assert config.text_width is not None
        if config.text_width != width:
            self.encoder_proj = layers.linear(width, config.text_width)
        if config.augments:
            self.aug_proj = layers.time_embed()

    def read(self, states: Tensor, augmentation: Tensor | None = None) -> Text:
        """T5's states [B N W]; `augmentation` [B], the timestep of the noise on the small picture."""
        first, pool, linear, last = self.encoder_pooling
        pooled = normalised(last, linear(pool(normalised(first, states))))
        if augmentation is not None:
            pooled = pooled + self.aug_proj(timestep_embedding(augmentation, self.config.model_channels)).to(pooled)
        states = self.encoder_proj(states) if hasattr(self, "encoder_proj") else states
        return Text(states.transpose(1, 2), pooled)
