"""A second model of CFG Combiner: the weaker one that a condition is measured against (autoguidance)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ..pixel.kept import paste
from ..pixel_model import clamp
from ..run import Course, begin_beside
from .run import owner

OWN = (clamp, paste)  # of pixel models: those of the main one act on the result
CFG_FUNCTIONS = {
    "sampler_cfg_function": "a CFG function",
    "sampler_pre_cfg_function": "a pre-CFG function",
    "sampler_post_cfg_function": "a post-CFG function",
    "sampler_calc_cond_batch_function": "a function around its predictions",
}


def beside(model: Any, second: Any) -> SecondModel:
    """A second model to be loaded with the first. Raises ValueError where both are the same weights, patched twice."""
    if second.is_clone(model) and second.patches_uuid != model.patches_uuid:
        raise ValueError(
            "the second model has the same weights in memory as the main one, with other LoRAs or merges, so the host "
            "can't hold both; load its checkpoint with a loader node of its own, from a copy of the file"
        )
    return SecondModel(second.clone())


@dataclass(eq=False)
class SecondModel:
    """A MODEL, and in a run the conditionings encoded in its way and what its network is called with."""

    patcher: Any
    conds: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def begin(self, course: Course) -> None:
        """Before a run. Raises ValueError for patches that act on the result of CFG, of which there is none here."""
        self.options = comfy.model_patcher.create_model_options_clone(self.patcher.model_options)
        transformer = self.options.setdefault("transformer_options", {})
        begin_beside(course, self.patcher, transformer)
        self._refuse_cfg_functions()
        # wrappers, and the LoRAs of conds: by itself the host registers only those of the guider's model
        comfy.sampler_helpers.prepare_model_patcher(self.patcher, course.guider.conds, self.options)

    def _refuse_cfg_functions(self) -> None:
        for name, what in CFG_FUNCTIONS.items():
            found = self.patcher.model_options.get(name) or []
            for function in found if isinstance(found, list) else [found]:
                if function not in OWN:
                    raise ValueError(
                        f"CFG Condition: the second model has {what} of {owner(function)}, which could not act: a "
                        "second model only predicts; put that node into the first model, or leave it out"
                    )

    def encode(
        self,
        conds: Mapping[str, Any],
        noise: Tensor,
        device: Any,
        latent_image: Tensor | None,
        denoise_mask: Any,
        seed: Any,
        **kwargs: Any,
    ) -> None:
        """The conditionings in this model's own way."""
        self.patcher.pre_run()
        if latent_image is not None and torch.count_nonzero(latent_image) > 0:
            latent_image = self.patcher.model.process_latent_in(latent_image)
        copies = {key: [cond.copy() for cond in value] for key, value in conds.items()}
        self.conds = comfy.samplers.process_conds(
            self.patcher.model, noise, copies, device, latent_image, denoise_mask, seed, **kwargs
        )

    def predict(self, conds: str, x: Tensor, timestep: Tensor, sample_sigmas: Tensor) -> Tensor:
        self.options["transformer_options"]["sample_sigmas"] = sample_sigmas
        return comfy.samplers.calc_cond_batch(self.patcher.model, [self.conds[conds]], x, timestep, self.options)[0]

    def finish(self) -> None:
        self.patcher.cleanup()
        self.patcher.restore_hook_patches()
        self.conds, self.options = {}, {}
