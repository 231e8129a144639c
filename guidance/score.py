"""What a gradient of log p(y | x) does to the prediction of x0 (Tweedie's formula).

The shift depends on how noise enters x, not on what the network predicts: eps, v, x0 and EDM networks all have
x = x0 + sigma noise, so E[x0 | x] = x + sigma^2 grad log p(x), and adding the gradient of log p(y | x) to the score
gives denoised' = denoised + sigma^2 G. Rectified flow has x = (1 - s) x0 + s noise with score -E[noise | x] / s, so
denoised' = (x - s eps') / (1 - s) = denoised + s^2 / (1 - s) G, which ends at s = 1, where x knows nothing of y.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .tensors import append_dims


def shift_per_gradient(sigma: Tensor, flow: bool = False) -> Tensor:
    """d denoised / d G at noise levels [B]: sigma^2, or s^2 / (1 - s) for flow models and 0 where s reaches 1."""
    if not flow:
        return sigma**2
    rest = 1 - sigma
    return torch.where(rest > 0, sigma**2 / rest.clamp(min=torch.finfo(sigma.dtype).tiny), torch.zeros_like(sigma))


def guided_denoised(denoised: Tensor, grad: Tensor, sigma: Tensor, flow: bool = False) -> Tensor:
    """The prediction of x0 under p(x | y): `grad` is guidance_scale * grad_x log p(y | x), like `denoised`."""
    return denoised + append_dims(shift_per_gradient(sigma, flow), denoised.ndim) * grad
