"""What a condition may be measured against besides a negative: itself perturbed, said at random, or at another time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_patcher
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ....guidance.classifier_energy import NO_CLASS
from ..pixel_model import CLASS_LABELS
from .run import KEY

PERTURBED, RANDOM, TIME = "perturbed self", "random condition", "other time"
LATER = 1.1  # by what "other time" tells the network that more time has passed


def random_condition(conditioning: Any, model: Any) -> Any:
    """Independent condition guidance (Sadat et al. 2024, arXiv 2407.02687): a condition that says nothing.

    Embeddings become Gaussian noise of their own mean and deviation; a class label becomes another class.
    """
    generator = torch.Generator().manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        drawn = torch.randn(like.shape, generator=generator)
        return (like.mean().cpu() + like.std(unbiased=False).cpu() * drawn).to(like)

    found = []
    for embedding, options in conditioning:
        options = dict(options)
        if isinstance(options.get("pooled_output"), Tensor):
            options["pooled_output"] = noise(options["pooled_output"])
        if CLASS_LABELS in options:
            options[CLASS_LABELS] = _other_classes(options[CLASS_LABELS], len(model.model.facts.class_names), generator)
        found.append([noise(embedding) if isinstance(embedding, Tensor) and embedding.numel() else embedding, options])
    return found


def _other_classes(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    steps = torch.randint(1, max(2, classes), labels.shape, generator=generator)
    return torch.where(labels == NO_CLASS, labels, (labels + steps) % max(1, classes))


def perturbed_attention(model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """PAG (Ahn et al. 2024, arXiv 2403.17377): self-attention of the middle block sees itself only."""

    def identity(q: Tensor, k: Tensor, v: Tensor, extra_options: Any, mask: Tensor | None = None) -> Tensor:
        return v

    return comfy.model_patcher.set_model_options_patch_replace(options.copy(), identity, "attn1", "middle", 0)


def other_time(model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Time-step guidance (Sadat et al. 2024, arXiv 2407.02687, sec. 4): the network is told another time than it is."""
    options = comfy.model_patcher.create_model_options_clone(options)
    last = float(model.model_sampling.timestep(model.model_sampling.sigma_max))

    def later(executor: Any, x: Tensor, timesteps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return executor(x, (timesteps * LATER).clamp(max=last).to(timesteps.dtype), *args, **kwargs)

    add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, later, options, is_model_options=True)
    return options


WAYS: dict[str, Callable[[Any, dict[str, Any]], dict[str, Any]]] = {
    PERTURBED: perturbed_attention,
    TIME: other_time,
}
