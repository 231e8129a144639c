"""What InjectFusion (Jeong et al. 2023, arXiv 2303.15403) needs of the host: h of pictures, and latent calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....guidance.hspace import calibration_shift, mixed
from ....guidance.weight import Weight
from ..inversion import inverted
from .edit import BOTH, Place, Prediction
from .record import recording
from .rows import View, shown


@dataclass(frozen=True, eq=False)
class Content:
    """h of pictures at the noise levels of their inversion, {sigma: [n C h w]}: what InjectFusion injects."""

    levels: Mapping[float, Tensor]

    def __call__(self, h: Tensor, place: Place) -> Tensor:
        """[B C h w] of the nearest level, picture i for image i; they repeat where there are more images."""
        nearest = min(self.levels, key=lambda level: abs(math.log(level / place.sigma)))
        found = shown(self.levels[nearest], place.views or [View(range(len(h)), len(h))], h)
        return found.expand(len(h), -1, -1, -1)


def content_of(model: Any, samples: Tensor, conditioning: Any, sigmas: Tensor) -> Content:
    """What the MODEL without its edits has in h while pictures (latents) are inverted."""
    levels: dict[float, Tensor] = {}

    def keep(h: Tensor, place: Place) -> None:
        levels[place.sigma] = h

    inverted(recording(model, keep, alone=True), samples, conditioning, sigmas)
    return Content(levels)


@dataclass(frozen=True, eq=False)
class Injection:
    """What HSpace Inject was told: another picture's h is mixed into that of the samples. Of `Edits`."""

    content: Content
    weight: Weight  # its value is gamma, the share of the content
    omega: float  # of the calibration; 0: Asyrp's step, as in the examples of the paper's code
    asymmetric: bool = True
    side: str = BOTH
    rising: bool = False
    block: None = None  # U-Nets alone

    def edited(self, h: Tensor, emb: Tensor, place: Place) -> Tensor:
        return mixed(h, self.content(h, place), self.weight(place.progress))

    def wanted(self, place: Place, prediction: Prediction, difference: Tensor) -> Tensor:
        """P~ - P, or what latent calibration makes of it."""
        if not self.omega:
            return prediction.b * difference
        return calibrated(place, prediction, difference, self.omega)


def calibrated(place: Place, prediction: Prediction, difference: Tensor, omega: float) -> Tensor:
    """Latent calibration: how far x0 must move for a step as the plain network makes it from the calibrated sample.

    With x + shift for x the step x' = keep x + now D is moved by keep shift + now (D(x + shift) - D(x)).
    """
    plain, move = prediction.plain.float(), prediction.move
    own, condition = prediction.x.split([plain.shape[1], prediction.x.shape[1] - plain.shape[1]], dim=1)
    x = own.float() / prediction.scale
    before = prediction.a * x + prediction.b * plain
    shift = calibration_shift(before, before + prediction.b * difference, omega)  # of x0
    inside = (1 - place.sigma) * shift if prediction.flow else shift  # of x, which holds x0 with this share
    moved = torch.cat([(prediction.scale * (x + inside)).to(prediction.x), condition], dim=1)
    after = prediction.a * (x + inside) + prediction.b * prediction.again(moved).float()
    return (move.kept * shift + move.now * (after - before)) / move.signal
