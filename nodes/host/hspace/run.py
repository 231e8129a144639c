"""Edits of the bottleneck at work: one wrapper around the network of a MODEL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..pixel_model import VARIANCE
from ..run import Course, Feature, attach, attached, state_in
from .edit import BOTH, COND, Edits, Place, bottleneck_of
from .halves import Options, halves_of

KEY = "diffusion_guidance_hspace"
ROWS = "guidance_rows"  # of transformer_options: names of the conditionings that a batch is made of
NEGATIVES = ("negative", "empty_negative_prompt")  # the host's names for conditionings that count as uncond


def applied(model: Any, edits: Edits, alone: bool = False) -> Any:
    """A clone of the MODEL with edits more, or with these alone. Raises ValueError for models without a bottleneck."""
    bottleneck_of(model)
    return attach(model, FEATURE, edits, alone=alone)


def applications(model: Any) -> Sequence[Edits]:
    return attached(model, FEATURE)


@dataclass(frozen=True, eq=False)
class EditedRun:
    """What the network's wrapper must know of a run."""

    course: Course
    jobs: Sequence[Edits]

    def place(self, options: Options) -> Place:
        sigma = float(options["sigmas"].flatten()[0])
        course = self.course
        chunks = len(options.get("cond_or_uncond", [0]))
        steps = max(1, len(course.sigmas) - 1)
        return Place(sigma, course.following(sigma), course.progress_of(sigma), steps, chunks)


def _begin(course: Course, parts: Sequence[Edits]) -> EditedRun:
    return EditedRun(course, parts)


def _around_predictions(
    executor: Any, model: Any, conds: list[Any], x: Tensor, timestep: Tensor, model_options: dict[str, Any], *more: Any
) -> Any:
    """CALC_COND_BATCH: tells the network's wrapper by name which conditionings its rows belong to."""
    run: EditedRun | None = state_in(model_options, KEY)
    if run is None:
        return executor(model, conds, x, timestep, model_options, *more)
    known = run.course.guider.conds
    names = [next((name for name, value in known.items() if value is cond), None) for cond in conds]
    transformer = {**model_options["transformer_options"], ROWS: names}
    return executor(model, conds, x, timestep, {**model_options, "transformer_options": transformer}, *more)


def _around_network(executor: Any, x: Tensor, timesteps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """DIFFUSION_MODEL: the network's output, and inside the window that of the decoder half on the edited h."""
    options = _options_in(args, kwargs)
    run: EditedRun | None = options.get(KEY)
    if run is None:
        return executor(x, timesteps, *args, **kwargs)
    place = run.place(options)
    work = [job for job in run.jobs if job.weight(place.progress)]
    if not work or place.sigma <= 0:
        return executor(x, timesteps, *args, **kwargs)
    evaluate = _evaluation(executor, x, timesteps, args, kwargs)
    halves = halves_of(executor.class_obj, evaluate, options, kwargs)
    if isinstance(halves, Tensor):
        return halves
    h = halves.h
    for job in (job for job in work if not job.asymmetric):
        h = _chosen(h, job.edited(h, halves.emb, place), job, options)
    result = halves.plain if h is halves.h else halves.decode(h)

    def again(at: Tensor) -> Tensor:
        return evaluate({**options, VARIANCE: None}, at)

    for job in (job for job in work if job.asymmetric):
        edited = halves.decode(job.edited(halves.h, halves.emb, place))
        moved = job.output(run.course.sampling, place, x, halves.plain, edited, again)
        result = result + _chosen(torch.zeros_like(moved), moved - halves.plain, job, options)
    return result


def _options_in(args: Sequence[Any], kwargs: dict[str, Any]) -> Options:
    """The transformer_options of a call, by name or by place."""
    if "transformer_options" in kwargs:
        return kwargs["transformer_options"]
    return next(part for part in args if _is_options(part))


def _is_options(part: Any) -> bool:
    return isinstance(part, dict) and "cond_or_uncond" in part


def _evaluation(
    executor: Any, x: Tensor, timesteps: Tensor, args: Sequence[Any], kwargs: dict[str, Any]
) -> Callable[..., Tensor]:
    """The network again, with other options and at another sample; (transformer_options, x) -> output."""
    options = _options_in(args, kwargs)
    dicts = (part for part in (kwargs.get("control"), *args) if isinstance(part, dict) and part is not options)
    control = next(dicts, {})
    residuals = {key: list(value) for key, value in control.items()}

    def evaluate(changed: Options, at: Tensor = x) -> Tensor:
        control.update({key: list(value) for key, value in residuals.items()})  # the host takes them off these lists
        named = {**kwargs, "transformer_options": changed} if "transformer_options" in kwargs else kwargs
        return executor(at, timesteps, *(changed if part is options else part for part in args), **named)

    return evaluate


def _chosen(plain: Tensor, edited: Tensor, job: Edits, options: Options) -> Tensor:
    """The edited rows of the side that was asked for."""
    wanted = _wanted(job.side, options)
    if all(wanted):
        return edited
    parts = zip(plain.chunk(len(wanted)), edited.chunk(len(wanted)), wanted, strict=True)
    return torch.cat([new if take else old for old, new, take in parts])


def _wanted(side: str, options: Options) -> list[bool]:
    """Whether each part of a batch is on the side that was asked for. The guider says what a part is.

    Raises ValueError where a side was asked for and the guider doesn't name what it predicts.
    """
    rows = options.get("cond_or_uncond", [0])
    if side == BOTH:
        return [True] * len(rows)
    names = options.get(ROWS) or []
    found = [names[row] if row < len(names) else None for row in rows]
    if None in found:
        raise ValueError(
            f"HSpace Edit: apply_to is {side!r}, and this guider doesn't tell which of its predictions are that; "
            f"choose {BOTH!r}, or sample with KSampler or CFGGuider"
        )
    return [(name not in NEGATIVES) == (side == COND) for name in found]


FEATURE = Feature(
    KEY,
    _begin,
    {WrappersMP.CALC_COND_BATCH: _around_predictions, WrappersMP.DIFFUSION_MODEL: _around_network},
)
