"""Guides at work: one wrapper around a MODEL's predictions, and what lives for one sampling run."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management as mm
import torch
from comfy.patcher_extension import WrappersMP
from comfy.sampler_helpers import get_additional_models
from torch import Tensor, nn

from ...guidance.combine import EXACT, Steered, steer
from ...guidance.gradient import Term
from ...guidance.recurrence import again, as_if_from
from ...guidance.step import Step
from ...guidance.tensors import append_dims
from .binding import area, clean_energy, colour_energy, noisy_energy
from .cfg_run import stands_still
from .gradients import attention, autograd_on, differentiable, says_no_derivative
from .guides import COLOURS_ONLY, LAMBDA, Guide
from .report import Report
from .run_state import HANDOVER, Handover, Held, Run, progress_function
from .sight import Sight, is_flow, is_pixel_model

KEY = "diffusion_guidance"
AUTO, RELATIVE = "auto", "lambda"
UNITS = (AUTO, "paper", RELATIVE)
THROUGH, DENOISED = "through denoiser", "at denoised"
VIEW_DETAIL = 1.25  # decoded pixels for each pixel that an encoder looks at: crops look closer than the whole
LATENT_STD, PIXEL_STD = 1.0, 0.5  # of clean data


@dataclass(frozen=True, eq=False)
class Application:
    """What Apply Guides was told. `vae` is how guides get pixels, None where they need none."""

    guides: Sequence[Guide]
    vae: Any | None
    strength: float
    gradient: str
    unit: str
    cap: float
    every: int
    inner_steps: int
    views: int
    recurrence: int
    report: Report

    def estimator(self, guide: Guide, exact_possible: bool) -> str:
        if self.gradient != AUTO:
            return self.gradient
        return EXACT if guide.noise_aware and exact_possible else DENOISED

    def relative(self, estimator: str) -> bool:
        """Whether a weight is a lambda: everywhere but for noise-aware guides at the noisy sample."""
        return self.unit == RELATIVE or (self.unit == AUTO and estimator != EXACT)


def apply(model: Any, application: Application) -> Any:
    """A clone of the MODEL with one application more. All of them share one wrapper."""
    model = model.clone()
    before = applications(model)
    model.set_attachments(KEY, [*before, application])
    patchers = list(model.get_additional_models_with_key(KEY))
    for patcher in [p for guide in application.guides for p in guide.patchers] + (
        [application.vae.patcher] if application.vae is not None else []
    ):
        if not any(patcher is known or patcher.is_clone(known) for known in patchers):
            patchers.append(patcher)
    model.set_additional_models(KEY, patchers)
    if not before:
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _around_run)
        model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, _around_loading)
        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, _around_prediction)
    return model


def applications(model: Any) -> list[Application]:
    """All applications of guides in a MODEL."""
    return model.get_attachment(KEY) or []


def _around_run(executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any):
    """OUTER_SAMPLE: a fresh state for every run, gone afterwards whatever happens."""
    guider = executor.class_obj
    _refuse_unfit_runs(applications(guider.model_patcher), sampler, kwargs.get("latent_shapes") or ())
    mask = args[0] if args else kwargs.get("denoise_mask")
    seed = kwargs.get("seed", args[3] if len(args) > 3 else None)
    for application in applications(guider.model_patcher):
        application.report.begin()
    guider.model_options[KEY] = Run(
        seed=int(seed or 0),
        sigmas=[float(sigma) for sigma in sigmas],
        denoise_mask=mask,
        progress_of=progress_function(guider.model_patcher.get_model_object("model_sampling")),
    )
    try:
        return executor(noise, latent, sampler, sigmas, *args, **kwargs)
    finally:
        guider.model_options.pop(KEY, None)


def _refuse_unfit_runs(jobs: list[Application], sampler: Any, latent_shapes: Any) -> None:
    """Raises ValueError for what guides would do wrongly."""
    if len(latent_shapes) > 1:
        raise ValueError("guides work on one latent; this model samples several packed into one (video and audio)")
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    churn = getattr(sampler, "extra_options", {}).get("s_churn", 0)
    if any(job.recurrence > 1 for job in jobs) and (name != "sample_euler" or churn):
        raise ValueError(
            "recurrence above 1 needs the sampler euler or ddim (others would extrapolate its noise); choose one of "
            "them, or set recurrence to 1"
        )


def _around_loading(executor: Any, model: Any, noise_shape: Any, *args: Any, **kwargs: Any) -> Any:
    """PREPARE_SAMPLING: room for what autograd keeps; the host reckons in batches of its own model."""
    jobs = applications(model)
    through = any(application.gradient == THROUGH for application in jobs)
    factor = 4 if through else 1
    base = model.model.memory_required([1, *noise_shape[1:]])
    factor += sum(_activations(application, model, noise_shape) for application in jobs) / max(base, 1)
    return executor(model, [int(noise_shape[0] * factor + 0.999), *noise_shape[1:]], *args, **kwargs)


def _activations(application: Application, model: Any, noise_shape: Any) -> float:
    """Bytes that a sample's guides keep for their backward, roughly: twelve times their pictures at 64 channels, and
    three times what decoding alone would take."""
    pictures = sum(application.views * guide.size**2 * 64 * 4 * 12 for guide in application.guides)
    if application.vae is None or len(noise_shape) != 4:
        return pictures
    largest = max(guide.size for guide in application.guides) * VIEW_DETAIL
    side = min(*noise_shape[2:], math.ceil(largest / model.model.latent_format.spacial_downscale_ratio))
    return pictures + 3 * application.vae.memory_used_decode([1, noise_shape[1], side, side], torch.float32)


def _around_prediction(
    executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """PREDICT_NOISE: the host's prediction, every other node's patch included, and what the guides add to it."""
    guider = executor.class_obj
    options = {} if model_options is None else model_options
    run: Run = guider.model_options[KEY]
    sigma = float(timestep.flatten()[0])
    if stands_still(guider.model_options, sigma):
        return executor(x, timestep, options, *args, **kwargs)
    found = [_job(run, application, x, sigma) for application in applications(guider.model_patcher)]
    work = [job for job in found if job is not None]
    if not work:
        return executor(x, timestep, options, *args, **kwargs)

    def predict(x: Tensor, needs_graph: bool) -> tuple[Tensor, Callable[[Tensor], Tensor] | None]:
        if not needs_graph:
            return executor(x, timestep, options, *args, **kwargs), None
        return _with_graph(guider, lambda y, o: executor(y, timestep.clone(), o, *args, **kwargs), x, options)

    return _guided_prediction(guider, run, work, predict, x, timestep, options)


@dataclass(frozen=True, eq=False)
class Job:
    """One application at one step: its active terms, or the direction that is held."""

    application: Application
    key: int
    index: int  # of the step
    weights: list[tuple[Guide, float]]
    held: Held
    fresh: bool


def _job(run: Run, application: Application, x: Tensor, sigma: float) -> Job | None:
    """None outside every window, at strength 0, and at sigma 0: then nothing is evaluated."""
    progress = run.progress_of(sigma)
    weights = [(guide, application.strength * guide.weight(progress)) for guide in application.guides]
    weights = [(guide, weight) for guide, weight in weights if weight]
    if not weights or sigma <= 0:
        return None
    key = id(application)
    held, index = run.held.setdefault(key, Held()), run.index(sigma)
    same = held.steered is not None and held.steered.shape == x.shape and held.guides == _active(weights)
    waiting = 0 <= index - held.step < application.every
    return Job(application, key, index, weights, held, not (same and waiting))


def _active(weights: list[tuple[Guide, float]]) -> tuple[int, ...]:
    return tuple(id(guide) for guide, _ in weights)


def _guided_prediction(
    guider: Any, run: Run, work: list[Job], predict: Any, x: Tensor, timestep: Tensor, options: dict[str, Any]
) -> Tensor:
    """The prediction with every application's direction, repeated where recurrence was asked for."""
    sampling = guider.inner_model.model_sampling
    sigma = timestep.flatten().expand(len(x)).float()
    level = float(sigma[0])
    following = run.following(level)
    repeats = max(job.application.recurrence for job in work) if following > 0 else 1
    start = x
    denoised = x
    handover: Handover | None = options.get("transformer_options", {}).get(HANDOVER)
    for repeat in range(repeats):
        if handover is not None:
            handover.take()  # of the repetition before
        needs_graph = any(job.application.gradient == THROUGH and job.fresh for job in work)
        denoised, pull_back = predict(x, needs_graph)
        step = _step(guider, sampling, x, sigma, denoised, pull_back)
        for job in work:
            _apply(guider, run, job, step)
        denoised = _moved(work, step, handover)
        if repeat + 1 < repeats:
            noise = torch.randn(x.shape[1:], generator=run.generator(3, run.index(level), repeat))
            x = again(x, denoised, level, following, noise.to(x), step.flow)
        elif x is not start:
            denoised = as_if_from(start, x, denoised, level, following)
    return denoised


def _step(guider: Any, sampling: Any, x: Tensor, sigma: Tensor, denoised: Tensor, pull_back: Any) -> Step:
    with torch.inference_mode(False):
        return Step(
            x=x.detach().float().clone(),
            sigma=sigma.clone(),
            denoised=denoised.detach().float().clone(),
            flow=is_flow(sampling),
            data_std=PIXEL_STD if is_pixel_model(guider.model_patcher) else LATENT_STD,
            pull_back=pull_back,
        )


def _with_graph(
    guider: Any, execute: Callable[[Tensor, dict[str, Any]], Tensor], x: Tensor, options: dict[str, Any]
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The prediction and its vector-Jacobian product. Raises ValueError for models that can't be differentiated."""
    inner = guider.inner_model
    _refuse_unfit(options)
    transformer = {**options.get("transformer_options", {}), "optimized_attention_override": attention}
    options = {**options, "transformer_options": transformer}
    options.pop("multigpu_clones", None)  # they run without a graph
    with _refusals(), differentiable(inner, *_networks_beside(guider.conds)):
        leaf = x.clone().requires_grad_(True)
        denoised = execute(leaf, options)
    if not denoised.requires_grad:
        raise _undifferentiable("its prediction has no graph")

    def pull_back(grad: Tensor) -> Tensor:
        with _refusals(), autograd_on():
            return torch.autograd.grad(denoised, leaf, grad.to(denoised).clone(), retain_graph=True)[0].float()

    return denoised.detach(), pull_back


@contextmanager
def _refusals() -> Iterator[None]:
    """A sentence for what has no derivative; every other error of a model is left as it is, for the host to show."""
    try:
        yield
    except mm.OOM_EXCEPTION:
        logging.warning("Diffusion Guidance: through denoiser ran out of memory; at denoised needs far less")
        raise
    except RuntimeError as error:
        if not says_no_derivative(error):
            raise
        raise _undifferentiable((str(error) or type(error).__name__).splitlines()[0][:200]) from error


def _networks_beside(conds: dict[str, list[dict[str, Any]]]) -> list[nn.Module]:
    """What conditionings bring along and the noisy sample passes: ControlNets, GLIGEN."""
    found = {id(patcher.model): patcher.model for patcher in get_additional_models(conds, torch.float32)[0]}
    for cond in [cond for part in conds.values() for cond in part]:
        control = cond.get("control")
        while control is not None:  # a ControlLora has no patcher
            network = getattr(control, "control_model", None)
            found[id(network)] = network
            control = control.previous_controlnet
    return [network for network in found.values() if isinstance(network, nn.Module)]


def _undifferentiable(reason: str) -> ValueError:
    return ValueError(
        f"through denoiser: this model, as it is loaded or patched, can't be differentiated ({reason}); "
        "use gradient = at denoised, which works with every model"
    )


def _refuse_unfit(options: dict[str, Any]) -> None:
    """Models that would give a wrong gradient rather than none."""
    wrappers = options.get("transformer_options", {}).get("wrappers", {})
    for by_key in wrappers.values():
        for key in by_key:
            lowered = str(key).lower()
            if "easycache" in lowered or "lazycache" in lowered:
                raise ValueError(
                    f"through denoiser: {key} reuses outputs of earlier steps, whose gradient is wrong; remove it, or "
                    "use gradient = at denoised"
                )
            if "compile" in lowered:
                raise ValueError(
                    "through denoiser: a compiled model can't be differentiated here; remove the compile node, or use "
                    "gradient = at denoised"
                )


def _apply(guider: Any, run: Run, job: Job, step: Step) -> None:
    """Evaluates the guides of an application and keeps what they ask for, in units of |x - denoised|."""
    if not job.fresh:
        return
    mm.throw_exception_if_processing_interrupted()
    with autograd_on():
        terms = [_term(guider, run, job, place, step) for place in range(len(job.weights))]
        steered = steer(step, terms, job.application.cap, job.application.inner_steps)
    sight = run.sights.get(job.key)
    if sight is not None:
        sight.seen = None
    for reading in steered.readings:
        if reading.dropped.any() and reading.name not in run.warned:
            run.warned.add(reading.name)
            logging.warning("Diffusion Guidance: the gradient of %s was NaN or infinite and was left out", reading.name)
    distance = append_dims(step.distance.clamp(min=1e-12), step.x.ndim)
    job.held.steered = Steered(
        None if steered.exact is None else steered.exact / distance,
        None if steered.other is None else steered.other / distance,
        steered.readings,
        steered.capped,
    )
    job.held.step, job.held.guides = job.index, _active(job.weights)
    job.application.report.add(float(step.sigma[0]), run.progress_of(float(step.sigma[0])), steered)


def _moved(work: list[Job], step: Step, handover: Handover | None) -> Tensor:
    """The denoised sample with all directions added; exact ones go to a sampler that asked for them."""
    distance = append_dims(step.distance, step.x.ndim)
    denoised = step.denoised
    for job in work:
        assert job.held.steered is not None
        exact, other = job.held.steered.exact, job.held.steered.other
        if other is not None:
            denoised = denoised + distance * other
        if exact is None:
            continue
        if handover is None:
            denoised = denoised + distance * exact
        else:
            handover.give(distance * exact / append_dims(step.shift, step.x.ndim))
    return denoised


def _term(guider: Any, run: Run, job: Job, place: int, step: Step) -> Term:
    """A guide of an application as the core wants it."""
    application, (guide, weight) = job.application, job.weights[place]
    estimator = application.estimator(guide, is_pixel_model(guider.model_patcher))
    relative = application.relative(estimator)
    if guide.check_batch is not None:
        guide.check_batch(len(step.x))
    sight = run.sights.setdefault(job.key, Sight(guider.model_patcher, application.vae))
    if estimator == EXACT:
        energy = noisy_energy(run, guide, place, step, getattr(guider.inner_model.model_sampling, "noise_scale", 1.0))
    elif guide.size == COLOURS_ONLY:
        energy = colour_energy(guide, sight)
    else:
        largest = max(guide.size for guide in application.guides)
        energy = clean_energy(guide, sight, run.crops(application.views, job.index), largest * VIEW_DETAIL)
    return Term(
        name=guide.name,
        energy=energy,
        scale=weight * (LAMBDA if relative else guide.scale),
        relative=relative,
        estimator=estimator,
        mask=area(guide.mask, run.denoise_mask, step.x),
    )
