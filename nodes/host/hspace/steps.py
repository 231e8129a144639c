"""What the network has to say in a run so that an asymmetric edit moves the picture as far as it wants to."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ....guidance.samplers import SAMPLERS, Move
from ..run import Course
from ..sampling import Steps


class EditedSteps(Steps):
    """Follows a sampler through a run, and remembers what was added for those that look back."""

    def __init__(self, course: Course):
        """Raises ValueError for samplers whose step isn't known, and for schedules that don't fall."""
        super().__init__(course)
        if any(after > before for before, after in pairwise(self.levels)):
            raise ValueError(
                "HSpace Edit, HSpace Inject: an asymmetric edit needs noise levels that fall; change sigmas"
            )
        self.past: dict[Hashable, list[tuple[int, Tensor]]] = {}
        self.times: dict[Hashable, int] = {}
        if not self.known:
            raise ValueError(
                f"HSpace Edit, HSpace Inject: how far the sampler {self.name} would carry an asymmetric edit isn't "
                f"known; choose one of {', '.join(SAMPLERS)}, ddim, or set asymmetric to false"
            )
        if len(self.levels) > 1:
            self.move()

    def look(self, sigmas: Tensor) -> bool:
        new = super().look(sigmas)
        if new:
            self.times.clear()
        return new

    def added(self, wanted: Tensor, parts: Sequence[Hashable]) -> Tensor:
        """What to add to the denoised predictions, so that x0 of the next level moves by `wanted` [B ...].

        `parts` name the predictions of the batch.
        """
        move = self.move()
        chunks = wanted.chunk(len(parts))
        return torch.cat([self._added(move, part, key) for part, key in zip(chunks, parts, strict=True)])

    def _added(self, move: Move, wanted: Tensor, key: Hashable) -> Tensor:
        """The k-th time that a prediction is asked for in a look goes on from its k-th time in the look before."""
        self.times[key] = self.times.get(key, 0) + 1
        kept = self.past.setdefault((key, self.times[key]), [])
        past = [value for index, value in kept if index == self.index - 1 and value.shape == wanted.shape]
        found = move.edit(wanted, past)
        kept[:] = [(self.index, found)]
        return found
