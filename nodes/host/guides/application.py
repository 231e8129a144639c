"""What Apply Guides was told, and what it needs of the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ....guidance.combine import EXACT
from ..pictures import VIDEO, Decoder
from .guide import Guide
from .report import Report

AUTO, RELATIVE = "auto", "lambda"
UNITS = (AUTO, "paper", RELATIVE)
THROUGH, DENOISED = "through denoiser", "at denoised"
FRAMES = 4  # of a latent video, for each look; of most models they are thirteen pictures
VIEW_DETAIL = 1.25  # decoded pixels for each pixel that an encoder looks at: crops look closer than the whole


@dataclass(frozen=True, eq=False)
class Application:
    """What Apply Guides was told. `vae` is how guides get pixels, None where they need none."""

    guides: Sequence[Guide]
    vae: Any | None
    strength: float
    gradient: str
    unit: str
    cap: float
    every: int
    inner_steps: int
    views: int
    recurrence: int
    frames: int  # of a video, that a look has
    report: Report
    control: Sequence[Guide] = ()  # they watch: what they see is reported, and they push nothing

    @property
    def looking(self) -> Sequence[Guide]:
        """Its guides and those that only watch."""
        return [*self.guides, *self.control]

    @property
    def patchers(self) -> list[Any]:
        """The networks that it needs."""
        found = [patcher for guide in self.looking for patcher in guide.patchers]
        return found if self.vae is None else [*found, self.vae.patcher]

    def estimator(self, guide: Guide, exact_possible: bool) -> str:
        if self.gradient != AUTO:
            return self.gradient
        return EXACT if guide.noise_aware and exact_possible else DENOISED

    def relative(self, estimator: str) -> bool:
        """Whether a weight is a lambda: everywhere but for noise-aware guides at the noisy sample."""
        return self.unit == RELATIVE or (self.unit == AUTO and estimator != EXACT)


def activations(application: Application, model: Any, noise_shape: Any) -> float:
    """Bytes that a sample's guides keep for their backward, roughly: twelve times their pictures at 64 channels, and
    three times what decoding alone would take, for each picture of a video that a look has."""
    decoder, clip = Decoder(model, application.vae), len(noise_shape) == VIDEO
    pictures = decoder.pictures(min(application.frames, noise_shape[2])) if clip else 1
    one = sum(application.views * guide.size**2 * 64 * 4 * 12 for guide in application.looking)
    if application.vae is not None and len(noise_shape) in (4, VIDEO):
        largest = max(guide.size for guide in application.looking) * VIEW_DETAIL
        one += 3 * application.vae.memory_used_decode(decoder.one(noise_shape, largest), torch.float32)
    return pictures * one
