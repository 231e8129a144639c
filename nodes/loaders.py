"""Loading models and the networks that guide them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..models.architecture import Checkpoint
from ..models.denoiser import BETAS
from ..models.registry import load_checkpoint
from . import sockets
from .host.classifier import load_classifier
from .host.errors import GuidanceNode, about
from .host.folders import choices, locate
from .host.pixel_model import clamp_denoised, load_pixel_model, pixel_vae

AUTO = "auto"
HEADS: dict[str, dict[str, Any]] = {
    AUTO: {},
    "1 head": {"num_heads": 1, "head_channels": None},
    "4 heads": {"num_heads": 4, "head_channels": None},
    "8 heads": {"num_heads": 8, "head_channels": None},
    "32 channels a head": {"head_channels": 32},
    "64 channels a head": {"head_channels": 64},
}


def open_model(path: str, schedule: str, heads: str) -> Checkpoint:
    """A model file, with what the user knows better than its weights."""
    checkpoint = load_checkpoint(path, "model")
    if schedule != AUTO:
        checkpoint = replace(checkpoint, facts=replace(checkpoint.facts, schedule=schedule))
    if HEADS[heads]:
        if not hasattr(checkpoint.config, "head_channels"):
            raise ValueError(f"{checkpoint.name} is {checkpoint.architecture.title}, whose heads are fixed; use {AUTO}")
        checkpoint = replace(checkpoint, config=replace(checkpoint.config, **HEADS[heads]))
    return checkpoint


class LoadModel(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_LoadModel",
            display_name="Load Guidance Model",
            category="guidance/loaders",
            description="Loads a published pixel diffusion model (ADM, P2) or one of the pack's small ones as a normal "
            "MODEL, with the VAE that turns its pictures into images.",
            search_aliases=["ADM", "guided diffusion", "pixel diffusion", "classifier guidance"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=choices("models"),
                    tooltip="A file in ComfyUI/models/guidance_models, or one of the pack's own small models.",
                ),
                io.Boolean.Input(
                    "clip_denoised",
                    default=True,
                    advanced=True,
                    tooltip="Clamp the predicted picture to its range after CFG and before guides, as the papers did.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=[AUTO, *BETAS],
                    default=AUTO,
                    advanced=True,
                    tooltip="Noise schedule of the training. Weights don't tell it; auto knows the public files.",
                ),
                io.Combo.Input(
                    "heads",
                    options=list(HEADS),
                    default=AUTO,
                    advanced=True,
                    tooltip="Attention heads. Weights don't tell them; auto knows the public files.",
                ),
            ],
            outputs=[io.Model.Output(), io.Vae.Output()],
        )

    @classmethod
    def run(cls, model_name: str, clip_denoised: bool, schedule: str, heads: str) -> io.NodeOutput:
        with about("model_name"):
            path = locate("models", model_name)
            model = load_pixel_model(partial(open_model, path, schedule, heads))
        return io.NodeOutput(clamp_denoised(model) if clip_denoised else model, pixel_vae())

    @classmethod
    def fingerprint_inputs(cls, model_name: str, **_: Any) -> float:
        return Path(locate("models", model_name)).stat().st_mtime


class LoadClassifier(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Guidance_LoadClassifier",
            display_name="Load Guidance Classifier",
            category="guidance/loaders",
            description="Loads a noise-aware classifier: it tells what a picture shows while it is still noisy.",
            search_aliases=["ADM classifier", "classifier guidance", "noisy classifier"],
            inputs=[
                io.Combo.Input(
                    "classifier_name",
                    options=choices("classifiers"),
                    tooltip="A file in ComfyUI/models/guidance_classifiers, or the pack's own small classifier.",
                ),
            ],
            outputs=[sockets.Classifier.Output(display_name="classifier")],
        )

    @classmethod
    def run(cls, classifier_name: str) -> io.NodeOutput:
        with about("classifier_name"):
            return io.NodeOutput(load_classifier(load_checkpoint(locate("classifiers", classifier_name), "classifier")))

    @classmethod
    def fingerprint_inputs(cls, classifier_name: str) -> float:
        return Path(locate("classifiers", classifier_name)).stat().st_mtime


NODES: list[type[io.ComfyNode]] = [LoadModel, LoadClassifier]
