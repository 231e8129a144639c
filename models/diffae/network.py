"""The networks of Diffusion Autoencoders (Preechakul et al. 2022, arXiv 2111.15640): decoder, encoder, latent prior.

Parameter names are those of the published files. The decoder is ADM's U-Net with z_sem in every block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from ..adm.network import (
    AttentionBlock,
    Block,
    EncoderConfig,
    Layers,
    ResBlock,
    UNet,
    UNetConfig,
    adaptive_pool,
    encoder_blocks,
    middle,
    run,
    timestep_embedding,
)
from ..layers import Attention, normalised


@dataclass(frozen=True)
class LatentConfig:
    """The latent prior: `layers` linear maps of `hidden` numbers, the input again beside each but the first."""

    hidden: int
    layers: int
    time_width: int = 64


@dataclass(frozen=True)
class DiffAEConfig(UNetConfig):
    """`attention` lists down-sampling factors, for decoder and encoder alike."""

    semantic: int = 512  # numbers in z_sem, and width of the time embedding
    encoder_mult: tuple[float, ...] = ()
    encoder_res_blocks: int = 2
    latent: LatentConfig | None = field(default=None)

    @property
    def embedding(self) -> int:
        return self.semantic

    @property
    def encoder(self) -> EncoderConfig:
        shared = ("model_channels", "attention", "in_channels", "num_heads", "head_channels", "groups")
        return EncoderConfig(
            **{key: getattr(self, key) for key in shared},
            out_channels=self.semantic,
            num_res_blocks=self.encoder_res_blocks,
            channel_mult=self.encoder_mult,
        )


class SemanticResBlock(ResBlock):
    """ADM's block with z_sem as a second scale: (GN(h) (1 + t_s) + t_b) (1 + z_s). emb [B 2E] = time, then z_sem.

    The paper's eq. 8 is z_s (t_s GN(h) + t_b); the published code adds 1 to both scales.
    """

    def __init__(self, layers: Layers, channels: int, outputs: int, resize: Callable[[Tensor], Tensor] | None = None):
        super().__init__(layers, channels, outputs, resize)
        self.cond_emb_layers = nn.Sequential(nn.SiLU(), layers.linear(layers.config.embedding, outputs))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        time, z_sem = emb.chunk(2, dim=1)
        h = silu(normalised(self.in_layers[0], x))
        if self.resize is not None:
            h, x = self.resize(h), self.resize(x)
        h = self.in_layers[2](h)
        scale, shift = self.emb_layers(time).to(h.dtype)[:, :, None, None].chunk(2, dim=1)
        semantic = self.cond_emb_layers(z_sem).to(h.dtype)[:, :, None, None]
        h = torch.addcmul(shift, normalised(self.out_layers[0], h), 1 + scale) * (1 + semantic)
        return self.skip_connection(x) + self.out_layers[3](silu(h))


class PlainBlock(Block):
    """A block of the semantic encoder, which has no time: one convolution and the skip."""

    def __init__(self, layers: Layers, channels: int, outputs: int, resize: Callable[[Tensor], Tensor] | None = None):
        super().__init__(layers, channels, outputs, resize)
        self.resize = resize
        self.in_layers = nn.Sequential(layers.norm(channels), nn.SiLU(), layers.conv(channels, outputs))
        self.skip_connection = nn.Identity() if channels == outputs else layers.conv(channels, outputs, kernel=1)

    def forward(self, x: Tensor, emb: None) -> Tensor:
        h = silu(normalised(self.in_layers[0], x))
        if self.resize is not None:
            h, x = self.resize(h), self.resize(x)
        return self.skip_connection(x) + self.in_layers[2](h)


class SemanticEncoder(nn.Module):
    """Clean pictures [B 3 H W] in [-1, 1] -> z_sem [B D]."""

    def __init__(self, layers: Layers):
        super().__init__()
        self.input_blocks, widths = encoder_blocks(layers)
        self.middle_block = middle(layers, widths[-1])
        self.out = adaptive_pool(layers, widths[-1], positions=0, features=0)

    def forward(self, image: Tensor) -> Tensor:
        h = image
        for block in [*self.input_blocks, self.middle_block]:
            h = run(block, h, None)
        return self.out(h.float())


class LatentLayer(nn.Module):
    """Linear, times 1 + Linear(SiLU(time)), LayerNorm, SiLU; the last layer is the linear map alone."""

    def __init__(self, layers: Layers, inputs: int, outputs: int, last: bool):
        super().__init__()
        self.linear = layers.linear(inputs, outputs)
        self.last = last
        if not last:
            self.linear_emb = layers.linear(layers.config.embedding, outputs)
            self.cond_layers = nn.Sequential(nn.SiLU(), self.linear_emb)  # the files hold this tensor twice
            self.norm = layers.operations.LayerNorm(outputs, **layers.factory)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = self.linear(x)
        return x if self.last else silu(self.norm(x * (1 + self.cond_layers(emb))))


class LatentNet(nn.Module):
    """The latent prior's eps network: noisy normalised z_sem [B D], t [B] -> eps [B D] (the paper's table 7)."""

    def __init__(self, layers: Layers, config: LatentConfig):
        super().__init__()
        width = layers.config.embedding
        self.config = config
        self.time_embed = nn.Sequential(layers.linear(config.time_width, width), nn.SiLU(), layers.linear(width, width))
        sizes = [(width, config.hidden)] + [(config.hidden + width, config.hidden)] * (config.layers - 2)
        parts = [LatentLayer(layers, *size, last=False) for size in sizes]
        parts.append(LatentLayer(layers, config.hidden + width, width, last=True))
        self.layers = nn.ModuleList(parts)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        emb = self.time_embed(timestep_embedding(t, self.config.time_width))
        h = z
        for index, layer in enumerate(self.layers):
            h = layer(torch.cat([h, z], dim=1) if index else h, emb)
        return h


class DiffusionAutoencoder(UNet):
    """x [B 3 H W], t [B], z_sem [B D] -> eps [B 3 H W].

    `encoder` makes z_sem, `latent_net` samples it; a config without `encoder_mult` is the decoder alone.
    """

    BLOCK: ClassVar[type[Block]] = SemanticResBlock
    encoder: SemanticEncoder
    latent_net: LatentNet

    def __init__(
        self,
        config: DiffAEConfig,
        operations: Any = nn,
        attention: Attention = scaled_dot_product_attention,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__(config, operations, attention, dtype, device)
        factory = {"dtype": dtype, "device": device}
        self.time_embed = nn.ModuleDict({"time_embed": self.time_embed})  # the files name it twice
        add_codec(self, config, operations, attention, factory)

    def embed(self, t: Tensor, y: Tensor | None) -> Tensor:
        """[B 2E] float32: time, then z_sem. A picture can't be decoded without z_sem."""
        assert y is not None
        time = self.time_embed["time_embed"](timestep_embedding(t, self.config.model_channels))
        return torch.cat([time, y.to(time)], dim=1)


class SemanticCodec(nn.Module):
    """Encoder and latent prior without the decoder."""

    encoder: SemanticEncoder
    latent_net: LatentNet

    def __init__(self, config: DiffAEConfig):
        super().__init__()
        self.config = config
        add_codec(self, config, nn, scaled_dot_product_attention, {})


def add_codec(
    module: nn.Module, config: DiffAEConfig, operations: Any, attention: Attention, factory: dict[str, Any]
) -> None:
    """Gives a module the semantic encoder and the latent prior that the configuration names."""
    if config.encoder_mult:
        module.encoder = SemanticEncoder(
            Layers(config.encoder, operations, attention, factory, PlainBlock, AttentionBlock)
        )
    if config.latent is not None:
        module.latent_net = LatentNet(
            Layers(config, operations, attention, factory, Block, AttentionBlock), config.latent
        )
