"""The published samplers, their noise levels and their inverse, and the classifier-guided run of the ADM paper."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..guidance.classifier_energy import NO_CLASS
from ..guidance.labels import parse_labels
from ..guidance.sampling import VARIANCES, sample_ddim, sample_ddpm
from . import sockets
from .host.conditioning import class_conditioning
from .host.errors import GuidanceNode, about
from .host.guides.classifier import HostClassifier, classifier_gradient
from .host.inversion import inversion_sigmas, invert_latent, shown
from .host.model import facts_of
from .host.pictures import to_invert
from .host.sampling import Loop, batch_indices, fitted, published_sampler, respaced_sigmas, run
from .pixels import CLASS_LABEL_TOOLTIP
from .widgets import seed_input, shown_inputs, steps_input

ALGORITHMS: dict[str, Callable[[float], Loop]] = {
    "ddim": lambda eta: partial(sample_ddim, eta=eta),  # Algorithm 2
    "ddpm": lambda eta: sample_ddpm,  # Algorithm 1; eta has no meaning there
}


class ClassifierGuidedSampler(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_ClassifierGuidedSampler",
            display_name="Classifier-Guided Sampler",
            category="guidance/sampling",
            description="Samples a pixel model while a noise-aware classifier pulls each picture towards a class "
            "(Dhariwal & Nichol 2021). Image i of a batch is the image that seed + i gives alone.",
            search_aliases=["ADM", "classifier guidance", "guided diffusion", "DDIM", "DDPM", "分类器引导", "采样器"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="A pixel model. An unconditional one is steered by the classifier alone."
                ),
                sockets.Classifier.Input(
                    "classifier", tooltip="A noise-aware classifier for pictures of the same size."
                ),
                io.String.Input("class_label", multiline=True, default="", tooltip=CLASS_LABEL_TOOLTIP),
                io.Latent.Input(
                    "latent_image", tooltip="Empty Pixel Latent, or a picture through VAE Encode with denoise below 1."
                ),
                seed_input("Noise of the first image; the next ones use seed + 1, seed + 2, ..."),
                steps_input(25, "Network evaluations. 25 for ddim, 100 to 250 for ddpm."),
                io.Combo.Input(
                    "algorithm",
                    options=list(ALGORITHMS),
                    default="ddim",
                    tooltip="ddim: the gradient moves the score (Algorithm 2). ddpm: it moves the mean (Algorithm 1).",
                ),
                io.Float.Input(
                    "guidance_scale",
                    default=1.0,
                    min=-1000.0,
                    max=1000.0,
                    step=0.1,
                    tooltip="How hard the classifier pulls. 0: off. 1: the exact posterior. 8 to 32 for models without "
                    "classes. Below 0 it pushes away.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="1: from pure noise. Below 1 the picture in latent_image shows through.",
                ),
                io.Float.Input(
                    "eta",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Fresh noise in ddim: 0 none, 1 as much as ddpm.",
                ),
                io.String.Input(
                    "respacing",
                    default="",
                    advanced=True,
                    display_name="respacing (which steps)",
                    tooltip='Which of the 1000 training steps are taken, as the papers write it: "250", "ddim25", '
                    '"10,10,3,2,2", "linspace40". Empty: as many as steps says, evenly.',
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="What the model itself is told, for class-conditional models. Not connected: no class, or "
                    "the class label itself for models that know no empty class.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="For VAE Decode with the VAE of Load Guidance Model.")],
        )

    @classmethod
    def run(
        cls,
        model: Any,
        classifier: HostClassifier,
        class_label: str,
        latent_image: dict[str, Any],
        seed: int,
        steps: int,
        algorithm: str,
        guidance_scale: float,
        denoise: float,
        eta: float,
        respacing: str,
        positive: list[Any] | None = None,
    ) -> io.NodeOutput:
        latent_image = fitted(model, latent_image)
        batch = len(latent_image["samples"])
        with about("class_label"):
            labels = parse_labels(class_label, classifier.facts.class_names, batch)
        with about("respacing" if respacing.strip() else "steps"):
            sigmas = respaced_sigmas(model, respacing.strip() or str(steps), denoise)
        with about("latent_image"):
            classifier.check(latent_image["samples"].shape)
        guidance = classifier_gradient(classifier, torch.tensor(labels), guidance_scale)
        indices = batch_indices(latent_image)
        loop = ALGORITHMS[algorithm](eta)
        sampler = published_sampler(loop, False, guidance, from_noise=denoise == 1, indices=indices)
        conditions = {"positive": positive or cls.own_conditioning(model, classifier, labels)}
        return io.NodeOutput(run(classifier.beside(model), conditions, sampler, sigmas, latent_image, seed))

    @classmethod
    def own_conditioning(cls, model: Any, classifier: HostClassifier, labels: list[int]) -> list[Any]:
        """No class; or the labels themselves for a model of the same classes that knows no empty one."""
        facts = facts_of(model)
        same = facts is not None and facts.class_names == classifier.facts.class_names and facts.no_class is None
        return class_conditioning(labels if same else [NO_CLASS])


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
            search_aliases=["ancestral", "ADM", "improved DDPM", "learned sigma", "采样器"],
            inputs=[
                io.Combo.Input(
                    "variance",
                    options=list(VARIANCES),
                    default="auto",
                    tooltip="Variance of a step. auto: learned where the network predicts it, else fixed large.",
                ),
                io.Boolean.Input("clip_denoised", default=True, tooltip=CLIP_TOOLTIP),
            ],
            outputs=[io.Sampler.Output(tooltip="For SamplerCustomAdvanced, with Respaced Sigmas.")],
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
            search_aliases=["DDIM", "eta", "采样器"],
            inputs=[
                io.Float.Input(
                    "eta", default=0.0, min=0.0, max=1.0, step=0.01, tooltip="Fresh noise: 0 none, 1 as much as DDPM."
                ),
                io.Boolean.Input("clip_denoised", default=True, tooltip=CLIP_TOOLTIP),
            ],
            outputs=[io.Sampler.Output(tooltip="For SamplerCustomAdvanced, with Respaced Sigmas.")],
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
            search_aliases=["timestep respacing", "ddim25", "scheduler", "调度器", "噪声等级"],
            inputs=[
                io.Model.Input("model", tooltip="The model whose training schedule is respaced."),
                io.String.Input(
                    "respacing",
                    default="ddim25",
                    display_name="respacing (which steps)",
                    tooltip='Which of the training steps are taken, as the papers write it: "250" (evenly, both ends), '
                    '"ddim25" (one stride), "10,10,3,2,2" (so many in each fifth), "fast27" (GLIDE), "smart50" and '
                    '"super40" (IF), "linspace40" (Asyrp).',
                ),
            ],
            outputs=[io.Sigmas.Output(tooltip="Noise levels for SamplerCustomAdvanced.")],
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
            search_aliases=["x_T", "invert", "noise inversion", "unsample", "反演"],
            inputs=[
                io.Model.Input("model", tooltip="The model that will draw the picture again."),
                io.Image.Input("image", tooltip="The picture, of a size the model can draw."),
                steps_input(50, "Network evaluations, plus one. More is closer."),
                *shown_inputs(),
                io.String.Input(
                    "respacing",
                    default="",
                    display_name="respacing (which steps)",
                    advanced=True,
                    tooltip='Which of the training steps are taken: "250", "ddim25", "linspace40". Empty: as many as '
                    "steps says, evenly. Use the same in Respaced Sigmas.",
                ),
            ],
            outputs=[
                io.Noise.Output(display_name="x_T", tooltip="The picture's noise, for SamplerCustomAdvanced."),
                io.Latent.Output(
                    display_name="x_T latent", tooltip="The same, scaled, for KSampler (Advanced) without add_noise."
                ),
            ],
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


NODES: list[type[io.ComfyNode]] = [ClassifierGuidedSampler, DDPMSampler, DDIMSampler, RespacedSigmas, DDIMInversion]
