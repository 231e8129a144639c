"""Noise schedules: what an integer timestep means, as variance and as sigma."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .facts import Facts


def linear_betas(steps: int = 1000) -> Tensor:
    """Ho et al. 2020: evenly spaced betas, scaled so that any number of steps ends at the same noise. float64."""
    scale = 1000 / steps
    return torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64)


def cosine_betas(steps: int = 1000) -> Tensor:
    """Nichol & Dhariwal 2021, eq. 17, betas capped at 0.999. float64."""
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    remaining = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - remaining[1:] / remaining[:-1]).clamp(max=0.999)


def constant_betas(steps: int = 1000) -> Tensor:
    """DiffAE's latent prior: every beta 0.008 at 1000 steps. float64."""
    return torch.full((steps,), 0.008 * 1000 / steps, dtype=torch.float64)


def latent_betas(steps: int = 1000, last: float = 0.0195) -> Tensor:
    """Rombach et al. 2022: evenly spaced square roots of betas, from 0.0015. float64."""
    return torch.linspace(0.0015**0.5, last**0.5, steps, dtype=torch.float64) ** 2


BETAS: dict[str, Callable[[int], Tensor]] = {
    "linear": linear_betas,
    "cosine": cosine_betas,
    "const0.008": constant_betas,
    "latent": latent_betas,
    "latent churches": partial(latent_betas, last=0.0155),  # lsun_churches256 alone
}


@dataclass(frozen=True)
class NoiseSchedule:
    """x_t = sqrt(ab_t) x0 + sqrt(1 - ab_t) eps with ab_t = `alphas_cumprod[t]`; sigma^2 = (1 - ab_t) / ab_t."""

    alphas_cumprod: Tensor  # [T] float64

    @classmethod
    def named(cls, name: str, steps: int = 1000) -> NoiseSchedule:
        return cls(torch.cumprod(1 - BETAS[name](steps), dim=0))

    @classmethod
    def of(cls, facts: Facts) -> NoiseSchedule:
        """The schedule that a network was trained with."""
        return cls.named(facts.schedule, facts.training_steps)

    @cached_property
    def previous(self) -> Tensor:
        """ab of the step before, 1 before the first. [T] float64."""
        return torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod[:-1]])

    @cached_property
    def betas(self) -> Tensor:
        return 1 - self.alphas_cumprod / self.previous

    @cached_property
    def posterior_variance(self) -> Tensor:
        """beta_t (1 - ab_prev) / (1 - ab) (Ho et al. 2020, eq. 7); 0 at t = 0."""
        return self.betas * (1 - self.previous) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance(self) -> Tensor:
        """Its logarithm, with the entry of t = 0 replaced by that of t = 1 (improved DDPM's clipping)."""
        return torch.cat([self.posterior_variance[1:2], self.posterior_variance[1:]]).log()

    @cached_property
    def sigmas(self) -> Tensor:
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    @cached_property
    def log_sigmas(self) -> Tensor:
        return self.sigmas.log().float()

    def nearest(self, sigma: Tensor) -> Tensor:
        """The timestep whose noise level is nearest in its logarithm, [B] -> [B] long, on sigma's device."""
        known = self.log_sigmas.to(sigma.device, non_blocking=True)
        return (known[None] - sigma.float().log()[:, None]).abs().argmin(1)


def flow_velocity(eps: Callable[[Tensor, Tensor], Tensor], schedule: NoiseSchedule, x: Tensor, s: Tensor) -> Tensor:
    """The velocity of a rectified flow out of an eps network: the same model seen on another clock, nothing trained.

    x = (1 - s) x0 + s noise is X / (1 + sigma) with X = x0 + sigma noise and sigma = s / (1 - s), so the network's
    input is x_t = X / sqrt(1 + sigma^2) = x / sqrt((1 - s)^2 + s^2), and v = noise - x0 = (x - denoised) / s. Above
    the schedule's last sigma, x is taken for that level. x [B ...], s [B] in (0, 1].
    """
    top = float(schedule.sigmas[-1] / (1 + schedule.sigmas[-1]))
    shape = (-1,) + (1,) * (x.ndim - 1)
    level = s.clamp(max=top)
    t = schedule.nearest(level / (1 - level))
    level, s = level.view(shape), s.view(shape)
    predicted = eps(x / ((1 - level) ** 2 + level**2).sqrt(), t)
    denoised = (x - level * predicted) / (1 - level)
    return (x - denoised) / s
