"""Guides at work: one wrapper around a MODEL's predictions, and what lives for one sampling run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import comfy.model_management as mm
import torch
from torch import Tensor

from ....guidance.combine import EXACT, Steered, steer
from ....guidance.gradient import Reading, Term, View
from ....guidance.noise import level_bits, own_noise
from ....guidance.recurrence import again, as_if_from
from ....guidance.samplers import first_order
from ....guidance.step import Energy, Step
from ....guidance.tensors import append_dims
from ....guidance.views import crops, turn
from ..errors import during
from ..gradients import autograd_on
from ..model import is_pixel_model
from ..pictures import VIDEO, Decoder, area
from ..run import HANDOVER, SAME, Course, Handover
from ..sampling import INDICES, Steps
from .application import THROUGH, VIEW_DETAIL, Application
from .energies import Near, Sight, clean_energy, colour_energy, noisy_energy
from .guide import COLOURS_ONLY, LAMBDA, Guide
from .report import CONTROL

LATENT_STD, PIXEL_STD = 1.0, 0.5  # of clean data
NEAR_BYTES = 2**28  # of what a run keeps on the sample's device
CROP_SETS = 4  # of the random crops; a reference's features are kept for each
AGAIN_NOISE = 3  # of recurrence: keeps it apart from other noise of the same seed


@lru_cache(1024)
def _crop_set(bits: int) -> int:
    return int(torch.randint(CROP_SETS, (1,), generator=torch.Generator().manual_seed(bits)))


@lru_cache(64)
def _crops(views: int, place: int) -> Tensor:
    with torch.inference_mode(False):
        return crops(views, torch.Generator().manual_seed(place))


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
    decoders: dict[int, Decoder] = field(default_factory=dict)  # by the id of an application's VAE
    views: dict[Any, View] = field(default_factory=dict)  # pixels of samples, by decoder, size and frames
    near: dict[torch.device, Near] = field(default_factory=dict)
    last: dict[int, LastDirection] = field(default_factory=dict)

    def sight(self, job: Job, device: torch.device, sigma: float) -> Sight:
        """What the active guides of an application see at a noise level.

        Crops are of the same few sets for all runs, so that what references show through them is measured once. Which
        one belongs to the noise level: a run that is cut in two looks as the whole one does.
        """
        near = self.near.setdefault(device, Near(limit=NEAR_BYTES, device=device))
        boxes = _crops(job.application.views, _crop_set(level_bits(sigma)))
        return Sight([guide for guide, _ in job.weights], boxes, near)

    def decoder(self, application: Application) -> Decoder:
        return self.decoders.setdefault(id(application.vae), Decoder(self.course.model, application.vae))

    def view(self, job: Job, x: Tensor, least: int = 0) -> View:
        """The pixels of samples that an application's guides look at; one decoder and size decodes them once.

        Of a video x, only the frames whose turn it is at this look of the run. `least` is what a control looks at.
        """
        application = job.application
        smallest = max(least, *(guide.size for guide in application.guides)) * VIEW_DETAIL
        decoder = self.decoder(application)
        look = job.index // application.every
        frames = turn(x.shape[2], application.frames, look) if x.ndim == VIDEO else None
        key = (id(application.vae), smallest, frames)
        return self.views.setdefault(key, View(lambda z: decoder.pixels(z, smallest, frames)))

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
    weights = [(guide, weight) for guide, weight in weights if weight and not (guide.across and len(x) == 1)]
    if not weights or sigma <= 0:
        return None
    last, index = run.last.setdefault(id(application), LastDirection()), run.course.index(sigma)
    same = last.steered is not None and last.steered.shape == x.shape and last.guides == _active(weights)
    waiting = application.every > 1 and 0 <= index - last.step < application.every
    return Job(application, index, weights, last, not (same and waiting))


def _active(weights: list[tuple[Guide, float]]) -> tuple[int, ...]:
    return tuple(id(guide) for guide, _ in weights)


def guided_prediction(
    run: GuidedRun,
    work: list[Job],
    predict: Any,
    x: Tensor,
    timestep: Tensor,
    level: float,
    options: dict[str, Any],
) -> Tensor:
    """The prediction with every application's direction, repeated where recurrence was asked for.

    `level` is the sigma of `timestep`.
    """
    sigma = timestep.flatten().expand(len(x)).float()
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
        step = _step(run.course, x, sigma, level, denoised, pull_back)
        try:
            for job in work:
                _look(run, job, step, level)
        finally:
            for view in run.views.values():
                view.forget()
        denoised = _moved(work, step, handover)
        if repeat + 1 < repeats:
            noise = own_noise(x.shape, run.course.seed, run.numbers(x), AGAIN_NOISE, level_bits(level), repeat)
            x = again(x, denoised, level, following, noise.to(x), step.flow)
        elif x is not start:
            denoised = as_if_from(start, x, denoised, level, following)
    return denoised


def _step(course: Course, x: Tensor, sigma: Tensor, level: float, denoised: Tensor, pull_back: Any) -> Step:
    with torch.inference_mode(False):
        return Step(
            x=x.detach().float().clone(),
            sigma=sigma.clone(),
            denoised=denoised.detach().float().clone(),
            flow=course.flow,
            data_std=PIXEL_STD if is_pixel_model(course.model) else LATENT_STD,
            pull_back=pull_back,
            now=_now(course, level),
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


def _look(run: GuidedRun, job: Job, step: Step, level: float) -> None:
    """Evaluates the guides of an application and keeps what they ask for, in units of |x - denoised|."""
    if not job.fresh:
        return
    with autograd_on():
        sight = run.sight(job, step.x.device, level)
        terms = [_term(run, job, place, step, level, sight) for place in range(len(job.weights))]
        steered = steer(step, terms, job.application.cap, job.application.inner_steps)
        watched = [_watched(run, job, guide, step, sight) for guide in job.application.control]
    distance = append_dims(step.distance.clamp(min=1e-12), step.x.ndim)
    job.last.steered = Steered(
        None if steered.exact is None else steered.exact / distance,
        None if steered.other is None else steered.other / distance,
        steered.readings,
        steered.capped,
    )
    job.last.step, job.last.guides = job.index, _active(job.weights)
    seen = replace(steered, readings=[*steered.readings, *watched])
    job.application.report.add(level, run.course.progress_of(level), seen)


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


def _term(run: GuidedRun, job: Job, place: int, step: Step, level: float, sight: Sight) -> Term:
    """A guide of an application as the core wants it."""
    application, (guide, weight) = job.application, job.weights[place]
    estimator = application.estimator(guide, is_pixel_model(run.course.model))
    relative = application.relative(estimator)
    if guide.check_batch is not None:
        with during(f"the guide '{guide.name}'"):
            guide.check_batch(len(step.x))
    view = None
    if estimator == EXACT:
        energy = noisy_energy(run.course, guide, place, run.numbers(step.x), step, level, sight)
    elif guide.size == COLOURS_ONLY:
        energy = colour_energy(guide, run.decoder(application), sight)
    else:
        energy, view = clean_energy(guide, sight), run.view(job, step.x)
    return Term(
        name=guide.name,
        energy=_naming(guide, energy),
        scale=weight * (LAMBDA if relative else guide.scale),
        relative=relative,
        estimator=estimator,
        mask=area(guide.mask, run.course.denoise_mask, step.x),
        least=guide.least,
        view=view,
    )


def _watched(run: GuidedRun, job: Job, guide: Guide, step: Step, sight: Sight) -> Reading:
    """What a control sees of the predicted picture. It has no gradient and pushes nothing."""
    if guide.size == COLOURS_ONLY:
        energy, seen = colour_energy(guide, run.decoder(job.application), sight), step.denoised
    else:
        energy, seen = clean_energy(guide, sight), run.view(job, step.x, guide.size).seen(step.denoised)
    with torch.no_grad():
        loss = _naming(guide, energy)(seen, torch.zeros_like(step.sigma))
    nothing = torch.zeros_like(loss)
    return Reading(CONTROL + guide.name, loss, nothing, nothing, nothing.bool(), nothing.bool())


def _naming(guide: Guide, energy: Energy) -> Energy:
    """The energy, whose exceptions name the guide, and which is not looked at any more once the run is cancelled."""

    def named(x: Tensor, sigma: Tensor) -> Tensor:
        mm.throw_exception_if_processing_interrupted()
        with during(f"the guide '{guide.name}'"):
            return energy(x, sigma)

    return named
