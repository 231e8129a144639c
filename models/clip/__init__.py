"""CLIP files of open_clip: ViT and ResNet towers with their text tower, known by their shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ..architecture import Architecture, Facts, tuples
from ..state_dict import StateDict, count

HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}  # of ViT-H, -g, -bigG and -e, by width; 64 elsewhere
USUAL_WIDTHS = (384, 512, 640, 768, 896, 1024)  # of ViTs with 64 channels a head
OPENAI = ("input_resolution", "context_length", "vocab_size")  # extra entries of OpenAI's own files


@dataclass(frozen=True)
class ClipConfig:
    """`layers` has four numbers for a ResNet, one for a ViT."""

    embed_dim: int
    image_size: int
    width: int
    layers: tuple[int, ...]
    patch_size: int
    head_width: int
    mlp_ratio: float
    text_width: int
    text_layers: int
    text_heads: int
    text_mlp_ratio: float
    context: int
    vocabulary: int
    quick_gelu: bool = False

    @property
    def resnet(self) -> bool:
        return len(self.layers) > 1


def _ratio(state: StateDict, prefix: str) -> float:
    """MLP width over width; half a unit more, so that rounding down gives it back."""
    weight = state[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"]
    return (weight.shape[0] + 0.5) / weight.shape[1]


def read_config(state: StateDict) -> ClipConfig:
    text_width = state["ln_final.weight"].shape[0]
    common: dict[str, Any] = {
        "embed_dim": state["text_projection"].shape[1],
        "text_width": text_width,
        "text_layers": count(state, "transformer.resblocks.{}."),
        "text_heads": text_width // 64,
        "text_mlp_ratio": _ratio(state, ""),
        "context": state["positional_embedding"].shape[0],
        "vocabulary": state["token_embedding.weight"].shape[0],
        "quick_gelu": any(key in state for key in OPENAI),
    }
    if "visual.layer1.0.conv1.weight" in state:
        positions = state["visual.attnpool.positional_embedding"].shape[0] - 1
        return ClipConfig(
            image_size=32 * round(positions**0.5),
            width=state["visual.layer1.0.conv1.weight"].shape[0],
            layers=tuple(count(state, f"visual.layer{k}.{{}}.") for k in (1, 2, 3, 4)),
            patch_size=32,
            head_width=64,
            mlp_ratio=4.0,
            **{**common, "quick_gelu": True},  # nearly all published ones are OpenAI's
        )
    width, _, patch, _ = state["visual.conv1.weight"].shape
    positions = state["visual.positional_embedding"].shape[0] - 1
    return ClipConfig(
        image_size=patch * round(positions**0.5),
        width=width,
        layers=(count(state, "visual.transformer.resblocks.{}."),),
        patch_size=patch,
        head_width=HEAD_WIDTHS.get(width, 64),
        mlp_ratio=_ratio(state, "visual."),
        **common,
    )


def guesses(config: ClipConfig) -> dict[str, str]:
    """A ViT has QuickGELU here only where OpenAI's extra entries say so; shapes tell OpenAI's from nobody's."""
    if config.resnet:
        return {"activation": "QuickGELU"}
    known = config.width in (*HEAD_WIDTHS, *USUAL_WIDTHS)
    heads = {} if known else {"num_heads": str(config.width // config.head_width)}
    return heads | ({} if config.quick_gelu else {"activation": "GELU"})


def with_activation(config: ClipConfig, quick_gelu: bool) -> ClipConfig:
    """OpenAI trained with QuickGELU, others mostly with GELU; weights don't tell."""
    return replace(config, quick_gelu=quick_gelu)


def with_vision_heads(config: ClipConfig, num_heads: int) -> ClipConfig:
    """So many heads in the blocks of a ViT. Raises ValueError where its width can't be split so."""
    if config.resnet or config.width % num_heads:
        kind = "a ResNet, whose heads are fixed" if config.resnet else f"{config.width} channels wide"
        raise ValueError(f"its vision tower is {kind}, and can't have {num_heads} heads; choose others, or 0")
    return replace(config, head_width=config.width // num_heads)


def build(config: ClipConfig, **_: Any) -> nn.Module:
    try:
        from .network import Clip
    except ImportError as error:
        raise ValueError(
            f"CLIP files need the package open_clip_torch ({error}); pip install open_clip_torch"
        ) from error
    return Clip(config)


CLIP: Architecture[ClipConfig] = Architecture(
    id="clip",
    title="a CLIP of open_clip",
    kind="encoder",
    keys=("visual.conv1.weight", "token_embedding.weight", "text_projection", "ln_final.weight", "logit_scale"),
    absent=("visual.trunk.norm.weight",),
    read_config=read_config,
    parse_config=lambda config: ClipConfig(**tuples(config)),
    build=build,
    facts=lambda config: Facts(image_size=config.image_size, guide_scales={}),
    ignored=(*OPENAI, "attn_mask"),
    guesses=guesses,
)
