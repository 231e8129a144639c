"""The published samplers as the host's SAMPLER, one guided run of them, and what any sampler makes of a prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import comfy.sample
import comfy.samplers
import latent_preview
import torch
from comfy.model_management import intermediate_device
from torch import Tensor

from ...guidance.noise import StepNoise, initial_noise
from ...guidance.samplers import SAMPLERS, TWICE, Move, churned, first_order, move
from ...guidance.sampling import Gradient, Noise, OnStep, Predict, respaced, sample_ddpm, without_repeats
from .model import is_flow
from .pixel_model import VARIANCE, VarianceReader, clamp
from .run import HANDOVER, SAME, Course, Handover

FLOW_REFUSED = (
    "a model trained on a chain of noise levels (eps or v prediction) is needed, not a flow model; use euler there"
)
PUBLISHED = "published"  # name of a sampler of ours, its function is sample_published
ETA = "eta"  # of its extra_options: its share of fresh noise, a number or a function of sigma
INDICES = "batch_indices"  # of a sampler's extra_options: the number of each image, where the sampler knows it
Loop = Callable[..., Tensor]  # sample_ddim or sample_ddpm with its own options bound


def published_sampler(
    loop: Loop,
    clip_denoised: bool,
    guidance: Gradient | None = None,
    noise: Noise | None = None,
    from_noise: bool = True,
    indices: Sequence[int] | None = None,
) -> comfy.samplers.KSAMPLER:
    """A SAMPLER around a loop of `guidance.sampling`.

    `clip_denoised` clamps x0 after CFG and before every other patch of the model. Guides in the MODEL hand over the
    gradients of noise-aware networks, which enter as published: in DDPM they move the mean. `noise` replaces the draws
    of the steps (tests inject them); by default image i of a batch, or indices[i], has its own, from the run's seed.
    `from_noise`: an empty latent means a run from pure noise; otherwise it is a grey picture.
    """

    def sample_published(
        model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, disable: Any = None, **_: Any
    ) -> Tensor:
        if is_flow(model.inner_model.inner_model.model_sampling):
            raise ValueError(FLOW_REFUSED)
        if len(sigmas) < 2:
            return x
        levels = without_repeats(sigmas.tolist())
        rising = levels[-1] > levels[0]  # then the latent is a picture, also a grey one
        if from_noise and not rising and not torch.count_nonzero(model.latent_image):
            # the published start is unit noise taken as x_t; the host scales by sigma alone below sigma_max
            x = model.noise * (1 + sigmas[0] ** 2) ** 0.5
        draws = noise or StepNoise(x, extra_args.get("seed") or 0, indices or range(len(x)), levels)
        handover = Handover()
        predict = _predictor(model, extra_args, clip_denoised, handover)
        own = _masked(guidance, model, extra_args.get("denoise_mask")) if guidance else None
        return loop(predict, x, levels, draws, gradient=_both(handover, own), on_step=_reporter(callback))

    return comfy.samplers.KSAMPLER(sample_published, {ETA: _eta(loop)} | ({INDICES: indices} if indices else {}))


def _eta(loop: Loop) -> float | Callable[[float], float]:
    """How much of a step's noise is drawn anew."""
    bare = getattr(loop, "func", loop)
    return 1.0 if bare is sample_ddpm else getattr(loop, "keywords", {}).get(ETA, 0.0)


def _both(handover: Handover, own: Gradient | None) -> Gradient:
    """What guides in the MODEL handed over, and the sampler's own guidance."""

    def gradient(x: Tensor, sigma: Tensor) -> Tensor | None:
        parts = [part for part in (handover.take(), own(x, sigma) if own else None) if part is not None]
        return sum(parts[1:], parts[0]) if parts else None

    return gradient


def _reporter(callback: Any) -> OnStep:
    """The host's callback after each step: progress and preview. Hosts before 0.30 may have none."""

    def report(index: int, x: Tensor, denoised: Tensor, sigma: Tensor) -> None:
        if callback is not None:
            callback({"x": x, "i": index, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})

    return report


def _masked(guidance: Gradient, model: Any, mask: Tensor | None) -> Gradient:
    """Inpainting: the gradient sees what the model sees, the kept part noised anew, and moves only the free part."""
    if mask is None:
        return guidance
    scaling = model.inner_model.inner_model.model_sampling.noise_scaling

    def grad(x: Tensor, sigma: Tensor) -> Tensor | None:
        level = sigma.reshape(-1, *[1] * (x.ndim - 1))
        kept = scaling(level, model.noise, model.latent_image)
        found = guidance(x * mask + kept * (1 - mask), sigma)
        return None if found is None else mask * found

    return grad


def _predictor(model: Any, extra_args: dict[str, Any], clip_denoised: bool, handover: Handover) -> Predict:
    """The host's model as (denoised, v); v where the network predicts its variance."""
    reader = VarianceReader()
    options = extra_args["model_options"]
    transformer = {**options.get("transformer_options", {}), VARIANCE: reader, HANDOVER: handover}
    options = {**options, "transformer_options": transformer}
    if clip_denoised:
        options["sampler_post_cfg_function"] = [clamp, *options.get("sampler_post_cfg_function", [])]
    arguments = {**extra_args, "model_options": options}

    def predict(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor | None]:
        reader.begin(x)
        return model(x, sigma, **arguments), reader.v

    return predict


class Steps:
    """Follows a run's sampler look by look: which step a look belongs to, and what the step makes of a prediction."""

    def __init__(self, course: Course):
        self.levels = without_repeats(course.sigmas)
        self.name = course.sampler_name.removeprefix("sample_") or type(course.sampler).__name__
        self.options: Mapping[str, Any] = getattr(course.sampler, "extra_options", {})
        self.flow, self.level = course.flow, course.level
        self.index, self.first = 0, False
        self.sigma = float("inf")
        self.seen: Tensor | None = None

    @property
    def known(self) -> bool:
        """Whether it is known what the sampler does: not so of other packs' samplers, and of some of the host's."""
        return self.name == PUBLISHED or self.name in SAMPLERS

    def look(self, sigmas: Tensor) -> bool:
        """The network is asked at `sigmas`, the host's one tensor of a look; whether it is a new one.

        A second look stays in the step wherever it is: that of heun and of ancestral samplers is at the next level.
        """
        if sigmas is self.seen:
            return False
        self.seen, sigma = sigmas, self.level(sigmas)
        steps = range(self.index, len(self.levels) - 1)
        found = next((k for k in steps if abs(self._begin(k) - sigma) <= SAME * sigma), None)
        if self.name in TWICE and self.first and sigma < self.sigma:
            self.first = False
        elif found is not None:
            self.index, self.first = found, True
        self.sigma = sigma
        return True

    def _begin(self, index: int) -> float:
        """Where a step begins; with s_churn above its level."""
        return churned(self.levels, index, self.options) if self.name != PUBLISHED else self.levels[index]

    def move(self, index: int | None = None) -> Move:
        """What the sampler does in the present step, or in another one.

        Raises ValueError for schedules that the sampler can't follow.
        """
        index = self.index if index is None else index
        if self.name == PUBLISHED:
            sigma, following = self.levels[index : index + 2]
            eta: Callable[[float], float] | float = self.options[ETA]
            return first_order(sigma, following, eta(sigma) if callable(eta) else eta)
        return move(self.name, self.options, self.levels, index, self.flow)


def respaced_sigmas(model: Any, respacing: str, denoise: float = 1.0) -> Tensor:
    """Noise levels of a respaced chain of a MODEL, falling, ending with 0; with denoise < 1 only its last share.

    A plain number of steps is what remains to be done, as in the host's samplers: the chain is longer then. Raises
    ValueError for flow models, and for respacings that can't be read or kept.
    """
    sampling = model.get_model_object("model_sampling")
    if is_flow(sampling):
        raise ValueError(FLOW_REFUSED)
    table = sampling.sigmas
    if respacing.isdecimal() and denoise < 1:
        steps = int(respacing)
        if int(steps / denoise) > len(table):
            raise ValueError(
                f"{steps} steps are the last part of a run of {int(steps / denoise)} at denoise {denoise:g}, and the "
                f"model was trained on {len(table)}; use at most {most_steps(len(table), denoise)}, or a larger denoise"
            )
        kept = respaced(str(int(steps / denoise)), len(table))
    else:
        kept = respaced(respacing, len(table))
        steps = max(1, round(len(kept) * denoise))
    return torch.cat([table[kept[:steps]].flip(0).cpu(), torch.zeros(1)])


def most_steps(trained: int, denoise: float) -> int:
    """The largest number of steps whose whole chain, int(steps / denoise), a model of so many training steps has."""
    return max(steps for steps in range(trained + 1) if int(steps / denoise) <= trained)


def fitted(model: Any, latent: dict[str, Any]) -> dict[str, Any]:
    """The LATENT with an empty one brought to the model's channels and size, as the host's samplers do."""
    ratio = latent.get("downscale_ratio_spacial")
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], ratio)
    return {key: value for key, value in latent.items() if key != "downscale_ratio_spacial"} | {"samples": samples}


def batch_indices(latent: dict[str, Any]) -> list[int]:
    """The number of each image of a LATENT, which the host keeps when it takes a batch apart."""
    return list(latent.get("batch_index") or range(len(latent["samples"])))


def start_noise(model: Any, shape: Sequence[int], seed: int, count: int) -> Tensor:
    """[count ...], picture i by seed + i."""
    return initial_noise((count, *shape), seed, range(count))


def sampled(model: Any, positive: Any, noise: Tensor, steps: int, beside: Any = None) -> Tensor:
    """Latents of a plain run of euler, without CFG.

    `beside`: another condition, which is predicted at the same noisy pictures (the guider's negative) and then ignored.
    """
    empty = torch.zeros_like(noise)
    if beside is not None:
        model = model.clone()
        model.set_model_sampler_cfg_function(lambda given: given["cond"], disable_cfg1_optimization=True)
    return comfy.sample.sample(
        model, noise, steps, 1.0, "euler", "normal", positive, beside or positive, empty, disable_pbar=True, seed=0
    )


def run(
    model: Any,
    conditions: dict[str, Any],
    sampler: Any,
    sigmas: Tensor,
    latent: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """One run without CFG through the host's guider, on a LATENT; image i's noise is that of `seed + i` alone."""
    samples = latent["samples"]
    noise = initial_noise(samples.shape, seed, batch_indices(latent))
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds(conditions)
    callback = latent_preview.prepare_callback(model, len(sigmas) - 1)
    result = guider.sample(
        noise, samples, sampler, sigmas, denoise_mask=latent.get("noise_mask"), callback=callback, seed=seed
    )
    return {**latent, "samples": result.to(intermediate_device())}
