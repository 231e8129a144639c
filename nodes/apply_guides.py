"""Steering: guides joined, put into a MODEL, and reported on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..guidance.gradient import ESTIMATORS
from . import sockets
from .guide_inputs import CATEGORY
from .host.errors import GuidanceNode, about
from .host.guides.application import AUTO, FRAMES, UNITS, Application
from .host.guides.guide import Guide
from .host.guides.report import Report, by_guide, decoders, relative, remark, verdict
from .host.guides.run import applications, apply
from .host.pictures import choose_decoder
from .plot import Panel, plot
from .widgets import weight_input


class CombineGuides(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        guides = io.Autogrow.TemplatePrefix(
            sockets.Guide.Input("guide", tooltip="A guide; a new slot appears when this one is connected."),
            prefix="guide",
            min=1,
            max=16,
        )
        return io.Schema(
            node_id="Guidance_CombineGuides",
            display_name="Combine Guides",
            category=CATEGORY,
            description="Several guides as one. Each keeps its weight, window and mask.",
            search_aliases=["mix guides", "SDG", "text and style", "组合引导"],
            inputs=[
                io.Autogrow.Input(
                    "guides", template=guides, tooltip="Up to 16 guides; a new slot appears when one is connected."
                )
            ],
            outputs=[sockets.Guide.Output(display_name="guides", tooltip="All of them as one, for Apply Guides.")],
        )

    @classmethod
    def run(cls, guides: dict[str, list[Guide]]) -> io.NodeOutput:
        joined = [guide for part in guides.values() if part is not None for guide in part]
        with about("guides"):
            if not joined:
                raise ValueError("at least one guide is needed")
        return io.NodeOutput(joined)


class ApplyGuides(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_ApplyGuides",
            display_name="Apply Guides",
            category=CATEGORY,
            description="Puts guides into a MODEL. Works with every sampler, guider, LoRA and ControlNet of the host.",
            search_aliases=[
                "gradient guidance",
                "SDG",
                "universal guidance",
                "MPGD",
                "DPS",
                "FreeDoM",
                "classifier",
                "style reference",
                "reference image",
                "应用引导",
                "梯度引导",
                "语义引导",
            ],
            inputs=[
                io.Model.Input("model", tooltip="Any model: SD1.5, SDXL, flow, or a pixel model."),
                sockets.Guide.Input("guides", tooltip="One guide, or several from Combine Guides."),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="The checkpoint's VAE, for models on latents when a guide looks at pixels. A TAESD in "
                    "models/vae_approx goes first: it is much cheaper. Guide Report says which was used.",
                ),
                weight_input(
                    1.0,
                    100.0,
                    "Multiplies the weights of all guides. 0: off. 1: as they are. 0.3 to 3 is the useful range.",
                ),
                io.Combo.Input(
                    "gradient",
                    options=[AUTO, *ESTIMATORS],
                    default=AUTO,
                    tooltip="What the guides look at. auto is right nearly always. at noisy: the noisy sample, for "
                    "noise-aware encoders on pixel models. at denoised: the predicted picture, with every model. "
                    "through denoiser: exact and slow.",
                ),
                io.Combo.Input(
                    "unit",
                    options=list(UNITS),
                    default=AUTO,
                    display_name="unit (of the weights)",
                    advanced=True,
                    tooltip="What weight 1 means. lambda: a push of about a third of the model's own step, whatever "
                    "the guide. paper: the scale that the guide's paper prints. auto: paper for noise-aware guides at "
                    "noisy, else lambda.",
                ),
                io.Float.Input(
                    "cap",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    display_name="cap (longest push)",
                    advanced=True,
                    tooltip="All guides together push no further than this many times the model's own step. 1 is safe, "
                    "3 for strong effects, 0: no limit. Noise-aware guides at their paper's scale are cut only where a "
                    "step would overshoot, classifiers never.",
                ),
                io.Int.Input(
                    "every",
                    default=1,
                    min=1,
                    max=100,
                    display_name="every (k-th step)",
                    advanced=True,
                    tooltip="1: the guides look at every step. 2: at every second one, and keep pushing the same way "
                    "between: half the cost. The second sampler of a chain counts anew.",
                ),
                io.Int.Input(
                    "inner_steps",
                    default=3,
                    min=1,
                    max=16,
                    advanced=True,
                    tooltip="For gradient = at denoised optimised alone: how often the guides look in one step.",
                ),
                io.Int.Input(
                    "views",
                    default=3,
                    min=1,
                    max=16,
                    display_name="views (crops)",
                    advanced=True,
                    tooltip="How many views the encoder gets: the whole picture, and random crops for the rest. More "
                    "are harder to fool and cost as much more.",
                ),
                io.Int.Input(
                    "recurrence",
                    default=1,
                    min=1,
                    max=10,
                    display_name="recurrence (repeats)",
                    advanced=True,
                    tooltip="How often each guided step is taken: it is undone with fresh noise and repeated. 1: once, "
                    "as usual. For the samplers euler and ddim alone.",
                ),
                io.Vae.Input(
                    "tiny_vae",
                    optional=True,
                    advanced=True,
                    tooltip="A small decoder (TAESD) for the guides alone, loaded with Load VAE. It goes before "
                    "everything else.",
                ),
                io.Int.Input(
                    "frames",
                    default=FRAMES,
                    min=1,
                    max=4096,
                    optional=True,
                    advanced=True,
                    tooltip="For videos alone: how many neighbouring frames of the latent are decoded and looked at in "
                    "a step. The next step has the next ones. Fewer need less memory.",
                ),
                sockets.Guide.Input(
                    "control",
                    optional=True,
                    advanced=True,
                    tooltip="A guide that only watches, best with an encoder that no other guide has: it pushes "
                    "nothing, and Guide Report says whether it sees a rise.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with its guides. For any sampler, and for Guide Report.")],
        )

    @classmethod
    def run(
        cls,
        model: Any,
        guides: list[Guide],
        strength: float,
        gradient: str,
        unit: str,
        cap: float,
        every: int,
        inner_steps: int,
        views: int,
        recurrence: int,
        vae: Any | None = None,
        tiny_vae: Any | None = None,
        frames: int = FRAMES,
        control: Sequence[Guide] = (),
    ) -> io.NodeOutput:
        active = [guide for guide in guides if guide.weight.value and guide.weight.start < guide.weight.end]
        if not active or strength == 0:
            return io.NodeOutput(model)
        with about("gradient"):
            needs_pixels = [guide for guide in active if guide.needs_decoding(model, gradient)]
        needs_pixels += [guide for guide in control if guide.needs_decoding(model, AUTO)]
        decoder, name = choose_decoder(model, vae, tiny_vae, bool(needs_pixels))
        return io.NodeOutput(
            apply(
                model,
                Application(
                    guides=active,
                    vae=decoder,
                    strength=strength,
                    gradient=gradient,
                    unit=unit,
                    cap=cap,
                    every=every,
                    inner_steps=inner_steps,
                    views=views,
                    recurrence=recurrence,
                    frames=frames,
                    report=Report(
                        decoder=name, scored=frozenset(guide.name for guide in [*active, *control] if guide.scored)
                    ),
                    control=control,
                ),
            )
        )


class GuideReport(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_GuideReport",
            display_name="Guide Report",
            category=CATEGORY,
            description="What each guide did in the model's last run: loss, gradient, push in units of the model's own "
            "step, and how often it was capped.",
            search_aliases=["loss", "gradient norm", "plot", "debug", "引导报告"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL from Apply Guides, as it went to the sampler."),
                io.Latent.Input("samples", tooltip="The sampler's LATENT. It isn't read: the report waits for it."),
            ],
            outputs=[
                io.Image.Output(tooltip="Plots over the run, a line for each guide."),
                io.String.Output(display_name="json", tooltip="The same numbers as text."),
            ],
        )

    @classmethod
    def run(cls, model: Any, samples: dict[str, Any]) -> io.NodeOutput:
        reports = [application.report for application in applications(model)]
        found, note, decoder = by_guide(reports), remark(reports), decoders(reports)
        verdicts = [verdict(name, rows) for name, rows in found.items()]
        said = [note, *verdicts, decoder and f"decoder: {decoder}"]
        picture = plot(panels(found), [text for text in said if text])
        report = {"note": note, "verdict": "; ".join(verdicts), "decoder": decoder, "guides": found}
        return io.NodeOutput(picture, json.dumps(report, indent=1, allow_nan=False))


def panels(found: dict[str, list[dict[str, Any]]]) -> list[Panel]:
    """Four plots of the rows of each guide, and one of the scores where there are any."""
    titles = {
        "score": "score (higher is better)",
        "loss": "loss, relative to its start (lower is nearer to the goal)",
        "grad_norm": "gradient norm, by factors",
        "lambda": "lambda: push / the model's own step",
        "capped": "share of capped samples",
    }
    lines = {
        key: {
            name: [(row["progress"], row[key]) for row in rows if row.get(key) is not None]
            for name, rows in found.items()
        }
        for key in titles
    }
    lines["loss"] = {name: from_its_start(line) for name, line in lines["loss"].items()}
    if not any(lines["score"].values()):
        del titles["score"]
    axis = "progress (0: noise, 1: picture)"
    return [Panel(title, axis, lines[key], log=key == "grad_norm") for key, title in titles.items()]


def from_its_start(line: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """(progress, loss) -> (progress, loss relative to the first)."""
    if not line:
        return []
    places, losses = zip(*line, strict=True)
    return list(zip(places, relative(losses), strict=True))


NODES: list[type[io.ComfyNode]] = [CombineGuides, ApplyGuides, GuideReport]
