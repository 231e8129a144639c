"""GLIDE's U-Net (Nichol et al. 2021, arXiv 2112.10741): ADM's, with a transformer of its own that reads the text.

Parameter names are those of the published files. Nothing is masked: where a text ends, a learned embedding of the
position stands instead of a token, and everything attends to everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ..adm.network import UNet, UNetConfig
from ..clip_noisy.words import indices
from ..layers import Attention, Text, normalised

BPE = 50257  # tokens of GPT-2's vocabulary, its end among them
INPAINTING, ENLARGING = (7, 10), (6, 10)  # channels of the inputs of such networks


@dataclass(frozen=True)
class GlideConfig(UNetConfig):
    """`in_channels` tells what stands beside x: image * mask and mask (4), a small picture (3), or both so."""

    text_layers: int = 16
    text_heads: int = 8
    context: int = 128  # tokens of a text
    vocabulary: int = BPE
    words: tuple[str, ...] = ()  # the vocabulary of the pack's own files; empty: GPT-2's BPE

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_width is None or self.text_width % self.text_heads:
            raise ValueError(f"its text is {self.text_width} wide, which {self.text_heads} heads can't share")
        known = len(self.words) or BPE
        if self.vocabulary != known:
            raise ValueError(f"its vocabulary has {self.vocabulary} rows, and {known} words are known; use GPT-2's BPE")


class TextLayers:
    """Where the text transformer takes its layers from."""

    def __init__(self, operations: Any, attention: Attention, factory: dict[str, Any]):
        self.operations, self.attention, self.factory = operations, attention, factory

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        return self.operations.Linear(inputs, outputs, **self.factory)

    def norm(self, width: int) -> nn.Module:
        return self.operations.LayerNorm(width, **self.factory)


class SelfAttention(nn.Module):
    """[B N W] -> [B N W]; each head has its q, k and v together. `mask` is True where keys are looked at."""

    def __init__(self, layers: TextLayers, width: int, heads: int):
        super().__init__()
        self.c_qkv, self.c_proj = layers.linear(width, 3 * width), layers.linear(width, width)
        self.heads, self.attention = heads, layers.attention

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        parts = self.c_qkv(x).unflatten(-1, (self.heads, -1)).transpose(1, 2).chunk(3, dim=-1)
        seen = self.attention(*parts) if mask is None else self.attention(*parts, mask)
        return self.c_proj(seen.transpose(1, 2).flatten(2))


class TextBlock(nn.Module):
    def __init__(self, layers: TextLayers, width: int, heads: int):
        super().__init__()
        self.attn = SelfAttention(layers, width, heads)
        self.ln_1, self.ln_2 = layers.norm(width), layers.norm(width)
        c_fc, c_proj = layers.linear(width, 4 * width), layers.linear(4 * width, width)
        self.mlp = nn.ModuleDict({"c_fc": c_fc, "c_proj": c_proj})

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attn(normalised(self.ln_1, x), mask)
        return x + self.mlp["c_proj"](nn.functional.gelu(self.mlp["c_fc"](normalised(self.ln_2, x))))


class Transformer(nn.Module):
    """[B N W] -> [B N W]."""

    def __init__(self, layers: TextLayers, width: int, heads: int, depth: int):
        super().__init__()
        self.resblocks = nn.ModuleList(TextBlock(layers, width, heads) for _ in range(depth))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class GlideUNet(UNet):
    """x [B in H W], t [B], y the `Text` that `read` makes -> [B 6 H W]."""

    config: GlideConfig

    def __init__(
        self,
        config: GlideConfig,
        operations: Any = nn,
        attention: Attention = scaled_dot_product_attention,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__(config, operations, attention, dtype, device)
        factory = {"dtype": dtype, "device": device}
        layers, width = TextLayers(operations, attention, factory), config.text_width
        assert width is not None
        self.transformer = Transformer(layers, width, config.text_heads, config.text_layers)
        self.final_ln = layers.norm(width)
        self.transformer_proj = layers.linear(width, config.embedding)
        self.token_embedding = operations.Embedding(config.vocabulary, width, **factory)
        self.positional_embedding, self.padding_embedding = (
            nn.Parameter(0.01 * torch.randn(config.context, width, **factory)) for _ in range(2)
        )

    def tokens(self, text: str) -> list[int]:
        """Any number of them, none for an empty text. Raises ValueError for words that a small vocabulary lacks."""
        if not text.strip():
            return []
        if self.config.words:
            return [index - 1 for index in indices(text, self.config.words, self.config.context) if index]
        from .tokens import tokens  # here: a quarter of a second

        return tokens(text)

    def said(self, tokens: list[int]) -> str:
        """The text of tokens."""
        if self.config.words:
            return " ".join(self.config.words[token] for token in tokens)
        from .tokens import said

        return said(tokens)

    def read(self, tokens: Tensor) -> Text:
        """[B context] long, -1 behind the text's end. The last position sums the text up, whatever stands there."""
        padding = (tokens < 0)[..., None]
        x = self.token_embedding(tokens.clamp(min=0))
        x = torch.where(padding, self.padding_embedding.to(x), x + self.positional_embedding.to(x))
        x = normalised(self.final_ln, self.transformer(x))
        return Text(x.transpose(1, 2), self.transformer_proj(x[:, -1]))
