"""The small picture that an upsampler enlarges, and the noise on it (Saharia et al. 2022, sec. 2.5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ....guidance.noise import own_noise
from ....models.architecture import Facts
from ....models.schedule import NoiseSchedule
from ..conditioning import LOW_RES, for_batch

AUGMENTATION = 0x617567  # the purpose of this noise: apart from that of a run with the same seed
MODES: dict[str, dict[str, Any]] = {
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "bilinear corners": {"mode": "bilinear", "align_corners": True},
    "bicubic": {"mode": "bicubic", "align_corners": False, "antialias": True},
}


def with_picture(conditioning: list[Any], low_res: Tensor, level: float | None = None, seed: int = 0) -> list[Any]:
    """The same with small pictures [n 3 h w] in [-1, 1], picture i for picture i.

    `level` of 1 is how noisy they are made, None as the model is used to; by the seed, image i's by seed + i. A channel
    of ones goes with them: it shows whether they were emptied or multiplied.
    """
    kept = torch.cat([low_res, torch.ones_like(low_res[:, :1])], 1)
    return [[value, {**extra, "pooled_output": kept, LOW_RES: (level, seed)}] for value, extra in conditioning]


def picture_in(given: Mapping[str, Any], facts: Facts) -> Tensor:
    """Small pictures at the size of the large ones, as the published network does it, [B 3 H W]."""
    kept, noise = given.get("pooled_output"), given["noise"]
    if not given.get(LOW_RES) or kept is None:
        raise ValueError(
            "this model enlarges a small picture, and none was given; connect Upscale Conditioning to the "
            "sampler's positive (and, with cfg above 1, negative) input"
        )
    low_res, ones = kept[:, :-1], kept[:, -1:]
    if not torch.allclose(ones, torch.ones_like(ones)):
        raise ValueError(
            "the small picture was emptied or multiplied, and an upsampler enlarges it as it is; for no class, connect "
            "Class Conditioning with an empty label to Upscale Conditioning instead of Conditioning (Zero Out)"
        )
    large = interpolate(low_res.to(noise), noise.shape[2:], **MODES[facts.enlarging])
    large = for_batch(large, len(noise), "small pictures")
    step = augmentation_step(given, facts)
    return large if step is None else noised(large, NoiseSchedule.of(facts), step, given[LOW_RES][1])


def augmentation_step(given: Mapping[str, Any], facts: Facts) -> int | None:
    """The timestep of the noise on small pictures; None in models that are not told one.

    Raises ValueError where one is asked for in such a model.
    """
    level = given[LOW_RES][0] if given.get(LOW_RES) else None
    if facts.augmentation is None:
        if level:
            raise ValueError(
                f"noise_augmentation is {level:g}, and this upsampler is not told how noisy its small picture is; "
                "set it to -1 (auto)"
            )
        return None
    last = facts.training_steps - 1
    return min(last, int(facts.training_steps * (facts.augmentation if level is None else level)))


def noised(large: Tensor, schedule: NoiseSchedule, step: int, seed: int) -> Tensor:
    """sqrt(ab) x + sqrt(1 - ab) noise, drawn once for a run."""
    level = schedule.alphas_cumprod[step].item()
    noise = own_noise(large.shape, seed, range(len(large)), AUGMENTATION).to(large)
    return level**0.5 * large + (1 - level) ** 0.5 * noise
