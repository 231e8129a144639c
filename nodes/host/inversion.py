"""Running the host's model backwards: a picture's own noise, for eps, v and flow models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.samplers
import latent_preview
import torch
from comfy.model_management import intermediate_device
from torch import Tensor

from ...guidance.classifier_energy import NO_CLASS
from ...guidance.inversion import invert, stochastic_code
from ...guidance.sampling import respacing_of
from .conditioning import class_conditioning
from .errors import about
from .model import facts_of, is_flow
from .sampling import respaced_sigmas


class FixedNoise:
    """NOISE that is a stored code x_T; its batch is repeated or cut to the latent's.

    `scale` makes it the start of a schedule from the model's largest sigma: sqrt(1 + sigma_max^2).
    """

    def __init__(self, x_T: Tensor, scale: float = 1.0):  # noqa: N803
        self.x_T = x_T
        self.scale = scale
        self.seed = 0

    def generate_noise(self, input_latent: dict[str, Any]) -> Tensor:
        wanted = input_latent["samples"].shape
        if wanted[1:] != self.x_T.shape[1:]:
            raise ValueError(
                f"input 'noise': x_T was made for latents of shape {list(self.x_T.shape[1:])}, this latent has "
                f"{list(wanted[1:])}; use a latent of the same size"
            )
        return self.x_T[torch.arange(wanted[0]) % len(self.x_T)]


class SharedNoise:
    """NOISE that is the same for every image of a batch."""

    def __init__(self, seed: int = 0):
        self.seed = seed

    def generate_noise(self, input_latent: dict[str, Any]) -> Tensor:
        wanted = input_latent["samples"].shape
        one = torch.randn(wanted[1:], generator=torch.Generator().manual_seed(self.seed))
        return one.expand(wanted).clone()


Upwards = Callable[..., Tensor]  # invert or stochastic_code
Callback = Callable[[int, Tensor, Tensor, int], None]  # the host's, of samplers


class InversionSampler(comfy.samplers.Sampler):
    """A SAMPLER for rising noise levels. It scales nothing at the start or the end: the caller does."""

    def __init__(self, upwards: Upwards = invert):
        self.upwards = upwards

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        levels = [float(sigma) for sigma in sigmas]
        sampling = model_wrap.inner_model.model_sampling
        start = latent_image if is_flow(sampling) else latent_image * (1 + levels[0] ** 2) ** 0.5

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return model_wrap(x, sigma, **extra_args)

        def report(index: int, x: Tensor, denoised: Tensor, sigma: Tensor) -> None:
            if callback is not None:
                callback(index, denoised, x, len(levels) - 1)

        return self.upwards(denoise, start, levels, report)


def inversion_sigmas(model: Any, steps: int, respacing: str) -> Tensor:
    """Rising noise levels: kept training steps, or the host's simple schedule for flow models.

    Raises ValueError for respacings that can't be read or keep one step.
    """
    sampling = model.get_model_object("model_sampling")
    if is_flow(sampling) and not respacing:
        return comfy.samplers.calculate_sigmas(sampling, "simple", steps)[:-1].flip(0)
    rising = respaced_sigmas(model, respacing or str(steps))[:-1].flip(0)
    if len(rising) < 2:
        raise ValueError("one noise level alone makes no step from picture to noise; keep at least 2")
    return rising


def no_conditioning(model: Any) -> list[Any]:
    """ "No class" for a pixel model; every other model has to be told what the picture shows."""
    if facts_of(model) is None:
        raise ValueError("this model needs a CONDITIONING, for instance CLIP Text Encode of what the picture shows")
    return class_conditioning([NO_CLASS])


def shown(model: Any, conditioning: list[Any] | None) -> list[Any]:
    """The CONDITIONING that pictures are inverted under."""
    with about("conditioning"):
        return conditioning or no_conditioning(model)


def inverted(
    model: Any,
    samples: Tensor,
    conditioning: list[Any],
    sigmas: Tensor,
    callback: Callback | None = None,
    upwards: Upwards = invert,
) -> Tensor:
    """Latents at the last of rising noise levels. `callback` gets (index, denoised, x, total) in the model's space."""
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": conditioning})
    return guider.sample(
        torch.zeros_like(samples), samples, InversionSampler(upwards), sigmas, callback=callback, seed=0
    )


def invert_latent(
    model: Any, samples: Tensor, conditioning: list[Any], sigmas: Tensor
) -> tuple[FixedNoise, dict[str, Any]]:
    """(x_T as NOISE, the noisy LATENT at the last level)."""
    callback = latent_preview.prepare_callback(model, len(sigmas) - 1)
    noisy = inverted(model, samples, conditioning, sigmas, callback)
    inside = model.model.process_latent_in(noisy)
    last = float(sigmas[-1])
    flow = is_flow(model.get_model_object("model_sampling"))
    unit = inside / (last if flow else (1 + last**2) ** 0.5)
    return FixedNoise(unit.cpu()), {"samples": noisy.to(intermediate_device())}


def stochastic_sigmas(model: Any, steps: int) -> Tensor:
    """Rising noise levels of one stride, as the published code has them, or evenly spread where no stride leaves N."""
    return respaced_sigmas(model, respacing_of(steps))[:-1].flip(0)


def stochastic_encode(
    model: Any, pictures: Tensor, conditioning: list[Any], sigmas: Tensor
) -> tuple[FixedNoise, dict[str, Any]]:
    """x_T of pictures [B 3 H W] in [-1, 1] given what they mean: (NOISE, LATENT at the model's largest sigma)."""
    callback = latent_preview.prepare_callback(model, len(sigmas))
    code = inverted(model, pictures, conditioning, sigmas, callback, stochastic_code).cpu()
    scale = (1 + float(model.get_model_object("model_sampling").sigma_max) ** 2) ** 0.5
    return FixedNoise(code, scale), {"samples": (code * scale).to(intermediate_device())}
