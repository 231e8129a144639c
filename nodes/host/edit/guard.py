"""Edit Guard at work: the predicted picture is held at the source outside a mask, given or found."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....guidance.edit_guard import held, where_edited
from ....guidance.weight import Weight
from ..cfg.run import stands_still
from ..pictures import VIDEO, area
from ..run import Course, Feature, attach, attached, state_in

KEY = "diffusion_guidance_edit_guard"
NODE = "Edit Guard"


@dataclass(frozen=True, eq=False)
class Guard:
    """What is held of a source, [n C ... h w] in its outside form, and where it is free; `mask` None: to be found."""

    source: Tensor
    mask: Tensor | None
    weight: Weight
    hold: str
    threshold: float
    soften: float

    def fitted(self, course: Course, like: Tensor) -> Tensor:
        """The source in the model's space, [n C ... h w]. Raises ValueError for another size or batch."""
        source = self.source
        if like.ndim < VIDEO - 1:
            raise ValueError(
                f"{NODE} holds pictures and videos, and latents of shape {[*like.shape]} are sampled; leave it out"
            )
        if source.ndim == like.ndim - 1 == VIDEO - 1:  # of a picture, in a model of videos
            source = source.unsqueeze(2)
        if source.shape[1:] != like.shape[1:] or len(source) not in (1, len(like)):
            raise ValueError(
                f"{NODE}: the source is a LATENT of shape {[*source.shape]}, and one of {[*like.shape]} is sampled; "
                "give both one size, and one source or one for each picture"
            )
        return course.model.model.process_latent_in(source).to(like)

    def free(self, like: Tensor) -> Tensor | None:
        """The given mask as the sample sees it. Raises ValueError for another number of masks."""
        if self.mask is not None and self.mask[..., 0, 0].numel() not in (1, len(like)):
            count = self.mask[..., 0, 0].numel()
            raise ValueError(f"{NODE}: {count} masks came for a batch of {len(like)}; give one, or {len(like)}")
        return area(self.mask, None, like)


@dataclass(eq=False)
class GuardedRun:
    """State of one run: each guard's source in the model's space, and where it is free."""

    course: Course
    guards: Sequence[Guard]
    known: dict[Guard, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def guarded(self, denoised: Tensor, timestep: Tensor) -> Tensor:
        """Every guard in turn. A mask that is to be found is found at the first look in its window."""
        for guard in self.guards:
            strength = guard.weight(self.course.progress_at(timestep))
            if not strength:
                continue
            if guard not in self.known:
                source, free = guard.fitted(self.course, denoised), guard.free(denoised)
                if free is None:
                    free = where_edited(denoised, source, guard.threshold, guard.soften).to(denoised)
                self.known[guard] = source, free
            denoised = held(denoised, *self.known[guard], strength, guard.hold)
        return denoised


def guarded(model: Any, guard: Guard) -> Any:
    """A clone of the MODEL with one guard more; around everything else, so that what guides add is held too."""
    first = not attached(model, FEATURE)
    model = attach(model, FEATURE, guard)
    if first:
        others = model.wrappers[WrappersMP.PREDICT_NOISE]
        model.wrappers[WrappersMP.PREDICT_NOISE] = {KEY: others.pop(KEY), **others}
    return model


def _begin(course: Course, parts: Sequence[Guard]) -> GuardedRun | None:
    """A run from a picture to its noise edits nothing. Raises ValueError for several latents in one."""
    if course.rising:
        return None
    if len(course.latent_shapes) > 1:
        raise ValueError(
            f"{NODE} holds one latent; this model samples several packed into one (video and audio); leave it out"
        )
    if course.continues and any(guard.mask is None for guard in parts):
        logging.warning(
            "Edit Guard: the mask is found by this run's first look alone, and the run goes on where another ended; in "
            "a chain of samplers connect a mask"
        )
    return GuardedRun(course, parts)


def _around_prediction(
    executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """PREDICT_NOISE: what every sampler makes its step of, whatever the model predicts."""
    guider = executor.class_obj
    denoised = executor(x, timestep, {} if model_options is None else model_options, *args, **kwargs)
    run: GuardedRun | None = state_in(guider.model_options, KEY)
    if run is None or stands_still(guider.model_options, timestep):
        return denoised
    return run.guarded(denoised, timestep)


FEATURE = Feature(KEY, _begin, {WrappersMP.PREDICT_NOISE: _around_prediction}, nodes=NODE)
