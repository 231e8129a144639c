"""Trains the pack's noise-aware CLIP pair on scenes and captions: SDG's time-modulated image encoder, a text encoder.

Symmetric contrastive loss (Radford et al. 2021) on noisy pictures. Captions leave attributes out, so one caption may
fit many pictures of a batch: the targets are spread evenly over all that fit. Whole captions are told apart by colours
alone, so a second term compares each picture with the captions of one attribute at a time ("a star", "a dotted shape").
"""

from __future__ import annotations

import json
from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from models.clip_noisy import OWN_LOGIT_SCALE
from models.clip_noisy.network import ClipNoisy, ClipNoisyConfig
from models.schedule import NoiseSchedule

from .captions import WORDS, Captions
from .loop import Recipe, Run, arguments, train
from .scenes import CLASSES, Scenes

CONFIG = ClipNoisyConfig(
    image_size=32,
    stem=(16, 16, 24),
    planes=(24, 40, 56, 72),
    blocks=(1, 1, 2, 1),
    strides=(2, 2, 2, 1),
    stem_stride=1,
    embed_dim=64,
    heads=4,
    time_width=64,
    time_hidden=64,
    words=WORDS,
    sharpness=6.0,
)
RECIPE = Recipe(images=400_000, batch=128, learning_rate=2e-3, weight_decay=0.02, seed=2, ema=0.998)
# At weight 1, by their effect on scenes: text and content 8 and 4 x the exact scale (SDG's text: 4 x that of its CLIP).
GUIDE_SCALES = {"text": 240.0, "content": 120.0, "difference": 50.0, "self-similarity": 600.0, "style": 4e5}


class NoisyContrast:
    """Mean of both cross entropies; t grows from low noise to all noise over the first images."""

    def __init__(self, schedule: NoiseSchedule, device: str, curriculum: int):
        ab = schedule.alphas_cumprod
        self.signal, self.noise = ab.sqrt().float().to(device), (1 - ab).sqrt().float().to(device)
        self.curriculum = curriculum
        self.seen = torch.zeros((), dtype=torch.float64, device=device)
        self.captions = Captions(CONFIG.context, device)

    def __call__(
        self, network: nn.Module, scenes: Scenes, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(network, ClipNoisy)
        x0, labels = scenes.image, scenes.attributes.labels()
        batch, device = len(x0), x0.device
        reach = (0.1 + self.seen / self.curriculum).clamp(max=1.0)
        self.seen += batch
        t = (torch.rand(batch, generator=generator, device=device) ** 1.5 * reach * len(self.signal)).long()
        noise = torch.randn(x0.shape, generator=generator, device=device)
        x = self.signal[t][:, None, None, None] * x0 + self.noise[t][:, None, None, None] * noise

        keep = torch.rand(batch, 4, generator=generator, device=device) < 0.6
        keep[:, 0] |= ~keep.any(1)
        short = torch.rand(batch, generator=generator, device=device) < 0.3
        words = self.captions.words(labels, keep, short)
        fits = ((labels[:, None] == labels[None]) | ~keep[None]).all(2)  # [picture, caption]

        image, text = normalize(network.embed(x, t).float(), dim=1), normalize(network.text(words).float(), dim=1)
        logits = OWN_LOGIT_SCALE * image @ text.T
        to_text = cross_entropy(logits, fits / fits.sum(1, keepdim=True))
        to_image = cross_entropy(logits.T, fits.T / fits.T.sum(1, keepdim=True))

        singles = self.captions.singles(torch.rand((), generator=generator, device=device) < 0.3)
        alone = OWN_LOGIT_SCALE * image @ normalize(network.text(singles).float(), dim=1).T
        groups = alone.split([len(names) for names in CLASSES.values()], dim=1)
        losses = torch.stack([cross_entropy(part, labels[:, k]) for k, part in enumerate(groups)])

        clear = t < 200
        right = groups[0].argmax(1) == labels[:, 0]
        accuracy = (right & clear).sum() / clear.sum().clamp(min=1)
        report = {name: losses[k] for k, name in enumerate(CLASSES)}
        contrast = (to_text + to_image) / 2
        return contrast + losses.sum(), report | {"contrast": contrast, "shape_below_200": accuracy}


def main() -> None:
    recipe, given = arguments("models/demo/encoders/scenes_clip.safetensors", RECIPE)
    torch.manual_seed(recipe.seed)
    network = ClipNoisy(CONFIG)
    metadata = {
        "architecture": "clip_noisy",
        "config": json.dumps(asdict(CONFIG)),
        "schedule": "linear",
        "image_size": str(CONFIG.image_size),
        "guide_scales": json.dumps(GUIDE_SCALES),
    }
    loss = NoisyContrast(NoiseSchedule.named("linear"), given.device, curriculum=1 if given.resume else 60_000)
    train(Run(network, recipe, given.device, metadata), loss, given)


if __name__ == "__main__":
    main()
