"""Noise codes and pictures of small diffusion models in pure torch: published DDIM, both ways."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from guidance.inversion import stochastic_code
from guidance.sampling import respaced, sample_ddim
from guidance.tensors import append_dims
from models.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.named("linear")
Predict = Callable[[Tensor, Tensor, slice], Tensor]  # (x_t, t [B], rows of the conditions) -> eps


def denoiser(predict: Predict, rows: slice) -> Callable[[Tensor, Tensor], Tensor]:
    """(x, sigma [B]) -> predicted x0 in [-1, 1], at the training step nearest to sigma."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        table = SCHEDULE.sigmas.log().to(x.device)
        t = (table[None] - sigma.double().log()[:, None]).abs().argmin(1)
        scaled = x / append_dims(1 + sigma**2, x.ndim) ** 0.5
        return (x - append_dims(sigma, x.ndim) * predict(scaled, t, rows)).clamp(-1, 1)

    return denoise


def levels(steps: int) -> list[float]:
    """Rising sigmas of so many DDIM steps."""
    return SCHEDULE.sigmas[respaced(f"ddim{steps}")].tolist()


def in_parts(work: Callable[[Tensor, slice], Tensor], x: Tensor, size: int = 64) -> Tensor:
    return torch.cat([work(x[start : start + size], slice(start, start + size)) for start in range(0, len(x), size)])


def encode(predict: Predict, images: Tensor, steps: int) -> Tensor:
    """x_T of pictures [B 3 H W] in [-1, 1]."""
    rising = levels(steps)

    def work(part: Tensor, rows: slice) -> Tensor:
        return stochastic_code(denoiser(predict, rows), part * (1 + rising[0] ** 2) ** 0.5, rising)

    return in_parts(work, images)


def decode(predict: Predict, x_T: Tensor, steps: int) -> Tensor:  # noqa: N803
    """Pictures of noises [B 3 H W]."""
    rising = levels(steps)

    def work(part: Tensor, rows: slice) -> Tensor:
        denoise = denoiser(predict, rows)
        start = part * (1 + rising[-1] ** 2) ** 0.5
        return sample_ddim(lambda x, s: (denoise(x, s), None), start, [*reversed(rising), 0.0], lambda k: start)

    return in_parts(work, x_T)
