"""What the prior and the decoder of the small unCLIP share: what scenes_clip sees in scenes and reads in captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from models.clip_noisy.network import ClipNoisy
from models.registry import load_checkpoint

from .captions import Captions

SHIPPED = "models/demo/encoders/scenes_clip.safetensors"


@dataclass(frozen=True)
class Caption:
    """What CLIP reads in captions; an empty one is one state of zeros, and an embedding of zeros."""

    states: Tensor  # [B N D]
    pooled: Tensor  # [B D]
    mask: Tensor  # [B N] bool


class Clip:
    """The frozen pair of encoders."""

    def __init__(self, device: str):
        checkpoint = load_checkpoint(SHIPPED, "encoder")
        network = cast(ClipNoisy, checkpoint.build(device=device))
        network.load_state_dict({key: value.to(device) for key, value in checkpoint.state.items()})
        self.network = network.float().to(device).eval().requires_grad_(False)
        self.context = network.config.context
        self.captions = Captions(self.context, device)

    def see(self, image: Tensor) -> Tensor:
        """[B 3 32 32] in [-1, 1], clean -> embeddings [B D], not normalised."""
        return self.network.embed(image, torch.zeros(len(image), device=image.device))

    def read(self, labels: Tensor, keep: Tensor, generator: torch.Generator) -> Caption:
        """Captions of classes [B 4] that name those to be kept [B 4] bool, in many words or few; none: empty ones."""
        short = torch.rand(len(labels), generator=generator, device=labels.device) < 0.3
        words = self.captions.words(labels, keep, short) * keep.any(1, keepdim=True)
        return Caption(*self.network.text.read(words))
