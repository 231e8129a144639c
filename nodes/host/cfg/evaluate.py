"""Predictions of conditionings, asked of the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.samplers
from torch import Tensor

from .condition import MAIN
from .run import owner

PAIR = 2  # what other nodes' functions know: the main conditioning and the negative


def encode(model: Any, noise: Tensor, device: Any, conds: list[Any], **options: Any) -> list[Any]:
    """Conds in the way of the model, as the host does it before a run."""
    return comfy.samplers.encode_model_conds(model.extra_conds, conds, noise, device, MAIN, **options)


def plain_predictions(
    model: Any, conds: Sequence[Any], scale: float, x: Tensor, timestep: Tensor, options: dict[str, Any]
) -> list[Tensor]:
    """Of `[main, negative or None, ...]`, in one call. `scale`: of the main one at this step.

    Other nodes' functions get the first two, as under CFGGuider; the others are predicted beside them. Raises
    ValueError where such a function doesn't give two predictions.
    """
    pair, rest = list(conds[:PAIR]), list(conds[PAIR:])
    shared = {"conds": pair, "input": x, "sigma": timestep, "model": model, "model_options": options}
    around = options.get("sampler_calc_cond_batch_function")
    if around is None:
        out = comfy.samplers.calc_cond_batch(model, [*pair, *rest], x, timestep, options)
    else:
        out = _two_of(around, shared)
        out += comfy.samplers.calc_cond_batch(model, rest, x, timestep, options) if rest else []
    two = out[:PAIR]
    for function in options.get("sampler_pre_cfg_function", []):
        two = _two_of(function, {**shared, "conds_out": two, "cond_scale": scale, "timestep": timestep})
    return [*two, *out[PAIR:]]


def _two_of(function: Any, arguments: dict[str, Any]) -> list[Tensor]:
    out = list(function(arguments))
    if len(out) != PAIR:
        raise ValueError(
            f"CFG Combiner: a function of {owner(function)} gives {len(out)} predictions where condition and negative "
            "are needed; remove that node"
        )
    return out
