"""Where a reference picture stands in a CONDITIONING of the host, and the same CONDITIONING without it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from ..conditioning import IMAGE_EMBEDS, KEPT

Cond = Mapping[str, Any]  # one cond of the host, as a guider has it before a run
# What the host's `model_base` reads pictures from, with what says how they are meant.
PICTURES = (
    "reference_latents",  # Flux Kontext, Flux.2, Qwen-Image-Edit, Z-Image Omni, OmniGen, HiDream, Wan, Hunyuan 3D, ...
    "reference_latents_method",
    "reference_latents_text_embeds",
    "concat_latent_image",  # InstructPix2Pix, inpainting models, image to video
    "concat_mask",
    "concat_mask_index",
    "concat_image",  # the host's upscalers
    "unclip_conditioning",  # unCLIP, Stable Cascade, Z-Image Omni
    "clip_vision_output",  # Wan, HunyuanVideo
    "clip_vision_output_ref",
    "clip_vision_outputs",
    "ref_latent",  # HunyuanVideo
    "guiding_frame_index",
    "time_dim_concat",  # Wan Fun
    "time_dim_replace",  # Kandinsky 5
    "context_latents",  # Bernini
    "vace_frames",  # Wan VACE
    "vace_mask",
    "vace_strength",
    "reference_motion",
    KEPT,  # the pack's own: GLIDE's inpainting
    IMAGE_EMBEDS,  # Karlo's decoder
)


def shows_a_picture(cond: Cond) -> bool:
    return any(cond.get(key) is not None for key in PICTURES)


def without_pictures(cond: Cond) -> dict[str, Any]:
    """The same text, area, mask, ControlNet and times. It is a conditioning of its own to what tells them apart."""
    return {**{key: value for key, value in cond.items() if key not in PICTURES}, "uuid": uuid.uuid4()}
