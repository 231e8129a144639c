"""SDG's time-conditioned CLIP image encoder (Liu et al. 2021, arXiv 2112.05744), and a small text encoder beside it.

The trunk is CLIP's modified ResNet (Radford et al. 2021, arXiv 2103.00020). Every batch norm of the trunk is followed
by h (1 + scale) + shift, read from the timestep, before its ReLU; the down-sampling branch is left alone. Parameter
names are those of the published files; `text.*` exists in the pack's own files only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, multi_head_attention_forward, relu, scaled_dot_product_attention

from ..adm.network import timestep_embedding
from ..encoder import DIFFERENCE, EMBEDDING, SELF_SIMILARITY, STYLE, ImageEncoder, NoTextsError
from .words import indices

EXPANSION = 4
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class ClipNoisyConfig:
    """The defaults are the published RN50x16."""

    image_size: int = 256
    stem: tuple[int, int, int] = (48, 48, 96)  # channels of its three convolutions
    planes: tuple[int, ...] = (96, 192, 384, 768)  # inner channels of the four layers' blocks
    blocks: tuple[int, ...] = (6, 8, 18, 8)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    stem_stride: int = 2  # of the first convolution, and of the pool after the third
    embed_dim: int = 768
    heads: int = 48
    time_width: int = 128
    time_hidden: int = 512
    words: tuple[str, ...] = ()  # the text encoder's vocabulary; empty: there is none
    text_width: int = 64
    context: int = 16  # words of a text
    sharpness: float = 0.0  # of the activation in the convolutions; 0: the published ReLU

    @property
    def modulated(self) -> list[int]:
        """Channels of every modulated batch norm, in the order of the published embedding."""
        per_block = [(planes, planes, EXPANSION * planes) for planes in self.planes]
        blocks = [width for widths, count in zip(per_block, self.blocks, strict=True) for width in widths * count]
        return [*self.stem, *blocks]

    @property
    def positions(self) -> int:
        """Side of the last feature map."""
        side = self.image_size // self.stem_stride**2
        for stride in self.strides:
            side //= stride
        return side


class Modulation:
    """The (scale, shift) pairs of one forward pass, taken in the order of the batch norms."""

    def __init__(self, embedding: Tensor, channels: list[int]):
        self.pairs = iter(embedding[:, :, None, None].split([c for width in channels for c in (width, width)], dim=1))

    def __call__(self, h: Tensor) -> Tensor:
        scale, shift = next(self.pairs), next(self.pairs)
        return h * (1 + scale) + shift


Activation = Callable[[Tensor], Tensor]


def activation(sharpness: float) -> Activation:
    """ReLU, or x sigmoid(sharpness x), which is ReLU but for a round corner 1 / sharpness wide.

    At a corner the rounding of another batch size makes another gradient; a round one doesn't mind. The outer relu
    cuts nothing, since x sigmoid(b x) >= -.2785 / b: it gives the gradient the strides of the maps, without which
    PyTorch 2.11 has a wrong gradient of batch norm for a single picture.
    """
    if not sharpness:
        return relu
    low = 0.2785 / sharpness
    return lambda x: relu(x * torch.sigmoid(sharpness * x) + low) - low


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions; a stride is an average pool before the last one."""

    def __init__(self, inputs: int, planes: int, stride: int, activate: Activation):
        super().__init__()
        self.activate = activate
        outputs = EXPANSION * planes
        self.stride = stride
        self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor, modulate: Modulation) -> Tensor:
        h = self.activate(modulate(self.bn1(self.conv1(x))))
        h = self.activate(modulate(self.bn2(self.conv2(h))))
        h = modulate(self.bn3(self.conv3(self.pool(h))))
        return self.activate(h + (x if self.downsample is None else self.downsample(self.pool(x))))

    def pool(self, h: Tensor) -> Tensor:
        return avg_pool2d(h, self.stride) if self.stride > 1 else h


class AttentionPool(nn.Module):
    """The mean over positions attends to all positions and itself: [B C H W] -> [B out]."""

    def __init__(self, positions: int, channels: int, heads: int, outputs: int):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(positions + 1, channels) / channels**0.5)
        self.k_proj, self.q_proj = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.v_proj, self.c_proj = nn.Linear(channels, channels), nn.Linear(channels, outputs)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).movedim(2, 0)  # [HW B C]
        x = torch.cat([x.mean(dim=0, keepdim=True), x]) + self.positional_embedding[:, None]
        projections = (self.q_proj, self.k_proj, self.v_proj)
        pooled, _ = multi_head_attention_forward(
            query=x[:1],
            key=x,
            value=x,
            embed_dim_to_check=x.shape[-1],
            num_heads=self.heads,
            in_proj_weight=None,
            in_proj_bias=torch.cat([projection.bias for projection in projections]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=self.c_proj.weight,
            out_proj_bias=self.c_proj.bias,
            use_separate_proj_weight=True,
            q_proj_weight=self.q_proj.weight,
            k_proj_weight=self.k_proj.weight,
            v_proj_weight=self.v_proj.weight,
            need_weights=False,
        )
        return pooled[0]


class TextBlock(nn.Module):
    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        q, k, v = self.qkv(self.ln_1(x)).unflatten(-1, (3 * self.heads, -1)).movedim(2, 1).chunk(3, dim=1)
        h = scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None, None])
        x = x + self.out(h.movedim(1, 2).flatten(2))
        return x + self.mlp(self.ln_2(x))


class TextEncoder(nn.Module):
    """Word indices [B context], 0 where there is no word -> [B embed_dim]."""

    def __init__(self, config: ClipNoisyConfig):
        super().__init__()
        width = config.text_width
        self.token_embedding = nn.Embedding(len(config.words) + 1, width)
        self.positional_embedding = nn.Parameter(0.1 * torch.randn(config.context, width))
        self.blocks = nn.ModuleList([TextBlock(width) for _ in range(2)])
        self.ln_final = nn.LayerNorm(width)
        self.projection = nn.Linear(width, config.embed_dim)

    def forward(self, words: Tensor) -> Tensor:
        visible = words > 0
        share = visible / visible.sum(1, keepdim=True).clamp(min=1)
        states = self.states(words)
        return self.projection((states * share[..., None].to(states)).sum(1))

    def states(self, words: Tensor) -> Tensor:
        """[B context width]."""
        x, visible = self.token_embedding(words) + self.positional_embedding, seen(words)
        for block in self.blocks:
            x = block(x, visible)
        return self.ln_final(x)

    def read(self, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States [B context width], embedding [B embed_dim], and which states are seen [B context] bool.

        No words at all are one state of zeros, and an embedding of zeros.
        """
        said = (words > 0).any(1, keepdim=True)
        return self.states(words) * said[..., None], self(words) * said, seen(words)


def seen(words: Tensor) -> Tensor:
    """Where there are words [B context] bool; the first place always, since attention must look somewhere."""
    return torch.cat([torch.ones_like(words[:, :1], dtype=torch.bool), words[:, 1:] > 0], dim=1)


class ClipNoisy(nn.Module, ImageEncoder):
    """x [B 3 H W] noisy in x_t scaling, t [B] (the published integer index) -> features and embedding."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ClipNoisyConfig):
        super().__init__()
        self.config = config
        self.activate = activation(config.sharpness)
        first, second, third = config.stem
        stem: list[nn.Module] = []
        for inputs, outputs, stride in ((3, first, config.stem_stride), (first, second, 1), (second, third, 1)):
            stem += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        channels, layers = third, []
        for planes, count, stride in zip(config.planes, config.blocks, config.strides, strict=True):
            layers.append(nn.ModuleList())
            for index in range(count):
                layers[-1].append(Bottleneck(channels, planes, stride if index == 0 else 1, self.activate))
                channels = EXPANSION * planes
        # the published indices: 9 convolutions, norms and ReLUs, a pool, three layers
        self.visual_frozen = nn.ModuleList([*stem, nn.AvgPool2d(config.stem_stride), *layers[:3]])
        self.layer4 = layers[3]
        self.attn_pool = AttentionPool(config.positions**2, channels, config.heads, config.embed_dim)
        self.time_embed = nn.Sequential(
            nn.Linear(config.time_width, config.time_hidden),
            nn.ReLU(),
            nn.Linear(config.time_hidden, config.time_hidden),
        )
        self.emb_layers = nn.Sequential(nn.ReLU(), nn.Linear(config.time_hidden, 2 * sum(config.modulated)))
        if config.words:
            self.text = TextEncoder(config)
        for name, values in (("mean", CLIP_MEAN), ("std", CLIP_STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    @property
    def layers(self) -> Sequence[str]:
        return STAGES

    @property
    def usual_layers(self) -> dict[str, Sequence[str]]:
        """Self-similarity: two layers of at most 32 x 32 places, which see shapes and whose matrices stay small."""
        side, small = self.config.image_size // self.config.stem_stride**2, []
        for name, stride in zip(STAGES[1:], self.config.strides, strict=True):
            side //= stride
            small += [name] if side <= 32 else []
        return {STYLE: STAGES, DIFFERENCE: STAGES, SELF_SIMILARITY: small[:2]}

    @property
    def layer_type(self) -> torch.dtype:
        return self.layer4[0].conv1.weight.dtype

    def stages(self, x: Tensor, t: Tensor, count: int = len(STAGES)) -> list[Tensor]:
        """The first `count` feature maps. x in [-1, 1] where it is clean."""
        dtype = self.layer_type
        embedding = self.emb_layers(self.time_embed(timestep_embedding(t, self.config.time_width).to(dtype)))
        modulate = Modulation(embedding, self.config.modulated)
        h = (((x + 1) / 2 - self.mean) / self.std).to(dtype)
        for index in (0, 3, 6):
            h = self.activate(modulate(self.visual_frozen[index + 1](self.visual_frozen[index](h))))
        found = [self.visual_frozen[9](h)]
        for layer in (*list(self.visual_frozen)[10:], self.layer4)[: count - 1]:
            h = found[-1]
            for block in cast(nn.ModuleList, layer):
                h = block(h, modulate)
            found.append(h)
        return found

    def encode(self, x: Tensor, t: Tensor, names: Collection[str]) -> Mapping[str, Tensor]:
        whole = EMBEDDING in names
        stages = self.stages(x, t, len(STAGES) if whole else max(STAGES.index(name) for name in names) + 1)
        found = {name: stage for name, stage in zip(STAGES, stages, strict=False) if name in names}
        return {**found, EMBEDDING: self.attn_pool(stages[-1])} if whole else found

    def embed_text(self, text: str) -> Tensor:
        return self.text(self._words(text))

    def embed_words(self, text: str) -> Tensor:
        words = self._words(text)
        return self.text.states(words)[words > 0]

    def text_states(self, text: str) -> tuple[Tensor, Tensor, Tensor]:
        empty = torch.zeros(1, self.config.context, dtype=torch.long, device=self.mean.device)
        words = self._words(text) if text.strip() or not self.config.words else empty
        return self.text.read(words)

    def _words(self, text: str) -> Tensor:
        if not self.config.words:
            raise NoTextsError(
                "this noise-aware encoder has no text tower of its own; connect the CLIP it was made from "
                "to text_encoder of Load Guidance Encoder"
            )
        return torch.tensor([indices(text, self.config.words, self.config.context)], device=self.mean.device)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.embed(x, t)
