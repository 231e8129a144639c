"""What the core is made of: one model evaluation in sigma space, and the callables that act on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from .score import shift_per_gradient
from .tensors import append_dims, norm

FURTHEST = 128.0

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x = x0 + sigma noise, sigma [B]) -> denoised
Energy = Callable[[Tensor, Tensor], Tensor]  # (x, sigma [B]) -> [B], lower is better; sigma 0: x is clean


@dataclass(frozen=True)
class Step:
    """One evaluation of a model: all that a guide may see. Tensors are [B ...] in float32 or wider, any rank.

    What follows of them is computed once: each is a few launches on a GPU.
    """

    x: Tensor  # noisy: x0 + sigma noise, or (1 - sigma) x0 + sigma noise for flow models
    sigma: Tensor  # [B]
    denoised: Tensor  # what the sampler would use without us
    flow: bool = False
    data_std: float = 1.0  # root mean square of clean data, for `clean_variance`
    pull_back: Callable[[Tensor], Tensor] | None = None  # c -> J^T c with J = d denoised / dx; None: not available
    now: float = 1.0  # how far the sampler moves x for a shift of `denoised` by 1: `guidance.samplers.Move.now`

    @cached_property
    def distance(self) -> Tensor:
        """|x - denoised|, [B]: how far the model itself moves each sample (identity I6 of the guide's step size)."""
        return norm(self.x - self.denoised)

    @cached_property
    def shift(self) -> Tensor:
        """d denoised / d (grad_x log p), [B]: sigma^2, or sigma^2 / (1 - sigma) for flow models."""
        return shift_per_gradient(self.sigma, self.flow)

    @cached_property
    def clean_variance(self) -> Tensor:
        """Variance of x0 given x for Gaussian data of `data_std` s, [B]: s^2 sigma^2 / (a^2 s^2 + sigma^2).

        a is 1, or 1 - sigma for flow models. Covariance times grad_x0 log p(y | x0) is what back-propagation through
        the denoiser would give (dD/dx = a / sigma^2 Cov, Tweedie); this is its network-free stand-in.
        """
        a = 1 - self.sigma if self.flow else 1.0
        return (self.data_std * self.sigma) ** 2 / ((a * self.data_std) ** 2 + self.sigma**2)

    @cached_property
    def furthest(self) -> Tensor:
        """FURTHEST standard deviations of x0 given x, as a length, [B]: no direction of an energy is longer.

        It does not depend on where the sample is, so no sample can leave for good, whatever the energy.
        """
        return FURTHEST * (self.x[0].numel() * self.clean_variance).sqrt()

    @cached_property
    def reach(self) -> Tensor:
        """How far a clean guide may sensibly move each sample, [B]: |x - denoised| s / sqrt(a^2 s^2 + sigma^2).

        That is about sqrt(clean_variance) a number: the model's own step at little noise, the size of the data and not
        more where noise is all there is.
        """
        a = 1 - self.sigma if self.flow else 1.0
        return self.distance * self.data_std / ((a * self.data_std) ** 2 + self.sigma**2).sqrt()

    def noisy(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x of this step as x0 + sigma noise, with that sigma [B]: what noise-aware networks are told."""
        if not self.flow:
            return x, self.sigma
        a = (1 - self.sigma).clamp(min=1e-4)  # at 1 the shift is 0 and nothing of this is used
        return x / append_dims(a, x.ndim), self.sigma / a
