"""Inputs that several nodes have."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..guidance.weight import Weight
from .host.errors import GuidanceNode, refusal
from .host.pixel_model import AUTO, PRECISIONS


def _set(**options: bool) -> dict[str, Any]:
    """Those that are on; the host's defaults for the others."""
    return {name: True for name, on in options.items() if on}


def window_inputs(begins: str, ends: str, start: float = 0.0, end: float = 1.0, advanced: bool = True) -> list[Any]:
    """Where in the run a node acts, as shares of its progress; the tooltips say what begins and what ends there."""
    span: dict[str, Any] = {"min": 0.0, "max": 1.0, "step": 0.01, **_set(advanced=advanced)}
    return [
        io.Float.Input("start_percent", default=start, tooltip=begins, **span),
        io.Float.Input("end_percent", default=end, tooltip=ends, **span),
    ]


class WindowNode(GuidanceNode):
    """A node with `window_inputs`. What is typed there is checked before anything runs.

    Not for nodes with a dynamic input: the host hands that to every validation, asked for or not.
    """

    @classmethod
    def validate_inputs(cls, start_percent: float | None = None, end_percent: float | None = None) -> bool | str:
        """None: it comes from another node."""
        start, end = 0.0 if start_percent is None else start_percent, 1.0 if end_percent is None else end_percent
        return refusal(Weight, 1.0, start, end)


def weight_input(default: float, limit: float, tooltip: str, name: str = "strength") -> Any:
    """A strength of either sign; 0 is off."""
    return io.Float.Input(name, default=default, min=-limit, max=limit, step=0.05, tooltip=tooltip)


FIXED = "fixed"


def seed_input(tooltip: str, changes: bool | str = True, later: bool = False) -> Any:
    """`changes`: the editor may draw a new one after each run; FIXED: not by itself.

    `later`: younger than the node's other inputs.
    """
    options: dict[str, Any] = _set(optional=later, advanced=later)
    options |= {"control_after_generate": changes} if changes else {}
    return io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip=tooltip, **options)


def steps_input(default: int, tooltip: str, least: int = 2, most: int = 1000, advanced: bool = False) -> Any:
    return io.Int.Input("steps", default=default, min=least, max=most, tooltip=tooltip, **_set(advanced=advanced))


def size_input(tooltip: str, advanced: bool = False) -> Any:
    """Side of pictures in pixels."""
    return io.Int.Input("size", default=512, min=16, max=4096, step=8, tooltip=tooltip, **_set(advanced=advanced))


def shown_inputs() -> list[Any]:
    """What a node needs that inverts pictures."""
    return [
        io.Conditioning.Input(
            "conditioning",
            optional=True,
            tooltip="A prompt or class that says what the pictures show. Pixel models can do without.",
        ),
        io.Vae.Input(
            "vae",
            optional=True,
            tooltip="The model's VAE. Needed where the model works on latents (SD1.5, SDXL, flow models).",
        ),
    ]


def precision_input() -> Any:
    """Of a pixel model; later than a loader's other inputs, so optional for saved workflows."""
    return io.Combo.Input(
        "precision",
        options=list(PRECISIONS),
        default=AUTO,
        optional=True,
        advanced=True,
        tooltip="auto: as ComfyUI chooses, half precision on most GPUs. float32: the published numbers, slower. On a "
        "CPU both are the same.",
    )


def block_input(automatic: str) -> Any:
    """Of a transformer, where the dial acts."""
    return io.Int.Input(
        "block",
        default=-1,
        min=-1,
        max=4095,
        optional=True,
        advanced=True,
        tooltip=f"Of a transformer: behind which block the dial acts, from 0 on. {automatic} U-Nets have one place.",
    )
