"""The host's text encoders, asked for what unCLIP and Imagen were trained on, whichever node loaded them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management as mm
import torch

from ..guides.clip_vision import text_tower
from ..guides.encoder import Encoder
from .states import Read

LAST = 10**6  # a layer beyond every depth: the host takes the last one, behind its norm
END = 1  # T5's token


@contextmanager
def asked(clip: Any, tower: Any) -> Iterator[None]:
    """The tower loaded, and asked for its last layer behind the norm."""
    clip.load_model()
    tower.reset_clip_options()
    tower.set_clip_options({"layer": LAST, "projected_pooled": True, "execution_device": clip.patcher.load_device})
    try:
        yield
    finally:
        tower.reset_clip_options()


def read_clip(clip: Any, text: str, width: int) -> Read:
    """By the tower whose embedding is `width` wide; an empty text is its start and end.

    One of the pack's own encoders reads by itself. Raises ValueError where there is no such tower, and for texts too
    long for one.
    """
    if isinstance(clip, Encoder):
        return read_encoder(clip, text, width)
    clip.load_model()  # its weights are looked at
    key, tower = text_tower(clip, width, "the model was made with embeddings of")
    tokens = clip.tokenize(text)[key]
    if len(tokens) > 1:
        raise ValueError(f"the text needs {len(tokens)} chunks of tokens, and the model reads one; shorten it")
    with asked(clip, tower):
        states, pooled, *_ = tower.encode_token_weights(tokens)
    numbers = [token for token, _ in tokens[0]]
    last = numbers.index(tower.special_tokens["end"], 1)
    mask = torch.arange(len(numbers))[None] <= last
    device = mm.intermediate_device()
    return Read(states.float().to(device), mask.to(device), pooled.float().to(device))


def read_encoder(encoder: Encoder, text: str, width: int) -> Read:
    """Raises ValueError for an encoder that reads no texts for others, and for one of another width."""
    states, pooled, mask = (part.to(mm.intermediate_device()) for part in encoder.text_states(text))
    if pooled.shape[1] != width:
        raise ValueError(
            f"the model was made with embeddings of {width} numbers, and {encoder.name} has {pooled.shape[1]}; use the "
            "encoder of the same model"
        )
    return Read(states, mask, pooled)


def read_t5(clip: Any, text: str, context: int, width: int) -> tuple[Read, int]:
    """T5's states of a text padded to `context`, padding not seen inside T5 and seen by the model (as IF was trained).

    Also how many tokens were cut off. Raises ValueError where the CLIP has no T5, or one of another width.
    """
    towers = [part for name, part in clip.cond_stage_model.named_modules() if name.rpartition(".")[2].startswith("t5")]
    if not towers:
        raise ValueError("this CLIP has no T5; load t5xxl with Load CLIP, type pixart or sd3")
    (key,) = [key for key in clip.tokenize(text) if key.startswith("t5")]
    numbers = [token for token, _ in clip.tokenize(text)[key][0]]
    words = numbers[: numbers.index(END)]
    cut = max(0, len(words) + 1 - context)
    words = words[: context - 1]
    padded = [*words, END] + [0] * (context - 1 - len(words))
    with asked(clip, towers[0]):
        before, towers[0].enable_attention_masks = towers[0].enable_attention_masks, True
        try:
            states = towers[0]([padded])[0]
        finally:
            towers[0].enable_attention_masks = before
    if states.shape[-1] != width:
        raise ValueError(f"this T5 is {states.shape[-1]} wide, and the model takes {width}; IF needs t5xxl")
    states = states.float().to(mm.intermediate_device())
    return Read(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)), cut
