"""Trains the pack's noise-aware classifier: ADM's encoder on noisy 32x32 scenes, one softmax for each attribute.

What helped it learn (measured before, `tiny-models.md`): attention pool at 4x4, heads for all attributes, and little
noise first.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.adm.network import Classifier, ClassifierConfig
from models.schedule import NoiseSchedule

from .loop import Recipe, Run, arguments, train
from .scenes import CLASS_NAMES, CLASSES, Scenes

CONFIG = ClassifierConfig(
    model_channels=16,
    out_channels=len(CLASS_NAMES),
    num_res_blocks=1,
    channel_mult=(1, 2, 4, 8),
    attention=(4, 8),
    num_heads=4,
    groups=4,
    image_size=32,
)
RECIPE = Recipe(images=400_000, batch=64, weight_decay=0.02, seed=1)
GROUP_SIZES = [len(names) for names in CLASSES.values()]


class NoisyCrossEntropy:
    """Mean over attributes of -log p(label | x_t, t); t grows from low noise to all noise over the first images."""

    def __init__(self, schedule: NoiseSchedule, device: str, curriculum: int = 60_000):
        ab = schedule.alphas_cumprod
        self.signal, self.noise = ab.sqrt().float().to(device), (1 - ab).sqrt().float().to(device)
        self.curriculum = curriculum
        self.seen = torch.zeros((), dtype=torch.float64, device=device)

    def __call__(
        self, network: nn.Module, scenes: Scenes, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x0, labels = scenes.image, scenes.attributes.labels()
        reach = (0.1 + self.seen / self.curriculum).clamp(max=1.0)
        self.seen += len(x0)
        u = torch.rand(len(x0), generator=generator, device=x0.device)
        t = (u**1.5 * reach * len(self.signal)).long()
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        x = self.signal[t][:, None, None, None] * x0 + self.noise[t][:, None, None, None] * noise
        logits = network(x, t).float().split(GROUP_SIZES, dim=1)
        losses = torch.stack([cross_entropy(part, labels[:, k]) for k, part in enumerate(logits)])
        clear = t < 200
        right = logits[0].argmax(1) == labels[:, 0]
        accuracy = (right & clear).sum() / clear.sum().clamp(min=1)
        report = {name: losses[k] for k, name in enumerate(CLASSES)}
        return losses.mean(), report | {"shape_accuracy_below_200": accuracy}


def main() -> None:
    recipe, given = arguments("models/demo/classifiers/scenes_classifier.safetensors", RECIPE)
    torch.manual_seed(recipe.seed)
    network = Classifier(CONFIG)
    metadata = {
        "architecture": "adm_classifier",
        "config": json.dumps(asdict(CONFIG)),
        "schedule": "linear",
        "image_size": "32",
        "class_names": json.dumps(CLASS_NAMES),
        "class_groups": json.dumps(GROUP_SIZES),
    }
    loss = NoisyCrossEntropy(NoiseSchedule.named("linear"), given.device, curriculum=1 if given.resume else 60_000)
    train(Run(network, recipe, given.device, metadata), loss, given)


if __name__ == "__main__":
    main()
