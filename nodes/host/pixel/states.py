"""Texts that CLIP or T5 read, and CLIP's embeddings of pictures, as CONDITIONING.

The states stand in the embedding, the text's summary in the pooled output; so Average mixes them. A last column shows
which rows are seen, and that nobody emptied them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....models.architecture import Facts
from ..conditioning import IMAGE_EMBEDS, STATES, for_batch


@dataclass(frozen=True)
class Read:
    """What another network read of a text."""

    states: Tensor  # [n N W]
    mask: Tensor  # [n N] bool, False where there is none of it
    pooled: Tensor | None = None  # [n D]


def states_conditioning(read: Read, encoder: str) -> list[Any]:
    """CONDITIONING for a model whose texts `encoder` reads, "CLIP" or "T5"."""
    seen = read.mask[..., None].to(read.states)
    pooled = {} if read.pooled is None else {"pooled_output": read.pooled}
    return [[torch.cat([read.states, seen], -1), {**pooled, STATES: encoder}]]


def states_in(given: Mapping[str, Any], facts: Facts) -> Read:
    """One text for each picture. Raises ValueError for what is no text of this model."""
    embedding, encoder = given.get("cross_attn"), given.get(STATES)
    if embedding is None or encoder != facts.text_encoder:
        came = f"what {encoder} read" if encoder else "a CONDITIONING without it"
        raise ValueError(
            f"this model takes what {facts.text_encoder} read of a text, and {came} came; connect this model and Load "
            "CLIP to Text Conditioning, with an empty text for the negative"
        )
    if embedding.shape[2] != facts.text_width + 1:
        raise ValueError(
            f"states of {embedding.shape[2] - 1} numbers came, and this model takes {facts.text_width}; connect this "
            "model to Text Conditioning"
        )
    mask = embedding[..., -1] > 0
    if not mask.any():
        raise ValueError(
            f"the text was emptied, and {facts.text_encoder} reads an empty one as something else than zeros; use Text "
            "Conditioning with an empty text instead of Conditioning (Zero Out)"
        )
    batch, pooled = len(given["noise"]), given.get("pooled_output")
    parts = [embedding[..., :-1], mask] + ([pooled] if facts.image_embeds and pooled is not None else [])
    return Read(*(for_batch(part, batch, "texts") for part in parts))


def with_image_embeds(conditioning: list[Any], embeds: Tensor, strength: float) -> list[Any]:
    """The same with CLIP's embeddings [n D] of pictures, row i for picture i. Strength 0 is no picture."""
    return [[value, {**extra, IMAGE_EMBEDS: (embeds, strength)}] for value, extra in conditioning]


def image_embeds_in(given: Mapping[str, Any], facts: Facts) -> tuple[Tensor | None, float]:
    """[B D] and the strength; None where there are none. Raises ValueError for another width."""
    if not given.get(IMAGE_EMBEDS):
        return None, 0.0
    embeds, strength = given[IMAGE_EMBEDS]
    check_width(embeds, facts)
    return for_batch(embeds, len(given["noise"]), "image embeddings"), strength


def check_width(embeds: Tensor, facts: Facts) -> None:
    if embeds.ndim != 2 or embeds.shape[1] != facts.image_embeds:
        raise ValueError(
            f"an embedding of {embeds.shape[-1]} numbers came, and this model draws those of {facts.image_embeds}; use "
            "the CLIP Vision or the prior that belong to it (Karlo: CLIP ViT-L/14)"
        )
