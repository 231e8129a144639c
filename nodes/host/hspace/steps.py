"""What a run's sampler makes of an asymmetric edit: which step a look belongs to, and what the network has to say."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ....guidance.samplers import SAMPLERS, Move, churned, first_order, move
from ....guidance.sampling import without_repeats
from ..run import SAME, Course
from ..sampling import ETA, PUBLISHED

HEUN = "heun"  # its second look of a step is at the level where the next one begins


class Steps:
    """Follows a sampler through a run, look by look, and remembers what was added for those that look back."""

    def __init__(self, course: Course):
        """Raises ValueError for samplers whose step isn't known, and for schedules that don't fall."""
        self.levels = without_repeats(course.sigmas)
        if any(after > before for before, after in pairwise(self.levels)):
            raise ValueError(
                "HSpace Edit, HSpace Inject: an asymmetric edit needs noise levels that fall; change sigmas"
            )
        self.name = course.sampler_name.removeprefix("sample_") or type(course.sampler).__name__
        self.options: Mapping[str, Any] = getattr(course.sampler, "extra_options", {})
        self.flow, self.level = course.flow, course.level
        self.index, self.first = 0, False
        self.sigma = float("inf")
        self.seen: Tensor | None = None
        self.past: dict[Hashable, list[tuple[int, Tensor]]] = {}
        self.times: dict[Hashable, int] = {}
        if self.name != PUBLISHED and self.name not in SAMPLERS:
            raise ValueError(
                f"HSpace Edit, HSpace Inject: how far the sampler {self.name} would carry an asymmetric edit isn't "
                f"known; choose one of {', '.join(SAMPLERS)}, ddim, or set asymmetric to false"
            )
        if len(self.levels) > 1:
            self.move()

    def look(self, sigmas: Tensor) -> None:
        """The network is asked at `sigmas`, the host's one tensor of a look. Looks between levels stay in the step."""
        if sigmas is self.seen:
            return
        self.seen, sigma = sigmas, self.level(sigmas)
        self.times.clear()
        steps = range(self.index, len(self.levels) - 1)
        found = next((k for k in steps if abs(self._begin(k) - sigma) <= SAME * sigma), None)
        if self.name == HEUN and self.first and sigma < self.sigma * (1 - SAME):
            self.first = False
        elif found is not None:
            self.index, self.first = found, True
        self.sigma = sigma

    def _begin(self, index: int) -> float:
        """Where a step begins; with s_churn above its level."""
        return churned(self.levels, index, self.options) if self.name != PUBLISHED else self.levels[index]

    def move(self) -> Move:
        """What the sampler does in the present step."""
        if self.name == PUBLISHED:
            sigma, following = self.levels[self.index : self.index + 2]
            eta: Callable[[float], float] | float = self.options[ETA]
            return first_order(sigma, following, eta(sigma) if callable(eta) else eta)
        return move(self.name, self.options, self.levels, self.index, self.flow)

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
