"""Classifier-free guidance: conditions, the combiner, and the patch for any sampler."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..guidance.weight import LANGUAGE, Weight
from . import sockets
from .cfg_methods import method_input, plan_from
from .host.cfg.condition import MODEL, NEGATIVE, PARENT, REFERENCES, Condition
from .host.cfg.guider import CombinedGuider
from .host.cfg.plan import OWN_SCALE, Plan
from .host.cfg.run import patched, scale_curve
from .host.errors import GuidanceNode, about
from .plot import Panel, plot
from .widgets import WindowNode, window_inputs

CATEGORY = "guidance/cfg"
AXIS = "log10 sigma (noise right, picture left)"


def curve_inputs() -> list[Any]:
    """When guidance acts, and how strongly within its window."""
    return [
        *window_inputs(
            "Where in the run guidance begins; 0 is pure noise.",
            "Where in the run guidance ends; 1 is the finished picture. Outside the window is no guidance, at half the "
            "cost.",
        ),
        io.String.Input(
            "curve", default="constant", advanced=True, tooltip=f"How guidance runs within the window: {LANGUAGE}."
        ),
    ]


class CFGCondition(WindowNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_CFGCondition",
            display_name="CFG Condition",
            category=CATEGORY,
            description="One condition for CFG Combiner: its scale, when and where it counts, and against what.",
            search_aliases=[
                "AND",
                "NOT",
                "composable",
                "IP2P",
                "autoguidance",
                "PAG",
                "perp-neg",
                "CFG schedule",
                "negative prompt",
                "条件",
                "负面条件",
                "无分类器引导",
            ],
            inputs=[
                io.Conditioning.Input(
                    "conditioning", tooltip="What to steer to: a prompt, a class, with ControlNet or area."
                ),
                io.Float.Input(
                    "guidance_scale",
                    default=4.5,
                    min=-100.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How strongly. The first condition is a usual cfg: 1 is no guidance, 3 to 7.5 are useful. "
                    "Each further one is added: 0 is off, 3 to 7.5 AND, -1 to -4 NOT.",
                ),
                io.Combo.Input(
                    "reference",
                    options=list(REFERENCES),
                    default=NEGATIVE,
                    tooltip="What the condition is measured against: the negative, nothing, its parent "
                    "(InstructPix2Pix), a weaker model (autoguidance), itself with perturbed attention (PAG), a random "
                    "condition (ICG) or another time (TSG).",
                ),
                *curve_inputs(),
                io.Mask.Input(
                    "mask", optional=True, tooltip="White: where the condition counts. Not connected: everywhere."
                ),
                sockets.Condition.Input(
                    "parent",
                    optional=True,
                    tooltip="For reference = parent: the CFG Condition that this one is measured against.",
                ),
                io.Model.Input("model", optional=True, tooltip="For reference = model: the weaker model."),
            ],
            outputs=[
                sockets.Condition.Output(
                    display_name="condition", tooltip="For CFG Combiner, or for parent of another one."
                )
            ],
        )

    @classmethod
    def run(
        cls,
        conditioning: Any,
        guidance_scale: float,
        reference: str,
        start_percent: float,
        end_percent: float,
        curve: str,
        mask: Tensor | None = None,
        parent: Condition | None = None,
        model: Any | None = None,
    ) -> io.NodeOutput:
        with about("guidance_scale, start_percent, end_percent or curve"):
            weight = Weight(guidance_scale, start_percent, end_percent, curve)
        with about(PARENT if reference == PARENT else MODEL):
            return io.NodeOutput(Condition(conditioning, weight, reference, mask, parent, model))


class CFGCombiner(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        conditions = io.Autogrow.TemplatePrefix(
            sockets.Condition.Input("condition", tooltip="A condition; a new slot appears when this one is connected."),
            prefix="condition",
            min=1,
            max=16,
        )
        return io.Schema(
            node_id="Guidance_CFGCombiner",
            display_name="CFG Combiner",
            category=CATEGORY,
            description="Any number of conditions in one defined formula, as a guider for SamplerCustomAdvanced.",
            search_aliases=[
                "guider",
                "composable diffusion",
                "AND NOT",
                "dual CFG",
                "autoguidance",
                "APG",
                "perp-neg",
                "条件组合",
                "无分类器引导",
            ],
            inputs=[
                io.Model.Input(
                    "model", tooltip="Any model. CFG Patches before it add their methods, Apply Guides its guides."
                ),
                io.Autogrow.Input(
                    "conditions",
                    template=conditions,
                    tooltip="From CFG Condition, up to 16. The first is the main one.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="The negative prompt: what conditions with reference = negative are measured against.",
                ),
                method_input(),
            ],
            outputs=[
                io.Guider.Output(tooltip="For SamplerCustomAdvanced."),
                io.Image.Output(display_name="scales", tooltip="Plot: the scale of each condition over the run."),
            ],
        )

    @classmethod
    def run(
        cls,
        model: Any,
        conditions: dict[str, Condition],
        negative: Any | None = None,
        method: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        wired = [condition for condition in conditions.values() if condition is not None]
        with about("conditions"):
            if not wired:
                raise ValueError("at least one condition is needed; connect CFG Condition")
        with about("method"):
            plan = plan_from(method)
        with about("model, conditions and negative"):
            guider = CombinedGuider(model, wired, negative, plan)
        lines = {f"condition {k + 1}": _scale_of(condition, k == 0) for k, condition in enumerate(wired)}
        sampling = model.get_model_object("model_sampling")
        panel = Panel("effective scale", AXIS, {name: scale_curve(sampling, scale) for name, scale in lines.items()})
        return io.NodeOutput(guider, plot([panel]))


def _scale_of(condition: Condition, first: bool) -> Any:
    weight = condition.weight
    return (lambda progress: weight.above(1.0, progress)) if first else weight


class CFGPatch(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_CFGPatch",
            display_name="CFG Patch",
            category=CATEGORY,
            description="A form of CFG, or a schedule of its scale, for KSampler and every other sampler.",
            search_aliases=[
                "APG",
                "rescale CFG",
                "CFG++",
                "CFG-Zero",
                "interval",
                "CFG schedule",
                "dynamic thresholding",
                "mimic",
                "burnt",
                "burnt colours",
                "saturation",
                "oversaturated",
                "无分类器引导",
                "引导强度",
                "动态阈值",
                "过饱和",
                "过曝",
                "饱和度",
            ],
            inputs=[
                io.Model.Input("model", tooltip="Any model. CFG Patches before it add their methods."),
                method_input(),
                io.Float.Input(
                    "guidance_scale",
                    default=OWN_SCALE,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    display_name="guidance_scale (0: the sampler's cfg)",
                    tooltip="The cfg within the window; outside it is 1, no guidance. 0 is no scale: it takes the cfg "
                    "that the sampler has. 1 is no guidance, 3 to 10 are useful.",
                ),
                *curve_inputs(),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with this form of CFG. For any sampler."),
                io.Image.Output(display_name="scales", tooltip="Plot: the scale over the run."),
            ],
        )

    @classmethod
    def run(
        cls,
        model: Any,
        guidance_scale: float,
        start_percent: float,
        end_percent: float,
        curve: str,
        method: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        with about("guidance_scale, start_percent, end_percent or curve"):
            weight = Weight(guidance_scale, start_percent, end_percent, curve)
        own = guidance_scale == OWN_SCALE
        with about("method"):
            plan = plan_from(method)
        if not (own and weight == Weight(OWN_SCALE)):
            plan = plan + Plan(scale=weight)
        with about("method"):
            changed = model if plan == Plan() else patched(model, plan)
        sampling = model.get_model_object("model_sampling")
        shown = Weight(2.0, start_percent, end_percent, curve) if own else weight
        title = "share of the sampler's cfg - 1" if own else "effective scale"
        line = scale_curve(sampling, lambda progress: shown.above(1.0, progress) - own)
        return io.NodeOutput(changed, plot([Panel(title, AXIS, {"scale": line})]))


NODES: list[type[io.ComfyNode]] = [CFGCondition, CFGCombiner, CFGPatch]
