"""VGG19 (Simonyan & Zisserman 2014, arXiv 1409.1556) from a torchvision-style state dict: features for style."""

from __future__ import annotations

from ..architecture import Architecture, Facts, tuples
from ..state_dict import StateDict
from .network import VGG19, VGGConfig

VGG: Architecture[VGGConfig] = Architecture(
    id="vgg19",
    title="VGG19's features",
    kind="encoder",
    keys=("features.0.weight", "features.2.weight", "features.5.weight", "features.34.weight"),
    absent=("features.1.weight",),  # the variant with batch norms
    read_config=lambda state: VGGConfig(widths=_widths(state)),
    parse_config=lambda config: VGGConfig(**tuples(config)),
    build=lambda config, **_: VGG19(config),
    facts=lambda config: Facts(image_size=224, guide_scales={}),
    ignored=("classifier.",),
)


def _widths(state: StateDict) -> tuple[int, ...]:
    return tuple(state[f"features.{index}.weight"].shape[0] for index in (0, 5, 10, 19, 28))
