"""Guides in a MODEL's runs: how they get there, the host's hooks that they use, and what lives for one run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..cfg.run import stands_still
from ..run import Course, Feature, attach, attached, state_in
from .application import THROUGH, Application, activations
from .steer import GuidedRun, guided_prediction, jobs_of
from .through import kept, with_graph

KEY = "diffusion_guidance"
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
    if len(course.latent_shapes) > 1:
        raise ValueError("guides work on one latent; this model samples several packed into one (video and audio)")
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
    work = jobs_of(run, x, level)
    if not work:
        return executor(x, timestep, options, *args, **kwargs)

    def predict(x: Tensor, needs_graph: bool) -> tuple[Tensor, Callable[[Tensor], Tensor] | None]:
        if not needs_graph:
            return executor(x, timestep, options, *args, **kwargs), None
        return with_graph(guider, lambda y, o: executor(y, timestep.clone(), o, *args, **kwargs), x, options)

    return guided_prediction(run, work, predict, x, timestep, level, options)


FEATURE = Feature(
    KEY,
    _begin,
    {WrappersMP.PREPARE_SAMPLING: _around_loading, WrappersMP.PREDICT_NOISE: _around_prediction},
    nodes="Apply Guides",
    end=_end,
)
