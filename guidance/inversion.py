"""x0 -> x_T: the deterministic sampler run backwards (Song et al. 2020, DDIM, section 4.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from .step import Denoiser

OnStep = Callable[[int, Tensor, Tensor, Tensor], None]  # (index, x, denoised, sigma), after each prediction


def invert(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], on_step: OnStep | None = None) -> Tensor:
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


def stochastic_code(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], on_step: OnStep | None = None) -> Tensor:
    """x at sigmas[0] -> x_T, of unit size: DiffAE's eq. 8, whose last step goes to a level that is nothing but noise.

    There x_T = eps = (x - denoised) / sigma of the last evaluation, which is one more than `invert` makes.
    """
    x = invert(denoise, x, sigmas, on_step)
    level = x.new_full((len(x),), sigmas[-1])
    denoised = denoise(x, level)
    if on_step is not None:
        on_step(len(sigmas) - 1, x, denoised, level)
    return (x - denoised) / sigmas[-1]
