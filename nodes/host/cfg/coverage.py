"""Where a conditioning says something: the host's time ranges, areas and masks, as weights of a prediction.

The host's prediction of a conditioning is zero where none of its conds counts, and the same at a mask of .5 as at 1. So
a difference of two predictions must be weighed by where both say something.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

Cond = Mapping[str, Any]  # one cond of the host, processed for a run
LIMITS = ("timestep_start", "timestep_end", "area", "mask", "strength", "mask_strength")


def own_conds(conds: Sequence[Cond] | None, original: Sequence[Cond]) -> list[Cond]:
    """Those that the user gave. The host adds some, with the areas of other conditionings, to predict alike there."""
    given = {cond["uuid"] for cond in original}
    return [cond for cond in conds or () if cond["uuid"] in given]


def coverage(conds: Collection[Cond], x: Tensor, timestep: Tensor) -> Tensor | None:
    """How much conds say something at a noise level, [B C ...] in [0, 1]; None: everything, everywhere.

    It is what the host leaves to default conds, from the other side: 1 where masks times strengths sum to 1 or more.
    But an area says all it says up to its edge: there the host fades one only into others, and alone it is whole.
    """
    if any(not _limits(cond) for cond in conds):
        return None
    total = torch.zeros_like(x)
    whole = {"mask": x.new_ones(1, *x.shape[2:])}  # areas with a mask have no faded edge
    for cond in conds:
        limited = {**whole, **_limits(cond), "model_conds": {}, "uuid": None}
        found = comfy.samplers.get_area_and_mult(limited, x, timestep)
        if found is None:
            continue
        if "default" in cond:  # it counts wherever the others don't
            return None
        inside, area = total, found.area or ()
        for k, length in enumerate(area[: len(area) // 2]):
            inside = inside.narrow(k + 2, area[len(area) // 2 + k], length)
        inside += found.mult
    total = total.clamp(max=1)
    return None if bool((total == 1).all()) else total


def _limits(cond: Cond) -> dict[str, Any]:
    return {key: cond[key] for key in LIMITS if key in cond}


def nowhere(cover: Tensor | None) -> bool:
    """Whether nothing is said at all."""
    return cover is not None and not cover.any()


def both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Where two conditionings say something."""
    if a is None or b is None:
        return b if a is None else a
    return a * b


def towards(inside: Tensor, outside: Tensor, cover: Tensor | None) -> Tensor:
    """One prediction where it says something, another elsewhere; at covers of 0 and 1 to the bit."""
    return inside if cover is None else torch.lerp(outside, inside, cover)
