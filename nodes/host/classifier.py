"""A noise-aware classifier under the host's memory management: the value of a GUIDANCE_CLASSIFIER socket."""

from __future__ import annotations

import comfy.model_management as mm
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor

from ...guidance.tensors import append_dims
from ...models.architecture import Checkpoint, Facts
from ...models.denoiser import NoiseSchedule
from .gradients import WholePatcher, make_differentiable
from .pixel_model import COLOURS


class HostClassifier:
    """Logits of noisy pictures in sigma space, from a network that takes x_t and t."""

    def __init__(self, name: str, facts: Facts, patcher: comfy.model_patcher.ModelPatcher):
        self.name = name
        self.facts = facts
        self.patcher = patcher
        self.log_sigmas = NoiseSchedule.of(facts).sigmas.log().float()

    def check(self, shape: torch.Size) -> None:
        """Raises ValueError for pictures [B 3 H W] of another size than the classifier's."""
        size = self.facts.image_size
        if tuple(shape[1:]) != (COLOURS, size, size):
            raise ValueError(
                f"the classifier {self.name} looks at {size} x {size} pictures with {COLOURS} channels, the latent is "
                f"{list(shape[1:])}; use a pixel model and a latent of that size"
            )

    def beside(self, model: comfy.model_patcher.ModelPatcher) -> comfy.model_patcher.ModelPatcher:
        """The MODEL with the classifier as its companion: the host loads both for a run, and evicts neither in it."""
        model = model.clone()
        model.set_additional_models("guidance_classifier", [self.patcher])
        return model

    def timesteps(self, sigma: Tensor) -> Tensor:
        """Nearest index of the training schedule, [B] long."""
        return (self.log_sigmas.to(sigma)[None] - sigma.log()[:, None]).abs().argmin(1)

    def logits(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x [B 3 H W] = x0 + sigma noise, sigma [B] -> [B classes]."""
        make_differentiable(self.patcher.model)  # after the host moved it; otherwise nothing to do
        x_t = x / append_dims(1 + sigma**2, x.ndim) ** 0.5
        return self.patcher.model(x_t, self.timesteps(sigma))


def load_classifier(checkpoint: Checkpoint) -> HostClassifier:
    """Frozen, in float32, outside inference mode: backward costs about one forward and needs no weight gradients."""
    with torch.inference_mode(False), torch.no_grad():
        device, offload = mm.get_torch_device(), mm.unet_offload_device()
        network = checkpoint.build(operations=comfy.ops.manual_cast, device=offload)
        network.load_state_dict({key: value.float() for key, value in checkpoint.state.items()}, strict=True)
        network.eval().requires_grad_(False)
        patcher = WholePatcher(network, load_device=device, offload_device=offload)
    return HostClassifier(checkpoint.name, checkpoint.facts, patcher)
