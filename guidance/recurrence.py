"""Time travel: a step is taken, undone with fresh noise, and taken again (Lugmayr et al. 2022, RePaint; FreeDoM)."""

from __future__ import annotations

from torch import Tensor


def again(x: Tensor, denoised: Tensor, sigma: float, sigma_next: float, noise: Tensor, flow: bool = False) -> Tensor:
    """x after a first-order step to sigma_next and back to sigma with fresh unit noise.

    VE: x' + sqrt(sigma^2 - sigma'^2) noise. Flow, a = 1 - sigma: (a / a') x' + sqrt(sigma^2 - (a sigma' / a')^2) noise.
    """
    x = denoised + (sigma_next / sigma) * (x - denoised)
    share = (1 - sigma) / (1 - sigma_next) if flow else 1.0
    return share * x + (sigma**2 - (share * sigma_next) ** 2) ** 0.5 * noise


def as_if_from(start: Tensor, x: Tensor, denoised: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The prediction that makes a first-order step from `start` end where a step from x with `denoised` ends.

    D' + q (start - D') = D + q (x - D), q = sigma_next / sigma, gives D' = D + q (x - start) / (1 - q).
    """
    q = sigma_next / sigma
    return denoised + q * (x - start) / (1 - q)
