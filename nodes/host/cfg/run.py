"""CFG's methods at work under the host's own guiders: what a patched MODEL does in one sampling run."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....guidance.cfg import RESULT, Branch, Memory, Mix, combine, similarity
from ....guidance.samplers import PRESENT, renoised_scale
from ....guidance.tensors import append_dims
from ....guidance.weight import Weight
from ..model import is_pixel_model
from ..run import SAME, Course, Feature, attach, attached, state_in
from ..sampling import Steps
from .coverage import Covers, both, own_conds, towards
from .plan import OWN_SCALE, Plan

KEY = "diffusion_guidance_cfg"
SIDES = {"cond": "positive", "uncond": "negative"}  # the host's names after CFG, and before
COMBINER, PATCH = "CFG Combiner", "CFG Patch"  # for messages


@dataclass(eq=False)
class CFGRun:
    """State of one run: what methods remember, and who may do without the negative."""

    course: Course
    plan: Plan
    steps: Steps | None = None  # of CFG++
    memory: Memory = field(default_factory=dict)
    skipping: Tensor | None = None  # [B] bool
    covers: Covers = field(init=False)

    def __post_init__(self) -> None:
        self.covers = Covers(self.course)

    def scale(self, weight: Weight, timestep: Tensor) -> float:
        """The main condition's scale at this look of the sampler; 1 is off."""
        if self.steps is not None:
            assert self.plan.renoised is not None
            self.steps.look(timestep)
            weight = replace(weight, value=renoised_scale(self.steps.move(), self.plan.renoised))
        return weight.value if weight.always else weight.above(1.0, self.course.progress_at(timestep))

    def stands_still(self, timestep: Tensor) -> bool:
        """Zero-init (CFG-Zero*, alg. 1): the first steps out of pure noise have no velocity.

        The share is of the model's progress, and a step belongs to it by its middle: so the parts of a run that is cut
        hold what the whole run holds. A run that begins with fresh noise on a picture is no such part.
        """
        course = self.course
        if not self.plan.zero_init or course.rising or not (course.from_noise or course.continues):
            return False
        step = min(course.index(course.level(timestep)), len(course.sigmas) - 2)
        here = course.sigmas[max(0, step)]
        middle = (course.progress_of(here) + course.progress_of(course.following(here))) / 2
        return middle < self.plan.zero_init + SAME

    @property
    def all_skip(self) -> bool:
        return self.skipping is not None and bool(self.skipping.all())

    def combine(self, mix: Mix) -> Tensor:
        """By the plan. Samples that do without the negative keep their conditional prediction."""
        denoised = combine(mix, self.plan.methods, self.memory)
        if self.plan.skip_above >= 1:
            return denoised
        skipping = self.skipping if self.skipping is not None and len(self.skipping) == len(mix.x) else None
        if skipping is not None:
            denoised = torch.where(append_dims(skipping, denoised.ndim), mix.main, denoised)
        alike = similarity(mix) > self.plan.skip_above
        self.skipping = alike if skipping is None else skipping | alike
        return denoised

    def finish(self, denoised: Tensor, mix: Mix) -> Tensor:
        """What is done with a prediction that had no negative."""
        return combine(_settled(mix, denoised), [m for m in self.plan.methods if m.STAGE in RESULT], self.memory)


def _settled(mix: Mix, denoised: Tensor) -> Mix:
    return replace(mix, base=denoised, branches=(Branch(denoised, denoised, 1.0),))


def slope_of(sampling: Any, sigma: Tensor) -> Tensor:
    """The slope of a Mix for a model's own output, [B], whatever it predicts: eps, v, x0, a velocity."""
    one = sigma.new_ones(len(sigma), 1, dtype=torch.float32)
    return sampling.calculate_denoised(sigma.float(), torch.zeros_like(one), one).expand(len(sigma), 1)[:, 0]


def begin(course: Course, plan: Plan, node: str) -> CFGRun:
    """A fresh state. Raises ValueError, in the node's name, for plans that don't fit model or sampler."""
    if plan.zero_init and not course.flow:
        raise ValueError(f"{node}: zero_init holds a flow still, and this model is none; set zero_init to 0")
    if plan.zero_init and "cfg_pp" in course.sampler_name:
        raise ValueError(
            f"{node}: at the steps of zero_init nothing is predicted, which cfg_pp samplers need; set zero_init to 0, "
            "or use another sampler"
        )
    if plan.pixels_only and not is_pixel_model(course.model):
        raise ValueError(
            f"{node}: dynamic threshold is for models on pixels, whose samples lie in [-1, 1]; on latents use mimic "
            "threshold"
        )
    if len(course.latent_shapes) > 1 and any(m.STAGE == "bands" and not m.neutral for m in plan.methods):
        raise ValueError(
            f"{node}: frequency (FDG) needs the sides of a picture, and this model samples several latents packed into "
            "one (video and audio); use another method"
        )
    if node == COMBINER or plan.formula:
        _refuse_taken_slot(course.guider.model_options, node)
    if plan.remembering and not course.from_noise:
        logging.warning(
            "%s: %s remembers what it saw in this run alone, and the run begins below the model's largest noise level; "
            "in a chain of samplers it begins anew in each",
            node,
            ", ".join(plan.remembering),
        )
    return CFGRun(course, plan, None if plan.renoised is None else _renoising(course, node))


def _renoising(course: Course, node: str) -> Steps:
    """The run's sampler, for CFG++. Raises ValueError, in the node's name, for those of which it can't be made."""
    steps = Steps(course)
    if "cfg_pp" in steps.name:
        raise ValueError(
            f"{node}: the method CFG++ would be applied twice, for the sampler {steps.name} is CFG++ itself; choose "
            "the sampler euler or ddim, or the method constant"
        )
    if not steps.known:
        raise ValueError(
            f"{node}: how far the sampler {steps.name} carries a prediction isn't known, so the method CFG++ can't be "
            f"made of it; choose one of {', '.join(PRESENT)}, ddim, or another method"
        )
    for index in range(len(steps.levels) - 1):
        try:
            renoised_scale(steps.move(index), 1.0)
        except ValueError as error:
            raise ValueError(f"{node}: {error}") from error
    return steps


def _refuse_taken_slot(options: dict[str, Any], node: str) -> None:
    taken = options.get("sampler_cfg_function")
    if taken is not None:
        raise ValueError(
            f"{node}: the model's one CFG function is already taken by {owner(taken)}, which would be lost; remove "
            f"that node, or choose the same method in {node} and leave it out there"
        )


def owner(function: Any) -> str:
    """The class and the file that another node's function comes from."""
    name = getattr(function, "__qualname__", type(function).__name__).split(".")[0]
    module = re.split(r"[\\/]", getattr(function, "__module__", "unknown"))[-1]
    return f"{name} ({module})"


def plan_of(model: Any) -> Plan:
    """What the CFG Patches of a MODEL ask for, together."""
    return sum(attached(model, FEATURE), Plan())


def patched(model: Any, plan: Plan) -> Any:
    """A clone of the MODEL that follows the plan, and what it followed before. Raises ValueError where both set one."""
    _ = plan_of(model) + plan
    first = not attached(model, FEATURE)
    model = attach(model, FEATURE, plan)
    if first:
        # first of its list: what other nodes add to the result comes behind, and stays
        others = model.model_options.get("sampler_post_cfg_function", [])
        model.model_options["sampler_post_cfg_function"] = [_post_cfg, *others]
    return model


def _begin(course: Course, plans: Sequence[Plan]) -> CFGRun | None:
    if getattr(course.guider, "combines_by_plan", False):
        return None  # the CFG Combiner does it all
    plan = sum(plans, Plan())
    _refuse_other_guiders(course.guider, plan)
    return begin(course, plan, PATCH)


def _refuse_other_guiders(guider: Any, plan: Plan) -> None:
    """Raises ValueError for guiders that put predictions together themselves, and where a negative is missing.

    A method that only needs a negative, and finds none, says so in the log: the picture is right without it.
    """
    kind = type(guider)
    plain = kind.predict_noise is comfy.samplers.CFGGuider.predict_noise or kind.__name__ == "Guider_DualModel"
    honours_cfg = plain or kind.__name__ == "Guider_PerpNeg"
    if not honours_cfg or (plan.formula and not plain):
        raise ValueError(
            f"CFG Patch can't act under {kind.__name__}, which puts predictions together by its own formula; use CFG "
            "Combiner as the guider, or KSampler or CFGGuider"
        )
    scale = plan.scale
    wanted = plan.renoised is not None or (scale is not None and scale.value not in (OWN_SCALE, 1.0))
    if guider.conds.get("negative"):
        return
    if wanted:
        raise ValueError("CFG Patch sets a guidance scale, and this guider has no negative; use CFGGuider or KSampler")
    if plan.formula and not any(method.STAGE in RESULT for method in plan.methods):
        logging.warning("CFG Patch: %s can't act under %s, which has no negative", ", ".join(plan.names), kind.__name__)


def _around_prediction(
    executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """PREDICT_NOISE: the guider's scale for this step; at 1 the host leaves the negative out."""
    guider = executor.class_obj
    options = {} if model_options is None else model_options
    run: CFGRun | None = state_in(guider.model_options, KEY)
    if run is None or getattr(guider, "combines_by_plan", False):
        return executor(x, timestep, options, *args, **kwargs)
    if run.stands_still(timestep):
        return x.clone()
    own = guider.cfg
    guider.cfg = _scale(run, own, timestep)
    try:
        return executor(x, timestep, options, *args, **kwargs)
    finally:
        guider.cfg = own


def _scale(run: CFGRun, own: float, timestep: Tensor) -> float:
    if run.all_skip:
        return 1.0
    weight = run.plan.scale or Weight(OWN_SCALE)
    return run.scale(replace(weight, value=own) if weight.value == OWN_SCALE else weight, timestep)


def stands_still(options: dict[str, Any], timestep: Tensor) -> bool:
    """Whether zero-init holds the run at this look: then guides have nothing to add."""
    run: CFGRun | None = state_in(options, KEY)
    return run is not None and run.stands_still(timestep)


def _post_cfg(args: dict[str, Any]) -> Tensor:
    """The plan's formula in the place of the host's, from the same predictions."""
    run: CFGRun | None = state_in(args["model_options"], KEY)
    if run is None or getattr(run.course.guider, "combines_by_plan", False) or not run.plan.formula:
        return args["denoised"]
    x, sigma = args["input"], args["sigma"]
    cond, uncond = args["cond_denoised"], args["uncond_denoised"]
    if args["uncond"] is not None:  # where one of them says nothing, methods find no difference
        given = run.course.guider.original_conds
        covers = [run.covers.of(own_conds(args[k], given[name]), x, sigma) for k, name in SIDES.items()]
        uncond = towards(uncond, cond, covers[1])
        cond = towards(cond, uncond, both(*covers))
    mix = Mix(x, slope_of(args["model"].model_sampling, sigma), uncond, (Branch(cond, uncond, args["cond_scale"]),))
    return run.finish(args["denoised"], mix) if args["uncond"] is None else run.combine(mix)


def scale_curve(sampling: Any, scale_of: Callable[[float], float], points: int = 60) -> Sequence[tuple[float, float]]:
    """(log10 sigma, scale) over the model's range, the largest sigma first."""
    places = [(k + 0.5) / points for k in range(points)]
    return [(math.log10(max(float(sampling.percent_to_sigma(place)), 1e-6)), scale_of(place)) for place in places]


FEATURE = Feature(KEY, _begin, {WrappersMP.PREDICT_NOISE: _around_prediction}, nodes=PATCH)
