"""What lives for one sampling run of a guided model, and for nothing longer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...guidance.combine import Steered
from ...guidance.views import crops
from .sight import Sight

HANDOVER = "guidance_handover"  # of transformer_options: a Handover of a sampler that applies exact gradients itself
SAME = 1e-4  # relative difference of sigmas that are one
CROP_SETS = 4  # of the random crops; a reference's features are kept for each


@dataclass
class Handover:
    """Where a sampler takes the exact gradients of a step, to apply them by its own rule."""

    grad: Tensor | None = None  # grad_x log p, weights included

    def give(self, grad: Tensor) -> None:
        self.grad = grad if self.grad is None else self.grad + grad

    def take(self) -> Tensor | None:
        grad, self.grad = self.grad, None
        return grad


@dataclass
class Held:
    """The last direction of one application over |x - denoised|, for the steps between two evaluations."""

    step: int = -1
    guides: tuple[int, ...] = ()  # which were active
    steered: Steered | None = None


@dataclass
class Course:
    """Where a run is: its schedule, and the model's measure of progress."""

    sigmas: list[float]
    progress_of: Callable[[float], float]

    def index(self, sigma: float) -> int:
        """Which step of the schedule an evaluation belongs to, those between two steps to the earlier one."""
        return sum(s >= sigma * (1 - SAME) for s in self.sigmas) - 1

    def following(self, sigma: float) -> float:
        """The next lower sigma of the schedule."""
        return max((s for s in self.sigmas if s < sigma * (1 - SAME)), default=0.0)


@dataclass
class Run(Course):
    """State of one guided run. Nothing of it outlives the run but the numbers of the reports."""

    seed: int
    denoise_mask: Tensor | None
    sights: dict[int, Sight] = field(default_factory=dict)
    held: dict[int, Held] = field(default_factory=dict)
    warned: set[str] = field(default_factory=set)

    def generator(self, *stream: int) -> torch.Generator:
        """Random numbers that depend on the run's seed and on what they are for, not on what was drawn before."""
        mixed = self.seed & (2**63 - 1)
        for part in stream:
            mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) & (2**63 - 1)
        return torch.Generator().manual_seed(mixed)

    def crops(self, views: int, index: int) -> Tensor:
        """The same few sets for all runs, so that what references show through them is measured once."""
        return crops(views, torch.Generator().manual_seed(index % CROP_SETS))


def progress_function(sampling: Any) -> Callable[[float], float]:
    """sigma -> progress in [0, 1], the inverse of the model's `percent_to_sigma`, by bisection."""
    known: dict[float, float] = {}

    def progress(sigma: float) -> float:
        if sigma not in known:
            low, high = 0.0, 1.0
            for _ in range(30):
                middle = (low + high) / 2
                low, high = (middle, high) if float(sampling.percent_to_sigma(middle)) > sigma else (low, middle)
            known[sigma] = 1.0 if sigma <= 0 else (low + high) / 2
        return known[sigma]

    return progress
