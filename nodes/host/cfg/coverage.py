"""Where a conditioning says something: the host's time ranges, areas and masks, as weights of a prediction.

The host's prediction of a conditioning is zero where none of its conds counts, and the same at a mask of .5 as at 1. So
a difference of two predictions must be weighed by where both say something.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.samplers
import numpy
import torch
from torch import Tensor

from ..run import Course

Cond = Mapping[str, Any]  # one cond of the host, processed for a run
NOWHERE = 0.0
Cover = Tensor | float | None  # weights, [B C ...] in [0, 1], NOWHERE, or None: everywhere
LIMITS = ("timestep_start", "timestep_end", "area", "mask", "strength", "mask_strength")


def own_conds(conds: Sequence[Cond] | None, original: Sequence[Cond]) -> list[Cond]:
    """Those that the user gave. The host adds some, with the areas of other conditionings, to predict alike there."""
    given = {cond["uuid"] for cond in original}
    return [cond for cond in conds or () if cond["uuid"] in given]


@dataclass(frozen=True, eq=False)
class Covers:
    """Covers in a run, found once for those conds that count at a time: to see what one is waits for the device."""

    course: Course
    known: dict[Hashable, Cover] = field(default_factory=dict)

    def of(self, conds: Collection[Cond], x: Tensor, timestep: Tensor) -> Cover:
        """As `coverage` has it."""
        if any(not _limits(cond) for cond in conds):
            return None
        key = (*(cond["uuid"] for cond in conds if self._counts(cond, timestep)), x.shape)
        if key not in self.known:
            self.known[key] = coverage(conds, x, timestep)
        return self.known[key]

    def _counts(self, cond: Cond, timestep: Tensor) -> bool:
        """By the host's time range, compared in float32 as the host does."""
        first, last = cond.get("timestep_start"), cond.get("timestep_end")
        if first is None and last is None:
            return True
        level = self.course.level(timestep)
        late = first is None or level <= numpy.float32(first)
        return bool(late and (last is None or level >= numpy.float32(last)))


def coverage(conds: Collection[Cond], x: Tensor, timestep: Tensor) -> Cover:
    """How much conds say something at a noise level.

    It is what the host leaves to default conds, from the other side: 1 where masks times strengths sum to 1 or more.
    But an area says all it says up to its edge: there the host fades one only into others, and alone it is whole.
    """
    total = torch.zeros_like(x)
    whole = {"mask": x.new_ones(1, *x.shape[2:])}  # areas with a mask have no faded edge
    for cond in conds:
        limited = {**whole, **_limits(cond), "model_conds": {}, "uuid": None}
        found = comfy.samplers.get_area_and_mult(limited, x, timestep)
        if found is None:
            continue
        if not _limits(cond) or "default" in cond:  # a default cond counts wherever the others don't
            return None
        inside, area = total, found.area or ()
        for k, length in enumerate(area[: len(area) // 2]):
            inside = inside.narrow(k + 2, area[len(area) // 2 + k], length)
        inside += found.mult
    total = total.clamp(max=1)
    if (total == 1).all():
        return None
    return total if total.any() else NOWHERE


def _limits(cond: Cond) -> dict[str, Any]:
    return {key: cond[key] for key in LIMITS if key in cond}


def nowhere(cover: Cover) -> bool:
    """Whether nothing is said at all."""
    return isinstance(cover, float)


def both(a: Cover, b: Cover) -> Cover:
    """Where two conditionings say something."""
    if a is None or b is None:
        return b if a is None else a
    return a * b


def towards(inside: Tensor, outside: Tensor, cover: Cover) -> Tensor:
    """One prediction where it says something, another elsewhere; at covers of 0 and 1 to the bit."""
    return inside if cover is None else torch.lerp(outside, inside, cover)
