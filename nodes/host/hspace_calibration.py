"""Latent calibration (Jeong et al. 2023, InjectFusion, arXiv 2303.15403) on what the host's networks take and give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...guidance.hspace import calibrated, calibration_shift
from .sight import is_flow


@dataclass(frozen=True, eq=False)
class Calibration:
    """One step's: `sampling` is the model's, `sigma` and `following` the noise levels before and after the step."""

    sampling: Any
    sigma: float
    following: float
    omega: float

    def output(self, evaluate: Callable[[Tensor], Tensor], taken: Tensor, plain: Tensor, edited: Tensor) -> Tensor:
        """The output by which a first-order sampler steps as the plain network would from the calibrated sample.

        `taken` is the network's input; channels beyond those of its output belong to the condition. Whatever a network
        predicts, denoised = a x + b output with x = taken / scale: `sampling` is asked for a, b and scale.
        """
        level = taken.new_full((1,), self.sigma, dtype=torch.float32)
        one, zero = level.new_ones(1, 1, 1, 1), level.new_zeros(1, 1, 1, 1)
        scale = self.sampling.calculate_input(level, one)
        a = self.sampling.calculate_denoised(level, zero, one)
        b = self.sampling.calculate_denoised(level, one, zero)
        own, condition = taken.split([plain.shape[1], taken.shape[1] - plain.shape[1]], dim=1)
        x = own.float() / scale
        shift = calibration_shift(a * x + b * plain.float(), a * x + b * edited.float(), self.omega)
        if is_flow(self.sampling):
            shift = (1 - self.sigma) * shift  # x holds x0 with this share
        moved = torch.cat([(scale * (x + shift)).to(taken), condition], dim=1)
        denoised = a * (x + shift) + b * evaluate(moved).float()
        return ((calibrated(denoised, shift, self.sigma, self.following) - a * x) / b).to(plain)
