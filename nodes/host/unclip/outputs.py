"""The host's CLIP_VISION_OUTPUT, read and made."""

from __future__ import annotations

from typing import Any

import comfy.clip_vision
from torch import Tensor

from ..pixel.towers import read_clip


def seen(embeds: Tensor) -> Any:
    """Embeddings [n D] as the host's nodes take them."""
    output = comfy.clip_vision.Output()
    output["image_embeds"] = embeds
    output["last_hidden_state"] = output["penultimate_hidden_states"] = output["all_hidden_states"] = None
    output["mm_projected"] = None
    return output


def embeds_of(output: Any | None, width: int | None = None) -> Tensor:
    """The first row, [D]. Raises ValueError where there is none, or one of another width."""
    if output is None:
        raise ValueError("nothing is connected; slerp and lerp lead from one embedding to another")
    embeds = getattr(output, "image_embeds", None)
    if embeds is None or embeds.ndim != 2:
        raise ValueError("this CLIP Vision has no projected embedding; use a CLIP, not SigLIP or DINO")
    if width is not None and embeds.shape[1] != width:
        raise ValueError(f"an embedding of {embeds.shape[1]} numbers came, and embed_a has {width}; use the same CLIP")
    return embeds[0].float()


def difference_of(clip: Any | None, source: str, target: str, width: int) -> Tensor:
    """Embedding of the target text minus that of the source, [D]. Raises ValueError for two that are the same."""
    if clip is None:
        raise ValueError("nothing is connected; text difference reads two texts with the CLIP of embed_a")
    first, second = (read_clip(clip, text, width).pooled for text in (source, target))
    assert first is not None and second is not None
    if first.equal(second):
        raise ValueError("source_text and target_text are the same, and lead nowhere; write what is to change")
    return (second - first)[0]
