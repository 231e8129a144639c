"""open_clip's CLIP, asked as every encoder of the pack is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import open_clip
import torch
from torch import Tensor
from torch.nn.functional import linear

from ..encoder import DIFFERENCE, SELF_SIMILARITY, STYLE
from . import ClipConfig
from .tokens import tokens

MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


class Clip(open_clip.CLIP):
    """Radford et al. 2021, arXiv 2103.00020. Layers of a ResNet: STAGES. Of a ViT: "block n" are the patch tokens after
    block n, "keys n" the keys of its attention."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ClipConfig):
        vision = {
            "layers": config.layers if config.resnet else config.layers[0],
            "width": config.width,
            "head_width": config.head_width,
            "mlp_ratio": config.mlp_ratio,
            "patch_size": config.patch_size,
            "image_size": config.image_size,
        }
        text = {
            "context_length": config.context,
            "vocab_size": config.vocabulary,
            "width": config.text_width,
            "heads": config.text_heads,
            "layers": config.text_layers,
            "mlp_ratio": config.text_mlp_ratio,
        }
        super().__init__(config.embed_dim, cast(Any, vision), cast(Any, text), quick_gelu=config.quick_gelu)
        self.config = config
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    @property
    def depth(self) -> int | None:
        """Blocks of a ViT, None for a ResNet."""
        return None if self.config.resnet else self.config.layers[0]

    @property
    def layers(self) -> Sequence[str]:
        if self.depth is None:
            return STAGES
        return [f"{kind} {index + 1}" for kind in ("block", "keys") for index in range(self.depth)]

    @property
    def usual_layers(self) -> Mapping[str, Sequence[str]]:
        if self.depth is None:
            return {STYLE: STAGES, DIFFERENCE: STAGES[2:], SELF_SIMILARITY: STAGES[3:]}
        style = [f"block {index + 1}" for index in range(min(3, self.depth))]
        half = f"block {(self.depth + 1) // 2}"
        return {STYLE: style, DIFFERENCE: [half], SELF_SIMILARITY: [f"keys {self.depth}"]}

    def prepared(self, x: Tensor) -> Tensor:
        return ((x + 1) / 2 - self.mean) / self.std

    def maps(self, x: Tensor, t: Tensor, layers: Sequence[str]) -> list[Tensor]:
        x = self.prepared(x)
        if self.depth is None:
            places = [STAGES.index(name) for name in layers]
            indices = sorted(set(places))
            found = self._intermediates(x, indices)
            return [found[indices.index(place)] for place in places]
        places = [int(name.split()[1]) - 1 for name in layers]
        indices = sorted(set(places))
        keys: dict[int, Tensor] = {}
        blocks = cast(Any, self.visual).transformer.resblocks
        hooks = [
            blocks[place].ln_1.register_forward_hook(
                lambda module, inputs, output, place=place: keys.__setitem__(place, self._keys(place, output))
            )
            for place in {place for place, name in zip(places, layers, strict=True) if name.startswith("keys")}
        ]
        try:
            found = self._intermediates(x, indices)
        finally:
            for hook in hooks:
                hook.remove()
        return [
            keys[place] if name.startswith("keys") else found[indices.index(place)]
            for place, name in zip(places, layers, strict=True)
        ]

    def _intermediates(self, x: Tensor, indices: list[int]) -> list[Tensor]:
        # open_clip 3.3 has the condition the wrong way round in its ResNet
        options = {"indices": indices, "stop_early": not self.config.resnet, "intermediates_only": True}
        return cast(Any, self.visual).forward_intermediates(x, **options)["image_intermediates"]

    def _keys(self, place: int, tokens: Tensor) -> Tensor:
        """Normalised tokens entering an attention, [B N C] with the class token first -> its keys, [B C h w]."""
        transformer = cast(Any, self.visual).transformer
        if not transformer.batch_first:
            tokens = tokens.transpose(0, 1)
        attention = transformer.resblocks[place].attn
        width = tokens.shape[-1]
        rows = slice(width, 2 * width)
        keys = linear(tokens[:, 1:], attention.in_proj_weight[rows], attention.in_proj_bias[rows])
        side = round(keys.shape[1] ** 0.5)
        return keys.transpose(1, 2).unflatten(2, (side, side))

    def embed(self, x: Tensor, t: Tensor) -> Tensor:
        return self.encode_image(self.prepared(x))

    def embed_text(self, text: str) -> Tensor:
        """Raises ValueError for an empty text and one longer than the context: nothing is cut off in silence."""
        found = tokens(text, self.config.context)
        padded = found + [0] * (self.config.context - len(found))
        return self.encode_text(torch.tensor([padded], device=self.mean.device))
