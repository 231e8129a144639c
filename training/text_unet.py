"""Trains the pack's text-conditional U-Net: GLIDE's architecture on 32x32 scenes and their captions.

It is GLIDE's inpainting model: beside x stand the known part of the picture and its mask, 1 where it is known. In most
batches nothing is known, so one network draws from text alone and fills holes. One caption in ten is empty: the null of
classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598).

It starts from the shipped U-Net of classes, and its transformer first learns to say what that U-Net understands: the
mean of the embeddings of the classes that a caption names. So the picture half need not be learnt again; the sum of
these embeddings says more, but the U-Net has never seen one of that length, and draws noise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.glide.network import GlideConfig, GlideUNet
from models.schedule import NoiseSchedule

from . import unet
from .captions import WORDS, Captions
from .loop import Recipe, Run, arguments, train, zero_outputs
from .scenes import CLASSES, Scenes, draw, first_index
from .unet import HybridLoss

CONFIG = GlideConfig(
    model_channels=16,
    out_channels=6,
    in_channels=7,
    num_res_blocks=1,
    channel_mult=(1, 2, 4, 8),
    attention=(4, 8),
    num_heads=4,
    groups=4,
    text_width=64,
    text_layers=2,
    text_heads=4,
    context=16,
    vocabulary=len(WORDS),
    words=WORDS,
)
SHIPPED = "models/demo/models/scenes_text.safetensors"
RECIPE = Recipe(images=400_000, batch=32, learning_rate=1e-3, seed=30)
EMPTY, WHOLE, KEPT = 0.1, 0.6, 0.8  # shares: of empty captions, of whole ones, of attributes named in the others
KNOWN = 0.25  # share of pictures of which a part is known


class TextLoss(HybridLoss):
    """Of pictures with captions; `beside` says what stands beside x."""

    def __init__(self, schedule: NoiseSchedule, device: str):
        super().__init__(schedule, device)
        self.captions = Captions(CONFIG.context, device)

    def predict(self, network: nn.Module, x: Tensor, t: Tensor, scenes: Scenes, generator: torch.Generator) -> Tensor:
        assert isinstance(network, GlideUNet)
        labels = scenes.attributes.labels()
        text = network.read(tokens(self.captions, labels, kept(labels, generator), generator))
        return network(torch.cat([x, *self.beside(scenes, generator)], dim=1), t, text)

    def beside(self, scenes: Scenes, generator: torch.Generator) -> list[Tensor]:
        known = known_parts(scenes.image, generator)
        return [scenes.image * known, known]


def kept(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Which attributes a caption names, [B 4] bool: all, some or none."""
    batch, device = len(labels), labels.device

    def share(wanted: float, count: int) -> Tensor:
        return torch.rand(batch, count, generator=generator, device=device) < wanted

    return (share(KEPT, 4) | share(WHOLE, 1)) & ~share(EMPTY, 1)


def tokens(captions: Captions, labels: Tensor, keep: Tensor, generator: torch.Generator) -> Tensor:
    """Captions [B context] of classes [B 4], in many words or few; nothing is named by an empty one."""
    short = torch.rand(len(labels), generator=generator, device=labels.device) < 0.3
    return torch.where(keep.any(1, keepdim=True), captions.words(labels, keep, short) - 1, -1)


def known_parts(image: Tensor, generator: torch.Generator) -> Tensor:
    """Masks [B 1 H W]: nothing is known, or all but a random box, or a random box alone."""
    batch, device, size = len(image), image.device, image.shape[-1]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator, device=device)

    place = torch.arange(size, device=device)
    low, high = (size * uniform(2, 2)).sort(dim=1).values.unbind(1)  # [B 2] rows and columns
    inside = (place >= low[..., None]) & (place <= high[..., None])  # [B 2 size]
    box = inside[:, 0, :, None] & inside[:, 1, None, :]
    known = box ^ (uniform(1, 1) < 0.5)
    return (known & (uniform(1, 1) < KNOWN))[:, None].to(image.dtype)


def from_classes(network: GlideUNet) -> None:
    """Weights of the shipped U-Net of classes where they fit; what is new starts without effect.

    A network of fewer levels lacks the innermost ones, so blocks of the way out are counted from its end.
    """
    own, shipped = network.state_dict(), load_file(unet.SHIPPED)
    fewer = 2 * (len(unet.CONFIG.channel_mult) - len(network.config.channel_mult))
    for key, value in own.items():
        there = re.sub(r"(?<=^output_blocks\.)\d+", lambda found: str(int(found[0]) + fewer), key)
        if there in shipped and shipped[there].shape == value.shape:
            value.copy_(shipped[there])
    stem = own["input_blocks.0.0.weight"]
    stem.zero_()[:, :3].copy_(shipped["input_blocks.0.0.weight"])


def say(step: int, loss: float) -> None:
    if step % 100 == 0:
        print(f"reading {step}: {loss:.2e}", flush=True)


def learn_to_read(
    network: GlideUNet,
    generator: torch.Generator,
    steps: int = 1500,
    batch: int = 256,
    report: Callable[[int, float], None] = say,
) -> None:
    """The transformer's summary of a caption becomes the mean of its classes' embeddings in the shipped U-Net."""
    device = network.positional_embedding.device
    table = load_file(unet.SHIPPED)["label_emb.weight"].float().to(device)
    classes = (table - table[unet.NO_CLASS])[: unet.NO_CLASS]
    first = torch.tensor([first_index(name) for name in CLASSES], device=device)
    captions = Captions(CONFIG.context, str(device))
    parts = [network.transformer, network.final_ln, network.transformer_proj, network.token_embedding]
    parameters = [parameter for part in parts for parameter in part.parameters()]
    optimizer = torch.optim.Adam([*parameters, network.positional_embedding, network.padding_embedding], lr=2e-3)
    for step in range(steps):
        labels = draw(batch, generator).labels()
        keep = kept(labels, generator)
        share = keep / keep.sum(1, keepdim=True).clamp(min=1)
        wanted = table[unet.NO_CLASS] + (classes[labels + first] * share[..., None]).sum(1)
        said = network.read(tokens(captions, labels, keep, generator)).pooled
        assert said is not None
        loss = (said - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        optimizer.step()
        report(step, loss.item())


METADATA = {
    "architecture": "glide",
    "config": json.dumps(asdict(CONFIG)),
    "schedule": "linear",
    "image_size": "32",
}


def main() -> None:
    recipe, given = arguments(SHIPPED, RECIPE)
    torch.manual_seed(recipe.seed)
    network = GlideUNet(CONFIG)
    zero_outputs(network)
    if given.resume is None:
        from_classes(network)
        learn_to_read(network.to(given.device), torch.Generator(given.device).manual_seed(recipe.seed))
    loss = TextLoss(NoiseSchedule.named("linear"), given.device)
    train(Run(network, recipe, given.device, METADATA), loss, given)


if __name__ == "__main__":
    main()
