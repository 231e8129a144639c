"""How the texts of a CONDITIONING reach a network: read once for a run, then beside x and t at every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....models.architecture import Facts
from ....models.layers import Text
from .small import augmentation_step
from .states import image_embeds_in, states_in
from .tokens import tokens_in


def text_in(given: dict[str, Any], facts: Facts, network: Any, device: Any) -> dict[str, Tensor]:
    """What the network reads of its text, by the names under which `conditions` finds it; empty if it reads none."""
    if facts.vocabulary:
        text = network.read(tokens_in(given, facts, network.config.context).to(device))
    elif facts.image_embeds:
        read, (image, strength) = states_in(given, facts), image_embeds_in(given, facts)
        if read.pooled is None:
            raise ValueError("the text lost its pooled output on the way; connect Text Conditioning as it is")
        image = None if image is None else image.to(device)
        text = network.read(read.states.to(device), read.pooled.to(device), read.mask.to(device), image, strength)
    elif facts.text_encoder:
        states, step = states_in(given, facts).states.to(device), augmentation_step(given, facts)
        text = network.read(states, None if step is None else torch.full((len(states),), step, device=device))
    else:
        return {}
    seen = {} if text.mask is None else {"seen": text.mask}
    return {"y": text.pooled, "states": text.states, **seen}


def conditions(given: dict[str, Any]) -> tuple[tuple[Any, ...], tuple[Text, ...]]:
    """What a network is told beside x and t, and what of it both halves of a U-Net take: the text."""
    y, states, seen = given.get("y"), given.get("states"), given.get("seen")
    if states is None:
        return () if y is None else (y,), ()
    text = Text(states, y, None if seen is None else seen.bool())  # the host makes numbers of it
    return (text,), (text,)
