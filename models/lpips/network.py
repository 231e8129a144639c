"""LPIPS (Zhang et al. 2018, arXiv 1801.03924): features of AlexNet or VGG16 with learned weights of their channels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..encoder import DIFFERENCE, EMBEDDING, SELF_SIMILARITY, STYLE, ImageEncoder, NoTextsError

Conv = tuple[int, int, int]  # kernel, stride, padding
SMALL: Conv = (3, 1, 1)
# Of each slice: the kernel of the pooling before it, 0 for none, and its convolutions.
NETS: dict[str, tuple[tuple[int, tuple[Conv, ...]], ...]] = {
    "alex": ((0, ((11, 4, 2),)), (3, ((5, 1, 2),)), (3, (SMALL,)), (0, (SMALL,)), (0, (SMALL,))),
    "vgg": ((0, (SMALL,) * 2), (2, (SMALL,) * 2), (2, (SMALL,) * 3), (2, (SMALL,) * 3), (2, (SMALL,) * 3)),
}
LAYERS = ("slice1", "slice2", "slice3", "slice4", "slice5")
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


@dataclass(frozen=True)
class LPIPSConfig:
    net: str = "alex"
    widths: tuple[int, ...] = (64, 192, 384, 256, 256)


class LPIPS(nn.Module, ImageEncoder):
    """Pictures [B 3 H W] in [-1, 1], from 64 pixels on.

    Maps are sqrt(w) F / |F| with |F| over the channels: the sum over layers of the mean over places of
    |map - map'|^2 is the paper's eq. 1.
    """

    bears_half = False  # its features are all positive and nearly parallel: their differences are the last bits

    def __init__(self, config: LPIPSConfig):
        super().__init__()
        self.config = config
        self.net = nn.ModuleDict()
        index, channels = 0, 3
        for place, ((pool, convs), width) in enumerate(zip(NETS[config.net], config.widths, strict=True)):
            parts: list[nn.Module] = [nn.MaxPool2d(pool, 2)] if pool else []
            for kernel, stride, padding in convs:
                parts += [nn.Conv2d(channels, width, kernel, stride, padding), nn.ReLU()]
                channels = width
            slice_ = nn.Sequential()
            for part in parts:  # numbered through all slices, as in torchvision
                slice_.add_module(str(index), part)
                index += 1
            self.net[LAYERS[place]] = slice_
            head = nn.ModuleDict({"model": nn.Sequential(nn.Identity(), nn.Conv2d(width, 1, 1, bias=False))})
            self.add_module(f"lin{place}", head)
        self.scaling_layer = nn.Module()
        for name, values in (("shift", SHIFT), ("scale", SCALE)):
            self.scaling_layer.register_buffer(name, torch.tensor(values)[None, :, None, None])

    @property
    def layers(self) -> Sequence[str]:
        return LAYERS

    @property
    def usual_layers(self) -> Mapping[str, Sequence[str]]:
        return {STYLE: LAYERS, DIFFERENCE: LAYERS, SELF_SIMILARITY: ("slice4",)}

    def encode(self, x: Tensor, t: Tensor, names: Collection[str]) -> Mapping[str, Tensor]:
        if EMBEDDING in names:
            raise ValueError("LPIPS has features but no embedding; use a CLIP here")
        found: dict[str, Tensor] = {}
        h = (x - self.get_buffer("scaling_layer.shift")) / self.get_buffer("scaling_layer.scale")
        h = h.to(self.get_parameter("lin0.model.1.weight").dtype)
        for place, name in enumerate(LAYERS):
            h = self.net[name](h)
            if name in names:
                weight = self.get_parameter(f"lin{place}.model.1.weight").float().clamp(min=0)  # [1 C 1 1]
                found[name] = weight.sqrt() * h.float() / (h.float().norm(dim=1, keepdim=True) + 1e-10)
            if len(found) == len(set(names)):
                break
        return found

    def embed_text(self, text: str) -> Tensor:
        raise NoTextsError("LPIPS knows no texts; connect a CLIP to text_encoder of Load Guidance Encoder")
