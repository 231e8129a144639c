"""The published samplers, their noise levels, and their inverse, for SamplerCustomAdvanced."""

from __future__ import annotations

from functools import partial
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..guidance.sampling import VARIANCES, sample_ddim, sample_ddpm
from .host.errors import GuidanceNode, about
from .host.inversion import inversion_sigmas, invert_latent, shown, to_invert
from .host.sampling import published_sampler, respaced_sigmas

CLIP_TOOLTIP = "Clamp the predicted picture to [-1, 1], before guides. For pixel models; leave it off for latent ones."


class DDPMSampler(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_DDPMSampler",
            display_name="DDPM Sampler (published)",
            category="guidance/sampling",
            description="Ancestral sampling exactly as in the papers' code, learned variance included. For "
            "SamplerCustomAdvanced, with Respaced Sigmas.",
            search_aliases=["ancestral", "ADM", "improved DDPM", "learned sigma"],
            inputs=[
                io.Combo.Input(
                    "variance",
                    options=list(VARIANCES),
                    default="auto",
                    tooltip="Variance of a step. auto: learned where the network predicts it, else fixed large.",
                ),
                io.Boolean.Input("clip_denoised", default=True, tooltip=CLIP_TOOLTIP),
            ],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def run(cls, variance: str, clip_denoised: bool) -> io.NodeOutput:
        return io.NodeOutput(published_sampler(partial(sample_ddpm, variance=VARIANCES[variance]), clip_denoised))


class DDIMSampler(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_DDIMSampler",
            display_name="DDIM Sampler (published)",
            category="guidance/sampling",
            description="DDIM with any eta exactly as in the papers' code. For SamplerCustomAdvanced, with Respaced "
            "Sigmas.",
            search_aliases=["DDIM", "eta"],
            inputs=[
                io.Float.Input(
                    "eta", default=0.0, min=0.0, max=1.0, step=0.01, tooltip="Fresh noise: 0 none, 1 as much as DDPM."
                ),
                io.Boolean.Input("clip_denoised", default=True, tooltip=CLIP_TOOLTIP),
            ],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def run(cls, eta: float, clip_denoised: bool) -> io.NodeOutput:
        return io.NodeOutput(published_sampler(partial(sample_ddim, eta=eta), clip_denoised))


class RespacedSigmas(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_RespacedSigmas",
            display_name="Respaced Sigmas",
            category="guidance/sampling",
            description="Noise levels of the training steps that the papers' code keeps. The host's schedulers "
            "keep others, also under the same names.",
            search_aliases=["timestep respacing", "ddim25", "scheduler"],
            inputs=[
                io.Model.Input("model", tooltip="The model whose training schedule is respaced."),
                io.String.Input(
                    "respacing",
                    default="ddim25",
                    tooltip='"250" (evenly, both ends), "ddim25" (one stride), "10,10,3,2,2" (sections), "linspace40".',
                ),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def run(cls, model: Any, respacing: str) -> io.NodeOutput:
        with about("respacing"):
            return io.NodeOutput(respaced_sigmas(model, respacing))


class DDIMInversion(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_DDIMInversion",
            display_name="DDIM Inversion",
            category="guidance/sampling",
            description="Finds the noise x_T from which the deterministic sampler draws a given picture again. "
            "For eps, v and flow models.",
            search_aliases=["x_T", "invert", "noise inversion", "unsample"],
            inputs=[
                io.Model.Input("model", tooltip="The model that will draw the picture again."),
                io.Image.Input("image", tooltip="The picture, of a size the model can draw."),
                io.Int.Input(
                    "steps", default=50, min=2, max=1000, tooltip="Network evaluations, plus one. More is closer."
                ),
                io.Conditioning.Input(
                    "conditioning", optional=True, tooltip="What the picture shows; pixel models can do without."
                ),
                io.Vae.Input("vae", optional=True, tooltip="Needed where the model works on latents."),
                io.String.Input(
                    "respacing",
                    default="",
                    advanced=True,
                    tooltip='Kept training steps: "250", "ddim25", "linspace40". Empty: steps, evenly.',
                ),
            ],
            outputs=[io.Noise.Output(display_name="x_T"), io.Latent.Output(display_name="x_T latent")],
        )

    @classmethod
    def run(
        cls,
        model: Any,
        image: Tensor,
        steps: int,
        conditioning: list[Any] | None = None,
        vae: Any = None,
        respacing: str = "",
    ) -> io.NodeOutput:
        with about("respacing" if respacing.strip() else "steps"):
            sigmas = inversion_sigmas(model, steps, respacing.strip())
        condition = shown(model, conditioning)
        return io.NodeOutput(*invert_latent(model, to_invert(model, image, vae), condition, sigmas))


NODES: list[type[io.ComfyNode]] = [DDPMSampler, DDIMSampler, RespacedSigmas, DDIMInversion]
