"""Scorers of pictures on CLIP's embeddings: LAION's aesthetic predictors, and anybody's linear layer or MLP.

LAION's are trained on embeddings of OpenAI's ViT-L/14 at length 1 (aesthetic-predictor, 2022: one layer;
improved-aesthetic-predictor, 2022: five layers 768, 1024, 128, 64, 16, 1 with dropout and no activation between them).
"""

from __future__ import annotations

from typing import Any

from ..architecture import Architecture, Facts, tuples
from ..state_dict import CheckpointError, StateDict
from .network import ACTIVATIONS, HeadConfig, head

LAION = HeadConfig(widths=(768, 1024, 128, 64, 16, 1), places=(0, 2, 4, 6, 7))


def read_linear(state: StateDict) -> HeadConfig:
    weight = state["weight"]
    if weight.ndim != 2:
        raise CheckpointError(f"has weight {list(weight.shape)}; a scorer's is [outputs, numbers of an embedding]")
    return HeadConfig(widths=(weight.shape[1], weight.shape[0]))


def read_mlp(state: StateDict) -> HeadConfig:
    """Layers by their places in the sequence; what lies between two of them no shape tells."""
    places = sorted(int(key.removesuffix(".weight")) for key in state if key.endswith(".weight"))
    shapes = [state[f"{place}.weight"].shape for place in places]
    if any(len(shape) != 2 for shape in shapes):
        raise CheckpointError("has layers that are no linear ones; a scorer is made of linear layers alone")
    widths = (shapes[0][1], *(shape[0] for shape in shapes))
    gaps = any(after - before > 1 for before, after in zip(places, places[1:], strict=False))
    config = HeadConfig(widths=widths, places=tuple(places))
    return config if config == LAION or not gaps else HeadConfig(widths, tuple(places), "ReLU")


def guesses(config: HeadConfig) -> dict[str, str]:
    return {} if config.activation == "none" else {"activation": config.activation}


def parse_config(config: Any) -> HeadConfig:
    """Raises ValueError for an activation that nobody knows, and for another number of layers than of widths."""
    found = HeadConfig(**tuples(config))
    if not isinstance(found.widths, tuple) or not isinstance(found.places, tuple):
        raise ValueError("its widths or its places are no list")
    if found.activation not in ACTIVATIONS:
        raise ValueError(f"its activation is {found.activation!r}; there are {', '.join(ACTIVATIONS)}")
    if len(found.widths) != max(len(found.places), 1) + 1:
        raise ValueError(f"it has {len(found.widths)} widths for {max(len(found.places), 1)} layers")
    return found


LINEAR: Architecture[HeadConfig] = Architecture(
    id="scorer_linear",
    title="a scorer of embeddings",
    kind="scorer",
    keys=("weight", "bias"),
    absent=(),
    read_config=read_linear,
    parse_config=parse_config,
    build=lambda config, **_: head(config),
    facts=lambda config: Facts(image_size=1),
)
MLP: Architecture[HeadConfig] = Architecture(
    id="scorer_mlp",
    title="a scorer of embeddings",
    kind="scorer",
    keys=("0.weight", "0.bias"),
    absent=(),
    read_config=read_mlp,
    parse_config=parse_config,
    build=lambda config, **_: head(config),
    facts=lambda config: Facts(image_size=1),
    guesses=guesses,
)
