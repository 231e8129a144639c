"""The models, conditions and predictions that the cells of the table share."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from networks import Networks, seeded

LEVELS = torch.tensor([20.0, 5.0, 0.5, 0.0])
SIDE, HALF = 32, 16
SCALE = 3.0
BETWEEN = 0.55  # progress between the first two levels and the third


@dataclass
class Scene:
    """The models and conditions of all cells; what several cells ask for is computed once."""

    execute: Any
    known: dict[Any, Any] = field(default_factory=dict)

    def once(self, compute, *key):
        """compute(self, *key), the first time. Keys are names and what lives as long as the scene."""
        key = (compute, *key)
        if key not in self.known:
            self.known[key] = compute(self, *key[1:])
        return self.known[key]

    @cached_property
    def networks(self):
        return Networks(self.execute)

    @cached_property
    def models(self):
        """MODELs with weights of their own, without a clamp, which no formula contains."""
        given = {"model_name": "scenes_hspace.safetensors", "clip_denoised": False}
        main, second = (self.execute("Guidance_LoadModel", **given)[0] for _ in range(2))
        return {"main": main, "second": with_lora(self, second, -1.0)}

    @property
    def channels(self):
        """Of the bottleneck."""
        return channels_of(self.models["main"])

    @property
    def embedding(self):
        """Width of the time's."""
        return self.models["main"].model.diffusion_model.network.config.embedding

    @cached_property
    def flow(self):
        return self.execute("Guidance_LoadModel", model_name="scenes_flow.safetensors", clip_denoised=False)[0]

    def label(self, name):
        return self.execute("Guidance_ClassConditioning", model=self.models["main"], class_label=name)[0]

    @cached_property
    def labels(self):
        return {key: self.label(name) for key, name in (("p", "star"), ("m", "red"), ("n", ""), ("b", "blue"))}

    @cached_property
    def x(self):
        return LEVELS[0] * seeded(1, 3, SIDE, SIDE, seed=1) + 0.3

    def predicted(self, guider, level=0, x=None):
        """D(x, sigma of the level) as the guider shows it to euler, by whose name asymmetric edits know its steps."""
        import comfy.samplers

        x = self.x if x is None else x
        found = []

        def sample_euler(model, start, sigmas, extra_args, callback, disable):
            found.append(model(x, sigmas[level].expand(len(x)), **extra_args))
            return start

        with torch.inference_mode():
            sampler = comfy.samplers.KSAMPLER(sample_euler)
            guider.sample(torch.zeros_like(x), torch.zeros_like(x), sampler, LEVELS, disable_pbar=True, seed=1)
        return found[0]


def alone(scene, model, label, level=0, start=0, end=SIDE):
    """What BasicGuider predicts under a label, of those columns of the sample only."""
    from comfy_extras.nodes_custom_sampler import BasicGuider

    guider = BasicGuider.execute(model, scene.labels[label]).args[0]
    return scene.predicted(guider, level, scene.x[..., start:end])


def with_lora(scene, model, strength=0.2):
    import comfy.sd

    with torch.inference_mode():
        return comfy.sd.load_lora_for_models(model, None, lora(model), strength, 0.0)[0]


def lora(model):
    """Of one layer of the pixel model."""
    name, channels = "diffusion_model.network.middle_block.0.in_layers.2", channels_of(model)
    return {
        f"{name}.lora_up.weight": seeded(channels, 2, 1, 1, seed=7),
        f"{name}.lora_down.weight": seeded(2, channels, 3, 3, seed=8),
    }


def channels_of(model):
    return model.model.diffusion_model.network.middle_block[0].in_layers[2].weight.shape[0]
