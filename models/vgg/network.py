"""The convolutional part of VGG19."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..encoder import DIFFERENCE, EMBEDDING, SELF_SIMILARITY, STYLE, ImageEncoder, NoTextsError

DEPTHS = (2, 2, 4, 4, 4)  # convolutions a block
LAYERS = tuple(f"relu{block + 1}_{index + 1}" for block, depth in enumerate(DEPTHS) for index in range(depth))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class VGGConfig:
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)


class VGG19(nn.Module, ImageEncoder):
    """Pictures [B 3 H W] in [-1, 1], of any size from 32 on."""

    mean: Tensor
    std: Tensor
    bears_half = False  # its features are all positive and nearly parallel: their differences are the last bits

    def __init__(self, config: VGGConfig):
        super().__init__()
        parts: list[nn.Module] = []
        channels = 3
        for depth, width in zip(DEPTHS, config.widths, strict=True):
            for _ in range(depth):
                parts += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            parts.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*parts)
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    @property
    def layers(self) -> Sequence[str]:
        return LAYERS

    @property
    def usual_layers(self) -> Mapping[str, Sequence[str]]:
        style = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
        return {STYLE: style, DIFFERENCE: ("relu3_1", "relu4_1"), SELF_SIMILARITY: ("relu4_1",)}

    def encode(self, x: Tensor, t: Tensor, names: Collection[str]) -> Mapping[str, Tensor]:
        if EMBEDDING in names:
            raise ValueError("VGG19 has features but no embedding; use it for style and structure, and a CLIP here")
        found: dict[str, Tensor] = {}
        layers = iter(LAYERS)
        h = (((x + 1) / 2 - self.mean) / self.std).to(next(self.parameters()).dtype)
        for part in self.features:
            h = part(h)
            if isinstance(part, nn.ReLU):
                found[next(layers)] = h
            if all(name in found for name in names):
                break
        return found

    def embed_text(self, text: str) -> Tensor:
        raise NoTextsError("VGG19 knows no texts; use a CLIP encoder in a text guide")
