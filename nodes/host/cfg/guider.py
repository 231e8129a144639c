"""CFG Combiner as a guider of the host: any number of conditions, evaluated together and only where they count."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ....guidance.cfg import Branch, Mix
from ..run import remembered, running
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
    named,
    of_kind,
    refuse_masks,
)
from .coverage import Cover, own_conds
from .evaluate import encode, plain_predictions
from .plan import Plan
from .references import PERTURBED, RANDOM, WAYS, Draws, refuse_other_networks
from .run import COMBINER, KEY, begin, plan_of, slope_of
from .second import SecondModel, beside
from .step import Step


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
        self.second_models: list[SecondModel] = []
        self.draws = Draws(model)
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
            drawn = self.draws.name(key)
            conds[drawn] = list(condition.conditioning)
            return Part(condition, own, Evaluation(drawn))
        if condition.reference == MODEL:
            self.second_models.append(beside(self.model_patcher, condition.model))
            return Part(condition, own, Evaluation(key, MODEL, len(self.second_models) - 1))
        return Part(condition, own, Evaluation(key, condition.reference))

    @property
    def _as_the_host(self) -> bool:
        """Whether this is CFGGuider's own case, which is the host's to the bit, whatever its conds cover."""
        return len(self.parts) == 1 and self.parts[0].reference == NEGATIVE_PREDICTION and not self.plan.formula

    def outer_sample(
        self, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ):
        self._refuse_unfit(len(noise))
        patcher = self.model_patcher
        if self.second_models:  # loaded together with the main model, so neither pushes the other out
            self.model_patcher = patcher.clone()
            self.model_patcher.set_additional_models(KEY, [second.patcher for second in self.second_models])
        try:
            with running(self, noise, sampler, sigmas, *args, **kwargs) as (course, args, kwargs):
                self.run = begin(course, self.plan, COMBINER)
                for second in self.second_models:
                    second.begin(course)
                with remembered(self, KEY, self.run):
                    return super().outer_sample(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            for second in self.second_models:
                second.finish()
            self.model_patcher = patcher
            self.__dict__.pop("run", None)

    def _refuse_unfit(self, batch: int) -> None:
        """Raises ValueError for references that this model can't give, and for masks that don't fit the batch."""
        if any(part.reference is not None and part.reference.how == PERTURBED for part in self.parts):
            refuse_other_networks(self.model_patcher.model.diffusion_model)
        self.draws.refuse_unfit(self.original_conds)
        for place, part in enumerate(self.parts):
            refuse_masks(f"condition {place + 1}", part, self.original_conds[part.prediction.conds], batch)

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
        """Second models get the conditionings encoded in their own way, and so do random ones at every step."""
        for second in self.second_models:
            second.encode(self.conds, noise, device, latent_image, denoise_mask, seed, **kwargs)

        shown = latent_image
        if shown is not None and torch.count_nonzero(shown) > 0:
            shown = self.inner_model.process_latent_in(shown)
        options = {"latent_image": shown, "denoise_mask": denoise_mask, "seed": seed, **kwargs}
        self.encode = partial(encode, self.inner_model, noise, device, **options)
        try:
            return super().inner_sample(
                noise, latent_image, device, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **kwargs
            )
        finally:
            del self.encode

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: Any = None
    ) -> Tensor:
        options = {} if model_options is None else model_options
        if self.run.stands_still(timestep):
            return x.clone()
        step = Step(self.parts, self._scales(timestep), self._covers(x, timestep))
        read = options.get("disable_cfg1_optimization") and self.conds.get("negative")  # by another node
        needed = step.needed({NEGATIVE_PREDICTION} if read else set(), self.plan.reads_references)
        found = self._evaluate(needed, step.scales[0], x, timestep, options)
        arguments = {
            "denoised": self._combined(step, found, x, timestep),
            "cond": self.conds[MAIN],
            "uncond": self.conds["negative"] if NEGATIVE_PREDICTION in needed else None,
            "cond_scale": step.scales[0],
            "model": self.inner_model,
            "cond_denoised": found[step.main],
            "uncond_denoised": found.get(NEGATIVE_PREDICTION, torch.zeros_like(x)),  # as the host fills it
            "sigma": timestep,
            "model_options": options,
            "input": x,
        }
        for function in options.get("sampler_post_cfg_function", []):
            arguments["denoised"] = function(arguments)
        return arguments["denoised"]

    def _scales(self, timestep: Tensor) -> list[float]:
        """Of each condition at this look. A negative that adaptive skip has dropped leaves the main condition at 1."""
        first = 1.0 if self.run.all_skip else self.run.scale(self.parts[0].condition.weight, timestep)
        rest = [part.condition.weight for part in self.parts[1:]]
        progress = 0.0 if all(weight.always for weight in rest) else self.run.course.progress_at(timestep)
        return [first, *(weight(progress) for weight in rest)]

    def _covers(self, x: Tensor, timestep: Tensor) -> dict[Evaluation, Cover]:
        """Where the predictions say something at this noise level."""
        if self._as_the_host:
            return {}
        evaluations = {e for part in self.parts for e in (part.prediction, part.reference) if e is not None}

        def cover(e: Evaluation) -> Cover:
            conds = self.second_models[e.model].conds if e.how == MODEL else self.conds
            return self.run.covers.of(own_conds(conds[e.conds], self.original_conds[e.conds]), x, timestep)

        return {e: cover(e) for e in evaluations if e.conds in self.conds}  # a scale of 1 needs no negative

    def _evaluate(
        self, needed: Sequence[Evaluation], scale: float, x: Tensor, timestep: Tensor, options: dict[str, Any]
    ) -> dict[Evaluation, Tensor]:
        """All plain predictions in one call of the host, through its hooks; the others in one call each."""
        self.draws.draw(self, timestep)
        plain = [self.parts[0].prediction, NEGATIVE_PREDICTION]
        plain += [e for e in needed if e.how == PLAIN and e not in plain]
        conds = [self.conds[e.conds] if e in needed else None for e in plain]
        out = plain_predictions(self.inner_model, conds, scale, x, timestep, options)
        found = {e: prediction for e, prediction in zip(plain, out, strict=True) if e in needed}
        for evaluation in needed:
            if evaluation.how == MODEL:
                sigmas = options["transformer_options"]["sample_sigmas"]
                found[evaluation] = self.second_models[evaluation.model].predict(evaluation.conds, x, timestep, sigmas)
            elif evaluation.how != PLAIN:
                theirs = WAYS[evaluation.how](self.inner_model, options)
                one = [self.conds[evaluation.conds]]
                (found[evaluation],) = comfy.samplers.calc_cond_batch(self.inner_model, one, x, timestep, theirs)
        return found

    def _combined(self, step: Step, found: dict[Evaluation, Tensor], x: Tensor, timestep: Tensor) -> Tensor:
        """The Mix of this step, by the plan; without guidance what is left is one prediction, bit for bit."""
        main = found[step.main]
        slope = slope_of(self.inner_model.model_sampling, timestep)
        if step.unguided(found):
            return self.run.finish(main, Mix(x, slope, main, (Branch(main, main, 1.0),)))
        return self.run.combine(step.mix(found, x, slope))
