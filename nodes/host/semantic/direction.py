"""What pictures mean, and attributes as directions: the values that semantic nodes pass on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ....guidance.directions import Linear
from ..conditioning import semantic_conditioning


@dataclass(frozen=True, eq=False)
class Semantic:
    """What pictures mean: z_sem [B D], by which autoencoder."""

    z_sem: Tensor
    owner: str  # name of the file
    fingerprint: str
    image_size: int

    def conditioning(self) -> list[Any]:
        """CONDITIONING: code i goes to picture i."""
        return semantic_conditioning(self.z_sem)


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
