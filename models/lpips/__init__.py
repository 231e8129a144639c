"""Files of the package lpips: the state dict of `lpips.LPIPS(net="alex")` or `net="vgg"`."""

from __future__ import annotations

from ..architecture import Architecture, Facts, tuples
from ..state_dict import StateDict
from .network import LAYERS, LPIPS, LPIPSConfig


def read_config(state: StateDict) -> LPIPSConfig:
    """VGG16 has a second convolution in its first slice."""
    widths = tuple(state[f"lin{place}.model.1.weight"].shape[1] for place in range(len(LAYERS)))
    return LPIPSConfig("vgg" if "net.slice1.2.weight" in state else "alex", widths)


LPIPS_DISTANCE: Architecture[LPIPSConfig] = Architecture(
    id="lpips",
    title="an LPIPS distance",
    kind="encoder",
    keys=("scaling_layer.shift", "net.slice1.0.weight", "lin0.model.1.weight"),
    absent=(),
    read_config=read_config,
    parse_config=lambda config: LPIPSConfig(**tuples(config)),
    build=lambda config, **_: LPIPS(config),
    facts=lambda config: Facts(image_size=256, guide_scales={}),
    ignored=("lins.",),  # the package lists lin0 to lin4 a second time
)
