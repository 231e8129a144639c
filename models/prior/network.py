"""Diffusion priors of unCLIP (Ramesh et al. 2022, arXiv 2204.06125): a text -> CLIP's embedding of a picture of it.

A transformer looks at the text's states, its embedding, the time, the noisy embedding of a picture and a query, each at
what stands before it, and answers at the query with the embedding without noise. Karlo's own file and diffusers' layout
(Karlo, Kandinsky 2.x) hold the same network under other names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad, scaled_dot_product_attention

from ..adm.network import timestep_embedding
from ..glide.network import TextLayers, Transformer
from ..layers import Attention, normalised

AFTER = 4  # tokens behind those of the text


@dataclass(frozen=True)
class PriorConfig:
    width: int
    layers: int
    heads: int
    clip_width: int  # of CLIP's embeddings, and of the states of its text tower
    context: int = 77


class Prior(nn.Module, ABC):
    """Normalised embeddings x_t [B D], t [B], a text -> x0 [B D]."""

    config: PriorConfig
    positional_embedding: nn.Parameter

    def __init__(self, config: PriorConfig, operations: Any, attention: Attention, factory: dict[str, Any]):
        super().__init__()
        if config.width % config.heads:
            raise ValueError(f"its width is {config.width}, which {config.heads} heads can't share")
        self.config = config
        self.layers = TextLayers(operations, attention, factory)
        positions = torch.randn(1, config.context + AFTER, config.width, **factory) * 0.01
        self.positional_embedding = nn.Parameter(positions)

    @abstractmethod
    def tokens(self, x: Tensor, time: Tensor, states: Tensor, pooled: Tensor) -> list[Tensor]:
        """Each [B n W]: the text's states, its embedding, time, noisy picture, query."""

    @abstractmethod
    def transformed(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """[B N W], mask [B 1 N N] -> the answer [B D] at the last token."""

    def forward(self, x: Tensor, t: Tensor, states: Tensor, pooled: Tensor, mask: Tensor) -> Tensor:
        """CLIP's states [B N D], embedding [B D] and mask [B N] of the text."""
        parts = self.tokens(x, timestep_embedding(t, self.config.width), states, pooled)
        tokens = torch.cat([part.expand(len(x), -1, -1) for part in parts], dim=1)
        tokens = tokens + self.positional_embedding.to(tokens)
        length = tokens.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        seen = pad(mask, (0, AFTER), value=True)[:, None, None] & causal
        return self.transformed(tokens, seen)


class KarloPrior(Prior):
    """With the names of kakaobrain/karlo. The statistics of embeddings are a file of their own."""

    def __init__(
        self,
        config: PriorConfig,
        operations: Any = nn,
        attention: Attention = scaled_dot_product_attention,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__(config, operations, attention, {"dtype": dtype, "device": device})
        linear, width, clip = self.layers.linear, config.width, config.clip_width
        self.time_embed = nn.Sequential(linear(width, width), nn.SiLU(), linear(width, width))
        self.text_enc_proj, self.text_emb_proj, self.clip_img_proj = (linear(clip, width) for _ in range(3))
        self.transformer = Transformer(self.layers, width, config.heads, config.layers)
        self.final_ln, self.out_proj = self.layers.norm(width), linear(width, clip)
        self.prd_emb = nn.Parameter(torch.randn(1, 1, width, **self.layers.factory) * 0.01)

    def tokens(self, x: Tensor, time: Tensor, states: Tensor, pooled: Tensor) -> list[Tensor]:
        singles = (self.text_emb_proj(pooled), self.time_embed(time), self.clip_img_proj(x))
        return [self.text_enc_proj(states), *(single[:, None] for single in singles), self.prd_emb.to(x)]

    def transformed(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.out_proj(normalised(self.final_ln, self.transformer(tokens, mask)[:, -1]))


class DiffusersBlock(nn.Module):
    """The same block with q, k and v apart."""

    def __init__(self, layers: TextLayers, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm3 = layers.norm(width), layers.norm(width)
        parts = {name: layers.linear(width, width) for name in ("to_q", "to_k", "to_v")}
        self.attn1 = nn.ModuleDict({**parts, "to_out": nn.ModuleList([layers.linear(width, width)])})
        first = nn.ModuleDict({"proj": layers.linear(width, 4 * width)})
        self.ff = nn.ModuleDict({"net": nn.ModuleList([first, nn.Identity(), layers.linear(4 * width, width)])})
        self.heads, self.attention = heads, layers.attention

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = normalised(self.norm1, x)
        q, k, v = (
            self.attn1[name](h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in ("to_q", "to_k", "to_v")
        )
        seen = self.attention(q, k, v, mask).transpose(1, 2).flatten(2)
        x = x + self.attn1["to_out"][0](seen)  # pyright: ignore[reportIndexIssue]
        first, _, last = self.ff["net"]  # pyright: ignore[reportGeneralTypeIssues]
        return x + last(gelu(first["proj"](normalised(self.norm3, x))))


class DiffusersPrior(Prior):
    """With the names of diffusers' PriorTransformer, which holds the statistics too."""

    def __init__(
        self,
        config: PriorConfig,
        operations: Any = nn,
        attention: Attention = scaled_dot_product_attention,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__(config, operations, attention, {"dtype": dtype, "device": device})
        linear, width, clip = self.layers.linear, config.width, config.clip_width
        self.time_embedding = nn.ModuleDict({"linear_1": linear(width, width), "linear_2": linear(width, width)})
        self.encoder_hidden_states_proj, self.embedding_proj, self.proj_in = (linear(clip, width) for _ in range(3))
        self.transformer_blocks = nn.ModuleList(
            DiffusersBlock(self.layers, width, config.heads) for _ in range(config.layers)
        )
        self.norm_out, self.proj_to_clip_embeddings = self.layers.norm(width), linear(width, clip)
        self.prd_embedding = nn.Parameter(torch.randn(1, 1, width, **self.layers.factory) * 0.01)
        self.clip_mean, self.clip_std = (
            nn.Parameter(torch.full((1, clip), value, **self.layers.factory)) for value in (0.0, 1.0)
        )

    def tokens(self, x: Tensor, time: Tensor, states: Tensor, pooled: Tensor) -> list[Tensor]:
        time = self.time_embedding["linear_2"](nn.functional.silu(self.time_embedding["linear_1"](time)))
        singles = (self.embedding_proj(pooled), time, self.proj_in(x))
        words = self.encoder_hidden_states_proj(states)
        return [words, *(single[:, None] for single in singles), self.prd_embedding.to(x)]

    def transformed(self, tokens: Tensor, mask: Tensor) -> Tensor:
        for block in self.transformer_blocks:
            tokens = block(tokens, mask)
        return self.proj_to_clip_embeddings(normalised(self.norm_out, tokens[:, -1]))
