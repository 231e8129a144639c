"""What nodes of guides have in common: their inputs, and what becomes of them."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..guidance.weight import CURVES, Weight
from . import sockets
from .host.errors import about
from .host.guides.guide import Guide
from .host.pictures import to_pixels
from .widgets import weight_input, window_inputs

CATEGORY = "guidance/guides"
FRESH, FIXED = "fresh", "fixed"
REFERENCE_TOOLTIP = (
    "The reference picture. Any size and aspect: its centre is taken. Several pictures in a batch are averaged."
)
WEIGHT_TOOLTIP = (
    "How hard the guide pulls. 0: off. 1: a good start. 0.3 to 3 is the useful range; more can be typed. Below 0 it "
    "pushes away."
)
CURVE_TOOLTIP = (
    "How the weight runs within the window: constant, rising (linear, cosine), falling (... down), or high in the "
    "middle (bell)."
)
GUIDE_TOOLTIP = "One guide. Connect it to Apply Guides, or to Combine Guides for several."
LAYERS_TOOLTIP = (
    "Feature maps of the encoder to compare, separated by commas. Empty: its usual ones. A wrong name is answered with "
    "all names."
)


def weight_inputs(
    start: float = 0.1, end: float = 0.9, tooltip: str = WEIGHT_TOOLTIP, weight: float = 1.0
) -> list[Any]:
    """What every guide has, in this order."""
    return [
        weight_input(weight, 1000.0, tooltip, name="weight"),
        *window_inputs(
            "Where in the run the guide begins; 0 is pure noise.",
            "Where in the run the guide ends; 1 is the finished picture. Outside its window a guide costs nothing.",
            start,
            end,
        ),
        io.Combo.Input("curve", options=list(CURVES), default="constant", advanced=True, tooltip=CURVE_TOOLTIP),
    ]


def strength_of(weight: float, start_percent: float, end_percent: float, curve: str) -> Weight:
    """Of `weight_inputs`."""
    with about("start_percent or end_percent"):
        return Weight(weight, start_percent, end_percent, curve)


def mask_input() -> Any:
    return io.Mask.Input(
        "mask", optional=True, tooltip="White: where the guide may change the picture. Not connected: everywhere."
    )


def noise_input() -> Any:
    return io.Combo.Input(
        "reference_noise",
        options=[FRESH, FIXED],
        default=FRESH,
        advanced=True,
        optional=True,
        display_name="reference_noise (on the reference)",
        tooltip="Noise-aware encoders are shown the reference with as much noise as the sample has at that step. "
        "fresh: new noise at each step. fixed: the same noise in the whole run. Other encoders don't mind.",
    )


def encoder_input() -> Any:
    return sockets.Encoder.Input(
        "encoder", tooltip="The network that looks at the pictures: Load Guidance Encoder, or Encoder from CLIP Vision."
    )


def read_reference(image: Tensor) -> Tensor:
    """IMAGE -> pictures [n 3 H W] in [-1, 1]; alpha is refused, since what lies below it can't be known."""
    with about("image"):
        if image.ndim == 4 and image.shape[-1] == 4:
            raise ValueError(
                "the picture has an alpha channel; put it on a background first (for instance with Join Image with "
                "Alpha's inverse, Split Image with Alpha)"
            )
        return to_pixels(image).clone()


def guide_output(guide: Guide) -> io.NodeOutput:
    return io.NodeOutput([guide])
