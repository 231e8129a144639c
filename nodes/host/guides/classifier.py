"""A noise-aware classifier under the host's memory management: the value of a GUIDANCE_CLASSIFIER socket."""

from __future__ import annotations

from typing import Any

import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor

from ....guidance.classifier_energy import ClassifierEnergy
from ....guidance.gradient import gradient
from ....guidance.sampling import Gradient
from ....models.architecture import Checkpoint, Facts
from ....models.schedule import NoiseSchedule
from ..gradients import autograd_on
from ..memory import halved, hosted, network_input
from ..model import COLOURS


class HostClassifier:
    """Logits of noisy pictures in sigma space, from a network that takes x_t and t."""

    def __init__(self, name: str, facts: Facts, patcher: comfy.model_patcher.ModelPatcher):
        self.name = name
        self.facts = facts
        self.patcher = patcher
        self.schedule = NoiseSchedule.of(facts)

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

    def logits(self, x: Tensor, sigma: Tensor | None) -> Tensor:
        """x [B 3 H W] = x0 + sigma noise, sigma [B], None where x is clean -> [B classes]."""
        given, t = network_input(self.patcher, self.schedule, x, sigma)
        return self.patcher.model(given.to(next(self.patcher.model.parameters()).dtype), t).to(x)


def load_classifier(checkpoint: Checkpoint) -> HostClassifier:
    """In what `halved` chooses."""

    def build(device: Any) -> torch.nn.Module:
        network = checkpoint.build(operations=comfy.ops.manual_cast, device=device)
        network.load_state_dict({key: value.float() for key, value in checkpoint.state.items()}, strict=True)
        return halved(network)

    return HostClassifier(checkpoint.name, checkpoint.facts, hosted(build))


def classifier_gradient(classifier: HostClassifier, labels: Tensor, guidance_scale: float) -> Gradient | None:
    """guidance_scale * grad_x log p(labels | x, sigma), or None where there is nothing to add."""
    if guidance_scale == 0:
        return None
    energy = ClassifierEnergy(classifier.logits, labels, classifier.facts.class_groups)

    def grad(x: Tensor, sigma: Tensor) -> Tensor:
        with autograd_on():
            return -guidance_scale * gradient(energy, x, sigma)

    return grad
