"""The judge's network: a plain residual CNN on clean pictures. It shares no layer, seed or noise with any guide."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip = (
            nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 or inputs != outputs else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.skip(x) + self.branch(x))


class Judge(nn.Module):
    """image [B 3 32 32] in [-1, 1] -> logits [B classes], the attributes' classes one after another."""

    def __init__(self, classes: int, width: int = 32):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 5, padding=2, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.trunk = nn.Sequential(
            Residual(width, width, 1),
            Residual(width, 2 * width, 2),
            Residual(2 * width, 3 * width, 2),
            Residual(3 * width, 4 * width, 2),
        )
        self.head = nn.Linear(4 * width, classes)

    def features(self, image: Tensor) -> Tensor:
        """[B 128]: maxima over the last 4x4 map, what distances between picture sets are measured in."""
        return self.trunk(self.stem(image)).amax(dim=(2, 3))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image))
