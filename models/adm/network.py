"""The networks of ADM (Dhariwal & Nichol 2021, arXiv 2105.05233): a U-Net and the classifier on its encoder half.

One set of options makes the U-Net read texts, as GLIDE (Nichol et al. 2021, arXiv 2112.10741), unCLIP's decoder and
DeepFloyd's IF do: keys and values of `Text.states` stand before those of the pixels in every attention.

Parameter names are those of the published files. Layers come from `operations`, so that a host can cast and offload
them; normalisation, embeddings and the last layer run in float32 whatever the activations are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad, scaled_dot_product_attention

from ..layers import Attention, EditH, Text, normalised

ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "gelu": nn.GELU}


@dataclass(frozen=True)
class EncoderConfig:
    """What U-Net and classifier share. `attention` lists down-sampling factors (1 = full resolution)."""

    model_channels: int
    out_channels: int
    num_res_blocks: int | tuple[int, ...]  # at every level, or a list of the levels
    channel_mult: tuple[float, ...]
    attention: tuple[int, ...]
    in_channels: int = 3
    num_heads: int = 1  # used where head_channels is None
    head_channels: int | None = None
    new_attention_order: bool = False
    scale_shift_norm: bool = True
    resblock_updown: bool = True
    groups: int = 32
    activation: str = "silu"  # of ACTIVATIONS
    middle_attention: bool = True
    text_width: int | None = None  # of the text states that attention looks at; None: it looks at pixels alone
    text_norm: bool = False  # a group norm over width and length of the states
    text_only: tuple[int, ...] = ()  # down-sampling factors where pixels look at the text and not at each other
    activate_once: bool = False  # the embedding is activated for all blocks together, not in each
    residual_scale: float = 1.0  # of what a residual block gives out

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"its activation is {self.activation!r}; there are {', '.join(ACTIVATIONS)}")
        blocks, mult = self.num_res_blocks, self.channel_mult  # out of a file they may be anything: see bounds.py
        if isinstance(blocks, tuple) and isinstance(mult, tuple) and len(blocks) != len(mult):
            raise ValueError(f"it has {len(blocks)} numbers of blocks for {len(mult)} levels")

    @property
    def level_blocks(self) -> tuple[int, ...]:
        """Residual blocks of each level's encoder half; the decoder half has one more."""
        blocks = self.num_res_blocks
        return (blocks,) * len(self.channel_mult) if isinstance(blocks, int) else blocks

    @property
    def embedding(self) -> int:
        """Width of the time embedding that every block gets."""
        return 4 * self.model_channels

    @property
    def downscale(self) -> int:
        """Sides of a picture must be multiples of this."""
        return 2 ** (len(self.channel_mult) - 1)


@dataclass(frozen=True)
class UNetConfig(EncoderConfig):
    num_classes: int | None = None


@dataclass(frozen=True)
class ClassifierConfig(EncoderConfig):
    image_size: int = 64
    pool: str = "attention"  # one of POOLS


@dataclass(frozen=True)
class Layers:
    """Where the building blocks take their layers from."""

    config: EncoderConfig
    operations: Any
    attention: Attention
    factory: dict[str, Any]  # dtype, device
    block: type[Block]
    looks: type[AttentionBlock]

    def conv(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Module:
        return self.operations.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, **self.factory)

    def conv1d(self, inputs: int, outputs: int) -> nn.Module:
        return self.operations.Conv1d(inputs, outputs, 1, **self.factory)

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        return self.operations.Linear(inputs, outputs, **self.factory)

    def norm(self, channels: int) -> nn.Module:
        return self.operations.GroupNorm(self.config.groups, channels, **self.factory)

    def activate(self) -> nn.Module:
        return ACTIVATIONS[self.config.activation]()

    def heads(self, channels: int) -> int:
        """Raises ValueError where the channels can't be split so."""
        config = self.config
        heads = config.num_heads if config.head_channels is None else channels // config.head_channels
        if heads < 1 or channels % heads:
            wish = (
                f"{config.num_heads} heads"
                if config.head_channels is None
                else f"{config.head_channels} channels a head"
            )
            raise ValueError(f"attention on {channels} channels can't have {wish}; choose other heads")
        return heads

    def time_embed(self) -> nn.Sequential:
        width, embedding = self.config.model_channels, self.config.embedding
        return nn.Sequential(self.linear(width, embedding), self.activate(), self.linear(embedding, embedding))


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """[B] -> [B width]: [cos, sin] of t * 10000^(-k / half), k = 0 .. half - 1 (guided-diffusion's order)."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[:, None].float() * frequencies
    embedding = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
    return nn.functional.pad(embedding, (0, width % 2))


class Block(nn.Module):
    """A layer of a U-Net that gets the embedding beside its input: (x [B C H W], emb [B E]) -> [B C' H' W']."""

    def __init__(self, layers: Layers, channels: int, outputs: int, resize: Callable[[Tensor], Tensor] | None = None):
        super().__init__()


class ResBlock(Block):
    """Convolutions with the embedding as scale and shift between them; `resize` stands inside the first one."""

    def __init__(self, layers: Layers, channels: int, outputs: int, resize: Callable[[Tensor], Tensor] | None = None):
        super().__init__(layers, channels, outputs, resize)
        self.resize = resize
        self.scale_shift = layers.config.scale_shift_norm
        self.scale = layers.config.residual_scale
        self.in_layers = nn.Sequential(layers.norm(channels), layers.activate(), layers.conv(channels, outputs))
        embedding = layers.config.embedding
        activate = nn.Identity() if layers.config.activate_once else layers.activate()
        self.emb_layers = nn.Sequential(activate, layers.linear(embedding, outputs * (2 if self.scale_shift else 1)))
        self.out_layers = nn.Sequential(
            layers.norm(outputs), layers.activate(), nn.Identity(), layers.conv(outputs, outputs)
        )
        self.skip_connection = nn.Identity() if channels == outputs else layers.conv(channels, outputs, kernel=1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[1](normalised(self.in_layers[0], x))
        if self.resize is not None:
            h, x = self.resize(h), self.resize(x)
        h = self.in_layers[2](h)
        emb = self.emb_layers(emb).to(h.dtype)[:, :, None, None]
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = torch.addcmul(shift, normalised(self.out_layers[0], h), 1 + scale)
        else:
            h = normalised(self.out_layers[0], h + emb)
        out = self.skip_connection(x) + self.out_layers[3](self.out_layers[1](h))
        return out if self.scale == 1 else out * self.scale


def split_heads(qkv: Tensor, heads: int, new_order: bool, parts: int = 3) -> list[Tensor]:
    """[B parts*C N] -> q, k, v [B heads N d]. The legacy order holds them inside each head, the new one the reverse."""
    batch, width, length = qkv.shape
    depth = width // (parts * heads)
    if new_order:
        split = qkv.view(batch, parts, heads, depth, length).unbind(1)
    else:
        split = qkv.view(batch, heads, parts, depth, length).unbind(2)
    return [part.transpose(-1, -2) for part in split]


class AttentionBlock(nn.Module):
    """Attention of positions to each other and, where there is one, to a text before them; with a residual."""

    def __init__(self, layers: Layers, channels: int, text_only: bool = False):
        super().__init__()
        config = layers.config
        self.parts = 1 if text_only else 3
        self.norm = layers.norm(channels)
        self.qkv = layers.conv1d(channels, self.parts * channels)
        self.proj_out = layers.conv1d(channels, channels)
        self.norm_encoder = layers.norm(config.text_width) if config.text_width and config.text_norm else None
        self.encoder_kv = layers.conv1d(config.text_width, 2 * channels) if config.text_width else None
        self.heads = layers.heads(channels)
        self.new_order = config.new_attention_order
        self.attention = layers.attention

    def forward(self, x: Tensor, text: Text | None) -> Tensor:
        flat = x.flatten(2)
        q, *kv = split_heads(self.qkv(normalised(self.norm, flat)), self.heads, self.new_order, self.parts)
        kv, mask = self.seen(kv, text, flat.dtype) if text is not None else (kv, None)
        h = self.attention(q, *kv) if mask is None else self.attention(q, *kv, mask)
        return x + self.proj_out(h.transpose(-1, -2).reshape(flat.shape)).view(x.shape)

    def seen(self, kv: list[Tensor], text: Text, dtype: torch.dtype) -> tuple[list[Tensor], Tensor | None]:
        """Keys and values of the text before those of the pixels, and what may be looked at, [B 1 1 N]."""
        assert self.encoder_kv is not None
        states = text.states.to(dtype)
        states = states if self.norm_encoder is None else normalised(self.norm_encoder, states)
        words = split_heads(self.encoder_kv(states), self.heads, new_order=False, parts=2)
        kv = [torch.cat(pair, dim=2) for pair in zip(words, kv, strict=True)] if kv else words
        if text.mask is None:
            return kv, None
        return kv, pad(text.mask, (0, kv[0].shape[2] - text.mask.shape[1]), value=True)[:, None, None]


class Downsample(nn.Module):
    """Strided convolution, for files without residual resizing."""

    def __init__(self, layers: Layers, channels: int):
        super().__init__()
        self.op = layers.conv(channels, channels, stride=2)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, layers: Layers, channels: int):
        super().__init__()
        self.conv = layers.conv(channels, channels)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.conv(double(x))


def halve(x: Tensor) -> Tensor:
    return avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2, mode="nearest")


def run(block: nn.Module, x: Tensor, emb: Tensor | None, text: Text | None = None) -> Tensor:
    assert isinstance(block, nn.ModuleList)
    for layer in block:
        if isinstance(layer, AttentionBlock):
            x = layer(x, text)
        else:
            x = layer(x, emb) if isinstance(layer, (Block, Downsample, Upsample)) else layer(x)
    return x


def encoder_blocks(layers: Layers) -> tuple[nn.ModuleList, list[int]]:
    """Input blocks, and the channels that each of them leaves (for skips and for spatial pooling)."""
    config = layers.config
    channels = int(config.channel_mult[0] * config.model_channels)
    blocks, widths = [nn.ModuleList([layers.conv(config.in_channels, channels)])], [channels]
    for level, mult in enumerate(config.channel_mult):
        for _ in range(config.level_blocks[level]):
            outputs = int(mult * config.model_channels)
            block: list[nn.Module] = [layers.block(layers, channels, outputs)]
            channels = outputs
            if 2**level in config.attention:
                block.append(layers.looks(layers, channels, 2**level in config.text_only))
            blocks.append(nn.ModuleList(block))
            widths.append(channels)
        if level < len(config.channel_mult) - 1:
            down = (
                layers.block(layers, channels, channels, halve)
                if config.resblock_updown
                else Downsample(layers, channels)
            )
            blocks.append(nn.ModuleList([down]))
            widths.append(channels)
    return nn.ModuleList(blocks), widths


def middle(layers: Layers, channels: int) -> nn.ModuleList:
    first, last = (layers.block(layers, channels, channels) for _ in range(2))
    config = layers.config
    if not config.middle_attention:
        return nn.ModuleList([first, last])
    return nn.ModuleList([first, layers.looks(layers, channels, config.downscale in config.text_only), last])


class UNet(nn.Module):
    """x [B in H W], t [B] (the published integer index), y [B] class, Text or None -> [B out H W].

    With learned variance the last half of the output channels is the interpolation v (Nichol & Dhariwal 2021, eq. 15).
    """

    BLOCK: ClassVar[type[Block]] = ResBlock
    ATTENTION: ClassVar[type[AttentionBlock]] = AttentionBlock

    def __init__(
        self,
        config: UNetConfig,
        operations: Any = nn,
        attention: Attention = scaled_dot_product_attention,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        layers = Layers(config, operations, attention, factory, self.BLOCK, self.ATTENTION)
        self.config = config
        self.time_embed = layers.time_embed()
        self.activate = layers.activate() if config.activate_once else nn.Identity()
        if config.num_classes is not None:
            self.label_emb = operations.Embedding(config.num_classes, 4 * config.model_channels, **layers.factory)
        self.input_blocks, skips = encoder_blocks(layers)
        channels = skips[-1]
        self.middle_block = middle(layers, channels)
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for index in range(config.level_blocks[level] + 1):
                outputs = int(mult * config.model_channels)
                block: list[nn.Module] = [layers.block(layers, channels + skips.pop(), outputs)]
                channels = outputs
                if 2**level in config.attention:
                    block.append(layers.looks(layers, channels, 2**level in config.text_only))
                if level and index == config.level_blocks[level]:
                    up = layers.block(layers, channels, channels, double) if config.resblock_updown else None
                    block.append(up or Upsample(layers, channels))
                self.output_blocks.append(nn.ModuleList(block))
        self.out = nn.Sequential(layers.norm(channels), layers.activate(), layers.conv(channels, config.out_channels))

    def embed(self, t: Tensor, y: Tensor | Text | None) -> Tensor:
        """[B 4C] float32: time and, where the network has one, class or the text's summary."""
        emb = self.time_embed(timestep_embedding(t, self.config.model_channels))
        added = y.pooled if isinstance(y, Text) else None if y is None else self.label_emb(y)
        if added is not None:
            emb = emb + added.to(emb)
        return self.activate(emb)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | Text | None = None, edit_h: EditH | None = None) -> Tensor:
        h, skips, emb = self.down_half(x, t, y)
        return self.up_half(h if edit_h is None else edit_h(h, emb), skips, emb, y)

    def down_half(self, x: Tensor, t: Tensor, y: Tensor | Text | None = None) -> tuple[Tensor, list[Tensor], Tensor]:
        """The encoder half: the bottleneck h [B C h w], the skips, and the embedding [B E]."""
        emb = self.embed(t, y)
        text = y if isinstance(y, Text) else None
        h, skips = x, []
        for block in self.input_blocks:
            h = run(block, h, emb, text)
            skips.append(h)
        return run(self.middle_block, h, emb, text), skips, emb

    def up_half(self, h: Tensor, skips: Sequence[Tensor], emb: Tensor, y: Tensor | Text | None = None) -> Tensor:
        """The decoder half; one encoder half serves several of them. A text goes to both."""
        text = y if isinstance(y, Text) else None
        for block, skip in zip(self.output_blocks, reversed(skips), strict=True):
            h = run(block, torch.cat([h, skip], dim=1), emb, text)
        return self.out(h.float())


class AttentionPool(nn.Module):
    """One token, the mean over positions, attends to all (Radford et al. 2021); always in the new head order."""

    def __init__(self, layers: Layers, channels: int, positions: int):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(channels, positions + 1, **layers.factory) / channels**0.5)
        self.qkv_proj = layers.conv1d(channels, 3 * channels)
        self.c_proj = layers.conv1d(channels, layers.config.out_channels)
        self.heads = layers.heads(channels)
        self.attention = layers.attention

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        x = torch.cat([x.mean(dim=-1, keepdim=True), x], dim=-1) + self.positional_embedding.to(x)
        q, k, v = split_heads(self.qkv_proj(x), self.heads, new_order=True)
        h = self.attention(q[:, :, :1], k, v).transpose(-1, -2).reshape(len(x), -1, 1)
        return self.c_proj(h)[:, :, 0]


def adaptive_pool(layers: Layers, channels: int, positions: int, features: int) -> nn.Sequential:
    head = layers.conv(channels, layers.config.out_channels, kernel=1)
    return nn.Sequential(layers.norm(channels), nn.SiLU(), nn.AdaptiveAvgPool2d(1), head, nn.Flatten())


def attention_pool(layers: Layers, channels: int, positions: int, features: int) -> nn.Sequential:
    return nn.Sequential(layers.norm(channels), nn.SiLU(), AttentionPool(layers, channels, positions))


def spatial_pool(layers: Layers, channels: int, positions: int, features: int) -> nn.Sequential:
    return nn.Sequential(layers.linear(features, 2048), nn.ReLU(), layers.linear(2048, layers.config.out_channels))


def spatial_v2_pool(layers: Layers, channels: int, positions: int, features: int) -> nn.Sequential:
    head = layers.linear(2048, layers.config.out_channels)
    return nn.Sequential(layers.linear(features, 2048), layers.norm(2048), nn.SiLU(), head)


POOLS: dict[str, Callable[[Layers, int, int, int], nn.Sequential]] = {
    "attention": attention_pool,
    "adaptive": adaptive_pool,
    "spatial": spatial_pool,
    "spatial_v2": spatial_v2_pool,
}


class Classifier(nn.Module):
    """x [B in H W] noisy, t [B] -> logits [B out]. The encoder half of the U-Net with a pool on top."""

    def __init__(
        self,
        config: ClassifierConfig,
        operations: Any = nn,
        attention: Attention = scaled_dot_product_attention,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        layers = Layers(config, operations, attention, factory, ResBlock, AttentionBlock)
        self.config = config
        self.time_embed = layers.time_embed()
        self.input_blocks, widths = encoder_blocks(layers)
        self.middle_block = middle(layers, widths[-1])
        positions = (config.image_size // config.downscale) ** 2
        self.out = POOLS[config.pool](layers, widths[-1], positions, sum(widths) + widths[-1])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        emb = self.time_embed(timestep_embedding(t, self.config.model_channels))
        h, means = x, []
        for block in [*self.input_blocks, self.middle_block]:
            h = run(block, h, emb)
            means.append(h.mean(dim=(2, 3)))
        if self.config.pool.startswith("spatial"):
            return self.out(torch.cat(means, dim=1).float())
        return self.out(h.float())
