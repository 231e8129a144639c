"""Every training script's loss on a small network of its kind, from nothing: cheap enough to run on any machine."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.adm.network import Classifier, UNet
from models.clip_noisy.network import ClipNoisy
from models.diffae.network import DiffusionAutoencoder
from models.schedule import NoiseSchedule
from training import classifier, clip, diffae, hspace_unet, loop, semantic_start, unet

SMALL: dict[str, Any] = {"model_channels": 8, "channel_mult": (1, 2), "attention": (2,), "num_heads": 1}
TEXT: dict[str, Any] = {"stem": (8, 8, 8), "planes": (4, 4, 8, 8), "heads": 2, "text_width": 16}
BATCH = 4


@dataclass
class Task:
    network: nn.Module
    loss: Callable[..., Any]
    weight_decay: float = 0.0


def small_unet(device: str) -> Task:
    with torch.device(device):
        network = UNet(replace(unet.CONFIG, **SMALL))
    loop.zero_outputs(network)
    return Task(network, unet.HybridLoss(NoiseSchedule.named("linear"), device))


def small_hspace(device: str) -> Task:
    with torch.device(device):
        network = UNet(replace(unet.CONFIG, **SMALL))
    hspace_unet.close_skips(network)
    return Task(network, unet.HybridLoss(NoiseSchedule.named("linear"), device))


def small_classifier(device: str) -> Task:
    with torch.device(device):
        network = Classifier(replace(classifier.CONFIG, **SMALL))
    loss = classifier.NoisyCrossEntropy(NoiseSchedule.named("linear"), device, curriculum=100)
    return Task(network, loss, classifier.RECIPE.weight_decay)


def small_clip(device: str) -> Task:
    with torch.device(device):
        network = ClipNoisy(replace(clip.CONFIG, **TEXT))
    loss = clip.NoisyContrast(NoiseSchedule.named("linear"), device, curriculum=100)
    return Task(network, loss, clip.RECIPE.weight_decay)


def small_start(device: str) -> Task:
    with torch.device(device):
        network = semantic_start.Start()
    return Task(network, semantic_start.start_loss)


def small_diffae(device: str) -> Task:
    with torch.device(device):
        network = DiffusionAutoencoder(replace(semantic_start.CONFIG, **SMALL, encoder_mult=(1, 2)))
        readers = semantic_start.Start().requires_grad_(False).eval()
    return Task(network, diffae.SemanticLoss(NoiseSchedule.named("linear"), device, readers))


TASKS: dict[str, Callable[[str], Task]] = {
    "unet": small_unet,
    "hspace_unet": small_hspace,
    "classifier": small_classifier,
    "clip": small_clip,
    "semantic_start": small_start,
    "diffae": small_diffae,
}


def losses(name: str, steps: int, out: Path, device: str = "cpu") -> list[float]:
    """What a script's loss is at each of its first steps, with seed 0."""
    torch.manual_seed(0)
    task = TASKS[name](device)
    found: list[float] = []

    def recorded(network: nn.Module, batch: Any, generator: torch.Generator) -> Any:
        value, parts = task.loss(network, batch, generator)
        found.append(value.item())
        return value, parts

    recipe = loop.Recipe(images=BATCH * steps, batch=BATCH, warmup=2, weight_decay=task.weight_decay)
    given = argparse.Namespace(out=out, resume=None, device=device, compile=False, minutes=math.inf, commit="test")
    loop.train(loop.Run(task.network, recipe, device, {}), recorded, given)
    return found
