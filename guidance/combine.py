"""All guides of one step together: per-guide normalisation, weight, sum, and one cap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .gradient import ESTIMATORS, EXACT, THROUGH, Reading, Term, finite, pull_of
from .step import Step
from .tensors import append_dims, norm, resized


@dataclass(frozen=True)
class Steered:
    """What the guides of one step ask for."""

    exact: Tensor | None  # direction of noise-aware guides in their papers' unit, not capped
    other: Tensor | None  # direction of all others, capped
    readings: list[Reading]
    capped: Tensor  # [B] bool: by the cap, or one of `exact` by its limit

    @property
    def shape(self) -> torch.Size | None:
        """Of the sample; None if no guide acts."""
        return None if self.direction is None else self.direction.shape

    @property
    def direction(self) -> Tensor | None:
        """What is added to the denoised sample; None if no guide acts."""
        if self.exact is None or self.other is None:
            return self.other if self.exact is None else self.exact
        return self.exact + self.other


def steer(step: Step, terms: Sequence[Term], cap: float, inner_steps: int) -> Steered:
    """`cap` limits |direction| to cap `Step.reach` per sample, for guides that act on the predicted picture; 0 is none.

    At the noisy sample in the paper's unit log-probabilities keep their exact size and all other energies are limited
    by `stable_length` alone. Nothing but log-probabilities goes beyond `Step.furthest`. Raises ValueError as the
    estimators do.
    """
    groups: dict[tuple[str, bool, int], list[Term]] = {}
    for term in terms:
        is_exact = term.estimator == EXACT and not term.relative
        place = id(term.mask) if term.estimator == THROUGH else 0  # a pull-back spreads what a mask has cut
        groups.setdefault((term.estimator, is_exact, place), []).append(term)
    exact, other, readings = None, None, []
    for (estimator, is_exact, _), group in groups.items():
        worth = step.shift if estimator == EXACT else step.clean_variance
        pull = pull_of(group, step, worth)
        direction, found = ESTIMATORS[estimator](step, pull, inner_steps)
        direction, bad = finite(direction)
        readings += [replace(reading, dropped=reading.dropped | bad) for reading in found]
        if is_exact:
            exact = direction
        else:
            other = direction if other is None else other + direction
    capped = torch.zeros_like(step.sigma, dtype=torch.bool)
    if other is not None:
        other, capped = trusted(other, step, cap)
    for reading in readings:
        capped = capped | reading.limited
    return Steered(exact, other, readings, capped)


def trusted(direction: Tensor, step: Step, cap: float) -> tuple[Tensor, Tensor]:
    """The direction cut to cap `Step.reach` and `Step.furthest`, and which samples were cut."""
    length, longest = norm(direction), step.furthest
    if cap:
        longest = torch.minimum(cap * step.reach, longest)
    capped = length > longest
    return torch.where(append_dims(capped, direction.ndim), resized(direction, longest), direction), capped
