"""The noisy CLIP of GLIDE (openai/glide-text2im): clip_image_enc.pt and clip_text_enc.pt, an encoder together."""

from __future__ import annotations

from typing import Any

from ..architecture import Architecture, Facts, tuples
from ..state_dict import StateDict, count
from .network import ImageConfig, ImageTower, TextConfig, TextTower

HEAD_WIDTH = 64
LOGIT_SCALE, GUIDANCE_SCALE = 100.0, 3.0  # of the published configuration and notebook: together weight 1
SCALES = {"text": LOGIT_SCALE * GUIDANCE_SCALE, "content": LOGIT_SCALE * GUIDANCE_SCALE}  # of a cosine, either way


def _tower(state: StateDict) -> dict[str, Any]:
    embed_dim, width = state["blocks.output.f.w"].shape
    return {
        "width": width,
        "layers": count(state, "blocks.block_{}."),
        "heads": max(1, width // HEAD_WIDTH),
        "embed_dim": embed_dim,
    }


def read_image(state: StateDict) -> ImageConfig:
    patch = state["blocks.input.patch_proj"].shape[-1]
    side = round((state["blocks.input.w_pos"].shape[0] - 1) ** 0.5)
    return ImageConfig(
        **_tower(state), patch_size=patch, image_size=patch * side, timesteps=state["blocks.input.w_t"].shape[0]
    )


def read_text(state: StateDict) -> TextConfig:
    vocabulary = state["blocks.input.w_voc"].shape[0]
    return TextConfig(**_tower(state), context=state["blocks.input.w_pos"].shape[0], vocabulary=vocabulary)


def image_facts(config: ImageConfig) -> Facts:
    """Trained along GLIDE's base, whose schedule is the cosine."""
    return Facts(
        image_size=config.image_size,
        schedule="cosine",
        training_steps=config.timesteps,
        noise_aware=True,
        guide_scales=SCALES,
        logit_scale=LOGIT_SCALE,
        log_ratio=True,
    )


COMMON = ("blocks.block_0.f_attn.f_q.w", "blocks.input.w_pos", "blocks.output.f.w")
GLIDE_CLIP_IMAGE: Architecture[ImageConfig] = Architecture(
    id="glide_clip_image",
    title="the image half of GLIDE's noisy CLIP",
    kind="encoder",
    keys=("blocks.input.w_t", "blocks.input.patch_proj", *COMMON),
    absent=(),
    read_config=read_image,
    parse_config=lambda config: ImageConfig(**tuples(config)),
    build=lambda config, **_: ImageTower(config),
    facts=image_facts,
)
GLIDE_CLIP_TEXT: Architecture[TextConfig] = Architecture(
    id="glide_clip_text",
    title="the text half of GLIDE's noisy CLIP",
    kind="encoder",
    keys=("blocks.input.w_voc", *COMMON),
    absent=(),
    read_config=read_text,
    parse_config=lambda config: TextConfig(**tuples(config)),
    build=lambda config, **_: TextTower(config),
    facts=lambda config: Facts(image_size=64, schedule="cosine", noise_aware=True),
)
