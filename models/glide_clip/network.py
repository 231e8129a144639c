"""GLIDE's CLIP for noisy pictures (Nichol et al. 2021, arXiv 2112.10741, section 2.4): a ViT that is told the timestep.

Two files, two towers; parameter names are theirs. Attention may be wider than its stream is long for its heads: each
head has its own width. Both embeddings are compared at unit length.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, embedding, gelu, layer_norm, linear, scaled_dot_product_attention

from ..encoder import DIFFERENCE, EMBEDDING, SELF_SIMILARITY, STYLE, ImageEncoder, NoTextsError

MEAN, STD = (122.770938, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.32316305)  # of pixels in 0..255
NO_TEXTS = (
    "this is the image half of GLIDE's CLIP; put clip_text_enc.pt into the same folder, or load it with Load Guidance "
    "Encoder and connect it to text_encoder"
)
NO_PICTURES = "this is the text half of GLIDE's CLIP, which sees no pictures; load clip_image_enc.pt instead"


@dataclass(frozen=True)
class TowerConfig:
    """What both towers have."""

    width: int
    layers: int
    heads: int
    embed_dim: int

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"its width of {self.width} can't be shared by {self.heads} heads")


@dataclass(frozen=True)
class ImageConfig(TowerConfig):
    patch_size: int
    image_size: int
    timesteps: int


@dataclass(frozen=True)
class TextConfig(TowerConfig):
    context: int
    vocabulary: int


def weights(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5)


class Norm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.g, self.b = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, (len(self.g),), self.g, self.b, 1e-5)


class Affine(nn.Module):
    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__()
        self.w = weights(outputs, inputs)
        self.b = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.w, self.b)


class AttentionBlock(nn.Module):
    def __init__(self, config: TowerConfig, causal: bool):
        super().__init__()
        width = config.width
        self.ln = Norm(width)
        self.f_q, self.f_k = Affine(width, width), Affine(width, width, bias=False)
        self.f_v, self.f_c = Affine(width, width), Affine(width, width)
        self.heads, self.causal = config.heads, causal

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln(x)
        q, k, v = (part(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.f_q, self.f_k, self.f_v))
        seen = scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return x + self.f_c(seen.transpose(1, 2).flatten(2))


class PositionwiseBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.ln, self.f_1, self.f_2 = Norm(width), Affine(width, 4 * width), Affine(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f_2(gelu(self.f_1(self.ln(x))))


class Block(nn.Module):
    def __init__(self, config: TowerConfig, causal: bool):
        super().__init__()
        self.f_attn, self.f_mlp = AttentionBlock(config, causal), PositionwiseBlock(config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.f_mlp(self.f_attn(x))


class Output(nn.Module):
    """[B W] -> [B D]."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.ln, self.f = Norm(config.width), Affine(config.width, config.embed_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.ln(x))


class ImageInput(nn.Module):
    """The timestep's token, then the patches: x [B 3 H W], t [B] -> [B 1 + N W]."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ImageConfig):
        super().__init__()
        self.patch = config.patch_size
        self.w_t = weights(config.timesteps, config.width)
        self.patch_proj = weights(config.width, 3, self.patch, self.patch)
        self.w_pos = weights(1 + (config.image_size // self.patch) ** 2, config.width)
        self.ln = Norm(config.width)
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        pixels = ((x + 1) * 127.5 - self.mean) / self.std
        patches = conv2d(pixels, self.patch_proj, stride=self.patch).flatten(2).transpose(1, 2)
        return self.ln(torch.cat([embedding(t.long(), self.w_t)[:, None], patches], dim=1) + self.w_pos)


class TextInput(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.w_voc, self.w_pos = weights(config.vocabulary, config.width), weights(config.context, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        return embedding(tokens, self.w_voc) + self.w_pos


def tower(config: TowerConfig, first: nn.Module, causal: bool) -> nn.ModuleDict:
    middle = {f"block_{index}": Block(config, causal) for index in range(config.layers)}
    return nn.ModuleDict({"input": first, **middle, "output": Output(config)})


class ImageTower(nn.Module, ImageEncoder):
    """Noisy pictures x_t [B 3 H W] of its own size, t [B] -> [B D]. Layers: "block n", the patches behind block n."""

    bears_half = False  # not measured yet

    def __init__(self, config: ImageConfig):
        super().__init__()
        self.config = config
        self.blocks = tower(config, ImageInput(config), causal=False)

    @property
    def layers(self) -> Sequence[str]:
        return [f"block {index + 1}" for index in range(self.config.layers)]

    @property
    def usual_layers(self) -> Mapping[str, Sequence[str]]:
        depth = self.config.layers
        return {
            STYLE: self.layers[: min(3, depth)],
            DIFFERENCE: [f"block {(depth + 1) // 2}"],
            SELF_SIMILARITY: [f"block {depth}"],
        }

    def encode(self, x: Tensor, t: Tensor, names: Collection[str]) -> Mapping[str, Tensor]:
        side = self.config.image_size // self.config.patch_size
        last = max(self.config.layers if name == EMBEDDING else self.layers.index(name) + 1 for name in names)
        h, found = self.blocks["input"](x, t), {}
        for index, name in enumerate(self.layers[:last]):
            h = self.blocks[f"block_{index}"](h)
            if name in names:
                found[name] = h[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        if EMBEDDING in names:
            found[EMBEDDING] = self.blocks["output"](h[:, 0])
        return found

    def embed_text(self, text: str) -> Tensor:
        raise NoTextsError(NO_TEXTS)


class TextTower(nn.Module, ImageEncoder):
    """Texts -> [1 D]; what it is asked of pictures it refuses."""

    place: Tensor

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.blocks = tower(config, TextInput(config), causal=True)
        self.register_buffer("place", torch.zeros(()), persistent=False)  # tells the device

    @property
    def layers(self) -> Sequence[str]:
        return ()

    @property
    def usual_layers(self) -> Mapping[str, Sequence[str]]:
        raise ValueError(NO_PICTURES)

    def encode(self, x: Tensor, t: Tensor, names: Collection[str]) -> Mapping[str, Tensor]:
        raise ValueError(NO_PICTURES)

    def read(self, tokens: Tensor, ends: Tensor) -> Tensor:
        """Tokens [B context] and the place of each end token [B] -> [B D]."""
        h = self.blocks["input"](tokens)
        for index in range(self.config.layers):
            h = self.blocks[f"block_{index}"](h)
        return self.blocks["output"](h[torch.arange(len(h)), ends])

    def embed_text(self, text: str) -> Tensor:
        """Raises ValueError for an empty text and one longer than the context."""
        from ..clip.tokens import tokens  # here: open_clip is slow to import

        found = tokens(text, self.config.context)
        padded = found + [0] * (self.config.context - len(found))
        device = self.place.device
        return self.read(torch.tensor([padded], device=device), torch.tensor([len(found) - 1], device=device))
