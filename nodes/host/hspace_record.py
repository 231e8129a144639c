"""What a run's bottleneck held: the mean of h in each range of progress, or h of pictures at each noise level."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...guidance.hspace import BUCKETS, at_size
from ...guidance.weight import Weight
from .hspace import BOTH, Moment, applied
from .inversion import inverted


@dataclass(frozen=True, eq=False)
class Recorder:
    """In the place of an Application: changes nothing and shows h, in float32 on the CPU."""

    keep: Callable[[Tensor, Moment], None]
    weight: Weight = Weight(1.0)
    asymmetric: bool = False
    side: str = BOTH

    def edited(self, h: Tensor, emb: Tensor, moment: Moment) -> Tensor:
        self.keep(h.detach().float().cpu(), moment)
        return h


def recording(model: Any, keep: Callable[[Tensor, Moment], None], alone: bool = False) -> Any:
    """A clone of the MODEL whose runs show h to `keep`; `alone`: without its edits."""
    recorder: Any = Recorder(keep)
    return applied(model, recorder, alone)


@dataclass(eq=False)
class Means:
    """The mean of h in each range of progress."""

    sums: dict[int, Tensor] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    def add(self, h: Tensor, moment: Moment) -> None:
        bucket = min(BUCKETS - 1, int(moment.progress * BUCKETS))
        self.sums[bucket] = self.sums.get(bucket, 0) + h
        self.counts[bucket] = self.counts.get(bucket, 0) + 1

    def result(self) -> Tensor:
        """[N 8 C h w]; ranges that no step fell into take their nearest neighbour's."""
        found = {bucket: total / self.counts[bucket] for bucket, total in self.sums.items()}
        nearest = [min(found, key=lambda known: abs(known - bucket)) for bucket in range(BUCKETS)]
        return torch.stack([found[bucket] for bucket in nearest], dim=1)


@dataclass(frozen=True, eq=False)
class Content:
    """h of pictures at the noise levels of their inversion, {sigma: [n C h w]}: what InjectFusion injects."""

    levels: Mapping[float, Tensor]

    def __call__(self, h: Tensor, moment: Moment) -> Tensor:
        """[B C h w] of the nearest level, picture i for image i; they repeat where there are more images."""
        nearest = min(self.levels, key=lambda level: abs(math.log(level / moment.sigma)))
        found = at_size(self.levels[nearest], h)
        pictures = torch.arange(len(h) // moment.chunks) % len(found)
        return found[pictures.repeat(moment.chunks).to(h.device)]


def content_of(model: Any, samples: Tensor, conditioning: Any, sigmas: Tensor) -> Content:
    """What the MODEL without its edits has in h while pictures (latents) are inverted."""
    levels: dict[float, Tensor] = {}

    def keep(h: Tensor, moment: Moment) -> None:
        levels[moment.sigma] = h

    inverted(recording(model, keep, alone=True), samples, conditioning, sigmas)
    return Content(levels)
