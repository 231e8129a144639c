"""What a MODEL is, asked in one place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import comfy.model_sampling
import numpy
import torch
from torch import Tensor

from ...models.architecture import Facts

COLOURS = 3
SIGNS = "signs-"  # so begins a fingerprint that is the same in every precision


def is_pixel_model(model: Any) -> bool:
    """Whether the samples of a MODEL are pictures in [-1, 1]."""
    latent_format = model.model.latent_format
    return latent_format.latent_channels == COLOURS and latent_format.spacial_downscale_ratio == 1


def is_flow(sampling: Any) -> bool:
    """Whether x = (1 - sigma) x0 + sigma noise."""
    return isinstance(sampling, comfy.model_sampling.CONST)


def facts_of(model: Any) -> Facts | None:
    """What the pack knows of a MODEL; None for models that the host loaded."""
    return getattr(model.model, "facts", None)


def latent_shape(model: Any, size: int) -> tuple[int, ...]:
    """[C h w] of the model's latents for pictures of that side; the pack's own models have theirs."""
    facts = facts_of(model)
    latent_format = model.model.latent_format
    side = (facts.image_size if facts is not None else size) // latent_format.spacial_downscale_ratio
    return latent_format.latent_channels, side, side


def owner_of(model: Any) -> tuple[str, str]:
    """(name, fingerprint) of a MODEL's own weights, LoRAs aside. For U-Nets: it looks at the bottleneck.

    The fingerprint is of the signs of the weights: rounding to half precision keeps them, training does not.
    """
    name = getattr(model.model.diffusion_model, "name", type(model.model).__name__)
    weight = _own_weight(model)
    bits = numpy.packbits(torch.signbit(weight.float()).flatten().numpy()).tobytes()
    digest = hashlib.sha256(str(list(weight.shape)).encode() + bits).hexdigest()
    return name, f"{SIGNS}{digest[:16]}"


def is_of(model: Any, fingerprint: str) -> bool:
    """Whether a fingerprint is that of the MODEL; those of older files hold for the precision they were made in."""
    if fingerprint.startswith(SIGNS):
        return owner_of(model)[1] == fingerprint
    weight = _own_weight(model).float().contiguous()
    return hashlib.sha256(weight.numpy().tobytes()).hexdigest()[:16] == fingerprint


def _own_weight(model: Any) -> Tensor:
    """A weight of the bottleneck as it was loaded, on the CPU."""
    state = model.model.state_dict()
    key = next(key for key, value in state.items() if ("middle_block" in key or ".mid." in key) and value.ndim == 4)
    backup = model.backup.get(key) or getattr(getattr(model, "parent", None), "backup", {}).get(key)
    return (state[key] if backup is None else backup.weight).detach().cpu()


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
