"""open_clip's CLIP, asked as every encoder of the pack is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import open_clip
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from ..encoder import DIFFERENCE, EMBEDDING, SELF_SIMILARITY, STYLE, ImageEncoder
from . import ClipConfig
from .tokens import tokens

MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


class Clip(open_clip.CLIP, ImageEncoder):
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
        """Pictures in [-1, 1] as the towers were trained on them."""
        return ((x + 1) / 2 - self.mean) / self.std

    def encode(self, x: Tensor, t: Tensor, names: Collection[str]) -> Mapping[str, Tensor]:
        x = self.prepared(x).to(cast(Any, self.visual).conv1.weight.dtype)
        return self._of_resnet(x, names) if self.depth is None else self._of_vit(x, names)

    def _of_resnet(self, h: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        visual, found = cast(Any, self.visual), {}
        for name, part in zip((*STAGES, EMBEDDING), (visual.stem, *_stages(visual), visual.attnpool), strict=True):
            h = part(h)
            if name in names:
                found[name] = h
            if len(found) == len(set(names)):
                break
        return found

    def _of_vit(self, x: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """open_clip's blocks with keys and queries left where one product puts them: fewer launches, no copies."""
        visual, found = cast(Any, self.visual), {}
        tokens = visual.conv1(x).flatten(2).transpose(1, 2)
        first = visual.class_embedding.expand(len(x), 1, -1)
        tokens = visual.ln_pre(torch.cat([first, tokens], dim=1) + visual.positional_embedding)
        for index, block in enumerate(visual.transformer.resblocks, 1):
            queries, keys, values = _projected(block.attn, block.ln_1(tokens))
            if f"keys {index}" in names:
                found[f"keys {index}"] = _map(keys.transpose(1, 2).flatten(2))
            if len(found) == len(set(names)):
                return found
            mixed = scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
            tokens = tokens + block.ls_1(block.attn.out_proj(mixed))
            tokens = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
            if f"block {index}" in names:
                found[f"block {index}"] = _map(tokens)
            if len(found) == len(set(names)):
                return found
        found[EMBEDDING] = visual.ln_post(tokens[:, 0]) @ visual.proj
        return found

    def embed_text(self, text: str) -> Tensor:
        """Raises ValueError for an empty text and one longer than the context: nothing is cut off in silence."""
        return self.encode_text(self._tokens(text))

    def embed_words(self, text: str) -> Tensor:
        """The tokens between start and end."""
        indices = self._tokens(text)
        tower: Any = self  # whose layers open_clip's own class does not type
        x = tower.token_embedding(indices) + tower.positional_embedding
        states = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask))
        return states[0, 1 : int(indices.argmax())]  # the end has the largest number

    def _tokens(self, text: str) -> Tensor:
        found = tokens(text, self.config.context)
        padded = found + [0] * (self.config.context - len(found))
        return torch.tensor([padded], device=self.mean.device)


def _stages(visual: Any) -> list[nn.Module]:
    return [getattr(visual, name) for name in STAGES[1:]]


def _projected(attention: nn.MultiheadAttention, tokens: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values of tokens [B N C], [B heads N d] each."""
    found = linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    return found.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()


def _map(tokens: Tensor) -> Tensor:
    """[B N C], the class token first -> [B C h w]."""
    side = round((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))
