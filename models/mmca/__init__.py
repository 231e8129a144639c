"""Matchers of pictures and sentences: our own files alone, as MMCA published no weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..architecture import Architecture, Facts, tuples
from ..state_dict import CheckpointError, StateDict
from .network import TEXT_HEADS, Mmca, MmcaConfig


def read_config(state: StateDict) -> MmcaConfig:
    raise CheckpointError(
        "is a matcher without its configuration: how many heads it has, alpha and its words show in no shape; save it "
        "with the metadata that training/matching.py writes"
    )


def build(config: MmcaConfig, **_: Any) -> nn.Module:
    """Raises ValueError for widths that its heads can't share."""
    for name, width, heads in (("d", config.d, config.heads), ("word", config.word, TEXT_HEADS if config.words else 1)):
        if width % heads:
            raise ValueError(f"its {name} is {width}, which {heads} heads can't share")
    return Mmca(config)


MMCA: Architecture[MmcaConfig] = Architecture(
    id="mmca",
    title="a matcher of pictures and sentences (MMCA)",
    kind="matcher",
    keys=(
        "region_in.weight",
        "word_in.weight",
        "self_layer.query.weight",
        "cross_layer.query.weight",
        "self_words.out.weight",
    ),
    absent=(),
    read_config=read_config,
    parse_config=lambda config: MmcaConfig(**tuples(config)),
    build=build,
    facts=lambda config: Facts(image_size=1),
)
