"""The published DDPM and DDIM steps, and respacing, in sigma space.

X = x_t / sqrt(ab) = x0 + sigma noise with ab = 1 / (1 + sigma^2); s is sigma, p the sigma of the next retained step. A
guidance gradient G = grad_X log p(y | X), scale included, enters as published: in DDIM through the score (Dhariwal &
Nichol 2021, algorithm 2), in DDPM by moving the mean by variance times gradient (algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .score import guided_denoised

NAMED = {  # sections by name, of GLIDE's and DeepFloyd IF's code
    "fast27": (10, 10, 3, 2, 2),
    "smart27": (7, 4, 2, 1, 2, 4, 7),
    "smart50": (10, 6, 4, 3, 2, 2, 3, 4, 6, 10),
    "smart100": (1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 7, 8, 9, 10, 13),
    "smart185": (1, 1, 2, 2, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20),
    "super27": (1, 1, 1, 1, 1, 1, 1, 2, 5, 13),
    "super40": (2, 2, 2, 2, 2, 2, 3, 4, 6, 15),
    "super100": (4, 4, 6, 6, 8, 8, 10, 10, 14, 30),
}


def respaced(respacing: str, steps: int = 1000) -> list[int]:
    """Retained timesteps in ascending order.

    "ddimN": N steps of one integer stride from 0. "a,b,c": equal sections of the chain, so many steps in each, first
    and last included (Nichol & Dhariwal 2021). A name of NAMED: those sections; GLIDE's "fast27" with its last step,
    999, moved to 997. "linspaceN": Asyrp's int(linspace(0, 1, N) * (steps - 1) + 1e-6). Raises ValueError for anything
    else and for counts that don't fit.
    """
    text = respacing.strip().lower()
    if text in NAMED:
        kept = _sections(NAMED[text], steps)
        return [*kept[:-1], steps - 3] if text == "fast27" else kept
    try:
        if text.startswith("ddim"):
            return _one_stride(int(text[4:]), steps)
        if text.startswith("linspace"):
            return _linspace(int(text[8:]), steps)
        counts = [int(part) for part in text.split(",")]
    except ValueError as error:
        if "respacing" in str(error):
            raise
        raise ValueError(
            f'respacing {respacing!r} can\'t be read; write "250", "ddim25", "10,10,3,2,2", "fast27", "smart50", '
            '"super40" or "linspace40"'
        ) from error
    return _sections(counts, steps)


def respacing_of(count: int, steps: int = 1000) -> str:
    """How the published DiffAE keeps `count` steps: "ddimN" where one stride leaves so many, else evenly, "N"."""
    strides = {len(range(0, steps, stride)) for stride in range(1, steps)}
    return f"ddim{count}" if count in strides else str(count)


def _one_stride(count: int, steps: int) -> list[int]:
    for stride in range(1, steps):
        if len(range(0, steps, stride)) == count:
            return list(range(0, steps, stride))
    possible = sorted({len(range(0, steps, stride)) for stride in range(1, steps)}, key=lambda n: abs(n - count))
    raise ValueError(
        f"respacing ddim{count}: no stride leaves {count} of {steps} steps; the nearest is ddim{possible[0]}"
    )


def _linspace(count: int, steps: int) -> list[int]:
    if not 2 <= count <= steps:
        raise ValueError(f"respacing linspace{count}: 2 to {steps} steps are possible")
    return [int(k / (count - 1) * (steps - 1) + 1e-6) for k in range(count)]


def _sections(counts: Sequence[int], steps: int) -> list[int]:
    size, extra = divmod(steps, len(counts))
    retained, start = [], 0
    for index, count in enumerate(counts):
        length = size + (index < extra)
        if not 1 <= count <= length:
            raise ValueError(f"respacing: a section of {length} steps can't keep {count}; 1 to {length} are possible")
        stride = (length - 1) / (count - 1) if count > 1 else 1
        position = 0.0
        for _ in range(count):
            retained.append(start + round(position))
            position += stride
        start += length
    return retained


@dataclass(frozen=True)
class Transition:
    """One step of a respaced chain, from sigma s to p (0 at the end). `floor` is the posterior variance of the step
    before the last one, which stands in for the last one's zero."""

    s: float
    p: float
    floor: float

    @property
    def beta(self) -> float:
        """1 - ab(s) / ab(p) = (s^2 - p^2) / (1 + s^2)."""
        return (self.s**2 - self.p**2) / (1 + self.s**2)

    @property
    def posterior(self) -> float:
        """beta (1 - ab(p)) / (1 - ab(s)), 0 at the last step."""
        return self.beta * (self.p**2 / (1 + self.p**2)) * ((1 + self.s**2) / self.s**2)

    @property
    def log_small(self) -> float:
        return math.log(self.posterior if self.p else self.floor)


def without_repeats(sigmas: Sequence[float]) -> list[float]:
    """A level that is repeated makes no step."""
    return [sigma for index, sigma in enumerate(sigmas) if index == 0 or sigma != sigmas[index - 1]]


def transitions(sigmas: Sequence[float], may_rise: bool = False) -> list[Transition]:
    """The steps of a list of sigmas, falling unless they `may_rise`, none repeated.

    `floor` belongs to the whole chain: of one that is cut before its last step alone it is beta, the posterior's limit
    for a step before that comes from far above. Raises ValueError for other lists.
    """
    if 0 in sigmas[:-1]:
        raise ValueError(
            f"the noise levels reach 0 at number {list(sigmas).index(0) + 1} of {len(sigmas)}, and no step leads away "
            "from there; split the sigmas at the 0"
        )
    rising = [(s, p) for s, p in zip(sigmas[:-1], sigmas[1:], strict=True) if p > s]
    if rising and not may_rise:
        raise ValueError(
            "the noise levels rise (from {:.4g} to {:.4g}), and this sampler has no formula for that; use DDIM "
            "Inversion, or DDIM Sampler with eta 0".format(*rising[0])
        )
    pairs = list(zip(sigmas[:-1], sigmas[1:], strict=True))
    floor = Transition(*pairs[-2], 0.0).posterior if len(pairs) > 1 else Transition(*pairs[-1], 0.0).beta
    return [Transition(s, p, floor) for s, p in pairs]


# (step, v or None) -> variance of x_t-space [B C H W] or a float, and its logarithm for the noise
Variance = Callable[[Transition, Tensor | None], tuple[Tensor | float, Tensor | float]]


def fixed_small(step: Transition, v: Tensor | None) -> tuple[float, float]:
    """The posterior variance (Ho et al. 2020); guidance does not move the last step."""
    return step.posterior, step.log_small


def fixed_large(step: Transition, v: Tensor | None) -> tuple[float, float]:
    """beta, with the posterior's stand-in at the last step."""
    log = math.log(step.beta) if step.p else step.log_small
    return math.exp(log), log


def learned(step: Transition, v: Tensor | None) -> tuple[Tensor, Tensor]:
    """Interpolated between the two in the logarithm by the network's v in [-1, 1] (Nichol & Dhariwal 2021, eq. 15)."""
    if v is None:
        raise ValueError(
            "a learned variance was asked for, but this model predicts none; use fixed large or fixed small"
        )
    share = (v + 1) / 2
    log = share * math.log(step.beta) + (1 - share) * step.log_small
    return log.exp(), log


def automatic(step: Transition, v: Tensor | None) -> tuple[Tensor | float, Tensor | float]:
    """Learned where the network gives it, else fixed large: the published code's own choice."""
    return fixed_large(step, v) if v is None else learned(step, v)


VARIANCES: dict[str, Variance] = {
    "auto": automatic,
    "learned": learned,
    "fixed small": fixed_small,
    "fixed large": fixed_large,
}

Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]  # (x, sigma [B]) -> denoised, v or None
Gradient = Callable[[Tensor, Tensor], Tensor | None]  # (x, sigma [B]) -> grad_X log p, scale included; None: none
Noise = Callable[[int], Tensor]  # k-th draw of a run, like x
OnStep = Callable[[int, Tensor, Tensor, Tensor], None]  # (index, x, denoised, sigma), after each prediction


def ddim_step(x: Tensor, denoised: Tensor, step: Transition, eta: float, noise: Tensor | None) -> Tensor:
    """DDIM (Song et al. 2020, eq. 12): sigma_up = eta p sqrt(s^2 - p^2) / s, the rest points along x - denoised.

    With eta 0 it holds for rising levels too.
    """
    up = eta * step.p * math.sqrt(step.s**2 - step.p**2) / step.s if eta else 0.0
    down = math.sqrt(step.p**2 - up**2)
    x = denoised + (down / step.s) * (x - denoised)
    return x if noise is None else x + up * noise


def sample_ddim(
    predict: Predict,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    eta: float | Callable[[float], float] = 0.0,
    gradient: Gradient | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """x at sigmas[0] -> x0 by DDIM; guided through the score, denoised + sigma^2 G, which is not clipped again.

    `eta` may be a function of sigma. With eta 0 levels may rise: then x0 goes back to its noise. Raises ValueError as
    `transitions` does.
    """
    for index, step in enumerate(transitions(sigmas, may_rise=eta == 0)):
        sigma = x.new_full((len(x),), step.s)
        denoised, _ = predict(x, sigma)
        grad = gradient(x, sigma) if gradient else None
        if grad is not None:
            denoised = guided_denoised(denoised, grad, sigma)
        if on_step is not None:
            on_step(index, x, denoised, sigma)
        fresh = eta(step.s) if callable(eta) else eta
        x = ddim_step(x, denoised, step, fresh, noise(index) if fresh and step.p else None)
    return x


def sample_ddpm(
    predict: Predict,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    variance: Variance = automatic,
    gradient: Gradient | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """x at sigmas[0] -> x0 by ancestral sampling.

    Posterior mean: denoised + (p / s)^2 (x - denoised). In x_t space guidance moves it by Var g with
    g = grad_{x_t} log p = sqrt(1 + s^2) G; X = x_t sqrt(1 + sigma^2) makes that sqrt((1 + s^2)(1 + p^2)) Var G here.
    """
    for index, step in enumerate(transitions(sigmas)):
        sigma = x.new_full((len(x),), step.s)
        denoised, v = predict(x, sigma)
        var, log_var = variance(step, v)
        mean = denoised + (step.p / step.s) ** 2 * (x - denoised)
        grad = gradient(x, sigma) if gradient else None
        if grad is not None:
            mean = mean + math.sqrt((1 + step.s**2) * (1 + step.p**2)) * var * grad
        if on_step is not None:
            on_step(index, x, denoised, sigma)
        if step.p:
            std = torch.exp(0.5 * torch.as_tensor(log_var)).to(x, non_blocking=True) * math.sqrt(1 + step.p**2)
            mean = mean + std * noise(index)
        x = mean
    return x
