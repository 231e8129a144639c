"""Strength over a run: one window and one curve for every guide. The only place that knows start and end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

# Position in the window, 0 at its start and 1 at its end -> share of the weight. The weight is the height of a curve,
# not its mean: all but constant do half of its work. Wang et al. 2024 (arXiv 2404.13040) compare curves of one area,
# which is twice the weight here (for CFG, of scale - 1).
CURVES: dict[str, Callable[[float], float]] = {
    "constant": lambda u: 1.0,
    "linear": lambda u: u,
    "linear down": lambda u: 1 - u,
    "cosine": lambda u: (1 - math.cos(math.pi * u)) / 2,
    "cosine down": lambda u: (1 + math.cos(math.pi * u)) / 2,
    "bell": lambda u: math.sin(math.pi * u) ** 2,
}
LARGEST_SHARE = 1e6
LANGUAGE = (
    f"{', '.join(CURVES)}; power K (u^K); beta A B (the density, A and B at least 1); or points over the window from 0 "
    "to 1, as 0:1 0.5:0.2 1:0"
)


def _numbers(words: list[str], text: str) -> list[float]:
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise _no_curve(text) from None
    if not all(math.isfinite(value) for value in values):
        raise _no_curve(text)
    return values


def _no_curve(text: str) -> ValueError:
    return ValueError(f"there is no curve {text!r}; there are {LANGUAGE}")


def _beta(a: float, b: float) -> Callable[[float], float]:
    """Density of the Beta distribution, whose mean over the window is 1 (Malarz et al. 2025, beta-CFG)."""
    scale = math.gamma(a + b) / (math.gamma(a) * math.gamma(b))
    return lambda u: scale * u ** (a - 1) * (1 - u) ** (b - 1)


def _through(points: list[tuple[float, float]]) -> Callable[[float], float]:
    """Straight lines between points (place, share), level before the first and behind the last."""

    def share(u: float) -> float:
        for (left, low), (right, high) in zip(points, points[1:], strict=False):
            if left <= u <= right:
                return high if right == left else low + (high - low) * (u - left) / (right - left)
        return points[0][1] if u < points[0][0] else points[-1][1]

    return share


@cache
def curve(text: str) -> Callable[[float], float]:
    """Place in the window in [0, 1] -> share of the weight, from a name or a small sentence (`LANGUAGE`).

    Raises ValueError, with the language, for what is none.
    """
    words = text.strip().lower().split()
    if " ".join(words) in CURVES:
        return CURVES[" ".join(words)]
    if len(words) == 2 and words[0] == "power":
        (k,) = _numbers(words[1:], text)
        if k >= 0:
            return lambda u: u**k
    if len(words) == 3 and words[0] == "beta":
        a, b = _numbers(words[1:], text)
        if 1 <= a <= 50 and 1 <= b <= 50:
            return _beta(a, b)
    if words and all(word.count(":") == 1 for word in words):
        pairs = [_numbers(word.split(":"), text) for word in words]
        places = [place for place, _ in pairs]
        shares = max(abs(share) for _, share in pairs)
        if places == sorted(places) and places[0] >= 0 and places[-1] <= 1 and shares <= LARGEST_SHARE:
            return _through([(place, share) for place, share in pairs])
    raise _no_curve(text)


@dataclass(frozen=True)
class Weight:
    """A weight that lives between two points of a run. Progress is 0 at the largest sigma and 1 at sigma 0.

    Raises ValueError for weights that are no numbers, curves that can't be read and windows that end before they start.
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
        curve(self.curve)

    @property
    def always(self) -> bool:
        """Whether it is its value everywhere in the run."""
        return self.start == 0 and self.end == 1 and self.curve.strip().lower() == "constant"

    def share(self, progress: float) -> float:
        """0 outside [start, end), and everywhere in an empty window; the end of a run (1) belongs to it."""
        if self.start == self.end or progress < self.start or (progress >= self.end and self.end < 1):
            return 0.0
        return curve(self.curve)(min(1.0, (progress - self.start) / (self.end - self.start)))

    def __call__(self, progress: float) -> float:
        return self.value * self.share(progress)

    def above(self, floor: float, progress: float) -> float:
        """For weights that are off at `floor` instead of 0: from there to the value, by the same window and curve."""
        share = self.share(progress)
        return self.value if share == 1 else floor + (self.value - floor) * share
