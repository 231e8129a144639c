"""CFG Combiner as a guider of the host: any number of conditions, evaluated together and only where they count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import comfy.model_patcher
import comfy.samplers
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor

from ....guidance.cfg import Branch, Mix
from ..pictures import area
from ..run import course_of, remembered
from .condition import (
    MAIN,
    MODEL,
    NEGATIVE,
    NEGATIVE_PREDICTION,
    NONE,
    PARENT,
    PLAIN,
    Condition,
    Evaluation,
    Part,
    always_one,
    beside,
    named,
    of_kind,
)
from .plan import Plan
from .references import PERTURBED, RANDOM, WAYS, random_condition
from .run import COMBINER, KEY, begin, plan_of, slope_of


class CombinedGuider(comfy.samplers.CFGGuider):
    """D = base + sum_i mask_i scale_i (D_i - D_ref(i)), then the methods of the plan.

    The base is what the first condition is measured against; where conditions have no reference, their sum instead.
    Outside its window the first condition counts 1, every other 0. What doesn't count at a sigma is not evaluated.
    """

    combines_by_plan = True

    def __init__(self, model: Any, conditions: Sequence[Condition], negative: Any | None, plan: Plan):
        super().__init__(model)
        self.plan = plan + plan_of(model)
        if self.plan.scale is not None:
            raise ValueError("the model's CFG Patch sets a guidance scale; set it on the conditions instead")
        if self.plan.skip_above < 1 and len(conditions) > 1:
            raise ValueError("adaptive skip compares one condition with the negative; there are several conditions")
        self.second_models: list[Any] = []
        self.parts = self._read(conditions, negative)
        self.cfg = conditions[0].weight.value

    def _read(self, conditions: Sequence[Condition], negative: Any | None) -> list[Part]:
        """Names every conditioning for the host. Raises ValueError where a negative is needed and none is there."""
        conds = {MAIN: conditions[0].conditioning}
        parts = [self._part(condition, conds) for condition in conditions]
        if negative is not None:
            conds["negative"] = negative
        for place, part in enumerate(parts):
            if (
                negative is None
                and part.reference == NEGATIVE_PREDICTION
                and not (place == 0 and len(parts) == 1 and always_one(part.condition, self.plan))
            ):
                raise ValueError(
                    f"condition {place + 1} is measured against the negative, and none is wired; connect negative, or "
                    "choose another reference, or a guidance scale of 1 for a single condition"
                )
        self.inner_set_conds({key: of_kind(key, value) for key, value in conds.items()})
        return parts

    def _part(self, condition: Condition, conds: dict[str, Any]) -> Part:
        key = named(condition.conditioning, conds)
        own = Evaluation(key)
        if condition.reference == NONE:
            return Part(condition, own, None)
        if condition.reference == NEGATIVE:
            return Part(condition, own, NEGATIVE_PREDICTION)
        if condition.reference == PARENT:
            assert condition.parent is not None
            return Part(condition, own, Evaluation(named(condition.parent.conditioning, conds)))
        if condition.reference == RANDOM:
            conds[f"random for {key}"] = random_condition(condition.conditioning, self.model_patcher)
            return Part(condition, own, Evaluation(f"random for {key}"))
        if condition.reference == MODEL:
            self.second_models.append(beside(self.model_patcher, condition.model))
            return Part(condition, own, Evaluation(key, MODEL, len(self.second_models) - 1))
        return Part(condition, own, Evaluation(key, condition.reference))

    def outer_sample(
        self, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ):
        self._refuse_unfit()
        patcher = self.model_patcher
        if self.second_models:  # loaded together with the main model, so neither pushes the other out
            self.model_patcher = patcher.clone()
            self.model_patcher.set_additional_models(KEY, self.second_models)
        self.run = begin(course_of(self, sampler, sigmas, *args, **kwargs), self.plan, COMBINER)
        try:
            with remembered(self, KEY, self.run):
                return super().outer_sample(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            self.model_patcher = patcher
            del self.run

    def _refuse_unfit(self) -> None:
        """Raises ValueError for references that this model can't give."""
        perturbed = any(part.reference is not None and part.reference.how == PERTURBED for part in self.parts)
        network = self.model_patcher.model.diffusion_model
        if perturbed and not isinstance(network, UNetModel):
            raise ValueError(
                "CFG Combiner: the reference 'perturbed self' changes the self-attention of the host's U-Nets (SD1.5, "
                f"SDXL), and this model is a {type(network).__name__}; choose another reference"
            )

    def inner_sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        device: Any,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Any,
        callback: Any,
        disable_pbar: bool,
        seed: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Second models get the conditionings encoded in their own way."""
        self.second_conds: list[dict[str, Any]] = []
        for model in self.second_models:
            model.pre_run()
            shown = latent_image
            if shown is not None and torch.count_nonzero(shown) > 0:
                shown = model.model.process_latent_in(shown)
            copies = {key: [cond.copy() for cond in conds] for key, conds in self.conds.items()}
            self.second_conds.append(
                comfy.samplers.process_conds(model.model, noise, copies, device, shown, denoise_mask, seed, **kwargs)
            )
        try:
            return super().inner_sample(
                noise, latent_image, device, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **kwargs
            )
        finally:
            for model in self.second_models:
                model.cleanup()
            del self.second_conds

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: Any = None
    ) -> Tensor:
        options = {} if model_options is None else model_options
        sigma = float(timestep.flatten()[0])
        if self.run.stands_still(sigma):
            return x.clone()
        scales = self._scales(sigma)
        needed = self._needed(scales, options)
        found = self._evaluate(needed, x, timestep, options)
        denoised = self._combined(scales, found, x, timestep)
        arguments = {
            "denoised": denoised,
            "cond": self.conds[MAIN],
            "uncond": self.conds["negative"] if NEGATIVE_PREDICTION in needed else None,
            "cond_scale": scales[0],
            "model": self.inner_model,
            "cond_denoised": found[self.parts[0].prediction],
            "uncond_denoised": found.get(NEGATIVE_PREDICTION, torch.zeros_like(x)),  # as the host fills it
            "sigma": timestep,
            "model_options": options,
            "input": x,
        }
        for function in options.get("sampler_post_cfg_function", []):
            arguments["denoised"] = function(arguments)
        return arguments["denoised"]

    def _scales(self, sigma: float) -> list[float]:
        """Of each condition at this sigma. A negative that adaptive skip has dropped leaves the main condition at 1."""
        progress = self.run.course.progress_of(sigma)
        first = 1.0 if self.run.all_skip else self.run.scale(self.parts[0].condition.weight, sigma)
        return [first, *(part.condition.weight(progress) for part in self.parts[1:])]

    @property
    def _base(self) -> Evaluation | None:
        """None: conditions without a reference are the base."""
        return None if any(part.reference is None for part in self.parts) else self.parts[0].reference

    def _needed(self, scales: Sequence[float], options: dict[str, Any]) -> list[Evaluation]:
        """Every prediction whose weights don't add up to 0, the main condition first, the negative second."""
        totals: dict[Evaluation, float] = {}
        masked: set[Evaluation] = set()

        def count(evaluation: Evaluation | None, weight: float, mask: Tensor | None) -> None:
            if evaluation is not None:
                totals[evaluation] = totals.get(evaluation, 0.0) + weight
                if mask is not None and weight:
                    masked.add(evaluation)

        count(self._base, 1.0, None)
        for part, scale in zip(self.parts, scales, strict=True):
            count(part.prediction, scale, part.condition.mask)
            count(part.reference, -scale, part.condition.mask)
        forced = {self.parts[0].prediction}  # what methods and other nodes measure against
        if options.get("disable_cfg1_optimization") and self.conds.get("negative"):
            forced.add(NEGATIVE_PREDICTION)  # another node reads it
        if self.plan.reads_references:
            pairs = zip(self.parts, scales, strict=True)
            forced |= {p.reference for k, (p, s) in enumerate(pairs) if p.reference is not None and s != float(k == 0)}
        counting = {e for e in totals if e in masked or not math.isclose(totals[e], 0.0, abs_tol=1e-9)}
        return sorted(
            counting | forced, key=lambda e: (e != self.parts[0].prediction, e != NEGATIVE_PREDICTION, str(e))
        )

    def _evaluate(
        self, needed: Sequence[Evaluation], x: Tensor, timestep: Tensor, options: dict[str, Any]
    ) -> dict[Evaluation, Tensor]:
        """All plain predictions in one call of the host, through its hooks; the others in one call each."""
        plain = [e for e in needed if e.how == PLAIN]
        found = self._in_one_call(plain, x, timestep, options)
        for evaluation in needed:
            if evaluation.how != PLAIN:
                found[evaluation] = self._another_way(evaluation, x, timestep, options)
        return found

    def _in_one_call(
        self, plain: Sequence[Evaluation], x: Tensor, timestep: Tensor, options: dict[str, Any]
    ) -> dict[Evaluation, Tensor]:
        """`[main, negative or None, ...]`, as other nodes' functions expect it."""
        rest = [e for e in plain if e not in (self.parts[0].prediction, NEGATIVE_PREDICTION)]
        negative = self.conds["negative"] if NEGATIVE_PREDICTION in plain else None
        conds = [self.conds[MAIN], negative, *(self.conds[e.conds] for e in rest)]
        shared = {"conds": conds, "input": x, "sigma": timestep, "model": self.inner_model, "model_options": options}
        if "sampler_calc_cond_batch_function" in options:
            out = options["sampler_calc_cond_batch_function"](shared)
        else:
            out = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, options)
        for function in options.get("sampler_pre_cfg_function", []):
            out = function({**shared, "conds_out": out, "cond_scale": self.cfg, "timestep": timestep})
        order = [self.parts[0].prediction, NEGATIVE_PREDICTION, *rest]
        return {e: part for e, part in zip(order, out, strict=True) if e in plain}

    def _another_way(self, evaluation: Evaluation, x: Tensor, timestep: Tensor, options: dict[str, Any]) -> Tensor:
        if evaluation.how == MODEL:
            model = self.second_models[evaluation.model]
            conds = self.second_conds[evaluation.model][evaluation.conds]
            theirs = comfy.model_patcher.create_model_options_clone(model.model_options)
            transformer = theirs.setdefault("transformer_options", {})
            transformer["sample_sigmas"] = options["transformer_options"]["sample_sigmas"]
            return comfy.samplers.calc_cond_batch(model.model, [conds], x, timestep, theirs)[0]
        options = WAYS[evaluation.how](self.inner_model, options)
        return comfy.samplers.calc_cond_batch(self.inner_model, [self.conds[evaluation.conds]], x, timestep, options)[0]

    def _combined(
        self, scales: Sequence[float], found: dict[Evaluation, Tensor], x: Tensor, timestep: Tensor
    ) -> Tensor:
        """The Mix of this step, by the plan; without guidance what is left is one prediction, bit for bit."""
        main = found[self.parts[0].prediction]
        slope = slope_of(self.inner_model.model_sampling, timestep)
        if list(found) == [self.parts[0].prediction] and self._total(scales) == 1:
            return self.run.finish(main, Mix(x, slope, main, (Branch(main, main, 1.0),)))
        # predictions that were left out have weights that add up to 0: the sum is the same whatever stands for them
        filler = x if self._base is None else found.get(self._base, main)

        def branch(part: Part, scale: float) -> Branch:
            against = x if part.reference is None else found.get(part.reference, filler)
            mask = area(part.condition.mask, None, x)
            return Branch(found.get(part.prediction, filler), against, scale, mask)

        branches = [branch(part, scale) for part, scale in zip(self.parts, scales, strict=True)]
        return self.run.combine(Mix(x, slope, filler, tuple(branches)))

    def _total(self, scales: Sequence[float]) -> float:
        """Weight of the main prediction where it is the only one."""
        return 1.0 if self._base is not None else sum(scales)
