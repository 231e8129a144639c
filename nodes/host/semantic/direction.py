"""What pictures mean, and attributes as directions: the values that semantic nodes pass on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....guidance.directions import Linear
from ..pixel_model import Z_SEM


@dataclass(frozen=True, eq=False)
class Semantic:
    """What pictures mean: z_sem [B D], by which autoencoder."""

    z_sem: Tensor
    owner: str  # name of the file
    fingerprint: str
    image_size: int

    def conditioning(self) -> list[Any]:
        """CONDITIONING: code i goes to picture i."""
        return [[torch.zeros(1, 1, 1), {Z_SEM: self.z_sem}]]


@dataclass(frozen=True, eq=False)
class Direction:
    """An attribute as a line through normalised z_sem space, and how it was found."""

    line: Linear
    name: str
    method: str
    mean: Tensor | None = None  # of z_sem, [D], where the autoencoder's own file has none
    std: Tensor | None = None
    fingerprint: str = ""  # of the autoencoder; empty: unknown, as in published files
    owner: str = ""
