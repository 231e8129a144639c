"""What a run held in h: h shown to whoever asks, and its mean in each range of progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ....guidance.hspace import BUCKETS
from ....guidance.weight import Weight
from .edit import BOTH, Place, Prediction
from .run import applied


@dataclass(frozen=True, eq=False)
class Recorder:
    """Of `Edits`: changes nothing and shows h, in float32 on the CPU."""

    keep: Callable[[Tensor, Place], None]
    block: int | None = None
    weight: Weight = Weight(1.0)
    asymmetric: bool = False
    side: str = BOTH
    rising: bool = True

    def edited(self, h: Tensor, emb: Tensor, place: Place) -> Tensor:
        self.keep(h.detach().float().cpu(), place)
        return h

    def wanted(self, place: Place, prediction: Prediction, difference: Tensor) -> Tensor:
        return torch.zeros_like(difference)


def recording(model: Any, keep: Callable[[Tensor, Place], None], block: int | None = None, alone: bool = False) -> Any:
    """A clone of the MODEL whose runs show h to `keep`; `alone`: without its edits."""
    return applied(model, Recorder(keep, block), alone=alone)


@dataclass(eq=False)
class Means:
    """The mean of h in each range of progress, for each condition of the guider."""

    sums: dict[tuple[str | None, int], Tensor] = field(default_factory=dict)
    counts: dict[tuple[str | None, int], int] = field(default_factory=dict)

    def add(self, h: Tensor, place: Place) -> None:
        bucket = min(BUCKETS - 1, int(place.progress * BUCKETS))
        for name, rows in zip(place.names, h.chunk(len(place.names)), strict=True):
            self.sums[name, bucket] = self.sums.get((name, bucket), 0) + rows
            self.counts[name, bucket] = self.counts.get((name, bucket), 0) + 1

    def of(self, name: str) -> Tensor:
        """[N 8 C h w]; ranges that no step fell into take their nearest neighbour's."""
        found = {
            bucket: total / self.counts[owner, bucket] for (owner, bucket), total in self.sums.items() if owner == name
        }
        nearest = [min(found, key=lambda known: abs(known - bucket)) for bucket in range(BUCKETS)]
        return torch.stack([found[bucket] for bucket in nearest], dim=1)
