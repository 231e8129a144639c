"""Edit models: how much the reference picture counts, and what of the source is held."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..guidance.edit_guard import ALL, COLOURS
from ..guidance.weight import Weight
from .host.edit.dial import AS_IT_IS, Dial, dialled
from .host.edit.guard import Guard, guarded
from .host.errors import about
from .host.model import check_latent
from .widgets import WindowNode, window_inputs

CATEGORY = "guidance/edit"


class ReferenceDial(WindowNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_ReferenceDial",
            display_name="Reference Dial",
            category=CATEGORY,
            description="One signed dial for how much the reference picture of an edit model counts, for KSampler and "
            "every other sampler.",
            search_aliases=[
                "reference strength",
                "image guidance scale",
                "InstructPix2Pix",
                "Flux Kontext",
                "Qwen-Image-Edit",
                "edit model",
                "image CFG",
                "参考图强度",
                "参考强度",
                "图像编辑",
            ],
            inputs=[
                io.Model.Input("model", tooltip="An edit model, or any other whose conditioning shows a picture."),
                io.Float.Input(
                    "dial",
                    default=1.5,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="1: as it is, exactly. 0: as without the reference. 1.2 to 2: nearer to it, 0.3 to 0.8: "
                    "freer. Negative: away from it.",
                ),
                *window_inputs(
                    "Where in the run the dial begins; 0 is pure noise. Before it the reference counts as it is.",
                    "Where in the run the dial ends; 1 is the finished picture. Behind it steps cost no more than "
                    "before.",
                ),
                io.Conditioning.Input(
                    "without",
                    optional=True,
                    tooltip="What positive says without the picture. Not connected: the same without its latents and "
                    "image embeddings. Needed where the text encoder sees the picture too (Qwen-Image-Edit).",
                ),
                io.Conditioning.Input(
                    "negative_without",
                    optional=True,
                    tooltip="The same for negative, with cfg above 1.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with the dial. For any sampler.")],
        )

    @classmethod
    def run(
        cls,
        model: Any,
        dial: float,
        start_percent: float,
        end_percent: float,
        without: Any | None = None,
        negative_without: Any | None = None,
    ) -> io.NodeOutput:
        with about("start_percent or end_percent"):
            weight = Weight(dial, start_percent, end_percent)
        if dial == AS_IT_IS or start_percent == end_percent:
            return io.NodeOutput(model)
        with about("model"):
            return io.NodeOutput(dialled(model, Dial(weight, {"positive": without, "negative": negative_without})))


class EditGuard(WindowNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_EditGuard",
            display_name="Edit Guard",
            category=CATEGORY,
            description="Holds a source picture outside a mask, given or found, while any model edits it.",
            search_aliases=[
                "preserve background",
                "colour shift",
                "color drift",
                "reference lock",
                "DiffEdit",
                "edit mask",
                "背景保持",
                "颜色偏移",
                "色偏",
                "局部编辑",
            ],
            inputs=[
                io.Model.Input("model", tooltip="Any model: an edit model, or img2img with another prompt."),
                io.Latent.Input(
                    "source", tooltip="VAE Encode of the picture that is edited, of the size that is drawn."
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="0: off. 1: outside the mask the source comes out. Between: so much of the way to it "
                    "at every step, which adds up.",
                ),
                io.Combo.Input(
                    "hold",
                    options=[ALL, COLOURS],
                    default=ALL,
                    tooltip="all: colours and layout. colours: only the broad ones, details may change.",
                ),
                *window_inputs(
                    "Where in the run the guard begins; 0 is pure noise. There a mask is found.",
                    "Where in the run the guard ends; 1 is the finished picture. Earlier than 1 lets seams heal.",
                ),
                io.Float.Input(
                    "threshold",
                    default=1.5,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    advanced=True,
                    display_name="threshold (found mask)",
                    tooltip="Without a mask: free is what the edit changes more than this many times as much as the "
                    "picture's mean. Higher: a smaller mask.",
                ),
                io.Float.Input(
                    "soften",
                    default=0.04,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    advanced=True,
                    display_name="soften (found mask)",
                    tooltip="Without a mask: how far the found one grows and fades, as a share of the shorter side.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White: where the edit may act; one, or one for each picture. Not connected: found by what "
                    "the first prediction changes.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with the guard. For any sampler.")],
        )

    @classmethod
    def run(
        cls,
        model: Any,
        source: dict[str, Any],
        strength: float,
        hold: str,
        start_percent: float,
        end_percent: float,
        threshold: float,
        soften: float,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        with about("start_percent or end_percent"):
            weight = Weight(strength, start_percent, end_percent)
        with about("source"):
            samples = source["samples"]
            if getattr(samples, "is_nested", False):
                raise ValueError("several latents in one (video and audio) came; one is needed")
            check_latent(model, samples)
        if strength == 0 or start_percent == end_percent:
            return io.NodeOutput(model)
        return io.NodeOutput(guarded(model, Guard(samples, mask, weight, hold, threshold, soften)))


NODES: list[type[io.ComfyNode]] = [ReferenceDial, EditGuard]
