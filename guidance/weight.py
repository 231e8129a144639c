"""Strength over a run: one window and one curve for every guide. The only place that knows start and end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

# Position in the window, 0 at its start and 1 at its end -> share of the weight.
CURVES: dict[str, Callable[[float], float]] = {
    "constant": lambda u: 1.0,
    "linear": lambda u: u,
    "linear down": lambda u: 1 - u,
    "cosine": lambda u: (1 - math.cos(math.pi * u)) / 2,
    "cosine down": lambda u: (1 + math.cos(math.pi * u)) / 2,
    "bell": lambda u: math.sin(math.pi * u) ** 2,
}


@dataclass(frozen=True)
class Weight:
    """A weight that lives between two points of a run. Progress is 0 at the largest sigma and 1 at sigma 0.

    Raises ValueError for weights that are no numbers, curves that don't exist and windows that end before they start.
    """

    value: float
    start: float = 0.0
    end: float = 1.0
    curve: str = "constant"

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"the weight is {self.value}; a finite number is needed")
        if not 0 <= self.start <= 1 or not 0 <= self.end <= 1:
            raise ValueError(f"the window {self.start} to {self.end} is not within 0 and 1")
        if self.start > self.end:
            raise ValueError(
                f"the window ends ({self.end}) before it starts ({self.start}); exchange start_percent and end_percent"
            )
        if self.curve not in CURVES:
            raise ValueError(f"there is no curve {self.curve!r}; there are {', '.join(CURVES)}")

    def __call__(self, progress: float) -> float:
        """0 outside [start, end), and everywhere in an empty window; the end of a run (1) belongs to it."""
        if self.start == self.end or progress < self.start or (progress >= self.end and self.end < 1):
            return 0.0
        return self.value * CURVES[self.curve](min(1.0, (progress - self.start) / (self.end - self.start)))
