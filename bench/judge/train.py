"""Trains the judge: `python -m bench.judge.train`. Clean scenes with mild blur, noise and colour error, so that it
names what a reader would name in a generated picture that is not perfectly clean."""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, pad

from training.loop import Recipe, Run, arguments, train
from training.scenes import CLASS_NAMES, CLASSES, Scenes

from .network import Judge

RECIPE = Recipe(images=150_000, batch=64, learning_rate=2e-3, weight_decay=0.02, seed=20_000)
GROUP_SIZES = [len(names) for names in CLASSES.values()]


def roughen(image: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the pictures: a 3x3 blur in part, noise up to 0.06, contrast and brightness off by up to a tenth."""

    def uniform() -> Tensor:
        return torch.rand(len(image), 1, 1, 1, generator=generator, device=image.device)

    blurred = avg_pool2d(pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    rough = torch.lerp(image, blurred, 0.5 * uniform())
    rough = rough * (1 + 0.2 * (uniform() - 0.5)) + 0.2 * (uniform() - 0.5)
    rough = rough + 0.06 * uniform() * torch.randn(image.shape, generator=generator, device=image.device)
    return torch.where(uniform() < 0.5, image, rough.clamp(-1, 1))


def loss(network: nn.Module, scenes: Scenes, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    labels = scenes.attributes.labels()
    logits = network(roughen(scenes.image, generator)).float().split(GROUP_SIZES, dim=1)
    losses = torch.stack([cross_entropy(part, labels[:, k], label_smoothing=0.02) for k, part in enumerate(logits)])
    right = {name: (logits[k].argmax(1) == labels[:, k]).float().mean() for k, name in enumerate(CLASSES)}
    return losses.mean(), {"loss": losses.mean(), **right}


def main() -> None:
    recipe, given = arguments("bench/judge/judge.safetensors", RECIPE)
    torch.manual_seed(recipe.seed)
    network = Judge(len(CLASS_NAMES))
    metadata = {"class_names": json.dumps(CLASS_NAMES), "class_groups": json.dumps(GROUP_SIZES)}
    train(Run(network, recipe, given.device, metadata), loss, given)


if __name__ == "__main__":
    main()
