"""Arithmetic of the codes of a diffusion autoencoder: z_sem [B D] and x_T [B C H W] (Preechakul et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .sampling import sample_ddim
from .tensors import append_dims


def lerp(a: Tensor, b: Tensor, fraction: Tensor) -> Tensor:
    """Frames [F ...] between a and b [1 ...] along a line; at 0 and 1 they are a and b, bit for bit."""
    share = append_dims(fraction, a.ndim).to(a)
    return _ends((1 - share) * a + share * b, a, b, fraction)


def slerp(a: Tensor, b: Tensor, fraction: Tensor) -> Tensor:
    """Frames between two codes along the arc: theta from their cosine, the codes themselves not normalised.

    sin((1 - f) theta) / sin(theta) a + sin(f theta) / sin(theta) b; a line where they are parallel.
    """
    cosine = torch.nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0)
    theta = torch.acos(cosine.clamp(-1, 1))
    if theta.sin() < 1e-6:
        return lerp(a, b, fraction)
    share = fraction.double()
    first, second = ((part * theta).sin() / theta.sin() for part in (1 - share, share))
    frames = append_dims(first, a.ndim).to(a) * a + append_dims(second, a.ndim).to(a) * b
    return _ends(frames, a, b, fraction)


def _ends(frames: Tensor, a: Tensor, b: Tensor, fraction: Tensor) -> Tensor:
    at = append_dims(fraction, a.ndim).to(a.device)
    return torch.where(at == 0, a, torch.where(at == 1, b, frames))


def normalised(z_sem: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (z_sem - mean) / std


def moved(z_sem: Tensor, direction: Tensor, amount: float, mean: Tensor, std: Tensor) -> Tensor:
    """z_sem [B D] moved by `amount` sqrt(D) along a direction [D], in normalised space (the published code's unit).

    Normalised codes have length sqrt(D), so an amount of 1 is as far as a code is long; .3 is usual. 0 changes no bit.
    """
    if amount == 0:
        return z_sem
    unit = direction / direction.norm()
    return z_sem + amount * len(direction) ** 0.5 * unit * std


def sample_prior(
    eps: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    timesteps: list[int],
    sigmas: Tensor,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Normalised z_sem [B D] out of noise by the latent prior: DDIM, eta 0, nothing clipped.

    eps(z_t, t) is the network, `timesteps` the kept ones, rising, and `sigmas` [T] those of its schedule.
    """
    levels = [*sigmas[timesteps].flip(0).tolist(), 0.0]
    falling = list(reversed(timesteps))

    def predict(x: Tensor, sigma: Tensor) -> tuple[Tensor, None]:
        level = float(sigma[0])
        t = falling[min(range(len(falling)), key=lambda k: abs(levels[k] - level))]
        scaled = x / (1 + level**2) ** 0.5
        return x - level * eps(scaled, torch.full((len(x),), t, device=x.device)), None

    def report(index: int, x: Tensor, denoised: Tensor, sigma: Tensor) -> None:
        if on_step is not None:
            on_step(index)

    start = noise * (1 + levels[0] ** 2) ** 0.5
    return sample_ddim(predict, start, levels, lambda index: noise, on_step=report)
