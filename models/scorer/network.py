"""Scores of CLIP's image embeddings: a linear layer, or several in a row, as aesthetic predictors are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"none": nn.Identity, "ReLU": nn.ReLU, "GELU": nn.GELU, "SiLU": nn.SiLU}


@dataclass(frozen=True)
class HeadConfig:
    widths: tuple[int, ...]  # of the embedding, of what is between, and how many scores there are
    places: tuple[int, ...] = ()  # of the layers in a sequence, which names them; empty: one layer without a place
    activation: str = "none"  # of ACTIVATIONS, between two layers

    @property
    def outputs(self) -> int:
        return self.widths[-1]


class Head(nn.Sequential):
    """Embeddings [B D] of length 1 -> scores [B outputs]. Dropout between the layers is for training alone."""

    def __init__(self, config: HeadConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]()
        pairs = zip(config.widths, config.widths[1:], strict=False)
        for place, (inputs, outputs) in zip(config.places, pairs, strict=True):
            self.add_module(str(place), nn.Linear(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        first, *others = [layer for layer in self if isinstance(layer, nn.Linear)]
        x = first(x)
        for layer in others:
            x = layer(self.activation(x))
        return x


def head(config: HeadConfig) -> nn.Module:
    return Head(config) if config.places else nn.Linear(config.widths[0], config.widths[1])
