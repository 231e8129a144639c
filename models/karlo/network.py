"""Karlo's U-Nets (kakaobrain/karlo, an unCLIP as in Ramesh et al. 2022, arXiv 2204.06125): decoder and upsampler.

The decoder is GLIDE's U-Net without a transformer: CLIP reads the text, and CLIP's embedding of a picture says what is
drawn. Parameter names are those of the published files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from ..adm.network import UNet, UNetConfig
from ..layers import Attention, Text, normalised


@dataclass(frozen=True)
class KarloConfig(UNetConfig):
    clip_width: int = 768  # of CLIP's embeddings of texts and pictures, and of the states of its text tower
    image_tokens: int = 4  # that an embedding of a picture becomes, before those of the text

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_width is None:
            raise ValueError("its attention looks at no text; a decoder's does")


class KarloDecoder(UNet):
    """x [B 3 H W], t [B], y the `Text` that `read` makes -> [B 6 H W]."""

    config: KarloConfig

    def __init__(
        self,
        config: KarloConfig,
        operations: Any = nn,
        attention: Attention = scaled_dot_product_attention,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__(config, operations, attention, dtype, device)
        factory = {"dtype": dtype, "device": device}
        clip, width = config.clip_width, config.text_width
        assert width is not None
        self.text_seq_proj = nn.Sequential(
            operations.Linear(clip, width, **factory), operations.LayerNorm(width, **factory)
        )
        self.text_feat_proj = operations.Linear(clip, config.embedding, **factory)
        self.clip_emb = operations.Linear(clip, config.embedding, **factory)
        self.clip_tok_proj = operations.Linear(clip, width * config.image_tokens, **factory)
        self.cf_param = nn.Parameter(torch.randn(clip, **factory) / clip**0.5)

    def read(self, states: Tensor, pooled: Tensor, mask: Tensor, image: Tensor | None, strength: float = 1.0) -> Text:
        """CLIP's states [B N D], embedding [B D] and mask [B N] of a text, its embedding [B D] of a picture.

        The null of a picture is learned; `strength` 0 is the null, 1 the picture.
        """
        null = self.cf_param.to(pooled).expand_as(pooled)
        image = null if image is None else torch.lerp(null, image.to(null), strength)
        count = self.config.image_tokens
        tokens = self.clip_tok_proj(image).unflatten(1, (-1, count))  # channel by channel, its tokens together
        words = normalised(self.text_seq_proj[1], self.text_seq_proj[0](states)).transpose(1, 2)
        summary = self.clip_emb(image) + self.text_feat_proj(pooled)
        return Text(torch.cat([tokens, words], dim=2), summary, pad(mask, (count, 0), value=True))


@dataclass(frozen=True)
class KarloUpsamplerConfig(UNetConfig):
    """Of both its networks."""


class KarloUpsampler(nn.Module):
    """x [B 6 H W], noisy and enlarged picture, t [B] -> [B 3 H W].

    One network makes all steps but the last: that one, at t = 0, is another's, trained against a discriminator.
    """

    def __init__(
        self,
        config: KarloUpsamplerConfig,
        operations: Any = nn,
        attention: Attention = scaled_dot_product_attention,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        self.config = config
        self.model_first_steps, self.model_last_step = (
            UNet(config, operations, attention, dtype, device) for _ in range(2)
        )

    def forward(self, x: Tensor, t: Tensor, y: None = None) -> Tensor:
        network = self.model_last_step if bool((t < 1).all()) else self.model_first_steps
        return network(x, t)
