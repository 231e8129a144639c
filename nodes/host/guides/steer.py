"""Guides at work: one wrapper around a MODEL's predictions, and what lives for one sampling run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management as mm
import torch
from torch import Tensor

from ....guidance.combine import EXACT, Steered, steer
from ....guidance.gradient import Term
from ....guidance.noise import level_bits, own_noise
from ....guidance.recurrence import again, as_if_from
from ....guidance.samplers import first_order
from ....guidance.step import Step
from ....guidance.tensors import append_dims
from ....guidance.views import crops
from ..gradients import autograd_on
from ..model import is_pixel_model
from ..pictures import Decoder, area
from ..run import HANDOVER, SAME, Course, Handover
from ..sampling import INDICES, Steps
from .application import THROUGH, VIEW_DETAIL, Application
from .energies import clean_energy, colour_energy, noisy_energy
from .guide import COLOURS_ONLY, LAMBDA, Guide

LATENT_STD, PIXEL_STD = 1.0, 0.5  # of clean data
CROP_SETS = 4  # of the random crops; a reference's features are kept for each
AGAIN_NOISE = 3  # of recurrence: keeps it apart from other noise of the same seed


@dataclass
class LastDirection:
    """The last direction of one application over |x - denoised|, for the steps between two evaluations."""

    step: int = -1
    guides: tuple[int, ...] = ()  # which were active
    steered: Steered | None = None


@dataclass(eq=False)
class GuidedRun:
    """State of one guided run. Nothing of it outlives the run but the numbers of the reports."""

    course: Course
    applications: Sequence[Application]
    decoders: dict[int, Decoder] = field(default_factory=dict)
    last: dict[int, LastDirection] = field(default_factory=dict)
    warned: set[str] = field(default_factory=set)

    def crops(self, views: int, sigma: float) -> Tensor:
        """The same few sets for all runs, so that what references show through them is measured once.

        Which one belongs to the noise level: a run that is cut in two looks as the whole one does.
        """
        place = int(torch.randint(CROP_SETS, (1,), generator=torch.Generator().manual_seed(level_bits(sigma))))
        return crops(views, torch.Generator().manual_seed(place))

    def numbers(self, x: Tensor) -> Sequence[int]:
        """The number of each picture: image i of a batch has the noise of `seed + i`."""
        known = getattr(self.course.sampler, "extra_options", {}).get(INDICES)
        return known if known is not None and len(known) == len(x) else range(len(x))


@dataclass(frozen=True, eq=False)
class Job:
    """One application at one step: its active guides with their weights, or the direction that is kept."""

    application: Application
    index: int  # of the step
    weights: list[tuple[Guide, float]]
    last: LastDirection
    fresh: bool


def jobs_of(run: GuidedRun, x: Tensor, sigma: float) -> list[Job]:
    """What is to be done at this step; nothing outside every window, at strength 0, and at sigma 0."""
    found = [_job(run, application, x, sigma) for application in run.applications]
    return [job for job in found if job is not None]


def _job(run: GuidedRun, application: Application, x: Tensor, sigma: float) -> Job | None:
    progress = run.course.progress_of(sigma)
    weights = [(guide, application.strength * guide.weight(progress)) for guide in application.guides]
    weights = [(guide, weight) for guide, weight in weights if weight]
    if not weights or sigma <= 0:
        return None
    last, index = run.last.setdefault(id(application), LastDirection()), run.course.index(sigma)
    same = last.steered is not None and last.steered.shape == x.shape and last.guides == _active(weights)
    waiting = application.every > 1 and 0 <= index - last.step < application.every
    return Job(application, index, weights, last, not (same and waiting))


def _active(weights: list[tuple[Guide, float]]) -> tuple[int, ...]:
    return tuple(id(guide) for guide, _ in weights)


def guided_prediction(
    run: GuidedRun, work: list[Job], predict: Any, x: Tensor, timestep: Tensor, options: dict[str, Any]
) -> Tensor:
    """The prediction with every application's direction, repeated where recurrence was asked for."""
    sigma = timestep.flatten().expand(len(x)).float()
    level = float(sigma[0])
    following = run.course.following(level)
    repeats = max(job.application.recurrence for job in work) if following > 0 else 1
    start = x
    denoised = x
    handover: Handover | None = options.get("transformer_options", {}).get(HANDOVER)
    for repeat in range(repeats):
        if handover is not None:
            handover.take()  # of the repetition before
        needs_graph = any(job.application.gradient == THROUGH and job.fresh for job in work)
        denoised, pull_back = predict(x, needs_graph)
        step = _step(run.course, x, sigma, denoised, pull_back)
        for job in work:
            _look(run, job, step)
        denoised = _moved(work, step, handover)
        if repeat + 1 < repeats:
            noise = own_noise(x.shape, run.course.seed, run.numbers(x), AGAIN_NOISE, level_bits(level), repeat)
            x = again(x, denoised, level, following, noise.to(x), step.flow)
        elif x is not start:
            denoised = as_if_from(start, x, denoised, level, following)
    return denoised


def _step(course: Course, x: Tensor, sigma: Tensor, denoised: Tensor, pull_back: Any) -> Step:
    with torch.inference_mode(False):
        return Step(
            x=x.detach().float().clone(),
            sigma=sigma.clone(),
            denoised=denoised.detach().float().clone(),
            flow=course.flow,
            data_std=PIXEL_STD if is_pixel_model(course.model) else LATENT_STD,
            pull_back=pull_back,
            now=_now(course, float(sigma[0])),
        )


def _now(course: Course, sigma: float) -> float:
    """How far the sampler's step moves x for a shift of the prediction by 1; as the ODE does where it isn't known."""
    steps = Steps(course)
    levels = steps.levels
    index = min(max(sum(level >= sigma * (1 - SAME) for level in levels) - 1, 0), len(levels) - 2)
    if index < 0 or levels[index + 1] >= levels[index]:
        return 1.0
    if steps.known:
        return steps.move(index).now
    return first_order(levels[index], levels[index + 1], 0.0, course.flow).now


def _look(run: GuidedRun, job: Job, step: Step) -> None:
    """Evaluates the guides of an application and keeps what they ask for, in units of |x - denoised|."""
    if not job.fresh:
        return
    mm.throw_exception_if_processing_interrupted()
    with autograd_on():
        terms = [_term(run, job, place, step) for place in range(len(job.weights))]
        steered = steer(step, terms, job.application.cap, job.application.inner_steps)
    decoder = run.decoders.get(id(job.application))
    if decoder is not None:
        decoder.seen = None
    for reading in steered.readings:
        if reading.dropped.any() and reading.name not in run.warned:
            run.warned.add(reading.name)
            logging.warning("Diffusion Guidance: the gradient of %s was NaN or infinite and was left out", reading.name)
    distance = append_dims(step.distance.clamp(min=1e-12), step.x.ndim)
    job.last.steered = Steered(
        None if steered.exact is None else steered.exact / distance,
        None if steered.other is None else steered.other / distance,
        steered.readings,
        steered.capped,
    )
    job.last.step, job.last.guides = job.index, _active(job.weights)
    job.application.report.add(float(step.sigma[0]), run.course.progress_of(float(step.sigma[0])), steered)


def _moved(work: list[Job], step: Step, handover: Handover | None) -> Tensor:
    """The denoised sample with all directions added; exact ones go to a sampler that asked for them."""
    distance = append_dims(step.distance, step.x.ndim)
    denoised = step.denoised
    for job in work:
        assert job.last.steered is not None
        exact, other = job.last.steered.exact, job.last.steered.other
        if other is not None:
            denoised = denoised + distance * other
        if exact is None:
            continue
        if handover is None:
            denoised = denoised + distance * exact
        else:
            handover.give(distance * exact / append_dims(step.shift, step.x.ndim))
    return denoised


def _term(run: GuidedRun, job: Job, place: int, step: Step) -> Term:
    """A guide of an application as the core wants it."""
    application, (guide, weight) = job.application, job.weights[place]
    estimator = application.estimator(guide, is_pixel_model(run.course.model))
    relative = application.relative(estimator)
    if guide.check_batch is not None:
        guide.check_batch(len(step.x))
    decoder = run.decoders.setdefault(id(job.application), Decoder(run.course.model, application.vae))
    if estimator == EXACT:
        energy = noisy_energy(run.course, guide, place, run.numbers(step.x), step)
    elif guide.size == COLOURS_ONLY:
        energy = colour_energy(guide, decoder)
    else:
        largest = max(guide.size for guide in application.guides)
        energy = clean_energy(guide, decoder, run.crops(application.views, float(step.sigma[0])), largest * VIEW_DETAIL)
    return Term(
        name=guide.name,
        energy=energy,
        scale=weight * (LAMBDA if relative else guide.scale),
        relative=relative,
        estimator=estimator,
        mask=area(guide.mask, run.course.denoise_mask, step.x),
        least=guide.least,
    )
