"""h-space: dials inside the network itself (Asyrp)."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..guidance.sampling import sample_ddim
from ..guidance.weight import Weight
from ..models.registry import HSPACE
from . import sockets
from .host.errors import GuidanceNode, about, refusal
from .host.files import check_prefix, choices, load_edits, locate, save_edit, usable
from .host.hspace.edit import BOTH, SIDES, Application, Edit, check_owner, check_width, network_of
from .host.hspace.run import applied
from .host.model import progress_function
from .host.sampling import published_sampler
from .widgets import WindowNode, weight_input, window_inputs

CATEGORY = "guidance/h-space"
DIAL_MODEL_TOOLTIP = (
    "A U-Net (this pack's models, SD1.5, SDXL), or a transformer (Flux, Qwen-Image, Z-Image, SD3, Wan)."
)
HSPACE_TOOLTIP = "The dial: Load, Discover or Train HSpace Direction, or several through Combine HSpace."
DIRECTION_TOOLTIP = "The dial, for HSpace Edit and Save HSpace Direction."


def edit_window(end: float, meaning: str) -> list[Any]:
    """Where in the run h is edited."""
    return window_inputs(
        "Where in the run it begins; 0 is pure noise.", f"Where in the run it ends: {meaning}", end=end, advanced=False
    )


class LoadHSpaceDirection(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_LoadHSpaceDirection",
            display_name="Load HSpace Direction",
            category="guidance/loaders",
            description="Loads a saved h-space direction, or a published delta block of Asyrp.",
            search_aliases=["Asyrp", "delta block", "semantic dial", "concept slider", "语义隐空间", "加载方向"],
            inputs=[
                io.Combo.Input(
                    "direction_name",
                    options=choices("directions", HSPACE),
                    tooltip="A file in ComfyUI/models/guidance_directions.",
                ),
                io.Int.Input(
                    "train_steps",
                    default=40,
                    min=0,
                    max=1000,
                    advanced=True,
                    tooltip="For published delta blocks alone: how many steps they were trained with, over which their "
                    "effect is spread. Asyrp's: 40. 0: not spread.",
                ),
            ],
            outputs=[sockets.HSpace.Output(display_name="hspace", tooltip=DIRECTION_TOOLTIP)],
        )

    @classmethod
    def run(cls, direction_name: str, train_steps: int) -> io.NodeOutput:
        with about("direction_name"):
            return io.NodeOutput(load_edits(locate("directions", direction_name), train_steps))

    @classmethod
    def validate_inputs(cls, direction_name: str | None = None) -> bool | str:
        return usable("directions", direction_name, HSPACE)

    @classmethod
    def fingerprint_inputs(cls, direction_name: str, **_: Any) -> float:
        return Path(locate("directions", direction_name)).stat().st_mtime


class SaveHSpaceDirection(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_SaveHSpaceDirection",
            display_name="Save HSpace Direction",
            category=CATEGORY,
            description="Writes h-space directions into ComfyUI/models/guidance_directions, one file each.",
            search_aliases=["Asyrp", "export", "保存方向"],
            inputs=[
                sockets.HSpace.Input("hspace", tooltip=HSPACE_TOOLTIP),
                io.String.Input("filename_prefix", default="hspace", tooltip="A number is added; nothing is lost."),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        return refusal(check_prefix, "directions", filename_prefix)

    @classmethod
    def run(cls, hspace: list[Edit], filename_prefix: str) -> io.NodeOutput:
        with about("filename_prefix"):
            names = [save_edit(edit, filename_prefix) for edit in hspace]
        return io.NodeOutput(ui={"text": names})


class CombineHSpace(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        edits = io.Autogrow.TemplatePrefix(
            sockets.HSpace.Input("edit", tooltip="Directions; a new slot appears when this one is connected."),
            prefix="edit",
            min=1,
            max=16,
        )
        return io.Schema(
            node_id="Guidance_CombineHSpace",
            display_name="Combine HSpace",
            category=CATEGORY,
            description="Several directions as one edit. Each counts its weight / sqrt(their number), as in the paper.",
            search_aliases=["Asyrp", "mix", "multiple attributes", "组合方向"],
            inputs=[
                io.Autogrow.Input("edits", template=edits, tooltip="Up to 16 directions."),
                io.String.Input(
                    "weights",
                    default="",
                    optional=True,
                    tooltip="How strong each is, in their order: 1, -0.5. Empty: 1 each. 0 leaves one out.",
                ),
            ],
            outputs=[sockets.HSpace.Output(display_name="hspace", tooltip=DIRECTION_TOOLTIP)],
        )

    @classmethod
    def run(cls, edits: dict[str, list[Edit]], weights: str = "") -> io.NodeOutput:
        wired = [part for part in edits.values() if part is not None]
        with about("edits"):
            if not any(wired):
                raise ValueError("at least one direction is needed")
        with about("weights"):
            numbers = weights_of(weights, len(wired))
        pairs = zip(wired, numbers, strict=True)
        return io.NodeOutput([replace(edit, strength=w * edit.strength) for part, w in pairs for edit in part])


def weights_of(text: str, count: int) -> list[float]:
    """Numbers between commas, one for each of `count` slots; 1 each where there is no text. Raises ValueError."""
    if not text.strip():
        return [1.0] * count
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"numbers between commas are needed, such as 1, -0.5, and {text!r} came") from error
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{count} slots are connected, so {count} finite numbers are needed, and {text!r} came")
    return numbers


class HSpaceEdit(WindowNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_HSpaceEdit",
            display_name="HSpace Edit",
            category=CATEGORY,
            description="Turns a semantic dial inside the network: this pack's models, SD1.5, SDXL, and transformers "
            "such as Flux, Qwen-Image, Z-Image or Wan. Inside its window a step costs the decoder half of a U-Net once "
            "more, and the whole of a transformer.",
            search_aliases=[
                "Asyrp",
                "h-space",
                "bottleneck",
                "semantic dial",
                "concept slider",
                "attribute",
                "smile",
                "age",
                "语义隐空间",
                "概念滑块",
                "微笑",
                "年龄",
                "属性编辑",
            ],
            inputs=[
                io.Model.Input("model", tooltip=DIAL_MODEL_TOOLTIP),
                sockets.HSpace.Input("hspace", tooltip=HSPACE_TOOLTIP),
                weight_input(
                    1.0,
                    100.0,
                    "How far the dial is turned. 0 changes nothing, -3 to 3 is the useful range; more can be typed. "
                    "Below 0: the other way.",
                ),
                *edit_window(0.5, "the paper's t_edit. Early steps decide what is shown, late ones details."),
                io.Boolean.Input(
                    "asymmetric",
                    default=True,
                    tooltip="On: moves the predicted picture alone, as in the paper; much stronger. Off: for samplers "
                    "that refuse it.",
                ),
                io.Combo.Input(
                    "apply_to",
                    options=list(SIDES),
                    default=BOTH,
                    advanced=True,
                    tooltip="Which predictions of CFG are edited: both, the positive's (cond) or the negative's "
                    "(uncond).",
                ),
                io.Boolean.Input(
                    "preserve_norm",
                    default=False,
                    advanced=True,
                    tooltip="Turns h and keeps its length: for large strengths, where pictures break.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White: where the edit acts. It is coarse: it leans the edit towards a place and cuts "
                    "nothing out.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with the edit. For any sampler.")],
        )

    @classmethod
    def run(
        cls,
        model: Any,
        hspace: list[Edit],
        strength: float,
        start_percent: float,
        end_percent: float,
        asymmetric: bool,
        apply_to: str,
        preserve_norm: bool,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        with about("strength, start_percent or end_percent"):
            weight = Weight(strength, start_percent, end_percent)
        with about("model"):
            network_of(model)
        with about("hspace"):
            for edit in hspace:
                check_owner(edit, model)
                check_width(edit, model)
        if strength == 0 or start_percent == end_percent:
            return io.NodeOutput(model)
        application = Application(hspace, weight, asymmetric, apply_to, preserve_norm, mask)
        with about("hspace"):
            return io.NodeOutput(applied(model, application, application.patchers))


class AsyrpSampler(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_AsyrpSampler",
            display_name="Asyrp Sampler",
            category=CATEGORY,
            description="The published loop around an HSpace Edit: deterministic DDIM, and from boost_percent on with "
            "fresh noise (quality boosting). For SamplerCustomAdvanced.",
            search_aliases=["Asyrp", "quality boosting", "DDIM eta", "采样器"],
            inputs=[
                io.Float.Input(
                    "boost_percent",
                    default=0.8,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where in the run fresh noise begins: the paper's t_boost. 1: never.",
                ),
                io.Model.Input("model", tooltip="The model that is sampled: it says what percent means."),
            ],
            outputs=[io.Sampler.Output(tooltip="For SamplerCustomAdvanced, with Respaced Sigmas.")],
        )

    @classmethod
    def run(cls, boost_percent: float, model: Any) -> io.NodeOutput:
        progress = progress_function(model.get_model_object("model_sampling"))

        def eta(sigma: float) -> float:
            return float(boost_percent < 1 and progress(sigma) >= boost_percent)

        return io.NodeOutput(published_sampler(partial(sample_ddim, eta=eta), False))


NODES: list[type[io.ComfyNode]] = [
    LoadHSpaceDirection,
    SaveHSpaceDirection,
    CombineHSpace,
    HSpaceEdit,
    AsyrpSampler,
]
