"""Trains the pack's unCLIP decoder: Karlo's architecture on 32x32 scenes, told what scenes_clip sees in each.

The embedding of a picture is left out for one in ten, and the caption for most: a decoder that always hears the caption
need not look at the embedding, and variations of a picture have none (Ramesh et al. 2022, arXiv 2204.06125, sec. 2.1).

It starts from the shipped U-Net of texts: of each 32 channels of the innermost level 24 are kept, so that the file
stays small. Its embedding of a picture begins by saying what that U-Net understands, by ridge regression: the summary
of the whole caption, and in its four tokens the states of the four words that name something.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.glide.network import GlideUNet
from models.karlo.network import KarloConfig, KarloDecoder
from models.schedule import NoiseSchedule

from . import text_unet
from .captions import Captions
from .loop import Recipe, Run, arguments, train, zero_outputs
from .scenes import Scenes, draw, render
from .unclip import Clip
from .unet import HybridLoss

CONFIG = KarloConfig(
    model_channels=16,
    out_channels=6,
    num_res_blocks=1,
    channel_mult=(1, 2, 4, 6),
    attention=(4, 8),
    num_heads=4,
    groups=4,
    text_width=64,
    clip_width=64,
    image_tokens=4,
)
SHIPPED = "models/demo/models/scenes_unclip.safetensors"
RECIPE = Recipe(images=80_000, batch=32, learning_rate=1e-3, seed=32)
NO_PICTURE, NO_CAPTION = 0.1, 0.7  # shares of pictures without an embedding, and without a caption
WIDE, NARROW = 32, 24  # channels of a group, and of a head, of the innermost level: there and here
NAMING = [1, 2, 3, 6]  # places of the words in "a dotted red heart on a white background" that name something
READ, RIDGE = 4096, 1e-3


class DecoderLoss(HybridLoss):
    """Of pictures with what CLIP sees in them, and their captions."""

    def __init__(self, schedule: NoiseSchedule, device: str):
        super().__init__(schedule, device)
        self.clip = Clip(device)

    def predict(self, network: nn.Module, x: Tensor, t: Tensor, scenes: Scenes, generator: torch.Generator) -> Tensor:
        assert isinstance(network, KarloDecoder)

        def left_out(share: float) -> Tensor:
            return torch.rand(len(x), 1, generator=generator, device=x.device) < share

        labels = scenes.attributes.labels()
        keep = text_unet.kept(labels, generator) & ~left_out(NO_CAPTION)
        caption = self.clip.read(labels, keep, generator)
        image = torch.where(left_out(NO_PICTURE), network.cf_param, self.clip.see(scenes.image))
        return network(x, t, network.read(caption.states, caption.pooled, caption.mask, image))


def narrowed(weight: Tensor, shape: torch.Size) -> Tensor:
    """NARROW of each WIDE channels of an axis that is longer than in `shape`; what comes behind these stays whole."""
    for axis, (there, here) in enumerate(zip(weight.shape, shape, strict=True)):
        cut = (there - here) * WIDE // (WIDE - NARROW)
        kept = torch.arange(there)
        weight = weight.index_select(axis, kept[(kept >= cut) | (kept % WIDE < NARROW)])
    return weight


def from_texts(network: KarloDecoder) -> None:
    """Weights of the shipped U-Net of texts, whose input has more channels."""
    shipped = load_file(text_unet.SHIPPED)
    shipped["input_blocks.0.0.weight"] = shipped["input_blocks.0.0.weight"][:, :3]
    for key, value in network.state_dict().items():
        if key in shipped:
            value.copy_(narrowed(shipped[key].float(), value.shape))


def learn_to_read(network: KarloDecoder, clip: Clip, generator: torch.Generator) -> None:
    """What CLIP sees is said as the shipped U-Net of texts reads it in whole captions; a text adds nothing yet."""
    reader = GlideUNet(text_unet.CONFIG)
    reader.load_state_dict({key: value.float() for key, value in load_file(text_unet.SHIPPED).items()})
    scenes = render(draw(READ, generator))
    labels = scenes.attributes.labels()
    long = torch.zeros(READ, dtype=torch.bool)
    with torch.no_grad():
        said = reader.read(
            Captions(text_unet.CONFIG.context, "cpu").words(labels, torch.ones_like(labels) > 0, long) - 1
        )
        seen = torch.cat([clip.see(part) for part in scenes.image.split(256)])
    assert said.pooled is not None
    fit(network.clip_emb, seen, said.pooled)
    fit(network.clip_tok_proj, seen, said.states[:, :, NAMING].flatten(1))
    nn.init.zeros_(network.text_feat_proj.weight)
    nn.init.zeros_(network.text_feat_proj.bias)


@torch.no_grad()
def fit(layer: nn.Linear, x: Tensor, y: Tensor) -> None:
    """Ridge regression of y [n out] on x [n in]."""
    centred, mean = x - x.mean(0), y.mean(0)
    gram = centred.T @ centred
    gram = gram + RIDGE * gram.trace() / len(gram) * torch.eye(len(gram))
    layer.weight.copy_(torch.linalg.solve(gram, centred.T @ (y - mean)).T)
    layer.bias.copy_(mean - layer.weight @ x.mean(0))


METADATA = {
    "architecture": "karlo_decoder",
    "config": json.dumps(asdict(CONFIG)),
    "schedule": "linear",
    "image_size": "32",
}


def main() -> None:
    recipe, given = arguments(SHIPPED, RECIPE)
    torch.manual_seed(recipe.seed)
    network = KarloDecoder(CONFIG)
    zero_outputs(network)
    loss = DecoderLoss(NoiseSchedule.named("linear"), given.device)
    if given.resume is None:
        from_texts(network)
        learn_to_read(network, Clip("cpu"), torch.Generator().manual_seed(recipe.seed))
    train(Run(network, recipe, given.device, METADATA), loss, given)


if __name__ == "__main__":
    main()
