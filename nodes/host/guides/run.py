"""Guides in a MODEL's runs: how they get there, the host's hooks that they use, and what lives for one run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import comfy.model_sampling
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..cfg.run import stands_still
from ..pictures import Packed
from ..run import Course, Feature, attach, attached, state_in
from .application import THROUGH, Application, activations
from .steer import GuidedRun, guided_prediction, jobs_of
from .through import kept, with_graph

KEY = "diffusion_guidance"
FROM_PICTURES = tuple(
    getattr(comfy.model_sampling, name)
    for name in ("IMG_TO_IMG", "IMG_TO_IMG_FLOW")
    if hasattr(comfy.model_sampling, name)
)
ACROSS = (
    "Diversity Guide: the pictures of this batch depend on each other; one of them sampled alone is another picture, "
    "and has nothing to be apart from"
)
RISING = "the last run went from a picture to its noise, where guides do nothing"


def apply(model: Any, application: Application) -> Any:
    """A clone of the MODEL with one application more."""
    return attach(model, FEATURE, application, application.patchers)


def applications(model: Any) -> Sequence[Application]:
    """All applications of guides in a MODEL."""
    return attached(model, FEATURE)


def _begin(course: Course, parts: Sequence[Application]) -> GuidedRun | None:
    """Guides steer what is drawn. A run from a picture to its noise draws nothing."""
    for application in parts:
        application.report.begin(RISING if course.rising else "")
    if course.rising:
        return None
    _refuse_unfit(course, parts)
    if course.continues and any(part.every > 1 for part in parts):
        logging.warning(
            "Apply Guides: every counts the steps of this run alone, and the run goes on where another ended; in a "
            "chain of samplers it begins anew in each"
        )
    if any(guide.across for part in parts for guide in part.guides):
        logging.info(ACROSS)
    for sigma in course.sigmas:
        course.progress_of(sigma)  # known before the run: a step doesn't wait for the host's tables
    if course.denoise_mask is not None:
        course = replace(course, denoise_mask=Packed(course.latent_shapes).first(course.denoise_mask))
    return GuidedRun(course, parts)


def _end(run: GuidedRun) -> None:
    """The numbers of the reports, a warning of what was left out, and room for the references of other runs."""
    names = [name for application in run.applications for name in application.report.finish()]
    for name in dict.fromkeys(names):
        logging.warning("Diffusion Guidance: the gradient of %s was NaN or infinite and was left out", name)
    for references in {guide.references for application in run.applications for guide in application.looking}:
        references.end_run()


def _refuse_unfit(course: Course, parts: Sequence[Application]) -> None:
    """Raises ValueError for what guides would do wrongly."""
    if isinstance(course.sampling, FROM_PICTURES):
        raise ValueError(
            "this model turns one picture into another, without noise that guides could steer; leave Apply Guides out"
        )
    churn = getattr(course.sampler, "extra_options", {}).get("s_churn", 0)
    if any(part.recurrence > 1 for part in parts) and (course.sampler_name != "sample_euler" or churn):
        raise ValueError(
            "recurrence above 1 needs the sampler euler or ddim (others would extrapolate its noise); choose one of "
            "them, or set recurrence to 1"
        )


def _around_loading(executor: Any, model: Any, noise_shape: Any, *args: Any, **kwargs: Any) -> Any:
    """PREPARE_SAMPLING: room for what autograd keeps; the host reckons in batches of its own model."""
    parts = applications(model)
    more = sum(activations(application, model, noise_shape) for application in parts)
    if any(application.gradient == THROUGH for application in parts):
        more += kept(model, noise_shape)
    factor = 1 + more / max(model.model.memory_required([1, *noise_shape[1:]]), 1)
    return executor(model, [int(noise_shape[0] * factor + 0.999), *noise_shape[1:]], *args, **kwargs)


def _around_prediction(
    executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """PREDICT_NOISE: the host's prediction, every other node's patch included, and what the guides add to it."""
    guider = executor.class_obj
    options = {} if model_options is None else model_options
    run: GuidedRun | None = state_in(guider.model_options, KEY)
    if run is None or stands_still(guider.model_options, timestep):
        return executor(x, timestep, options, *args, **kwargs)
    level = run.course.level(timestep)
    packed = Packed(run.course.latent_shapes)
    seen = packed.first(x)
    work = jobs_of(run, seen, level)
    if not work:
        return executor(x, timestep, options, *args, **kwargs)
    last = x

    def execute(part: Tensor, options: dict[str, Any]) -> Tensor:
        nonlocal last
        found = executor(packed.whole(part, x), timestep.clone(), options, *args, **kwargs)
        last = found.detach()
        return packed.first(found)

    def predict(part: Tensor, needs_graph: bool) -> tuple[Tensor, Callable[[Tensor], Tensor] | None]:
        return with_graph(guider, execute, part, options) if needs_graph else (execute(part, options), None)

    handed = options if seen is x else {}  # a sampler that applies exact gradients itself wants them of all it samples
    return packed.whole(guided_prediction(run, work, predict, seen, timestep, level, handed), last)


FEATURE = Feature(
    KEY,
    _begin,
    {WrappersMP.PREPARE_SAMPLING: _around_loading, WrappersMP.PREDICT_NOISE: _around_prediction},
    nodes="Apply Guides",
    end=_end,
)
