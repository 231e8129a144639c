"""h-space and given pictures: the content of one in another (InjectFusion), and when to edit them (Asyrp's timing)."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..guidance.asyrp_timing import BOOST, BOOST_PERCENT, BOOST_SHARE, EDIT, EDIT_PERCENT, EDIT_SHARE, Fading
from ..guidance.weight import Weight
from . import sockets
from .host.errors import GuidanceNode, about
from .host.guides.encoder import Encoder
from .host.hspace.edit import unet_of
from .host.hspace.inject import Injection, content_of
from .host.hspace.run import applied
from .host.hspace.timing import Distance, Inversion
from .host.inversion import inversion_sigmas, shown
from .host.model import check_latent
from .host.pictures import to_invert
from .hspace import CATEGORY, edit_window
from .plot import Panel, plot
from .widgets import WindowNode, shown_inputs, steps_input


class HSpaceInject(WindowNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_HSpaceInject",
            display_name="HSpace Inject",
            category=CATEGORY,
            description="Puts what one picture shows into another: its bottleneck is mixed into that of the samples "
            "(InjectFusion). This pack's models, SD1.5 and SDXL.",
            search_aliases=[
                "InjectFusion",
                "DiffStyle",
                "content injection",
                "h-space",
                "style mixing",
                "reference image",
                "语义隐空间",
                "内容注入",
                "参考图",
            ],
            inputs=[
                io.Model.Input("model", tooltip="A U-Net: this pack's models, SD1.5, SDXL."),
                io.Float.Input(
                    "strength",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the content picture comes in (the paper's gamma). 0 changes nothing, 0.3 is "
                    "usual; above 0.5 pictures may break.",
                ),
                *edit_window(0.6, "the paper's t_edit, 400 in its code."),
                steps_input(50, "Steps of the inversion of the content picture, when this node runs.", advanced=True),
                io.Float.Input(
                    "calibration",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    advanced=True,
                    tooltip="How much of the sample's own style is kept (the paper's omega): towards 1 more. It costs "
                    "an evaluation more a step. 0: without it, as in the examples of the paper's code.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The content. Of several, picture i goes to image i. Either this or latent.",
                ),
                io.Latent.Input("latent", optional=True, tooltip="The content as a latent, instead of image."),
                *shown_inputs(),
            ],
            outputs=[io.Model.Output(tooltip="The model with the content in it. For any sampler.")],
        )

    @classmethod
    def run(
        cls,
        model: Any,
        strength: float,
        start_percent: float,
        end_percent: float,
        steps: int,
        calibration: float,
        image: Tensor | None = None,
        latent: dict[str, Any] | None = None,
        conditioning: list[Any] | None = None,
        vae: Any | None = None,
    ) -> io.NodeOutput:
        with about("strength, start_percent or end_percent"):
            weight = Weight(strength, start_percent, end_percent)
        with about("model"):
            unet_of(model)
        samples = content_latents(model, image, latent, vae)
        if strength == 0 or start_percent == end_percent:
            return io.NodeOutput(model)
        with about("steps"):
            sigmas = inversion_sigmas(model, steps, "")
        content = content_of(model, samples, shown(model, conditioning), sigmas)
        return io.NodeOutput(applied(model, Injection(content, weight, calibration)))


def content_latents(model: Any, image: Tensor | None, latent: dict[str, Any] | None, vae: Any) -> Tensor:
    """Latents of the one input that is connected."""
    if image is not None and latent is None:
        return to_invert(model, image, vae)
    if latent is not None and image is None:
        with about("latent"):
            check_latent(model, latent["samples"])
        return latent["samples"]
    with about("image"):
        raise ValueError("the content is needed once; connect either image or latent")


class AsyrpTiming(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_AsyrpTiming",
            display_name="Asyrp Timing",
            category=CATEGORY,
            description="Where an h-space edit should end and fresh noise begin for a model and its pictures: Asyrp's "
            "rule, from how the pictures fade when they are inverted.",
            search_aliases=["Asyrp", "t_edit", "t_boost", "LPIPS", "quality boosting", "语义隐空间", "编辑区间"],
            inputs=[
                io.Model.Input("model", tooltip="The model that will be edited."),
                io.Image.Input("image", tooltip="Pictures of its kind. The paper takes 100; 8 give an idea."),
                sockets.Encoder.Input(
                    "encoder",
                    optional=True,
                    tooltip="Load Guidance Encoder: an LPIPS for the paper's rule. Others, and the bare pixels without "
                    "any, measure by the pack's own thresholds.",
                ),
                io.String.Input(
                    "source_text", default="", optional=True, tooltip="What the pictures show: face. With target_text."
                ),
                io.String.Input(
                    "target_text",
                    default="",
                    optional=True,
                    tooltip="What the edit leads to: smiling face. The farther from source_text, the later it ends.",
                ),
                steps_input(50, "Steps of the inversion of each picture.", advanced=True),
                *shown_inputs(),
            ],
            outputs=[
                io.Float.Output(display_name="t_edit", tooltip="For end_percent of HSpace Edit."),
                io.Float.Output(display_name="t_boost", tooltip="For boost_percent of Asyrp Sampler."),
                io.Image.Output(
                    display_name="plot", tooltip="Both curves, their thresholds, and where they are reached."
                ),
                io.String.Output(
                    display_name="report", tooltip="The same as JSON, with a note on how far to trust it."
                ),
            ],
        )

    @classmethod
    def run(
        cls,
        model: Any,
        image: Tensor,
        steps: int,
        encoder: Encoder | None = None,
        source_text: str = "",
        target_text: str = "",
        conditioning: list[Any] | None = None,
        vae: Any | None = None,
    ) -> io.NodeOutput:
        measure = Distance(encoder)
        with about("target_text" if source_text.strip() else "source_text"):
            cosine = measure.cosine(source_text, target_text)
        with about("steps"):
            sigmas = inversion_sigmas(model, steps, "")
        samples = to_invert(model, image, vae)
        edit, boost = Inversion(model, vae, shown(model, conditioning), sigmas, measure).fading(samples)
        own = measure.lpips is None
        phases = {
            "t_edit": phase(edit, cosine * (EDIT_SHARE * max(edit.distance) if own else EDIT), EDIT_PERCENT),
            "t_boost": phase(boost, BOOST_SHARE * max(boost.distance) if own else BOOST, BOOST_PERCENT),
        }
        report = {"distance": measure.name, "note": remark(measure, phases), "cosine": cosine, **phases}
        percents = [phases[name]["percent"] for name in phases]
        return io.NodeOutput(*percents, drawing(measure, phases), json.dumps(report, indent=1, allow_nan=False))


def phase(curve: Fading, threshold: float, fallback: float) -> dict[str, Any]:
    """Where a phase begins, and why; the fallback where the threshold is never reached."""
    found = curve.reaches(threshold)
    return {
        "percent": round(fallback if found is None else found, 4),
        "reached": found is not None,
        "threshold": threshold,
        "progress": [round(place, 4) for place in curve.progress],
        "values": [round(value, 5) for value in curve.distance],
    }


def remark(measure: Distance, phases: dict[str, Any]) -> str:
    """What a reader of the numbers should know; empty if nothing."""
    notes: list[str] = []
    if measure.lpips is None:
        notes.append("this is not LPIPS: the thresholds are the pack's own, shares of the largest distance")
    elif measure.lpips.config.net != "alex":
        notes.append("the paper's thresholds were made for the LPIPS of AlexNet")
    notes += [
        f"{name}: the threshold is never reached, so this is the default of Asyrp's code"
        for name, part in phases.items()
        if not part["reached"]
    ]
    return "; ".join(notes)


def drawing(measure: Distance, phases: dict[str, Any]) -> Tensor:
    """IMAGE of both curves, each with its threshold and where it is reached."""
    symbols = {"t_edit": "P_t", "t_boost": "x_t"}
    panels: list[Panel] = []
    for name, part in phases.items():
        place, threshold = part["percent"], part["threshold"]
        lines = {
            f"distance of {symbols[name]} from x0: {measure.name}": list(
                zip(part["progress"], part["values"], strict=True)
            ),
            f"threshold {threshold:.3g}" + (" (the pack's own, not LPIPS)" if measure.lpips is None else ""): [
                (0.0, threshold),
                (1.0, threshold),
            ],
            f"{name} {place:.2f}" + ("" if part["reached"] else " (default: never reached)"): [
                (place, 0.0),
                (place, threshold),
            ],
        }
        panels.append(Panel(name, "progress (0: noise, 1: picture)", lines))
    return plot(panels)


NODES: list[type[io.ComfyNode]] = [HSpaceInject, AsyrpTiming]
