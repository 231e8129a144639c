"""x0 -> x_T: the deterministic sampler run backwards (Song et al. 2020, DDIM, section 4.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from .step import Denoiser


def invert(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    on_step: Callable[[int, Tensor, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """x at sigmas[0] -> x at sigmas[-1], noise levels rising.

    Each step keeps the direction of the noise: x_next = denoised + (sigma_next / sigma) (x - denoised). The formula is
    the same for x = x0 + sigma noise and for flow models. The published code takes the clean picture as x_t at the
    lowest level, so x starts as x0 sqrt(1 + sigma^2).
    """
    for index, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        level = x.new_full((len(x),), sigma)
        denoised = denoise(x, level)
        if on_step is not None:
            on_step(index, x, denoised, level)
        x = denoised + (following / sigma) * (x - denoised)
    return x
