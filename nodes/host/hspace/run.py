"""Edits of h at work: one wrapper around the network of a MODEL."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor
from torch.utils._pytree import tree_map

from ..pixel_model import VARIANCE
from ..run import Course, Feature, attach, attached, state_in
from .edit import BOTH, COND, Edits, Place, Prediction, network_of, one_block
from .edited_run import KEY, EditedRun, Reading, clean_reading
from .halves import Halves, Options
from .rows import ROWS, asked, is_uncond
from .steps import EditedSteps

EASYCACHE = "easycache"  # the host's name for the wrapper of that node


def applied(model: Any, edits: Edits, patchers: Sequence[Any] = (), alone: bool = False) -> Any:
    """A clone of the MODEL with edits more, or with these alone.

    `patchers`: networks that the run needs. Raises ValueError for models that have no h, and for edits of two blocks.
    """
    network_of(model)
    one_block(part.block for part in (edits, *(() if alone else applications(model))))
    return attach(model, FEATURE, edits, patchers, alone=alone)


def applications(model: Any) -> Sequence[Edits]:
    return attached(model, FEATURE)


def _begin(course: Course, parts: Sequence[Edits]) -> EditedRun | None:
    """Raises ValueError for samplers that asymmetric edits can't be made for."""
    jobs = [part for part in parts if part.rising or not course.rising]
    if not jobs:
        return None
    steps = EditedSteps(course) if any(job.asymmetric for job in jobs) else None
    return EditedRun(course, jobs, steps, jobs[0].block)


def _around_predictions(
    executor: Any, model: Any, conds: list[Any], x: Tensor, timestep: Tensor, model_options: dict[str, Any], *more: Any
) -> Any:
    """CALC_COND_BATCH: tells the network's wrapper what its rows belong to."""
    run: EditedRun | None = state_in(model_options, KEY)
    if run is None:
        return executor(model, conds, x, timestep, model_options, *more)
    transformer = {**model_options["transformer_options"], ROWS: asked(run.course.guider.conds, conds, x)}
    return executor(model, conds, x, timestep, {**model_options, "transformer_options": transformer}, *more)


@torch.compiler.disable
def _around_network(executor: Any, x: Tensor, timesteps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """DIFFUSION_MODEL: the network's output, and inside the window what the edits make of it; never compiled."""
    run: EditedRun | None = _options_in(args, kwargs).get(KEY)
    if run is None:
        return executor(x, timesteps, *args, **kwargs)
    if executor.class_obj not in run.networks.values():
        return executor(x, timesteps, *args, **kwargs)
    run.inside = True
    return _edited(run, executor, executor.class_obj, run.reading, x, timesteps, *args, **kwargs)


def _around_model(executor: Any, x: Tensor, sigma: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """APPLY_MODEL: the same for transformers that call no wrappers of their own; the output is the prediction of x0."""
    run: EditedRun | None = _options_in(args, kwargs).get(KEY)
    if run is None or run.block is None or run.inside or executor.class_obj not in run.networks:
        return executor(x, sigma, *args, **kwargs)
    if run.inside is None:
        run.inside = False
        plain = executor(x, sigma, *args, **kwargs)
        if run.inside:
            return plain
    network = run.networks[executor.class_obj]
    return _edited(run, executor, network, clean_reading, x, sigma, *args, **kwargs)


def _edited(
    run: EditedRun,
    executor: Any,
    network: Any,
    reading: Callable[[Tensor], Reading],
    x: Tensor,
    timesteps: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """What an executor of the host hands out of a network at x, with the edits; `reading` says how it is read."""
    options = _options_in(args, kwargs)
    if not isinstance(x, Tensor):
        raise ValueError(
            f"HSpace Edit: {type(network).__name__} packs several latents into one sample, and which of its tokens are "
            "the picture's isn't known; use another model, or a guide"
        )
    place = run.place(options, x)
    if run.steps is not None:
        run.steps.look(options["sigmas"])
    work = [job for job in run.jobs if job.weight(place.progress)]
    if not work or place.sigma <= 0 or all(name in run.others for name in place.names):
        return executor(x, timesteps, *args, **kwargs)
    _check_cache(run, options)
    evaluate = _evaluation(executor, x, timesteps, args, kwargs)
    halves = run.halves(network, evaluate, x, options, args, kwargs)
    if isinstance(halves, Tensor):
        return halves
    if halves.frames > 1:
        place = replace(place, views=[view.repeated(halves.frames) for view in place.views])
    result = _symmetric([job for job in work if not job.asymmetric], halves, place)
    rest = [job for job in work if job.asymmetric]
    if not rest:
        return result
    again = partial(_again, evaluate, options)
    level = x.new_full((1,), place.sigma, dtype=torch.float32)
    prediction = _prediction(run, x, halves.plain, reading(level), again)
    return _asymmetric(rest, run, halves, place, result, prediction, options)


def _symmetric(jobs: Sequence[Edits], halves: Halves, place: Place) -> Tensor:
    """The output of h with the edits of a chain, each evaluated at the plain h as in Asyrp's code."""
    h = halves.h
    for job in jobs:
        changed = job.edited(halves.h, halves.emb, place)
        if changed is not halves.h:
            changed = _chosen(halves.h, changed, job.side, place.names)
            h = changed if h is halves.h else h + (changed - halves.h)
    return halves.plain if h is halves.h else halves.decode(h)


def _asymmetric(
    jobs: Sequence[Edits],
    run: EditedRun,
    halves: Halves,
    place: Place,
    result: Tensor,
    prediction: Prediction,
    options: Options,
) -> Tensor:
    """The output by which the sampler moves x0 as far as the edits of a chain want together; in float32."""
    assert run.steps is not None
    h = halves.h.float()
    differences = halves.differences([job.edited(h, halves.emb, place) for job in jobs], partial(run.fits, halves))
    moves = [job.wanted(place, prediction, part) for job, part in zip(jobs, differences, strict=True)]
    moves = [_chosen(None, move, job.side, place.names) for job, move in zip(jobs, moves, strict=True)]
    total = sum(moves[1:], moves[0])
    return result + run.steps.added(total, _parts(options)) / prediction.b


def _parts(options: Options) -> list[Hashable]:
    """A name for each prediction of a batch that is the same at every step."""
    rows = options.get("cond_or_uncond", [0])
    return list(zip(rows, options.get("uuids") or rows, strict=True))


def _prediction(
    run: EditedRun, x: Tensor, plain: Tensor, reading: Reading, again: Callable[[Tensor], Tensor]
) -> Prediction:
    assert run.steps is not None
    return Prediction(x, plain, *reading, run.course.flow, run.steps.move(), again)


def _again(evaluate: Callable[..., Tensor], options: Options, at: Tensor) -> Tensor:
    """The network at another input. Raises ValueError where a step cache would take it for the next step."""
    if _is_cached_behind(options):
        raise ValueError(
            "HSpace Inject: calibration asks the network a second time in a step, which EasyCache behind it would take "
            "for the next step; put EasyCache in front of HSpace Inject, or set calibration to 0"
        )
    return evaluate({**options, VARIANCE: None}, at)


def _check_cache(run: EditedRun, options: Options) -> None:
    """Raises ValueError where a step cache would take a transformer's second evaluation for the next step."""
    if run.block is not None and run.inside and _is_cached_behind(options):
        raise ValueError(
            "HSpace Edit: an edit asks a transformer a second time in a step, which EasyCache behind it would take for "
            "the next step; put EasyCache in front of HSpace Edit"
        )


def _is_cached_behind(options: Options) -> bool:
    """Whether EasyCache stands between the edits and the network."""
    inner = list(options.get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {}))
    return EASYCACHE in inner and inner.index(EASYCACHE) > inner.index(KEY)


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
    """The network again, with other options and at another sample; (transformer_options, x) -> output.

    At a sample in float32 everything beside it is float32, too.
    """
    options = _options_in(args, kwargs)
    dicts = (part for part in (kwargs.get("control"), *args) if isinstance(part, dict) and part is not options)
    control = next(dicts, {})
    residuals = {key: list(value) for key, value in control.items()}

    def evaluate(changed: Options, at: Tensor = x) -> Tensor:
        control.update({key: list(value) for key, value in residuals.items()})  # the host takes them off these lists
        places, named = [None if part is options else part for part in args], dict(kwargs)
        named.pop("transformer_options", None)
        if at.dtype != x.dtype:
            places, named = tree_map(_wide, (places, named))
        if "transformer_options" in kwargs:
            named["transformer_options"] = changed
        places = [changed if old is options else new for old, new in zip(args, places, strict=True)]
        return executor(at, timesteps, *places, **named)

    return evaluate


def _wide(part: Any) -> Any:
    """Half-precision numbers in float32, everything else as it is."""
    return part.float() if isinstance(part, Tensor) and part.is_floating_point() else part


def _chosen(plain: Tensor | None, edited: Tensor, side: str, names: Sequence[str | None]) -> Tensor:
    """The edited rows of the side that was asked for, the others plain; None: zero.

    The guider's names say what each part of a batch is.

    Raises ValueError where a side was asked for and the guider doesn't name what it predicts.
    """
    if side == BOTH:
        return edited
    if None in names:
        raise ValueError(
            f"HSpace Edit: apply_to is {side!r}, and this guider doesn't tell which of its predictions are that; "
            f"choose {BOTH!r}, or sample with KSampler or CFGGuider"
        )
    wanted = [is_uncond(str(name)) == (side != COND) for name in names]
    plain = torch.zeros_like(edited) if plain is None else plain
    parts = zip(plain.chunk(len(wanted)), edited.chunk(len(wanted)), wanted, strict=True)
    return torch.cat([new if take else old for old, new, take in parts])


FEATURE = Feature(
    KEY,
    _begin,
    {
        WrappersMP.CALC_COND_BATCH: _around_predictions,
        WrappersMP.APPLY_MODEL: _around_model,
        WrappersMP.DIFFUSION_MODEL: _around_network,
    },
    nodes="HSpace Edit, HSpace Inject",
)
