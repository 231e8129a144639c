"""CFG's methods at work under the host's own guiders: what a patched MODEL does in one sampling run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.model_sampling
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...guidance.cfg import BRANCHES, OUTPUTS, RESULT, Branch, Memory, Method, Mix, combine, renoised_scale, similarity
from ...guidance.tensors import append_dims
from ...guidance.weight import Weight
from .run_state import Course, progress_function
from .sight import is_flow, is_pixel_model

KEY = "diffusion_guidance_cfg"
OWN_SCALE = 0.0  # as a guidance scale: the sampler's own cfg


@dataclass(frozen=True)
class Plan:
    """What is to be done with CFG in a run: methods of the formula, and what belongs to the run around it."""

    methods: tuple[Method, ...] = ()
    names: tuple[str, ...] = ()  # of the methods, as the user knows them
    pixels_only: bool = False  # one of the methods needs samples in [-1, 1]
    renoised: float | None = None  # CFG++'s strength
    zero_init: float = 0.0  # share of the steps, from the first, that a flow stands still
    skip_above: float = 1.0  # similarity of cond and uncond from where on the negative is left out
    scale: Weight | None = None  # of a CFG Patch; its value may be OWN_SCALE

    def __add__(self, other: Plan) -> Plan:
        """Raises ValueError where both set the same thing."""
        names = [name for name in self.names if name in other.names]
        names += ["the guidance scale"] * (self.scale is not None and other.scale is not None)
        if names:
            raise ValueError(f"{', '.join(names)} is set twice, by this node and by one before it; remove one")
        return Plan(
            self.methods + other.methods,
            self.names + other.names,
            self.pixels_only or other.pixels_only,
            other.renoised if self.renoised is None else self.renoised,
            max(self.zero_init, other.zero_init),
            min(self.skip_above, other.skip_above),
            self.scale or other.scale,
        )

    @property
    def formula(self) -> bool:
        """Whether predictions are put together in another way than the host's."""
        return any(not method.neutral for method in self.methods) or self.skip_above < 1

    @property
    def reads_references(self) -> bool:
        """Whether a method looks at the references themselves, not at the sum alone."""
        return any(method.STAGE in BRANCHES and not method.neutral for method in self.methods)


@dataclass
class CFGRun(Course):
    """State of one run: what methods remember, and who may do without the negative."""

    plan: Plan
    flow: bool
    from_noise: bool  # begins at the model's largest sigma
    combined: bool  # the CFG Combiner does it all, the patch nothing
    memory: Memory = field(default_factory=dict)
    skipping: Tensor | None = None  # [B] bool

    def scale(self, weight: Weight, sigma: float) -> float:
        """The main condition's scale at this sigma; 1 is off."""
        if self.plan.renoised is not None:
            weight = replace(weight, value=renoised_scale(self.plan.renoised, sigma, self.following(sigma), self.flow))
        return weight.above(1.0, self.progress_of(sigma))

    def stands_still(self, sigma: float) -> bool:
        """Zero-init (CFG-Zero*, alg. 1): the first steps out of pure noise have no velocity."""
        return self.from_noise and self.index(sigma) < math.floor(self.plan.zero_init * (len(self.sigmas) - 1) + 0.5)

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
    """The slope of a Mix for a model's own output, [B]."""
    kind = "v" if isinstance(sampling, comfy.model_sampling.V_PREDICTION) else "eps"
    return OUTPUTS[kind](sigma.float() / float(getattr(sampling, "sigma_data", 1.0)))


def begin(guider: Any, sampler: Any, sigmas: Tensor, plan: Plan, combined: bool) -> CFGRun:
    """A fresh state. Raises ValueError for plans that don't fit model or sampler, and for a taken CFG function."""
    sampling = guider.model_patcher.get_model_object("model_sampling")
    flow = is_flow(sampling)
    node = "CFG Combiner" if combined else "CFG Patch"
    if plan.zero_init and not flow:
        raise ValueError(f"{node}: zero_init holds a flow still, and this model is none; set zero_init to 0")
    if plan.zero_init and "cfg_pp" in getattr(getattr(sampler, "sampler_function", None), "__name__", ""):
        raise ValueError(
            f"{node}: at the steps of zero_init nothing is predicted, which cfg_pp samplers need; set zero_init to 0, "
            "or use another sampler"
        )
    if plan.pixels_only and not is_pixel_model(guider.model_patcher):
        raise ValueError(
            f"{node}: dynamic threshold is for models on pixels, whose samples lie in [-1, 1]; on latents use mimic "
            "threshold"
        )
    if combined or plan.formula:
        _refuse_taken_slot(guider.model_options, node)
    levels = [float(sigma) for sigma in sigmas]
    from_noise = bool(levels) and levels[0] >= 0.99 * float(sampling.sigma_max)
    return CFGRun(levels, progress_function(sampling), plan, flow, from_noise, combined)


def _refuse_taken_slot(options: dict[str, Any], node: str) -> None:
    taken = options.get("sampler_cfg_function")
    if taken is not None:
        owner = getattr(taken, "__qualname__", type(taken).__name__).split(".")[0]
        module = re.split(r"[\\/]", getattr(taken, "__module__", "unknown"))[-1]
        raise ValueError(
            f"{node}: the model's one CFG function is already taken by {owner} ({module}), which would be lost; remove "
            f"that node, or choose the same method in {node} and leave it out there"
        )


def plan_of(model: Any) -> Plan:
    """What the CFG Patches of a MODEL ask for, together."""
    return model.get_attachment(KEY) or Plan()


def patched(model: Any, plan: Plan) -> Any:
    """A clone of the MODEL that follows the plan, and what it followed before."""
    before = model.get_attachment(KEY)
    model = model.clone()
    model.set_attachments(KEY, plan if before is None else before + plan)
    if before is None:
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _around_run)
        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, _around_prediction)
        # first of its list: what other nodes add to the result comes behind, and stays
        others = model.model_options.get("sampler_post_cfg_function", [])
        model.model_options["sampler_post_cfg_function"] = [_post_cfg, *others]
    return model


def _around_run(executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any):
    """OUTER_SAMPLE: a fresh state for every run, gone afterwards whatever happens."""
    guider = executor.class_obj
    plan = plan_of(guider.model_patcher)
    combined = getattr(guider, "combines_by_plan", False)
    if combined:
        return executor(noise, latent, sampler, sigmas, *args, **kwargs)
    _refuse_other_guiders(guider, plan)
    guider.model_options[KEY] = begin(guider, sampler, sigmas, plan, combined=False)
    try:
        return executor(noise, latent, sampler, sigmas, *args, **kwargs)
    finally:
        guider.model_options.pop(KEY, None)


def _refuse_other_guiders(guider: Any, plan: Plan) -> None:
    """Raises ValueError for guiders that put predictions together themselves, and where a negative is missing."""
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
    if wanted and not guider.conds.get("negative"):
        raise ValueError("CFG Patch sets a guidance scale, and this guider has no negative; use CFGGuider or KSampler")


def _around_prediction(
    executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """PREDICT_NOISE: the guider's scale for this step; at 1 the host leaves the negative out."""
    guider = executor.class_obj
    options = {} if model_options is None else model_options
    run: CFGRun | None = guider.model_options.get(KEY)
    if run is None or run.combined:
        return executor(x, timestep, options, *args, **kwargs)
    sigma = float(timestep.flatten()[0])
    if run.stands_still(sigma):
        return x.clone()
    own = guider.cfg
    guider.cfg = _scale(run, own, sigma)
    try:
        return executor(x, timestep, options, *args, **kwargs)
    finally:
        guider.cfg = own


def _scale(run: CFGRun, own: float, sigma: float) -> float:
    if run.all_skip:
        return 1.0
    weight = run.plan.scale or Weight(OWN_SCALE)
    return run.scale(replace(weight, value=own) if weight.value == OWN_SCALE else weight, sigma)


def stands_still(options: dict[str, Any], sigma: float) -> bool:
    """Whether zero-init holds the run at this sigma: then guides have nothing to add."""
    run: CFGRun | None = options.get(KEY)
    return run is not None and run.stands_still(sigma)


def _post_cfg(args: dict[str, Any]) -> Tensor:
    """The plan's formula in the place of the host's, from the same predictions."""
    run: CFGRun | None = args["model_options"].get(KEY)
    if run is None or run.combined or not run.plan.formula:
        return args["denoised"]
    x, sigma = args["input"], args["sigma"]
    cond, uncond = args["cond_denoised"], args["uncond_denoised"]
    mix = Mix(x, slope_of(args["model"].model_sampling, sigma), uncond, (Branch(cond, uncond, args["cond_scale"]),))
    return run.finish(args["denoised"], mix) if args["uncond"] is None else run.combine(mix)


def scale_curve(sampling: Any, scale_of: Callable[[float], float], points: int = 60) -> Sequence[tuple[float, float]]:
    """(log10 sigma, scale) over the model's range, the largest sigma first."""
    places = [(k + 0.5) / points for k in range(points)]
    return [(math.log10(max(float(sampling.percent_to_sigma(place)), 1e-6)), scale_of(place)) for place in places]
