"""What InjectFusion (Jeong et al. 2023, arXiv 2303.15403) needs of the host: h of pictures, and latent calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....guidance.hspace import asymmetric, at_size, calibrated, calibration_shift, mixed
from ....guidance.weight import Weight
from ..inversion import inverted
from ..model import is_flow
from .edit import BOTH, Place
from .record import recording


@dataclass(frozen=True, eq=False)
class Content:
    """h of pictures at the noise levels of their inversion, {sigma: [n C h w]}: what InjectFusion injects."""

    levels: Mapping[float, Tensor]

    def __call__(self, h: Tensor, place: Place) -> Tensor:
        """[B C h w] of the nearest level, picture i for image i; they repeat where there are more images."""
        nearest = min(self.levels, key=lambda level: abs(math.log(level / place.sigma)))
        found = at_size(self.levels[nearest], h)
        pictures = torch.arange(len(h) // place.chunks) % len(found)
        return found[pictures.repeat(place.chunks).to(h.device)]


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

    def edited(self, h: Tensor, emb: Tensor, place: Place) -> Tensor:
        return mixed(h, self.content(h, place), self.weight(place.progress))

    def output(
        self, sampling: Any, place: Place, x: Tensor, plain: Tensor, edited: Tensor, again: Callable[[Tensor], Tensor]
    ) -> Tensor:
        if not self.omega:
            return asymmetric(plain, edited, place.sigma, place.following)
        return calibrated_output(sampling, place, self.omega, x, plain, edited, again)


def calibrated_output(
    sampling: Any,
    place: Place,
    omega: float,
    taken: Tensor,
    plain: Tensor,
    edited: Tensor,
    again: Callable[[Tensor], Tensor],
) -> Tensor:
    """Latent calibration: the output by which a first-order sampler steps as the plain network would from the
    calibrated sample.

    `taken` is the network's input; channels beyond those of its output belong to the condition. Whatever a network
    predicts, denoised = a x + b output with x = taken / scale: `sampling` is asked for a, b and scale.
    """
    level = taken.new_full((1,), place.sigma, dtype=torch.float32)
    one, zero = level.new_ones(1, 1, 1, 1), level.new_zeros(1, 1, 1, 1)
    scale = sampling.calculate_input(level, one)
    a = sampling.calculate_denoised(level, zero, one)
    b = sampling.calculate_denoised(level, one, zero)
    own, condition = taken.split([plain.shape[1], taken.shape[1] - plain.shape[1]], dim=1)
    x = own.float() / scale
    shift = calibration_shift(a * x + b * plain.float(), a * x + b * edited.float(), omega)
    if is_flow(sampling):
        shift = (1 - place.sigma) * shift  # x holds x0 with this share
    moved = torch.cat([(scale * (x + shift)).to(taken), condition], dim=1)
    denoised = a * (x + shift) + b * again(moved).float()
    return ((calibrated(denoised, shift, place.sigma, place.following) - a * x) / b).to(plain)
